/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calls that a library may be in the way of, each by the names that it has: "recv@raw" in a
 * script is recv by syscall(), "recv@alias" glibc's other name, "recv@chk" what it becomes with
 * _FORTIFY_SOURCE.
 */
#ifndef TEST_DIFF_VIA_H
#define TEST_DIFF_VIA_H

#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

enum via { VIA_LIBC, VIA_ALIAS, VIA_CHK, VIA_RAW };
/* Of this thread's calls. */
extern __thread enum via via;
/* What stands behind the '@'. */
enum via via_of(const char *name);

ssize_t via_read(int fd, void *p, size_t n);
ssize_t via_write(int fd, const void *p, size_t n);
ssize_t via_recv(int fd, void *p, size_t n, int flags);
ssize_t via_send(int fd, const void *p, size_t n, int flags);
ssize_t via_recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *sa, socklen_t *len);
ssize_t via_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *sa,
		   socklen_t len);
ssize_t via_readv(int fd, const struct iovec *v, int n);
ssize_t via_writev(int fd, const struct iovec *v, int n);
ssize_t via_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t via_sendmsg(int fd, const struct msghdr *m, int flags);
int via_recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *ts);
int via_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags);
ssize_t via_sendfile(int out, int in, off_t *off, size_t n);
ssize_t via_splice(int in, loff_t *ioff, int out, loff_t *ooff, size_t n, unsigned flags);
ssize_t via_preadv2(int fd, const struct iovec *v, int n, off_t off, int flags);
ssize_t via_pwritev2(int fd, const struct iovec *v, int n, off_t off, int flags);
int via_ioctl(int fd, unsigned long what, void *arg);

int via_poll(struct pollfd *p, nfds_t n, int ms);
int via_ppoll(struct pollfd *p, nfds_t n, const struct timespec *ts, const sigset_t *mask);
int via_select(int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *tv);
int via_pselect(int n, fd_set *r, fd_set *w, fd_set *x, const struct timespec *ts,
		const sigset_t *mask);
int via_epoll_create1(int flags);
int via_epoll_ctl(int ep, int op, int fd, struct epoll_event *ev);
int via_epoll_wait(int ep, struct epoll_event *ev, int max, int ms);
int via_epoll_pwait(int ep, struct epoll_event *ev, int max, int ms, const sigset_t *mask);
int via_epoll_pwait2(int ep, struct epoll_event *ev, int max, const struct timespec *ts,
		     const sigset_t *mask);

int via_socket(int domain, int type, int protocol);
int via_connect(int fd, const struct sockaddr *sa, socklen_t len);
int via_accept(int fd, struct sockaddr *sa, socklen_t *len);
int via_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags);
int via_listen(int fd, int backlog);
int via_shutdown(int fd, int how);
int via_setsockopt(int fd, int level, int name, const void *v, socklen_t len);
int via_getsockopt(int fd, int level, int name, void *v, socklen_t *len);
int via_fcntl(int fd, int cmd, long arg);
int via_close(int fd);
int via_close_range(unsigned first, unsigned last, int flags);
int via_dup(int fd);
int via_dup2(int from, int to);
int via_dup3(int from, int to, int flags);
pid_t via_fork(void);

#endif
