/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slots are handed out from a lock-free list, as forks share it and any of them may be killed at
 * any instruction: at worst one slot is lost. gen is odd while the slot is in use and moves with
 * each alloc and free, so who kept a pointer and the gen that went with it can tell.
 */
#include "transport/arena.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "transport/memfd.h"

#define ARENA_LEN (XVM_ARENA_EP_OFF + (size_t)XVM_ARENA_EPS * sizeof(struct xvm_shm_ep))

struct xvm_shm_arena *xvm_arena_create(int *fd)
{
	struct xvm_shm_arena *a;
	void *map;
	int mfd;

	mfd = xvm_memfd_make("xvm-arena", ARENA_LEN, &map);
	if (mfd < 0) {
		errno = -mfd;
		return NULL;
	}
	a = map;
	a->magic = XVM_ARENA_MAGIC;
	a->version = XVM_ABI_VERSION;
	a->ep_size = sizeof(struct xvm_shm_ep);
	a->ep_max = XVM_ARENA_EPS;
	a->ep_off = XVM_ARENA_EP_OFF;
	*fd = mfd;
	return a;
}

size_t xvm_arena_len(void)
{
	return ARENA_LEN;
}

static uint32_t read_once(const uint32_t *word)
{
	return *(const volatile uint32_t *)word;
}

const struct xvm_shm_arena *xvm_arena_open(int fd)
{
	const struct xvm_shm_arena *a;
	int64_t size;
	void *map;
	int err;

	size = xvm_memfd_judge(fd);
	err = size < 0 ? (int)size : size < (int64_t)ARENA_LEN ? -EPROTO : 0;
	if (!err)
		err = xvm_memfd_map(fd, ARENA_LEN, &map);
	if (err) {
		errno = -err;
		return NULL;
	}

	/*
	 * This version's layout or nothing. The owner can still change the words after this look:
	 * whoever reads on takes offsets and counts from the constants.
	 */
	a = map;
	if (read_once(&a->magic) != XVM_ARENA_MAGIC || read_once(&a->version) != XVM_ABI_VERSION ||
	    read_once(&a->ep_size) != sizeof(struct xvm_shm_ep) ||
	    read_once(&a->ep_max) != XVM_ARENA_EPS || read_once(&a->ep_off) != XVM_ARENA_EP_OFF) {
		xvm_memfd_unmap(map, ARENA_LEN);
		errno = EPROTO;
		return NULL;
	}
	return a;
}

void xvm_arena_close(const struct xvm_shm_arena *a)
{
	if (a)
		xvm_memfd_unmap((void *)a, ARENA_LEN);
}

static uint64_t next_head(uint64_t head, uint32_t link)
{
	/* The count in the upper half moves with each change: a slot that was taken and given back
	 * meanwhile (ABA) does not pass for the one that next[] was read of. */
	return ((head >> 32) + 1) << 32 | link;
}

static struct xvm_shm_ep *pop(struct xvm_shm_arena *a)
{
	uint64_t head = atomic_load_explicit(&a->ep_free, memory_order_acquire);
	uint32_t link, after;

	do {
		link = (uint32_t)head;
		if (!link)
			return NULL;
		/* May be stale: then the exchange fails. */
		after = atomic_load_explicit(&a->next[link - 1], memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&a->ep_free, &head, next_head(head, after),
							memory_order_acq_rel,
							memory_order_acquire));
	return xvm_arena_ep(a, link - 1);
}

static struct xvm_shm_ep *fresh(struct xvm_shm_arena *a)
{
	uint32_t hi = atomic_load_explicit(&a->ep_hi, memory_order_relaxed);

	do {
		if (hi >= XVM_ARENA_EPS)
			return NULL;
	} while (!atomic_compare_exchange_weak_explicit(
		&a->ep_hi, &hi, hi + 1, memory_order_relaxed, memory_order_relaxed));
	return xvm_arena_ep(a, hi);
}

struct xvm_shm_ep *xvm_arena_alloc(struct xvm_shm_arena *a)
{
	struct xvm_shm_ep *ep = pop(a);
	uint32_t gen;

	if (!ep)
		ep = fresh(a);
	if (!ep)
		return NULL;

	/* state is FREE and gen even while the rest is wiped, so whoever still looks at the slot
	 * sees that it is not his, before, during and after. */
	gen = atomic_load_explicit(&ep->gen, memory_order_relaxed);
	atomic_store_explicit(&ep->reason, 0, memory_order_relaxed);
	memset((char *)ep + offsetof(struct xvm_shm_ep, role), 0,
	       sizeof(*ep) - offsetof(struct xvm_shm_ep, role));
	atomic_store_explicit(&ep->gen, gen + 1, memory_order_release);
	atomic_store_explicit(&ep->state, XVM_EP_CANDIDATE, memory_order_release);
	return ep;
}

void xvm_arena_free(struct xvm_shm_arena *a, struct xvm_shm_ep *ep)
{
	uint32_t slot = xvm_arena_slot(a, ep);
	uint64_t head;

	/* Two forks that both believe to be the last must not put the slot in the list twice. */
	if (atomic_exchange_explicit(&ep->state, XVM_EP_FREE, memory_order_acq_rel) == XVM_EP_FREE)
		return;
	atomic_fetch_add_explicit(&ep->gen, 1, memory_order_acq_rel);

	head = atomic_load_explicit(&a->ep_free, memory_order_relaxed);
	do {
		atomic_store_explicit(&a->next[slot], (uint32_t)head, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(
		&a->ep_free, &head, next_head(head, slot + 1), memory_order_release,
		memory_order_relaxed));
}
