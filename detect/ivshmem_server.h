/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of QEMU's ivshmem protocol. A QEMU that connects to the socket of a group becomes
 * a peer: it is given a number, the region, one eventfd for each vector of each other peer (to ring
 * it), and its own. The host is peer 0: what VMs ring it with are eventfds in our loop.
 *
 * Nobody is told that a peer is gone, though the protocol has a message for it: QEMU 7.2 then uses
 * memory that it has freed, at the latest when the number is given to another. So a number has the
 * same eventfds as long as the group lasts, whoever has it; that a VM is dead, the xvmds in the
 * others hear from us (relay.h), and see in the peer table.
 *
 * The protocol goes one way: 8-byte numbers, some with a descriptor, and nothing ever comes back.
 * Here is no queue: for each VM it is known what it has been told, and the difference to what is
 * true is sent as its socket takes it. So a QEMU that stands still for as long as it likes costs
 * nothing, and is not dropped: it could not come back.
 */
#ifndef XVM_DETECT_IVSHMEM_SERVER_H
#define XVM_DETECT_IVSHMEM_SERVER_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "detect/groups.h"
#include "transport/region.h"

#define XVM_VM_TAPS_MAX 32

struct xvm_vm_relay;

struct xvm_vm {
	struct xvm_group *group;
	uint32_t peer, gen;
	uint32_t serial;   /* never used twice, over all groups */
	bool dead, buried; /* its number is kept while somebody has its arena mapped */
	uint32_t readers;

	int fd;
	pid_t pid;
	uid_t uid;
	int pidfd; /* -1: the kernel has none */
	ev_io rd, wr, bell_io;
	int bell;			     /* it rings us by this */
	int *vector;			     /* we and its peers ring it by these */
	uint32_t stage;			     /* of the introduction */
	uint32_t told[XVM_REGION_PEERS_MAX]; /* how many eventfds of each peer it has */

	char tap[XVM_VM_TAPS_MAX][16]; /* names of its network devices on this host */
	uint32_t n_taps;
	const char *no_taps; /* why there are none, if so */

	struct xvm_vm_relay *relay; /* relay.c's; NULL once it is buried */
	struct xvm_res_ns *place;   /* where its addresses are, while its xvmd is up */
	struct xvm_list claims;	    /* vms.c's */
	uint32_t n_claims;
	struct xvm_vm_ep **ep; /* vmep.c's */
	struct xvm_list offers, ends;
	uint32_t n_offers, n_ends;
	struct xvm_list reading; /* ends elsewhere that have something of its arena mapped */
};

/* Make fd, of that process, a peer. NULL: turned away, and fd stays the caller's. */
struct xvm_vm *xvm_vm_join(struct xvm_group *g, int fd, pid_t pid, uid_t uid);
/* It is dead, or shall be for us. */
void xvm_vm_leave(struct xvm_vm *vm, const char *why);
/* Tell the others of the dead, and forget those that nobody reads. */
void xvm_vm_reap(struct xvm_group *g);
/* Its number and its memory are free, whoever reads them. */
void xvm_vm_forget(struct xvm_group *g, uint32_t peer);
/* Somebody has mapped something of its arena, or no longer has. */
void xvm_vm_hold(struct xvm_vm *vm);
void xvm_vm_release(struct xvm_vm *vm);

/* Ring its vector 0, and count that as news. */
void xvm_vm_ring(struct xvm_vm *vm);
/* The state and flags that the peer table shows. */
void xvm_vm_state(struct xvm_vm *vm, uint32_t state, uint32_t flags);

/* Look again which taps its QEMU has. True if they are others than before. */
bool xvm_vm_find_taps(struct xvm_vm *vm);

#endif
