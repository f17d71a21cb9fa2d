/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection to the control socket: a program (it has an arena) or a tool. Whatever it
 * sends is hostile. Nothing waits for it: what it does not read is queued, up to
 * XVM_BACKLOG messages, then it is dropped.
 *
 * A dropped connection stays in memory until the loop comes round (xvm_conn_reap), so that whoever
 * is walking a list of them need not care who fell on the way.
 */
#ifndef XVM_DETECT_CONN_H
#define XVM_DETECT_CONN_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "detect/list.h"
#include "detect/proto.h"
#include "transport/abi.h"

#define XVM_CONN_NS_MAX 16 /* namespaces that one program's sockets are followed into */

struct xvm_daemon;
struct xvm_ns;

/* What one user's clients take up. Nobody but root and the daemon's own user may have more than
 * half of anything that there is a limit of. */
struct xvm_user {
	struct xvm_list in_all;
	uid_t uid;
	bool trusted;
	uint32_t refs, fds;
	uint32_t conns;
	uint32_t queued; /* messages */
	uint32_t ends;	 /* of pairs */
};

#define XVM_USER_QUEUED_MAX (16 * XVM_BACKLOG)

/* What is going on about an endpoint of an arena. Goes when there is neither. */
struct xvm_slot {
	struct xvm_slot *hash_next;
	struct xvm_arena_ref *arena;
	uint32_t slot;
	struct xvm_offer *offer;
	struct xvm_end *end;
};

/* The memory that a process shares with its forks; each of them is a connection of its own. */
struct xvm_arena_ref {
	struct xvm_list in_all, conns, ends, pieces;
	struct xvm_user *user;
	uint64_t serial; /* never used twice, and rising along the list */
	uint64_t dev, ino;
	int fd;
	struct xvm_daemon *d;
	struct xvm_guest_kin *kin[XVM_REGIONS_GUEST]; /* by device */
};

/* What `xvm ss` or `xvm stats` is still to be told. */
struct xvm_walk {
	uint32_t type; /* XVM_MSG_SS, or 0 */
	uint64_t serial;
	uint32_t slot;
	uint32_t rows;
};

struct xvm_conn {
	struct xvm_daemon *d;
	struct xvm_list in_all, in_arena, in_dead;
	int fd;
	uint32_t id;
	ev_io rd, wr;
	bool hello, dead;

	pid_t pid, own_pid; /* as we see it; as it sees itself */
	uid_t uid;
	struct xvm_user *user;
	char *exe;     /* NULL: not to be known */
	char comm[16]; /* as it says */

	struct xvm_arena_ref *arena; /* NULL: a tool */
	int waker[XVM_WAKERS_MAX];   /* eventfds, or -1 */
	struct xvm_ns *ns[XVM_CONN_NS_MAX];
	struct xvm_list offers, links, met;
	uint32_t n_offers, n_links;

	struct xvm_list queue;
	uint32_t n_queue;
	struct xvm_walk walk;

	uint32_t regions, vectors; /* bit i: it was given region i, or a vector of it */
	uint32_t former;	   /* it was given one of that number which was unplugged */
};

void xvm_conn_accept(struct xvm_daemon *d, int fd);
/* The second half of it: NULL where a limit is reached. fd is then still the caller's. */
struct xvm_conn *xvm_conn_new(struct xvm_daemon *d, int fd, pid_t pid, uid_t uid);
void xvm_user_put(struct xvm_user *u);

/* One message with its n descriptors, which are used up. */
void xvm_conn_message(struct xvm_conn *c, const struct xvm_msg *m, int *fds, int n);

/* Say why (NULL: there is nothing to say) and drop. Harmless if it is dead. */
void xvm_conn_drop(struct xvm_conn *c, const char *why);
void xvm_conn_reap(struct xvm_daemon *d);

/* The descriptors stay the caller's. */
void xvm_conn_send(struct xvm_conn *c, const struct xvm_msg *m, const int *fds, int n);

/* Short forms of the above. */
void xvm_conn_say(struct xvm_conn *c, uint32_t type, uint32_t slot, uint32_t gen, uint32_t arg);
void xvm_conn_end(struct xvm_conn *c, uint32_t err, uint32_t arg2, const char *text);

/* Take, or give back, n descriptors on this client's account. */
bool xvm_conn_charge(struct xvm_conn *c, uint32_t n);
void xvm_conn_release(struct xvm_conn *c, uint32_t n);

/* A message that makes no sense. */
void xvm_conn_nonsense(struct xvm_conn *c, const char *what);

#endif
