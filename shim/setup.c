/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets coming to be, and their options and flags. */
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>

#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"
#include "transport/lock.h"

#ifndef SO_RCVTIMEO_NEW
#define SO_RCVTIMEO_NEW 66
#define SO_SNDTIMEO_NEW 67
#endif

static struct xvm_file listener = {.kind = XVM_FILE_LISTENER, .users = 1};

XVM_WRAP int socket(int domain, int type, int protocol)
{
	int fd = REAL(socket)(domain, type, protocol);

	/* Whatever had this number was closed behind our back. */
	if (fd >= 0 && __builtin_expect(xvm_fdtab_peek(fd) != NULL, 0) && !xvm_in_vfork())
		xvm_fdtab_clear(fd);
	return fd;
}

XVM_WRAP int connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	int r = REAL(connect)(fd, sa, len), e = errno;
	struct xvm_sock *s;

	if (r == 0 && sa && sa->sa_family == AF_UNSPEC && xvm_fdtab_peek(fd)) {
		xvm_ending_close(fd); /* dissolved: as good as closed */
		xvm_fdtab_clear(fd);
		return r;
	}

	if ((r < 0 && e != EINPROGRESS && e != EINTR) || !sa || len < sizeof(sa->sa_family) ||
	    (sa->sa_family != AF_INET && sa->sa_family != AF_INET6) || !xvm_init())
		return r;
	s = xvm_sock_get(fd);
	if (s) {
		bool old = atomic_load(&s->ep->calls) || xvm_sock_on(s);

		xvm_sock_put(s);
		if (!old)
			goto out; /* the second call of a non-blocking connect */
	}
	if (xvm_is_tcp(fd))
		xvm_sock_track(fd, XVM_ROLE_ACTIVE);
out:
	errno = e;
	return r;
}

XVM_WRAP int __connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	return connect(fd, sa, len);
}

static int accepted(int lfd, int fd)
{
	struct xvm_file *f;
	int e = errno;

	if (fd < 0)
		return fd;
	xvm_fdtab_clear(fd);
	if (!xvm_init())
		return fd;
	f = xvm_fdtab_peek(lfd);
	if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_LISTENER) {
		if (!xvm_is_tcp(fd))
			goto out;
		xvm_fdtab_set(lfd, &listener); /* inherited, or from systemd */
		xvm_link_up();
	}
	xvm_sock_track(fd, XVM_ROLE_PASSIVE);
out:
	errno = e;
	return fd;
}

XVM_WRAP int accept(int fd, struct sockaddr *sa, socklen_t *len)
{
	return accepted(fd, REAL(accept)(fd, sa, len));
}

XVM_WRAP int accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
	return accepted(fd, REAL(accept4)(fd, sa, len, flags));
}

XVM_WRAP int listen(int fd, int backlog)
{
	int r = REAL(listen)(fd, backlog), e = errno;

	if (r == 0 && xvm_init() && xvm_is_tcp(fd)) {
		xvm_fdtab_set(fd, &listener);
		/* Hello now, so that others learn that our addresses are on this host. */
		xvm_link_up();
	}
	errno = e;
	return r;
}

/* Of a connection that is over, by a reset or by both ends, the kernel shuts nothing down. */
static bool over(int fd)
{
	struct tcp_info ti;
	socklen_t len = sizeof(ti.tcpi_state);

	return REAL(getsockopt)(fd, IPPROTO_TCP, TCP_INFO, &ti, &len) == 0 &&
	       ti.tcpi_state == TCP_CLOSE;
}

XVM_WRAP int shutdown(int fd, int how)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	bool later = false;
	int r;

	if (!s)
		return REAL(shutdown)(fd, how);
	if (xvm_sock_on(s) && !xvm_conf.sandboxed && over(fd)) {
		xvm_sock_put(s);
		return REAL(shutdown)(fd, how);
	}
	if (how == SHUT_WR || how == SHUT_RDWR) {
		if (xvm_sock_on(s))
			later = !xvm_tx_shutdown(s, fd);
		else
			atomic_fetch_or(&s->ep->flags, XVM_EPF_TX_SHUT);
	}
	if (how == SHUT_RD || how == SHUT_RDWR)
		atomic_fetch_or(&s->ep->flags, XVM_EPF_RX_SHUT);
	/* What comes after both is answered by a reset. */
	if (xvm_sock_on(s) && (atomic_load(&s->ep->flags) & XVM_EPF_RX_SHUT) &&
	    (atomic_load(&s->ep->flags) & XVM_EPF_TX_SHUT))
		atomic_store(&s->mine.shm->rx_closed, 1);
	r = later && how == SHUT_WR ? 0 : REAL(shutdown)(fd, later ? SHUT_RD : how);
	/* The kernel wakes whoever waits for room, too; it was not asked for that. */
	if (xvm_sock_on(s))
		xvm_epoll_changed(s);
	xvm_sock_put(s);
	return r;
}

static int64_t microseconds(const void *val, socklen_t len)
{
	const struct timeval *tv = val;

	/* Longer than any clock lasts is no end. */
	if (len < sizeof(*tv) || tv->tv_sec > INT64_MAX / 4000000000)
		return 0;
	return tv->tv_sec < 0 ? -1 : (int64_t)tv->tv_sec * 1000000 + tv->tv_usec;
}

/* The kernel's copy of these is ours while the socket is paired: a pad must not wait. */
static _Atomic uint32_t *shadow(struct xvm_sock *s, int level, int name)
{
	if (level != IPPROTO_TCP || !xvm_sock_on(s))
		return NULL;
	return name == TCP_NODELAY ? &s->ep->opt_nodelay
	       : name == TCP_CORK  ? &s->ep->opt_cork
				   : NULL;
}

/* R7: it is set. The kernel makes of it what it likes. */
static int low_water(struct xvm_sock *s, int fd, const void *val, socklen_t size)
{
	struct xvm_shm_ep *ep = s->ep;
	socklen_t len = sizeof(int);
	/* Who is not paired may be one whose tid means nothing to the others, and no value is used.
	 */
	bool locked = xvm_sock_on(s) && xvm_lock(&ep->rx_lock) == 0;
	int v = 1, r = REAL(setsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, val, size), e = errno;

	if (r < 0)
		goto out;
	REAL(getsockopt)(fd, SOL_SOCKET, SO_RCVLOWAT, &v, &len);
	atomic_store(&ep->lowat, (uint32_t)v);
	/* In a signal handler that has interrupted the holder, who may be about to set another:
	 * unknown, so it is set again before a sleep. */
	atomic_store(&ep->rx_lowat, locked ? (uint32_t)v : 0);
	if (v <= 1) {
		atomic_fetch_and(&ep->flags, ~XVM_EPF_LOWAT);
	} else {
		atomic_fetch_or(&ep->flags, XVM_EPF_LOWAT);
		xvm_sock_never(s, XVM_R_UNSUPPORTED);
	}
	/* Who sleeps may have enough now, or no longer. */
	if (xvm_sock_on(s))
		xvm_epoll_changed(s);
out:
	if (locked)
		xvm_unlock(&ep->rx_lock);
	errno = e;
	return r;
}

XVM_WRAP int setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	_Atomic uint32_t *own;
	int r, v;

	if (!s)
		return REAL(setsockopt)(fd, level, name, val, len);
	own = shadow(s, level, name);
	if (own && len >= sizeof(int) && len <= INT_MAX && xvm_user_copy(&v, val, sizeof(v)) == 0) {
		atomic_store(own, v != 0);
		xvm_sock_put(s);
		return 0;
	}
	/* The kernel will see to the bytes itself. */
	if (level == IPPROTO_TCP && (name == TCP_ULP || name == TCP_REPAIR))
		xvm_hand_over(s, fd, XVM_R_UNSUPPORTED);
	r = level == SOL_SOCKET && name == SO_RCVLOWAT
		    ? low_water(s, fd, val, len)
		    : REAL(setsockopt)(fd, level, name, val, len);
	if (r == 0 && level == SOL_SOCKET) {
		switch (name) {
		case SO_RCVTIMEO:
		case SO_RCVTIMEO_NEW:
			atomic_store(&s->ep->rcvtimeo_us, microseconds(val, len));
			break;
		case SO_SNDTIMEO:
		case SO_SNDTIMEO_NEW:
			atomic_store(&s->ep->sndtimeo_us, microseconds(val, len));
			break;
		case SO_ZEROCOPY:
		case SO_OOBINLINE:
			if (len >= sizeof(int) && *(const int *)val > 0)
				xvm_sock_never(s, XVM_R_UNSUPPORTED);
			break;
		}
	}
	xvm_sock_put(s);
	return r;
}

XVM_WRAP int getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	_Atomic uint32_t *own;
	bool replace;
	int r, ours = 0;

	if (!s)
		return REAL(getsockopt)(fd, level, name, val, len);
	r = REAL(getsockopt)(fd, level, name, val, len);
	own = shadow(s, level, name);
	/* The kernel gives as many bytes of its int as there is room for. */
	if (level == SOL_SOCKET && name == SO_RCVLOWAT &&
	    (atomic_load(&s->ep->flags) & XVM_EPF_LOWAT))
		own = &s->ep->lowat;
	replace = r == 0 && own;
	if (replace) {
		ours = (int)atomic_load(own);
	} else if (r == 0 && level == SOL_SOCKET && name == SO_ERROR && xvm_sock_on(s)) {
		memcpy(&ours, val, *len < sizeof(ours) ? *len : sizeof(ours));
		ours = xvm_error_so(s, ours);
		replace = true;
	}
	if (replace)
		memcpy(val, &ours, *len < sizeof(ours) ? *len : sizeof(ours));
	xvm_sock_put(s);
	return r;
}

XVM_WRAP int fcntl(int fd, int cmd, ...)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);
	struct xvm_sock *s;
	va_list ap;
	void *arg;
	int r;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	r = REAL(fcntl)(fd, cmd, arg);
	if (r < 0)
		return r;
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) {
		if ((f || xvm_fdtab_peek(r)) && !xvm_in_vfork())
			xvm_fdtab_dup(fd, r);
	} else if (f && cmd == F_SETFL && (s = xvm_sock_get(fd))) {
		if ((long)arg & O_NONBLOCK)
			atomic_fetch_or(&s->ep->flags, XVM_EPF_NONBLOCK);
		else
			atomic_fetch_and(&s->ep->flags, ~XVM_EPF_NONBLOCK);
		if ((long)arg & O_ASYNC) /* the kernel makes no signal of what comes by the ring */
			xvm_sock_never(s, XVM_R_UNSUPPORTED);
		xvm_sock_put(s);
	}
	return r;
}

XVM_WRAP int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));
XVM_WRAP int __fcntl(int fd, int cmd, ...) __attribute__((alias("fcntl")));
