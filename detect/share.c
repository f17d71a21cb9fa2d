/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/offer.h"
#include "detect/pairs.h"
#include "detect/share.h"
#include "detect/vms.h"

/* A VM whose eventfds a program has. Its number keeps them, whoever has the number. */
struct met {
	struct xvm_list in_conn;
	uint32_t region, peer;
};

static struct xvm_group *find(struct xvm_daemon *d, uint32_t index)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		if (g->index == index)
			return g;
	}
	return NULL;
}

/* ---- regions ---------------------------------------------------------- */

static void greet(struct xvm_group *g, struct xvm_conn *c)
{
	struct xvm_msg m = {.type = XVM_MSG_REGION,
			    .region = g->index,
			    .len = g->region.size,
			    .arg = XVM_PEER_HOST};

	int fds[2] = {g->mem_fd, -1};

	if (g->index >= XVM_REGIONS || !c->arena || c->dead || c->regions & 1u << g->index)
		return;
	if (!xvm_conf_shares(c->d->conf, c->uid, c->exe, c->user->trusted))
		return;
	fds[1] = xvm_life_hold(&g->life, c->arena->serial);
	if (fds[1] < 0)
		return;
	c->regions |= 1u << g->index;
	xvm_conn_send(c, &m, fds, 2);
	close(fds[1]);
}

void xvm_share_greet(struct xvm_daemon *d, struct xvm_conn *c)
{
	struct xvm_list *n, *t, *l, *lt;

	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		if (c) {
			greet(g, c);
			continue;
		}
		for (XVM_EACH(l, lt, &d->all))
			greet(g, xvm_container(l, struct xvm_conn, in_all));
	}
}

/* ---- leases ----------------------------------------------------------- */

/* Its own vector, if there is one left, with the first piece: most programs never need one. */
static void give_vector(struct xvm_conn *c, struct xvm_group *g)
{
	struct xvm_msg m = {.type = XVM_MSG_VECTOR, .region = g->index};
	uint32_t i = XVM_VECTOR_MAIL + 1;
	int fds[2];

	if (c->vectors & 1u << g->index)
		return;
	/* One who is not connected any more, and lives, would read what rings the next. */
	while (i < g->region.vectors &&
	       (g->vector_of[i] || xvm_life_held(&g->life, XVM_LIFE_VECTOR + i)))
		i++;
	if (i >= g->region.vectors)
		return;
	fds[0] = g->vector[i];
	fds[1] = xvm_life_hold(&g->life, XVM_LIFE_VECTOR + i);
	if (fds[1] < 0)
		return;
	g->vector_of[i] = c;
	c->vectors |= 1u << g->index;
	m.arg = i;
	xvm_conn_send(c, &m, fds, 2);
	close(fds[1]);
}

void xvm_share_lease(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_group *g = find(c->d, m->region);
	struct xvm_msg r = {.type = XVM_MSG_PIECE, .region = m->region};
	uint64_t ring = m->len - XVM_HALF_CTL;
	struct xvm_piece *p = NULL;

	if (m->region >= XVM_REGIONS || !(c->regions & 1u << m->region)) {
		xvm_conn_nonsense(c, "a region that it was not given");
		return;
	}
	if (m->len < XVM_HALF_CTL + XVM_RING_MIN || ring > XVM_RING_MAX || (ring & (ring - 1))) {
		xvm_conn_nonsense(c, "a piece of no such length");
		return;
	}
	/* The group may have ended, and rules may have changed. */
	if (g && xvm_conf_shares(c->d->conf, c->uid, c->exe, c->user->trusted)) {
		give_vector(c, g);
		p = xvm_lease_half(&g->book, m->len, c->arena);
	}
	if (p) {
		xvm_list_add(&c->arena->pieces, &p->in_owner);
		p->holder = c->arena->serial;
		/* What another endpoint left there is not to be taken for this one's. */
		memset(g->region.map + p->off, 0, XVM_HALF_CTL);
		r.off = p->off;
		r.len = p->len;
	}
	xvm_conn_send(c, &r, NULL, 0);
}

struct xvm_piece *xvm_share_piece(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_group *g = find(c->d, m->region);
	struct xvm_piece *p = g ? xvm_lease_find(&g->book, m->off) : NULL;

	return p && p->owner == c->arena && p->len == m->len ? p : NULL;
}

/* ---- the eventfds of VMs ---------------------------------------------- */

void xvm_share_meet(struct xvm_conn *c, struct xvm_vm *vm)
{
	struct xvm_msg msg = {
		.type = XVM_MSG_PEER_VECTOR, .region = vm->group->index, .arg2 = vm->peer};
	struct xvm_list *n, *t;
	struct met *m;
	uint32_t i;

	for (XVM_EACH(n, t, &c->met)) {
		m = xvm_container(n, struct met, in_conn);
		if (m->region == vm->group->index && m->peer == vm->peer)
			return;
	}
	m = calloc(1, sizeof(*m));
	if (!m)
		return; /* it uses pads */
	m->region = vm->group->index;
	m->peer = vm->peer;
	xvm_list_add(&c->met, &m->in_conn);
	for (i = XVM_VECTOR_MAIL + 1; i < vm->group->region.vectors; i++) {
		msg.arg = i;
		xvm_conn_send(c, &msg, &vm->vector[i], 1);
	}
}

static void forget(struct met *m)
{
	xvm_list_del(&m->in_conn);
	free(m);
}

/* ---- ends ------------------------------------------------------------- */

void xvm_share_conn_gone(struct xvm_conn *c)
{
	struct xvm_list *n, *t;
	uint32_t i;

	for (XVM_EACH(n, t, &c->met))
		forget(xvm_container(n, struct met, in_conn));
	for (XVM_EACH(n, t, &c->d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		for (i = 0; i < XVM_REGION_VECTORS_MAX; i++)
			if (g->vector_of[i] == c)
				g->vector_of[i] = NULL;
	}
}

void xvm_share_arena_gone(struct xvm_arena_ref *a)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &a->pieces)) {
		struct xvm_piece *p = xvm_container(n, struct xvm_piece, in_owner);

		p->loose = true;
		xvm_lease_return(p);
	}
}

void xvm_share_group_gone(struct xvm_group *g)
{
	struct xvm_list *l, *lt;

	for (XVM_EACH(l, lt, &g->d->all))
		xvm_offer_group_gone(xvm_container(l, struct xvm_conn, in_all), &g->book);
	xvm_pairs_book_gone(g->d, &g->book);
	xvm_lease_exit(&g->book);
}
