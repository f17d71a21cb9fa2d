/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finding libc's functions. A wrapper may be called before any constructor has run (an allocator
 * that reads its configuration) and from within dlsym (which may allocate): such calls go straight
 * to the kernel, where there is a system call that does the same.
 */
#include "shim/real.h"

#include <dlfcn.h>
#include <stdatomic.h>

#include "transport/sys.h"

struct xvm_real xvm_real;

static _Atomic int resolving;

#define XVM_CALL(name, nr)                                                                         \
	static long raw_##name(long a, long b, long c, long d, long e, long f)                     \
	{                                                                                          \
		return xvm_result(nr < 0 ? -ENOSYS : xvm_sys6(nr, a, b, c, d, e, f));              \
	}
#include "shim/calls.def"
#undef XVM_CALL

static const struct {
	const char *name;
	long (*raw)(long, long, long, long, long, long);
} rows[] = {
#define XVM_CALL(name, nr) {#name, raw_##name},
#include "shim/calls.def"
#undef XVM_CALL
};

void *xvm_real_find(unsigned row)
{
	void **table = (void **)&xvm_real;
	int saved = errno;
	void *p;

	if (atomic_fetch_add(&resolving, 1) == 0) {
		for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			p = dlsym(RTLD_NEXT, rows[i].name);
			__atomic_store_n(&table[i], p ? p : (void *)rows[i].raw, __ATOMIC_RELEASE);
		}
	}
	atomic_fetch_sub(&resolving, 1);
	errno = saved;
	p = __atomic_load_n(&table[row], __ATOMIC_ACQUIRE);
	return p ? p : (void *)rows[row].raw;
}
