/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a tracked socket's life have in common: sock.c, offer.c, ending.c, holders.c.
 */
#ifndef XVM_SHIM_SOCK_PRIV_H
#define XVM_SHIM_SOCK_PRIV_H

#include "shim/stream.h"

/* ---- sock.c ------------------------------------------------------------- */

/* A reference to the socket that lives there, and a descriptor of it; or NULL. */
struct xvm_sock *xvm_sock_of_slot(uint32_t slot, uint32_t gen, int *fd);
/* Each socket of the process once, whatever its number of descriptors, no reference: for (i = 0;
 * (s = xvm_sock_next_slot(&i));). */
struct xvm_sock *xvm_sock_next_slot(uint32_t *slot);

/* ---- adrift.c ---------------------------------------------------------- */

/* In the child of a fork: did it come while this thread held the lock of a direction? Then the
 * child has lost its connections. */
bool xvm_adrift(void);
void xvm_adrift_forked(void);

/* ---- ending.c ----------------------------------------------------------- */

/* The close to come resets the connection. */
void xvm_ending_reset(int fd);
/* The descriptor that calls waited by after the application's last was closed is closed as well. */
void xvm_ending_kept(struct xvm_sock *s);

/* ---- holders.c ---------------------------------------------------------- */

/* How many other processes hold the socket and live? */
unsigned xvm_holders_other(struct xvm_shm_ep *ep, bool unmapped_only);
/* This process has mapped the halves. */
void xvm_holders_mapped(struct xvm_shm_ep *ep);
/* It has them mapped no more, but copies of them. True: nor has any other. */
bool xvm_holders_ashore(struct xvm_shm_ep *ep);
/* This process holds the socket no longer. True, once, for the last of all that did. */
bool xvm_holders_release(struct xvm_sock *s);

#endif
