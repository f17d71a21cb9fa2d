/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of this kernel and VMs: leases, offers and pairs between them. */
#include <netinet/in.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "detect/client.h"
#include "test/unit/guests.h"
#include "transport/arena.h"

struct client {
	int sock, arena;
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
	return c;
}

static void hang_up(struct client *c)
{
	close(c->sock);
	close(c->arena);
	step();
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
		cr_assert(m.type == XVM_MSG_SEEN || m.type == XVM_MSG_PEER_WAKER, "type %u arg %u",
			  m.type, m.arg);
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

static struct xvm_msg lease(struct client *c, const char *addr, uint64_t len, int fds[2])
{
	struct xvm_msg m = {.type = XVM_MSG_LEASE, .arg64 = len};

	memcpy(m.addr, ip(addr), 16);
	cr_assert_eq(xvm_proto_send(c->sock, &m, NULL, 0), 0);
	m = get(c, XVM_MSG_LEASED, fds);
	cr_assert_eq(memcmp(m.addr, ip(addr), 16), 0);
	return m;
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

static void offer(struct client *c, int sock, uint32_t slot, uint32_t group, uint64_t off)
{
	struct xvm_msg m = {.type = XVM_MSG_OFFER,
			    .slot = slot,
			    .gen = 1,
			    .arg = XVM_ROLE_ACTIVE,
			    .arg2 = group,
			    .arg64 = off};

	cr_assert_eq(xvm_proto_send(c->sock, &m, &sock, 1), 0);
	step();
}

Test(share, leases)
{
	NEED_ROOT;
	struct client c = connect_as(0), other = connect_as(0);
	struct guest v = vm_up();
	struct xvm_msg m, n;
	struct stat st;
	uint64_t one = 1;
	int fds[2], fds2[2];

	m = lease(&c, "10.9.0.1", HALF, fds);
	cr_assert_eq(m.arg2, 0, "%s", xvm_reason_name(m.arg2));
	cr_assert_eq(m.arg, g->id);
	cr_assert_eq(m.arg64, g->region.lease_off);
	cr_assert_eq(m.nfds, 2);
	cr_assert_eq(fstat(fds[0], &st), 0);
	cr_assert_eq((uint64_t)st.st_size, g->region.size);
	/* Its vector, which all VMs can ring. */
	cr_assert_eq(m.arg3, 1);
	cr_assert_eq(write(fds[1], &one, 8), 8);
	cr_assert_eq(read(g->vector[1], &one, 8), 8);
	n = lease(&c, "10.9.0.1", HALF, fds2);
	cr_assert_eq(n.arg3, 1, "the same");
	cr_assert_eq(n.arg64, m.arg64 + HALF);
	n = lease(&other, "10.9.0.1", HALF, fds2);
	cr_assert_eq(n.arg3, 2);
	cr_assert_eq(g->book.lent, 3 * HALF);

	m.type = XVM_MSG_RETURN;
	cr_assert_eq(xvm_proto_send(other.sock, &m, NULL, 0), 0);
	step();
	cr_assert_eq(g->book.lent, 3 * HALF, "another's");
	cr_assert_eq(xvm_proto_send(c.sock, &m, NULL, 0), 0);
	step();
	cr_assert_eq(g->book.lent, 2 * HALF);
	hang_up(&c);
	cr_assert_eq(g->book.lent, HALF);
	cr_assert_null(g->vector_of[1]);
	hang_up(&other);
	cr_assert_eq(g->book.lent, 0);
	power_off(&v);
}

Test(share, leases_that_are_refused)
{
	NEED_ROOT;
	static const char rule[] = "share allow user 4242\nshare deny user 0\n";
	struct client c = connect_as(0), u = connect_as(4242);
	struct guest v;
	char err[64];
	int fds[2];

	cr_assert_eq(lease(&c, "10.9.0.1", HALF, fds).arg2, XVM_R_NOT_RESIDENT);
	v = vm_up();
	cr_assert_eq(lease(&c, "10.9.0.2", HALF, fds).arg2, XVM_R_NOT_RESIDENT);
	cr_assert_eq(lease(&c, "10.9.0.254", HALF, fds).arg2, XVM_R_NOT_RESIDENT);
	cr_assert_eq(lease(&c, "10.9.0.1", HALF + 1, fds).arg2, XVM_R_UNSUPPORTED);
	cr_assert_eq(lease(&c, "10.9.0.1", 0, fds).arg2, XVM_R_UNSUPPORTED);
	cr_assert_eq(lease(&c, "10.9.0.1", ~0ull, fds).arg2, XVM_R_UNSUPPORTED);
	cr_assert_eq(lease(&c, "10.9.0.1", 4096 + XVM_RING_MAX, fds).arg2, XVM_R_NO_MEMORY);
	cr_assert_eq(lease(&u, "10.9.0.1", HALF, fds).arg2, XVM_R_RULE, "not by default");
	xvm_conf_free(d.conf);
	d.conf = xvm_conf_parse(rule, strlen(rule), "", err, sizeof(err));
	cr_assert_eq(lease(&u, "10.9.0.1", HALF, fds).arg2, 0);
	cr_assert_eq(lease(&c, "10.9.0.1", HALF, fds).arg2, XVM_R_RULE);
	power_off(&v);
}

/* c's slot 3, and v's. */
static uint64_t pair_up(struct client *c, struct guest *v, int end[2])
{
	struct xvm_letter l;
	struct xvm_msg m;
	uint16_t port;
	int fds[2];
	uint64_t off;

	m = lease(c, "10.9.0.1", HALF, fds);
	cr_assert_eq(m.arg2, 0);
	off = m.arg64;
	port = tcp(end);
	offer(c, end[0], 3, m.arg, off);
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
	m = get(c, XVM_MSG_PEER_WAKER, fds);
	cr_assert_eq(m.arg, 1);
	cr_assert_eq(m.arg2, XVM_MSG_VM_ID(g->id, v->vm->peer));
	m = get(c, XVM_MSG_PAIRED, fds);
	cr_assert_eq(m.slot, 3);
	cr_assert_eq(m.arg, XVM_ROLE_ACTIVE);
	cr_assert_eq(m.arg2, XVM_MSG_VM_ID(g->id, v->vm->peer));
	cr_assert_eq(m.arg64,
		     xvm_region_arena(&g->region, v->vm->peer) + XVM_REGION_BOX + 7 * 4096);
	cr_assert_eq(m.arg3, HALF);
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
	uint64_t off = pair_up(&c, &v, end);

	cr_assert_eq(v.vm->readers, 1);
	/* Returned, but read by the VM as yet. */
	m = (struct xvm_msg){.type = XVM_MSG_RETURN, .arg = g->id, .arg64 = off};
	xvm_proto_send(c.sock, &m, NULL, 0);
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
	m = get(&c, XVM_MSG_PEER_GONE, fds);
	cr_assert_eq(m.arg2, XVM_MSG_VM_ID(g->id, 1));
	cr_assert_not_null(g->vm[1], "c has its half mapped");
	m = (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 3, .gen = 1};
	xvm_proto_send(c.sock, &m, NULL, 0);
	step();
	step();
	cr_assert_null(g->vm[1]);
	cr_assert_eq(xvm_pairs_count(&d), 0);
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
	uint32_t id = g->id;
	uint64_t off;

	pair_up(&c, &v, end);
	m = lease(&c, "10.9.0.1", HALF, fds);
	off = m.arg64;
	tcp(end);
	offer(&c, end[0], 4, id, off);
	nothing(&c);
	xvm_group_del(g);
	get(&c, XVM_MSG_PEER_DEAD, fds);
	get(&c, XVM_MSG_PEER_GONE, fds);
	m = get(&c, XVM_MSG_REFUSED, fds);
	cr_assert_eq(m.slot, 4);
	/* It does not know yet. */
	offer(&c, end[0], 5, id, off);
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
	offer(&c, end[0], 1, g->id, g->region.lease_off);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	m = lease(&c, "10.9.0.1", HALF, fds);
	offer(&c, end[0], 1, g->id, m.arg64 + 4096);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	offer(&c, end[0], 1, g->id + 1, m.arg64);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_NO_MEMORY);
	/* A piece, to a process of this kernel. */
	offer(&c, end[1], 1, g->id, m.arg64);
	cr_assert_eq(get(&c, XVM_MSG_REFUSED, fds).arg, XVM_R_UNSUPPORTED);
	cr_assert_eq(d.pairing.count, 0);
	power_off(&v);
}
