/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrong pointers that the application gives us are EFAULT, as from the kernel, and not its death:
 * what touches its memory on behalf of a ring does so by these, and fault.c has a handler of
 * SIGSEGV and SIGBUS, from the first pairing of the process on. Before, they fault as memcpy()
 * does.
 */
#ifndef XVM_SHIM_FAULT_H
#define XVM_SHIM_FAULT_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "transport/half.h"

/* fault_copy.S. 0 or -EFAULT; what has been copied by then is not known. Async-signal-safe. */
int xvm_user_copy(void *dst, const void *src, size_t n);
/* Are they there to be read, or written? They stay as they are. */
int xvm_user_readable(const void *p, size_t n);
int xvm_user_writable(void *p, size_t n);

/* The same at any time, before there is a handler too: then the kernel is asked, once for a page
 * that the thread uses again. */
#define XVM_USER_KNOWN 16
#define XVM_USER_PAGE 12 /* no machine has smaller ones */
extern _Atomic int xvm_fault_installed __attribute__((visibility("hidden")));
/* Of pages that are there, the complements of their numbers. */
extern _Thread_local uintptr_t xvm_user_known[XVM_USER_KNOWN]
	__attribute__((visibility("hidden"), tls_model("initial-exec")));
bool xvm_user_there_slow(const void *p, size_t n);

static inline bool xvm_user_there(const void *p, size_t n)
{
	uintptr_t page = (uintptr_t)p >> XVM_USER_PAGE;

	if (!atomic_load_explicit(&xvm_fault_installed, memory_order_relaxed) &&
	    xvm_user_known[page % XVM_USER_KNOWN] == ~page &&
	    ((uintptr_t)p + n - 1) >> XVM_USER_PAGE == page)
		return true;
	return xvm_user_there_slow(p, n);
}

/* It is there, but not to be written, as far as we can tell: false before there is a handler. */
bool xvm_user_read_only(void *p, size_t n);

/* A socket is about to be paired. */
void xvm_fault_install(void);
/* exec keeps SIG_IGN, but not a handler: around each try. */
void xvm_fault_exec(void);
void xvm_fault_exec_failed(void);
void xvm_fault_forked(void); /* in the child */

/* The kernel's half of the addresses, which it refuses before anything else; end: behind the last
 * byte. Elsewhere than on x86-64 an address may have a tag in the bits that tell. */
static inline bool xvm_user_wild(uintptr_t start, uintptr_t end)
{
#if defined(__x86_64__)
	return (intptr_t)(start | end) < 0 || end < start;
#else
	return false;
#endif
}

/* Ring and application: as xvm_half_put() and xvm_half_get(). */
static inline int xvm_user_put(struct xvm_half *h, uint64_t pos, const void *src, size_t n)
{
	for (;;) {
		size_t k = n;
		uint8_t *at = xvm_half_at(h, pos, &k);

		if (xvm_user_copy(at, src, k) < 0)
			return -EFAULT;
		if (k == n)
			return 0;
		pos += k;
		src = (const char *)src + k;
		n -= k;
	}
}

static inline int xvm_user_get(struct xvm_half *h, uint64_t pos, void *dst, size_t n)
{
	for (;;) {
		size_t k = n;
		const uint8_t *at = xvm_half_at(h, pos, &k);

		if (xvm_user_copy(dst, at, k) < 0)
			return -EFAULT;
		if (k == n)
			return 0;
		pos += k;
		dst = (char *)dst + k;
		n -= k;
	}
}

#endif
