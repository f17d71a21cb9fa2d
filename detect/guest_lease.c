/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/guest_kin.h"
#include "detect/guest_lease.h"

struct xvm_guest *xvm_guest_of_client(struct xvm_conn *c, uint32_t index)
{
	/* Of one that was unplugged it may not have heard yet. */
	if (index < c->d->guests.n && (c->regions | c->former) & 1u << index)
		return c->d->guests.g[index];
	xvm_conn_nonsense(c, "a region that it was not given");
	return NULL;
}

/* ---- vectors ---------------------------------------------------------- */

/* Nobody may be rung by it: neither one that we know nor another that lives. */
static bool idle(const struct xvm_guest *g, uint32_t v)
{
	return g->vector[v] < 0 && !xvm_life_held(&g->life, XVM_LIFE_VECTOR + v);
}

/* Its own interrupt, with the first piece: most programs never need one, and there are few. */
static void give_vector(struct xvm_guest *g, struct xvm_conn *c)
{
	struct xvm_msg m = {.type = XVM_MSG_VECTOR, .region = g->index};
	uint32_t v = XVM_VECTOR_MAIL + 1;
	int fds[2];

	if (c->vectors & 1u << g->index)
		return;
	while (v < g->dev.vectors && v < g->region.vectors && !idle(g, v))
		v++;
	if (v >= g->dev.vectors || v >= g->region.vectors || !xvm_conn_charge(c, 1))
		return;
	fds[1] = xvm_life_hold(&g->life, XVM_LIFE_VECTOR + v);
	fds[0] = fds[1] < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fds[0] < 0 || xvm_ivshmem_vector(&g->dev, v, fds[0])) {
		if (fds[0] >= 0)
			close(fds[0]);
		if (fds[1] >= 0)
			close(fds[1]);
		xvm_conn_release(c, 1);
		return;
	}
	g->vector[v] = fds[0];
	g->vector_of[v] = c;
	c->vectors |= 1u << g->index;
	m.arg = v;
	xvm_conn_send(c, &m, fds, 2);
	close(fds[1]);
}

/* The interrupt stays as it is: the kernel has the eventfd, and so has its process. */
void xvm_guest_take_vector(struct xvm_guest *g, struct xvm_conn *c)
{
	uint32_t v;

	for (v = 0; v < XVM_REGION_VECTORS_MAX; v++) {
		if (g->vector_of[v] != c)
			continue;
		close(g->vector[v]);
		g->vector[v] = -1;
		g->vector_of[v] = NULL;
		xvm_conn_release(c, 1);
	}
}

void xvm_guest_vectors_exit(struct xvm_guest *g)
{
	uint32_t i;

	for (i = 0; i < XVM_REGION_VECTORS_MAX; i++)
		if (g->vector[i] >= 0)
			close(g->vector[i]);
}

/* ---- pieces ----------------------------------------------------------- */

/* Nobody but root and our own user may have more than half of it all. */
static bool may_keep(const struct xvm_guest *g, const struct xvm_user *u)
{
	uint64_t all = g->book.end - g->book.first, has = 0;
	struct xvm_list *n, *t;

	if (u->trusted)
		return true;
	for (XVM_EACH(n, t, &g->book.pieces)) {
		const struct xvm_piece *p = xvm_container(n, struct xvm_piece, in_book);
		const struct xvm_guest_kin *k = p->owner;

		if (k && k->uid == u->uid)
			has += p->len;
	}
	return has <= all / 2;
}

static bool len_ok(uint64_t len)
{
	uint64_t ring = len - XVM_HALF_CTL;

	return len >= XVM_HALF_CTL + XVM_RING_MIN && ring <= XVM_RING_MAX && !(ring & (ring - 1));
}

/* Before its program hears of it. */
static void record(struct xvm_guest *g, const struct xvm_guest_kin *k, const struct xvm_piece *p)
{
	struct xvm_record_row *row = xvm_record_row(&g->record, p->off);

	row->off = p->off;
	row->len = p->len;
	row->kin = k->name;
	row->dev = k->dev;
	row->ino = k->ino;
	row->uid = (int32_t)k->uid;
	row->pid = k->pid;
	xvm_record_use(row);
}

void xvm_guest_lease(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_guest *g = xvm_guest_of_client(c, m->region);
	struct xvm_guest_kin *k = g ? xvm_guest_kin_of(g, c) : NULL;
	struct xvm_msg r = {.type = XVM_MSG_PIECE, .region = m->region};
	struct xvm_piece *p = NULL;

	if (!k)
		return;
	if (!len_ok(m->len)) {
		xvm_conn_nonsense(c, "a piece of no such length");
		return;
	}
	if (g->up && !g->leaving) {
		/* One that has had it since before we came says so. */
		if (m->arg)
			c->vectors |= 1u << g->index;
		give_vector(g, c);
		p = xvm_lease_half(&g->book, m->len, k);
		if (p && !may_keep(g, c->arena->user)) {
			xvm_lease_return(p);
			p = NULL;
		}
	}
	if (p) {
		xvm_list_add(&k->pieces, &p->in_owner);
		record(g, k, p);
		/* What another endpoint left there is not to be taken for this one's. */
		memset(g->region.map + p->off, 0, XVM_HALF_CTL);
		r.off = p->off;
		r.len = p->len;
	}
	xvm_conn_send(c, &r, NULL, 0);
}

struct xvm_piece *xvm_guest_stock(const struct xvm_guest *g, const struct xvm_conn *c, uint64_t off,
				  uint64_t len)
{
	struct xvm_piece *p = xvm_lease_find(&g->book, off);

	return p && p->owner && p->owner == xvm_guest_kin_of(g, c) && p->refs == 1 && p->len == len
		       ? p
		       : NULL;
}

void xvm_guest_lease_end(struct xvm_guest *g, struct xvm_piece *p)
{
	if (p->refs == 1)
		xvm_record_clear(xvm_record_row(&g->record, p->off));
	xvm_lease_return(p);
}

void xvm_guest_return(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_guest *g = xvm_guest_of_client(c, m->region);
	struct xvm_piece *p = g ? xvm_guest_stock(g, c, m->off, m->len) : NULL;

	/* Else our predecessor has taken it for an offer. */
	if (p)
		xvm_guest_lease_end(g, p);
}
