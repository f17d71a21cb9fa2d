/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A half as one process sees it, and copies between the application's memory and a
 * ring. No cursors here: who holds the direction's lock passes positions.
 */
#ifndef XVM_TRANSPORT_HALF_H
#define XVM_TRANSPORT_HALF_H

#include <stdbool.h>
#include <sys/types.h>

#include "transport/abi.h"

/* ring_size and first are private, checked copies of the words in shared memory. */
struct xvm_half {
	struct xvm_shm_half *shm; /* NULL: not mapped. The peer's is mapped PROT_READ */
	uint8_t *ring;
	uint32_t ring_size;
	void *map; /* what is mapped: more than the half, where pages are huge */
	size_t map_len;
	uint32_t first;
	uint32_t last; /* number of the window that is the whole ring */

	/* Under the lock of the direction: one window, as a rule the newest. */
	uint32_t window; /* its number, or XVM_WINDOW_NONE */
	uint32_t mask;	 /* its bytes - 1 */
	uint64_t from;	 /* where it begins */
	uint64_t base;	 /* what lies at the beginning of the ring lies so many bytes behind this */
};
#define XVM_WINDOW_NONE UINT32_MAX

/*
 * Make a half with a ring of ring_size bytes (rounded up to a power of two within XVM_RING_MIN
 * and XVM_RING_MAX) in a new memfd: mapped writable here, then sealed against shrinking,
 * growing and further writable mappings. *fd is close-on-exec and the caller's. The sleep
 * words say "sleep 1, by pad". 0 or a negative errno; nothing stays behind on failure.
 * Makes only async-signal-safe calls.
 */
int xvm_half_create(struct xvm_half *h, uint32_t ring_size, int *fd);

/*
 * Map a peer's half read-only. -EPERM: seals missing, -EPROTO: magic, version, sizes or
 * offsets are wrong, or another negative errno. fd stays the caller's and may be closed.
 */
int xvm_half_open(struct xvm_half *h, int fd);

/*
 * The same in len bytes at off of a file that is shared by all (an ivshmem region): create puts the
 * half down there, whatever lay there before; open judges what is there. ring_size is the largest
 * power of two that fits. The files are neither sealed nor private: what is there may change at any
 * time. Of a file of huge pages the whole pages are mapped that the half lies in.
 */
int xvm_half_create_at(struct xvm_half *h, int fd, uint64_t off, uint32_t len);
int xvm_half_open_at(struct xvm_half *h, int fd, uint64_t off, uint32_t len);

void xvm_half_close(struct xvm_half *h); /* unmaps; harmless on a half that is not mapped */

/* Before it is offered: the first window has that many bytes, a power of two from XVM_RING_MIN to
 * the ring's size. Unless it is called, XVM_WINDOW_FIRST where the ring has as many. */
void xvm_half_window(struct xvm_half *h, uint32_t first);

/*
 * G1, for the owner. How many bytes may follow head, the peer having taken up to tail; -EPROTO:
 * that cannot be.
 */
int64_t xvm_half_room_slow(struct xvm_half *h, uint64_t head, uint64_t tail);
static inline int64_t xvm_half_room(struct xvm_half *h, uint64_t head, uint64_t tail)
{
	/* G1 */
	uint64_t newest = atomic_load_explicit(&h->shm->windows, memory_order_relaxed);

	if (__builtin_expect(newest == h->window && (int64_t)(tail - h->from) >= 0 &&
				     head - tail <= h->mask,
			     1))
		return (int64_t)(h->mask + 1 - (head - tail));
	return xvm_half_room_slow(h, head, tail);
}

/* G1: room, as just said, is too little. False: the window is the whole ring. */
bool xvm_half_grow(struct xvm_half *h, uint64_t head, int64_t room);

/*
 * G2. Where position pos is in memory, and in *n, which says how many bytes are wanted, how many of
 * them lie there in a row: at least one of one. Whatever the peer has written, they are in the
 * ring.
 */
uint8_t *xvm_half_find(struct xvm_half *h, uint64_t pos, size_t *n);
static inline uint8_t *xvm_half_at(struct xvm_half *h, uint64_t pos, size_t *n)
{
	/* G2: who looks at bytes has read a head that covers them before. Pairs with the release in
	 * xvm_half_grow(). */
	uint64_t newest = atomic_load_explicit(&h->shm->windows, memory_order_acquire);
	size_t at, row;

	if (__builtin_expect(newest != h->window || (int64_t)(pos - h->from) < 0, 0))
		return xvm_half_find(h, pos, n);
	at = (pos - h->base) & h->mask;
	row = (size_t)h->mask + 1 - at;
	if (*n > row)
		*n = row;
	return h->ring + at;
}

/* Copy n bytes (n <= ring_size) into or out of the ring at a position. */
void xvm_half_put(struct xvm_half *h, uint64_t pos, const void *src, size_t n);
void xvm_half_get(struct xvm_half *h, uint64_t pos, void *dst, size_t n);

#endif
