/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The endpoints of this guest's processes whose other ends are in other VMs or on the host. Their
 * halves are pieces of our arena (lease.h), and go back into stock when nobody reads them.
 */
#ifndef XVM_DETECT_GUEST_EP_H
#define XVM_DETECT_GUEST_EP_H

#include "detect/guest.h"
#include "detect/guest_kin.h"
#include "detect/pairing.h"

int xvm_guest_eps_init(struct xvm_guest *g);
void xvm_guest_eps_exit(struct xvm_guest *g);

/* What our predecessor has left in the record. */
void xvm_guest_eps_restore(struct xvm_guest *g);

/* The kin has an arena again: what was closed meanwhile is over. Or it is dead. */
void xvm_guest_eps_rejoin(struct xvm_guest_kin *k);
void xvm_guest_eps_kin_dead(struct xvm_guest_kin *k);

/* From programs. */
/* An offer with a piece, which is the program's no more. reason, if it is refused already;
 * XVM_R_NONE, or why it is. */
uint32_t xvm_guest_offer(struct xvm_conn *c, const struct xvm_msg *m, const struct xvm_facts *f,
			 uint32_t reason);
/* The offer is void, or the paired endpoint closed. */
void xvm_guest_over(struct xvm_conn *c, uint32_t slot, uint32_t gen);
void xvm_guest_conn_gone(struct xvm_conn *c);
void xvm_guest_arena_gone(struct xvm_arena_ref *a);

/* The device is to go: offers are void, and none is made any more. */
void xvm_guest_eps_leave(struct xvm_guest *g);
/* Is anything paired yet, or about to be, of that arena, or (NULL) at all? */
bool xvm_guest_eps_left(const struct xvm_guest *g, const struct xvm_arena_ref *a);
/* What is still paired is to be reset. False: there is none. */
bool xvm_guest_eps_kill(struct xvm_guest *g);

/* From the host. */
void xvm_guest_letter(struct xvm_guest *g, const struct xvm_letter *l);
/* Ask for a sign of life, if one is not waited for already: g->asked says since when. */
void xvm_guest_fence(struct xvm_guest *g);
/* The run is over, and a new one is welcome: nobody reads what the last has left. */
void xvm_guest_eps_run_over(struct xvm_guest *g);
void xvm_guest_eps_welcome(struct xvm_guest *g);

#endif
