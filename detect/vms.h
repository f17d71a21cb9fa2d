/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which addresses live in which VM. A guest's xvmd claims them, each with the MAC of its interface;
 * whether that is so, the host's own tables say: the FDB of a bridge has the MAC behind one of the
 * VM's taps, and the neighbour table has no other MAC for the address. All by netlink events: what
 * a claim is worth is looked at again whenever something that concerns one has changed.
 */
#ifndef XVM_DETECT_VMS_H
#define XVM_DETECT_VMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "detect/ivshmem_server.h"
#include "detect/netns.h"

#define XVM_VM_CLAIMS_MAX 256

struct xvm_nl_link;
struct xvm_nl_neigh;

enum xvm_belief {
	XVM_BELIEF_NONE,    /* nothing is known of that MAC yet */
	XVM_BELIEF_REFUSED, /* it, or the address, is known to be elsewhere */
	XVM_BELIEF_MAC,	    /* the MAC is behind one of the VM's taps */
	XVM_BELIEF_SEEN,    /* and so is the address */
};

struct xvm_claim {
	struct xvm_list in_vm;
	uint8_t addr[16], mac[6];
	enum xvm_belief belief;
	bool told; /* that it is not believed */
};

/* What the tables say. tap: the interfaces of the VM's devices. */
enum xvm_belief xvm_vms_belief(const struct xvm_netns *all, const uint32_t *tap, uint32_t n_taps,
			       const uint8_t addr[16], const uint8_t mac[6]);

/* A guest claims an address, or gives it up. false: it has too many. */
bool xvm_vms_claim(struct xvm_vm *vm, const uint8_t addr[16], const uint8_t mac[6]);
void xvm_vms_unclaim(struct xvm_vm *vm, const uint8_t addr[16]);
void xvm_vms_unclaim_all(struct xvm_vm *vm);

/* From netlink.c: of our own namespace. */
void xvm_vms_link(struct xvm_daemon *d, const struct xvm_nl_link *l, bool gone);
void xvm_vms_neigh(struct xvm_daemon *d, const struct xvm_nl_neigh *g);
/* Does any claim depend on it? */
bool xvm_vms_concerned(const struct xvm_daemon *d, const uint8_t addr[16], const uint8_t mac[6]);
/* Anything may have changed. */
void xvm_vms_dirty(struct xvm_daemon *d);

/* Before the loop sleeps: bring residency, and the tables of the groups, up to date. */
void xvm_vms_update(struct xvm_daemon *d);

/* Whose tap is it? NULL: nobody's. */
struct xvm_vm *xvm_vms_of_tap(const struct xvm_daemon *d, const char *name);
struct xvm_vm *xvm_vms_find(const struct xvm_daemon *d, uint32_t serial);

/* Who says that it has the address, at a MAC that is behind its taps? NULL: nobody. */
struct xvm_vm *xvm_vms_claimant(const struct xvm_daemon *d, const uint8_t addr[16]);

/* Where an address of that VM is, in words: "VM 2 of group db (pid 7), tap0 on bridge br0". */
void xvm_vms_explain(const struct xvm_vm *vm, char *text, size_t len);

#endif
