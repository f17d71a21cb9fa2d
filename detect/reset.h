/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resetting a connection of another process, whose peer has died with its whole kernel and can
 * send no RST: we get the process's socket and dissolve it, and whoever sleeps on it is woken.
 */
#ifndef XVM_DETECT_RESET_H
#define XVM_DETECT_RESET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct xvm_reset {
	uint64_t cookie; /* SO_COOKIE */
	bool done;
};

/* Is that socket there? Then it is reset. */
bool xvm_reset_at(pid_t pid, int fd, uint64_t cookie);

/* Reset what of these, in the order of their cookies, the process has anywhere. */
void xvm_reset_in(pid_t pid, struct xvm_reset *r, size_t n);

/* For qsort(). */
int xvm_reset_order(const void *a, const void *b);

#endif
