/* SPDX-License-Identifier: Apache-2.0 */
/* The state of xvmd: one loop, one thread. */
#ifndef XVM_DETECT_DAEMON_H
#define XVM_DETECT_DAEMON_H

#include <ev.h>

#include "detect/conf.h"
#include "detect/conn.h"
#include "detect/guest.h"
#include "detect/ivshmem_server.h"
#include "detect/netns.h"
#include "detect/pairing.h"
#include "detect/residency.h"

#define XVM_OFFERS_MAX 200000
#define XVM_OFFERS_CLIENT 20000
#define XVM_PAIRS_MAX 1000000
#define XVM_SLOT_BUCKETS 65536

#define XVM_DAEMON_COUNTERS(X)                                                                     \
	X(offers) X(pairs) X(refused) X(withdrawn) X(dropped) X(clients) X(resyncs)

struct xvm_daemon {
	struct ev_loop *loop;
	struct xvm_shm_table *table;
	int table_fd, listen_fd, spare_fd;
	ev_io listen_io;
	ev_prepare prepare;

	struct xvm_conf *conf;

	uint32_t fds, fds_max; /* descriptors held for clients, and how many there may be */
	struct xvm_list users, arenas, all, dead;
	struct xvm_slot *slot[XVM_SLOT_BUCKETS]; /* by arena and slot */
	struct xvm_conn *conn[XVM_CLIENTS_MAX];
	uint32_t next_id, n_conns, n_programs;
	uint64_t arena_serial;

	struct xvm_pairing pairing;
	struct xvm_residency residency;
	struct xvm_netns netns;
	struct xvm_groups groups;
	struct xvm_guests guests;
	struct xvm_pairs *pairs;
	struct xvm_answer *answer;

	struct {
#define X(name) uint64_t name;
		XVM_DAEMON_COUNTERS(X)
#undef X
	} n;
	uint64_t retired[16]; /* XVM_COUNTERS of arenas that are gone */

	void (*idle)(struct xvm_daemon *d); /* connections or programs have come or gone */
};

/* d is zeroed but for loop and conf. A daemon whose init failed can only be left. */
int xvm_daemon_init(struct xvm_daemon *d);
void xvm_daemon_exit(struct xvm_daemon *d);

/* Serve this listening socket (-1: none) instead of the last, which is closed. */
void xvm_daemon_listen(struct xvm_daemon *d, int fd);
void xvm_daemon_accept(struct xvm_daemon *d);

/* Out of descriptors, in spite of all counting: a connection that cannot be accepted would keep
 * the loop spinning. One is kept in reserve to take it in and turn it away. */
void xvm_daemon_turn_away(struct xvm_daemon *d, int listen_fd);

#endif
