/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "detect/daemon.h"
#include "detect/guest_addrs.h"
#include "detect/netlink.h"

#define SERIAL_GUEST 0x80000000u /* apart from those of VMs of our own */
#define NOBODY 0xffu		 /* no peer's number */

/* ---- our addresses ---------------------------------------------------- */

static struct xvm_guest_addr *find_addr(struct xvm_guest_addr *a, uint32_t n,
					const uint8_t addr[16])
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (!memcmp(a[i].addr, addr, 16))
			return &a[i];
	return NULL;
}

static bool usable(const uint8_t mac[6])
{
	static const uint8_t none[6];

	return memcmp(mac, none, 6) != 0 && !(mac[0] & 1);
}

static void say_addr(struct xvm_guest *g, const struct xvm_guest_addr *a, bool there)
{
	struct xvm_letter l = {.type = XVM_LETTER_ADDR, .arg = there};

	memcpy(l.laddr, a->addr, 16);
	memcpy(l.mac, a->mac, 6);
	xvm_guest_send(g, &l);
}

static void tell_addr(struct xvm_guest *g, const uint8_t addr[16], const uint8_t mac[6])
{
	struct xvm_guest_addr *a = find_addr(g->told, g->n_told, addr);

	if (a && (a->there || !memcmp(a->mac, mac, 6))) {
		a->there = true;
		return;
	}
	if (!a) {
		if (g->n_told == XVM_GUEST_ADDRS_MAX)
			return;
		a = &g->told[g->n_told++];
		memcpy(a->addr, addr, 16);
	}
	memcpy(a->mac, mac, 6);
	a->there = true;
	say_addr(g, a, true);
}

static void tell_ns(struct xvm_guest *g, const struct xvm_ns *ns)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &ns->res->addrs)) {
		const struct xvm_res_addr *a = xvm_container(n, struct xvm_res_addr, in_ns);
		const struct xvm_nl_link *l = xvm_netlink_link(ns, a->ifindex);

		if (l && usable(l->mac))
			tell_addr(g, a->addr, l->mac);
	}
}

void xvm_guest_addrs_tell(struct xvm_guest *g)
{
	struct xvm_list *n, *t;
	uint32_t i;

	if (g->n_queue >= XVM_GUEST_QUEUE_MAX)
		return; /* when the host reads again */
	g->told_changes = g->d->residency.changes;
	g->links_changed = false;
	for (i = 0; i < g->n_told; i++)
		g->told[i].there = false;
	for (XVM_EACH(n, t, &g->d->netns.all))
		tell_ns(g, xvm_container(n, struct xvm_ns, in_all));
	for (i = g->n_told; i-- > 0;) {
		if (g->told[i].there)
			continue;
		say_addr(g, &g->told[i], false);
		g->told[i] = g->told[--g->n_told];
	}
}

/* ---- the others' addresses -------------------------------------------- */

static struct xvm_res_ns *place_of(struct xvm_guest *g, uint32_t peer)
{
	struct xvm_residency *r = &g->d->residency;

	if (!g->place[peer]) {
		g->place[peer] = xvm_residency_vm_add(r, SERIAL_GUEST | g->index << 8 | peer, peer,
						      &g->region);
		if (g->place[peer]) {
			g->place[peer]->region = g->index;
			g->place[peer]->told = true;
		}
	}
	return g->place[peer];
}

static void mirror_one(struct xvm_guest *g, const struct xvm_shm_region_res *e)
{
	struct xvm_residency *r = &g->d->residency;
	bool twice = e->flags & XVM_RES_AMBIGUOUS;
	struct xvm_res_ns *place = e->peer == g->self ? NULL : place_of(g, e->peer);

	if (place)
		xvm_residency_add_vm(r, place, e->addr, e->mac, e->flags & XVM_RES_SEEN);
	if (twice && g->twice)
		xvm_residency_add_vm(r, g->twice, e->addr, e->mac, false);
}

void xvm_guest_addrs_mirror(struct xvm_guest *g)
{
	struct xvm_residency *r = &g->d->residency;
	struct xvm_shm_region *h = xvm_region_header(&g->region);
	uint64_t seq = atomic_load_explicit(&h->res_seq, memory_order_acquire);
	int i, n;

	if (seq == g->res_seq)
		return;
	n = xvm_region_residents(&g->region, g->res);
	if (n < 0)
		return; /* it is being written, and we are told of the end of that */
	g->res_seq = seq;
	if (!g->twice)
		g->twice = xvm_residency_vm_add(r, SERIAL_GUEST | g->index << 8 | NOBODY, NOBODY,
						&g->region);
	for (i = 0; i < XVM_REGION_PEERS_MAX; i++)
		if (g->place[i])
			xvm_residency_sweep_begin(g->place[i]);
	if (g->twice) {
		g->twice->told = true;
		xvm_residency_sweep_begin(g->twice);
	}
	for (i = 0; i < n; i++)
		mirror_one(g, &g->res[i]);
	for (i = 0; i < XVM_REGION_PEERS_MAX; i++)
		if (g->place[i])
			xvm_residency_sweep_end(r, g->place[i]);
	if (g->twice)
		xvm_residency_sweep_end(r, g->twice);
}

void xvm_guest_addrs_forget(struct xvm_guest *g)
{
	struct xvm_residency *r = &g->d->residency;
	uint32_t i;

	for (i = 0; i < XVM_REGION_PEERS_MAX; i++)
		if (g->place[i])
			xvm_residency_ns_del(r, g->place[i]);
	memset(g->place, 0, sizeof(g->place));
	if (g->twice)
		xvm_residency_ns_del(r, g->twice);
	g->twice = NULL;
	g->res_seq = 0;
}

struct xvm_guest *xvm_guests_of_serial(const struct xvm_daemon *d, uint32_t serial)
{
	uint32_t i = serial >> 8 & 0xff;

	return serial & SERIAL_GUEST && i < d->guests.n ? d->guests.g[i] : NULL;
}
