/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll instances and what is registered in them. The kernel is asked first and decides: what it
 * refuses leaves no trace here, and its errno is the application's. A paired socket stays
 * registered with the application's own data, but with the mask that its phase needs.
 */
#include "shim/epoll.h"

#include "shim/epset.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "transport/sys.h"

/* What the kernel allows beside EPOLLEXCLUSIVE. */
#define EXCLUSIVE_OK                                                                               \
	((uint32_t)(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET |             \
		    EPOLLEXCLUSIVE))

static long control(int epfd, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	return xvm_sys(SYS_epoll_ctl, epfd, op, fd, &ev);
}

/*
 * Others may sleep in e, and r, new or changed, was not armed when they went to sleep. Arm it for
 * them; if it is ready by now, or there is nothing to arm it with, wake them.
 */
static void arm_for_sleepers(struct xvm_epoll *e, struct xvm_reg *r)
{
	uint32_t want = r->events & ~XVM_EP_FLAGS, what = 0;
	struct xvm_waker *w;

	if (r->where == XVM_REG_KERNEL)
		return;
	if (e->managed == 1) /* the first: pairs with pass_through() */
		atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load(&e->sleepers))
		return;
	w = xvm_epset_waker(e);
	what = (want & XVM_EP_IN ? EPOLLIN : 0) | (want & XVM_EP_OUT ? EPOLLOUT : 0);
	if (xvm_epset_arm(r, what, w, w ? xvm_waker_next(w) : 0) >= 0) {
		atomic_store(&e->bounded, true);
		xvm_epset_wake(e);
	} else if (!w || xvm_sock_poll(r->sock, r->fd, want, 0)) {
		xvm_epset_wake(e);
	}
}

/* Others may sleep in e, and not in inner. */
static void tell_sleepers(struct xvm_epoll *e)
{
	/* It is among e's before they are counted; pairs with pass_through(). */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&e->sleepers)) {
		e->unarmed = true;
		xvm_epset_wake(e);
	}
}

static long ctl_add(struct xvm_epoll *e, int epfd, int fd, const struct epoll_event *ev)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	struct xvm_epoll *inner = s ? NULL : xvm_epset_get(fd);
	struct xvm_reg *r = s ? xvm_epset_find(e, fd) : NULL;
	uint32_t mask = ev->events;
	long err = 0;

	xvm_epset_claim(e, ev->data.u64, r);
	if (r && r->parked) {
		if (r->sock == s && xvm_epset_unpark(e, r, ev)) {
			arm_for_sleepers(e, r);
			goto out_put;
		}
		xvm_epset_evict(e, r);
	}
	if (s && (mask & EPOLLEXCLUSIVE) && !(mask & ~EXCLUSIVE_OK)) {
		/* The kernel would let no such mask be changed. The flag saves wake-ups where many
		 * epolls watch one listener; a connection can do without. */
		mask &= ~(uint32_t)EPOLLEXCLUSIVE;
	}
	if (s && xvm_sock_on(s) && !(mask & EPOLLEXCLUSIVE))
		mask = xvm_epset_kmask(s, mask);
	/* Whoever is told of it now waits for us to judge that: pairs with pass_through(). */
	atomic_store(&e->adding, s != NULL);
	err = control(epfd, EPOLL_CTL_ADD, fd, mask, ev->data.u64);
	if (err < 0) {
		atomic_store(&e->adding, false);
		goto out_put;
	}
	r = xvm_epset_add(e, fd, ev, s, inner);
	if (!r) {
		atomic_store(&e->adding, false);
		if (s)
			xvm_sock_never(s, XVM_R_LIMIT);
		goto out_put;
	}
	r->kmask = mask;
	if (s) {
		xvm_epset_convert(e, r);
		r->fresh = true;
		arm_for_sleepers(e, r);
	}
	atomic_store(&e->adding, false);
	if (inner)
		tell_sleepers(e);
	return 0;
out_put:
	if (s)
		xvm_sock_put(s);
	if (inner)
		xvm_epset_put(inner);
	return err;
}

/* A paired socket's mask does not depend on whether room is waited for. */
static bool kernel_knows(const struct xvm_reg *r, const struct epoll_event *ev, uint32_t mask)
{
	return r->where != XVM_REG_KERNEL && !((ev->events | r->events) & XVM_EP_FLAGS) &&
	       !r->calm && ev->data.u64 == r->data && xvm_epset_covers(r, mask);
}

static long ctl_mod(struct xvm_epoll *e, int epfd, int fd, const struct epoll_event *ev)
{
	struct xvm_reg *r = xvm_epset_find(e, fd);
	uint32_t mask = ev->events;
	long err;

	/* It was registered with the kernel behind our back, or there was no memory for a record.
	 */
	if (!r)
		return control(epfd, EPOLL_CTL_MOD, fd, mask, ev->data.u64);
	if (r->parked) /* the kernel looks at the flag first */
		return mask & EPOLLEXCLUSIVE ? -EINVAL : -ENOENT;
	xvm_epset_claim(e, ev->data.u64, r);
	if (r->sock && ((r->events | mask) & EPOLLEXCLUSIVE))
		return -EINVAL; /* as the kernel says if it knows the flag is set */
	if (r->where != XVM_REG_KERNEL)
		mask = xvm_epset_kmask(r->sock, mask);
	if (!kernel_knows(r, ev, mask)) {
		err = control(epfd, EPOLL_CTL_MOD, fd, mask, ev->data.u64);
		if (err < 0) {
			/* Our record of it was that of a descriptor closed meanwhile. */
			if (err == -ENOENT)
				xvm_epset_drop(e, r);
			return err;
		}
		r->kmask = mask;
	}
	xvm_epset_modify(e, r, ev->events, ev->data.u64);
	if (r->sock) {
		xvm_epset_convert(e, r);
		r->fresh = true;
		arm_for_sleepers(e, r);
	}
	return 0;
}

static long ctl_del(struct xvm_epoll *e, int epfd, int fd)
{
	struct xvm_reg *r = xvm_epset_find(e, fd);
	long err;

	if (r && r->parked)
		return -ENOENT;
	if (r && r->sock && xvm_epset_park(e, r))
		return 0;
	err = control(epfd, EPOLL_CTL_DEL, fd, 0, 0);
	if (err < 0 && err != -ENOENT)
		return err;
	if (r)
		xvm_epset_drop(e, r);
	return err;
}

/*
 * A signal handler that interrupted the holder of e's lock, this very thread. The kernel does its
 * part, with the application's mask; our record follows when the lock is free.
 */
static long ctl_deferred(struct xvm_epoll *e, int epfd, int op, int fd,
			 const struct epoll_event *ev)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	long err = -ENOENT;

	if (s && xvm_epset_parked(e, s, fd)) {
		if (op != EPOLL_CTL_ADD)
			goto out_put;
		control(epfd, EPOLL_CTL_DEL, fd, 0, 0);
		xvm_epset_defer(e, s, fd, XVM_TODO_DEL, NULL);
	}
	err = control(epfd, op, fd, ev ? ev->events : 0, ev ? ev->data.u64 : 0);
	if (err == 0 && op == EPOLL_CTL_ADD && s) {
		if (xvm_epset_add_late(e, fd, ev, s))
			return 0;
		xvm_sock_never(s, XVM_R_LIMIT);
	} else if (err == 0 && op == EPOLL_CTL_ADD) {
		e->opaque = true;
	} else if (err == 0 && s) {
		if (!xvm_epset_defer(e, s, fd, op == EPOLL_CTL_MOD ? XVM_TODO_MOD : XVM_TODO_DEL,
				     ev))
			xvm_sock_never(s, XVM_R_LIMIT);
	} else if (err == 0) {
		e->opaque = true;
	}
out_put:
	if (s)
		xvm_sock_put(s);
	return err;
}

/*
 * A descriptor that was closed, with another of its open file left, and is one of that file again,
 * by the same number: to the kernel it is what was registered.
 */
static void revive(struct xvm_epoll *e, int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	struct xvm_reg *r;

	if (!s)
		return;
	r = atomic_load(&s->regs) && !xvm_epset_find(e, fd) ? xvm_epset_gone_of(e, s, fd) : NULL;
	if (r)
		xvm_epset_revive(e, r);
	xvm_sock_put(s);
}

static long ctl(struct xvm_epoll *e, int epfd, int op, int fd, const struct epoll_event *ev)
{
	long err;

	if (xvm_lock(&e->lock) < 0)
		return ctl_deferred(e, epfd, op, fd, ev);
	xvm_epset_settle(e);
	if (!e->broken)
		revive(e, fd);
	if (e->broken)
		err = control(epfd, op, fd, ev ? ev->events : 0, ev ? ev->data.u64 : 0);
	else if (op == EPOLL_CTL_ADD)
		err = ctl_add(e, epfd, fd, ev);
	else if (op == EPOLL_CTL_MOD)
		err = ctl_mod(e, epfd, fd, ev);
	else
		err = ctl_del(e, epfd, fd);
	xvm_unlock(&e->lock);
	return err;
}

/* An epoll that came by another way than epoll_create: by exec, a message or a system call. */
static struct xvm_epoll *stranger(int epfd, int op, int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);
	struct xvm_epoll *e;

	if (op != EPOLL_CTL_ADD || !f || xvm_fdtab_peek(epfd) ||
	    atomic_load(&f->kind) != XVM_FILE_SOCK)
		return NULL;
	/* Only an epoll answers so; anything else says EINVAL. */
	if (control(epfd, EPOLL_CTL_DEL, epfd, 0, 0) != -EINVAL ||
	    control(epfd, EPOLL_CTL_MOD, fd, 0, 0) != -ENOENT)
		return NULL;
	e = xvm_epset_new(epfd);
	if (!e)
		return NULL;
	e->opaque = true;
	return xvm_epset_get(epfd);
}

XVM_WRAP int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct epoll_event copy;
	struct xvm_epoll *e;
	struct xvm_sock *s;
	long err;

	if (!xvm_fdtab || op < EPOLL_CTL_ADD || op > EPOLL_CTL_MOD ||
	    (op != EPOLL_CTL_DEL && !xvm_user_there(ev, sizeof(*ev))))
		return REAL(epoll_ctl)(epfd, op, fd, ev);
	e = xvm_epset_get(epfd);
	if (!e)
		e = stranger(epfd, op, fd);
	if (!e) {
		err = REAL(epoll_ctl)(epfd, op, fd, ev);
		s = err == 0 && op == EPOLL_CTL_ADD ? xvm_sock_get(fd) : NULL;
		if (s) {
			/* Nobody would arm it before a sleep. */
			xvm_sock_never(s, XVM_R_UNSUPPORTED);
			xvm_sock_put(s);
		}
		return (int)err;
	}
	if (op != EPOLL_CTL_DEL)
		copy = *ev;
	err = ctl(e, epfd, op, fd, op == EPOLL_CTL_DEL ? NULL : &copy);
	xvm_epset_put(e);
	return (int)xvm_result(err);
}

XVM_WRAP int epoll_create1(int flags)
{
	int fd = REAL(epoll_create1)(flags);

	if (fd >= 0 && xvm_init()) {
		xvm_fdtab_clear(fd);
		xvm_epset_new(fd);
	}
	return fd;
}

XVM_WRAP int epoll_create(int size)
{
	int fd = REAL(epoll_create)(size);

	if (fd >= 0 && xvm_init()) {
		xvm_fdtab_clear(fd);
		xvm_epset_new(fd);
	}
	return fd;
}

/* ---- what the rest of the shim tells ------------------------------------ */

void xvm_epoll_closing(struct xvm_sock *s, int fd)
{
	/* The kernel drops a registration with the open file, not with the descriptor. */
	bool last = atomic_load(&s->file.nfds) <= 1;
	/* And xvmd may hold the open file a moment longer than we do, or our own threads may. */
	bool outlives = last && ((atomic_load(&s->ep->state) == XVM_EP_OFFERED &&
				  !(atomic_load(&s->ep->flags) & XVM_EPF_SEEN)) ||
				 atomic_load(&s->kept) >= 0);
	struct xvm_epoll *e;
	struct xvm_reg *r;

	while ((e = xvm_epset_of(s, last ? -1 : fd)) != NULL) {
		if (xvm_lock(&e->lock) < 0) {
			/* A signal handler in the middle of a wait: when that goes on. */
			if (xvm_epset_parked(e, s, fd))
				xvm_epset_control(e, EPOLL_CTL_DEL, fd, 0, 0);
			xvm_epset_defer(e, s, fd, XVM_TODO_DEL, NULL);
			xvm_epset_put(e);
			return;
		}
		xvm_epset_settle(e);
		while ((r = xvm_epset_reg_of(e, s, last ? -1 : fd)) != NULL) {
			if (e->broken) { /* no reference was counted for it, nor is there more to
					    mend */
				if (!xvm_epset_unlink_sock(r))
					break;
				continue;
			}
			if (r->parked) {
				if (!xvm_epset_evict(e, r))
					break;
				continue;
			}
			if (outlives && !r->gone)
				xvm_epset_control(e, EPOLL_CTL_DEL, r->fd, 0, 0);
			if (!last)
				xvm_epset_abandon(e, r);
			else if (!xvm_epset_drop(e, r))
				break;
		}
		xvm_unlock(&e->lock);
		xvm_epset_put(e);
	}
}

bool xvm_epoll_release(struct xvm_sock *s)
{
	struct xvm_epoll *e = xvm_epset_idle_of(s);
	bool released = false;
	struct xvm_reg *r;

	if (!e)
		return false;
	if (xvm_lock(&e->lock) == 0) {
		xvm_epset_settle(e);
		while (!e->broken && !atomic_load(&e->sleepers) &&
		       (r = xvm_epset_armed_of(e, s)) != NULL) {
			xvm_epset_disarm(r);
			xvm_epset_heat(e, r);
			released = true;
		}
		xvm_unlock(&e->lock);
	}
	xvm_epset_put(e);
	return released;
}

struct tracked {
	struct xvm_sock *s;
	int fd;
};

static void tracked_in(struct xvm_epoll *e, void *arg)
{
	struct tracked *t = arg;
	struct xvm_reg *r;

	if (!xvm_epset_hold(e))
		return;
	if (xvm_lock(&e->lock) < 0)
		goto out_put;
	r = e->broken ? NULL : xvm_epset_find(e, t->fd);
	if (!r || r->sock)
		goto out;
	/* The record may be of a descriptor that was closed. To be asked for the same events again
	 * does no harm where it is not one-shot. */
	if (r->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) {
		xvm_sock_never(t->s, XVM_R_UNSUPPORTED);
	} else if (xvm_epset_control(e, EPOLL_CTL_MOD, r->fd, r->events, r->data) < 0) {
		xvm_epset_drop(e, r);
	} else {
		r->sock = xvm_sock_get(t->fd);
		if (!r->sock)
			goto out;
		xvm_epset_link_sock(r);
		xvm_epset_convert(e, r);
	}
out:
	xvm_unlock(&e->lock);
out_put:
	xvm_epset_put(e);
}

void xvm_epoll_tracked(struct xvm_sock *s, int fd)
{
	struct tracked t = {s, fd};

	xvm_epset_each(tracked_in, &t);
}
