/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Included before all else into the sources of libxvm.so (see CMakeLists.txt): each of their system
 * calls goes by hook.c, with the place that it is made in.
 */
#ifndef XVM_TEST_FAULT_HOOK_H
#define XVM_TEST_FAULT_HOOK_H

#define xvm_sys6 xvm_sys6_bare
#include "transport/sys.h"
#undef xvm_sys6

long xvm_test_hook(const char *file, int line, long nr, long a, long b, long c, long d, long e,
		   long f);
#define xvm_sys6(nr, a, b, c, d, e, f) xvm_test_hook(__FILE__, __LINE__, nr, a, b, c, d, e, f)

#endif
