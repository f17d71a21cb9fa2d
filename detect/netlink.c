/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/msg.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/neighbour.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "detect/daemon.h"
#include "detect/guest.h"
#include "detect/log.h"
#include "detect/netlink.h"
#include "detect/vms.h"

#define BUFFER (1 << 20)
#define TRIES 5		/* of a dump that is interrupted by changes */
#define READ_AT_ONCE 64 /* before others have their turn */
#define LINKS_MAX 4096
#define NEIGHS_MAX 8192

static bool own(const struct xvm_ns *ns)
{
	return ns->d->netns.own == ns;
}

/* The 16-byte form of a libnl address. */
static bool addr16(const struct nl_addr *a, uint8_t to[16])
{
	if (!a)
		return false;
	if (nl_addr_get_family(a) == AF_INET && nl_addr_get_len(a) == 4) {
		memset(to, 0, 10);
		memset(to + 10, 0xff, 2);
		memcpy(to + 12, nl_addr_get_binary_addr(a), 4);
		return true;
	}
	if (nl_addr_get_family(a) == AF_INET6 && nl_addr_get_len(a) == 16) {
		memcpy(to, nl_addr_get_binary_addr(a), 16);
		return true;
	}
	return false;
}

static bool mac6(const struct nl_addr *a, uint8_t to[6])
{
	if (!a || nl_addr_get_len(a) != 6)
		return false;
	memcpy(to, nl_addr_get_binary_addr(a), 6);
	return true;
}

/* ---- addresses -------------------------------------------------------- */

static void on_addr(struct xvm_ns *ns, struct rtnl_addr *a, bool gone)
{
	struct xvm_residency *r = &ns->d->residency;
	uint32_t ifindex = rtnl_addr_get_ifindex(a);
	uint8_t addr[16];

	if (!addr16(rtnl_addr_get_local(a), addr))
		return;
	/* Nobody answers for it before duplicate address detection has ended. */
	if (rtnl_addr_get_flags(a) & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
		gone = true;
	if (gone)
		xvm_residency_del(r, ns->res, ifindex, addr);
	else
		xvm_residency_add(r, ns->res, ifindex, addr);
}

/* ---- links ------------------------------------------------------------ */

static struct xvm_nl_link *find_link(const struct xvm_ns *ns, uint32_t ifindex)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &ns->links)) {
		struct xvm_nl_link *l = xvm_container(n, struct xvm_nl_link, in_ns);

		if (l->ifindex == ifindex)
			return l;
	}
	return NULL;
}

static void copy_name(char to[16], const char *from)
{
	size_t n = from ? strnlen(from, 15) : 0;

	memcpy(to, from ? from : "", n);
	to[n] = 0;
}

static void forget_link(struct xvm_ns *ns, struct xvm_nl_link *l)
{
	xvm_list_del(&l->in_ns);
	ns->n_links--;
	free(l);
}

static void on_link(struct xvm_ns *ns, struct rtnl_link *link, bool gone)
{
	uint32_t ifindex = rtnl_link_get_ifindex(link);
	struct xvm_nl_link *l;

	l = find_link(ns, ifindex);
	if (gone) {
		if (l && own(ns))
			xvm_vms_link(ns->d, l, true);
		if (l)
			forget_link(ns, l);
		return;
	}
	if (!l) {
		if (ns->n_links >= LINKS_MAX)
			return;
		l = calloc(1, sizeof(*l));
		if (!l)
			return;
		l->ifindex = ifindex;
		xvm_list_add(&ns->links, &l->in_ns);
		ns->n_links++;
	}
	l->sweep = ns->res->sweep;
	l->master = rtnl_link_get_master(link);
	l->peer = rtnl_link_get_link(link);
	copy_name(l->name, rtnl_link_get_name(link));
	copy_name(l->kind, rtnl_link_get_type(link));
	mac6(rtnl_link_get_addr(link), l->mac);
	xvm_guests_links_changed(ns->d);
	if (own(ns))
		xvm_vms_link(ns->d, l, false);
}

/* ---- neighbours and FDB, of our own namespace ------------------------- */

static void forget_neigh(struct xvm_netns *all, struct xvm_nl_neigh *g)
{
	xvm_list_del(&g->in_all);
	all->n_neighs--;
	free(g);
}

static struct xvm_nl_neigh *find_neigh(const struct xvm_netns *all, const struct xvm_nl_neigh *want,
				       bool fdb)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &all->neighs)) {
		struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (g->ifindex == want->ifindex && !memcmp(g->addr, want->addr, 16) &&
		    (!fdb || (!memcmp(g->mac, want->mac, 6) && g->vlan == want->vlan)))
			return g;
	}
	return NULL;
}

/* A MAC that moves to another port of its bridge is said to be there, and not to have left. */
static void forget_elsewhere(struct xvm_ns *ns, const struct xvm_nl_neigh *now)
{
	const struct xvm_nl_link *l = find_link(ns, now->ifindex), *was;
	struct xvm_netns *all = &ns->d->netns;
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &all->neighs)) {
		struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (g->ifindex == now->ifindex || memcmp(g->addr, now->addr, 16) != 0 ||
		    memcmp(g->mac, now->mac, 6) != 0 || g->vlan != now->vlan)
			continue;
		was = find_link(ns, g->ifindex);
		if (l && was && l->master && l->master == was->master)
			forget_neigh(all, g);
	}
}

static void on_neigh(struct xvm_ns *ns, struct rtnl_neigh *neigh, bool gone)
{
	struct xvm_netns *all = &ns->d->netns;
	struct xvm_nl_neigh want = {.ifindex = rtnl_neigh_get_ifindex(neigh)}, *g;
	bool fdb = rtnl_neigh_get_family(neigh) == AF_BRIDGE;

	if (!fdb && !addr16(rtnl_neigh_get_dst(neigh), want.addr))
		return;
	if (fdb)
		want.vlan = rtnl_neigh_get_vlan(neigh);
	if (!mac6(rtnl_neigh_get_lladdr(neigh), want.mac)) {
		if (fdb)
			return;
		gone = true; /* failed, or being looked for */
	}
	g = find_neigh(all, &want, fdb);
	if (gone) {
		if (g) {
			xvm_vms_neigh(ns->d, g);
			forget_neigh(all, g);
		}
		return;
	}
	if (g && !memcmp(g->mac, want.mac, 6)) {
		g->sweep = ns->res->sweep;
		return;
	}
	if (!g) {
		/* Many MACs are easily made up by one who wants that others' find no room. */
		if (all->n_neighs >= NEIGHS_MAX && !xvm_vms_concerned(ns->d, want.addr, want.mac))
			return;
		g = calloc(1, sizeof(*g));
		if (!g)
			return;
		*g = want;
		xvm_list_add(&all->neighs, &g->in_all);
		all->n_neighs++;
	}
	if (fdb)
		forget_elsewhere(ns, &want);
	memcpy(g->mac, want.mac, 6);
	g->sweep = ns->res->sweep;
	xvm_vms_neigh(ns->d, g);
}

const struct xvm_nl_link *xvm_netlink_link(const struct xvm_ns *ns, uint32_t ifindex)
{
	return find_link(ns, ifindex);
}

const struct xvm_nl_neigh *xvm_netlink_neigh(const struct xvm_netns *all, const uint8_t *addr,
					     const uint8_t *mac)
{
	static const uint8_t fdb[16];
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &all->neighs)) {
		struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (!memcmp(g->addr, addr ? addr : fdb, 16) && (!mac || !memcmp(g->mac, mac, 6)))
			return g;
	}
	return NULL;
}

/* ---- the socket ------------------------------------------------------- */

static void on_object(struct nl_object *o, void *arg)
{
	struct xvm_ns *ns = arg;

	switch (nl_object_get_msgtype(o)) {
	case RTM_NEWADDR:
	case RTM_DELADDR:
		on_addr(ns, (struct rtnl_addr *)o, nl_object_get_msgtype(o) == RTM_DELADDR);
		break;
	case RTM_NEWLINK:
	case RTM_DELLINK:
		on_link(ns, (struct rtnl_link *)o, nl_object_get_msgtype(o) == RTM_DELLINK);
		break;
	case RTM_NEWNEIGH:
	case RTM_DELNEIGH:
		if (own(ns))
			on_neigh(ns, (struct rtnl_neigh *)o,
				 nl_object_get_msgtype(o) == RTM_DELNEIGH);
		break;
	}
}

static int on_valid(struct nl_msg *msg, void *arg)
{
	const struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct ifinfomsg *ifi = nlmsg_data(h);

	/*
	 * A bridge says in its own family that a port has left: the link itself is still there.
	 * Asked of the message, as libnl calls every bridge's family AF_BRIDGE.
	 */
	if ((h->nlmsg_type == RTM_NEWLINK || h->nlmsg_type == RTM_DELLINK) &&
	    (nlmsg_datalen(h) < (int)sizeof(*ifi) || ifi->ifi_family != AF_UNSPEC))
		return NL_OK;
	/* Anything that cannot be parsed is of a kind that does not concern us. */
	nl_msg_parse(msg, on_object, arg);
	return NL_OK;
}

static int on_finish(struct nl_msg *msg, void *arg)
{
	((struct xvm_ns *)arg)->dump_done = true;
	return NL_STOP;
}

static int on_interrupted(struct nl_msg *msg, void *arg)
{
	((struct xvm_ns *)arg)->dump_torn = true;
	return NL_OK;
}

static int from_nl(int err)
{
	switch (-err) {
	case NLE_AGAIN:
		return -EAGAIN;
	case NLE_NOMEM: /* what libnl makes of ENOBUFS */
		return -ENOBUFS;
	case NLE_INTR:
		return -EINTR;
	default:
		return -EIO;
	}
}

struct nl_sock *xvm_netlink_open(struct xvm_ns *ns)
{
	/* A dump waits for the kernel alone; that it answers at once is no reason to bet on it. */
	struct timeval tv = {.tv_sec = 2};
	struct nl_sock *sk = nl_socket_alloc();

	if (!sk) {
		errno = ENOMEM;
		return NULL;
	}
	nl_socket_disable_seq_check(sk);
	nl_socket_disable_auto_ack(sk);
	nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_valid, ns);
	nl_socket_modify_cb(sk, NL_CB_FINISH, NL_CB_CUSTOM, on_finish, ns);
	nl_socket_modify_cb(sk, NL_CB_DUMP_INTR, NL_CB_CUSTOM, on_interrupted, ns);
	if (nl_connect(sk, NETLINK_ROUTE))
		goto out_free;
	nl_socket_set_buffer_size(sk, BUFFER, 0);
	if (nl_socket_add_memberships(sk, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_LINK,
				      0))
		goto out_free;
	if (own(ns) && nl_socket_add_memberships(sk, RTNLGRP_NEIGH, 0))
		goto out_free;
	setsockopt(nl_socket_get_fd(sk), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return sk;

out_free:
	nl_socket_free(sk);
	errno = EIO;
	return NULL;
}

void xvm_netlink_close(struct xvm_ns *ns)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &ns->links))
		forget_link(ns, xvm_container(n, struct xvm_nl_link, in_ns));
	if (own(ns))
		for (XVM_EACH(n, t, &ns->d->netns.neighs))
			forget_neigh(&ns->d->netns, xvm_container(n, struct xvm_nl_neigh, in_all));
	nl_socket_free(ns->sock);
	ns->sock = NULL;
}

static void set_blocking(struct nl_sock *sk, bool on)
{
	int fd = nl_socket_get_fd(sk), flags = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

static int dump_one(struct xvm_ns *ns, int type, int family)
{
	struct ifinfomsg head = {.ifi_family = family}; /* long enough for all of them */
	int ret;

	ns->dump_done = false;
	ret = nl_send_simple(ns->sock, type, NLM_F_DUMP, &head, sizeof(head));
	if (ret < 0)
		return from_nl(ret);
	/* Events come in between: they are true, and later than what was dumped before. */
	while (!ns->dump_done) {
		ret = nl_recvmsgs_default(ns->sock);
		if (ret < 0 && ret != -NLE_INTR)
			return from_nl(ret);
	}
	return 0;
}

static int dump_all(struct xvm_ns *ns)
{
	int ret;

	ns->dump_torn = false;
	xvm_residency_sweep_begin(ns->res);
	ret = dump_one(ns, RTM_GETLINK, AF_UNSPEC);
	if (!ret)
		ret = dump_one(ns, RTM_GETADDR, AF_UNSPEC);
	if (!ret && own(ns))
		ret = dump_one(ns, RTM_GETNEIGH, AF_UNSPEC);
	if (!ret && own(ns))
		ret = dump_one(ns, RTM_GETNEIGH, AF_BRIDGE);
	if (!ret && ns->dump_torn)
		ret = -EINTR;
	return ret;
}

static void sweep(struct xvm_ns *ns)
{
	struct xvm_list *n, *t;

	xvm_residency_sweep_end(&ns->d->residency, ns->res);
	for (XVM_EACH(n, t, &ns->links)) {
		struct xvm_nl_link *l = xvm_container(n, struct xvm_nl_link, in_ns);

		if (l->sweep != ns->res->sweep)
			forget_link(ns, l);
	}
	if (!own(ns))
		return;
	for (XVM_EACH(n, t, &ns->d->netns.neighs)) {
		struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (g->sweep != ns->res->sweep)
			forget_neigh(&ns->d->netns, g);
	}
}

int xvm_netlink_dump(struct xvm_ns *ns)
{
	int i, ret = -EAGAIN;

	set_blocking(ns->sock, true);
	for (i = 0; i < TRIES && ret; i++)
		ret = dump_all(ns);
	set_blocking(ns->sock, false);
	if (!ret)
		sweep(ns);
	if (!ret && own(ns))
		xvm_vms_dirty(ns->d);
	if (ns->res->full)
		xvm_log(LOG_WARNING,
			"namespace %llu has more than %d addresses: the rest is left out",
			(unsigned long long)ns->ino, XVM_RESIDENCY_NS_ADDRS);
	return ret;
}

int xvm_netlink_read(struct xvm_ns *ns)
{
	int i, ret;

	for (i = 0; i < READ_AT_ONCE; i++) {
		ret = nl_recvmsgs_default(ns->sock);
		if (ret == -NLE_AGAIN)
			return 0;
		if (ret < 0 && ret != -NLE_INTR)
			return from_nl(ret);
	}
	return 0;
}
