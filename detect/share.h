/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This kernel's programs in the regions of groups: they lease pieces of the host's arena, for
 * halves that VMs can read, and one vector each, an eventfd that VMs can ring.
 */
#ifndef XVM_DETECT_SHARE_H
#define XVM_DETECT_SHARE_H

#include "detect/conn.h"
#include "detect/groups.h"
#include "detect/lease.h"

/* By messages of the control protocol. */
void xvm_share_lease(struct xvm_conn *c, const struct xvm_msg *m);
void xvm_share_return(struct xvm_conn *c, const struct xvm_msg *m);

/* The piece of an offer: c's own, lent and large enough for a half. NULL: it makes no sense. */
struct xvm_piece *xvm_share_piece(struct xvm_conn *c, uint32_t group, uint64_t off);

/* A pair of c's with an endpoint of that VM is about to be told of: first the eventfds of the VM.
 */
void xvm_share_meet(struct xvm_conn *c, struct xvm_vm *vm);
/* What programs know it by: what clients are known by, and beyond. */
uint32_t xvm_share_id(const struct xvm_vm *vm);

void xvm_share_conn_gone(struct xvm_conn *c);
void xvm_share_arena_gone(struct xvm_arena_ref *a);
void xvm_share_vm_gone(struct xvm_vm *vm);
void xvm_share_group_gone(struct xvm_group *g);

#endif
