/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of this kernel and VMs: leases, offers and pairs between them. */
#include <netinet/in.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "detect/client.h"
#include "detect/share.h"
#include "test/unit/guests.h"
#include "transport/arena.h"

struct client {
	int sock, arena, region;
	int life; /* what it would map */
	uint32_t id;
	struct xvm_shm_arena *shm;
};

static void setup_here(void)
{
	/* A network of its own, where both ends of a connection are; one is then said to be a VM's.
	 */
	if (getuid() == 0) {
		cr_assert_eq(unshare(CLONE_NEWNET), 0);
		cr_assert_eq(system("ip link set lo up && ip addr add 10.9.0.254/32 dev lo && "
				    "ip addr add 10.9.0.1/32 dev lo"),
			     0);
	}
	setup();
	if (getuid() == 0) {
		step();
		xvm_residency_del(&d.residency, d.netns.own->res, 1, ip("10.9.0.1"));
	}
}

TestSuite(share, .init = setup_here, .fini = teardown, .timeout = 60);

/* Without root there are no networks: nothing is tested, nor said to be. */
#define NEED_ROOT                                                                                  \
	if (getuid() != 0)                                                                         \
	cr_skip_test("needs root")

static struct client connect_as(uid_t uid)
{
	struct client c;
	struct xvm_msg m;
	int sv[2], fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	c.sock = sv[0];
	c.shm = xvm_arena_create(&c.arena);
	cr_assert_not_null(xvm_conn_new(&d, sv[1], getpid(), uid));
	m = (struct xvm_msg){.type = XVM_MSG_HELLO, .arg = XVM_PROTO_VERSION, .pid = getpid()};
	cr_assert_eq(xvm_proto_send(c.sock, &m, &c.arena, 1), 0);
	step();
	cr_assert_eq(xvm_proto_recv(c.sock, &m, fds, MSG_DONTWAIT), 0);
	cr_assert_eq(m.type, XVM_MSG_WELCOME);
	c.id = m.arg2;
	close(fds[0]);
	c.region = c.life = -1;
	while (!xvm_proto_recv(c.sock, &m, fds, MSG_DONTWAIT)) {
		cr_assert_eq(m.type, XVM_MSG_REGION);
		cr_assert_eq(m.region, g->index);
		cr_assert_eq(m.off, 0);
		cr_assert_eq(m.len, g->region.size);
		cr_assert_eq(m.arg, XVM_PEER_HOST);
		c.region = fds[0];
		c.life = fds[1];
	}
	return c;
}

/* Whoever has it lives on, for all that the daemon knows. */
static void part(struct client *c)
{
	close(c->sock);
	close(c->arena);
	step();
}

static void hang_up(struct client *c)
{
	close(c->life);
	part(c);
}

static struct xvm_msg get(struct client *c, uint32_t type, int fds[2])
{
	struct xvm_msg m;
	int i;

	step();
	for (;;) {
		cr_assert_eq(xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT), 0, "no message %u",
			     type);
		if (m.type == type)
			return m;
		cr_assert(m.type == XVM_MSG_SEEN || m.type == XVM_MSG_PEER_VECTOR ||
				  m.type == XVM_MSG_VECTOR,
			  "type %u arg %u", m.type, m.arg);
		for (i = 0; i < m.nfds; i++)
			close(fds[i]);
	}
}

static void nothing(struct client *c)
{
	struct xvm_msg m;
	int fds[2];

	step();
	while (!xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT))
		cr_assert_eq(m.type, XVM_MSG_SEEN, "type %u arg %u", m.type, m.arg);
}

static void ask_piece(struct client *c, uint64_t len)
{
	struct xvm_msg m = {.type = XVM_MSG_LEASE, .region = g->index, .len = len};

	cr_assert_eq(xvm_proto_send(c->sock, &m, NULL, 0), 0);
}

static struct xvm_msg lease(struct client *c)
{
	int fds[2];

	ask_piece(c, HALF);
	return get(c, XVM_MSG_PIECE, fds);
}

/* A VM with the address 10.9.0.1, as the host sees it too. */
static struct guest vm_up(void)
{
	struct guest v = up();

	link_up("xvmtap1", 901, 900);
	give_tap(&v, "xvmtap1");
	neigh(901, NULL, 1);
	neigh(900, "10.9.0.1", 1);
	claim(&v, "10.9.0.1", 1, true);
	step();
	return v;
}

/* A connection from this host to the VM, as far as addresses go. Its own port. */
static uint16_t tcp(int end[2])
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(80)}, own;
	int l = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	socklen_t len = sizeof(own);

	inet_pton(AF_INET, "10.9.0.1", &sa.sin_addr);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	cr_assert_eq(bind(l, (void *)&sa, sizeof(sa)), 0);
	cr_assert_eq(listen(l, 8), 0);
	end[0] = socket(AF_INET, SOCK_STREAM, 0);
	memset(&own, 0, sizeof(own));
	own.sin_family = AF_INET;
	inet_pton(AF_INET, "10.9.0.254", &own.sin_addr);
	cr_assert_eq(bind(end[0], (void *)&own, sizeof(own)), 0);
	cr_assert_eq(connect(end[0], (void *)&sa, sizeof(sa)), 0);
	end[1] = accept(l, NULL, NULL);
	close(l);
	getsockname(end[0], (void *)&own, &len);
	return ntohs(own.sin_port);
}

static void offer_in(struct client *c, int sock, uint32_t slot, uint32_t region, uint64_t off)
{
	struct xvm_msg m = {.type = XVM_MSG_OFFER,
			    .slot = slot,
			    .gen = 1,
			    .arg = XVM_ROLE_ACTIVE,
			    .region = region,
			    .off = off,
			    .len = HALF};

	cr_assert_eq(xvm_proto_send(c->sock, &m, &sock, 1), 0);
	step();
}

static void offer(struct client *c, int sock, uint32_t slot, uint64_t off)
{
	offer_in(c, sock, slot, g->index, off);
}

Test(share, leases)
{
	NEED_ROOT;
	struct client c = connect_as(0), other = connect_as(0);
	struct guest v = vm_up();
	struct xvm_msg m, n;
	struct stat st;
	uint64_t one = 1;
	int fds[2];

	cr_assert_eq(fstat(c.region, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, g->region.size);
	/* With the first piece comes its vector, which all VMs can ring. */
	ask_piece(&c, HALF);
	m = get(&c, XVM_MSG_VECTOR, fds);
	cr_assert_eq(m.arg, 1);
	cr_assert_eq(write(fds[0], &one, 8), 8);
	cr_assert_eq(read(g->vector[1], &one, 8), 8);
	m = get(&c, XVM_MSG_PIECE, fds);
	cr_assert_eq(m.region, g->index);
	cr_assert_eq(m.off, g->region.lease_off);
	cr_assert_eq(m.len, HALF);
	n = lease(&c);
	cr_assert_eq(n.off, m.off + HALF);
	ask_piece(&other, HALF);
	cr_assert_eq(get(&other, XVM_MSG_VECTOR, fds).arg, 2);
	get(&other, XVM_MSG_PIECE, fds);
	cr_assert_eq(g->book.lent, 3 * HALF);
	hang_up(&c);
	cr_assert_eq(g->book.lent, HALF);
	cr_assert_null(g->vector_of[1]);
	hang_up(&other);
	cr_assert_eq(g->book.lent, 0);
	power_off(&v);
}

Test(share, who_may)
{
	NEED_ROOT;
	static const char rule[] = "share allow user 4242\nshare deny user 0\n";
	struct client c = connect_as(0), u = connect_as(4242);
	struct xvm_msg m;
	char err[64];
	int fds[2];

	cr_assert_geq(c.region, 0);
	cr_assert_eq(u.region, -1, "not by default");
	xvm_conf_free(d.conf);
	d.conf = xvm_conf_parse(rule, strlen(rule), "", err, sizeof(err));
	xvm_share_greet(&d, NULL);
	get(&u, XVM_MSG_REGION, fds);
	cr_assert_eq(lease(&u).len, HALF);
	cr_assert_eq(lease(&c).len, 0, "not any more");
	nothing(&c);
	/* More than there is: a smaller one. */
	ask_piece(&u, XVM_HALF_CTL + XVM_RING_MAX);
	m = get(&u, XVM_MSG_PIECE, fds);
	cr_assert_geq(m.len, HALF);
	cr_assert_lt(m.len, XVM_HALF_CTL + XVM_RING_MAX);
}

static bool is_dropped(struct client *c)
{
	struct xvm_msg m;
	int fds[2], ret;

	step();
	step();
	while (!(ret = xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT)))
		;
	return ret == -EPIPE;
}

Test(share, nonsense)
{
	NEED_ROOT;
	static const uint64_t lens[] = {0, HALF + 1, ~0ull, 2 * (XVM_HALF_CTL + XVM_RING_MAX)};
	struct xvm_msg m = {.type = XVM_MSG_LEASE, .region = g->index + 1, .len = HALF};
	struct client c;

	for (unsigned i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		c = connect_as(0);
		ask_piece(&c, lens[i]);
		cr_assert(is_dropped(&c), "length %lu", lens[i]);
	}
	c = connect_as(0);
	xvm_proto_send(c.sock, &m, NULL, 0);
	cr_assert(is_dropped(&c), "another region");
	c = connect_as(4242);
	ask_piece(&c, HALF);
	cr_assert(is_dropped(&c), "a region that it was not given");
	cr_assert_eq(g->book.lent, 0);
}

/* c's slot 3, and v's. */
static uint64_t pair_up(struct client *c, struct guest *v, int end[2])
{
	struct xvm_letter l;
	struct xvm_msg m;
	uint16_t port;
	int fds[2];
	uint64_t off;

	off = lease(c).off;
	port = tcp(end);
	offer(c, end[0], 3, off);
	nothing(c);
	say(v, an_offer("10.9.0.1", 80, "10.9.0.254", port, 7));
	l = read_letter(v);
	cr_assert_eq(l.type, XVM_LETTER_PAIRED, "arg %u", l.arg);
	cr_assert_eq(l.slot, 7);
	cr_assert_eq(l.role, XVM_ROLE_PASSIVE);
	cr_assert_eq(l.peer, XVM_PEER_HOST);
	cr_assert_eq(l.off, off);
	cr_assert_eq(l.len, HALF);
	cr_assert_eq(l.flags, XVM_LETTER_F_ALL);
	m = get(c, XVM_MSG_PEER_VECTOR, fds);
	cr_assert_eq(m.arg, 1);
	cr_assert_eq(m.region, g->index);
	cr_assert_eq(m.arg2, v->vm->peer);
	m = get(c, XVM_MSG_PAIRED, fds);
	cr_assert_eq(m.slot, 3);
	cr_assert_eq(m.arg, XVM_ROLE_ACTIVE);
	cr_assert_eq(m.arg2, v->vm->peer);
	cr_assert_eq(m.region, g->index);
	cr_assert_eq(m.off, xvm_region_arena(&g->region, v->vm->peer) + XVM_REGION_BOX + 7 * 4096);
	cr_assert_eq(m.len, HALF);
	cr_assert_eq(m.nfds, 0);
	return off;
}

Test(share, a_program_and_a_vm_are_paired)
{
	NEED_ROOT;
	struct client c = connect_as(0);
	struct guest v = vm_up();
	struct xvm_letter l;
	struct xvm_msg m;
	int end[2];

	pair_up(&c, &v, end);
	cr_assert_eq(v.vm->readers, 1);
	/* Over, but read by the VM as yet. */
	m = (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 3, .gen = 1};
	xvm_proto_send(c.sock, &m, NULL, 0);
	step();
	cr_assert_eq(v.vm->readers, 0);
	cr_assert_eq(g->book.lent, HALF);
	no_letter(&v);
	unpair(&v, 7);
	l = read_letter(&v);
	cr_assert_eq(l.type, XVM_LETTER_FREED);
	cr_assert_eq(g->book.lent, 0);
	cr_assert_eq(xvm_pairs_count(&d), 0);
	power_off(&v);
}

Test(share, the_vm_dies)
{
	NEED_ROOT;
	struct client c = connect_as(0);
	struct guest v = vm_up();
	struct xvm_msg m;
	int end[2], fds[2];

	pair_up(&c, &v, end);
	power_off(&v);
	m = get(&c, XVM_MSG_PEER_DEAD, fds);
	cr_assert_eq(m.slot, 3);
	cr_assert_eq(m.gen, 1);
	cr_assert_not_null(g->vm[1], "c has its half mapped");
	m = (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 3, .gen = 1};
	xvm_proto_send(c.sock, &m, NULL, 0);
	step();
	step();
	cr_assert_null(g->vm[1]);
	cr_assert_eq(xvm_pairs_count(&d), 0);
}

/* Nothing of what it has is given to others while it may use it. */
Test(share, one_that_is_dropped_and_lives)
{
	NEED_ROOT;
	struct client c = connect_as(0), other;
	struct guest v = vm_up();
	int fds[2], end[2], rung, rung_too;
	uint64_t stock, off, third;

	ask_piece(&c, HALF);
	cr_assert_eq(get(&c, XVM_MSG_VECTOR, fds).arg, 1);
	rung = fds[1];
	stock = get(&c, XVM_MSG_PIECE, fds).off;
	off = pair_up(&c, &v, end);
	part(&c);
	unpair(&v, 7);
	cr_assert_eq(read_letter(&v).type, XVM_LETTER_FREED);
	other = connect_as(0);
	ask_piece(&other, HALF);
	cr_assert_eq(get(&other, XVM_MSG_VECTOR, fds).arg, 2);
	rung_too = fds[1];
	third = get(&other, XVM_MSG_PIECE, fds).off;
	cr_assert(third != stock && third != off);
	/* It is dead; of the other there is somebody who can be rung. */
	close(c.life);
	close(rung);
	hang_up(&other);
	other = connect_as(0);
	ask_piece(&other, HALF);
	cr_assert_eq(get(&other, XVM_MSG_VECTOR, fds).arg, 1);
	cr_assert_eq(get(&other, XVM_MSG_PIECE, fds).off, stock);
	cr_assert_eq(g->book.lent, HALF);
	c = connect_as(0);
	ask_piece(&c, HALF);
	cr_assert_eq(get(&c, XVM_MSG_VECTOR, fds).arg, 3);
	close(rung_too);
	hang_up(&c);
	hang_up(&other);
	power_off(&v);
}

Test(share, the_program_dies)
{
	NEED_ROOT;
	struct client c = connect_as(0);
	struct guest v = vm_up();
	int end[2];

	pair_up(&c, &v, end);
	hang_up(&c);
	cr_assert_eq(v.vm->readers, 0);
	cr_assert_eq(g->book.lent, HALF, "what it published is still to be read");
	unpair(&v, 7);
	cr_assert_eq(read_letter(&v).type, XVM_LETTER_FREED);
	cr_assert_eq(g->book.lent, 0);
	power_off(&v);
}

Test(share, the_group_ends)
{
	NEED_ROOT;
	struct client c = connect_as(0);
	struct guest v = vm_up();
	struct xvm_msg m;
	int end[2], fds[2];
	uint32_t index = g->index;
	uint64_t off;

	pair_up(&c, &v, end);
	off = lease(&c).off;
	tcp(end);
	offer(&c, end[0], 4, off);
	nothing(&c);
	xvm_group_del(g);
	get(&c, XVM_MSG_PEER_DEAD, fds);
	m = get(&c, XVM_MSG_REFUSED, fds);
	cr_assert_eq(m.slot, 4);
	/* It does not know yet. */
	offer_in(&c, end[0], 5, index, off);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).slot, 5);
	m = (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 3, .gen = 1};
	xvm_proto_send(c.sock, &m, NULL, 0);
	step();
	cr_assert_eq(xvm_pairs_count(&d), 0);
	hang_up(&c);
	cr_assert_eq(d.fds, 1);
}

Test(share, halves_where_the_other_end_cannot_see_them)
{
	NEED_ROOT;
	struct client c = connect_as(0);
	struct guest v = vm_up();
	struct xvm_msg m;
	int end[2], fds[2], half[2];

	tcp(end);
	/* A memfd, to a VM. */
	half[0] = end[0];
	half[1] = memfd_create("half", MFD_ALLOW_SEALING);
	m = (struct xvm_msg){.type = XVM_MSG_OFFER, .slot = 1, .gen = 1, .arg = XVM_ROLE_ACTIVE};
	xvm_proto_send(c.sock, &m, half, 2);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_UNSUPPORTED);
	/* A piece that was never lent, and one in the middle of another. */
	offer(&c, end[0], 1, g->region.lease_off);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	m = lease(&c);
	offer(&c, end[0], 1, m.off + 4096);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	offer_in(&c, end[0], 1, g->index + 1, m.off);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	/* A piece, to a process of this kernel. */
	offer(&c, end[1], 1, m.off);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_UNSUPPORTED);
	cr_assert_eq(d.pairing.count, 0);
	power_off(&v);
}
