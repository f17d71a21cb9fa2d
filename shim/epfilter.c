/* SPDX-License-Identifier: Apache-2.0 */
/* What of the kernel's events is the application's. */
#include "shim/epset.h"

#include "shim/fault.h"
#include "shim/quiet.h"

/* ---- with the epoll's lock ----------------------------------------------- */

/* What the kernel has for r itself. */
static uint32_t asked(const struct xvm_reg *r, uint32_t events)
{
	int fd = r->gone ? xvm_sock_fd(r->sock, r->fd) : r->fd; /* any of the open file's will do */
	struct pollfd p = {.fd = fd, .events = (short)events};

	return xvm_quiet_poll(&p, 1, 0) > 0 ? (uint16_t)p.revents & ~(uint32_t)POLLNVAL : 0;
}

/* An event of what is the kernel's; mixed: or of another with the same data. */
static uint32_t of_kernel(struct xvm_epoll *e, struct xvm_reg *r, uint32_t events, bool mixed)
{
	bool once = r->events & EPOLLONESHOT;

	if (r->inner) {
		if (xvm_inners_readable(r->inner, r->fd, r->events))
			return events;
		if (once)
			xvm_epset_control(e, EPOLL_CTL_MOD, r->fd, r->events, r->data);
		return 0;
	}
	/* What is left of its socket's time on the ring are pads. */
	if (r->gone && !once && xvm_sock_on(r->sock)) {
		uint32_t kernel = mixed ? asked(r, r->events) : events;

		return kernel ? xvm_sock_poll(r->sock, xvm_sock_fd(r->sock, r->fd),
					      r->events & ~XVM_EP_FLAGS, kernel)
			      : 0;
	}
	/* To ask is no use for one that the kernel has disarmed, if the event is its. */
	return mixed && !once ? asked(r, r->events) : events;
}

/*
 * Several descriptors may be registered with the same data, or be about to go: then each is asked,
 * as an end that is not its own would do harm.
 */
static uint32_t translate(struct xvm_epoll *e, const struct epoll_event *ev, bool *rung)
{
	bool ours = false, mixed = e->ghosts, odd = false;
	struct xvm_reg *r, *next;
	uint32_t bits = e->opaque ? ev->events : 0, kernel;
	struct xvm_file *f;
	unsigned n = 0;

	for (r = xvm_epset_first(e, ev->data.u64); r; r = next) {
		next = r->data_next;
		if (r->data != ev->data.u64)
			continue;
		if (r->where == XVM_REG_KERNEL) {
			f = r->sock || r->inner || r->gone ? NULL : xvm_fdtab_peek(r->fd);
			if (f && atomic_load(&f->kind) == XVM_FILE_SOCK) {
				/* Of a descriptor that was closed and used again. */
				xvm_epset_drop(e, r);
				continue;
			}
			odd |= r->inner || r->gone;
		} else {
			ours = true;
		}
		n++;
	}
	mixed |= n > 1;
	if (!n || (!ours && !odd && !mixed))
		return ev->events;
	*rung |= ours; /* a pad, perhaps: it was for all who sleep here */
	for (r = xvm_epset_first(e, ev->data.u64); r; r = next) {
		next = r->data_next;
		if (r->data != ev->data.u64)
			continue;
		if (r->where == XVM_REG_KERNEL) {
			bits |= of_kernel(e, r, ev->events, mixed);
			continue;
		}
		/* Two with the same data, both reported: for the first event each was asked. */
		if (n > 1 && r->call == e->call && !(r->events & (EPOLLET | EPOLLONESHOT)))
			continue;
		/* Also if it has nothing for it now: it may have been its pad, taken since. */
		kernel = mixed && !r->parked ? asked(r, r->kmask) : ev->events;
		bits |= xvm_epset_feed(e, r, kernel);
	}
	return bits;
}

/* An event of what was parked: the application has long deleted it, and we have meanwhile. */
static bool ghost(struct xvm_epoll *e, uint64_t data)
{
	struct xvm_reg *r;

	if (!e->ghosts || e->opaque || e->broken)
		return false;
	r = xvm_epset_first(e, data);
	while (r && r->data != data)
		r = r->data_next;
	return !r;
}

int xvm_epset_filter(struct xvm_epoll *e, struct epoll_event *evs, int n, bool *rung)
{
	int out = 0;

	for (int i = 0; i < n; i++) {
		struct epoll_event ev = evs[i];

		if (ev.data.u64 == xvm_epset_own(e)) {
			*rung = true;
			continue;
		}
		if (ghost(e, ev.data.u64))
			continue;
		if ((e->managed || e->nested || e->ghosts) && !e->broken)
			ev.events = translate(e, &ev, rung);
		if (ev.events)
			evs[out++] = ev;
	}
	return out;
}

/* ---- without it ----------------------------------------------------------- */

struct glance {
	const struct epoll_event *ev;
	struct epoll_event *evs;
	int out, max;
	bool ours;
	uint32_t bits;
};

static bool on_ring(const struct xvm_reg *r)
{
	return __atomic_load_n(&r->sock->ep->rx_epoch, __ATOMIC_RELAXED) & 1;
}

static uint32_t ready(const struct xvm_reg *r)
{
	return xvm_sock_on(r->sock) ? xvm_sock_peek(r->sock, r->events & ~XVM_EP_FLAGS) : 0;
}

static bool judge(struct xvm_reg *r, void *arg)
{
	struct glance *g = arg;
	uint32_t end = EPOLLERR | EPOLLHUP | EPOLLRDHUP, kernel = g->ev->events;

	if (r->data != g->ev->data.u64 || r->where == XVM_REG_KERNEL)
		return false;
	g->ours = true;
	if (r->parked || r->spent)
		return false;
	/* On the ring the kernel's input is pads, unless it is the end. */
	if (on_ring(r) && !(kernel & end))
		kernel &= ~XVM_EP_IN;
	g->bits |= (kernel & (r->events | EPOLLERR | EPOLLHUP)) | ready(r);
	return false;
}

static bool look(struct xvm_reg *r, void *arg)
{
	struct glance *g = arg;
	struct epoll_event ev = {.data.u64 = r->data};

	if (r->where != XVM_REG_KERNEL && !r->parked && !r->spent)
		ev.events = ready(r);
	for (int i = 0; i < g->out && ev.events; i++)
		if (g->evs[i].data.u64 == r->data)
			return false; /* judge() has said so */
	if (!ev.events)
		return false;
	if (xvm_user_copy(&g->evs[g->out], &ev, sizeof(ev)) < 0)
		return true; /* the kernel will say so */
	return ++g->out == g->max;
}

static bool rides(struct xvm_reg *r, void *arg)
{
	return xvm_sock_on(r->sock) && on_ring(r);
}

bool xvm_epset_on_ring(struct xvm_epoll *e)
{
	return xvm_epset_any(e, rides, NULL);
}

int xvm_epset_glance(struct xvm_epoll *e, struct epoll_event *evs, int n, int max, bool *rung)
{
	struct glance g = {.evs = evs, .max = max};

	for (int i = 0; i < n; i++) {
		struct epoll_event ev = evs[i];

		if (ev.data.u64 == xvm_epset_own(e)) {
			*rung = true;
			continue;
		}
		g.ev = &ev;
		g.ours = false;
		g.bits = 0;
		xvm_epset_any(e, judge, &g);
		if (g.ours)
			ev.events = g.bits;
		if (ev.events)
			evs[g.out++] = ev;
	}
	if (g.out < max)
		xvm_epset_any(e, look, &g);
	return g.out;
}
