/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "detect/daemon.h"
#include "detect/offer.h"
#include "detect/share.h"
#include "detect/vms.h"

/* A VM whose eventfds a program has. */
struct met {
	struct xvm_list in_conn;
	uint32_t serial, id;
};

uint32_t xvm_share_id(const struct xvm_vm *vm)
{
	return XVM_MSG_VM_ID(vm->group->id, vm->peer);
}

static struct xvm_group *find(struct xvm_daemon *d, uint32_t id)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		if (g->id == id)
			return g;
	}
	return NULL;
}

/* ---- leases ----------------------------------------------------------- */

/* Whose VM has the address? */
static uint32_t group_of(struct xvm_conn *c, const uint8_t addr[16], struct xvm_group **g)
{
	const struct xvm_res_addr *a;
	const struct xvm_vm *vm;
	int n = xvm_residency_find(&c->d->residency, NULL, addr, &a);

	if (n > 1)
		return XVM_R_AMBIGUOUS;
	if (!n || !a->ns->vm || !a->seen)
		return XVM_R_NOT_RESIDENT;
	vm = xvm_vms_find(c->d, a->ns->vm);
	if (!vm)
		return XVM_R_NOT_RESIDENT; /* it has just died */
	*g = vm->group;
	return XVM_R_NONE;
}

/* Its own vector, if there is one left: 0, if not. */
static uint32_t take_vector(struct xvm_conn *c, struct xvm_group *g)
{
	uint32_t i, room = 0;

	for (i = XVM_VECTOR_MAIL + 1; i < g->region.vectors; i++) {
		if (g->vector_of[i] == c)
			return i;
		if (!g->vector_of[i] && !room)
			room = i;
	}
	if (room)
		g->vector_of[room] = c;
	return room;
}

static uint32_t lease(struct xvm_conn *c, const struct xvm_msg *m, struct xvm_group **g,
		      struct xvm_piece **p)
{
	uint32_t reason = group_of(c, m->addr, g);
	uint64_t ring;

	if (reason)
		return reason;
	if (!xvm_conf_shares(c->d->conf, c->uid, c->exe, c->user->trusted))
		return XVM_R_RULE;
	ring = m->arg64 - XVM_HALF_CTL;
	if (m->arg64 < XVM_HALF_CTL + XVM_RING_MIN || ring > XVM_RING_MAX || (ring & (ring - 1)))
		return XVM_R_UNSUPPORTED;
	*p = xvm_lease_take(&(*g)->book, m->arg64, c->arena);
	if (!*p)
		return XVM_R_NO_MEMORY;
	xvm_list_add(&c->arena->pieces, &(*p)->in_owner);
	return XVM_R_NONE;
}

void xvm_share_lease(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_msg r = {.type = XVM_MSG_LEASED};
	struct xvm_group *g = NULL;
	struct xvm_piece *p = NULL;
	int fds[2];

	memcpy(r.addr, m->addr, sizeof(r.addr));
	r.arg2 = lease(c, m, &g, &p);
	if (r.arg2) {
		xvm_conn_send(c, &r, NULL, 0);
		return;
	}
	r.arg = g->id;
	r.arg64 = p->off;
	r.arg3 = take_vector(c, g);
	fds[0] = g->mem_fd;
	fds[1] = r.arg3 ? g->vector[r.arg3] : -1;
	xvm_conn_send(c, &r, fds, r.arg3 ? 2 : 1);
}

static struct xvm_piece *own_piece(struct xvm_conn *c, uint32_t group, uint64_t off)
{
	struct xvm_group *g = find(c->d, group);
	struct xvm_piece *p = g ? xvm_lease_find(&g->book, off) : NULL;

	return p && p->owner == c->arena ? p : NULL;
}

void xvm_share_return(struct xvm_conn *c, const struct xvm_msg *m)
{
	struct xvm_piece *p = own_piece(c, m->arg, m->arg64);

	/* Its group may have ended meanwhile. */
	if (p)
		xvm_lease_return(p);
}

struct xvm_piece *xvm_share_piece(struct xvm_conn *c, uint32_t group, uint64_t off)
{
	return own_piece(c, group, off);
}

/* ---- the eventfds of VMs ---------------------------------------------- */

static void forget(struct met *m)
{
	xvm_list_del(&m->in_conn);
	free(m);
}

void xvm_share_meet(struct xvm_conn *c, struct xvm_vm *vm)
{
	struct xvm_msg msg = {.type = XVM_MSG_PEER_WAKER, .arg2 = xvm_share_id(vm)};
	struct xvm_list *n, *t;
	struct met *m;
	uint32_t i;

	for (XVM_EACH(n, t, &c->met))
		if (xvm_container(n, struct met, in_conn)->serial == vm->serial)
			return;
	m = calloc(1, sizeof(*m));
	if (!m)
		return; /* it uses pads */
	m->serial = vm->serial;
	m->id = msg.arg2;
	xvm_list_add(&c->met, &m->in_conn);
	for (i = XVM_VECTOR_MAIL + 1; i < vm->group->region.vectors; i++) {
		msg.arg = i;
		xvm_conn_send(c, &msg, &vm->vector[i], 1);
	}
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

	for (XVM_EACH(n, t, &a->pieces))
		xvm_lease_return(xvm_container(n, struct xvm_piece, in_owner));
}

void xvm_share_vm_gone(struct xvm_vm *vm)
{
	struct xvm_msg msg = {.type = XVM_MSG_PEER_GONE, .arg2 = xvm_share_id(vm)};
	struct xvm_list *l, *lt, *n, *t;

	for (XVM_EACH(l, lt, &vm->group->d->all)) {
		struct xvm_conn *c = xvm_container(l, struct xvm_conn, in_all);

		for (XVM_EACH(n, t, &c->met)) {
			struct met *m = xvm_container(n, struct met, in_conn);

			if (m->serial != vm->serial)
				continue;
			forget(m);
			xvm_conn_send(c, &msg, NULL, 0);
		}
	}
}

void xvm_share_group_gone(struct xvm_group *g)
{
	struct xvm_list *l, *lt;

	for (XVM_EACH(l, lt, &g->d->all))
		xvm_offer_group_gone(xvm_container(l, struct xvm_conn, in_all), &g->book);
	xvm_lease_exit(&g->book);
}
