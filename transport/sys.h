/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that pass nobody's wrapper: libc's functions, syscall(2) among them, are
 * interposed by the very library that this code is linked into. No errno: the result is the
 * kernel's, a negative errno on failure. Async-signal-safe.
 */
#ifndef XVM_TRANSPORT_SYS_H
#define XVM_TRANSPORT_SYS_H

#include <stdbool.h>
#include <sys/syscall.h>

#if defined(__x86_64__)
static inline long xvm_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline long xvm_sys6(long nr, long a, long b, long c, long d, long e, long f)
{
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
}
#else
#error "xvm knows the system call instruction of x86-64 and aarch64 only"
#endif

/* Arguments not given are 0. */
#define XVM_SYS_PICK(nr, a, b, c, d, e, f, ...)                                                    \
	xvm_sys6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define xvm_sys(...) XVM_SYS_PICK(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* A negative errno? An address may have its top bit set as well. */
static inline bool xvm_sys_failed(long ret)
{
	return (unsigned long)ret >= -4095ul;
}

#endif
