/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "detect/residency.h"
#include "detect/table.h"

static_assert(XVM_RESIDENCY_BUCKETS == XVM_RES_SLOTS, "both use xvm_table_slot()");

int xvm_residency_init(struct xvm_residency *r)
{
	memset(r, 0, sizeof(*r));
	xvm_list_init(&r->all);
	r->bucket = calloc(XVM_RESIDENCY_BUCKETS, sizeof(*r->bucket));
	r->next = calloc(XVM_RES_SLOTS, sizeof(*r->next));
	r->changed = calloc(XVM_RES_SLOTS, sizeof(*r->changed));
	return r->bucket && r->next && r->changed ? 0 : -ENOMEM;
}

void xvm_residency_exit(struct xvm_residency *r)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &r->all))
		xvm_residency_ns_del(r, xvm_container(n, struct xvm_res_ns, in_all));
	free(r->bucket);
	free(r->next);
	free(r->changed);
	memset(r, 0, sizeof(*r));
}

struct xvm_res_ns *xvm_residency_ns_add(struct xvm_residency *r, uint64_t cookie, bool local)
{
	struct xvm_res_ns *ns = calloc(1, sizeof(*ns));

	if (!ns)
		return NULL;
	ns->cookie = cookie;
	ns->local = local;
	ns->id = ++r->next_id;
	xvm_list_init(&ns->addrs);
	xvm_list_add(&r->all, &ns->in_all);
	return ns;
}

struct xvm_res_ns *xvm_residency_vm_add(struct xvm_residency *r, uint32_t serial, uint32_t peer,
					const void *group)
{
	struct xvm_res_ns *vm = xvm_residency_ns_add(r, 0, false);

	if (!vm)
		return NULL;
	vm->vm = serial;
	vm->peer = peer;
	vm->group = group;
	return vm;
}

static void changed(struct xvm_residency *r)
{
	r->dirty = true;
	r->changes++;
}

static void forget(struct xvm_residency *r, struct xvm_res_addr *a)
{
	struct xvm_res_addr **b = &r->bucket[xvm_table_slot(a->addr)];

	while (*b != a)
		b = &(*b)->hash_next;
	*b = a->hash_next;
	xvm_list_del(&a->in_ns);
	a->ns->count--;
	free(a);
	changed(r);
}

void xvm_residency_ns_del(struct xvm_residency *r, struct xvm_res_ns *ns)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &ns->addrs))
		forget(r, xvm_container(n, struct xvm_res_addr, in_ns));
	xvm_list_del(&ns->in_all);
	free(ns);
}

struct xvm_res_ns *xvm_residency_ns_find(const struct xvm_residency *r, uint64_t cookie)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &r->all)) {
		struct xvm_res_ns *ns = xvm_container(n, struct xvm_res_ns, in_all);

		if (ns->cookie == cookie && !ns->vm)
			return ns;
	}
	return NULL;
}

struct xvm_res_ns *xvm_residency_vm_find(const struct xvm_residency *r, uint32_t serial)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &r->all)) {
		struct xvm_res_ns *ns = xvm_container(n, struct xvm_res_ns, in_all);

		if (ns->vm == serial)
			return ns;
	}
	return NULL;
}

static bool link_local(const uint8_t addr[16])
{
	return addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

static struct xvm_res_addr *look_up(const struct xvm_residency *r, const struct xvm_res_ns *ns,
				    const uint32_t *ifindex, const uint8_t addr[16])
{
	struct xvm_res_addr *a = r->bucket[xvm_table_slot(addr)];

	for (; a; a = a->hash_next)
		if (a->ns == ns && (!ifindex || a->ifindex == *ifindex) &&
		    !memcmp(a->addr, addr, 16))
			return a;
	return NULL;
}

int xvm_residency_add(struct xvm_residency *r, struct xvm_res_ns *ns, uint32_t ifindex,
		      const uint8_t addr[16])
{
	struct xvm_res_addr *a, **b;

	if (xvm_table_loopback(addr) || link_local(addr))
		return 0;
	a = look_up(r, ns, &ifindex, addr);
	if (a) {
		a->sweep = ns->sweep;
		return 0;
	}
	if (ns->count >= XVM_RESIDENCY_NS_ADDRS) {
		ns->full = true;
		return -ENOSPC;
	}
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	memcpy(a->addr, addr, 16);
	a->ifindex = ifindex;
	a->sweep = ns->sweep;
	a->ns = ns;
	b = &r->bucket[xvm_table_slot(addr)];
	a->hash_next = *b;
	*b = a;
	xvm_list_add(&ns->addrs, &a->in_ns);
	ns->count++;
	changed(r);
	return 0;
}

void xvm_residency_del(struct xvm_residency *r, struct xvm_res_ns *ns, uint32_t ifindex,
		       const uint8_t addr[16])
{
	struct xvm_res_addr *a = look_up(r, ns, &ifindex, addr);

	if (a)
		forget(r, a);
}

int xvm_residency_add_vm(struct xvm_residency *r, struct xvm_res_ns *vm, const uint8_t addr[16],
			 const uint8_t mac[6], bool seen)
{
	int ret = xvm_residency_add(r, vm, 0, addr);
	struct xvm_res_addr *a = look_up(r, vm, NULL, addr);

	if (ret || !a)
		return ret;
	if (a->seen != seen || memcmp(a->mac, mac, 6) != 0)
		changed(r);
	a->seen = seen;
	memcpy(a->mac, mac, 6);
	return 0;
}

void xvm_residency_sweep_begin(struct xvm_res_ns *ns)
{
	ns->sweep++;
	ns->full = false;
}

void xvm_residency_sweep_end(struct xvm_residency *r, struct xvm_res_ns *ns)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &ns->addrs)) {
		struct xvm_res_addr *a = xvm_container(n, struct xvm_res_addr, in_ns);

		if (a->sweep != ns->sweep)
			forget(r, a);
	}
}

/* A VM's word alone changes nothing for this kernel: it could make any address ambiguous. */
static bool visible(const struct xvm_res_addr *a, const void *group)
{
	return !a->ns->vm || (group ? a->ns->group == group : a->seen || a->ns->told);
}

int xvm_residency_find(const struct xvm_residency *r, const void *group, const uint8_t addr[16],
		       const struct xvm_res_addr **where)
{
	const struct xvm_res_addr *a = r->bucket[xvm_table_slot(addr)], *first = NULL;
	int count = 0;

	for (; a; a = a->hash_next) {
		if (memcmp(a->addr, addr, 16) != 0 || !visible(a, group))
			continue;
		if (!first) {
			first = a;
			count = 1;
		} else if (a->ns != first->ns) {
			count = 2;
		}
	}
	if (where)
		*where = first;
	return count;
}

bool xvm_residency_has(const struct xvm_res_ns *ns, const struct xvm_residency *r,
		       const uint8_t addr[16])
{
	return look_up(r, ns, NULL, addr) != NULL;
}

static struct xvm_where where_of(const struct xvm_res_ns *ns)
{
	return (struct xvm_where){.netns = ns->cookie, .vm = ns->vm};
}

/* The other end is elsewhere: is it sure where, and as sure from there where this end is? */
static uint32_t between(const struct xvm_residency *r, const struct xvm_res_ns *own,
			const struct xvm_facts *f, struct xvm_where *where)
{
	const struct xvm_res_addr *there;
	int n = xvm_residency_find(r, own->group, f->raddr, &there);

	if (n == 0)
		return XVM_R_NOT_RESIDENT;
	if (n > 1)
		return XVM_R_AMBIGUOUS;
	if (!xvm_residency_has(own, r, f->laddr))
		return XVM_R_NOT_RESIDENT;
	if (xvm_residency_find(r, there->ns->group, f->laddr, NULL) > 1)
		return XVM_R_AMBIGUOUS;
	*where = where_of(there->ns);
	return XVM_R_NONE;
}

static uint32_t peer_of_vm(const struct xvm_residency *r, const struct xvm_facts *f,
			   struct xvm_where *where)
{
	const struct xvm_res_ns *own = xvm_residency_vm_find(r, f->where.vm);

	/* What it has itself, its own xvmd pairs. */
	if (!own || xvm_residency_has(own, r, f->raddr))
		return XVM_R_NOT_RESIDENT;
	return between(r, own, f, where);
}

uint32_t xvm_residency_peer(const struct xvm_residency *r, const struct xvm_facts *f,
			    struct xvm_where *where)
{
	const struct xvm_res_ns *own;

	if (f->where.vm)
		return peer_of_vm(r, f, where);
	own = xvm_residency_ns_find(r, f->where.netns);
	/* Within one namespace any address will do: the kernel itself looks no further. */
	*where = f->where;
	if (xvm_table_loopback(f->laddr) || xvm_table_loopback(f->raddr))
		return XVM_R_NONE;
	if (!own || xvm_residency_has(own, r, f->raddr))
		return XVM_R_NONE;
	if (link_local(f->laddr) && link_local(f->raddr))
		return XVM_R_NONE;
	return between(r, own, f, where);
}

/* Readers may look at any time: pairs with the acquire loads in xvm_client_resident(). */
static void put_slot(struct xvm_shm_res *slot, const uint8_t addr[16], uint32_t flags,
		     uint32_t where)
{
	uint64_t v[2], *to = (uint64_t *)slot->addr;

	memcpy(v, addr, 16);
	__atomic_store_n(&to[0], v[0], __ATOMIC_RELEASE);
	__atomic_store_n(&to[1], v[1], __ATOMIC_RELEASE);
	__atomic_store_n(&slot->where, where, __ATOMIC_RELEASE);
	__atomic_store_n(&slot->flags, flags, __ATOMIC_RELEASE);
}

/* Where in the next table an address is, or is to be. */
static struct xvm_shm_res *probe(struct xvm_residency *r, const uint8_t addr[16])
{
	uint32_t i = xvm_table_slot(addr);

	while (r->next[i].flags && memcmp(r->next[i].addr, addr, 16))
		i = (i + 1) & (XVM_RES_SLOTS - 1);
	return &r->next[i];
}

static uint32_t flags_of(const struct xvm_residency *r, const void *group,
			 const struct xvm_res_addr *a)
{
	uint32_t flags = XVM_RES_USED;

	if (xvm_residency_find(r, group, a->addr, NULL) > 1)
		flags |= XVM_RES_AMBIGUOUS;
	if (a->ns->local)
		flags |= XVM_RES_LOCAL;
	if (a->ns->vm)
		flags |= group ? XVM_RES_VM : XVM_RES_IN_REGION(a->ns->region);
	if (a->seen)
		flags |= XVM_RES_SEEN;
	return flags;
}

static bool lay_out_addr(struct xvm_residency *r, const struct xvm_res_addr *a, uint64_t *count)
{
	struct xvm_shm_res *slot;

	if (!visible(a, NULL))
		return true;
	slot = probe(r, a->addr);
	if (slot->flags)
		return true; /* done, with another interface's or namespace's entry */
	if (*count >= XVM_RES_MAX)
		return false;
	memcpy(slot->addr, a->addr, 16);
	slot->where = a->ns->id;
	slot->flags = flags_of(r, NULL, a);
	++*count;
	return true;
}

static uint64_t lay_out(struct xvm_residency *r)
{
	struct xvm_list *n, *nt, *l, *lt;
	uint64_t count = 0;

	memset(r->next, 0, XVM_RES_SLOTS * sizeof(*r->next));
	r->overflow = false;
	for (XVM_EACH(n, nt, &r->all)) {
		struct xvm_res_ns *ns = xvm_container(n, struct xvm_res_ns, in_all);

		for (XVM_EACH(l, lt, &ns->addrs))
			if (!lay_out_addr(r, xvm_container(l, struct xvm_res_addr, in_ns), &count))
				r->overflow = true;
	}
	return count;
}

void xvm_residency_publish(struct xvm_residency *r, struct xvm_shm_table *t)
{
	uint64_t seq, count;
	uint32_t i, n = 0;

	if (!r->dirty)
		return;
	r->dirty = false;
	count = lay_out(r);
	for (i = 0; i < XVM_RES_SLOTS; i++)
		if (memcmp(&t->res[i], &r->next[i], sizeof(t->res[i])))
			r->changed[n++] = i;
	if (!n)
		return;
	/* Readers wait while seq is odd: nothing but the stores is done meanwhile. */
	seq = atomic_load_explicit(&t->seq, memory_order_relaxed);
	atomic_store_explicit(&t->seq, seq + 1, memory_order_relaxed);
	for (i = 0; i < n; i++) {
		const struct xvm_shm_res *to = &r->next[r->changed[i]];

		put_slot(&t->res[r->changed[i]], to->addr, to->flags, to->where);
	}
	atomic_store_explicit(&t->count, count, memory_order_release);
	atomic_store_explicit(&t->seq, seq + 2, memory_order_release);
}

uint32_t xvm_residency_of_group(const struct xvm_residency *r, const void *group,
				struct xvm_shm_region_res *res, bool *left_out)
{
	struct xvm_list *n, *nt, *l, *lt;
	const struct xvm_res_addr *first;
	uint32_t count = 0;

	*left_out = false;
	for (XVM_EACH(n, nt, &r->all)) {
		const struct xvm_res_ns *ns = xvm_container(n, struct xvm_res_ns, in_all);

		for (XVM_EACH(l, lt, &ns->addrs)) {
			const struct xvm_res_addr *a = xvm_container(l, struct xvm_res_addr, in_ns);

			/* Once, with several interfaces or places too. */
			xvm_residency_find(r, group, a->addr, &first);
			if (first != a || !visible(a, group))
				continue;
			if (count == XVM_REGION_RES_MAX) {
				*left_out = true;
				return count;
			}
			res[count] = (struct xvm_shm_region_res){.flags = flags_of(r, group, a),
								 .peer = (uint16_t)ns->peer};
			memcpy(res[count].addr, a->addr, 16);
			memcpy(res[count].mac, a->mac, 6);
			count++;
		}
	}
	return count;
}
