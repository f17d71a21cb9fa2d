/* SPDX-License-Identifier: Apache-2.0 */
/* poll's engine, which select uses too. */
#ifndef XVM_SHIM_WAIT_H
#define XVM_SHIM_WAIT_H

#include "shim/libc.h"

/* How many of the set are not the kernel's business alone. 0: call the kernel. */
unsigned xvm_wait_count(const struct pollfd *fds, nfds_t n);

/*
 * ppoll(2) for a set with so many of them: ready ones, or a negative errno. ns < 0: no end. plain:
 * the application called poll, not ppoll.
 */
int xvm_wait_set(struct pollfd *fds, nfds_t n, unsigned tracked, int64_t ns, const sigset_t *mask,
		 bool plain);

/* False for what the kernel would refuse. NULL: no end. */
bool xvm_wait_ns(const struct timespec *ts, int64_t *ns);

#endif
