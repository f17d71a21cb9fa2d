/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoints of one process and of the forks that share them. */
#ifndef XVM_TRANSPORT_ARENA_H
#define XVM_TRANSPORT_ARENA_H

#include "transport/abi.h"

/* Make an arena in a sparse memfd, mapped shared. *fd is close-on-exec, the caller's. NULL with
 * errno on failure. Async-signal-safe. */
struct xvm_shm_arena *xvm_arena_create(int *fd);

/* Map someone else's arena read-only and check its header (magic, version, sizes, the file's
 * size and its seal against shrinking). NULL with errno. For xvmd. */
const struct xvm_shm_arena *xvm_arena_open(int fd);
void xvm_arena_close(const struct xvm_shm_arena *a);

size_t xvm_arena_len(void);

/* A zeroed endpoint whose gen has moved on, state XVM_EP_CANDIDATE; NULL where all are taken.
 * Lock-free and async-signal-safe, as is free. */
struct xvm_shm_ep *xvm_arena_alloc(struct xvm_shm_arena *a);
void xvm_arena_free(struct xvm_shm_arena *a, struct xvm_shm_ep *ep);

/* Where the endpoints are: a constant, as the word in another's arena may change after the check.
 */
#define XVM_ARENA_EP_OFF ((uint32_t)((sizeof(struct xvm_shm_arena) + 4095) & ~4095ul))

static inline struct xvm_shm_ep *xvm_arena_ep(const struct xvm_shm_arena *a, uint32_t slot)
{
	return (struct xvm_shm_ep *)((char *)a + XVM_ARENA_EP_OFF) + slot;
}

static inline uint32_t xvm_arena_slot(const struct xvm_shm_arena *a, const struct xvm_shm_ep *ep)
{
	return (uint32_t)(ep - xvm_arena_ep(a, 0));
}

#endif
