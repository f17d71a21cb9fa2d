/* SPDX-License-Identifier: Apache-2.0 */
/* The region that VMs share, with words in it that nobody honest has written. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "transport/region.h"

#define SIZE (1u << 20)

static struct xvm_region host, guest;
static struct xvm_mailbox at_host, at_guest; /* of VM 1 */

static void setup(void)
{
	cr_assert_eq(xvm_region_figure(&host, SIZE, 2, 4), 0);
	host.map = aligned_alloc(4096, SIZE);
	memset(host.map, 0, SIZE);
	host.generation = 0x1234567890abcdef;
	xvm_region_format(&host);
	cr_assert_eq(xvm_region_open(&guest, host.map, SIZE), 0);
	xvm_mailbox_init(&at_host, xvm_region_host_box(&host, 1), xvm_region_peer_box(&host, 1));
	xvm_mailbox_init(&at_guest, xvm_region_peer_box(&host, 1), xvm_region_host_box(&host, 1));
}

static void teardown(void)
{
	free(host.map);
}

TestSuite(region, .init = setup, .fini = teardown, .timeout = 60);

Test(region, figures)
{
	static const struct {
		uint64_t size;
		uint32_t peers, vectors;
		int ret;
	} t[] = {
		{1ull << 20, 2, 1, 0},	      {256ull << 20, 9, 16, 0},
		{1ull << 36, 64, 64, 0},      {1ull << 37, 2, 1, -ERANGE},
		{1ull << 19, 2, 1, -ERANGE},  {(1ull << 20) + 4096, 2, 1, -ERANGE},
		{3ull << 20, 2, 1, -ERANGE},  {0, 2, 1, -ERANGE},
		{1ull << 20, 1, 1, -ERANGE},  {1ull << 20, 0, 1, -ERANGE},
		{1ull << 30, 65, 1, -ERANGE}, {1ull << 20, 2, 0, -ERANGE},
		{1ull << 20, 2, 65, -ERANGE}, {1ull << 20, 8, 1, -ENOSPC},
	};
	struct xvm_region g;
	uint32_t k;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		cr_assert_eq(xvm_region_figure(&g, t[i].size, t[i].peers, t[i].vectors), t[i].ret,
			     "case %zu", i);
		if (t[i].ret)
			continue;
		cr_assert_eq(g.arena_size % 4096, 0);
		cr_assert(g.arena_size * g.peers <= g.size);
		cr_assert_eq(g.lease_off % 4096, 0);
		for (k = 0; k < g.peers; k++)
			cr_assert(xvm_region_lease_off(&g, k) + XVM_REGION_LEASE_MIN <=
				  g.arena_size);
		/* Nothing overlaps in the host's arena. */
		cr_assert(g.box_off >= sizeof(struct xvm_shm_region));
		cr_assert(g.box_off + g.peers * XVM_REGION_BOX <= g.res_off);
		cr_assert(g.res_off + XVM_REGION_RES_MAX * sizeof(struct xvm_shm_region_res) <=
			  g.lease_off);
	}
}

Test(region, a_guest_sees_what_the_host_laid_out)
{
	cr_assert_eq(guest.generation, host.generation);
	cr_assert_eq(guest.peers, 2);
	cr_assert_eq(guest.vectors, 4);
	cr_assert_eq(guest.arena_size, host.arena_size);
	cr_assert_eq(guest.lease_off, host.lease_off);
}

Test(region, headers_that_lie)
{
	struct xvm_shm_region *h = xvm_region_header(&host), good = *h;
	struct xvm_region g;
	size_t i;

	h->magic = 0;
	cr_assert_eq(xvm_region_open(&g, h, SIZE), -EAGAIN);
	h->magic = 1;
	cr_assert_eq(xvm_region_open(&g, h, SIZE), -EPROTO);
	h->magic = good.magic;
	h->version++;
	cr_assert_eq(xvm_region_open(&g, h, SIZE), -EPROTONOSUPPORT);
	h->version--;
	cr_assert_eq(xvm_region_open(&g, h, SIZE / 2), -EPROTO, "BAR2 is smaller");
	cr_assert_eq(xvm_region_open(&g, h, 64), -EPROTO);
	/* Any bit of what the layout follows from. */
	for (i = offsetof(struct xvm_shm_region, peers) * 8;
	     i < (offsetof(struct xvm_shm_region, lease_off) + 4) * 8; i++) {
		if (i / 64 == offsetof(struct xvm_shm_region, generation) / 8)
			continue;
		((uint8_t *)h)[i / 8] ^= 1u << i % 8;
		/* Another number of vectors is none that could be wrong. */
		if (i / 32 != offsetof(struct xvm_shm_region, vectors) / 4)
			cr_assert_eq(xvm_region_open(&g, h, SIZE), -EPROTO, "bit %zu", i);
		((uint8_t *)h)[i / 8] ^= 1u << i % 8;
	}
	cr_assert_eq(xvm_region_open(&g, h, SIZE), 0);
}

Test(region, pieces)
{
	uint64_t a = host.arena_size, b = XVM_REGION_BOX;

	cr_assert(xvm_region_piece_ok(&host, 1, b, 4096));
	cr_assert(xvm_region_piece_ok(&host, 1, b, a - b));
	cr_assert(!xvm_region_piece_ok(&host, 1, b, a - b + 1));
	cr_assert(!xvm_region_piece_ok(&host, 1, b - 4096, 4096), "its mailbox");
	cr_assert(!xvm_region_piece_ok(&host, 1, b + 1, 4096));
	cr_assert(!xvm_region_piece_ok(&host, 1, b, 0));
	cr_assert(!xvm_region_piece_ok(&host, 1, a, 4096));
	cr_assert(!xvm_region_piece_ok(&host, 1, 0, a));
	cr_assert(!xvm_region_piece_ok(&host, 2, b, 4096));
	cr_assert(!xvm_region_piece_ok(&host, ~0u, b, 4096));
	/* Sums that wrap. */
	cr_assert(!xvm_region_piece_ok(&host, 1, b, ~0ull));
	cr_assert(!xvm_region_piece_ok(&host, 1, b, ~0ull - b + 1));
	cr_assert(!xvm_region_piece_ok(&host, 1, ~0ull - 4095, 8192));
	/* The host's tables are nobody's half. */
	cr_assert(!xvm_region_piece_ok(&host, 0, b, 4096));
	cr_assert(xvm_region_piece_ok(&host, 0, host.lease_off, 4096));
}

static struct xvm_letter half_letter(uint32_t type, uint64_t off, uint64_t len)
{
	return (struct xvm_letter){.type = type, .off = off, .len = len, .role = XVM_ROLE_ACTIVE};
}

Test(region, letters_of_a_vm)
{
	struct xvm_letter l = half_letter(XVM_LETTER_OFFER, XVM_REGION_BOX, 4096 + 65536);

	cr_assert_null(xvm_letter_wrong(&l, &host, true, 1));
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1), "the host offers nothing");
	l.role = XVM_ROLE_PASSIVE + 1;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.role = 0;
	cr_assert_null(xvm_letter_wrong(&l, &host, true, 1));
	l.len = 4096 + 65535;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1), "a ring is a power of two");
	l.len = 4096;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.len = 0;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.len = 4096ull + (XVM_RING_MAX << 1);
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.len = 4096 + 65536;
	l.off = host.arena_size - 65536;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.off = 0;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));

	l = (struct xvm_letter){.type = XVM_LETTER_HELLO, .flags = XVM_LETTER_F_ALL};
	cr_assert_null(xvm_letter_wrong(&l, &host, true, 1));
	l.flags = 4;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l = (struct xvm_letter){.type = XVM_LETTER_ADDR, .arg = 1, .mac = {2}};
	cr_assert_null(xvm_letter_wrong(&l, &host, true, 1));
	l.mac[0] = 3;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.mac[0] = 2;
	l.arg = 2;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.type = 0;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.type = XVM_LETTER_WELCOME;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
	l.type = ~0u;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, true, 1));
}

Test(region, letters_of_the_host)
{
	struct xvm_letter l = half_letter(XVM_LETTER_PAIRED, host.lease_off, 4096 + 65536);

	cr_assert_null(xvm_letter_wrong(&l, &host, false, 1));
	l.peer = 1;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1), "with itself");
	l.peer = 2;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1));
	l.peer = 0;
	l.off = 0;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1), "the header is no half");
	l.off = host.lease_off;
	l.role = XVM_ROLE_UNKNOWN;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1));

	l = (struct xvm_letter){.type = XVM_LETTER_REFUSED, .arg = XVM_R_RULE};
	cr_assert_null(xvm_letter_wrong(&l, &host, false, 1));
	l.arg = XVM_R_COUNT;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1));
	l.arg = 0;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1));
	l = (struct xvm_letter){.type = XVM_LETTER_GONE, .peer = 0};
	cr_assert_null(xvm_letter_wrong(&l, &host, false, 1));
	l.peer = 2;
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 1));
	l = (struct xvm_letter){.type = XVM_LETTER_WELCOME, .peer = 1};
	cr_assert_null(xvm_letter_wrong(&l, &host, false, 1));
	cr_assert_not_null(xvm_letter_wrong(&l, &host, false, 2));
}

static void put(struct xvm_mailbox *m, uint32_t slot)
{
	struct xvm_letter l = {.type = XVM_LETTER_UNPAIR, .slot = slot, .run = ~0ull - slot};

	cr_assert_eq(xvm_mailbox_put(m, &l), 0);
}

static void get(struct xvm_mailbox *m, uint32_t slot)
{
	struct xvm_letter l;

	cr_assert_eq(xvm_mailbox_get(m, &l), 0);
	cr_assert_eq(l.slot, slot);
	cr_assert_eq(l.run, ~0ull - slot);
}

Test(region, letters_arrive_in_order_both_ways)
{
	struct xvm_letter l;
	uint32_t i;

	for (i = 0; i < 1000; i++) {
		put(&at_guest, i);
		put(&at_host, i + 7);
		put(&at_guest, i + 1);
		get(&at_host, i);
		get(&at_host, i + 1);
		cr_assert_eq(xvm_mailbox_get(&at_host, &l), -EAGAIN);
		get(&at_guest, i + 7);
		cr_assert(!xvm_mailbox_done(&at_host));
		cr_assert(!xvm_mailbox_done(&at_guest));
	}
}

Test(region, a_full_mailbox)
{
	struct xvm_letter l = {0};
	uint32_t i;

	for (i = 0; i < XVM_MAIL_SLOTS; i++)
		put(&at_guest, i);
	cr_assert_eq(xvm_mailbox_put(&at_guest, &l), -EAGAIN);
	get(&at_host, 0);
	cr_assert_eq(xvm_mailbox_put(&at_guest, &l), -EAGAIN, "the room is not given back yet");
	cr_assert(xvm_mailbox_done(&at_host), "the writer waits");
	cr_assert(!xvm_mailbox_done(&at_host), "it is told once");
	put(&at_guest, XVM_MAIL_SLOTS);
	cr_assert_eq(xvm_mailbox_put(&at_guest, &l), -EAGAIN);
	for (i = 1; i <= XVM_MAIL_SLOTS; i++)
		get(&at_host, i);
	cr_assert_eq(xvm_mailbox_get(&at_host, &l), -EAGAIN);
	cr_assert(xvm_mailbox_done(&at_host));
}

Test(region, heads_and_tails_that_lie)
{
	static const uint64_t lies[] = {XVM_MAIL_SLOTS + 1, ~0ull, 1ull << 63, 1ull << 32, 500};
	struct xvm_letter l = {0};
	size_t i;

	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		uint64_t was = at_guest.mine->head;

		at_guest.mine->head = at_host.tail + lies[i];
		cr_assert_eq(xvm_mailbox_get(&at_host, &l), -EPROTO);
		cr_assert_eq(xvm_mailbox_get(&at_host, &l), -EAGAIN, "it is over with that");
		at_guest.mine->head = was;
		xvm_mailbox_init(&at_host, at_host.mine, at_host.theirs);
	}
	for (i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		at_guest.mine->tail = at_host.head + 1 + i;
		cr_assert_eq(xvm_mailbox_put(&at_host, &l), -EPROTO);
	}
	at_guest.mine->tail = 0;
	cr_assert_eq(xvm_mailbox_put(&at_host, &l), 0);
	/* What the host has written it knows: others may have written over it. */
	at_host.mine->head = 99;
	at_host.mine->tail = 99;
	cr_assert_eq(xvm_mailbox_put(&at_host, &l), 0);
	cr_assert_eq(at_host.mine->head, 2);
}

Test(region, a_successor_in_the_guest)
{
	struct xvm_letter l;

	put(&at_guest, 1);
	put(&at_host, 2);
	xvm_mailbox_resume(&at_guest, at_guest.mine, at_guest.theirs, false);
	cr_assert_eq(xvm_mailbox_get(&at_guest, &l), -EAGAIN, "that was its predecessor's");
	put(&at_guest, 3);
	put(&at_host, 4);
	get(&at_guest, 4);
	get(&at_host, 1);
	get(&at_host, 3);
}

#define MANY 200000

static void *write_many(void *arg)
{
	struct xvm_letter l = {.type = XVM_LETTER_UNPAIR};
	uint32_t i;

	for (i = 0; i < MANY; i++) {
		l.slot = i;
		l.run = ~0ull - i;
		while (xvm_mailbox_put(&at_guest, &l) == -EAGAIN)
			sched_yield();
	}
	return NULL;
}

Test(region, two_threads)
{
	struct xvm_letter l;
	pthread_t t;
	uint32_t i;
	int ret;

	pthread_create(&t, NULL, write_many, NULL);
	for (i = 0; i < MANY;) {
		ret = xvm_mailbox_get(&at_host, &l);
		if (ret == -EAGAIN) {
			xvm_mailbox_done(&at_host);
			sched_yield();
			continue;
		}
		cr_assert_eq(ret, 0);
		cr_assert_eq(l.slot, i);
		cr_assert_eq(l.run, ~0ull - i);
		i++;
	}
	pthread_join(t, NULL);
}

static struct xvm_shm_region_res *residents(uint32_t n)
{
	struct xvm_shm_region_res *r = calloc(XVM_REGION_RES_MAX, sizeof(*r));
	uint32_t i;

	for (i = 0; i < n; i++) {
		memcpy(r[i].addr + 12, &i, 4);
		r[i].flags = XVM_RES_USED;
		r[i].peer = 1;
	}
	return r;
}

Test(region, residents_come_and_go)
{
	struct xvm_shm_region_res *r = residents(XVM_REGION_RES_MAX), *last = residents(0), *seen;
	uint32_t last_n = 0;

	seen = residents(0);
	cr_assert_eq(xvm_region_residents(&guest, seen), 0);
	cr_assert(xvm_region_publish(&host, r, 3, last, &last_n));
	cr_assert(!xvm_region_publish(&host, r, 3, last, &last_n), "nothing new");
	cr_assert_eq(xvm_region_residents(&guest, seen), 3);
	cr_assert_eq(memcmp(seen, r, 3 * sizeof(*r)), 0);
	cr_assert(xvm_region_publish(&host, r, XVM_REGION_RES_MAX, last, &last_n));
	cr_assert_eq(xvm_region_residents(&guest, seen), XVM_REGION_RES_MAX);
	cr_assert(xvm_region_publish(&host, r, 0, last, &last_n));
	cr_assert_eq(xvm_region_residents(&guest, seen), 0);
	free(r);
	free(last);
	free(seen);
}

Test(region, a_residency_table_that_lies)
{
	struct xvm_shm_region_res *r = residents(4), *last = residents(0), *seen = residents(0);
	struct xvm_shm_region *h = xvm_region_header(&host);
	uint32_t last_n = 0;

	r[1].peer = 2;
	r[2].flags = 0;
	xvm_region_publish(&host, r, 4, last, &last_n);
	cr_assert_eq(xvm_region_residents(&guest, seen), 2, "a peer that is none; an unused entry");
	cr_assert_eq(memcmp(&seen[1], &r[3], sizeof(*r)), 0);
	h->res_count = ~0ull;
	cr_assert_leq(xvm_region_residents(&guest, seen), XVM_REGION_RES_MAX);
	h->res_seq++;
	cr_assert_eq(xvm_region_residents(&guest, seen), -EAGAIN, "its writer never comes back");
	free(r);
	free(last);
	free(seen);
}
