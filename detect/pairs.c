/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "detect/arenas.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/pairs.h"
#include "detect/relay.h"
#include "detect/share.h"
#include "detect/vmep.h"

struct xvm_side {
	struct xvm_list in_conn; /* in none if it is the second side of a process with itself */
	struct xvm_link *link;
};

struct xvm_link {
	struct xvm_conn *c[2];
	struct xvm_side side[2];
	struct xvm_list pairs, in_idle;
	ev_tstamp idle_since;
	struct xvm_daemon *d;
};

/* In an arena, or in a VM. */
struct xvm_end {
	struct xvm_list in_owner;
	struct xvm_pair *pair;
	struct xvm_arena_ref *arena;
	struct xvm_vm *vm;    /* NULL as well, once its run is over */
	struct xvm_vm *reads; /* whose memory it has mapped */
	struct xvm_list in_reading;
	struct xvm_piece *piece; /* of the host's arena that it has mapped */
	struct xvm_piece *own;	 /* its own half, in the host's arena */
	uint32_t client, slot, gen;
	bool over; /* unpaired */
};

struct xvm_pair {
	struct xvm_end e[2];
	struct xvm_link *link; /* NULL: one of its processes has gone, a fork of it goes on; or one
				  is in a VM */
	struct xvm_list in_link;
	struct xvm_daemon *d;
};

struct xvm_pairs {
	uint32_t count;
	struct xvm_list idle; /* links without pairs, the longest idle first */
	ev_timer timer;
};

static void on_timer(struct ev_loop *loop, ev_timer *w, int events);

int xvm_pairs_init(struct xvm_daemon *d)
{
	d->pairs = calloc(1, sizeof(*d->pairs));
	if (!d->pairs)
		return -ENOMEM;
	xvm_list_init(&d->pairs->idle);
	ev_timer_init(&d->pairs->timer, on_timer, 0., 0.);
	d->pairs->timer.data = d;
	return 0;
}

void xvm_pairs_exit(struct xvm_daemon *d)
{
	ev_timer_stop(d->loop, &d->pairs->timer);
	free(d->pairs);
	d->pairs = NULL;
}

uint32_t xvm_pairs_count(const struct xvm_daemon *d)
{
	return d->pairs->count;
}

/* ---- links ------------------------------------------------------------ */

static void send_waker(struct xvm_conn *to, struct xvm_conn *of, uint32_t index)
{
	struct xvm_msg m = {.type = XVM_MSG_PEER_WAKER, .arg = index, .arg2 = of->id};

	xvm_conn_send(to, &m, &of->waker[index], 1);
}

static void send_wakers(struct xvm_conn *to, struct xvm_conn *of)
{
	uint32_t i;

	for (i = 0; i < XVM_WAKERS_MAX; i++)
		if (of->waker[i] >= 0)
			send_waker(to, of, i);
}

static void send_gone(struct xvm_conn *to, struct xvm_conn *of)
{
	struct xvm_msg m = {.type = XVM_MSG_PEER_GONE, .arg2 = of->id};

	xvm_conn_send(to, &m, NULL, 0);
}

static struct xvm_link *link_of(struct xvm_list *n)
{
	return xvm_container(n, struct xvm_side, in_conn)->link;
}

static struct xvm_link *link_find(struct xvm_conn *a, struct xvm_conn *b)
{
	struct xvm_conn *c = a->n_links < b->n_links ? a : b, *other = c == a ? b : a;
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->links)) {
		struct xvm_link *l = link_of(n);

		if ((l->c[0] == c && l->c[1] == other) || (l->c[1] == c && l->c[0] == other))
			return l;
	}
	return NULL;
}

static struct xvm_link *link_make(struct xvm_daemon *d, struct xvm_conn *a, struct xvm_conn *b)
{
	struct xvm_link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->d = d;
	l->c[0] = a;
	l->c[1] = b;
	xvm_list_init(&l->pairs);
	xvm_list_init(&l->in_idle);
	l->side[0].link = l->side[1].link = l;
	xvm_list_init(&l->side[1].in_conn);
	xvm_list_add(&a->links, &l->side[0].in_conn);
	a->n_links++;
	if (a != b) {
		xvm_list_add(&b->links, &l->side[1].in_conn);
		b->n_links++;
	}
	send_wakers(a, b);
	if (a != b)
		send_wakers(b, a);
	return l;
}

static void link_free(struct xvm_link *l)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &l->pairs)) {
		xvm_list_del(n);
		xvm_container(n, struct xvm_pair, in_link)->link = NULL;
	}
	xvm_list_del(&l->in_idle);
	xvm_list_del(&l->side[0].in_conn);
	l->c[0]->n_links--;
	if (l->c[0] != l->c[1]) {
		xvm_list_del(&l->side[1].in_conn);
		l->c[1]->n_links--;
	}
	send_gone(l->c[0], l->c[1]);
	if (l->c[0] != l->c[1])
		send_gone(l->c[1], l->c[0]);
	free(l);
}

static void link_idle(struct xvm_link *l)
{
	struct xvm_pairs *p = l->d->pairs;

	l->idle_since = ev_now(l->d->loop);
	xvm_list_add(&p->idle, &l->in_idle);
	if (!ev_is_active(&p->timer)) {
		ev_timer_set(&p->timer, XVM_PAIRS_IDLE_S, 0.);
		ev_timer_start(l->d->loop, &p->timer);
	}
}

static void on_timer(struct ev_loop *loop, ev_timer *w, int events)
{
	struct xvm_daemon *d = w->data;
	struct xvm_pairs *p = d->pairs;
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &p->idle)) {
		struct xvm_link *l = xvm_container(n, struct xvm_link, in_idle);
		ev_tstamp left = l->idle_since + XVM_PAIRS_IDLE_S - ev_now(loop);

		if (left > 0.) {
			ev_timer_set(w, left + 0.1, 0.);
			ev_timer_start(loop, w);
			return;
		}
		link_free(l);
	}
}

/* ---- pairs ------------------------------------------------------------ */

static struct xvm_end *other(struct xvm_end *e)
{
	return &e->pair->e[e == &e->pair->e[0]];
}

static void send_freed(const struct xvm_end *e)
{
	struct xvm_letter l = {
		.type = XVM_LETTER_FREED, .client = e->client, .slot = e->slot, .gen = e->gen};

	xvm_relay_send(e->vm, &l);
}

static void pair_free(struct xvm_pair *p)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (!p->e[i].vm)
			continue;
		send_freed(&p->e[i]);
		xvm_list_del(&p->e[i].in_owner);
		p->e[i].vm->n_ends--;
	}
	if (p->link) {
		xvm_list_del(&p->in_link);
		if (xvm_list_empty(&p->link->pairs))
			link_idle(p->link);
	}
	p->d->pairs->count--;
	free(p);
}

/* It is over. The pair lasts until the other is, too. */
static void end_stop(struct xvm_end *e)
{
	struct xvm_vm_ep *ep;
	struct xvm_slot *s;

	if (e->over)
		return;
	e->over = true;
	xvm_list_del(&e->in_reading);
	if (e->reads)
		xvm_vm_release(e->reads);
	if (e->piece)
		xvm_lease_drop(e->piece);
	if (e->own)
		xvm_lease_drop(e->own);
	if (e->arena) {
		s = xvm_arenas_slot(e->arena, e->slot);
		if (s && s->end == e) {
			s->end = NULL;
			xvm_arenas_slot_tidy(s);
		}
		e->arena->user->ends--;
		xvm_list_del(&e->in_owner);
		e->arena = NULL;
	} else {
		ep = xvm_vmep_find(e->vm, e->client, e->slot);
		if (ep && ep->end == e) {
			ep->end = NULL;
			xvm_vmep_tidy(e->vm, ep);
		}
	}
}

static void end_end(struct xvm_end *e)
{
	end_stop(e);
	if (other(e)->over)
		pair_free(e->pair);
}

static void end_begin(struct xvm_pair *p, int i, const struct xvm_offer *o)
{
	struct xvm_end *e = &p->e[i];
	struct xvm_conn *c = o->owner;
	struct xvm_slot *s;

	e->pair = p;
	e->client = o->client;
	e->slot = o->slot;
	e->gen = o->gen;
	if (o->vm) {
		e->vm = o->vm;
		o->vm->n_ends++;
		xvm_list_add(&o->vm->ends, &e->in_owner);
		xvm_vmep_find(o->vm, o->client, o->slot)->end = e;
		return;
	}
	s = xvm_arenas_slot(c->arena, o->slot);
	e->arena = c->arena;
	s->end = e;
	c->arena->user->ends++;
	xvm_list_add(&c->arena->ends, &e->in_owner);
}

/* The name is used anew, so its last use is over, whether we were told or not. False: there is no
 * such name. */
static bool take_name(const struct xvm_offer *o)
{
	struct xvm_vm_ep *ep;
	struct xvm_slot *s;

	if (o->vm) {
		ep = xvm_vmep_find(o->vm, o->client, o->slot);
		if (ep && ep->end)
			end_end(ep->end);
		return ep != NULL;
	}
	s = xvm_arenas_slot(((struct xvm_conn *)o->owner)->arena, o->slot);
	if (s && s->end)
		end_end(s->end);
	return s != NULL;
}

static void tell_vm(const struct xvm_offer *o, uint32_t role, const struct xvm_offer *peer)
{
	struct xvm_letter l = {.type = XVM_LETTER_PAIRED,
			       .client = o->client,
			       .slot = o->slot,
			       .gen = o->gen,
			       .role = role,
			       .off = peer->off,
			       .len = peer->len};

	/* Programs of this kernel ring and are rung by eventfds. */
	l.peer = (uint16_t)(peer->vm ? peer->vm->peer : XVM_PEER_HOST);
	l.peer_gen = peer->vm ? peer->vm->gen : XVM_GROUP_HOST_GEN;
	l.flags = peer->vm ? xvm_relay_flags(peer->vm) : XVM_LETTER_F_ALL;
	xvm_relay_send(o->vm, &l);
}

static void tell(struct xvm_offer *o, uint32_t role, const struct xvm_offer *peer)
{
	struct xvm_msg m = {.type = XVM_MSG_PAIRED, .slot = o->slot, .gen = o->gen, .arg = role};

	if (o->vm) {
		tell_vm(o, role, peer);
		return;
	}
	if (peer->vm) {
		xvm_share_meet(o->owner, peer->vm);
		m.region = peer->vm->group->index;
		m.arg2 = peer->vm->peer;
		m.arg64 = xvm_relay_flags(peer->vm);
		m.off = xvm_region_arena(&peer->vm->group->region, peer->vm->peer) + peer->off;
		m.len = peer->len;
		xvm_conn_send(o->owner, &m, NULL, 0);
		return;
	}
	m.arg2 = ((struct xvm_conn *)peer->owner)->id;
	xvm_conn_send(o->owner, &m, &peer->half, 1);
}

/* One's own users may have half of all ends, a VM what it could have memory for. */
static bool full(const struct xvm_offer *o)
{
	const struct xvm_user *u;

	if (o->vm)
		return o->vm->n_ends >= XVM_VM_ENDS_MAX;
	u = ((struct xvm_conn *)o->owner)->arena->user;
	return !u->trusted && u->ends >= XVM_PAIRS_MAX;
}

/* First the eventfds, so that the peers can use them as soon as they know of each other. */
static struct xvm_link *link_get(struct xvm_daemon *d, struct xvm_conn *a, struct xvm_conn *b)
{
	struct xvm_link *l = link_find(a, b);

	return l ? l : link_make(d, a, b);
}

static void reads(struct xvm_end *e, const struct xvm_offer *peer)
{
	xvm_list_init(&e->in_reading);
	if (peer->vm) {
		e->reads = peer->vm;
		xvm_list_add(&peer->vm->reading, &e->in_reading);
		xvm_vm_hold(peer->vm);
	} else if (peer->piece) {
		e->piece = peer->piece;
		xvm_lease_hold(peer->piece);
	}
}

static void keep(struct xvm_end *e, const struct xvm_offer *o)
{
	e->own = o->piece;
	if (e->own)
		xvm_lease_hold(e->own);
}

uint32_t xvm_pairs_make(struct xvm_daemon *d, struct xvm_offer *a, uint32_t role_a,
			struct xvm_offer *b, uint32_t role_b)
{
	struct xvm_link *l = NULL;
	struct xvm_pair *p;

	if (d->pairs->count >= XVM_PAIRS_MAX || full(a) || full(b) || !take_name(a) ||
	    !take_name(b))
		return XVM_R_LIMIT;
	p = calloc(1, sizeof(*p));
	if (!p)
		return XVM_R_NO_MEMORY;
	if (!a->vm && !b->vm)
		l = link_get(d, a->owner, b->owner);
	if (!l && !a->vm && !b->vm) {
		free(p);
		return XVM_R_NO_MEMORY;
	}
	p->d = d;
	p->link = l;
	xvm_list_init(&p->in_link);
	if (l) {
		xvm_list_add(&l->pairs, &p->in_link);
		xvm_list_del(&l->in_idle);
	}
	d->pairs->count++;
	d->n.pairs++;
	end_begin(p, 0, a);
	end_begin(p, 1, b);
	keep(&p->e[0], a);
	keep(&p->e[1], b);
	reads(&p->e[0], b);
	reads(&p->e[1], a);
	tell(a, role_a, b);
	tell(b, role_b, a);
	return XVM_R_NONE;
}

void xvm_pairs_unpair(struct xvm_conn *c, uint32_t slot, uint32_t gen)
{
	struct xvm_slot *s = xvm_arenas_slot(c->arena, slot);

	if (s && s->end && s->end->gen == gen)
		end_end(s->end);
}

void xvm_pairs_unpair_vm(struct xvm_vm *vm, uint32_t client, uint32_t slot, uint32_t gen)
{
	struct xvm_vm_ep *ep = xvm_vmep_find(vm, client, slot);

	if (ep && ep->end && ep->end->gen == gen)
		end_end(ep->end);
}

static void send_dead(struct xvm_vm *to, const struct xvm_vm *of)
{
	struct xvm_letter l = {.type = XVM_LETTER_GONE, .peer_gen = of->gen};

	l.peer = (uint16_t)of->peer;
	xvm_relay_send(to, &l);
}

/* To the process and its forks: any of them may have the socket. */
static void send_dead_here(const struct xvm_end *e)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &e->arena->conns))
		xvm_conn_say(xvm_container(n, struct xvm_conn, in_arena), XVM_MSG_PEER_DEAD,
			     e->slot, e->gen, 0);
}

void xvm_pairs_book_gone(struct xvm_daemon *d, const struct xvm_lease_book *book)
{
	struct xvm_list *l, *lt, *n, *t;

	for (XVM_EACH(l, lt, &d->arenas)) {
		struct xvm_arena_ref *a = xvm_container(l, struct xvm_arena_ref, in_all);

		for (XVM_EACH(n, t, &a->ends)) {
			struct xvm_end *e = xvm_container(n, struct xvm_end, in_owner);

			if (e->own && e->own->book == book)
				e->own = NULL;
		}
	}
}

void xvm_pairs_vm_forgotten(struct xvm_vm *vm)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &vm->reading)) {
		xvm_list_del(n);
		xvm_container(n, struct xvm_end, in_reading)->reads = NULL;
	}
}

void xvm_pairs_vm_gone(struct xvm_vm *vm)
{
	bool tell_peer[XVM_REGION_PEERS_MAX] = {false};
	struct xvm_group *g = vm->group;
	struct xvm_list *n, *t;
	uint32_t i;

	for (XVM_EACH(n, t, &vm->ends)) {
		struct xvm_end *e = xvm_container(n, struct xvm_end, in_owner), *o = other(e);

		/* What has left a device that was unplugged goes on, perhaps elsewhere. */
		if (!o->over && !(e->over && xvm_relay_bye(vm))) {
			if (o->vm)
				tell_peer[o->vm->peer] = true;
			else
				send_dead_here(o);
		}
		end_stop(e);
		xvm_list_del(&e->in_owner);
		vm->n_ends--;
		e->vm = NULL;
		if (o->over)
			pair_free(e->pair);
	}
	for (i = 1; i < g->region.peers; i++)
		if (tell_peer[i] && g->vm[i])
			send_dead(g->vm[i], vm);
}

void xvm_pairs_waker(struct xvm_conn *c, const struct xvm_msg *m, int *fds)
{
	struct xvm_list *n, *t;

	if (m->arg >= XVM_WAKERS_MAX) {
		xvm_conn_nonsense(c, "a waker of no such number");
		return;
	}
	if (m->nfds != 1)
		return; /* lost for want of descriptors: its peers will use pads */
	if (!xvm_fd_is_eventfd(fds[0])) {
		xvm_conn_nonsense(c, "a waker that is no eventfd");
		return;
	}
	if (c->waker[m->arg] >= 0)
		xvm_fd_discard(c->waker[m->arg]);
	else if (!xvm_conn_charge(c, 1))
		return;
	c->waker[m->arg] = fds[0];
	fds[0] = -1;
	for (XVM_EACH(n, t, &c->links)) {
		struct xvm_link *l = link_of(n);

		send_waker(l->c[0] == c ? l->c[1] : l->c[0], c, m->arg);
	}
}

void xvm_pairs_conn_gone(struct xvm_conn *c)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->links))
		link_free(link_of(n));
}

void xvm_pairs_arena_gone(struct xvm_daemon *d, struct xvm_arena_ref *a)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &a->ends)) {
		struct xvm_end *e = xvm_container(n, struct xvm_end, in_owner);

		/* Of the process we know that it is not connected, of its forks nothing. */
		if (e->own)
			e->own->loose = true;
		end_end(e);
	}
}
