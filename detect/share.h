/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This kernel's programs in the regions of groups: they lease pieces of the host's arena, for
 * halves that VMs can read, and one vector each, an eventfd that VMs can ring. To programs it is as
 * in a VM (guest.h), but that they ring by eventfds as well.
 */
#ifndef XVM_DETECT_SHARE_H
#define XVM_DETECT_SHARE_H

#include "detect/conn.h"
#include "detect/groups.h"
#include "detect/lease.h"

/* Tell a program of the regions that it may have; c NULL: tell all programs. */
void xvm_share_greet(struct xvm_daemon *d, struct xvm_conn *c);

/* By messages of the control protocol. */
void xvm_share_lease(struct xvm_conn *c, const struct xvm_msg *m);

/* The piece of an offer: c's own, and in no other's. NULL: it makes no sense. */
struct xvm_piece *xvm_share_piece(struct xvm_conn *c, const struct xvm_msg *m);

/* A pair of c's with an endpoint of that VM is about to be told of: first the eventfds of the VM.
 */
void xvm_share_meet(struct xvm_conn *c, struct xvm_vm *vm);

void xvm_share_conn_gone(struct xvm_conn *c);
void xvm_share_arena_gone(struct xvm_arena_ref *a);
void xvm_share_group_gone(struct xvm_group *g);

#endif
