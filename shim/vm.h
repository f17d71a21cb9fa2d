/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that virtual machines share, as this process sees it: what xvmd has told of its regions
 * (REGION.md, "The shim"), the pieces that were lent to us, and the vectors of other machines.
 */
#ifndef XVM_SHIM_VM_H
#define XVM_SHIM_VM_H

#include "detect/proto.h"
#include "shim/link.h"

#define XVM_VM_REGIONS XVM_REGIONS
#define XVM_VM_PEERS 64

/* REGION, DOORBELL, VECTOR, PEER_VECTOR and PIECE. What is kept of fds is -1 afterwards. */
void xvm_vm_message(const struct xvm_msg *m, int *fds);

/*
 * Make a half of at most len bytes in a piece that was lent to us, and say where it is. -EAGAIN:
 * one has been asked for; -ENOMEM: there is none to be had now; -ENODEV: the region is not ours to
 * use.
 */
int xvm_vm_make(unsigned region, uint32_t len, struct xvm_half *h, uint64_t *off);
/* The piece was not offered after all. */
void xvm_vm_unmake(unsigned region, struct xvm_half *h, uint64_t off);

/* Map the half of an endpoint in another machine, as PAIRED says, and who it is; 0 or a negative
 * errno. */
int xvm_vm_open(const struct xvm_msg *m, struct xvm_half *h, struct xvm_peer **peer);

/* What is to be done once it is known what else was said: that the other end is dead, or that there
 * is another device by now. */
void xvm_vm_mail_read(void);
/* Ring a vector of another machine. False: not to be had. */
bool xvm_vm_ring(struct xvm_peer *p, unsigned vector);

/* unplug.c: the device of a region is about to go. late: a peer that makes no call is not waited
 * for. gone: not about to. */
void xvm_unplug(unsigned region, bool late, bool gone);
/* No socket is to be offered there any more; and none is there: forget it. */
void xvm_vm_leaving(unsigned region);
void xvm_vm_gone(unsigned region);

/* Has this daemon spoken of a region that a former one has told us of? kept: our pieces of it are
 * ours yet. */
bool xvm_vm_told(unsigned region, bool *kept);
/* The daemon is another: what it says of a region will show whether that is still ours. */
void xvm_vm_stale(void);
/* This is the child of a fork: nothing of the above is ours any more. */
void xvm_vm_forked(void);
/* A descriptor of ours was moved. */
void xvm_vm_moved(int from, int to);

#endif
