/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is ready among the paired sockets of an epoll, and how they are armed before a sleep: in the
 * epoll itself, in an outer one, or in a poll with the epoll's descriptor in its set.
 */
#include "shim/epset.h"

#include "shim/quiet.h"

#define VAIN_MAX 8 /* events of the kernel in a row that were nothing: see calm() */
#define MORE_MS 5  /* a sleep's bound where not all that it needs could be armed */
#define LOOKS 256  /* that find nothing are as good as a sleep in which nothing came */

/* ---- one record --------------------------------------------------------- */

static uint32_t wanted(const struct xvm_reg *r)
{
	return r->events & ~XVM_EP_FLAGS;
}

static bool on_ring(struct xvm_sock *s)
{
	return __atomic_load_n(&s->ep->rx_epoch, __ATOMIC_RELAXED) & 1;
}

/* Is what the kernel reports pads? Not where the peer has left the ring, and we are still there. */
static bool only_pads(struct xvm_sock *s)
{
	return on_ring(s) && atomic_load(&s->peer.shm->epoch) ==
				     __atomic_load_n(&s->ep->rx_epoch, __ATOMIC_RELAXED);
}

/* Of bits that are true now, those that make an edge since the last report. */
static uint32_t edges(const struct xvm_reg *r, const struct xvm_edge *now, uint32_t bits)
{
	uint32_t input = XVM_EP_IN | EPOLLRDHUP, news = bits & ~(input | XVM_EP_OUT);

	if (!r->fresh)
		news &= ~r->told;
	if (r->fresh || now->in != r->edge.in)
		news |= bits & input;
	if (r->fresh || now->out != r->edge.out)
		news |= bits & XVM_EP_OUT;
	return news;
}

void xvm_epset_reported(struct xvm_epoll *e, struct xvm_reg *r, const struct xvm_edge *now,
			uint32_t bits, bool by_kernel)
{
	if (bits & (XVM_EP_IN | EPOLLRDHUP))
		r->edge.in = now->in;
	else if (r->fresh)
		r->edge.in = now->in - 1;
	if (bits & XVM_EP_OUT)
		r->edge.out = now->out;
	else if (r->fresh)
		r->edge.out = now->out - 1;
	r->told = bits & ~(XVM_EP_IN | EPOLLRDHUP | XVM_EP_OUT);
	r->fresh = false;
	r->idle = 0;
	r->vain = 0;
	r->call = e->call;
	if (r->warm)
		xvm_epset_heat(e, r);
	if (r->events & EPOLLONESHOT) {
		r->spent = true;
		xvm_epset_disarm(r);
		xvm_epset_cool(e, r);
		if (by_kernel)
			r->kmask = EPOLLONESHOT; /* the kernel did so itself */
		else
			xvm_epset_remask(e, r, false);
	} else if (r->calm) {
		r->calm = false;
		xvm_epset_remask(e, r, false);
	}
}

uint32_t xvm_epset_look(struct xvm_reg *r, bool thorough, struct xvm_edge *now)
{
	uint32_t want = wanted(r), bits;

	*now = xvm_sock_edge(r->sock);
	if (!thorough) {
		if ((r->events & EPOLLET) && !r->fresh && now->in == r->edge.in &&
		    now->out == r->edge.out)
			return 0;
		if (!xvm_sock_peek(r->sock, want))
			return 0;
	}
	bits = xvm_sock_poll(r->sock, r->fd, want, 0);
	if ((r->events & EPOLLET) && !edges(r, now, bits))
		bits = 0;
	if (bits & (XVM_EP_IN | EPOLLRDHUP))
		now->in = xvm_sock_edge(r->sock).in;
	return bits;
}

/*
 * The kernel reports again and again what is nothing to the application: bytes it does not ask for,
 * or pads that a lock keeps from being taken. Let the kernel report new arrivals only.
 */
static void calm(struct xvm_epoll *e, struct xvm_reg *r)
{
	if (++r->vain < VAIN_MAX || r->calm)
		return;
	r->calm = true;
	xvm_epset_remask(e, r, false);
}

uint32_t xvm_epset_feed(struct xvm_epoll *e, struct xvm_reg *r, uint32_t kernel)
{
	bool ring = on_ring(r->sock), fin;
	struct xvm_edge now;
	uint32_t bits;

	if (r->parked) {
		xvm_epset_evict(e, r);
		return 0;
	}
	if (r->spent)
		return 0;
	/* S7: a sender has to know of its peer's end; and it is heard once (xvm_sock_kmask). */
	fin = (kernel & EPOLLRDHUP) &&
	      !(atomic_fetch_or(&r->sock->ep->flags, XVM_EPF_FIN_SEEN) & XVM_EPF_FIN_SEEN);
	/* A pad was acted on: it has to be armed anew. Disarmed first, or the pad is kept for us
	 * (W6). */
	xvm_epset_disarm(r);
	xvm_epset_heat(e, r);
	now = xvm_sock_edge(r->sock);
	bits = xvm_sock_poll(r->sock, r->fd, wanted(r), kernel);
	if (bits && (r->events & EPOLLET) && ring && only_pads(r->sock) &&
	    !((kernel & ~(uint32_t)EPOLLRDHUP) & (XVM_EP_OUT | EPOLLERR | EPOLLHUP | EPOLLPRI)) &&
	    !edges(r, &now, bits))
		bits = 0; /* a pad for what has been reported */
	if (bits & (XVM_EP_IN | EPOLLRDHUP))
		now.in = xvm_sock_edge(r->sock).in;
	if (bits) {
		xvm_epset_reported(e, r, &now, bits, true);
		if (fin)
			xvm_epset_remask(e, r, false);
		return bits;
	}
	if (r->events & EPOLLONESHOT)
		xvm_epset_remask(e, r, true); /* the kernel has disarmed it for nothing */
	else if (fin)
		xvm_epset_remask(e, r, false);
	else if (!(r->events & EPOLLET))
		calm(e, r);
	return 0;
}

/* ---- before and after a sleep ------------------------------------------- */

static uint32_t to_arm(struct xvm_reg *r)
{
	uint32_t want = wanted(r), what = want & XVM_EP_IN ? EPOLLIN : 0;

	if (!(want & XVM_EP_OUT))
		return what;
	/* Edge-triggered: room is waited for only by one whom a send has told that there is none.
	 */
	if (!(r->events & EPOLLET) || r->fresh || xvm_sock_edge(r->sock).out != r->edge.out)
		what |= EPOLLOUT;
	return what;
}

/* To arm costs little and a pad much; but many that are idle are not to slow down each sleep. */
static unsigned cool_after(const struct xvm_epoll *e)
{
	uint32_t n = e->hot.n + e->warm.n;

	return n <= 256 ? 64 : n <= 1024 ? 16 : 4;
}

uint32_t xvm_epset_chill(struct xvm_epoll *e, struct xvm_reg *r, struct xvm_edge *now)
{
	uint32_t bits;
	int b;

	b = xvm_epset_arm(r, to_arm(r), NULL, 0);
	bits = xvm_epset_look(r, true, now);
	if (bits || b >= 0)
		xvm_epset_disarm(r);
	else
		xvm_epset_cool(e, r);
	return bits;
}

bool xvm_epset_is_quiet(const struct xvm_epoll *e, const struct xvm_reg *r)
{
	return r->warm && e->call - r->call >= (uint64_t)cool_after(e) * LOOKS;
}

int xvm_epset_arm_all(struct xvm_epoll *e, struct epoll_event *ev, bool *found)
{
	unsigned limit = cool_after(e);
	struct xvm_walk k = xvm_epset_walk(e, true);
	struct xvm_waker *w = k.left ? xvm_epset_waker(e) : NULL;
	uint64_t seq = w ? xvm_waker_next(w) : 0;
	struct xvm_reg *r;
	struct xvm_edge now;
	int bound = -1, b;
	uint32_t bits;

	while ((r = xvm_walk_next(&k))) {
		uint32_t what = to_arm(r);
		bool cool = !w || r->idle >= limit;

		if (r->idle < UINT8_MAX)
			r->idle++;
		b = xvm_epset_arm(r, what, cool ? NULL : w, seq);
		bits = xvm_epset_look(r, true, &now);
		if (bits) {
			*found = true;
			if (b >= 0)
				atomic_store(&e->bounded, true);
			if (!ev)
				return bound;
			*ev = (struct epoll_event){.events = bits, .data.u64 = r->data};
			xvm_epset_reported(e, r, &now, bits, false);
			return bound;
		}
		if (b >= 0)
			bound = bound < 0 || b < bound ? b : bound;
		else if (cool)
			xvm_epset_cool(e, r);
	}
	atomic_store(&e->bounded, bound >= 0);
	return bound;
}

void xvm_epset_disarm_all(struct xvm_epoll *e)
{
	struct xvm_walk k = xvm_epset_walk(e, true);
	struct xvm_reg *r;

	while ((r = xvm_walk_next(&k)))
		xvm_epset_disarm(r);
}

/* A pad that was not taken yet would make e readable in the kernel, and nobody there to judge it.
 */
static void take_pads(struct xvm_epoll *e)
{
	struct xvm_walk k = xvm_epset_walk(e, true);
	struct xvm_reg *r;

	while ((r = xvm_walk_next(&k)))
		if (on_ring(r->sock))
			xvm_sock_poll(r->sock, r->fd, wanted(r), EPOLLIN);
	for (uint32_t i = 0; e->gone && i <= e->mask; i++)
		for (r = e->by_data[i]; r; r = r->data_next)
			if (r->gone && xvm_sock_on(r->sock))
				xvm_sock_poll(r->sock, xvm_sock_fd(r->sock, r->fd), wanted(r),
					      EPOLLIN);
}

int xvm_epset_prepare(struct xvm_epoll *e)
{
	bool found = false;
	int bound;

	if (xvm_lock(&e->lock) < 0)
		return MORE_MS;
	/* Before we look: what it told of is found, and told anew, or is no more. If it was to
	 * look by and by, we do (xvm_epset_see_to()). */
	xvm_epset_unwake(e);
	xvm_epset_settle(e);
	if (!e->broken)
		take_pads(e);
	bound = e->broken ? MORE_MS : xvm_epset_arm_all(e, NULL, &found);
	/* Then e is readable in the kernel, until somebody waits in it. */
	if (found)
		xvm_epset_wake(e);
	xvm_unlock(&e->lock);
	return bound;
}

/* The last one to go disarms: else pads would be kept for one who does not sleep (W6), and keep
 * from their stream those who do. */
static void disarm_idle(struct xvm_epoll *e)
{
	if (atomic_load(&e->sleepers) || xvm_lock(&e->lock) < 0)
		return;
	if (!atomic_load(&e->sleepers) && !e->broken)
		xvm_epset_disarm_all(e);
	xvm_unlock(&e->lock);
}

/* One more than fit. It is looked at now, and again after a sleep, which is bounded. */
static void look_once(struct xvm_inners *in, struct xvm_epoll *e)
{
	in->more = true;
	if (xvm_lock(&e->lock) < 0)
		return;
	xvm_epset_expose(e);
	for (struct xvm_reg *r = e->nested; r; r = r->next)
		if (atomic_load(&r->inner->file.nfds))
			look_once(in, r->inner);
	xvm_unlock(&e->lock);
	xvm_epset_prepare(e);
	disarm_idle(e);
}

void xvm_inners_add(struct xvm_inners *in, struct xvm_epoll *e)
{
	if (in->n == XVM_EP_INNER) {
		look_once(in, e);
		return;
	}
	atomic_fetch_add(&e->file.users, 1);
	in->looks[in->n] = false;
	in->e[in->n++] = e;
	/* Before it is looked at: a ring that somebody else takes from then on is passed on to us.
	 * Pairs with wake_sleepers(). */
	atomic_fetch_add(&e->sleepers, 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (xvm_lock(&e->lock) < 0) {
		in->more = true;
		return;
	}
	xvm_epset_expose(e);
	for (struct xvm_reg *r = e->nested; r; r = r->next)
		if (atomic_load(&r->inner->file.nfds))
			xvm_inners_add(in, r->inner);
	xvm_unlock(&e->lock);
}

static void looks(struct xvm_inners *in, unsigned i, bool on)
{
	if (in->looks[i] == on)
		return;
	in->looks[i] = on;
	if (on)
		atomic_fetch_add(&in->e[i]->lookers, 1);
	else
		xvm_epset_less(&in->e[i]->lookers);
}

int xvm_inners_prepare(struct xvm_inners *in)
{
	int bound = in->more ? MORE_MS : -1, b;

	for (unsigned i = 0; i < in->n; i++) {
		struct xvm_epoll *e = in->e[i];

		/* What our own looking changes shall not wake us. */
		do
			b = xvm_epset_prepare(e);
		while (b != MORE_MS && (atomic_load(&e->changes) || atomic_load(&e->rescan)));
		looks(in, i, b >= 0);
		if (b >= 0 && (bound < 0 || b < bound))
			bound = b;
	}
	return bound;
}

void xvm_inners_end(struct xvm_inners *in)
{
	while (in->n) {
		struct xvm_epoll *e = in->e[--in->n];

		looks(in, in->n, false);
		xvm_epset_less(&e->sleepers);
		disarm_idle(e);
		xvm_epset_see_to(e);
		xvm_epset_put(e);
	}
	in->more = false;
}

bool xvm_inners_readable(struct xvm_epoll *e, int fd, uint32_t events)
{
	struct pollfd p = {.fd = fd, .events = (short)events};
	struct xvm_inners in = {.n = 0, .more = false};
	bool yes;

	if (!atomic_load(&e->file.nfds))
		return true;
	xvm_inners_add(&in, e);
	xvm_inners_prepare(&in);
	yes = xvm_quiet_poll(&p, 1, 0) != 0;
	xvm_inners_end(&in);
	return yes;
}
