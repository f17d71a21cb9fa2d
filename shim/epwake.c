/* SPDX-License-Identifier: Apache-2.0 */
/* Waking those who sleep in an epoll. */
#include "shim/epset.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "shim/link.h"
#include "shim/process.h"
#include "transport/sys.h"

static _Atomic int kick_fd; /* 1 + an eventfd that is always readable */

void xvm_epoll_moved(int fd, int to)
{
	atomic_compare_exchange_strong(&kick_fd, &(int){fd + 1}, to + 1);
}

/*
 * Wakes those who sleep in an epoll that has no waker: to ask for a readable descriptor anew makes
 * an event. An extra eventfd for each epoll would do as well, but most never need one.
 */
static void kick(struct xvm_epoll *e)
{
	int fd = atomic_load(&kick_fd) - 1, none = 0;

	if (fd < 0 && xvm_conf.sandboxed)
		return; /* death, perhaps */
	if (fd < 0) {
		fd = (int)xvm_sys(SYS_eventfd2, 1, EFD_NONBLOCK | EFD_CLOEXEC);
		if (fd < 0)
			return;
		fd = xvm_fd_hide(fd);
		if (!atomic_compare_exchange_strong(&kick_fd, &none, fd + 1)) {
			xvm_fd_unhide_close(fd);
			fd = none - 1;
		}
	}
	if (xvm_epset_control(e, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, xvm_epset_own(e)) == -ENOENT)
		xvm_epset_control(e, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
	atomic_store(&e->kicked, true);
}

void xvm_epset_wake(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load(&e->waker);

	if (w)
		xvm_waker_ring(w);
	else
		kick(e);
}

void xvm_epset_unwake(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load(&e->waker);
	int fd = atomic_load(&kick_fd) - 1;

	if (e->inherited)
		return; /* the parent's wake-ups come that way too */
	if (w)
		xvm_waker_drain(w);
	/* Also from before it had a waker. */
	if (fd >= 0 && atomic_exchange(&e->kicked, false))
		xvm_epset_control(e, EPOLL_CTL_MOD, fd, 0, xvm_epset_own(e));
}

/*
 * While our parent may wait in the same kernel epoll, a ring for us could wake the parent in our
 * stead. A daemon's parent is soon gone.
 */
static bool orphaned(struct xvm_epoll *e)
{
	if (e->asked++ % 256 || xvm_sys(SYS_kill, e->maker, 0) != -ESRCH)
		return false;
	e->inherited = false;
	return true;
}

struct xvm_waker *xvm_epset_waker(struct xvm_epoll *e)
{
	struct xvm_waker *w = atomic_load_explicit(&e->waker, memory_order_relaxed);
	long r;

	if (w || (e->inherited && !orphaned(e)))
		return w;
	w = xvm_waker_get();
	if (!w)
		return NULL;
	/* A ring that came late for whoever had it last would be an event. */
	xvm_waker_drain(w);
	/* Edge-triggered: each ring is an event, and nobody need empty the eventfd. */
	r = xvm_epset_control(e, EPOLL_CTL_ADD, w->fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
	if (r == -EEXIST)
		r = xvm_epset_control(e, EPOLL_CTL_MOD, w->fd, EPOLLIN | EPOLLET, xvm_epset_own(e));
	if (r < 0) {
		xvm_waker_put(w);
		return NULL;
	}
	atomic_store(&e->waker, w);
	return w;
}
