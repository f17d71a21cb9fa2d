/* SPDX-License-Identifier: Apache-2.0 */
/* What the daemon answers, to clients that behave and to others. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/unit/detect_clients.h"
#include "transport/arena.h"

TestSuite(daemon, .init = setup, .fini = teardown, .timeout = 60);

Test(daemon, two_clients_are_paired)
{
	static const struct {
		int fam;
		const char *addr;
	} t[] = {{AF_INET, "127.0.0.1"}, {AF_INET6, "::1"}, {AF_INET6, "::ffff:127.0.0.1"}};
	struct client a = program(), b = program();
	int s[2];
	size_t i;

	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		tcp(t[i].fam, t[i].addr, s);
		offer(&a, s[0], i, XVM_ROLE_ACTIVE, "half a");
		cr_assert_eq(get(&a).type, XVM_MSG_SEEN);
		nothing(&a);
		offer(&b, s[1], 9, XVM_ROLE_PASSIVE, "half b");
		cr_assert_eq(get(&b).type, XVM_MSG_SEEN);
		expect_pair(&b, 9, XVM_ROLE_PASSIVE, a.id, "half a");
		expect_pair(&a, i, XVM_ROLE_ACTIVE, b.id, "half b");
		close(s[0]);
		close(s[1]);
	}
}

Test(daemon, both_ends_in_one_client)
{
	struct client a = program();
	int s[2];

	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[1], 1, XVM_ROLE_PASSIVE, "half p");
	offer(&a, s[0], 2, XVM_ROLE_UNKNOWN, "half a");
	expect_pair(&a, 1, XVM_ROLE_PASSIVE, a.id, "half a");
	expect_pair(&a, 2, XVM_ROLE_ACTIVE, a.id, "half p");
}

Test(daemon, mail_is_counted_before_it_is_sent)
{
	struct client a = program();
	uint64_t before = d.table->mail[a.id];

	say(&a, (struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0);
	step();
	cr_assert_eq(d.table->mail[a.id], before + 1);
}

Test(daemon, what_is_no_connection_is_refused)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	struct client a = program(), b = program();
	int s[2], self, udp[2];

	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	offer(&b, s[1], 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_SELF);
	cr_assert_eq(verdict(&b).arg, XVM_R_SELF);
	offer(&a, s[0], 1, XVM_ROLE_UNKNOWN, "x");
	offer(&b, s[1], 1, XVM_ROLE_UNKNOWN, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_UNSUPPORTED);

	self = socket(AF_INET, SOCK_STREAM, 0);
	cr_assert_eq(bind(self, (void *)&in, sizeof(in)), 0);
	getsockname(self, (void *)&in, &len);
	cr_assert_eq(connect(self, (void *)&in, sizeof(in)), 0);
	offer(&a, self, 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_SELF);

	offer(&a, socket(AF_INET, SOCK_STREAM, 0), 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_UNSUPPORTED);
	offer(&a, socket(AF_INET, SOCK_DGRAM, 0), 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_UNSUPPORTED);
	socketpair(AF_UNIX, SOCK_STREAM, 0, udp);
	offer(&a, udp[0], 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_UNSUPPORTED);

	tcp(AF_INET, "127.0.0.1", s);
	shutdown(s[0], SHUT_WR);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_UNSUPPORTED);
}

Test(daemon, a_rule_for_either_end_is_enough)
{
	struct client a = program(), b = program();
	char err[64];
	int s[2];

	xvm_conf_free(d.conf);
	d.conf = xvm_conf_parse("pair deny user 4242\n", 20, "", err, sizeof(err));
	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	offer(&b, s[1], 1, XVM_ROLE_PASSIVE, "x");
	cr_assert_eq(verdict(&a).type, XVM_MSG_PAIRED);
	hang_up(&b);
	connect_as(&b, 4242);
	b.shm = xvm_arena_create(&b.arena);
	hello(&b);
	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[0], 2, XVM_ROLE_ACTIVE, "x");
	offer(&b, s[1], 2, XVM_ROLE_PASSIVE, "x");
	cr_assert_eq(verdict(&a).arg, XVM_R_RULE);
	cr_assert_eq(verdict(&b).arg, XVM_R_RULE);
}

Test(daemon, withdrawn_and_replaced_offers)
{
	struct client a = program(), b = program();
	int s[2], t[2], before;

	before = open_fds();
	tcp(AF_INET, "127.0.0.1", s);
	tcp(AF_INET, "127.0.0.1", t);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	get(&a);
	say(&a, (struct xvm_msg){.type = XVM_MSG_WITHDRAW, .slot = 1, .gen = 2}, NULL, 0);
	step();
	cr_assert_eq(d.pairing.count, 1, "another generation's");
	say(&a, (struct xvm_msg){.type = XVM_MSG_WITHDRAW, .slot = 1, .gen = 1}, NULL, 0);
	step();
	cr_assert_eq(d.pairing.count, 0);
	/* The slot of one that was never withdrawn. */
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	offer(&a, t[0], 1, XVM_ROLE_ACTIVE, "y");
	step();
	cr_assert_eq(d.pairing.count, 1);
	/* The same connection again, in another slot. */
	offer(&a, t[0], 2, XVM_ROLE_ACTIVE, "z");
	step();
	cr_assert_eq(d.pairing.count, 1);
	offer(&b, t[1], 1, XVM_ROLE_PASSIVE, "half b");
	expect_pair(&b, 1, XVM_ROLE_PASSIVE, a.id, "z");
	expect_pair(&a, 2, XVM_ROLE_ACTIVE, b.id, "half b");
	close(s[0]);
	close(s[1]);
	close(t[0]);
	close(t[1]);
	cr_assert_eq(open_fds(), before);
}

Test(daemon, wakers_go_to_all_peers)
{
	struct client a = program(), b = program();
	int s[2], fd = eventfd(0, 0), fds[XVM_PROTO_FDS];
	struct xvm_msg m;
	uint64_t n = 3;

	say(&a, (struct xvm_msg){.type = XVM_MSG_WAKER, .arg = 5}, &fd, 1);
	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	offer(&b, s[1], 1, XVM_ROLE_PASSIVE, "x");
	cr_assert_eq(get(&b).type, XVM_MSG_SEEN);
	m = get_fds(&b, fds);
	cr_assert_eq(m.type, XVM_MSG_PEER_WAKER, "before the pair itself");
	cr_assert_eq(m.arg, 5);
	cr_assert_eq(m.arg2, a.id);
	cr_assert_eq(write(fds[0], &n, 8), 8);
	cr_assert_eq(read(fd, &n, 8), 8);
	cr_assert_eq(n, 3);
	cr_assert_eq(get(&b).type, XVM_MSG_PAIRED);
	verdict(&a);
	/* A later one. */
	say(&a, (struct xvm_msg){.type = XVM_MSG_WAKER, .arg = 6}, &fd, 1);
	m = get(&b);
	cr_assert_eq(m.type, XVM_MSG_PEER_WAKER);
	cr_assert_eq(m.arg, 6);
	nothing(&a);
	/* A second pair of the same processes needs them no more. */
	tcp(AF_INET, "127.0.0.1", s);
	offer(&b, s[0], 2, XVM_ROLE_ACTIVE, "x");
	offer(&a, s[1], 2, XVM_ROLE_PASSIVE, "x");
	cr_assert_eq(get(&b).type, XVM_MSG_SEEN);
	cr_assert_eq(get(&b).type, XVM_MSG_PAIRED);
	hang_up(&a);
	m = get(&b);
	cr_assert_eq(m.type, XVM_MSG_PEER_GONE);
	cr_assert_eq(m.arg2, a.id);
	nothing(&b);
}

Test(daemon, a_fork_may_unpair)
{
	struct client a = program(), b = program(), fork;
	int s[2];

	tcp(AF_INET, "127.0.0.1", s);
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	offer(&b, s[1], 1, XVM_ROLE_PASSIVE, "x");
	verdict(&a);
	connect_as(&fork, getuid());
	fork.arena = dup(a.arena);
	hello(&fork);
	hang_up(&a);
	say(&fork, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 1, .gen = 1}, NULL, 0);
	say(&b, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 1, .gen = 1}, NULL, 0);
	say(&b, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 1, .gen = 1}, NULL, 0);
	say(&b, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = 60000, .gen = 1}, NULL, 0);
	say(&b, (struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0);
	while (get(&b).type != XVM_MSG_END)
		;
	hang_up(&fork);
	hang_up(&b);
	cr_assert(xvm_list_empty(&d.arenas));
}

Test(daemon, nonsense_costs_its_sender_the_connection)
{
	int null = open("/dev/null", O_RDWR), memfd = memfd_create("x", 0), s[2];
	const struct {
		struct xvm_msg m;
		int fds[2], n;
	} t[] = {
		{{.type = 0}, {0}, 0},
		{{.type = 31}, {0}, 0},
		{{.type = 65535}, {0}, 0},
		{{.type = XVM_MSG_WELCOME}, {0}, 0},
		{{.type = XVM_MSG_END}, {0}, 0},
		{{.type = XVM_MSG_HELLO, .arg = 1}, {0}, 0},
		{{.type = XVM_MSG_WAKER, .arg = 62}, {null}, 1},
		{{.type = XVM_MSG_WAKER, .arg = 0}, {null}, 1},
		{{.type = XVM_MSG_WAKER, .arg = 0}, {memfd}, 1},
		{{.type = XVM_MSG_OFFER, .slot = 65536}, {null, memfd}, 2},
		{{.type = XVM_MSG_OFFER, .arg = 3}, {null, memfd}, 2},
		{{.type = XVM_MSG_OFFER}, {memfd, null}, 2},
	};
	struct client bystander = program(), c;
	int before;
	size_t i;

	step();
	before = open_fds();
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		c = program();
		say(&c, t[i].m, t[i].fds, t[i].n);
		cr_assert(dropped(&c), "case %zu", i);
		hang_up(&c);
		/* Closing what may block is left to a thread. */
		for (s[0] = 0; open_fds() != before && s[0] < 100; s[0]++)
			usleep(10000);
		cr_assert_eq(open_fds(), before, "case %zu", i);
	}
	connect_as(&c, 1);
	say(&c, (struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0);
	cr_assert(dropped(&c), "no hello");
	close(c.sock);
	c = tool(1);
	say(&c, (struct xvm_msg){.type = XVM_MSG_WITHDRAW}, NULL, 0);
	cr_assert(dropped(&c), "a tool has no offers");
	close(c.sock);
	connect_as(&c, 1);
	cr_assert_eq(send(c.sock, "x", 1, 0), 1);
	cr_assert(dropped(&c), "no message");
	close(c.sock);
	nothing(&bystander);
}

Test(daemon, another_version)
{
	struct client c;
	struct xvm_msg m;

	connect_as(&c, 1);
	say(&c, (struct xvm_msg){.type = XVM_MSG_HELLO, .arg = 2}, NULL, 0);
	m = get(&c);
	cr_assert_eq(m.type, XVM_MSG_BAD_VERSION);
	cr_assert_eq(m.arg, XVM_PROTO_VERSION);
	cr_assert(dropped(&c));
}

Test(daemon, who_does_not_read_is_dropped)
{
	struct client a = program(), b = program();
	int i;

	for (i = 0; i < XVM_BACKLOG + 2000; i++) {
		if (xvm_proto_send(a.sock, &(struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0))
			break;
		step();
	}
	cr_assert_lt(i, XVM_BACKLOG + 2000);
	cr_assert(dropped(&a));
	nothing(&b);
}

Test(daemon, who_reads_late_gets_all)
{
	struct client a = program();
	struct xvm_msg m;
	int i;

	for (i = 0; i < 2000; i++) {
		say(&a, (struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0);
		step();
	}
	for (i = 0; i < 2000; i++) {
		m = get(&a);
		cr_assert_eq(m.type, XVM_MSG_END);
	}
	nothing(&a);
}

Test(daemon, the_connections_of_an_arena)
{
	struct client a = program(), fork, root = tool(0), stranger = tool(4242);
	struct xvm_shm_ep *ep;
	struct xvm_msg m;
	int i;

	for (i = 0; i < 1000; i++) {
		ep = xvm_arena_alloc(a.shm);
		ep->pid = getpid();
		ep->fd = i;
		ep->n_tx_ring = 5;
		if (i % 2)
			ep->state = XVM_EP_FREE;
	}
	/* A second process of the same arena shows nothing twice. */
	connect_as(&fork, getuid());
	fork.arena = dup(a.arena);
	hello(&fork);
	say(&root, (struct xvm_msg){.type = XVM_MSG_SS}, NULL, 0);
	for (i = 0; i < 500; i++) {
		m = get(&root);
		cr_assert_eq(m.type, XVM_MSG_SS_ROW);
		cr_assert_eq(m.row.pid, getpid());
		cr_assert_eq(m.row.fd, 2 * i);
		cr_assert_eq(m.row.tx_ring, 5);
	}
	m = get(&root);
	cr_assert_eq(m.type, XVM_MSG_END);
	cr_assert_eq(m.arg2, 500);
	say(&stranger, (struct xvm_msg){.type = XVM_MSG_SS}, NULL, 0);
	m = get(&stranger);
	cr_assert_eq(m.type, XVM_MSG_END);
	cr_assert_eq(m.arg2, 0);
}

Test(daemon, arenas_that_lie)
{
	static const size_t off[] = {0, 4, 8, 12, 16, 24};
	struct client root = tool(0), a;
	struct xvm_shm_ep *ep;
	uint32_t *word;
	size_t i;

	for (i = 0; i < sizeof(off) / sizeof(off[0]); i++) {
		a = program();
		ep = xvm_arena_alloc(a.shm);
		ep->state = 77;
		ep->reason = 999999;
		word = (uint32_t *)((char *)a.shm + off[i]);
		*word = 0xfffffff0;
		say(&root, (struct xvm_msg){.type = XVM_MSG_SS}, NULL, 0);
		while (get(&root).type != XVM_MSG_END)
			;
		say(&root, (struct xvm_msg){.type = XVM_MSG_STATS}, NULL, 0);
		while (get(&root).type != XVM_MSG_END)
			;
		hang_up(&a);
	}
}

Test(daemon, leave_and_enter)
{
	struct client a = program(), b = program(), root = tool(0), stranger = tool(4242);
	struct xvm_msg m;
	uint64_t n;
	int fd = eventfd(0, EFD_NONBLOCK);

	say(&a, (struct xvm_msg){.type = XVM_MSG_WAKER}, &fd, 1);
	step();
	say(&root, (struct xvm_msg){.type = XVM_MSG_LEAVE, .pid = -1}, NULL, 0);
	m = get(&a);
	cr_assert_eq(m.type, XVM_MSG_CTL);
	cr_assert_eq(m.arg2, XVM_CTL_LEAVE);
	cr_assert_eq(m.fd, -1);
	cr_assert_eq(read(fd, &n, 8), 8, "sleepers are woken");
	/* Answers that are none, or come twice. */
	say(&a, (struct xvm_msg){.type = XVM_MSG_CTL_DONE, .arg = m.arg + 1, .arg2 = 100}, NULL, 0);
	say(&a, (struct xvm_msg){.type = XVM_MSG_CTL_DONE, .arg = m.arg, .arg2 = 3}, NULL, 0);
	say(&a, (struct xvm_msg){.type = XVM_MSG_CTL_DONE, .arg = m.arg, .arg2 = 3}, NULL, 0);
	nothing(&root);
	m = get(&b);
	say(&b, (struct xvm_msg){.type = XVM_MSG_CTL_DONE, .arg = m.arg, .arg2 = 4}, NULL, 0);
	m = get(&root);
	cr_assert_eq(m.type, XVM_MSG_END);
	cr_assert_eq(m.arg2, 7);

	/* The process goes instead of answering. */
	say(&root, (struct xvm_msg){.type = XVM_MSG_ENTER, .pid = getpid(), .fd = 5}, NULL, 0);
	m = get(&a);
	cr_assert_eq(m.arg2, XVM_CTL_ENTER);
	cr_assert_eq(m.fd, 5);
	hang_up(&a);
	hang_up(&b);
	m = get(&root);
	cr_assert_eq(m.type, XVM_MSG_END);
	cr_assert_eq(m.arg2, 0);

	say(&root, (struct xvm_msg){.type = XVM_MSG_LEAVE, .pid = getpid()}, NULL, 0);
	cr_assert_eq(get(&root).arg, ENOENT);
	a = program();
	say(&stranger, (struct xvm_msg){.type = XVM_MSG_LEAVE, .pid = getpid()}, NULL, 0);
	cr_assert_eq(get(&stranger).arg, EPERM);
	nothing(&a);
	/* The tool itself goes. */
	say(&root, (struct xvm_msg){.type = XVM_MSG_LEAVE, .pid = -1}, NULL, 0);
	step();
	hang_up(&root);
	m = get(&a);
	say(&a, (struct xvm_msg){.type = XVM_MSG_CTL_DONE, .arg = m.arg}, NULL, 0);
	nothing(&a);
}

Test(daemon, a_full_blocking_eventfd_holds_nobody_up)
{
	struct client a = program(), root = tool(0);
	int fd = eventfd(0, 0);
	uint64_t n = UINT64_MAX - 1;

	cr_assert_eq(write(fd, &n, 8), 8);
	say(&a, (struct xvm_msg){.type = XVM_MSG_WAKER}, &fd, 1);
	step();
	say(&root, (struct xvm_msg){.type = XVM_MSG_LEAVE, .pid = -1}, NULL, 0);
	cr_assert_eq(get(&a).type, XVM_MSG_CTL);
}

Test(daemon, closing_a_lingering_socket_holds_nobody_up)
{
	struct linger li = {.l_onoff = 1, .l_linger = 100};
	struct client a = program();
	char big[65536] = {0};
	int s[2];

	tcp(AF_INET, "127.0.0.1", s);
	/* Bytes that nobody takes. */
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	while (write(s[0], big, sizeof(big)) > 0)
		;
	setsockopt(s[0], SOL_SOCKET, SO_LINGER, &li, sizeof(li));
	offer(&a, s[0], 1, XVM_ROLE_ACTIVE, "x");
	/* Ours is in flight: it is the daemon who closes last. */
	setsockopt(s[0], SOL_SOCKET, SO_LINGER, &(struct linger){0}, sizeof(li));
	setsockopt(s[0], SOL_SOCKET, SO_LINGER, &li, sizeof(li));
	dup2(0, s[0]);
	cr_assert_eq(get(&a).type, XVM_MSG_SEEN);
}

Test(daemon, limits)
{
	struct client a = program(), b = program();
	int s[2], i;

	/* As if there were few descriptors. */
	d.fds_max = d.fds + 20;
	for (i = 0; i < 40; i++) {
		tcp(AF_INET, "127.0.0.1", s);
		offer(&a, s[0], i, XVM_ROLE_ACTIVE, "x");
		step();
	}
	for (i = 0; i < 40;)
		if (get(&a).type == XVM_MSG_REFUSED)
			break;
		else
			i++;
	cr_assert_lt(i, 40);
	nothing(&b);
	say(&b, (struct xvm_msg){.type = XVM_MSG_STATUS}, NULL, 0);
	cr_assert_eq(get(&b).type, XVM_MSG_END);
}

Test(daemon, thousands_leave_nothing_behind)
{
	struct client a = program(), b = program();
	int s[2], i, before;

	step();
	before = open_fds();
	for (i = 0; i < 3000; i++) {
		tcp(AF_INET, "127.0.0.1", s);
		offer(&a, s[0], i % 100, XVM_ROLE_ACTIVE, "x");
		offer(&b, s[1], i % 100, XVM_ROLE_PASSIVE, "x");
		cr_assert_eq(verdict(&a).type, XVM_MSG_PAIRED);
		cr_assert_eq(verdict(&b).type, XVM_MSG_PAIRED);
		close(s[0]);
		close(s[1]);
		say(&a, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = i % 100, .gen = 1}, NULL,
		    0);
		say(&b, (struct xvm_msg){.type = XVM_MSG_UNPAIR, .slot = i % 100, .gen = 1}, NULL,
		    0);
	}
	step();
	cr_assert_eq(open_fds(), before);
	cr_assert_eq(d.pairing.count, 0);
}
