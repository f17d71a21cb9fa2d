/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libc's own functions behind our wrappers: REAL(name)(args), typed from libc's headers. Works at
 * any moment, also before our constructor has run and while dlsym itself allocates.
 */
#ifndef XVM_SHIM_REAL_H
#define XVM_SHIM_REAL_H

#include "shim/libc.h"
#include "transport/sys.h"

/* Libc advises against some of them, but programs use them. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
struct xvm_real {
#define XVM_CALL(name, nr) __typeof__(name) *name;
#include "shim/calls.def"
#undef XVM_CALL
};
#pragma GCC diagnostic pop
extern struct xvm_real xvm_real;

/* Look all of them up; the address to call for this row meanwhile. */
void *xvm_real_find(unsigned row);

#define REAL(name)                                                                                 \
	(__builtin_expect(!!xvm_real.name, 1)                                                      \
		 ? xvm_real.name                                                                   \
		 : (__typeof__(name) *)xvm_real_find(offsetof(struct xvm_real, name) /             \
						     sizeof(void *)))

/* On the way back to the application: r, or -1 and errno where r is a negative errno. */
static inline long xvm_result(long r)
{
	if (!xvm_sys_failed(r))
		return r;
	errno = (int)-r;
	return -1;
}

/* Marks a wrapper: exported, and checked against the table at build time. */
#define XVM_WRAP __attribute__((visibility("default")))

#endif
