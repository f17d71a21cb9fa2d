/* SPDX-License-Identifier: Apache-2.0 */
/* The life of this process: start, forks, exec, sandboxes. process.c. */
#ifndef XVM_SHIM_PROCESS_H
#define XVM_SHIM_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

struct xvm_conf {
	bool disabled;	      /* XVM_DISABLE, or what we need is not to be had */
	bool io_uring;	      /* the process uses io_uring: nothing is offered */
	bool sandboxed;	      /* a system call filter is in force */
	uint32_t ring_size;   /* XVM_RING_SIZE, bytes */
	uint32_t spin_us;     /* XVM_SPIN_US */
	uint32_t offer_after; /* XVM_OFFER_AFTER: data calls before a socket is offered */
	char socket[108];     /* XVM_SOCKET: the daemon's */
	int log;	      /* XVM_LOG: 0 silent, 1 errors, 2 what becomes of each connection */
};
extern struct xvm_conf xvm_conf;

/* How many forks lie between the first process and this one. What a call has counted is its
 * process's: who finds another number when he comes back has nothing to give back. */
extern uint32_t xvm_forks __attribute__((visibility("hidden")));

/* Set up once, from the constructor or the first wrapper that needs it. False: stay out of it. */
bool xvm_init(void);

/* Are we the child of a vfork, in our parent's memory? May cost a system call. */
bool xvm_in_vfork(void);
/* A child that shares our memory is about to be made. */
void xvm_sharing_child(void);
int xvm_pid(void); /* of the process whose memory this is */

/* Around a fork that libc's handlers do not hear of; pid: what it returned. */
void xvm_forking(void);
long xvm_forked(long pid);

/* Is fd a TCP socket? Track one that came to us connected: by exec, or in a message. */
bool xvm_is_tcp(int fd);
uint64_t xvm_cookie(int fd); /* SO_COOKIE, or 0 */
/* Does another process hold this socket too? As far as /proc tells. */
bool xvm_held_elsewhere(int fd);
void xvm_adopt(int fd);
/* Has the process an io_uring? Its maker may be a library that passes libc by, so the descriptors
 * are looked through: at the first time that it is asked, the second, the fourth and so on. */
bool xvm_has_uring(void);
/* From now on only system calls that the application makes too: read, write, poll. */
void xvm_sandbox(void);

void xvm_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
