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

/* ring_size is the private, checked copy of the word in shared memory. */
struct xvm_half {
	struct xvm_shm_half *shm; /* NULL: not mapped. The peer's is mapped PROT_READ */
	uint8_t *ring;
	uint32_t ring_size;
	void *map; /* what is mapped: more than the half, where pages are huge */
	size_t map_len;
};

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

/* Copy n bytes (n <= ring_size) into or out of the ring at a position, around its end. */
void xvm_half_put(const struct xvm_half *h, uint64_t pos, const void *src, size_t n);
void xvm_half_get(const struct xvm_half *h, uint64_t pos, void *dst, size_t n);

#endif
