/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects of one size in memory that is never given back: lock-free, async-signal-safe, without
 * malloc (the application's allocator may be the one that called us). An object starts with
 * struct xvm_file or anything else that keeps its 4 bytes at link_off unused while it is free.
 */
#ifndef XVM_SHIM_POOL_H
#define XVM_SHIM_POOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct xvm_pool {
	size_t size, link_off;
	uint32_t max;
	_Atomic(char *) base; /* reserved for max objects at first use */
	_Atomic uint32_t hi;
	_Atomic uint64_t free; /* ABA count << 32 | 1 + index */
};

#define XVM_POOL(type, link, n)                                                                    \
	{                                                                                          \
		.size = sizeof(type), .link_off = offsetof(type, link), .max = (n)                 \
	}

/* Not cleared: what the last user left is still there. NULL when max are in use. */
void *xvm_pool_get(struct xvm_pool *p);
void xvm_pool_put(struct xvm_pool *p, void *obj);

#endif
