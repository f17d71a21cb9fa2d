/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest's programs have of its device: pieces of our arena, and a vector each. */
#ifndef XVM_DETECT_GUEST_LEASE_H
#define XVM_DETECT_GUEST_LEASE_H

#include "detect/guest.h"

/* The device that a client calls so; NULL: it has none of that name, and is dropped. */
struct xvm_guest *xvm_guest_of_client(struct xvm_conn *c, uint32_t index);

/* From programs. */
void xvm_guest_lease(struct xvm_conn *c, const struct xvm_msg *m);
/* A piece that was to be offered, and is not: lent to nobody any more. */
void xvm_guest_return(struct xvm_conn *c, const struct xvm_msg *m);

/* The piece that is in c's stock there: its own, and no endpoint's. */
struct xvm_piece *xvm_guest_stock(const struct xvm_guest *g, const struct xvm_conn *c, uint64_t off,
				  uint64_t len);
/* It is in stock no more, nor recorded. */
void xvm_guest_lease_end(struct xvm_guest *g, struct xvm_piece *p);

/* The client has gone. Its process may live, and be rung: then nobody else gets the vector. */
void xvm_guest_take_vector(struct xvm_guest *g, struct xvm_conn *c);
void xvm_guest_vectors_exit(struct xvm_guest *g);

#endif
