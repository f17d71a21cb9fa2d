/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of an offer that was refused, or that nobody will answer. */
#include <criterion/criterion.h>

#include "test/unit/shim_pair.h"

#define CALLS 200 /* more than a refused offer waits for */

static struct xvm_shm_table tables[2] __attribute__((aligned(4096)));

/* Not paired yet, and with a daemon. */
static void make_candidate(void)
{
	make_pair();
	atomic_store(&s[0]->paired, 0);
	xvm_half_close(&s[0]->mine);
	atomic_store(&s[0]->ep->state, XVM_EP_CANDIDATE);
	atomic_store(&s[0]->ep->reason, XVM_R_NEW);
	for (int i = 0; i < XVM_HOLDERS; i++)
		atomic_store(&s[0]->ep->holders[i].mapped, 0);
	xvm_conf.offer_after = 8;
	link_is = XVM_R_NONE;
	atomic_store(&xvm_link_table, &tables[0]);
}

static uint32_t state(void)
{
	return atomic_load(&s[0]->ep->state);
}

/* How many calls it takes until it is offered; CALLS: more than that. */
static int calls_to_offer(void)
{
	int i = 0;

	for (; i < CALLS && state() != XVM_EP_OFFERED; i++)
		xvm_offer_engage(s[0], fd[0], i % 2);
	return i;
}

TestSuite(offer, .init = make_candidate);

Test(offer, after_eight_calls)
{
	cr_assert_eq(calls_to_offer(), 9);
	cr_assert_eq(link_offers, 1);
}

/* xvmd hears of addresses by and by, so what it refuses for them is offered again, by a new name,
 * when the table has changed; and not before. */
Test(offer, refused_for_its_address)
{
	enum xvm_reason whys[] = {XVM_R_NOT_RESIDENT, XVM_R_AMBIGUOUS};
	uint32_t gen;

	calls_to_offer();
	for (int i = 0; i < 2; i++) {
		gen = s[0]->gen;
		xvm_offer_refused(s[0]->slot, gen, whys[i]);
		cr_assert_eq(state(), XVM_EP_CANDIDATE);
		cr_assert_eq(atomic_load(&s[0]->ep->reason), whys[i]);
		cr_assert_null(s[0]->mine.shm);
		cr_assert_eq(calls_to_offer(), CALLS);
		atomic_fetch_add(&tables[0].seq, 2);
		cr_assert_eq(calls_to_offer(), 1);
		cr_assert_neq(s[0]->gen, gen);
		cr_assert_eq(s[0]->gen, atomic_load(&s[0]->ep->gen));
		/* What is said of the former is not of this one. */
		xvm_offer_refused(s[0]->slot, gen, XVM_R_RULE);
		cr_assert_eq(state(), XVM_EP_OFFERED);
	}
	cr_assert_eq(link_offers, 3);
}

Test(offer, refused_for_good)
{
	calls_to_offer();
	xvm_offer_refused(s[0]->slot, s[0]->gen, XVM_R_RULE);
	cr_assert_eq(state(), XVM_EP_TCP);
	atomic_fetch_add(&tables[0].seq, 2);
	cr_assert_eq(calls_to_offer(), CALLS);
}

/* Another daemon's table may have changed as often. */
Test(offer, the_table_is_another_one)
{
	calls_to_offer();
	xvm_offer_refused(s[0]->slot, s[0]->gen, XVM_R_NOT_RESIDENT);
	cr_assert_eq(calls_to_offer(), CALLS);
	atomic_store(&xvm_link_table, &tables[1]);
	cr_assert_eq(calls_to_offer(), 1);
}

/* A fork goes by the name, too. */
Test(offer, refused_with_another_holder)
{
	uint32_t gen;

	calls_to_offer();
	gen = s[0]->gen;
	atomic_fetch_add(&s[0]->ep->forking, 1);
	xvm_offer_refused(s[0]->slot, gen, XVM_R_NOT_RESIDENT);
	cr_assert_eq(state(), XVM_EP_TCP);
	cr_assert_eq(s[0]->gen, gen);
}

/* ---- in a region ----------------------------------------------------------- */

/* An offer that was on its way when the next daemon spoke of the region was not among those that
 * were to be made again: the next look finds it. Before the daemon has spoken it may yet answer. */
Test(offer, offer_was_missed)
{
	uint32_t gen, len;

	calls_to_offer();
	gen = s[0]->gen;
	len = XVM_HALF_CTL + s[0]->mine.ring_size;

	atomic_store(&s[0]->ep->medium, XVM_MEDIUM_REGION + 1);
	xvm_offer_lapsed(s[0]);
	cr_assert_eq(atomic_load(&s[0]->ep->state), XVM_EP_OFFERED);
	vm_told = vm_kept = true;
	xvm_offer_lapsed(s[0]);
	cr_assert_eq(atomic_load(&s[0]->ep->state), XVM_EP_CANDIDATE);
	cr_assert_eq(atomic_load(&s[0]->ep->reason), XVM_R_NEW);
	cr_assert_eq(s[0]->gen, gen + 1, "by another name");
	cr_assert_eq(link_returned, len, "its piece is given back");
}
