/* SPDX-License-Identifier: Apache-2.0 */
/* libc's declarations of everything in calls.def; those that no header declares are here. */
#ifndef XVM_SHIM_LIBC_H
#define XVM_SHIM_LIBC_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* The names that fortified and old programs import. */
ssize_t __read_chk(int fd, void *buf, size_t n, size_t size);
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t n, size_t size, int flags, struct sockaddr *sa,
		       socklen_t *len);
int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size);
int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask,
		size_t size);
extern __typeof__(read) __read;
extern __typeof__(write) __write;
extern __typeof__(send) __send;
extern __typeof__(recv) __recv;
extern __typeof__(connect) __connect;
extern __typeof__(close) __close;
extern __typeof__(poll) __poll;
extern __typeof__(select) __select;
extern __typeof__(dup2) __dup2;
extern __typeof__(sendmmsg) __sendmmsg;
extern __typeof__(fcntl) __fcntl;
extern __typeof__(vfork) __vfork;
extern __typeof__(clone) __clone;
int fcntl64(int fd, int cmd, ...);
ssize_t sendfile64(int out, int in, off64_t *off, size_t n);
int __dprintf_chk(int fd, int flag, const char *fmt, ...);
int __vdprintf_chk(int fd, int flag, const char *fmt, va_list ap);
void __chk_fail(void) __attribute__((noreturn, weak)); /* only glibc has it */
extern __typeof__(sigaction) __sigaction;
extern __typeof__(signal) bsd_signal;

#endif
