/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of VMs that share memory. Each has a Unix stream socket, for QEMU (ivshmem_server.h), and
 * a region (transport/REGION.md), which lasts as long as the group.
 */
#ifndef XVM_DETECT_GROUPS_H
#define XVM_DETECT_GROUPS_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "detect/conf.h"
#include "detect/lease.h"
#include "detect/life.h"
#include "detect/list.h"
#include "detect/socket.h"
#include "transport/region.h"

#define XVM_GROUP_HOST_GEN 1u /* of peer 0, which never changes */

struct xvm_daemon;
struct xvm_vm;

struct xvm_group {
	struct xvm_list in_all;
	struct xvm_daemon *d;
	uint32_t index; /* of its region, for clients; XVM_REGIONS and more: not for them */
	struct xvm_conf_group conf;
	struct xvm_region region;
	struct xvm_socket sock;
	int mem_fd, listen_fd;
	ev_io listen_io;
	int vector[XVM_REGION_VECTORS_MAX]; /* the host's, from 1 on: for its processes */
	const void *vector_of[XVM_REGION_VECTORS_MAX]; /* whose it is: share.c's */
	struct xvm_lease_book book;		       /* of the host's arena */
	struct xvm_life life;			       /* by serials of arenas, and vectors */
	struct xvm_vm *vm[XVM_REGION_PEERS_MAX];
	int *peer_vector[XVM_REGION_PEERS_MAX]; /* a VM's; NULL: never used yet */
	uint32_t gen[XVM_REGION_PEERS_MAX];	/* what is in the peer table */
	uint64_t news[XVM_REGION_PEERS_MAX];
	struct xvm_shm_region_res *res; /* what is in the residency table */
	uint32_t n_res, n_vms;
	uint64_t published; /* up to which change of residency */
	bool said_left_out;
	bool doomed;   /* no longer configured: it ends with its last VM */
	uint32_t next; /* the number to try first */
};

struct xvm_groups {
	struct xvm_list all;
	uint32_t next_serial, next_index;
	bool any_dead;
	bool leaving;		   /* we end, and VMs go on with the regions as they are */
	bool dirty, look_for_taps; /* vms.c's */
	/* Somebody has rung, come or gone. Any may be NULL. */
	int (*joined)(struct xvm_vm *vm); /* a negative errno turns it away */
	void (*rung)(struct xvm_vm *vm);
	void (*gone)(struct xvm_vm *vm);      /* dead; not yet forgotten */
	void (*forgotten)(struct xvm_vm *vm); /* ends now, whoever reads it */
};

void xvm_groups_init(struct xvm_groups *all);
/* VMs find that the server has gone, and keep the regions: nothing in there is touched. */
void xvm_groups_exit(struct xvm_daemon *d);
/* Before the loop sleeps: tell of those that died, and forget those that nobody reads. */
void xvm_groups_reap(struct xvm_daemon *d);

/* Make a group and serve it. NULL with what to say in err. */
struct xvm_group *xvm_group_add(struct xvm_daemon *d, const struct xvm_conf_group *conf, char *err,
				size_t err_len);
/* Nobody is served any more. */
void xvm_group_del(struct xvm_group *g);
struct xvm_group *xvm_group_find(const struct xvm_daemon *d, const char *name);

/* Bring the groups in line with the configuration. false: something of it cannot be done, as was
 * logged; the rest is. */
bool xvm_groups_apply(struct xvm_daemon *d);

/* The peer table's row. */
static inline struct xvm_shm_peer *xvm_group_row(const struct xvm_group *g, uint32_t peer)
{
	return &xvm_region_header(&g->region)->peer[peer];
}

/* What all peers see of this one. */
void xvm_group_show(struct xvm_group *g, uint32_t peer, uint32_t state, uint32_t flags);
/* What the last VM of this number has left behind goes, and its memory is free. */
void xvm_group_wipe(struct xvm_group *g, uint32_t peer);

#endif
