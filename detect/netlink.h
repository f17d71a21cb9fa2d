/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says of one namespace: addresses and links; of our own also neighbours and
 * the bridges' FDB. By events; a dump at the start and whenever events were lost. */
#ifndef XVM_DETECT_NETLINK_H
#define XVM_DETECT_NETLINK_H

#include <stdbool.h>
#include <stdint.h>

#include "detect/netns.h"

struct xvm_nl_link {
	struct xvm_list in_ns;
	uint32_t ifindex, master;
	uint32_t peer; /* IFLA_LINK: of a veth, its other end */
	uint32_t sweep;
	char name[16], kind[16];
	uint8_t mac[6];
};

/* A neighbour's address, or (addr all zero) an entry of a bridge's FDB. */
struct xvm_nl_neigh {
	struct xvm_list in_all;
	uint32_t ifindex;
	uint32_t sweep;
	uint8_t addr[16];
	uint8_t mac[6];
	int vlan; /* of the bridge's */
};

/* A socket in the namespace that the thread is in now; NULL with errno. */
struct nl_sock *xvm_netlink_open(struct xvm_ns *ns);
void xvm_netlink_close(struct xvm_ns *ns);

/* Take stock. 0, or a negative errno: try again later. */
int xvm_netlink_dump(struct xvm_ns *ns);
/* Take what has come. 0, or a negative errno: take stock anew. */
int xvm_netlink_read(struct xvm_ns *ns);

const struct xvm_nl_link *xvm_netlink_link(const struct xvm_ns *ns, uint32_t ifindex);
/* Of our own namespace: by address (mac NULL), or in the FDB by mac (addr NULL). */
const struct xvm_nl_neigh *xvm_netlink_neigh(const struct xvm_netns *all, const uint8_t *addr,
					     const uint8_t *mac);

#endif
