/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which address lives in which places, and the tables that say so to clients and VMs. Pure
 * logic; netlink.c and vms.c feed it. A place is a network namespace, known by its netns cookie, or
 * a VM, known by its serial. A VM sees the places of its group and this kernel's namespaces, as a
 * group is an address space; programs of this kernel see all VMs, as far as this kernel has seen
 * their addresses itself.
 *
 * Loopback addresses are never in here: they mean another thing in each namespace, and match only
 * within one. Link-local ones neither, for they mean another thing on each link.
 */
#ifndef XVM_DETECT_RESIDENCY_H
#define XVM_DETECT_RESIDENCY_H

#include <stdbool.h>
#include <stdint.h>

#include "detect/pairing.h"
#include "transport/abi.h"
#include "transport/region.h"

#define XVM_RESIDENCY_BUCKETS 16384
#define XVM_RESIDENCY_NS_ADDRS 4096 /* addresses of one namespace that are believed */

struct xvm_res_ns {
	struct xvm_list in_all, addrs;
	uint64_t cookie;   /* of a namespace; 0 of a VM */
	uint32_t vm;	   /* serial of the VM; 0: a namespace */
	uint32_t peer;	   /* its number in its group */
	const void *group; /* whose VM it is */
	uint32_t region;   /* by which region programs reach it */
	bool told;	   /* in a VM: the host says so, and we take its word */
	uint32_t id;	   /* our own numbering: struct xvm_shm_res.where */
	bool local;	   /* the daemon's own */
	bool full;	   /* had more than XVM_RESIDENCY_NS_ADDRS */
	uint32_t count;	   /* addresses */
	uint32_t sweep;	   /* number of the sweep that is under way, or the last */
};

/* One address of one interface of one namespace. */
struct xvm_res_addr {
	struct xvm_res_addr *hash_next;
	struct xvm_list in_ns;
	struct xvm_res_ns *ns;
	uint8_t addr[16];
	uint32_t ifindex;
	uint32_t sweep;
	uint8_t mac[6]; /* in a VM: whose it is there */
	bool seen;	/* in a VM: that it is there is not only the VM's word */
};

struct xvm_residency {
	struct xvm_list all; /* of struct xvm_res_ns */
	struct xvm_res_addr **bucket;
	struct xvm_shm_res *next; /* the table to be */
	uint16_t *changed;	  /* its slots that differ */
	uint32_t next_id;
	uint64_t changes; /* ever made */
	bool dirty;	  /* differs from what was published */
	bool overflow;	  /* more addresses than the table has room for */
};

int xvm_residency_init(struct xvm_residency *r);
void xvm_residency_exit(struct xvm_residency *r);

struct xvm_res_ns *xvm_residency_ns_add(struct xvm_residency *r, uint64_t cookie, bool local);
void xvm_residency_ns_del(struct xvm_residency *r, struct xvm_res_ns *ns);
struct xvm_res_ns *xvm_residency_vm_add(struct xvm_residency *r, uint32_t serial, uint32_t peer,
					const void *group);
struct xvm_res_ns *xvm_residency_vm_find(const struct xvm_residency *r, uint32_t serial);
struct xvm_res_ns *xvm_residency_ns_find(const struct xvm_residency *r, uint64_t cookie);

/* Idempotent, as the kernel repeats itself. add ignores addresses that are never resident. */
int xvm_residency_add(struct xvm_residency *r, struct xvm_res_ns *ns, uint32_t ifindex,
		      const uint8_t addr[16]);
void xvm_residency_del(struct xvm_residency *r, struct xvm_res_ns *ns, uint32_t ifindex,
		       const uint8_t addr[16]);
/* Likewise, of a VM. */
int xvm_residency_add_vm(struct xvm_residency *r, struct xvm_res_ns *vm, const uint8_t addr[16],
			 const uint8_t mac[6], bool seen);

/* Between begin and end all that still exists is added anew; end forgets the rest. */
void xvm_residency_sweep_begin(struct xvm_res_ns *ns);
void xvm_residency_sweep_end(struct xvm_residency *r, struct xvm_res_ns *ns);

/* In how many places, as a group sees it (NULL: this kernel): 0, 1 or more (then 2); one of its
 * entries in *where if not NULL. */
int xvm_residency_find(const struct xvm_residency *r, const void *group, const uint8_t addr[16],
		       const struct xvm_res_addr **where);
bool xvm_residency_has(const struct xvm_res_ns *ns, const struct xvm_residency *r,
		       const uint8_t addr[16]);

/*
 * In which place must the other end of this socket be? XVM_R_NONE and the place, or the reason
 * why there is none.
 */
uint32_t xvm_residency_peer(const struct xvm_residency *r, const struct xvm_facts *f,
			    struct xvm_where *where);

/* Bring the table up to date, if it is not. */
void xvm_residency_publish(struct xvm_residency *r, struct xvm_shm_table *t);

/* What the VMs of a group are to see, in res (XVM_REGION_RES_MAX entries). How many; *left_out, if
 * there are more. */
uint32_t xvm_residency_of_group(const struct xvm_residency *r, const void *group,
				struct xvm_shm_region_res *res, bool *left_out);

#endif
