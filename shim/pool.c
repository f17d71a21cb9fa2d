/* SPDX-License-Identifier: Apache-2.0 */
#include "shim/pool.h"

#include <sys/mman.h>

#include "transport/sys.h"

static _Atomic uint32_t *link_of(const struct xvm_pool *p, char *base, uint32_t i)
{
	return (_Atomic uint32_t *)(base + (size_t)i * p->size + p->link_off);
}

/* Address space for all objects at once; pages come when they are touched. */
static char *reserve(struct xvm_pool *p)
{
	char *base = atomic_load_explicit(&p->base, memory_order_acquire), *none = NULL;
	size_t len = p->size * p->max;
	long r;

	if (base)
		return base;
	r = xvm_sys6(SYS_mmap, 0, (long)len, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (xvm_sys_failed(r))
		return NULL;
	if (!atomic_compare_exchange_strong(&p->base, &none, (char *)r)) {
		xvm_sys6(SYS_munmap, r, (long)len, 0, 0, 0, 0);
		return none;
	}
	return (char *)r;
}

void *xvm_pool_get(struct xvm_pool *p)
{
	char *base = reserve(p);
	uint64_t old, new;
	uint32_t i;

	if (!base)
		return NULL;
	old = atomic_load(&p->free);
	while ((i = (uint32_t)old) != 0) {
		/* The link may be stale by now: then the count has moved and the exchange fails. */
		new = ((old >> 32) + 1) << 32 | atomic_load(link_of(p, base, i - 1));
		if (atomic_compare_exchange_weak(&p->free, &old, new))
			return base + (size_t)(i - 1) * p->size;
	}
	i = atomic_load(&p->hi);
	do {
		if (i >= p->max)
			return NULL;
	} while (!atomic_compare_exchange_weak(&p->hi, &i, i + 1));
	return base + (size_t)i * p->size;
}

void xvm_pool_put(struct xvm_pool *p, void *obj)
{
	char *base = atomic_load(&p->base);
	uint32_t i = (uint32_t)((size_t)((char *)obj - base) / p->size);
	uint64_t old = atomic_load(&p->free), new;

	do {
		atomic_store_explicit(link_of(p, base, i), (uint32_t)old, memory_order_relaxed);
		new = ((old >> 32) + 1) << 32 | (i + 1);
	} while (!atomic_compare_exchange_weak(&p->free, &old, new));
}
