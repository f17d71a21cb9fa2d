/* SPDX-License-Identifier: Apache-2.0 */
/* The host's xvmd in this process, and VMs whose QEMU and xvmd are played by the test. */
#ifndef XVM_TEST_GUESTS_H
#define XVM_TEST_GUESTS_H

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/netlink.h"
#include "detect/pairs.h"
#include "detect/relay.h"
#include "detect/vms.h"

static struct xvm_daemon d;
static struct xvm_group *g;

/* A VM as its own xvmd sees it. */
struct guest {
	int sock;
	struct xvm_vm *vm;
	struct xvm_region region;
	struct xvm_mailbox box;
	uint64_t news, run;
};

static inline void step(void)
{
	int i;

	for (i = 0; i < 4; i++)
		ev_run(d.loop, EVRUN_NOWAIT);
}

static inline void setup(void)
{
	static const struct xvm_conf_group conf = {
		.name = "g", .size = 8 << 20, .vms = 4, .vectors = 4};
	char err[256] = "";

	xvm_log_level(LOG_EMERG);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_fd_init(), 0);
	cr_assert_eq(xvm_daemon_init(&d), 0);
	g = xvm_group_add(&d, &conf, err, sizeof(err));
	cr_assert_not_null(g, "%s", err);
	step();
}

static inline void teardown(void)
{
	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
}

static inline const uint8_t *ip(const char *text)
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

/* ---- what the kernel would say ------------------------------------------ */

static inline void link_up(const char *name, uint32_t ifindex, uint32_t master)
{
	struct xvm_nl_link *l = calloc(1, sizeof(*l));

	snprintf(l->name, sizeof(l->name), "%s", name);
	snprintf(l->kind, sizeof(l->kind), "tun");
	l->ifindex = ifindex;
	l->master = master;
	xvm_list_add(&d.netns.own->links, &l->in_ns);
	d.netns.own->n_links++;
}

/* addr NULL: an entry of the FDB. */
static inline struct xvm_nl_neigh *neigh(uint32_t ifindex, const char *addr, uint8_t mac)
{
	struct xvm_nl_neigh *n = calloc(1, sizeof(*n));

	n->ifindex = ifindex;
	if (addr)
		memcpy(n->addr, ip(addr), 16);
	n->mac[0] = 2;
	n->mac[5] = mac;
	xvm_list_add(&d.netns.neighs, &n->in_all);
	d.netns.n_neighs++;
	xvm_vms_neigh(&d, n);
	return n;
}

static inline void forget_neigh(struct xvm_nl_neigh *n)
{
	xvm_vms_neigh(&d, n);
	xvm_list_del(&n->in_all);
	d.netns.n_neighs--;
	free(n);
}

/* ---- guests -------------------------------------------------------------- */

static inline struct guest boot(void)
{
	struct guest v = {.run = 77};
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	v.sock = sv[0];
	v.vm = xvm_vm_join(g, sv[1], getpid(), getuid());
	cr_assert_not_null(v.vm);
	cr_assert_eq(xvm_region_open(&v.region, g->region.map, g->region.size), 0);
	xvm_mailbox_init(&v.box, xvm_region_peer_box(&v.region, v.vm->peer),
			 xvm_region_host_box(&v.region, v.vm->peer));
	step();
	return v;
}

static inline void write_letter(struct guest *v, struct xvm_letter l)
{
	cr_assert_eq(xvm_mailbox_put(&v->box, &l), 0);
}

static inline void say(struct guest *v, struct xvm_letter l)
{
	write_letter(v, l);
	xvm_fd_ring(v->vm->bell);
	step();
}

static inline struct xvm_letter read_letter(struct guest *v)
{
	struct xvm_letter l;

	step();
	cr_assert_eq(xvm_mailbox_get(&v->box, &l), 0, "no letter");
	cr_assert_null(xvm_letter_wrong(&l, &v->region, false, v->vm->peer));
	xvm_mailbox_done(&v->box);
	return l;
}

static inline void no_letter(struct guest *v)
{
	struct xvm_letter l;

	step();
	cr_assert_eq(xvm_mailbox_get(&v->box, &l), -EAGAIN, "type %u", l.type);
}

static inline void hello(struct guest *v)
{
	say(v, (struct xvm_letter){.type = XVM_LETTER_HELLO,
				   .arg = XVM_REGION_VERSION,
				   .run = v->run,
				   .flags = XVM_LETTER_F_DOORBELL});
}

static inline struct guest up(void)
{
	struct guest v = boot();
	struct xvm_letter l;

	hello(&v);
	l = read_letter(&v);
	cr_assert_eq(l.type, XVM_LETTER_WELCOME);
	cr_assert_eq(l.run, v.run);
	cr_assert_eq(l.peer, v.vm->peer);
	return v;
}

static inline void power_off(struct guest *v)
{
	close(v->sock);
	step();
}

static inline void claim(struct guest *v, const char *addr, uint8_t mac, bool there)
{
	struct xvm_letter l = {.type = XVM_LETTER_ADDR, .arg = there, .mac = {2, 0, 0, 0, 0, mac}};

	memcpy(l.laddr, ip(addr), 16);
	say(v, l);
}

static inline void give_tap(struct guest *v, const char *name)
{
	snprintf(v->vm->tap[0], sizeof(v->vm->tap[0]), "%s", name);
	v->vm->n_taps = 1;
}

/* What a guest finds in the table; 0: nothing. */
static inline uint32_t seen(struct guest *v, const char *addr, uint32_t *peer)
{
	struct xvm_shm_region_res *res = calloc(XVM_REGION_RES_MAX, sizeof(*res));
	uint32_t flags = 0;
	int i, n;

	step();
	n = xvm_region_residents(&v->region, res);
	cr_assert_geq(n, 0);
	for (i = 0; i < n; i++)
		if (!memcmp(res[i].addr, ip(addr), 16)) {
			cr_assert_eq(flags, 0, "twice");
			flags = res[i].flags;
			*peer = res[i].peer;
		}
	free(res);
	return flags;
}

static inline uint32_t state(const struct guest *v)
{
	return xvm_region_header(&g->region)->peer[v->vm->peer].state;
}

#define HALF (4096u + 65536u)

/* Two VMs that have an address each, and each other's. */
static inline void two_up(struct guest *a, struct guest *b)
{
	*a = up();
	*b = up();
	link_up("xvmtap1", 901, 900);
	link_up("xvmtap2", 902, 900);
	give_tap(a, "xvmtap1");
	give_tap(b, "xvmtap2");
	neigh(901, NULL, 1);
	neigh(902, NULL, 2);
	claim(a, "10.9.0.1", 1, true);
	claim(b, "10.9.0.2", 2, true);
	step();
}

static inline struct xvm_letter an_offer(const char *l, uint16_t lport, const char *r,
					 uint16_t rport, uint32_t slot)
{
	struct xvm_letter o = {.type = XVM_LETTER_OFFER,
			       .client = 5,
			       .slot = slot,
			       .gen = 1,
			       .cookie = slot + 1,
			       .lport = lport,
			       .rport = rport,
			       .off = XVM_REGION_BOX + slot * 4096,
			       .len = HALF};

	memcpy(o.laddr, ip(l), 16);
	memcpy(o.raddr, ip(r), 16);
	o.role = lport > rport ? XVM_ROLE_ACTIVE : XVM_ROLE_PASSIVE;
	return o;
}

/* Pair slot of a with the same of b. */
static inline void pair(struct guest *a, struct guest *b, uint32_t slot)
{
	struct xvm_letter l;

	say(a, an_offer("10.9.0.1", 1000 + slot, "10.9.0.2", 80, slot));
	no_letter(a);
	say(b, an_offer("10.9.0.2", 80, "10.9.0.1", 1000 + slot, slot));
	l = read_letter(b);
	cr_assert_eq(l.type, XVM_LETTER_PAIRED, "type %u arg %u", l.type, l.arg);
	cr_assert_eq(l.client, 5);
	cr_assert_eq(l.slot, slot);
	cr_assert_eq(l.gen, 1);
	cr_assert_eq(l.role, XVM_ROLE_PASSIVE);
	cr_assert_eq(l.peer, a->vm->peer);
	cr_assert_eq(l.peer_gen, a->vm->gen);
	cr_assert_eq(l.off, XVM_REGION_BOX + slot * 4096);
	cr_assert_eq(l.len, HALF);
	cr_assert_eq(l.flags, XVM_LETTER_F_DOORBELL);
	l = read_letter(a);
	cr_assert_eq(l.type, XVM_LETTER_PAIRED);
	cr_assert_eq(l.role, XVM_ROLE_ACTIVE);
	cr_assert_eq(l.peer, b->vm->peer);
}

static inline void unpair(struct guest *v, uint32_t slot)
{
	say(v, (struct xvm_letter){.type = XVM_LETTER_UNPAIR, .client = 5, .slot = slot, .gen = 1});
}

#endif
