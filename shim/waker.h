/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's own eventfds that peers ring (rule W3). A sleeping thread has one to itself for the
 * length of its sleep; an epoll instance keeps one for life, as it is registered there.
 */
#ifndef XVM_SHIM_WAKER_H
#define XVM_SHIM_WAKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct xvm_sock;

struct xvm_waker {
	_Atomic(const struct xvm_sock *) sock; /* the one that a single call sleeps for; or NULL */
	int fd;			 /* eventfd, non-blocking, close-on-exec, a high number */
	unsigned index;		 /* XVM_WAKER_FD + index is its name in a sleep word */
	unsigned region, vector; /* where it is interrupt vector != 0 of this machine */
	_Atomic uint64_t seq;	 /* sleeps so far; xvm_waker_next() makes the next number */
};

/* A free waker, known to xvmd (peers learn of it by and by); NULL where none is to be had. */
struct xvm_waker *xvm_waker_get(void);
void xvm_waker_put(struct xvm_waker *w);

/* This eventfd is rung by a vector of our machine as well: a waker more. False: no room for it. */
bool xvm_waker_adopt(int fd, unsigned region, unsigned vector);
/* Those vectors, of a region or (-1) of all, are ours no more: the eventfds stay, and nobody is
 * told of a vector. */
void xvm_waker_no_vectors(int region);
bool xvm_waker_has_vector(unsigned region);

static inline uint64_t xvm_waker_next(struct xvm_waker *w)
{
	return atomic_fetch_add(&w->seq, 1) + 1;
}

/* Empty the eventfd. */
void xvm_waker_drain(struct xvm_waker *w);
/* Ring our own eventfd: wakes whoever sleeps by it. */
void xvm_waker_ring(struct xvm_waker *w);
/* Those of calls that sleep for s alone. */
void xvm_waker_ring_for(const struct xvm_sock *s);

/* In the child of a fork: the eventfds are the parent's. */
void xvm_waker_forked(void);

/* Spin policy (design section 4): how many ns to spin before this sleep, and what came of it. Per
 * thread; bounded by XVM_SPIN_US; nil where spinning has not paid off lately. */
uint64_t xvm_spin_budget(void);
void xvm_spin_elsewhere(void);	  /* a peer has CPUs that are not among ours */
void xvm_spin_won(uint64_t ns);	  /* something came while spinning */
void xvm_spin_slept(uint64_t ns); /* spun in vain or not at all, then slept so long */
uint64_t xvm_now_ns(void);

#endif
