/* SPDX-License-Identifier: Apache-2.0 */
/*
 * syscall(2): what matters to us goes the way of the function of that name. And clone(2), a fork
 * that libc's handlers do not hear of, as one that is made by number.
 */
#include <linux/sched.h>
#include <stdarg.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"

#define SIGSET 8 /* bytes of the kernel's sigset_t */

/* Where libc's functions keep the caller's time as it was, the system calls leave what is left of
 * it. */
static long with_time(long r, struct timespec *user, const struct timespec *was, uint64_t start)
{
	int64_t ns = (int64_t)was->tv_sec * 1000000000 + was->tv_nsec;
	uint64_t gone = xvm_now_ns() - start;
	struct timespec left;
	int e = errno;

	if (ns == 0 || (r < 0 && e != EINTR) || was->tv_sec > INT64_MAX / 1000000000 - 1)
		return r;
	ns = gone < (uint64_t)ns ? ns - (int64_t)gone : 0;
	left = (struct timespec){ns / 1000000000, ns % 1000000000};
	xvm_user_copy(user, &left,
		      sizeof(left)); /* where it cannot be written the kernel does not mind */
	errno = e;
	return r;
}

static long by_ppoll(struct pollfd *fds, nfds_t n, struct timespec *user, const sigset_t *mask)
{
	uint64_t start = xvm_now_ns();
	struct timespec ts;

	if (!user)
		return ppoll(fds, n, NULL, mask);
	if (xvm_user_copy(&ts, user, sizeof(ts)) < 0)
		return xvm_result(-EFAULT);
	return with_time(ppoll(fds, n, &ts, mask), user, &ts, start);
}

static long by_pselect(int n, fd_set *in, fd_set *out, fd_set *ex, struct timespec *user,
		       const sigset_t *mask)
{
	uint64_t start = xvm_now_ns();
	struct timespec ts;

	if (!user)
		return pselect(n, in, out, ex, NULL, mask);
	if (xvm_user_copy(&ts, user, sizeof(ts)) < 0)
		return xvm_result(-EFAULT);
	return with_time(pselect(n, in, out, ex, &ts, mask), user, &ts, start);
}

/* The calls that wait. False: nothing was ever tracked, or the kernel shall say what is wrong. */
static bool waits(long nr, const long *a, long *r)
{
	struct {
		const sigset_t *mask;
		size_t size;
	} m = {NULL, SIGSET};

	if (!xvm_fdtab || (!xvm_arena && !atomic_load(&xvm_fault_installed)))
		return false;
	switch (nr) {
#ifdef SYS_poll
	case SYS_poll:
		*r = poll((void *)a[0], (nfds_t)a[1], (int)a[2]);
		return true;
#endif
	case SYS_ppoll:
		if (a[3] && a[4] != SIGSET)
			return false;
		*r = by_ppoll((void *)a[0], (nfds_t)a[1], (void *)a[2], (void *)a[3]);
		return true;
#ifdef SYS_select
	case SYS_select:
		*r = select((int)a[0], (void *)a[1], (void *)a[2], (void *)a[3], (void *)a[4]);
		return true;
#endif
	case SYS_pselect6:
		if (a[5] && (xvm_user_copy(&m, (void *)a[5], sizeof(m)) < 0 ||
			     (m.mask && m.size != SIGSET)))
			return false;
		*r = by_pselect((int)a[0], (void *)a[1], (void *)a[2], (void *)a[3], (void *)a[4],
				m.mask);
		return true;
#ifdef SYS_epoll_wait
	case SYS_epoll_wait:
		*r = epoll_wait((int)a[0], (void *)a[1], (int)a[2], (int)a[3]);
		return true;
#endif
	case SYS_epoll_pwait:
		if (a[4] && a[5] != SIGSET)
			return false;
		*r = epoll_pwait((int)a[0], (void *)a[1], (int)a[2], (int)a[3], (void *)a[4]);
		return true;
#ifdef SYS_epoll_pwait2
	case SYS_epoll_pwait2:
		if (a[4] && a[5] != SIGSET)
			return false;
		*r = epoll_pwait2((int)a[0], (void *)a[1], (int)a[2], (void *)a[3], (void *)a[4]);
		return true;
#endif
	}
	return false;
}

/* Does it make a process with a copy of our memory, which goes on where we are? Libc's handlers of
 * a fork do not run then. */
static bool forks(long nr, const long *a)
{
	struct clone_args c = {0};

	switch (nr) {
#ifdef SYS_fork
	case SYS_fork:
		return true;
#endif
	case SYS_clone:
		return !(a[0] & (CLONE_VM | CLONE_FILES)) && !a[1];
#ifdef SYS_clone3
	case SYS_clone3:
		return a[1] >= CLONE_ARGS_SIZE_VER0 &&
		       xvm_user_there((void *)a[0], CLONE_ARGS_SIZE_VER0) &&
		       !xvm_user_copy(&c, (void *)a[0], CLONE_ARGS_SIZE_VER0) &&
		       !(c.flags & (CLONE_VM | CLONE_FILES)) && !c.stack;
#endif
	}
	return false;
}

/* May it make a process that shares our memory? */
static bool shares(long nr)
{
#ifdef SYS_vfork
	if (nr == SYS_vfork)
		return true;
#endif
	return nr == SYS_clone || nr == SYS_clone3;
}

XVM_WRAP long syscall(long nr, ...)
{
	long a[6], r;
	va_list ap;

	va_start(ap, nr);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	switch (nr) {
	case SYS_close:
		return close((int)a[0]);
	case SYS_close_range:
		return close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
	case SYS_read:
		return read((int)a[0], (void *)a[1], (size_t)a[2]);
	case SYS_write:
		return write((int)a[0], (void *)a[1], (size_t)a[2]);
	case SYS_readv:
		return readv((int)a[0], (void *)a[1], (int)a[2]);
	case SYS_writev:
		return writev((int)a[0], (void *)a[1], (int)a[2]);
	/* The offset comes in two halves, the upper of which has no bits. */
	case SYS_preadv2:
		return preadv64v2((int)a[0], (void *)a[1], (int)a[2], a[3], (int)a[5]);
	case SYS_pwritev2:
		return pwritev64v2((int)a[0], (void *)a[1], (int)a[2], a[3], (int)a[5]);
	case SYS_recvmsg:
		return recvmsg((int)a[0], (void *)a[1], (int)a[2]);
	case SYS_sendmsg:
		return sendmsg((int)a[0], (void *)a[1], (int)a[2]);
	case SYS_sendto:
		return sendto((int)a[0], (void *)a[1], (size_t)a[2], (int)a[3], (void *)a[4],
			      (socklen_t)a[5]);
	case SYS_recvfrom:
		return recvfrom((int)a[0], (void *)a[1], (size_t)a[2], (int)a[3], (void *)a[4],
				(void *)a[5]);
	case SYS_sendmmsg:
		return sendmmsg((int)a[0], (void *)a[1], (unsigned)a[2], (int)a[3]);
	case SYS_recvmmsg:
		return recvmmsg((int)a[0], (void *)a[1], (unsigned)a[2], (int)a[3], (void *)a[4]);
	case SYS_sendfile:
		return sendfile((int)a[0], (int)a[1], (void *)a[2], (size_t)a[3]);
	case SYS_splice:
		return splice((int)a[0], (void *)a[1], (int)a[2], (void *)a[3], (size_t)a[4],
			      (unsigned)a[5]);
	case SYS_ioctl:
		return ioctl((int)a[0], (unsigned long)a[1], a[2]);
	case SYS_epoll_create1:
		return epoll_create1((int)a[0]);
#ifdef SYS_epoll_create
	case SYS_epoll_create:
		return epoll_create((int)a[0]);
#endif
	case SYS_epoll_ctl:
		return epoll_ctl((int)a[0], (int)a[1], (int)a[2], (void *)a[3]);
	case SYS_socket:
		return socket((int)a[0], (int)a[1], (int)a[2]);
	case SYS_connect:
		return connect((int)a[0], (void *)a[1], (socklen_t)a[2]);
	case SYS_accept:
		return accept((int)a[0], (void *)a[1], (void *)a[2]);
	case SYS_accept4:
		return accept4((int)a[0], (void *)a[1], (void *)a[2], (int)a[3]);
	case SYS_listen:
		return listen((int)a[0], (int)a[1]);
	case SYS_shutdown:
		return shutdown((int)a[0], (int)a[1]);
	case SYS_setsockopt:
		return setsockopt((int)a[0], (int)a[1], (int)a[2], (void *)a[3], (socklen_t)a[4]);
	case SYS_getsockopt:
		return getsockopt((int)a[0], (int)a[1], (int)a[2], (void *)a[3], (void *)a[4]);
	case SYS_fcntl:
		return fcntl((int)a[0], (int)a[1], a[2]);
#ifdef SYS_dup2
	case SYS_dup2:
		return dup2((int)a[0], (int)a[1]);
#endif
	case SYS_dup:
		return dup((int)a[0]);
	case SYS_dup3:
		return dup3((int)a[0], (int)a[1], (int)a[2]);
	case SYS_execve:
		return execve((void *)a[0], (void *)a[1], (void *)a[2]);
	case SYS_execveat:
		return execveat((int)a[0], (void *)a[1], (void *)a[2], (void *)a[3], (int)a[4]);
	case SYS_exit_group:
		_exit((int)a[0]);
	case SYS_prctl:
		return prctl((int)a[0], a[1], a[2], a[3], a[4]);
	case SYS_seccomp:
		xvm_sandbox();
		break;
	case SYS_io_uring_setup: /* it would use sockets past all wrappers */
		xvm_conf.io_uring = true;
		xvm_hand_over_all(XVM_R_UNSUPPORTED);
		break;
	default:
		if (waits(nr, a, &r))
			return r;
		if (xvm_fdtab && forks(nr, a) && !xvm_in_vfork()) {
			xvm_forking();
			r = REAL(syscall)(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
			return xvm_forked(r);
		}
		if (shares(nr))
			xvm_sharing_child();
	}
	return REAL(syscall)(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

struct task {
	int (*run)(void *arg);
	void *arg;
};

/* t is in the child's copy of what was the stack of the thread that called clone(). */
static int in_clone(void *arg)
{
	struct task t = *(struct task *)arg;

	xvm_forked(0);
	return t.run(t.arg);
}

/* A fork of which libc's handlers do not hear, unless the child shares our memory. */
XVM_WRAP int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	struct task t = {fn, arg};
	pid_t *parent_tid, *child_tid;
	void *tls;
	va_list ap;
	int pid;

	va_start(ap, arg);
	parent_tid = va_arg(ap, pid_t *);
	tls = va_arg(ap, void *);
	child_tid = va_arg(ap, pid_t *);
	va_end(ap);
	/* One that shares our descriptors leaves them to us, as if it shared the memory. */
	if ((flags & (CLONE_VM | CLONE_FILES)) && !(flags & CLONE_THREAD))
		xvm_sharing_child();
	if (!xvm_fdtab || (flags & (CLONE_VM | CLONE_FILES)) || !fn || xvm_in_vfork())
		return REAL(clone)(fn, stack, flags, arg, parent_tid, tls, child_tid);
	xvm_forking();
	pid = REAL(clone)(in_clone, stack, flags, &t, parent_tid, tls, child_tid);
	return pid < 0 ? (int)xvm_forked(pid) : pid;
}

XVM_WRAP int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
	__attribute__((alias("clone"), nothrow, leaf));
