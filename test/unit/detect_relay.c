/* SPDX-License-Identifier: Apache-2.0 */
/* Letters between the host's xvmd, in this process, and xvmds in VMs, played by the tests. */
#include <sys/mman.h>

#include "test/unit/guests.h"

TestSuite(relay, .init = setup, .fini = teardown, .timeout = 60);

/* ---- runs ---------------------------------------------------------------- */

Test(relay, hello_and_welcome)
{
	struct guest a = boot();
	uint64_t n;

	cr_assert_eq(state(&a), XVM_PEER_JOINED);
	cr_assert_eq(read(a.vm->vector[0], &n, 8), -1);
	hello(&a);
	cr_assert_eq(state(&a), XVM_PEER_UP);
	cr_assert_eq(xvm_region_header(&g->region)->peer[1].flags, XVM_LETTER_F_DOORBELL);
	cr_assert_eq(read(a.vm->vector[0], &n, 8), 8, "it is rung");
	cr_assert_geq(xvm_region_header(&g->region)->peer[1].news, 1);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME);
	/* Asked again, as the answer took too long. */
	hello(&a);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME);
	no_letter(&a);
	power_off(&a);
}

Test(relay, another_version)
{
	struct guest a = boot();
	struct xvm_letter l;

	say(&a, (struct xvm_letter){.type = XVM_LETTER_HELLO, .arg = XVM_REGION_VERSION + 1});
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_AGAIN);
	cr_assert_eq(l.arg, EPROTONOSUPPORT);
	cr_assert_eq(state(&a), XVM_PEER_JOINED);
}

Test(relay, a_run_whose_halves_are_still_mapped)
{
	struct guest a = up();

	xvm_vm_hold(a.vm);
	a.run++;
	xvm_mailbox_resume(&a.box, a.box.mine, a.box.theirs, false);
	hello(&a);
	no_letter(&a);
	cr_assert_eq(state(&a), XVM_PEER_JOINED);
	xvm_vm_release(a.vm);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME);
	cr_assert_eq(state(&a), XVM_PEER_UP);
}

Test(relay, nonsense)
{
	static const struct xvm_letter bad[] = {
		{.type = 0},
		{.type = 99},
		{.type = XVM_LETTER_WELCOME},
		{.type = XVM_LETTER_OFFER, .off = 1},
		{.type = XVM_LETTER_ADDR, .arg = 7},
	};
	struct guest a = boot(), b = up();
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		say(&a, bad[i]);
		no_letter(&a);
		a.run++;
		hello(&a);
		cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME);
		say(&a, bad[i]);
		cr_assert_eq(read_letter(&a).type, XVM_LETTER_AGAIN);
		cr_assert_eq(state(&a), XVM_PEER_JOINED);
		/* What comes before the next hello is not looked at. */
		claim(&a, "10.0.0.9", 1, true);
		no_letter(&a);
		cr_assert_eq(a.vm->n_claims, 0);
	}
	cr_assert_eq(state(&b), XVM_PEER_UP, "others do not care");
}

Test(relay, a_mailbox_that_lies)
{
	struct guest a = up();
	int i;

	atomic_store(&a.box.mine->head, a.box.head + 1000);
	xvm_fd_ring(a.vm->bell);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_AGAIN);
	/* It comes to its senses. */
	a.box.head += 1000;
	a.run++;
	hello(&a);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME);
	/* It has read letters that are still to be written. */
	atomic_store(&a.box.mine->tail, a.box.theirs->head + 1);
	claim(&a, "10.0.0.9", 1, true);
	step();
	cr_assert_eq(state(&a), XVM_PEER_JOINED);
	for (i = 0; i < 100; i++) {
		atomic_store(&a.box.mine->head, random());
		xvm_fd_ring(a.vm->bell);
		step();
	}
}

Test(relay, a_guest_that_does_not_read)
{
	struct xvm_letter l = {.type = XVM_LETTER_FREED};
	struct guest a = up();
	int i;

	/* News that it can do without do not break it. */
	for (i = 0; i < 10000; i++)
		xvm_relay_addr_refused(a.vm, ip("10.0.0.1"), EPERM);
	step();
	cr_assert_eq(state(&a), XVM_PEER_UP);
	for (i = 0; i < 100 && state(&a) == XVM_PEER_UP; i++)
		for (int k = 0; k < 64; k++)
			xvm_relay_send(a.vm, &l);
	step();
	cr_assert_eq(state(&a), XVM_PEER_JOINED);
	a.run++;
	hello(&a);
	for (i = 0; i < 1000 && state(&a) != XVM_PEER_UP; i++)
		step();
	cr_assert_eq(state(&a), XVM_PEER_UP, "it may come again");
}

Test(relay, a_full_mailbox_is_emptied_bit_by_bit)
{
	struct guest a = up();
	int i;

	for (i = 0; i < 1000; i++)
		xvm_relay_send(a.vm, &(struct xvm_letter){.type = XVM_LETTER_FREED, .slot = i});
	for (i = 0; i < 1000; i++) {
		struct xvm_letter l = read_letter(&a);

		cr_assert_eq(l.type, XVM_LETTER_FREED);
		cr_assert_eq(l.slot, i);
		/* As told by done(): the host waits for room. */
		xvm_fd_ring(a.vm->bell);
	}
	no_letter(&a);
}

Test(relay, a_flood)
{
	struct guest a = up(), b = up();
	int i;

	for (i = 0; i < 128; i++)
		write_letter(&a, (struct xvm_letter){.type = XVM_LETTER_UNPAIR});
	xvm_fd_ring(a.vm->bell);
	claim(&b, "10.0.0.2", 2, true);
	cr_assert_eq(b.vm->n_claims, 1);
	step();
	cr_assert_eq(a.box.theirs->tail, a.box.head, "all read, with one ring");
}

/* ---- addresses ----------------------------------------------------------- */

Test(relay, an_address_behind_its_own_tap)
{
	struct guest a = up(), b = up();
	struct xvm_nl_neigh *fdb, *arp;
	struct xvm_letter l;
	uint32_t peer = 9;
	uint64_t n;

	link_up("xvmtap1", 901, 900);
	link_up("xvmtap2", 902, 900);
	give_tap(&a, "xvmtap1");
	give_tap(&b, "xvmtap2");
	claim(&a, "10.9.0.1", 1, true);
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_ADDR_REFUSED);
	cr_assert_eq(l.arg, EAGAIN, "its MAC has not been seen yet");
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), 0);
	while (read(b.vm->vector[0], &n, 8) == 8)
		;
	/* By an event alone. */
	fdb = neigh(901, NULL, 1);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), XVM_RES_USED | XVM_RES_VM);
	cr_assert_eq(peer, a.vm->peer);
	cr_assert_eq(read(b.vm->vector[0], &n, 8), 8, "the others are told at once");
	arp = neigh(900, "10.9.0.1", 1);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), XVM_RES_USED | XVM_RES_VM | XVM_RES_SEEN);
	no_letter(&a);
	/* The MAC turns up elsewhere. */
	fdb->ifindex = 902;
	xvm_vms_neigh(&d, fdb);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), 0);
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_ADDR_REFUSED);
	cr_assert_eq(l.arg, EPERM);
	fdb->ifindex = 901;
	xvm_vms_neigh(&d, fdb);
	cr_assert_neq(seen(&b, "10.9.0.1", &peer), 0);
	forget_neigh(arp);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), XVM_RES_USED | XVM_RES_VM);
	/* It gives it up. */
	claim(&a, "10.9.0.1", 1, false);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), 0);
	claim(&a, "10.9.0.1", 1, true);
	cr_assert_neq(seen(&b, "10.9.0.1", &peer), 0);
	power_off(&a);
	cr_assert_eq(seen(&b, "10.9.0.1", &peer), 0, "nobody is there");
}

Test(relay, an_address_of_somebody_else)
{
	struct guest a = up(), b = up();
	struct xvm_letter l;
	uint32_t peer;

	link_up("xvmtap1", 901, 900);
	link_up("xvmtap2", 902, 900);
	give_tap(&a, "xvmtap1");
	give_tap(&b, "xvmtap2");
	neigh(901, NULL, 1);
	neigh(902, NULL, 2);
	neigh(900, "10.9.0.2", 2);
	/* Its own MAC, and an address that the host knows to be b's. */
	claim(&a, "10.9.0.2", 1, true);
	l = read_letter(&a);
	cr_assert_eq(l.arg, EPERM);
	cr_assert_eq(seen(&b, "10.9.0.2", &peer), 0);
	/* b's MAC too. */
	claim(&a, "10.9.0.2", 2, true);
	l = read_letter(&a);
	cr_assert_eq(l.arg, EPERM);
	claim(&b, "10.9.0.2", 2, true);
	cr_assert_eq(seen(&a, "10.9.0.2", &peer), XVM_RES_USED | XVM_RES_VM | XVM_RES_SEEN);
	cr_assert_eq(peer, b.vm->peer);
	no_letter(&b);
}

Test(relay, an_address_that_two_have)
{
	struct guest a = up(), b = up();
	uint32_t peer;

	link_up("xvmtap1", 901, 900);
	link_up("xvmtap2", 902, 900);
	give_tap(&a, "xvmtap1");
	give_tap(&b, "xvmtap2");
	neigh(901, NULL, 1);
	neigh(902, NULL, 2);
	claim(&a, "10.9.0.1", 1, true);
	claim(&b, "10.9.0.1", 2, true);
	cr_assert(seen(&a, "10.9.0.1", &peer) & XVM_RES_AMBIGUOUS);
	claim(&b, "10.9.0.1", 2, false);
	cr_assert(!(seen(&a, "10.9.0.1", &peer) & XVM_RES_AMBIGUOUS));
	cr_assert_eq(peer, a.vm->peer);
}

Test(relay, more_claims_than_are_taken)
{
	struct guest a = up();
	struct xvm_letter l = {.type = XVM_LETTER_ADDR, .arg = 1, .mac = {2}};
	struct xvm_letter r = {0};
	uint32_t i;

	memcpy(l.laddr, ip("fd00::"), 16);
	for (i = 0; i < XVM_VM_CLAIMS_MAX + 1; i++) {
		memcpy(l.laddr + 12, &i, 4);
		say(&a, l);
		r = read_letter(&a);
		cr_assert_eq(r.type, XVM_LETTER_ADDR_REFUSED);
	}
	cr_assert_eq(r.arg, ENOSPC);
	cr_assert_eq(a.vm->n_claims, XVM_VM_CLAIMS_MAX);
}

Test(relay, the_hosts_own_addresses)
{
	struct guest a = up();
	uint32_t peer = 9;

	xvm_residency_add(&d.residency, d.netns.own->res, 4242, ip("10.9.0.254"));
	cr_assert_eq(seen(&a, "10.9.0.254", &peer), XVM_RES_USED | XVM_RES_LOCAL);
	cr_assert_eq(peer, XVM_PEER_HOST);
}

/* ---- pairs ---------------------------------------------------------------- */

Test(relay, two_vms_are_paired)
{
	struct guest a, b;
	struct xvm_letter l;

	two_up(&a, &b);
	pair(&a, &b, 3);
	cr_assert_eq(xvm_pairs_count(&d), 1);
	cr_assert_eq(d.pairing.count, 0);
	cr_assert_eq(a.vm->readers, 1);
	cr_assert_eq(b.vm->readers, 1);
	unpair(&a, 3);
	no_letter(&a);
	cr_assert_eq(b.vm->readers, 0, "a reads b no more");
	cr_assert_eq(a.vm->readers, 1);
	unpair(&a, 3);
	unpair(&b, 3);
	cr_assert_eq(a.vm->readers, 0);
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_FREED);
	cr_assert_eq(l.client, 5);
	cr_assert_eq(l.slot, 3);
	cr_assert_eq(read_letter(&b).type, XVM_LETTER_FREED);
	cr_assert_eq(xvm_pairs_count(&d), 0);
	cr_assert_eq(a.vm->n_ends, 0);
	pair(&a, &b, 3);
}

Test(relay, offers_that_are_refused)
{
	static const char rules[] = "pair deny user 7\npair deny program x\npair deny port 80\n";
	struct guest a, b;
	struct xvm_letter l;
	char err[64];

	two_up(&a, &b);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.3", 80, 1));
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_REFUSED);
	cr_assert_eq(l.arg, XVM_R_NOT_RESIDENT);
	cr_assert_eq(l.slot, 1);
	/* An address that it does not have. */
	say(&a, an_offer("10.9.0.2", 1000, "10.9.0.1", 80, 1));
	cr_assert_eq(read_letter(&a).arg, XVM_R_NOT_RESIDENT);
	say(&a, an_offer("10.9.0.7", 1000, "10.9.0.2", 80, 1));
	cr_assert_eq(read_letter(&a).arg, XVM_R_NOT_RESIDENT);
	say(&a, an_offer("127.0.0.1", 1000, "127.0.0.1", 80, 1));
	cr_assert_eq(read_letter(&a).arg, XVM_R_NOT_RESIDENT);
	/* Rules of this host: by address and port, not by what it cannot know. */
	xvm_conf_free(d.conf);
	d.conf = xvm_conf_parse(rules, strlen(rules), "", err, sizeof(err));
	cr_assert_not_null(d.conf, "%s", err);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.2", 80, 1));
	say(&b, an_offer("10.9.0.2", 80, "10.9.0.1", 1000, 1));
	cr_assert_eq(read_letter(&a).arg, XVM_R_RULE);
	cr_assert_eq(read_letter(&b).arg, XVM_R_RULE);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.2", 81, 1));
	say(&b, an_offer("10.9.0.2", 81, "10.9.0.1", 1000, 1));
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_PAIRED);
	/* Both the active end. */
	l = an_offer("10.9.0.1", 1001, "10.9.0.2", 81, 2);
	say(&a, l);
	l = an_offer("10.9.0.2", 81, "10.9.0.1", 1001, 2);
	l.role = XVM_ROLE_ACTIVE;
	say(&b, l);
	cr_assert_eq(read_letter(&a).arg, XVM_R_SELF);
	cr_assert_eq(d.pairing.count, 0);
}

Test(relay, withdrawn_and_replaced_offers)
{
	struct guest a, b;
	struct xvm_letter l;

	two_up(&a, &b);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.2", 80, 1));
	cr_assert_eq(d.pairing.count, 1);
	l = (struct xvm_letter){.type = XVM_LETTER_WITHDRAW, .client = 5, .slot = 1, .gen = 2};
	say(&a, l);
	cr_assert_eq(d.pairing.count, 1, "another generation's");
	l.gen = 1;
	say(&a, l);
	cr_assert_eq(d.pairing.count, 0);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.2", 80, 1));
	say(&a, an_offer("10.9.0.1", 1001, "10.9.0.2", 80, 1));
	say(&a, an_offer("10.9.0.1", 1001, "10.9.0.2", 80, 2));
	cr_assert_eq(d.pairing.count, 1, "by its name, and by its tuple");
	cr_assert_eq(a.vm->n_offers, 1);
	say(&b, an_offer("10.9.0.2", 80, "10.9.0.1", 1001, 1));
	cr_assert_eq(read_letter(&a).slot, 2);
}

Test(relay, a_vm_dies)
{
	struct guest a, b;
	struct xvm_letter l;
	struct xvm_vm *dead;

	two_up(&a, &b);
	pair(&a, &b, 1);
	pair(&a, &b, 2);
	say(&a, an_offer("10.9.0.1", 999, "10.9.0.2", 80, 7));
	dead = a.vm;
	power_off(&a);
	cr_assert_eq(d.pairing.count, 0);
	l = read_letter(&b);
	cr_assert_eq(l.type, XVM_LETTER_GONE, "once for all pairs");
	cr_assert_eq(l.peer, 1);
	cr_assert_eq(l.peer_gen, dead->gen);
	no_letter(&b);
	cr_assert_eq(b.vm->readers, 0);
	cr_assert_eq(g->vm[1], dead, "b still has its halves mapped");
	cr_assert_eq(state(&b), XVM_PEER_UP);
	cr_assert_eq(xvm_region_header(&g->region)->peer[1].state, XVM_PEER_GONE);
	unpair(&b, 1);
	cr_assert_eq(read_letter(&b).type, XVM_LETTER_FREED);
	cr_assert_not_null(g->vm[1]);
	unpair(&b, 2);
	cr_assert_eq(read_letter(&b).type, XVM_LETTER_FREED);
	cr_assert_null(g->vm[1]);
	cr_assert_eq(xvm_pairs_count(&d), 0);
}

Test(relay, both_die)
{
	struct guest a, b;

	two_up(&a, &b);
	pair(&a, &b, 1);
	close(a.sock);
	close(b.sock);
	step();
	cr_assert_null(g->vm[1]);
	cr_assert_null(g->vm[2]);
	cr_assert_eq(xvm_pairs_count(&d), 0);
}

Test(relay, a_guest_boots_anew)
{
	struct guest a, b;
	struct xvm_letter l;

	two_up(&a, &b);
	pair(&a, &b, 1);
	a.run++;
	xvm_mailbox_resume(&a.box, a.box.mine, a.box.theirs, false);
	hello(&a);
	no_letter(&a);
	l = read_letter(&b);
	cr_assert_eq(l.type, XVM_LETTER_GONE);
	cr_assert_eq(l.peer, 1);
	/* What it says before it is welcome counts for nothing. */
	claim(&a, "10.9.0.1", 1, true);
	cr_assert_eq(a.vm->n_claims, 0);
	unpair(&b, 1);
	cr_assert_eq(read_letter(&b).type, XVM_LETTER_FREED);
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_WELCOME, "nothing of its last run");
	cr_assert_eq(l.run, a.run);
	give_tap(&a, "xvmtap1");
	claim(&a, "10.9.0.1", 1, true);
	pair(&a, &b, 1);
}

Test(relay, another_xvmd_in_the_guest)
{
	struct guest a, b;
	struct xvm_letter l;

	two_up(&a, &b);
	pair(&a, &b, 1);
	say(&a, an_offer("10.9.0.1", 999, "10.9.0.2", 80, 7));
	xvm_mailbox_resume(&a.box, a.box.mine, a.box.theirs, false);
	hello(&a);
	cr_assert_eq(read_letter(&a).type, XVM_LETTER_WELCOME, "though b reads it");
	no_letter(&b);
	cr_assert_eq(xvm_pairs_count(&d), 1, "what is paired goes on");
	cr_assert_eq(d.pairing.count, 0);
	cr_assert_eq(a.vm->n_claims, 0);
	give_tap(&a, "xvmtap1");
	claim(&a, "10.9.0.1", 1, true);
	pair(&a, &b, 2);
	unpair(&b, 1);
	unpair(&a, 1);
	l = read_letter(&a);
	cr_assert_eq(l.type, XVM_LETTER_FREED);
	cr_assert_eq(l.slot, 1);
}

/* As systemctl restart does: machines have the region and go on. */
Test(relay, the_daemon_ends_and_leaves_everything_as_it_was)
{
	struct guest a, b;
	size_t len = g->region.size;
	uint8_t *then, *now;
	char err[16];

	two_up(&a, &b);
	pair(&a, &b, 0);
	memset(g->region.map + xvm_region_arena(&g->region, a.vm->peer) + XVM_REGION_BOX, 7, HALF);
	now = mmap(NULL, len, PROT_READ, MAP_SHARED, g->mem_fd, 0);
	cr_assert_neq(now, MAP_FAILED);
	then = malloc(len);
	memcpy(then, now, len);
	teardown();
	cr_assert_eq(memcmp(then, now, len), 0);
	free(then);
	munmap(now, len);
	memset(&d, 0, sizeof(d));
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_daemon_init(&d), 0);
}

Test(relay, an_address_moves_while_an_offer_waits)
{
	struct guest a, b, c;

	two_up(&a, &b);
	c = up();
	link_up("xvmtap3", 903, 900);
	give_tap(&c, "xvmtap3");
	neigh(903, NULL, 3);
	say(&a, an_offer("10.9.0.1", 1000, "10.9.0.2", 80, 1));
	claim(&b, "10.9.0.2", 2, false);
	claim(&c, "10.9.0.2", 3, true);
	/* b offers what it has no more; c what a meant, but not to c. */
	say(&b, an_offer("10.9.0.2", 80, "10.9.0.1", 1000, 1));
	cr_assert_eq(read_letter(&b).arg, XVM_R_NOT_RESIDENT);
	say(&c, an_offer("10.9.0.2", 80, "10.9.0.1", 1000, 1));
	cr_assert_eq(read_letter(&c).type, XVM_LETTER_PAIRED, "it has it now");
	cr_assert_eq(read_letter(&a).peer, c.vm->peer);
}

Test(relay, a_group_is_ended_with_all_its_pairs)
{
	struct guest a, b;

	two_up(&a, &b);
	pair(&a, &b, 1);
	pair(&a, &b, 2);
	say(&a, an_offer("10.9.0.1", 999, "10.9.0.2", 80, 7));
	power_off(&b);
	cr_assert_not_null(g->vm[2]);
	xvm_group_del(g);
	cr_assert_eq(xvm_pairs_count(&d), 0);
	cr_assert_eq(d.pairing.count, 0);
	cr_assert_eq(d.fds, 1);
}

Test(relay, many_pairs)
{
	struct guest a, b;
	uint32_t i;

	two_up(&a, &b);
	for (i = 0; i < 350; i++)
		pair(&a, &b, i);
	cr_assert_eq(xvm_pairs_count(&d), 350);
	cr_assert_eq(a.vm->n_ends, 350);
	cr_assert_eq(a.vm->readers, 350);
	power_off(&a);
	power_off(&b);
	cr_assert_eq(xvm_pairs_count(&d), 0);
}
