/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "detect/lease.h"
#include "transport/abi.h"

#define PAGE 4096ull

static struct xvm_lease_book b;
static int owner;

static void setup(void)
{
	xvm_lease_init(&b, 5 * PAGE, 15 * PAGE);
}

static void teardown(void)
{
	xvm_lease_exit(&b);
	cr_assert_eq(b.lent, 0);
}

TestSuite(lease, .init = setup, .fini = teardown);

Test(lease, the_first_gap_that_is_large_enough)
{
	struct xvm_piece *p[4];

	p[0] = xvm_lease_take(&b, PAGE, &owner);
	p[1] = xvm_lease_take(&b, 2 * PAGE, &owner);
	p[2] = xvm_lease_take(&b, PAGE + 1, &owner);
	cr_assert_eq(p[0]->off, 5 * PAGE);
	cr_assert_eq(p[1]->off, 6 * PAGE);
	cr_assert_eq(p[2]->off, 8 * PAGE);
	cr_assert_eq(p[2]->len, 2 * PAGE);
	cr_assert_eq(b.lent, 5 * PAGE);
	xvm_lease_return(p[1]);
	p[1] = xvm_lease_take(&b, 3 * PAGE, &owner);
	cr_assert_eq(p[1]->off, 10 * PAGE);
	p[3] = xvm_lease_take(&b, 2 * PAGE, &owner);
	cr_assert_eq(p[3]->off, 6 * PAGE);
	cr_assert_eq(xvm_lease_take(&b, 3 * PAGE, &owner), NULL);
	p[3] = xvm_lease_take(&b, 2 * PAGE, &owner);
	cr_assert_eq(p[3]->off, 13 * PAGE, "up to the very end");
	cr_assert_null(xvm_lease_take(&b, 1, &owner));
	cr_assert_eq(xvm_lease_find(&b, 8 * PAGE), p[2]);
	cr_assert_null(xvm_lease_find(&b, 9 * PAGE), "the middle of one");
	cr_assert_null(xvm_lease_find(&b, 0));
}

Test(lease, a_half_gets_less_where_less_is_left)
{
	struct xvm_lease_book big;
	uint64_t len = XVM_HALF_CTL + (512 << 10), was = len, all = 8 << 20, n = 0;
	struct xvm_piece *p;

	xvm_lease_init(&big, 0, all);
	cr_assert_eq(xvm_lease_half(&big, PAGE + XVM_RING_MIN, &owner)->len, PAGE + XVM_RING_MIN,
		     "not more than was asked for");
	while ((p = xvm_lease_half(&big, len, &owner)) != NULL) {
		uint64_t ring = p->len - XVM_HALF_CTL;

		cr_assert_leq(p->len, was);
		cr_assert_eq(ring & (ring - 1), 0);
		cr_assert_geq(ring, 16 << 10);
		was = p->len;
		n++;
	}
	cr_assert_gt(n, 64, "many have one");
	cr_assert_gt(big.lent, all - 6 * PAGE, "and no room is left");
	xvm_lease_exit(&big);
}

Test(lease, lengths_that_make_no_sense)
{
	cr_assert_null(xvm_lease_take(&b, 0, &owner));
	cr_assert_null(xvm_lease_take(&b, 10 * PAGE + 1, &owner));
	cr_assert_null(xvm_lease_take(&b, ~0ull, &owner));
	cr_assert_null(xvm_lease_take(&b, ~0ull - PAGE, &owner));
	cr_assert_not_null(xvm_lease_take(&b, 10 * PAGE, &owner));
}

Test(lease, a_piece_stays_as_long_as_it_is_read)
{
	struct xvm_piece *p = xvm_lease_take(&b, 10 * PAGE, &owner);

	xvm_lease_hold(p);
	xvm_lease_return(p);
	xvm_lease_return(p);
	cr_assert_null(xvm_lease_take(&b, PAGE, &owner));
	xvm_lease_drop(p);
	cr_assert_not_null(xvm_lease_take(&b, PAGE, &owner));
}

Test(lease, at_random)
{
	struct xvm_piece *p[10] = {NULL};
	uint8_t map[15] = {0};
	uint64_t k;
	int i, n;

	srandom(1);
	for (n = 0; n < 20000; n++) {
		i = random() % 10;
		if (p[i]) {
			memset(map + p[i]->off / PAGE, 0, p[i]->len / PAGE);
			xvm_lease_return(p[i]);
			p[i] = NULL;
			continue;
		}
		p[i] = xvm_lease_take(&b, (1 + random() % 4) * PAGE, &owner);
		if (!p[i])
			continue;
		cr_assert(p[i]->off >= 5 * PAGE && p[i]->off + p[i]->len <= 15 * PAGE);
		for (k = 0; k < p[i]->len / PAGE; k++) {
			cr_assert_eq(map[p[i]->off / PAGE + k], 0, "lent twice");
			map[p[i]->off / PAGE + k] = 1;
		}
	}
}
