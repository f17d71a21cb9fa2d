/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Locks in the arena: shared by the threads and forks that hold one socket, never by the
 * peer. A holder that dies does not keep them (PROTOCOL.md, "Deaths"). Async-signal-safe.
 */
#ifndef XVM_TRANSPORT_LOCK_H
#define XVM_TRANSPORT_LOCK_H

#include <stdbool.h>

#include "transport/abi.h"

/* initial-exec: the dynamic model may allocate on first use, which a signal handler must not. */
extern _Thread_local uint32_t xvm_my_tid
	__attribute__((tls_model("initial-exec"), visibility("hidden")));
uint32_t xvm_lock_ask_tid(void);
/* The caller's tid, cached; xvm_lock_forked() forgets it, in the child of a fork. */
static inline uint32_t xvm_lock_tid(void)
{
	return __builtin_expect(xvm_my_tid, 1) ? xvm_my_tid : xvm_lock_ask_tid();
}

void xvm_lock_forked(void);
/* A lock of the process's own, in the child after that. Held by the thread that forked, from a
 * signal handler, it is the child's, who goes on where it was interrupted: true. Else free. */
bool xvm_lock_kept(struct xvm_shm_lock *l);
/* Before it: does this very thread hold it? */
bool xvm_lock_mine(const struct xvm_shm_lock *l);

/* Does no thread or process of that number live? A zombie does not. */
bool xvm_lock_dead(uint32_t tid);

/* 0; or -EDEADLK where this very thread holds it (a signal handler interrupted it). */
int xvm_lock_slow(struct xvm_shm_lock *l, uint32_t tid);
bool xvm_unlock_slow(struct xvm_shm_lock *l);

/* Taken by that name, and it is the caller's no more: a fork came in between, in a signal handler.
 * 0, or -EDEADLK: it was not this process that took it. */
int xvm_lock_renamed(struct xvm_shm_lock *l, uint32_t tid);

static inline int xvm_lock_named(struct xvm_shm_lock *l, uint32_t tid)
{
	return __builtin_expect(*(volatile uint32_t *)&xvm_my_tid == tid, 1)
		       ? 0
		       : xvm_lock_renamed(l, tid);
}

static inline int xvm_lock(struct xvm_shm_lock *l)
{
	uint32_t free = 0, tid = xvm_lock_tid();
	int r;

	if (atomic_compare_exchange_strong_explicit(&l->word, &free, tid, memory_order_acquire,
						    memory_order_relaxed))
		return xvm_lock_named(l, tid);
	r = xvm_lock_slow(l, tid);
	return r ? r : xvm_lock_named(l, tid);
}

/* 0, -EBUSY or -EDEADLK. */
static inline int xvm_trylock(struct xvm_shm_lock *l)
{
	uint32_t free = 0, tid = xvm_lock_tid();

	if (atomic_compare_exchange_strong_explicit(&l->word, &free, tid, memory_order_acquire,
						    memory_order_relaxed))
		return xvm_lock_named(l, tid);
	return (free & ~XVM_LOCK_WAITERS) == tid ? -35 /* EDEADLK */ : -16 /* EBUSY */;
}

/* False: it was not the caller's (any more), and nothing is done. */
static inline bool xvm_unlock(struct xvm_shm_lock *l)
{
	uint32_t tid = xvm_lock_tid();

	return atomic_compare_exchange_strong_explicit(&l->word, &tid, 0, memory_order_release,
						       memory_order_relaxed) ||
	       xvm_unlock_slow(l);
}

#endif
