/* SPDX-License-Identifier: Apache-2.0 */
#ifndef XVM_SHIM_ANNOUNCE_H
#define XVM_SHIM_ANNOUNCE_H

#include "shim/sock.h"

/* A thread sleeps by w for sockets of these classes; 0: it does not any more. */
uint64_t xvm_announce_class(const struct xvm_sock *s);
void xvm_announce(struct xvm_waker *w, uint64_t classes);
/* For this one (NULL: not any more). */
void xvm_announce_one(struct xvm_waker *w, struct xvm_sock *s);

/* Those that sleep for s look again. */
void xvm_announce_changed(struct xvm_sock *s);

/* In the child of a fork: the parent's threads do not sleep here. */
void xvm_announce_forked(void);

#endif
