/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bare system calls, for what runs under a lock or between two counts. libc's functions of these
 * names are cancellation points, also where they do not wait; a thread that is cancelled in one
 * would leave the lock held. Where all calls of a file are of that kind, XVM_REAL_IS_QUIET, defined
 * before this is included, makes REAL(name) mean them.
 */
#ifndef XVM_SHIM_QUIET_H
#define XVM_SHIM_QUIET_H

#include "shim/real.h"
#include "transport/sys.h"

static inline ssize_t xvm_quiet_read(int fd, void *buf, size_t n)
{
	return xvm_result(xvm_sys(SYS_read, fd, buf, n));
}

static inline ssize_t xvm_quiet_write(int fd, const void *buf, size_t n)
{
	return xvm_result(xvm_sys(SYS_write, fd, buf, n));
}

static inline ssize_t xvm_quiet_recv(int fd, void *buf, size_t n, int flags)
{
	return xvm_result(xvm_sys(SYS_recvfrom, fd, buf, n, flags, NULL, NULL));
}

static inline ssize_t xvm_quiet_send(int fd, const void *buf, size_t n, int flags)
{
	return xvm_result(xvm_sys(SYS_sendto, fd, buf, n, flags, NULL, 0));
}

static inline ssize_t xvm_quiet_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return xvm_result(xvm_sys(SYS_recvmsg, fd, msg, flags));
}

static inline ssize_t xvm_quiet_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	return xvm_result(xvm_sys(SYS_sendmsg, fd, msg, flags));
}

/* As libc does it: a sandbox may know no other. */
static inline int xvm_quiet_poll(struct pollfd *fds, nfds_t n, int ms)
{
#ifdef SYS_poll
	return (int)xvm_result(xvm_sys(SYS_poll, fds, n, ms));
#else
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

	return (int)xvm_result(xvm_sys(SYS_ppoll, fds, n, ms < 0 ? NULL : &ts, NULL, 0));
#endif
}

static inline int xvm_quiet_getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
	return (int)xvm_result(xvm_sys(SYS_getsockopt, fd, level, name, val, len));
}

static inline int xvm_quiet_setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
	return (int)xvm_result(xvm_sys(SYS_setsockopt, fd, level, name, val, len));
}

static inline int xvm_quiet_shutdown(int fd, int how)
{
	return (int)xvm_result(xvm_sys(SYS_shutdown, fd, how));
}

static inline int xvm_quiet_ioctl(int fd, unsigned long req, void *arg)
{
	return (int)xvm_result(xvm_sys(SYS_ioctl, fd, req, arg));
}

#ifdef XVM_REAL_IS_QUIET
#undef REAL
#define REAL(name) xvm_quiet_##name
#endif

#endif
