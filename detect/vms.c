/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "detect/daemon.h"
#include "detect/log.h"
#include "detect/netlink.h"
#include "detect/relay.h"
#include "detect/vms.h"

static const uint8_t no_addr[16];

/* The statement that follows for each VM that is alive. */
#define EACH_VM(d, n, t, g, i, vm)                                                                 \
	for (XVM_EACH(n, t, &(d)->groups.all))                                                     \
		for (g = xvm_container(n, struct xvm_group, in_all), i = 1; i < g->region.peers;   \
		     i++)                                                                          \
			if ((vm = g->vm[i]) && !vm->dead)

/* ---- belief ----------------------------------------------------------- */

static bool is_one_of(uint32_t ifindex, const uint32_t *tap, uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (tap[i] == ifindex)
			return true;
	return false;
}

static bool mac_behind(const struct xvm_netns *all, const uint32_t *tap, uint32_t n_taps,
		       const uint8_t mac[6], bool *elsewhere)
{
	struct xvm_list *n, *t;
	bool behind = false;

	for (XVM_EACH(n, t, &all->neighs)) {
		const struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (memcmp(g->addr, no_addr, 16) != 0 || memcmp(g->mac, mac, 6) != 0)
			continue;
		if (is_one_of(g->ifindex, tap, n_taps))
			behind = true;
		else
			*elsewhere = true;
	}
	return behind;
}

enum xvm_belief xvm_vms_belief(const struct xvm_netns *all, const uint32_t *tap, uint32_t n_taps,
			       const uint8_t addr[16], const uint8_t mac[6])
{
	bool elsewhere = false, other = false, ours = false, ignored = false;
	struct xvm_list *n, *t;

	if (!mac_behind(all, tap, n_taps, mac, &elsewhere))
		return elsewhere ? XVM_BELIEF_REFUSED : XVM_BELIEF_NONE;
	for (XVM_EACH(n, t, &all->neighs)) {
		const struct xvm_nl_neigh *g = xvm_container(n, struct xvm_nl_neigh, in_all);

		if (memcmp(g->addr, addr, 16) != 0)
			continue;
		/* A VM of two devices may answer for an address of the one on the other. */
		if (mac_behind(all, tap, n_taps, g->mac, &ignored))
			ours = true;
		else
			other = true;
	}
	if (ours)
		return XVM_BELIEF_SEEN;
	return other ? XVM_BELIEF_REFUSED : XVM_BELIEF_MAC;
}

/* ---- claims ----------------------------------------------------------- */

static struct xvm_claim *find(const struct xvm_vm *vm, const uint8_t addr[16])
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &vm->claims)) {
		struct xvm_claim *c = xvm_container(n, struct xvm_claim, in_vm);

		if (!memcmp(c->addr, addr, 16))
			return c;
	}
	return NULL;
}

static void forget(struct xvm_vm *vm, struct xvm_claim *c)
{
	xvm_list_del(&c->in_vm);
	vm->n_claims--;
	free(c);
	vm->group->d->groups.dirty = true;
}

bool xvm_vms_claim(struct xvm_vm *vm, const uint8_t addr[16], const uint8_t mac[6])
{
	struct xvm_claim *c = find(vm, addr);

	if (!c) {
		c = vm->n_claims < XVM_VM_CLAIMS_MAX ? calloc(1, sizeof(*c)) : NULL;
		if (!c)
			return false;
		memcpy(c->addr, addr, 16);
		xvm_list_add(&vm->claims, &c->in_vm);
		vm->n_claims++;
	}
	memcpy(c->mac, mac, 6);
	c->told = false;
	/* Its devices may have been made since we last looked: QEMU connects to us early. */
	if (!vm->n_taps)
		xvm_vm_find_taps(vm);
	vm->group->d->groups.dirty = true;
	return true;
}

void xvm_vms_unclaim(struct xvm_vm *vm, const uint8_t addr[16])
{
	struct xvm_claim *c = find(vm, addr);

	if (c)
		forget(vm, c);
}

void xvm_vms_unclaim_all(struct xvm_vm *vm)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &vm->claims))
		forget(vm, xvm_container(n, struct xvm_claim, in_vm));
}

/* ---- what has changed ------------------------------------------------- */

void xvm_vms_dirty(struct xvm_daemon *d)
{
	d->groups.dirty = d->groups.look_for_taps = true;
}

static bool has_tap(const struct xvm_vm *vm, const char *name)
{
	uint32_t i;

	for (i = 0; i < vm->n_taps; i++)
		if (!strcmp(vm->tap[i], name))
			return true;
	return false;
}

struct xvm_vm *xvm_vms_of_tap(const struct xvm_daemon *d, const char *name)
{
	struct xvm_list *n, *t;
	struct xvm_group *g;
	struct xvm_vm *vm;
	uint32_t i;

	EACH_VM(d, n, t, g, i, vm)
	{
		if (has_tap(vm, name))
			return vm;
	}
	return NULL;
}

struct xvm_vm *xvm_vms_find(const struct xvm_daemon *d, uint32_t serial)
{
	struct xvm_list *n, *t;
	struct xvm_group *g;
	struct xvm_vm *vm;
	uint32_t i;

	EACH_VM(d, n, t, g, i, vm)
	{
		if (vm->serial == serial)
			return vm;
	}
	return NULL;
}

void xvm_vms_link(struct xvm_daemon *d, const struct xvm_nl_link *l, bool gone)
{
	if (xvm_list_empty(&d->groups.all))
		return;
	/* A tap that comes, or is opened, is of a VM that we may know already. */
	if (xvm_vms_of_tap(d, l->name))
		d->groups.dirty = true;
	else if (!gone && !strcmp(l->kind, "tun"))
		d->groups.look_for_taps = true;
}

bool xvm_vms_concerned(const struct xvm_daemon *d, const uint8_t addr[16], const uint8_t mac[6])
{
	struct xvm_list *n, *t, *l, *lt;
	struct xvm_group *g;
	struct xvm_vm *vm;
	uint32_t i;

	EACH_VM(d, n, t, g, i, vm)
	{
		for (XVM_EACH(l, lt, &vm->claims)) {
			const struct xvm_claim *c = xvm_container(l, struct xvm_claim, in_vm);

			if (!memcmp(c->addr, addr, 16) || !memcmp(c->mac, mac, 6))
				return true;
		}
	}
	return false;
}

void xvm_vms_neigh(struct xvm_daemon *d, const struct xvm_nl_neigh *g)
{
	if (!d->groups.dirty && !xvm_list_empty(&d->groups.all) &&
	    xvm_vms_concerned(d, g->addr, g->mac))
		d->groups.dirty = true;
}

struct xvm_vm *xvm_vms_claimant(const struct xvm_daemon *d, const uint8_t addr[16])
{
	const struct xvm_claim *c;
	struct xvm_list *n, *t;
	struct xvm_group *g;
	struct xvm_vm *vm;
	uint32_t i;

	EACH_VM(d, n, t, g, i, vm)
	{
		c = find(vm, addr);
		if (c && c->belief >= XVM_BELIEF_MAC)
			return vm;
	}
	return NULL;
}

/* ---- in words --------------------------------------------------------- */

void xvm_vms_explain(const struct xvm_vm *vm, char *text, size_t len)
{
	const struct xvm_ns *own = vm->group->d->netns.own;
	const struct xvm_nl_link *br;
	struct xvm_list *n, *t;
	int at;

	at = snprintf(text, len, "VM %u of group %s (pid %d)", vm->peer, vm->group->conf.name,
		      vm->pid);
	if (!vm->n_taps && at > 0 && (size_t)at < len)
		at += snprintf(text + at, len - at, "; %s", vm->no_taps);
	for (XVM_EACH(n, t, &own->links)) {
		const struct xvm_nl_link *l = xvm_container(n, struct xvm_nl_link, in_ns);

		if (!has_tap(vm, l->name) || at < 0 || (size_t)at >= len)
			continue;
		br = l->master ? xvm_netlink_link(own, l->master) : NULL;
		at += snprintf(text + at, len - at, ", %s%s%s", l->name, br ? " on bridge " : "",
			       br ? br->name : "");
	}
}

/* ---- bringing up to date ---------------------------------------------- */

static uint32_t interfaces(const struct xvm_vm *vm, uint32_t ifindex[XVM_VM_TAPS_MAX])
{
	struct xvm_ns *own = vm->group->d->netns.own;
	struct xvm_list *n, *t;
	uint32_t count = 0;

	for (XVM_EACH(n, t, &own->links)) {
		const struct xvm_nl_link *l = xvm_container(n, struct xvm_nl_link, in_ns);

		if (count < XVM_VM_TAPS_MAX && has_tap(vm, l->name))
			ifindex[count++] = l->ifindex;
	}
	return count;
}

static void words(const uint8_t addr[16], char text[INET6_ADDRSTRLEN])
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	bool v4 = !memcmp(addr, mapped, sizeof(mapped));

	inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? addr + 12 : addr, text, INET6_ADDRSTRLEN);
}

static void tell(struct xvm_vm *vm, struct xvm_claim *c)
{
	char text[INET6_ADDRSTRLEN];
	const uint8_t *m = c->mac;

	if (c->told)
		return;
	c->told = true;
	words(c->addr, text);
	if (c->belief != XVM_BELIEF_REFUSED && !vm->n_taps)
		xvm_log(LOG_WARNING, "group %s: VM %u claims %s, but no tap of it is seen: %s",
			vm->group->conf.name, vm->peer, text, vm->no_taps);
	xvm_log(c->belief == XVM_BELIEF_REFUSED ? LOG_WARNING : LOG_INFO,
		"group %s: VM %u claims %s at %02x:%02x:%02x:%02x:%02x:%02x, which %s",
		vm->group->conf.name, vm->peer, text, m[0], m[1], m[2], m[3], m[4], m[5],
		c->belief == XVM_BELIEF_REFUSED ? "is known to be elsewhere: refused"
						: "has not been seen behind its taps yet");
	xvm_relay_addr_refused(vm, c->addr, c->belief == XVM_BELIEF_REFUSED ? EPERM : EAGAIN);
}

static void weigh(struct xvm_vm *vm)
{
	struct xvm_daemon *d = vm->group->d;
	uint32_t tap[XVM_VM_TAPS_MAX], n_taps = interfaces(vm, tap);
	struct xvm_list *n, *t;

	xvm_residency_sweep_begin(vm->place);
	for (XVM_EACH(n, t, &vm->claims)) {
		struct xvm_claim *c = xvm_container(n, struct xvm_claim, in_vm);
		enum xvm_belief was = c->belief;

		c->belief = xvm_vms_belief(&d->netns, tap, n_taps, c->addr, c->mac);
		if (c->belief >= XVM_BELIEF_MAC) {
			xvm_residency_add_vm(&d->residency, vm->place, c->addr, c->mac,
					     c->belief == XVM_BELIEF_SEEN);
			c->told = false;
			continue;
		}
		if (was != c->belief)
			c->told = false;
		tell(vm, c);
	}
	xvm_residency_sweep_end(&d->residency, vm->place);
}

static void publish(struct xvm_group *g)
{
	struct xvm_daemon *d = g->d;
	struct xvm_shm_region_res *res;
	bool left_out;
	uint32_t n, i;

	res = calloc(XVM_REGION_RES_MAX, sizeof(*res));
	if (!res)
		return; /* and again when something else has changed */
	n = xvm_residency_of_group(&d->residency, g, res, &left_out);
	if (left_out && !g->said_left_out)
		xvm_log(LOG_WARNING,
			"group %s: more than %d addresses on this host: VMs do not see the rest",
			g->conf.name, XVM_REGION_RES_MAX);
	g->said_left_out = left_out;
	if (xvm_region_publish(&g->region, res, n, g->res, &g->n_res))
		for (i = 1; i < g->region.peers; i++)
			if (g->vm[i] && xvm_relay_up(g->vm[i]))
				xvm_vm_ring(g->vm[i]);
	g->published = d->residency.changes;
	free(res);
}

void xvm_vms_update(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;
	struct xvm_group *g;
	struct xvm_vm *vm;
	uint32_t i;

	if (d->groups.look_for_taps) {
		d->groups.look_for_taps = false;
		EACH_VM(d, n, t, g, i, vm)
		{
			if (xvm_vm_find_taps(vm))
				d->groups.dirty = true;
		}
	}
	if (d->groups.dirty) {
		d->groups.dirty = false;
		EACH_VM(d, n, t, g, i, vm)
		{
			if (vm->place)
				weigh(vm);
		}
	}
	for (XVM_EACH(n, t, &d->groups.all)) {
		g = xvm_container(n, struct xvm_group, in_all);
		if (g->published != d->residency.changes)
			publish(g);
	}
}
