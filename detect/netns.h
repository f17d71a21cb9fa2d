/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network namespaces that clients live in. Each has one netlink socket, which was
 * opened inside it and tells of its addresses from then on; when its last client has gone
 * the socket is closed and its addresses are forgotten.
 *
 * A namespace is followed only if it belongs to our own user namespace. In one that an
 * unprivileged user made, he can give himself any address, and with TCP_REPAIR any established
 * socket: he could take over a stranger's connection to that address.
 */
#ifndef XVM_DETECT_NETNS_H
#define XVM_DETECT_NETNS_H

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "detect/list.h"
#include "detect/residency.h"

#define XVM_NETNS_MAX 4096

struct xvm_daemon;
struct nl_sock;

struct xvm_ns {
	struct xvm_list in_all, links;
	struct xvm_daemon *d;
	uint32_t refs;
	uint64_t dev, ino;
	struct xvm_res_ns *res;
	struct nl_sock *sock;
	ev_io io;
	ev_timer again; /* after a dump that failed */
	uint32_t n_links;
	bool dump_done, dump_torn;
};

struct xvm_netns {
	struct xvm_list all;
	struct xvm_ns *own;
	int own_fd; /* to come back */
	uint64_t user_dev, user_ino;
	uint32_t count;
	bool cannot;		/* setns is not permitted: said once */
	struct xvm_list neighs; /* of our own namespace */
	uint32_t n_neighs;
};

int xvm_netns_init(struct xvm_daemon *d);
void xvm_netns_exit(struct xvm_daemon *d);

/* References to the namespace of a process, of a socket (fd, whose cookie is known); NULL where it
 * cannot be followed. */
struct xvm_ns *xvm_netns_of_pid(struct xvm_daemon *d, pid_t pid);
struct xvm_ns *xvm_netns_of_sock(struct xvm_daemon *d, int fd, uint64_t cookie);
void xvm_netns_put(struct xvm_ns *ns);

/* Where an address of that namespace is, in words: "veth vethA on bridge br0". */
void xvm_netns_explain(struct xvm_daemon *d, const struct xvm_ns *ns, uint32_t ifindex,
		       const uint8_t addr[16], char *text, size_t len);
/* What the bridge's and the neighbours' tables say of an address that no client's namespace has. */
void xvm_netns_explain_stranger(struct xvm_daemon *d, const uint8_t addr[16], char *text,
				size_t len);

#endif
