/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is paired with whom, so that processes get each other's eventfds and hear of each
 * other's end.
 *
 *   pair   two endpoints. Ends when both have been unpaired, or their arenas have gone.
 *          An end in a VM is told when both are over: until then its half is read.
 *   link   two processes of this kernel that have had a pair. Outlives its last pair for a while,
 * lest a client that connects again and again be sent the same eventfds each time.
 */
#ifndef XVM_DETECT_PAIRS_H
#define XVM_DETECT_PAIRS_H

#include "detect/conn.h"
#include "detect/lease.h"
#include "detect/pairing.h"

#define XVM_PAIRS_IDLE_S 10. /* that an idle link is kept */

struct xvm_pairs;

int xvm_pairs_init(struct xvm_daemon *d);
void xvm_pairs_exit(struct xvm_daemon *d);
uint32_t xvm_pairs_count(const struct xvm_daemon *d);

/* Tell both ends. XVM_R_NONE, or the reason why nobody was told anything. */
uint32_t xvm_pairs_make(struct xvm_daemon *d, struct xvm_offer *a, uint32_t role_a,
			struct xvm_offer *b, uint32_t role_b);
void xvm_pairs_unpair(struct xvm_conn *c, uint32_t slot, uint32_t gen);
void xvm_pairs_waker(struct xvm_conn *c, const struct xvm_msg *m, int *fds);

/* Of an endpoint in a VM. */
void xvm_pairs_unpair_vm(struct xvm_vm *vm, uint32_t client, uint32_t slot, uint32_t gen);
/* Its run is over: nobody there reads or is to be told anything, and the other ends are told so. */
void xvm_pairs_vm_gone(struct xvm_vm *vm);
/* And who still reads it does so for himself. */
/* The book of a group is about to end: no end has a half in it any more. */
void xvm_pairs_book_gone(struct xvm_daemon *d, const struct xvm_lease_book *book);
void xvm_pairs_vm_forgotten(struct xvm_vm *vm);

void xvm_pairs_conn_gone(struct xvm_conn *c);
void xvm_pairs_arena_gone(struct xvm_daemon *d, struct xvm_arena_ref *a);

#endif
