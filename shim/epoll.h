/* SPDX-License-Identifier: Apache-2.0 */
/* What sockets tell waits (epchange.c, wait.c), and what waits tell the rest. */
#ifndef XVM_SHIM_EPOLL_H
#define XVM_SHIM_EPOLL_H

#include "shim/sock.h"

/* s was paired, or its sending direction has entered or left, or an event came to be by a call of
 * ours that the kernel will not report. Registrations look again; sleepers in an epoll that
 * holds s are woken. Called with the direction's lock held: takes no lock within which a
 * direction's is taken, and does no more than mark and ring. */
void xvm_epoll_changed(struct xvm_sock *s);

/* fd leaves this process's table (close, dup2 over it, ...); s is what it was. Called before the
 * kernel's close. */
void xvm_epoll_closing(struct xvm_sock *s, int fd);

/* One of our own descriptors has another number now. */
void xvm_epoll_moved(int fd, int to);

/* fd, just tracked, may have been registered before it was connected. */
void xvm_epoll_tracked(struct xvm_sock *s, int fd);

/* Somebody else is about to sleep for s: an epoll with nobody in it gives up the sleep word, which
 * a cold socket keeps, and has it armed anew when it is waited in. True if it had it. */
bool xvm_epoll_release(struct xvm_sock *s);

/* A child or another program image is about to have our epolls too, or a filter of system calls is
 * about to be set. */
void xvm_epoll_sharing(void);

/* In the child of a fork: locks that other threads held are free, wakers are not shared. */
void xvm_epoll_forked(void);

#endif
