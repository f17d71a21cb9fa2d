/* SPDX-License-Identifier: Apache-2.0 */
#include "test/diff/via.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test/diff/actor.h"

#define SIGSET 8 /* bytes of the kernel's sigset_t */

__thread enum via via;

enum via via_of(const char *name)
{
	return !strcmp(name, "alias") ? VIA_ALIAS
	       : !strcmp(name, "chk") ? VIA_CHK
	       : !strcmp(name, "raw") ? VIA_RAW
				      : VIA_LIBC;
}

/* No header names all of them. */
static void *by_name(const char *name)
{
	void *f = dlsym(RTLD_DEFAULT, name);

	if (!f)
		die(name);
	return f;
}

/* A call whose arguments are those of the system call. */
#define VIA(ret, name, alias, nr, params, ...)                                                     \
	ret via_##name params                                                                      \
	{                                                                                          \
		__typeof__(&name) f = name;                                                        \
                                                                                                   \
		if (via == VIA_RAW)                                                                \
			return (ret)syscall(nr, __VA_ARGS__);                                      \
		if (via == VIA_ALIAS)                                                              \
			*(void **)&f = by_name(alias);                                             \
		return f(__VA_ARGS__);                                                             \
	}

VIA(ssize_t, write, "__write", SYS_write, (int fd, const void *p, size_t n), fd, p, n)
VIA(ssize_t, sendto, "sendto", SYS_sendto,
    (int fd, const void *p, size_t n, int flags, const struct sockaddr *sa, socklen_t len), fd, p,
    n, flags, sa, len)
VIA(ssize_t, readv, "readv", SYS_readv, (int fd, const struct iovec *v, int n), fd, v, n)
VIA(ssize_t, writev, "writev", SYS_writev, (int fd, const struct iovec *v, int n), fd, v, n)
VIA(ssize_t, recvmsg, "recvmsg", SYS_recvmsg, (int fd, struct msghdr *m, int flags), fd, m, flags)
VIA(ssize_t, sendmsg, "sendmsg", SYS_sendmsg, (int fd, const struct msghdr *m, int flags), fd, m,
    flags)
VIA(int, recvmmsg, "recvmmsg", SYS_recvmmsg,
    (int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *ts), fd, m, n, flags, ts)
VIA(int, sendmmsg, "__sendmmsg", SYS_sendmmsg, (int fd, struct mmsghdr *m, unsigned n, int flags),
    fd, m, n, flags)
VIA(ssize_t, sendfile, "sendfile64", SYS_sendfile, (int out, int in, off_t *off, size_t n), out, in,
    off, n)
VIA(ssize_t, splice, "splice", SYS_splice,
    (int in, loff_t *ioff, int out, loff_t *ooff, size_t n, unsigned flags), in, ioff, out, ooff, n,
    flags)
VIA(int, ioctl, "ioctl", SYS_ioctl, (int fd, unsigned long what, void *arg), fd, what, arg)

VIA(int, epoll_create1, "epoll_create1", SYS_epoll_create1, (int flags), flags)
VIA(int, epoll_ctl, "epoll_ctl", SYS_epoll_ctl, (int ep, int op, int fd, struct epoll_event *ev),
    ep, op, fd, ev)

VIA(int, socket, "socket", SYS_socket, (int domain, int type, int protocol), domain, type, protocol)
VIA(int, connect, "__connect", SYS_connect, (int fd, const struct sockaddr *sa, socklen_t len), fd,
    sa, len)
VIA(int, accept, "accept", SYS_accept, (int fd, struct sockaddr *sa, socklen_t *len), fd, sa, len)
VIA(int, accept4, "accept4", SYS_accept4, (int fd, struct sockaddr *sa, socklen_t *len, int flags),
    fd, sa, len, flags)
VIA(int, listen, "listen", SYS_listen, (int fd, int backlog), fd, backlog)
VIA(int, shutdown, "shutdown", SYS_shutdown, (int fd, int how), fd, how)
VIA(int, setsockopt, "setsockopt", SYS_setsockopt,
    (int fd, int level, int name, const void *v, socklen_t len), fd, level, name, v, len)
VIA(int, getsockopt, "getsockopt", SYS_getsockopt,
    (int fd, int level, int name, void *v, socklen_t *len), fd, level, name, v, len)
VIA(int, fcntl, "__fcntl", SYS_fcntl, (int fd, int cmd, long arg), fd, cmd, arg)
VIA(int, close, "__close", SYS_close, (int fd), fd)
VIA(int, close_range, "close_range", SYS_close_range, (unsigned first, unsigned last, int flags),
    first, last, flags)
VIA(int, dup, "dup", SYS_dup, (int fd), fd)
VIA(int, dup3, "dup3", SYS_dup3, (int from, int to, int flags), from, to, flags)

/* ---- those whose arguments are others, and the fortified ones ---- */

ssize_t via_read(int fd, void *p, size_t n)
{
	ssize_t (*alias)(int, void *, size_t);
	ssize_t (*chk)(int, void *, size_t, size_t);

	switch (via) {
	case VIA_RAW:
		return syscall(SYS_read, fd, p, n);
	case VIA_ALIAS:
		*(void **)&alias = by_name("__read");
		return alias(fd, p, n);
	case VIA_CHK:
		*(void **)&chk = by_name("__read_chk");
		return chk(fd, p, n, n);
	default:
		return read(fd, p, n);
	}
}

ssize_t via_recv(int fd, void *p, size_t n, int flags)
{
	ssize_t (*alias)(int, void *, size_t, int);
	ssize_t (*chk)(int, void *, size_t, size_t, int);

	switch (via) {
	case VIA_RAW:
		return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
	case VIA_ALIAS:
		*(void **)&alias = by_name("__recv");
		return alias(fd, p, n, flags);
	case VIA_CHK:
		*(void **)&chk = by_name("__recv_chk");
		return chk(fd, p, n, n, flags);
	default:
		return recv(fd, p, n, flags);
	}
}

ssize_t via_recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *sa, socklen_t *len)
{
	ssize_t (*chk)(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);

	switch (via) {
	case VIA_RAW:
		return syscall(SYS_recvfrom, fd, p, n, flags, sa, len);
	case VIA_CHK:
		*(void **)&chk = by_name("__recvfrom_chk");
		return chk(fd, p, n, n, flags, sa, len);
	default:
		return recvfrom(fd, p, n, flags, sa, len);
	}
}

ssize_t via_send(int fd, const void *p, size_t n, int flags)
{
	ssize_t (*alias)(int, const void *, size_t, int);

	if (via == VIA_RAW)
		return syscall(SYS_sendto, fd, p, n, flags, NULL, 0);
	if (via != VIA_ALIAS)
		return send(fd, p, n, flags);
	*(void **)&alias = by_name("__send");
	return alias(fd, p, n, flags);
}

/* The system call takes the offset in two halves, the second of which is of no use here. */
ssize_t via_preadv2(int fd, const struct iovec *v, int n, off_t off, int flags)
{
	return via == VIA_RAW	  ? syscall(SYS_preadv2, fd, v, n, off, 0, flags)
	       : via == VIA_ALIAS ? preadv64v2(fd, v, n, off, flags)
				  : preadv2(fd, v, n, off, flags);
}

ssize_t via_pwritev2(int fd, const struct iovec *v, int n, off_t off, int flags)
{
	return via == VIA_RAW	  ? syscall(SYS_pwritev2, fd, v, n, off, 0, flags)
	       : via == VIA_ALIAS ? pwritev64v2(fd, v, n, off, flags)
				  : pwritev2(fd, v, n, off, flags);
}

int via_poll(struct pollfd *p, nfds_t n, int ms)
{
	int (*alias)(struct pollfd *, nfds_t, int);
	int (*chk)(struct pollfd *, nfds_t, int, size_t);

	switch (via) {
#ifdef SYS_poll
	case VIA_RAW:
		return (int)syscall(SYS_poll, p, n, ms);
#endif
	case VIA_ALIAS:
		*(void **)&alias = by_name("__poll");
		return alias(p, n, ms);
	case VIA_CHK:
		*(void **)&chk = by_name("__poll_chk");
		return chk(p, n, ms, n * sizeof(*p));
	default:
		return poll(p, n, ms);
	}
}

/* The system calls tell how much of the time is left, and write that where it was. */
int via_ppoll(struct pollfd *p, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	int (*chk)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);
	struct timespec left = ts ? *ts : (struct timespec){0, 0};

	switch (via) {
	case VIA_RAW:
		return (int)syscall(SYS_ppoll, p, n, ts ? &left : NULL, mask, SIGSET);
	case VIA_CHK:
		*(void **)&chk = by_name("__ppoll_chk");
		return chk(p, n, ts, mask, n * sizeof(*p));
	default:
		return ppoll(p, n, ts, mask);
	}
}

int via_select(int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *tv)
{
	int (*alias)(int, fd_set *, fd_set *, fd_set *, struct timeval *);

	switch (via) {
#ifdef SYS_select
	case VIA_RAW:
		return (int)syscall(SYS_select, n, r, w, x, tv);
#endif
	case VIA_ALIAS:
		*(void **)&alias = by_name("__select");
		return alias(n, r, w, x, tv);
	default:
		return select(n, r, w, x, tv);
	}
}

int via_pselect(int n, fd_set *r, fd_set *w, fd_set *x, const struct timespec *ts,
		const sigset_t *mask)
{
	struct timespec left = ts ? *ts : (struct timespec){0, 0};
	struct {
		const sigset_t *mask;
		size_t size;
	} arg = {mask, SIGSET};

	if (via == VIA_RAW)
		return (int)syscall(SYS_pselect6, n, r, w, x, ts ? &left : NULL, &arg);
	return pselect(n, r, w, x, ts, mask);
}

int via_epoll_wait(int ep, struct epoll_event *ev, int max, int ms)
{
#ifdef SYS_epoll_wait
	if (via == VIA_RAW)
		return (int)syscall(SYS_epoll_wait, ep, ev, max, ms);
#endif
	return epoll_wait(ep, ev, max, ms);
}

int via_epoll_pwait(int ep, struct epoll_event *ev, int max, int ms, const sigset_t *mask)
{
	if (via == VIA_RAW)
		return (int)syscall(SYS_epoll_pwait, ep, ev, max, ms, mask, SIGSET);
	return epoll_pwait(ep, ev, max, ms, mask);
}

int via_epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *ts,
		     const sigset_t *mask)
{
	if (via == VIA_RAW)
		return (int)syscall(SYS_epoll_pwait2, ep, ev, max, ts, mask, SIGSET);
	return epoll_pwait2(ep, ev, max, ts, mask);
}

int via_dup2(int from, int to)
{
	int (*alias)(int, int);

	switch (via) {
#ifdef SYS_dup2
	case VIA_RAW:
		return (int)syscall(SYS_dup2, from, to);
#endif
	case VIA_ALIAS:
		*(void **)&alias = by_name("__dup2");
		return alias(from, to);
	default:
		return dup2(from, to);
	}
}

pid_t via_fork(void)
{
	pid_t (*alias)(void);

	if (via == VIA_RAW)
		return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (via != VIA_ALIAS)
		return fork();
	*(void **)&alias = by_name("__fork");
	return alias();
}
