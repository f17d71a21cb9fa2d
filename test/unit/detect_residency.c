/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's side of residency, and the clients' look at its table. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "detect/client.h"
#include "detect/residency.h"
#include "detect/table.h"

static struct xvm_residency r;
static struct xvm_shm_table *t;

static void setup(void)
{
	cr_assert_eq(xvm_residency_init(&r), 0);
	t = aligned_alloc(64, sizeof(*t));
	memset(t, 0, sizeof(*t));
}

static void teardown(void)
{
	xvm_residency_exit(&r);
	free(t);
}

TestSuite(residency, .init = setup, .fini = teardown);

static const uint8_t *ip(const char *text)
{
	static uint8_t ring[8][16];
	static unsigned n;
	uint8_t *addr = ring[n++ % 8];

	if (strchr(text, ':')) {
		cr_assert(inet_pton(AF_INET6, text, addr) == 1);
	} else {
		memset(addr, 0, 10);
		memset(addr + 10, 0xff, 2);
		cr_assert(inet_pton(AF_INET, text, addr + 12) == 1);
	}
	return addr;
}

static uint32_t seen(const char *addr)
{
	xvm_residency_publish(&r, t);
	return xvm_client_resident(t, ip(addr));
}

static uint32_t peer(const char *l, const char *rem, uint64_t ns, uint64_t *where)
{
	struct xvm_facts f = {.where = {.netns = ns}};
	struct xvm_where w = {0};
	uint32_t ret;

	memcpy(f.laddr, ip(l), 16);
	memcpy(f.raddr, ip(rem), 16);
	ret = xvm_residency_peer(&r, &f, &w);
	*where = w.netns;
	return ret;
}

Test(residency, loopback_is_always_there)
{
	cr_assert_eq(seen("127.0.0.1"), XVM_RES_USED);
	cr_assert_eq(seen("127.99.0.1"), XVM_RES_USED);
	cr_assert_eq(seen("::1"), XVM_RES_USED);
	cr_assert_eq(seen("::2"), 0);
	cr_assert_eq(seen("128.0.0.1"), 0);
	cr_assert_eq(t->count, 0);
}

Test(residency, addresses_come_and_go)
{
	struct xvm_res_ns *own = xvm_residency_ns_add(&r, 1, true);
	struct xvm_res_ns *other = xvm_residency_ns_add(&r, 2, false);

	xvm_residency_add(&r, own, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, other, 1, ip("10.0.0.2"));
	xvm_residency_add(&r, other, 1, ip("fd00::2"));
	cr_assert_eq(seen("10.0.0.1"), XVM_RES_USED | XVM_RES_LOCAL);
	cr_assert_eq(seen("10.0.0.2"), XVM_RES_USED);
	cr_assert_eq(seen("::ffff:10.0.0.2"), XVM_RES_USED);
	cr_assert_eq(seen("fd00::2"), XVM_RES_USED);
	cr_assert_eq(seen("10.0.0.3"), 0);
	cr_assert_eq(t->count, 3);
	xvm_residency_del(&r, other, 1, ip("10.0.0.2"));
	xvm_residency_del(&r, other, 1, ip("10.0.0.2"));
	xvm_residency_del(&r, own, 1, ip("10.0.0.99"));
	cr_assert_eq(seen("10.0.0.2"), 0);
	cr_assert_eq(seen("fd00::2"), XVM_RES_USED);
	xvm_residency_ns_del(&r, other);
	cr_assert_eq(seen("fd00::2"), 0);
	cr_assert_eq(t->count, 1);
}

Test(residency, what_never_lives_anywhere)
{
	struct xvm_res_ns *ns = xvm_residency_ns_add(&r, 1, true);

	xvm_residency_add(&r, ns, 1, ip("127.0.0.1"));
	xvm_residency_add(&r, ns, 1, ip("127.8.0.1"));
	xvm_residency_add(&r, ns, 1, ip("::1"));
	xvm_residency_add(&r, ns, 1, ip("fe80::1"));
	xvm_residency_add(&r, ns, 1, ip("febf::1"));
	cr_assert_eq(ns->count, 0);
	cr_assert_eq(seen("fe80::1"), 0);
}

Test(residency, one_address_on_two_interfaces)
{
	struct xvm_res_ns *ns = xvm_residency_ns_add(&r, 1, false);

	xvm_residency_add(&r, ns, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, ns, 2, ip("10.0.0.1"));
	xvm_residency_add(&r, ns, 2, ip("10.0.0.1"));
	cr_assert_eq(seen("10.0.0.1"), XVM_RES_USED, "it is one namespace");
	xvm_residency_del(&r, ns, 1, ip("10.0.0.1"));
	cr_assert_eq(seen("10.0.0.1"), XVM_RES_USED);
	xvm_residency_del(&r, ns, 2, ip("10.0.0.1"));
	cr_assert_eq(seen("10.0.0.1"), 0);
}

Test(residency, one_address_in_two_namespaces)
{
	struct xvm_res_ns *a = xvm_residency_ns_add(&r, 1, false);
	struct xvm_res_ns *b = xvm_residency_ns_add(&r, 2, false);

	xvm_residency_add(&r, a, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, b, 1, ip("10.0.0.1"));
	cr_assert_eq(seen("10.0.0.1"), XVM_RES_USED | XVM_RES_AMBIGUOUS);
	xvm_residency_del(&r, a, 1, ip("10.0.0.1"));
	cr_assert_eq(seen("10.0.0.1"), XVM_RES_USED);
}

Test(residency, a_sweep_forgets_what_was_not_seen)
{
	struct xvm_res_ns *ns = xvm_residency_ns_add(&r, 1, false);

	xvm_residency_add(&r, ns, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, ns, 1, ip("10.0.0.2"));
	xvm_residency_sweep_begin(ns);
	xvm_residency_add(&r, ns, 1, ip("10.0.0.2"));
	xvm_residency_add(&r, ns, 1, ip("10.0.0.3"));
	xvm_residency_sweep_end(&r, ns);
	cr_assert_eq(seen("10.0.0.1"), 0);
	cr_assert_eq(seen("10.0.0.2"), XVM_RES_USED);
	cr_assert_eq(seen("10.0.0.3"), XVM_RES_USED);
}

Test(residency, where_the_other_end_must_be)
{
	struct xvm_res_ns *a = xvm_residency_ns_add(&r, 1, false);
	struct xvm_res_ns *b = xvm_residency_ns_add(&r, 2, false);
	uint64_t where = 0;

	xvm_residency_add(&r, a, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, b, 1, ip("10.0.0.2"));
	cr_assert_eq(peer("10.0.0.1", "10.0.0.2", 1, &where), XVM_R_NONE);
	cr_assert_eq(where, 2);
	cr_assert_eq(peer("10.0.0.2", "10.0.0.1", 2, &where), XVM_R_NONE);
	cr_assert_eq(where, 1);
	/* Within one namespace. */
	cr_assert_eq(peer("10.0.0.1", "10.0.0.1", 1, &where), XVM_R_NONE);
	cr_assert_eq(where, 1);
	cr_assert_eq(peer("127.0.0.1", "127.0.0.1", 2, &where), XVM_R_NONE);
	cr_assert_eq(where, 2);
	cr_assert_eq(peer("fe80::1", "fe80::2", 2, &where), XVM_R_NONE);
	cr_assert_eq(where, 2);
	/* A namespace that is not followed: only the same one can match. */
	cr_assert_eq(peer("10.0.0.1", "10.0.0.2", 7, &where), XVM_R_NONE);
	cr_assert_eq(where, 7);
	/* Elsewhere. */
	cr_assert_eq(peer("10.0.0.1", "10.0.0.9", 1, &where), XVM_R_NOT_RESIDENT);
	/* A local address that is not this namespace's own: a transparent proxy's, say. */
	cr_assert_eq(peer("10.0.0.7", "10.0.0.2", 1, &where), XVM_R_NOT_RESIDENT);
}

Test(residency, ambiguous_ends)
{
	struct xvm_res_ns *a = xvm_residency_ns_add(&r, 1, false);
	struct xvm_res_ns *b = xvm_residency_ns_add(&r, 2, false);
	struct xvm_res_ns *c = xvm_residency_ns_add(&r, 3, false);
	uint64_t where = 0;

	xvm_residency_add(&r, a, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, b, 1, ip("10.0.0.2"));
	xvm_residency_add(&r, c, 1, ip("10.0.0.2"));
	cr_assert_eq(peer("10.0.0.1", "10.0.0.2", 1, &where), XVM_R_AMBIGUOUS);
	cr_assert_eq(peer("10.0.0.2", "10.0.0.1", 2, &where), XVM_R_AMBIGUOUS);
	/* In its own namespace it is who it is. */
	cr_assert_eq(peer("10.0.0.2", "10.0.0.2", 2, &where), XVM_R_NONE);
	cr_assert_eq(where, 2);
}

static void number(uint32_t i, uint8_t addr[16])
{
	memcpy(addr, ip("fd00::"), 16);
	memcpy(addr + 12, &i, 4);
}

Test(residency, as_many_as_there_is_room_for)
{
	struct xvm_res_ns *ns[3];
	uint8_t addr[16];
	uint32_t i;

	for (i = 0; i < 3; i++)
		ns[i] = xvm_residency_ns_add(&r, i, false);
	for (i = 0; i < 3 * XVM_RESIDENCY_NS_ADDRS; i++) {
		number(i, addr);
		cr_assert_eq(xvm_residency_add(&r, ns[i / XVM_RESIDENCY_NS_ADDRS], 1, addr), 0);
	}
	number(i, addr);
	cr_assert(xvm_residency_add(&r, ns[0], 1, addr) < 0);
	cr_assert(ns[0]->full);
	xvm_residency_publish(&r, t);
	cr_assert_eq(t->count, XVM_RES_MAX);
	cr_assert(r.overflow);
	for (i = 0; i < XVM_RES_MAX; i++) {
		number(i, addr);
		cr_assert_eq(xvm_client_resident(t, addr), XVM_RES_USED);
	}
	number(3 * XVM_RESIDENCY_NS_ADDRS - 1, addr);
	cr_assert_eq(xvm_client_resident(t, addr), 0);
	xvm_residency_ns_del(&r, ns[0]);
	xvm_residency_publish(&r, t);
	cr_assert(!r.overflow);
	cr_assert_eq(xvm_client_resident(t, addr), XVM_RES_USED);
}

static _Atomic int stop;
static _Atomic uint64_t looks, misses, wrong;

static void *reader(void *arg)
{
	uint8_t fixed[16];

	memcpy(fixed, arg, 16);
	while (!stop) {
		uint32_t flags = xvm_client_resident(t, fixed);

		looks++;
		misses += flags == 0;
		wrong += flags != 0 && flags != XVM_RES_USED;
	}
	return NULL;
}

Test(residency, readers_never_miss_what_stays)
{
	struct xvm_res_ns *ns = xvm_residency_ns_add(&r, 1, false);
	uint8_t fixed[16], addr[16];
	pthread_t thread[2];
	uint32_t i;

	memcpy(fixed, ip("10.0.0.1"), 16);
	xvm_residency_add(&r, ns, 1, fixed);
	xvm_residency_publish(&r, t);
	for (i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, reader, fixed);
	for (i = 0; i < 20000; i++) {
		number(i % 50, addr);
		if (i / 50 % 2)
			xvm_residency_del(&r, ns, 1, addr);
		else
			xvm_residency_add(&r, ns, 1, addr);
		xvm_residency_publish(&r, t);
	}
	stop = 1;
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	/* A reader may give up where the writer was interrupted in the middle. */
	cr_assert_eq(wrong, 0);
	cr_assert_lt(misses, looks / 20 + 100, "%lu of %lu", misses, looks);
	cr_assert_eq(xvm_client_resident(t, fixed), XVM_RES_USED);
}

Test(residency, a_writer_that_died_half_way)
{
	struct xvm_res_ns *ns = xvm_residency_ns_add(&r, 1, false);

	xvm_residency_add(&r, ns, 1, ip("10.0.0.1"));
	xvm_residency_publish(&r, t);
	t->seq++;
	cr_assert_eq(xvm_client_resident(t, ip("10.0.0.1")), 0);
}

/* ---- VMs ---------------------------------------------------------------- */

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
static const int one_group, other_group;

static uint32_t peer_at(struct xvm_where at, const char *l, const char *rem, struct xvm_where *w)
{
	struct xvm_facts f = {.where = at};

	memcpy(f.laddr, ip(l), 16);
	memcpy(f.raddr, ip(rem), 16);
	return xvm_residency_peer(&r, &f, w);
}

Test(residency, vms_of_a_group)
{
	struct xvm_res_ns *host = xvm_residency_ns_add(&r, 1, true);
	struct xvm_res_ns *a = xvm_residency_vm_add(&r, 1, 1, &one_group);
	struct xvm_res_ns *b = xvm_residency_vm_add(&r, 2, 2, &one_group);
	struct xvm_res_ns *c = xvm_residency_vm_add(&r, 3, 1, &other_group);
	struct xvm_where in_host = {.netns = 1}, in_a = {.vm = 1}, in_b = {.vm = 2}, w;
	struct xvm_shm_region_res *res = calloc(XVM_REGION_RES_MAX, sizeof(*res));
	bool left_out;

	xvm_residency_add(&r, host, 1, ip("10.0.0.1"));
	cr_assert_eq(xvm_residency_add_vm(&r, a, ip("10.0.0.2"), mac, true), 0);
	cr_assert_eq(xvm_residency_add_vm(&r, b, ip("10.0.0.3"), mac, false), 0);
	cr_assert_eq(xvm_residency_add_vm(&r, c, ip("10.0.0.4"), mac, true), 0);
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.3", &w), XVM_R_NONE);
	cr_assert(xvm_where_same(w, in_b));
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.1", &w), XVM_R_NONE);
	cr_assert(xvm_where_same(w, in_host));
	cr_assert_eq(peer_at(in_host, "10.0.0.1", "10.0.0.2", &w), XVM_R_NONE);
	cr_assert(xvm_where_same(w, in_a));
	cr_assert_eq(peer_at(in_host, "10.0.0.1", "10.0.0.3", &w), XVM_R_NOT_RESIDENT,
		     "the VM's word alone");
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.4", &w), XVM_R_NOT_RESIDENT,
		     "another group");
	cr_assert_eq(peer_at(in_a, "10.0.0.3", "10.0.0.1", &w), XVM_R_NOT_RESIDENT, "not its own");
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.2", &w), XVM_R_NOT_RESIDENT, "its own");
	cr_assert_eq(peer_at((struct xvm_where){.vm = 9}, "10.0.0.2", "10.0.0.1", &w),
		     XVM_R_NOT_RESIDENT);

	cr_assert_eq(seen("10.0.0.2"), XVM_RES_USED | XVM_RES_VM | XVM_RES_SEEN);
	cr_assert_eq(seen("10.0.0.3"), 0);
	cr_assert_eq(xvm_residency_of_group(&r, &one_group, res, &left_out), 3);
	cr_assert_eq(res[0].flags, XVM_RES_USED | XVM_RES_LOCAL);
	cr_assert_eq(res[0].peer, 0);
	cr_assert_eq(res[2].flags, XVM_RES_USED | XVM_RES_VM);
	cr_assert_eq(res[2].peer, 2);
	cr_assert_eq(memcmp(res[2].mac, mac, 6), 0);
	cr_assert_eq(xvm_residency_of_group(&r, &other_group, res, &left_out), 2);
	cr_assert_eq(res[1].peer, 1);
	xvm_residency_ns_del(&r, b);
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.3", &w), XVM_R_NOT_RESIDENT);
	cr_assert_eq(xvm_residency_of_group(&r, &one_group, res, &left_out), 2);
	free(res);
}

Test(residency, one_address_in_two_vms)
{
	struct xvm_res_ns *host = xvm_residency_ns_add(&r, 1, true);
	struct xvm_res_ns *a = xvm_residency_vm_add(&r, 1, 1, &one_group);
	struct xvm_res_ns *b = xvm_residency_vm_add(&r, 2, 2, &one_group);
	struct xvm_res_ns *c = xvm_residency_vm_add(&r, 3, 1, &other_group);
	struct xvm_where in_host = {.netns = 1}, in_a = {.vm = 1}, in_c = {.vm = 3}, w;
	struct xvm_shm_region_res res[8];
	bool left_out;
	uint32_t i, n;

	xvm_residency_add(&r, host, 1, ip("10.0.0.1"));
	xvm_residency_add_vm(&r, a, ip("10.0.0.2"), mac, true);
	xvm_residency_add_vm(&r, b, ip("10.0.0.3"), mac, true);
	xvm_residency_add_vm(&r, c, ip("10.0.0.2"), mac, true);
	/* Two groups are two address spaces, but this kernel sees both. */
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.3", &w), XVM_R_NONE);
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.1", &w), XVM_R_AMBIGUOUS);
	cr_assert_eq(peer_at(in_c, "10.0.0.2", "10.0.0.1", &w), XVM_R_AMBIGUOUS);
	cr_assert_eq(peer_at(in_host, "10.0.0.1", "10.0.0.2", &w), XVM_R_AMBIGUOUS);
	cr_assert_eq(seen("10.0.0.2"),
		     XVM_RES_USED | XVM_RES_VM | XVM_RES_SEEN | XVM_RES_AMBIGUOUS);
	xvm_residency_of_group(&r, &one_group, res, &left_out);
	cr_assert_eq(res[1].flags, XVM_RES_USED | XVM_RES_VM | XVM_RES_SEEN);
	xvm_residency_add_vm(&r, b, ip("10.0.0.2"), mac, true);
	cr_assert_eq(peer_at(in_a, "10.0.0.2", "10.0.0.3", &w), XVM_R_AMBIGUOUS);
	n = xvm_residency_of_group(&r, &one_group, res, &left_out);
	cr_assert_eq(n, 3);
	for (i = 0; i < n; i++)
		cr_assert_eq(!!(res[i].flags & XVM_RES_AMBIGUOUS),
			     !memcmp(res[i].addr, ip("10.0.0.2"), 16));
}

Test(residency, a_vm_that_claims_what_is_ours)
{
	struct xvm_res_ns *own = xvm_residency_ns_add(&r, 1, true);
	struct xvm_res_ns *other = xvm_residency_ns_add(&r, 2, false);
	struct xvm_res_ns *a = xvm_residency_vm_add(&r, 1, 1, &one_group);
	struct xvm_where in_own = {.netns = 1}, w;
	struct xvm_shm_region_res res[8];
	bool left_out;
	uint32_t i, n;

	xvm_residency_add(&r, own, 1, ip("10.0.0.1"));
	xvm_residency_add(&r, other, 1, ip("10.0.0.2"));
	xvm_residency_add_vm(&r, a, ip("10.0.0.2"), mac, false);
	cr_assert_eq(peer_at(in_own, "10.0.0.1", "10.0.0.2", &w), XVM_R_NONE);
	cr_assert_eq(w.netns, 2);
	cr_assert_eq(seen("10.0.0.2"), XVM_RES_USED);
	/* Those of its group have to care. */
	n = xvm_residency_of_group(&r, &one_group, res, &left_out);
	cr_assert_eq(n, 2);
	for (i = 0; i < n; i++)
		cr_assert_eq(!!(res[i].flags & XVM_RES_AMBIGUOUS),
			     !memcmp(res[i].addr, ip("10.0.0.2"), 16));
	/* The host sees it there: then it is so. */
	xvm_residency_add_vm(&r, a, ip("10.0.0.2"), mac, true);
	cr_assert_eq(peer_at(in_own, "10.0.0.1", "10.0.0.2", &w), XVM_R_AMBIGUOUS);
}

Test(residency, more_than_the_region_has_room_for)
{
	struct xvm_shm_region_res *res = calloc(XVM_REGION_RES_MAX, sizeof(*res));
	struct xvm_res_ns *a = xvm_residency_ns_add(&r, 1, false);
	struct xvm_res_ns *b = xvm_residency_vm_add(&r, 1, 1, &one_group);
	uint8_t addr[16];
	bool left_out;
	uint32_t i;

	for (i = 0; i < XVM_REGION_RES_MAX; i++) {
		number(i, addr);
		cr_assert_eq(xvm_residency_add(&r, a, 1, addr), 0);
	}
	cr_assert_eq(xvm_residency_of_group(&r, &one_group, res, &left_out), XVM_REGION_RES_MAX);
	cr_assert(!left_out);
	xvm_residency_add_vm(&r, b, ip("10.0.0.2"), mac, true);
	cr_assert_eq(xvm_residency_of_group(&r, &one_group, res, &left_out), XVM_REGION_RES_MAX);
	cr_assert(left_out);
	free(res);
}
