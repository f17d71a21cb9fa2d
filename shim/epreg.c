/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The records of paired sockets: hot, cold, armed, parked, and what the kernel is asked for them.
 *
 * Parking is EPOLL_CTL_DEL, and ADD again, without the kernel: event loops do that with each
 * request. The rules, all of which are of one process (test/model/parking.pml and renamed.pml have
 * them in Promela):
 *
 * P1 park. DEL leaves the registration with the kernel, which is quiet, as nobody wants more of it
 * than pads. Only where nobody but the waits of this process, in this epoll, would see it: nobody
 * is in the epoll, and it was not exposed (P5). Not with a flag by which the kernel remembers what
 * it has told (edge, one-shot), nor where all data are not known.
 *
 * P2 unpark. ADD of the same descriptor of the same socket takes it up again, by EPOLL_CTL_MOD if
 * what is asked of the kernel, or the data, differ; then it is looked at, and armed for those who
 * sleep, as after any ADD. MOD and DEL say ENOENT.
 *
 * P3 evict. An event of what is parked goes to nobody, and the registration goes, from the kernel
 * first and then from the records. So it does before its data mean another, before its descriptor
 * is closed, when its socket is not on a ring any more, and in exposing.
 *
 * P4 ghosts. Threads that have come back from the kernel and have not judged its events yet
 * (e->takers) may bring one of what was evicted, or by the data that a record had before it was
 * changed. Until the last of them has judged, an event with data that no record has is dropped, and
 * one with data that a record has is believed only if the kernel, asked about that descriptor, says
 * the same.
 *
 * P5 expose. Before somebody looks at the epoll with the kernel's eyes (a poll, an epoll around it,
 * a fork, another program image, which all see a parked one) or a filter of system calls is set,
 * what is parked is evicted; from then on nothing is parked in it.
 *
 * P6 signals. A handler that has interrupted the holder of the epoll's lock finds records as they
 * are between two instructions, and changes none. Its waits pass over what is parked
 * (xvm_epset_glance()); its ADD deletes it in the kernel and leaves the rest to xvm_epset_settle().
 */
#include "shim/epset.h"

#include <string.h>

#include "shim/process.h"

uint32_t xvm_epset_kmask(struct xvm_sock *s, uint32_t events)
{
	return xvm_sock_kmask(s, events & ~XVM_EP_FLAGS) |
	       (events & XVM_EP_FLAGS & ~(uint32_t)EPOLLEXCLUSIVE);
}

void xvm_epset_remask(struct xvm_epoll *e, struct xvm_reg *r, bool force)
{
	uint32_t m = r->events & ~(uint32_t)EPOLLEXCLUSIVE;

	if (r->gone)
		return;
	if (r->spent)
		m = EPOLLONESHOT; /* at most an error, once, that nobody is told of */
	else if (r->where != XVM_REG_KERNEL)
		m = xvm_epset_kmask(r->sock, m) | (r->calm ? EPOLLET : 0);
	if (m == r->kmask && !force)
		return;
	/* Nothing more is asked for: a sandbox may forbid to say so. */
	if (xvm_conf.sandboxed && (m | EPOLLRDHUP) == r->kmask)
		return;
	r->kmask = m;
	xvm_epset_control(e, EPOLL_CTL_MOD, r->fd, m, r->data);
}

/*
 * Its reader has come back to TCP since it was last asked, and the kernel's edge for what lies
 * there may be gone: reported while the ring was read, or taken for a pad's.
 */
static bool back_on_tcp(struct xvm_reg *r)
{
	uint64_t epoch = *(volatile uint64_t *)&r->sock->ep->rx_epoch, was = r->rx_epoch;

	r->rx_epoch = epoch;
	return (r->events & EPOLLET) && epoch != was && !(epoch & 1);
}

void xvm_epset_convert(struct xvm_epoll *e, struct xvm_reg *r)
{
	bool again = false;

	if (r->gone)
		return;
	if (!xvm_sock_on(r->sock)) {
		if (r->where == XVM_REG_KERNEL)
			return;
		if (r->where == XVM_REG_HOT)
			xvm_epset_cool(e, r);
		r->where = XVM_REG_KERNEL;
		e->managed--;
	} else {
		if (r->where == XVM_REG_KERNEL) {
			/* The kernel has made the edges so far. */
			r->fresh = false;
			memset(&r->edge, 0, sizeof(r->edge));
			r->rx_epoch = *(volatile uint64_t *)&r->sock->ep->rx_epoch;
		}
		r->calm = false;
		again = back_on_tcp(r);
		xvm_epset_heat(e, r);
	}
	xvm_epset_remask(e, r, again);
}

static void ring_in(struct xvm_ring *ring, struct xvm_reg *r)
{
	if (!ring->n++) {
		r->prev = r->next = r;
		ring->first = r;
		return;
	}
	r->next = ring->first;
	r->prev = ring->first->prev;
	r->prev->next = r;
	r->next->prev = r;
}

static void ring_out(struct xvm_ring *ring, struct xvm_reg *r)
{
	ring->n--;
	if (ring->first == r)
		ring->first = r->next == r ? NULL : r->next;
	r->prev->next = r->next;
	r->next->prev = r->prev;
}

void xvm_epset_heat(struct xvm_epoll *e, struct xvm_reg *r)
{
	r->idle = 0;
	if (r->spent || (r->where == XVM_REG_HOT && !r->warm))
		return;
	if (r->where == XVM_REG_HOT) {
		ring_out(&e->warm, r);
	} else {
		if (r->where == XVM_REG_KERNEL)
			e->managed++;
		xvm_epset_disarm(r);
		r->where = XVM_REG_HOT;
		r->call = e->call;
	}
	r->warm = false;
	ring_in(&e->hot, r);
}

#define NEAR 4	   /* so many are looked at in each wait, however quiet they are */
#define QUIET 1024 /* looks */

void xvm_epset_warm(struct xvm_epoll *e, struct xvm_reg *r)
{
	if (r->warm || e->hot.n <= NEAR || e->call - r->call < QUIET)
		return;
	ring_out(&e->hot, r);
	r->warm = true;
	ring_in(&e->warm, r);
}

void xvm_epset_cool(struct xvm_epoll *e, struct xvm_reg *r)
{
	if (r->where != XVM_REG_HOT)
		return;
	r->where = XVM_REG_COLD;
	ring_out(r->warm ? &e->warm : &e->hot, r);
	r->warm = false;
}

struct xvm_walk xvm_epset_walk(struct xvm_epoll *e, bool both)
{
	struct xvm_walk k = {.e = e, .warm = both && e->warm.n};

	k.next = k.warm ? e->warm.first : e->hot.first;
	k.left = k.warm ? e->warm.n : e->hot.n;
	k.then = k.warm ? e->hot.n : 0;
	return k;
}

struct xvm_reg *xvm_walk_next(struct xvm_walk *k)
{
	struct xvm_reg *r;

	if (!k->left && k->then) {
		k->warm = false;
		k->left = k->then;
		k->then = 0;
		k->next = k->e->hot.first;
	}
	if (!k->left)
		return NULL;
	r = k->next;
	k->next = r->next;
	k->left--;
	return r;
}

void xvm_walk_stop(struct xvm_walk *k)
{
	struct xvm_ring *ring = k->warm ? &k->e->warm : &k->e->hot;

	if (ring->n)
		ring->first = k->next;
}

int xvm_epset_arm(struct xvm_reg *r, uint32_t what, struct xvm_waker *w, uint64_t seq)
{
	if (r->armed && (r->armed & ~what || r->armed_by != w))
		xvm_epset_disarm(r);
	r->armed = what;
	r->armed_by = w;
	return what ? xvm_sock_arm(r->sock, r->fd, what, w, w ? seq : xvm_epset_own(r->ep)) : -1;
}

void xvm_epset_disarm(struct xvm_reg *r)
{
	/* By the name that its epoll has, which others for the same socket may sleep by, too. */
	if (r->armed)
		xvm_sock_disarm(r->sock, r->armed & ~xvm_epset_twin_armed(r), r->armed_by,
				xvm_epset_own(r->ep));
	r->armed = 0;
}

/* ---- parked --------------------------------------------------------------- */

bool xvm_epset_covers(const struct xvm_reg *r, uint32_t mask)
{
	uint32_t spare = r->kmask & ~mask;

	if (mask & ~r->kmask || xvm_fdtab_peek(r->fd) != &r->sock->file)
		return false;
	/* A stream's end is input too, and that it has come is told once (S7). */
	return !spare ||
	       (spare == EPOLLRDHUP && !(atomic_load(&r->sock->ep->flags) & XVM_EPF_FIN_SEEN));
}

bool xvm_epset_park(struct xvm_epoll *e, struct xvm_reg *r)
{
	if (xvm_conf.sandboxed || e->exposed || e->inherited || e->opaque ||
	    r->where == XVM_REG_KERNEL || r->gone || r->calm || r->todo ||
	    (r->events & XVM_EP_FLAGS) || !xvm_sock_on(r->sock) || atomic_load(&e->sleepers) ||
	    xvm_fdtab_peek(r->fd) != &r->sock->file)
		return false;
	xvm_epset_disarm(r);
	xvm_epset_cool(e, r);
	r->parked = true;
	e->parked++;
	return true;
}

bool xvm_epset_unpark(struct xvm_epoll *e, struct xvm_reg *r, const struct epoll_event *ev)
{
	uint32_t mask = xvm_epset_kmask(r->sock, ev->events);

	if ((ev->events & XVM_EP_FLAGS) || !xvm_sock_on(r->sock))
		return false;
	if (ev->data.u64 != r->data || !xvm_epset_covers(r, mask)) {
		if (xvm_epset_control(e, EPOLL_CTL_MOD, r->fd, mask, ev->data.u64) < 0)
			return false;
		r->kmask = mask;
	}
	r->parked = false;
	e->parked--;
	xvm_epset_modify(e, r, ev->events, ev->data.u64);
	xvm_epset_heat(e, r);
	return true;
}

bool xvm_epset_evict(struct xvm_epoll *e, struct xvm_reg *r)
{
	xvm_epset_control(e, EPOLL_CTL_DEL, r->fd, 0, 0);
	/* The kernel may just have reported it. */
	e->ghosts = e->takers != 0;
	return xvm_epset_drop(e, r);
}

void xvm_epset_claim(struct xvm_epoll *e, uint64_t data, const struct xvm_reg *own)
{
	struct xvm_reg *r, *next;

	for (r = e->parked ? xvm_epset_first(e, data) : NULL; r; r = next) {
		next = r->data_next;
		if (r != own && r->parked && r->data == data)
			xvm_epset_evict(e, r);
	}
}

void xvm_epset_expose(struct xvm_epoll *e)
{
	struct xvm_reg *r, *next;

	e->exposed = true;
	for (uint32_t i = 0; e->parked && !e->broken && i <= e->mask; i++)
		for (r = e->by_data[i]; r; r = next) {
			next = r->data_next;
			if (r->parked && !xvm_epset_evict(e, r))
				return;
		}
}

void xvm_epset_abandon(struct xvm_epoll *e, struct xvm_reg *r)
{
	xvm_epset_disarm(r);
	xvm_epset_cool(e, r);
	if (r->where == XVM_REG_KERNEL)
		e->managed++;
	r->where = XVM_REG_KERNEL;
	if (!e->inherited && !r->spent)
		xvm_epset_remask(e, r, false);
	xvm_epset_unlink_fd(e, r);
	e->gone++;
	r->gone = true; /* until the last descriptor is closed: xvm_epoll_closing() */
	xvm_sock_never(r->sock, XVM_R_UNSUPPORTED);
}
