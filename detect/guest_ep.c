/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of an endpoint's piece:
 *
 *             offer           PAIRED           closed          FREED
 *   stock ----------> OFFERED ------> PAIRED ---------> ENDING -------> free
 *                      | | withdrawn                      ^
 *            REFUSED   | +-------> WITHDRAWN -------------+  PAIRED was on its way
 *             free <---+               +--> free: nothing was on its way
 *
 * A process writes into the half of an offer only before it offers it and once it is paired, so
 * when it is refused the piece can be lent to another at once.
 *
 * Nobody answers a WITHDRAW. But letters are read in order, and an offer for an address that lives
 * nowhere is refused at once: whatever was on its way to us when the host read the withdrawal is
 * there once an offer that was made after it is refused. That is the fence.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "detect/arenas.h"
#include "detect/daemon.h"
#include "detect/guest_ep.h"
#include "detect/guest_lease.h"
#include "detect/log.h"
#include "detect/netlink.h"
#include "detect/reset.h"

/* In the record, where 0 is a piece in stock; never renumber. */
enum state {
	OFFERED = 1,
	WITHDRAWN,
	PAIRED,
	ENDING,	  /* closed here: the other end may still read the half */
	OVER,	  /* of a run that is over: in nobody's hands once the next is welcome */
	ORPHANED, /* in the record only: paired, and `orphan` */
};

struct xvm_guest_ep {
	struct xvm_guest_ep *hash_next;
	struct xvm_list in_guest;
	struct xvm_guest *g;
	struct xvm_guest_kin *kin; /* NULL: all its processes are dead */
	struct xvm_conn *conn;	   /* who offered it; NULL: gone */
	uint32_t client, slot, gen;
	uint64_t cookie;
	struct xvm_piece *piece;
	enum state state;
	uint32_t peer, peer_gen;
	uint64_t fence; /* of its withdrawal */
	bool dead;	/* so is the other end's VM, or the run: its processes are to reset it */
	bool orphan;	/* of a run that is over: nothing is owed to anybody */
};

static struct xvm_guest_ep *ep_of(struct xvm_list *n)
{
	return xvm_container(n, struct xvm_guest_ep, in_guest);
}

/* ---- by name ---------------------------------------------------------- */

/* The slots of one process are its own choice, but no two of them share a bucket: a chain is no
 * longer than there are processes and generations. */
static struct xvm_guest_ep **bucket(const struct xvm_guest *g, uint32_t client, uint32_t slot)
{
	return &g->ep[(client * 0x9e3779b1u + slot) % XVM_GUEST_BUCKETS];
}

static struct xvm_guest_ep *find(const struct xvm_guest *g, uint32_t client, uint32_t slot,
				 uint32_t gen)
{
	struct xvm_guest_ep *ep = *bucket(g, client, slot);

	while (ep && (ep->client != client || ep->slot != slot || ep->gen != gen))
		ep = ep->hash_next;
	return ep;
}

static uint32_t name_of(const struct xvm_guest_kin *k)
{
	return (uint32_t)k->name;
}

/* For a successor: what does not change in a state. */
static void note(const struct xvm_guest_ep *ep)
{
	struct xvm_record_row *row = xvm_record_row(&ep->g->record, ep->piece->off);

	row->slot = ep->slot;
	row->gen = ep->gen;
	row->cookie = ep->cookie;
	row->peer = ep->peer;
	row->peer_gen = ep->peer_gen;
}

/* Before anybody else hears of it. */
static void set_state(struct xvm_guest_ep *ep, enum state state)
{
	struct xvm_record_row *row = xvm_record_row(&ep->g->record, ep->piece->off);

	ep->state = state;
	atomic_store(&row->state, state == PAIRED && ep->orphan ? ORPHANED : state);
}

int xvm_guest_eps_init(struct xvm_guest *g)
{
	xvm_list_init(&g->eps);
	g->ep = calloc(XVM_GUEST_BUCKETS, sizeof(struct xvm_guest_ep *));
	return g->ep ? 0 : -ENOMEM;
}

static void forget(struct xvm_guest_ep *ep)
{
	struct xvm_guest_ep **b = bucket(ep->g, ep->client, ep->slot);

	while (*b != ep)
		b = &(*b)->hash_next;
	*b = ep->hash_next;
	xvm_list_del(&ep->in_guest);
	free(ep);
}

static struct xvm_guest_ep *add(struct xvm_guest *g, struct xvm_guest_kin *k, struct xvm_piece *p,
				uint32_t slot, uint32_t gen)
{
	struct xvm_guest_ep *ep = calloc(1, sizeof(*ep)), **b;

	if (!ep)
		return NULL;
	ep->g = g;
	ep->kin = k;
	ep->client = name_of(k);
	ep->slot = slot;
	ep->gen = gen;
	ep->piece = p;
	xvm_lease_hold(p);
	b = bucket(g, ep->client, ep->slot);
	ep->hash_next = *b;
	*b = ep;
	xvm_list_add(&g->eps, &ep->in_guest);
	return ep;
}

/* Nobody of another kernel has to do with its piece. */
static void finish(struct xvm_guest_ep *ep)
{
	xvm_record_clear(xvm_record_row(&ep->g->record, ep->piece->off));
	xvm_lease_return(ep->piece);
	xvm_lease_drop(ep->piece);
	forget(ep);
}

void xvm_guest_eps_exit(struct xvm_guest *g)
{
	while (g->ep && !xvm_list_empty(&g->eps))
		forget(ep_of(g->eps.next));
	free(g->ep);
	g->ep = NULL;
}

/* ---- letters about an endpoint ---------------------------------------- */

static void say(const struct xvm_guest_ep *ep, uint32_t type)
{
	struct xvm_letter l = {
		.type = type, .client = ep->client, .slot = ep->slot, .gen = ep->gen};

	xvm_guest_send(ep->g, &l);
}

static void say_offer(const struct xvm_guest_ep *ep, const struct xvm_facts *f, uint32_t role)
{
	struct xvm_letter l = {.type = XVM_LETTER_OFFER,
			       .client = ep->client,
			       .slot = ep->slot,
			       .gen = ep->gen,
			       .lport = f->lport,
			       .rport = f->rport,
			       .role = role,
			       .cookie = f->cookie,
			       .acked = f->acked,
			       .received = f->received,
			       .outq = f->outq,
			       .len = ep->piece->len};

	memcpy(l.laddr, f->laddr, 16);
	memcpy(l.raddr, f->raddr, 16);
	l.off = ep->piece->off - xvm_region_arena(&ep->g->region, ep->g->self);
	xvm_guest_send(ep->g, &l);
}

#define FENCE_CLIENT 0 /* no arena's name */

void xvm_guest_fence(struct xvm_guest *g)
{
	struct xvm_letter l = {.type = XVM_LETTER_OFFER,
			       .client = FENCE_CLIENT,
			       .gen = (uint32_t)g->fence,
			       .off = xvm_region_lease_off(&g->region, g->self),
			       .len = XVM_HALF_CTL + XVM_RING_MIN};

	if (g->asked || !g->up)
		return;
	g->asked = ev_now(g->d->loop);
	g->fence_asked = g->fence;
	xvm_guest_send(g, &l);
}

static void withdraw(struct xvm_guest_ep *ep)
{
	set_state(ep, WITHDRAWN);
	ep->fence = ++ep->g->fence;
	say(ep, XVM_LETTER_WITHDRAW);
	xvm_guest_fence(ep->g);
}

static void unpair(struct xvm_guest_ep *ep)
{
	set_state(ep, ENDING);
	say(ep, XVM_LETTER_UNPAIR);
}

static void fenced(struct xvm_guest *g)
{
	uint64_t upto = g->fence_asked;
	struct xvm_list *n, *t;
	bool more = false;

	g->asked = 0;
	for (XVM_EACH(n, t, &g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		if (ep->state != WITHDRAWN)
			continue;
		if (ep->fence <= upto)
			finish(ep);
		else
			more = true;
	}
	if (more)
		xvm_guest_fence(g);
}

/* It is over for its processes, or they have gone. */
static void close_ep(struct xvm_guest_ep *ep)
{
	if (ep->state == OFFERED) {
		withdraw(ep);
	} else if (ep->state == PAIRED && ep->orphan) {
		set_state(ep, OVER);
		if (ep->g->up)
			finish(ep);
	} else if (ep->state == PAIRED) {
		unpair(ep);
	}
}

/* ---- offers ----------------------------------------------------------- */

/* The MAC that we talk to must be the one that lives there: an address may have been taken over by
 * somebody that the host does not know of. */
static bool right_neighbour(const struct xvm_guest *g, const struct xvm_facts *f, uint32_t peer)
{
	static const uint8_t none[6];
	const struct xvm_residency *r = &g->d->residency;
	const struct xvm_res_addr *a;
	const struct xvm_nl_neigh *n;

	if (xvm_residency_find(r, NULL, f->raddr, &a) != 1 || a->ns->peer != peer)
		return false;
	n = xvm_netlink_neigh(&g->d->netns, f->raddr, NULL);
	/* Reached by a router, or from another namespace: then it is not ours to know. */
	return !n || !memcmp(a->mac, none, 6) || !memcmp(a->mac, n->mac, 6);
}

static uint32_t judge(struct xvm_guest *g, struct xvm_conn *c, const struct xvm_facts *f)
{
	struct xvm_where where;
	uint32_t reason;

	if (!g->up || g->broken || g->n_queue >= XVM_GUEST_QUEUE_MAX)
		return XVM_R_NO_DAEMON;
	if (g->leaving)
		return XVM_R_NO_DEVICE;
	reason = xvm_residency_peer(&g->d->residency, f, &where);
	if (reason)
		return reason;
	if (xvm_guests_of_serial(g->d, where.vm) != g || !right_neighbour(g, f, where.vm & 0xff))
		return XVM_R_NOT_RESIDENT;
	if (!xvm_conf_allows(g->d->conf, c->uid, c->exe, f->laddr, f->lport))
		return XVM_R_RULE;
	return XVM_R_NONE;
}

/* The slot is used anew, so whatever we knew of its last use is over. */
static void end_older(struct xvm_guest *g, uint32_t client, uint32_t slot)
{
	struct xvm_guest_ep *ep = *bucket(g, client, slot), *next;

	for (; ep; ep = next) {
		next = ep->hash_next;
		if (ep->client == client && ep->slot == slot)
			close_ep(ep);
	}
}

static uint32_t make(struct xvm_guest *g, struct xvm_conn *c, const struct xvm_msg *m,
		     const struct xvm_facts *f, struct xvm_piece *p)
{
	struct xvm_guest_kin *k = xvm_guest_kin_of(g, c);
	uint32_t reason = judge(g, c, f);
	struct xvm_guest_ep *ep;

	if (reason)
		return reason;
	end_older(g, name_of(k), m->slot);
	/* With the same name as before, it could not be told what is about which. */
	if (find(g, name_of(k), m->slot, m->gen))
		return XVM_R_LIMIT;
	ep = add(g, k, p, m->slot, m->gen);
	if (!ep)
		return XVM_R_NO_MEMORY;
	ep->conn = c;
	ep->cookie = f->cookie;
	note(ep);
	set_state(ep, OFFERED);
	say_offer(ep, f, m->arg);
	return XVM_R_NONE;
}

uint32_t xvm_guest_offer(struct xvm_conn *c, const struct xvm_msg *m, const struct xvm_facts *f,
			 uint32_t reason)
{
	struct xvm_guest *g = xvm_guest_of_client(c, m->region);
	struct xvm_piece *p;

	if (!g)
		return XVM_R_NONE; /* it is dropped */
	if (!(c->regions & 1u << g->index) || g->absent)
		return XVM_R_NO_DEVICE; /* it does not know yet */
	p = xvm_guest_stock(g, c, m->off, m->len);
	if (!p) {
		xvm_conn_nonsense(c, "a piece that is not in its stock");
		return XVM_R_NONE;
	}
	if (!reason)
		reason = make(g, c, m, f, p);
	if (reason)
		xvm_guest_lease_end(g, p);
	return reason;
}

void xvm_guest_over(struct xvm_conn *c, uint32_t slot, uint32_t gen)
{
	struct xvm_guest_ep *ep;
	struct xvm_guest_kin *k;
	uint32_t i;

	for (i = 0; i < c->d->guests.n; i++) {
		k = xvm_guest_kin_of(c->d->guests.g[i], c);
		ep = k ? find(k->g, name_of(k), slot, gen) : NULL;
		if (ep)
			close_ep(ep);
	}
}

void xvm_guest_conn_gone(struct xvm_conn *c)
{
	struct xvm_list *n, *t;
	uint32_t i;

	for (i = 0; i < c->d->guests.n; i++) {
		struct xvm_guest *g = c->d->guests.g[i];

		xvm_guest_take_vector(g, c);
		for (XVM_EACH(n, t, &g->eps)) {
			struct xvm_guest_ep *ep = ep_of(n);

			if (ep->conn != c)
				continue;
			ep->conn = NULL;
			/* Forks of it may have the socket, but would not hear of a pair. */
			if (ep->state == OFFERED)
				withdraw(ep);
		}
	}
}

void xvm_guest_arena_gone(struct xvm_arena_ref *a)
{
	uint32_t i;

	for (i = 0; i < XVM_REGIONS_GUEST; i++)
		if (a->kin[i])
			xvm_guest_kin_parted(a->kin[i]);
}

void xvm_guest_eps_kin_dead(struct xvm_guest_kin *k)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &k->g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		if (ep->kin != k)
			continue;
		ep->kin = NULL;
		close_ep(ep);
	}
	for (XVM_EACH(n, t, &k->pieces))
		xvm_guest_lease_end(k->g, xvm_container(n, struct xvm_piece, in_owner));
}

/* The arena says what is paired; a slot that is used anew has another generation. */
static bool closed(const struct xvm_guest_ep *ep)
{
	struct xvm_shm_ep shm;

	if (xvm_arenas_read(ep->kin->arena, ep->slot, 1, &shm) != 1)
		return true;
	/* What is offered yet, as far as the program knows, it will withdraw. */
	return shm.gen != ep->gen || (shm.state != XVM_EP_PAIRED && shm.state != XVM_EP_OFFERED);
}

void xvm_guest_eps_rejoin(struct xvm_guest_kin *k)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &k->g->eps))
		if (ep_of(n)->kin == k && ep_of(n)->state == PAIRED && closed(ep_of(n)))
			close_ep(ep_of(n));
}

/* ---- what the host says ----------------------------------------------- */

static void paired(struct xvm_guest *g, struct xvm_guest_ep *ep, const struct xvm_letter *l)
{
	struct xvm_msg m = {.type = XVM_MSG_PAIRED,
			    .slot = l->slot,
			    .gen = l->gen,
			    .arg = l->role,
			    .arg2 = l->peer,
			    .arg64 = l->flags,
			    .region = g->index,
			    .off = xvm_region_arena(&g->region, l->peer) + l->off,
			    .len = l->len};
	struct xvm_letter no = {
		.type = XVM_LETTER_UNPAIR, .client = l->client, .slot = l->slot, .gen = l->gen};

	static_assert(XVM_VM_DOORBELL == XVM_LETTER_F_DOORBELL &&
			      XVM_VM_INTERRUPTS == XVM_LETTER_F_INTERRUPTS,
		      "handed on as they are");
	if (!ep || (ep->state != OFFERED && ep->state != WITHDRAWN)) {
		/* A pair that we know nothing of must not keep the other's half for ever; one that
		 * we know of is not made twice. */
		if (!ep)
			xvm_guest_send(g, &no);
		return;
	}
	if (ep->state == WITHDRAWN) {
		unpair(ep);
		return;
	}
	ep->peer = l->peer;
	ep->peer_gen = l->peer_gen;
	note(ep);
	set_state(ep, PAIRED);
	g->d->n.pairs++;
	xvm_conn_send(ep->conn, &m, NULL, 0);
}

static void say_refused(struct xvm_guest_ep *ep, uint32_t reason)
{
	struct xvm_msg m = {
		.type = XVM_MSG_REFUSED, .slot = ep->slot, .gen = ep->gen, .arg = reason};

	ep->g->d->n.refused++;
	if (ep->conn)
		xvm_conn_send(ep->conn, &m, NULL, 0);
}

static void refused(struct xvm_guest_ep *ep, uint32_t reason)
{
	if (ep->state != OFFERED && ep->state != WITHDRAWN)
		return;
	if (ep->state == OFFERED)
		say_refused(ep, reason);
	finish(ep);
}

/* ---- the dead --------------------------------------------------------- */

static void say_dead(const struct xvm_guest_ep *ep)
{
	struct xvm_list *n, *t;

	if (!ep->kin->arena)
		return;
	/* To all that may hold it: whoever has the socket drops what it has mapped. */
	for (XVM_EACH(n, t, &ep->kin->arena->conns))
		xvm_conn_say(xvm_container(n, struct xvm_conn, in_arena), XVM_MSG_PEER_DEAD,
			     ep->slot, ep->gen, 0);
}

/* Where the process that used it last says that it is. */
static bool reset_there(const struct xvm_guest_ep *ep)
{
	struct xvm_list *n, *t;
	struct xvm_shm_ep shm;

	if (!ep->kin->arena || xvm_arenas_read(ep->kin->arena, ep->slot, 1, &shm) != 1)
		return false;
	for (XVM_EACH(n, t, &ep->kin->arena->conns)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_arena);

		if (c->own_pid == shm.pid)
			return xvm_reset_at(c->pid, shm.fd, ep->cookie);
	}
	return false;
}

/* Those that were not where they should be: looked for in all processes that share the arena. */
static void reset_anywhere(const struct xvm_guest_kin *k, struct xvm_reset *r, size_t n)
{
	struct xvm_list *l, *t, none = {&none, &none};
	size_t i, left = 0;

	qsort(r, n, sizeof(*r), xvm_reset_order);
	/* Not connected since our predecessor has gone: the one that it knew. */
	if (!k->arena)
		xvm_reset_in(k->pid, r, n);
	for (XVM_EACH(l, t, k->arena ? &k->arena->conns : &none))
		xvm_reset_in(xvm_container(l, struct xvm_conn, in_arena)->pid, r, n);
	for (i = 0; i < n; i++)
		left += !r[i].done;
	if (left)
		xvm_log(LOG_INFO, "%zu sockets of dead VMs were not found", left);
}

/* n marks of endpoints whose sockets are still to be found, of one kin after the other. */
static void reset_rest(struct xvm_guest_ep **ep, size_t n)
{
	struct xvm_reset *r = calloc(n, sizeof(*r));
	size_t i, k, first;

	for (first = 0; r && first < n; first++) {
		const struct xvm_guest_kin *kin = ep[first] ? ep[first]->kin : NULL;

		if (!kin)
			continue;
		for (i = first, k = 0; i < n; i++)
			if (ep[i] && ep[i]->kin == kin) {
				r[k++] = (struct xvm_reset){.cookie = ep[i]->cookie};
				ep[i] = NULL;
			}
		reset_anywhere(kin, r, k);
	}
	free(r);
}

/* peer < 0: all. */
static void dead(struct xvm_guest *g, int peer, uint32_t gen)
{
	struct xvm_guest_ep **rest = NULL;
	struct xvm_list *n, *t;
	size_t count = 0, left = 0;

	for (XVM_EACH(n, t, &g->eps))
		count++;
	rest = calloc(count + 1, sizeof(struct xvm_guest_ep *));
	for (XVM_EACH(n, t, &g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		if (ep->state != PAIRED || !ep->kin ||
		    (peer >= 0 && (ep->peer != (uint32_t)peer || ep->peer_gen != gen)))
			continue;
		if (!ep->dead) {
			ep->dead = true;
			say_dead(ep);
			if (!reset_there(ep) && rest)
				rest[left++] = ep;
		}
		ep->orphan = ep->orphan || peer < 0;
		set_state(ep, PAIRED);
	}
	if (left)
		reset_rest(rest, left);
	free(rest);
}

void xvm_guest_eps_run_over(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	dead(g, -1, 0);
	for (XVM_EACH(n, t, &g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		if (ep->state == OFFERED)
			say_refused(ep, XVM_R_NO_DAEMON);
		/* Its PAIRED may have been lost, and somebody reads it. */
		if (ep->state != PAIRED)
			set_state(ep, OVER);
	}
}

void xvm_guest_eps_welcome(struct xvm_guest *g)
{
	struct xvm_list *n, *t;
	bool any = false;

	for (XVM_EACH(n, t, &g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		any = any || ep->state == WITHDRAWN;
		if (ep->state == OVER)
			finish(ep);
		/* Of a run that goes on: our predecessor may have been killed before it said so. */
		else if (ep->state == ENDING)
			say(ep, XVM_LETTER_UNPAIR);
	}
	/* What our predecessor had offered the host has forgotten at the hello, unless it had
	 * paired it before. */
	if (any)
		xvm_guest_fence(g);
}

/* ---- a predecessor's ------------------------------------------------------ */

static void restore_ep(struct xvm_guest *g, struct xvm_guest_kin *k, struct xvm_piece *p,
		       const struct xvm_record_row *row)
{
	uint32_t state = atomic_load(&row->state);
	struct xvm_guest_ep *ep = add(g, k, p, row->slot, row->gen);

	if (!ep)
		return; /* the piece stays lent */
	ep->cookie = row->cookie;
	ep->peer = row->peer;
	ep->peer_gen = row->peer_gen;
	ep->orphan = ep->dead = state == ORPHANED;
	if (state == OFFERED || state == WITHDRAWN) {
		set_state(ep, WITHDRAWN);
		ep->fence = ++g->fence;
	} else {
		set_state(ep, state == ORPHANED ? PAIRED : state);
	}
}

void xvm_guest_eps_restore(struct xvm_guest *g)
{
	const struct xvm_record_row *row;
	struct xvm_guest_kin *k;
	struct xvm_piece *p;
	size_t i = 0;

	while ((row = xvm_record_next(&g->record, &i))) {
		k = xvm_guest_kin_restore(g, row);
		p = k ? xvm_lease_restore(&g->book, row->off, row->len, k) : NULL;
		if (!p)
			continue;
		xvm_list_add(&k->pieces, &p->in_owner);
		if (atomic_load(&row->state))
			restore_ep(g, k, p, row);
	}
}

/* ---- the device goes -------------------------------------------------- */

void xvm_guest_eps_leave(struct xvm_guest *g)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->eps)) {
		struct xvm_guest_ep *ep = ep_of(n);

		if (ep->state != OFFERED)
			continue;
		say_refused(ep, XVM_R_NO_DEVICE);
		withdraw(ep);
	}
}

bool xvm_guest_eps_left(const struct xvm_guest *g, const struct xvm_arena_ref *a)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &g->eps)) {
		const struct xvm_guest_ep *ep = ep_of(n);

		/* A pair may be on its way to us, if there is a host. */
		if (ep->state == WITHDRAWN && !a && g->up)
			return true;
		if (ep->state == PAIRED && (!a || (ep->kin && ep->kin->arena == a)))
			return true;
	}
	return false;
}

bool xvm_guest_eps_kill(struct xvm_guest *g)
{
	struct xvm_list *n, *t;
	bool any = false;

	for (XVM_EACH(n, t, &g->eps))
		any = any || ep_of(n)->state == PAIRED;
	/* Nobody says UNPAIR: so the other ends hear of it from the host at the latest when the
	 * machine goes, or says hello again. */
	dead(g, -1, 0);
	return any;
}

void xvm_guest_letter(struct xvm_guest *g, const struct xvm_letter *l)
{
	struct xvm_guest_ep *ep = find(g, l->client, l->slot, l->gen);

	switch (l->type) {
	case XVM_LETTER_PAIRED:
		paired(g, ep, l);
		break;
	case XVM_LETTER_REFUSED:
		if (l->client == FENCE_CLIENT && g->asked && l->gen == (uint32_t)g->fence_asked)
			fenced(g);
		else if (ep)
			refused(ep, l->arg);
		break;
	case XVM_LETTER_FREED:
		if (ep && ep->state == ENDING)
			finish(ep);
		break;
	case XVM_LETTER_GONE:
		dead(g, l->peer, l->peer_gen);
		break;
	}
}
