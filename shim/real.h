/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libc's own functions behind our wrappers: xvm_real.NAME, typed from libc's headers. Found by
 * dlsym(RTLD_NEXT) at start. REAL(name)(args) works at any moment, also before our constructor
 * has run and while dlsym itself allocates (then by a raw system call).
 */
#ifndef XVM_SHIM_REAL_H
#define XVM_SHIM_REAL_H

#include "shim/libc.h"

struct xvm_real {
#define XVM_CALL(name, nr) __typeof__(name) *name;
#include "shim/calls.def"
#undef XVM_CALL
};
extern struct xvm_real xvm_real;

#define REAL(name) (xvm_real.name)

/* Marks a wrapper: exported, and checked against the table at build time. */
#define XVM_WRAP __attribute__((visibility("default")))

#endif
