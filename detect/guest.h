/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's role: what xvmd does where it finds ivshmem devices. It says hello to the host's
 * xvmd, reports the addresses of this kernel, puts what the region says of others into its own
 * residency, and relays: guest_ep.h has the endpoints. transport/REGION.md is the protocol.
 *
 * Whatever is read from the region is hostile. What is wrong with it ends our run (the time between
 * a hello and the next): all that belongs to it is over, and we say hello anew.
 */
#ifndef XVM_DETECT_GUEST_H
#define XVM_DETECT_GUEST_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

#include "detect/ivshmem_device.h"
#include "detect/keeper.h"
#include "detect/lease.h"
#include "detect/life.h"
#include "detect/list.h"
#include "detect/record.h"
#include "transport/region.h"

#define XVM_GUEST_ADDRS_MAX 1024
/* Letters that wait for the host. With so many nothing new is said, offered or claimed; what ends
 * is not more than there is. Streams go on, if the host's xvmd is gone for ever. */
#define XVM_GUEST_QUEUE_MAX 1024
#define XVM_GUEST_BUCKETS 4096
#define XVM_GUEST_PATIENCE_S .25 /* that a hello is waited for; doubled up to the next */
#define XVM_GUEST_PATIENCE_MAX_S 8.
#define XVM_GUEST_LOOK_S .05 /* how often one word is looked at, where there are no interrupts */

struct xvm_daemon;
struct xvm_guest_ep;

struct xvm_guest_addr {
	uint8_t addr[16], mac[6];
	bool there;
};

struct xvm_guest {
	struct xvm_daemon *d;
	uint32_t index; /* as clients know the region */
	struct xvm_ivshmem dev;
	struct xvm_region region;
	struct xvm_mailbox box;
	uint32_t self; /* our number */
	bool opened;   /* region and box are valid */
	bool up;       /* we are welcome */
	bool resumed;  /* this is our predecessor's run, and we are not welcome yet */
	bool lost;     /* our predecessor's interrupts are gone, and memory was, for a moment */
	bool absent;   /* unplugged: all that is kept is its place */
	uint64_t run;
	const char *broken; /* why the run is to end */
	const char *said;   /* the last trouble that was logged */

	int bell;			    /* vector 0, or -1 */
	int vector[XVM_REGION_VECTORS_MAX]; /* those that processes have */
	const struct xvm_conn *vector_of[XVM_REGION_VECTORS_MAX];
	ev_io bell_io;
	int request; /* rung when the device is to be unplugged; or -1 */
	ev_io request_io;
	ev_timer leave;	   /* unplug.c's */
	ev_tstamp leaving; /* since when it is to go, or 0 */
	ev_timer patience, look;
	ev_tstamp asked; /* since when the host is to give a sign of life, or 0 */
	uint64_t news;
	bool ring; /* there is mail that the host was not rung for */
	struct xvm_list queue;
	uint32_t n_queue;

	struct xvm_guest_addr *told; /* addresses that the host was told of */
	uint32_t n_told;
	uint64_t told_changes; /* up to which change of residency */
	bool links_changed;

	struct xvm_shm_region_res *res;
	uint64_t res_seq;
	struct xvm_res_ns *place[XVM_REGION_PEERS_MAX];
	struct xvm_res_ns *twice; /* has what the host says is in two places */

	struct xvm_lease_book book; /* of our arena; offsets are the region's */
	struct xvm_record record;
	struct xvm_life life; /* by the names of kins, and vectors */
	struct xvm_keeper keeper;
	struct xvm_list kins;
	ev_timer watch; /* over kins that are not connected */
	ev_tstamp watch_s;
	struct xvm_guest_ep **ep; /* guest_ep.c's */
	struct xvm_list eps;
	uint64_t fence, fence_asked; /* guest_ep.c: withdrawals, and up to which was asked */
};

struct xvm_guests {
	struct xvm_guest *g[XVM_IVSHMEM_DEVICES_MAX];
	uint32_t n;
	const char *root;
	int uevents; /* 0: not watched. uevent.c's */
	ev_io uevent_io;
	ev_timer uevent_look;
	uint32_t uevent_looks;
};

/* Look for devices under root, "" if it is no test's; those that are there already stay. */
/* True: a new one was found. */
bool xvm_guests_look(struct xvm_daemon *d, const char *root);
/* Before clients are dropped: what they have stays theirs, for our successor to find. */
void xvm_guests_exit(struct xvm_daemon *d);
/* The device is ours no more. Its place stays: programs know it by its number. */
void xvm_guest_close(struct xvm_guest *g);

/* Before the loop sleeps: tell the host what there is to tell. */
void xvm_guests_flush(struct xvm_daemon *d);
/* From netlink.c: MACs may have changed. */
void xvm_guests_links_changed(struct xvm_daemon *d);
/* A program has come, or (NULL) rules about users have changed: say what it may map. */
void xvm_guests_greet(struct xvm_daemon *d, struct xvm_conn *c);

/* By which device the place is reached that residency.h calls by this serial. */
struct xvm_guest *xvm_guests_of_serial(const struct xvm_daemon *d, uint32_t serial);

void xvm_guest_send(struct xvm_guest *g, const struct xvm_letter *l);
void xvm_guest_hello(struct xvm_guest *g);
/* Others are not to believe that our addresses can be reached by memory. Pairs go on, unless the
 * device is unplugged: then there are none. */
void xvm_guest_bye(struct xvm_guest *g, bool unplugged);

/* One line for xvm check and the log. */
void xvm_guest_explain(const struct xvm_guest *g, char *text, size_t len);

#endif
