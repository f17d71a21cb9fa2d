/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "detect/pairing.h"

#define A "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\1"
#define B "\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\2"

static struct xvm_pairing p;

static void setup(void)
{
	cr_assert_eq(xvm_pairing_init(&p), 0);
}

static void teardown(void)
{
	xvm_pairing_exit(&p);
}

TestSuite(pairing, .init = setup, .fini = teardown);

static struct xvm_offer offer(const char *l, uint16_t lport, const char *r, uint16_t rport,
			      uint64_t netns, uint64_t cookie, uint32_t role)
{
	struct xvm_offer o = {.role = role};

	memcpy(o.f.laddr, l, 16);
	memcpy(o.f.raddr, r, 16);
	o.f.lport = lport;
	o.f.rport = rport;
	o.f.where.netns = netns;
	o.f.cookie = cookie;
	return o;
}

static struct xvm_where ns(uint64_t cookie)
{
	return (struct xvm_where){.netns = cookie};
}

static uint32_t judge(const struct xvm_offer *a, const struct xvm_offer *b, uint32_t *ra,
		      uint32_t *rb)
{
	*ra = *rb = 99;
	return xvm_pairing_judge(a, b, ra, rb);
}

Test(pairing, mirrored_tuples_find_each_other)
{
	struct xvm_offer a = offer(A, 1000, B, 80, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer b = offer(B, 80, A, 1000, 2, 12, XVM_ROLE_PASSIVE);

	xvm_pairing_add(&p, &a);
	cr_assert_eq(xvm_pairing_mirror(&p, &b.f, ns(1)), &a);
	cr_assert_null(xvm_pairing_mirror(&p, &b.f, ns(2)), "it is in the other namespace");
	cr_assert_null(xvm_pairing_mirror(&p, &a.f, ns(1)), "it is not its own mirror");
	cr_assert_eq(xvm_pairing_same(&p, &a.f), &a);
	cr_assert_null(xvm_pairing_same(&p, &b.f));
	b.f.rport++;
	cr_assert_null(xvm_pairing_mirror(&p, &b.f, ns(1)));
	xvm_pairing_del(&p, &a);
	cr_assert_eq(p.count, 0);
	cr_assert_null(xvm_pairing_same(&p, &a.f));
}

Test(pairing, one_tuple_in_two_namespaces)
{
	struct xvm_offer a1 = offer(A, 1000, B, 80, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer a2 = offer(A, 1000, B, 80, 2, 12, XVM_ROLE_ACTIVE);
	struct xvm_offer b = offer(B, 80, A, 1000, 2, 13, XVM_ROLE_PASSIVE);

	xvm_pairing_add(&p, &a1);
	xvm_pairing_add(&p, &a2);
	cr_assert_eq(xvm_pairing_mirror(&p, &b.f, ns(1)), &a1);
	cr_assert_eq(xvm_pairing_mirror(&p, &b.f, ns(2)), &a2);
	xvm_pairing_del(&p, &a1);
	cr_assert_eq(xvm_pairing_same(&p, &a2.f), &a2);
	xvm_pairing_del(&p, &a1);
	cr_assert_eq(p.count, 1, "what is not there is not counted off");
}

Test(pairing, a_hundred_thousand)
{
	static struct xvm_offer o[100000];
	int i;

	for (i = 0; i < 100000; i++) {
		o[i] = offer(A, i & 0xffff, B, 80 + (i >> 16), 1, i, XVM_ROLE_ACTIVE);
		xvm_pairing_add(&p, &o[i]);
	}
	for (i = 0; i < 100000; i++)
		cr_assert_eq(xvm_pairing_same(&p, &o[i].f), &o[i]);
	for (i = 0; i < 100000; i += 2)
		xvm_pairing_del(&p, &o[i]);
	for (i = 0; i < 100000; i++)
		cr_assert_eq(xvm_pairing_same(&p, &o[i].f), i & 1 ? &o[i] : NULL);
	cr_assert_eq(p.count, 50000);
}

Test(pairing, roles)
{
	struct xvm_offer a = offer(A, 1, B, 2, 1, 11, 0), b = offer(B, 2, A, 1, 1, 12, 0);
	static const struct {
		uint32_t a, b, reason, ra, rb;
	} t[] = {
		{XVM_ROLE_ACTIVE, XVM_ROLE_PASSIVE, 0, XVM_ROLE_ACTIVE, XVM_ROLE_PASSIVE},
		{XVM_ROLE_PASSIVE, XVM_ROLE_ACTIVE, 0, XVM_ROLE_PASSIVE, XVM_ROLE_ACTIVE},
		{XVM_ROLE_UNKNOWN, XVM_ROLE_ACTIVE, 0, XVM_ROLE_PASSIVE, XVM_ROLE_ACTIVE},
		{XVM_ROLE_UNKNOWN, XVM_ROLE_PASSIVE, 0, XVM_ROLE_ACTIVE, XVM_ROLE_PASSIVE},
		{XVM_ROLE_ACTIVE, XVM_ROLE_UNKNOWN, 0, XVM_ROLE_ACTIVE, XVM_ROLE_PASSIVE},
		{XVM_ROLE_PASSIVE, XVM_ROLE_UNKNOWN, 0, XVM_ROLE_PASSIVE, XVM_ROLE_ACTIVE},
		{XVM_ROLE_UNKNOWN, XVM_ROLE_UNKNOWN, XVM_R_UNSUPPORTED, 99, 99},
		{XVM_ROLE_ACTIVE, XVM_ROLE_ACTIVE, XVM_R_SELF, 99, 99},
		{XVM_ROLE_PASSIVE, XVM_ROLE_PASSIVE, XVM_R_SELF, 99, 99},
	};
	uint32_t ra, rb;
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		a.role = t[i].a;
		b.role = t[i].b;
		cr_assert_eq(judge(&a, &b, &ra, &rb), t[i].reason, "case %zu", i);
		cr_assert_eq(ra, t[i].ra, "case %zu", i);
		cr_assert_eq(rb, t[i].rb, "case %zu", i);
	}
}

Test(pairing, one_socket_is_not_two)
{
	struct xvm_offer a = offer(A, 1, B, 2, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer b = offer(B, 2, A, 1, 1, 11, XVM_ROLE_PASSIVE);
	uint32_t ra, rb;

	cr_assert_eq(judge(&a, &b, &ra, &rb), XVM_R_SELF);
	/* Cookies are of one namespace: in another the same number is another socket. */
	b.f.where.netns = 2;
	cr_assert_eq(judge(&a, &b, &ra, &rb), XVM_R_NONE);
}

Test(pairing, two_vrfs_of_one_namespace)
{
	struct xvm_offer a = offer(A, 1, B, 2, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer b = offer(B, 2, A, 1, 1, 12, XVM_ROLE_PASSIVE);
	uint32_t ra, rb;

	a.f.ifindex = 5;
	cr_assert_eq(judge(&a, &b, &ra, &rb), XVM_R_NONE);
	b.f.ifindex = 6;
	cr_assert_eq(judge(&a, &b, &ra, &rb), XVM_R_UNSUPPORTED);
	b.f.where.netns = 2;
	cr_assert_eq(judge(&a, &b, &ra, &rb), XVM_R_NONE);
}

Test(pairing, counts_that_cannot_be)
{
	struct xvm_offer o = offer(A, 1, B, 2, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer n = offer(B, 2, A, 1, 1, 12, XVM_ROLE_PASSIVE);
	uint32_t ra, rb;

	/* The older end's SYN is among what was acknowledged. */
	o.f.acked = 101;
	n.f.received = 100;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_NONE);
	/* It may have sent more since. */
	n.f.received = 5000;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_NONE);
	n.f.received = 99;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_BAD_PEER);
	n.f.received = 100;
	/* What the older end has, the newer has sent: acknowledged or not. */
	o.f.received = 50;
	n.f.acked = 20;
	n.f.outq = 30;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_NONE);
	n.f.outq = 29;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_BAD_PEER);
}

Test(pairing, one_tuple_in_a_vm_and_a_namespace)
{
	struct xvm_offer a1 = offer(A, 1000, B, 80, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer a2 = offer(A, 1000, B, 80, 0, 12, XVM_ROLE_ACTIVE);
	struct xvm_offer b = offer(B, 80, A, 1000, 0, 13, XVM_ROLE_PASSIVE);

	a2.f.where.vm = 1;
	b.f.where.vm = 2;
	xvm_pairing_add(&p, &a1);
	xvm_pairing_add(&p, &a2);
	cr_assert_eq(xvm_pairing_mirror(&p, &b.f, ns(1)), &a1);
	cr_assert_eq(xvm_pairing_mirror(&p, &b.f, (struct xvm_where){.vm = 1}), &a2);
	cr_assert_null(xvm_pairing_mirror(&p, &b.f, (struct xvm_where){.vm = 2}));
	xvm_pairing_del(&p, &a2);
	cr_assert_null(xvm_pairing_mirror(&p, &b.f, (struct xvm_where){.vm = 1}));
}

Test(pairing, counts_that_came_by_letter)
{
	struct xvm_offer o = offer(A, 1, B, 2, 1, 11, XVM_ROLE_ACTIVE);
	struct xvm_offer n = offer(B, 2, A, 1, 0, 11, XVM_ROLE_PASSIVE);
	uint32_t ra, rb;

	/* Read before the other's, though it has come later. */
	n.f.where.vm = 3;
	o.f.acked = 5000;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_NONE);
	cr_assert_eq(judge(&n, &o, &ra, &rb), XVM_R_NONE);
	n.role = XVM_ROLE_ACTIVE;
	cr_assert_eq(judge(&o, &n, &ra, &rb), XVM_R_SELF);
}
