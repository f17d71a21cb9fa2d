/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls past libc's names. proto.c and client.c are linked into libxvm.so, which
 * interposes those names: a control message must never come back into its own wrappers,
 * and a raw call is no cancellation point. Negative errno, as the kernel returns it.
 */
#ifndef XVM_DETECT_RAW_H
#define XVM_DETECT_RAW_H

#include <sys/syscall.h>

static inline long xvm_raw6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
#else
#error "this architecture needs its system call instruction here"
#endif
}

#define xvm_raw(nr, a, b, c, d) xvm_raw6(nr, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

#endif
