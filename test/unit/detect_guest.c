/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's xvmd, in this process, with a device of plain files. The host's, and programs, are
 * played by the tests. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest_ep.h"
#include "detect/log.h"
#include "transport/arena.h"
#include "transport/memfd.h"

#define SIZE (8u << 20)
#define PEERS 4
#define SELF 1
#define LEN (XVM_HALF_CTL + (64u << 10))
#define DEV "/sys/bus/pci/devices/0000:00:04.0"

static struct xvm_daemon d;
static struct xvm_guest *g;
static char root[] = "/tmp/xvm-guest.XXXXXX";

/* The host's side. */
static struct xvm_region region;
static struct xvm_mailbox box;
static uint32_t *reg; /* BAR0 */
static struct xvm_shm_region_res *published;
static uint32_t n_published;

/* ---- the device ---------------------------------------------------------- */

static void put(const char *name, const char *text, off_t size)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s%s", root, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	if (size)
		cr_assert_eq(ftruncate(fd, size), 0);
	close(fd);
}

static void *map(const char *name, size_t len)
{
	char path[300];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s%s", root, name);
	fd = open(path, O_RDWR);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(p, MAP_FAILED);
	close(fd);
	return p;
}

static void make_device(void)
{
	static const char *const dirs[] = {
		"/run", "/sys", "/sys/bus", "/sys/bus/pci", "/sys/bus/pci/devices", DEV};
	char path[300];
	size_t i;

	cr_assert_not_null(mkdtemp(root));
	for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, dirs[i]);
		cr_assert_eq(mkdir(path, 0700), 0);
	}
	put(DEV "/vendor", "0x1af4\n", 0);
	put(DEV "/device", "0x1110\n", 0);
	/* The registers begin within a page. */
	put(DEV "/resource", "0x00000000febf1100 0x00000000febf11ff 0x0000000000040200\n", 0);
	put(DEV "/resource0", "", 4096);
	put(DEV "/resource2", "", SIZE);
	reg = (uint32_t *)((char *)map(DEV "/resource0", 4096) + 0x100);
	reg[2] = SELF;
	cr_assert_eq(xvm_region_figure(&region, SIZE, PEERS, 4), 0);
	region.map = map(DEV "/resource2", SIZE);
	region.generation = 9;
	xvm_mailbox_init(&box, xvm_region_host_box(&region, SELF),
			 xvm_region_peer_box(&region, SELF));
}

static void ip_tool(const char *args)
{
	char cmd[200];

	snprintf(cmd, sizeof(cmd), "ip %s", args);
	cr_assert_eq(system(cmd), 0, "%s", cmd);
}

/* An address that is here, one that is not but can be connected to, and a neighbour. */
static void make_network(void)
{
	if (unshare(CLONE_NEWNET))
		cr_skip_test("no network namespace can be made");
	ip_tool("link set lo up");
	ip_tool("addr add 10.9.0.1/32 dev lo");
	ip_tool("link add v0 address 02:00:00:00:00:01 type veth peer name v1");
	ip_tool("addr add 10.9.1.1/24 dev v0");
	ip_tool("link set v0 up");
	ip_tool("link set v1 up");
	ip_tool("route add local 10.9.0.2/32 dev lo");
	ip_tool("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent");
}

static void step(void)
{
	int i;

	for (i = 0; i < 4; i++) {
		/* Else it looks 20 times a second. */
		if (g && g->opened)
			ev_feed_event(d.loop, &g->look, EV_TIMER);
		ev_run(d.loop, EVRUN_NOWAIT);
	}
}

static void look(void)
{
	xvm_guests_look(&d, root);
	g = d.guests.n ? d.guests.g[0] : NULL;
	step();
}

static void setup(void)
{
	char err[256] = "";

	xvm_log_level(LOG_EMERG);
	make_network();
	make_device();
	published = calloc(XVM_REGION_RES_MAX, sizeof(*published));
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_fd_init(), 0);
	cr_assert_eq(xvm_daemon_init(&d), 0);
}

static void teardown(void)
{
	char cmd[100];

	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", root);
	cr_assert_eq(system(cmd), 0);
}

TestSuite(guest, .init = setup, .fini = teardown, .timeout = 60);

/* ---- the host ------------------------------------------------------------ */

static void news(void)
{
	atomic_fetch_add(&xvm_region_header(&region)->peer[SELF].news, 1);
	step();
}

static void say(struct xvm_letter l)
{
	cr_assert_eq(xvm_mailbox_put(&box, &l), 0);
	news();
}

/* The next letter that is none about an address; type 0: there is none. */
static struct xvm_letter hear_any(bool addr)
{
	struct xvm_letter l;

	step();
	while (!xvm_mailbox_get(&box, &l)) {
		cr_assert_null(xvm_letter_wrong(&l, &region, true, SELF));
		xvm_mailbox_done(&box);
		if (addr == (l.type == XVM_LETTER_ADDR))
			return l;
	}
	return (struct xvm_letter){0};
}

static struct xvm_letter hear(void)
{
	return hear_any(false);
}

static const uint8_t *ip(const char *text)
{
	static uint8_t ring[8][16];
	static unsigned n;
	uint8_t *addr = ring[n++ % 8];

	memset(addr, 0, 10);
	memset(addr + 10, 0xff, 2);
	cr_assert(inet_pton(AF_INET, text, addr + 12) == 1);
	return addr;
}

static void publish(uint32_t n, const struct xvm_shm_region_res *res)
{
	xvm_region_publish(&region, res, n, published, &n_published);
	news();
}

static void publish_one(const char *addr, uint16_t peer, uint8_t mac, uint32_t flags)
{
	struct xvm_shm_region_res res = {
		.flags = XVM_RES_USED | XVM_RES_VM | flags, .peer = peer, .mac = {2, [5] = mac}};

	memcpy(res.addr, ip(addr), 16);
	publish(1, &res);
}

static struct xvm_letter hello(void)
{
	struct xvm_letter l = hear();

	cr_assert_eq(l.type, XVM_LETTER_HELLO, "%u", l.type);
	cr_assert_eq(l.arg, XVM_REGION_VERSION);
	return l;
}

static void welcome(uint64_t run)
{
	say((struct xvm_letter){
		.type = XVM_LETTER_WELCOME, .arg = XVM_REGION_VERSION, .run = run, .peer = SELF});
}

static uint64_t up(void)
{
	struct xvm_letter l;

	xvm_region_format(&region);
	look();
	cr_assert_not_null(g);
	l = hello();
	welcome(l.run);
	cr_assert(g->up);
	publish_one("10.9.0.2", 2, 2, XVM_RES_SEEN);
	return l.run;
}

static uint32_t flags_of(const char *addr)
{
	uint32_t slot = xvm_residency_find(&d.residency, NULL, ip(addr), NULL), i;

	if (!slot)
		return 0;
	for (i = 0; i < XVM_RES_SLOTS; i++)
		if (d.table->res[i].flags && !memcmp(d.table->res[i].addr, ip(addr), 16))
			return d.table->res[i].flags;
	return 0;
}

/* ---- programs ------------------------------------------------------------- */

struct prog {
	int sock, arena;
	int life, vector_life; /* what it has mapped */
	struct xvm_shm_arena *mem;
	uint32_t slot, gen;
};

/* It comes to this xvmd. */
static void connect_as(struct prog *p, uid_t uid)
{
	struct xvm_msg m = {
		.type = XVM_MSG_HELLO, .arg = XVM_PROTO_VERSION, .pid = getpid(), .text = "t"};
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	cr_assert_not_null(xvm_conn_new(&d, sv[1], getpid(), uid));
	p->sock = sv[0];
	cr_assert_eq(xvm_proto_send(p->sock, &m, &p->arena, 1), 0);
	step();
}

static struct prog run_as(uid_t uid)
{
	struct prog p = {.life = -1, .vector_life = -1};
	void *mem;

	p.arena = xvm_memfd_make("arena", XVM_ARENA_EP_OFF + 16 * sizeof(struct xvm_shm_ep), &mem);
	cr_assert_geq(p.arena, 0);
	p.mem = mem;
	p.mem->magic = XVM_ARENA_MAGIC;
	p.mem->version = XVM_ABI_VERSION;
	p.mem->ep_size = sizeof(struct xvm_shm_ep);
	p.mem->ep_max = XVM_ARENA_EPS;
	p.mem->ep_off = XVM_ARENA_EP_OFF;
	connect_as(&p, uid);
	return p;
}

/* The next message; type 0: there is none. fd, if not NULL, gets its descriptor. */
static struct xvm_msg get(struct prog *p, int *fd)
{
	int fds[XVM_PROTO_FDS], i;
	struct xvm_msg m;

	step();
	if (xvm_proto_recv(p->sock, &m, fds, MSG_DONTWAIT))
		return (struct xvm_msg){0};
	if (m.nfds == 2) {
		int *life = m.type == XVM_MSG_REGION ? &p->life : &p->vector_life;

		close(*life);
		*life = fds[1];
	}
	for (i = 0; i < m.nfds && i < 1; i++)
		if (fd)
			*fd = fds[0];
		else
			close(fds[i]);
	return m;
}

/* By whatever kind of death. */
static void die(struct prog *p)
{
	close(p->sock);
	close(p->life);
	close(p->vector_life);
}

static struct xvm_msg want(struct prog *p, uint32_t type)
{
	struct xvm_msg m = get(p, NULL);

	cr_assert_eq(m.type, type, "%u, not %u", m.type, type);
	return m;
}

static struct prog run(void)
{
	struct prog p = run_as(getuid());

	want(&p, XVM_MSG_WELCOME);
	want(&p, XVM_MSG_REGION);
	want(&p, XVM_MSG_DOORBELL);
	return p;
}

static void tell(struct prog *p, struct xvm_msg m, int fd)
{
	cr_assert_eq(xvm_proto_send(p->sock, &m, &fd, fd >= 0), 0);
	step();
}

static struct xvm_msg lease(struct prog *p)
{
	tell(p, (struct xvm_msg){.type = XVM_MSG_LEASE, .len = LEN}, -1);
	return want(p, XVM_MSG_PIECE);
}

/* Both ends of a connection from here to the address that is in another VM. */
static void tcp(int s[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, "10.9.0.2", &a.sin_addr);
	cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(l, 1), 0);
	getsockname(l, (struct sockaddr *)&a, &len);
	s[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	inet_pton(AF_INET, "10.9.0.1", &a.sin_addr);
	a.sin_port = 0;
	cr_assert_eq(bind(s[0], (struct sockaddr *)&a, sizeof(a)), 0);
	getsockname(l, (struct sockaddr *)&a, &len);
	cr_assert_eq(connect(s[0], (struct sockaddr *)&a, sizeof(a)), 0);
	s[1] = accept(l, NULL, NULL);
	close(l);
}

/* Offers with that piece; the letter, or type 0. */
static struct xvm_letter offer(struct prog *p, const struct xvm_msg *piece, int sock)
{
	struct xvm_msg m = {.type = XVM_MSG_OFFER,
			    .slot = ++p->slot,
			    .gen = ++p->gen,
			    .arg = XVM_ROLE_ACTIVE,
			    .off = piece->off,
			    .len = piece->len};

	tell(p, m, sock);
	want(p, XVM_MSG_SEEN);
	return hear();
}

static struct xvm_letter about(struct xvm_letter offered, uint32_t type)
{
	return (struct xvm_letter){
		.type = type, .client = offered.client, .slot = offered.slot, .gen = offered.gen};
}

static struct xvm_letter paired(struct xvm_letter offered)
{
	struct xvm_letter l = about(offered, XVM_LETTER_PAIRED);

	l.role = XVM_ROLE_PASSIVE;
	l.peer = 2;
	l.peer_gen = 5;
	l.off = XVM_REGION_BOX + 4096;
	l.len = LEN;
	l.flags = XVM_LETTER_F_DOORBELL;
	return l;
}

static void over(struct prog *p, uint32_t type, struct xvm_letter l)
{
	tell(p, (struct xvm_msg){.type = type, .slot = l.slot, .gen = l.gen}, -1);
}

/* ---- coming up ------------------------------------------------------------ */

Test(guest, no_device)
{
	put(DEV "/device", "0x1111\n", 0);
	look();
	cr_assert_null(g);
}

Test(guest, no_region_yet)
{
	look();
	cr_assert_not_null(g);
	cr_assert_not(g->opened);
	xvm_region_format(&region);
	ev_feed_event(d.loop, &g->patience, EV_TIMER);
	step();
	cr_assert(g->opened);
	hello();
	cr_assert_eq(reg[3], 0, "the host is rung: peer 0, vector 0");
}

Test(guest, what_is_not_a_region)
{
	xvm_region_format(&region);
	xvm_region_header(&region)->size = SIZE / 2;
	look();
	cr_assert_not(g->opened);
	xvm_region_header(&region)->size = SIZE;
	/* An ivshmem-plain, or a number that cannot be. */
	reg[2] = 0;
	ev_feed_event(d.loop, &g->patience, EV_TIMER);
	step();
	cr_assert_not(g->opened);
	reg[2] = PEERS;
	ev_feed_event(d.loop, &g->patience, EV_TIMER);
	step();
	cr_assert_not(g->opened);
}

Test(guest, hello_until_it_is_answered)
{
	struct xvm_letter a, b;
	int i;

	xvm_region_format(&region);
	reg[3] = 77;
	look();
	cr_assert_eq(reg[3], 0);
	a = hello();
	cr_assert_eq(a.flags, XVM_LETTER_F_DOORBELL, "no interrupts");
	ev_feed_event(d.loop, &g->patience, EV_TIMER);
	b = hello();
	cr_assert_eq(a.run, b.run);
	welcome(a.run + 1);
	cr_assert_not(g->up, "a welcome for somebody else");
	welcome(a.run);
	cr_assert(g->up);
	/* A host that never answers costs no memory. */
	for (i = 0; i < 1000; i++)
		xvm_guest_hello(g);
	cr_assert_leq(g->n_queue, 1);
}

Test(guest, addresses_are_told_with_their_macs)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
	struct xvm_letter l;

	xvm_region_format(&region);
	look();
	welcome(hello().run);
	l = hear_any(true);
	cr_assert_eq(l.type, XVM_LETTER_ADDR);
	cr_assert_eq(l.arg, 1);
	cr_assert_arr_eq(l.laddr, ip("10.9.1.1"), 16);
	cr_assert_arr_eq(l.mac, mac, 6);
	cr_assert_eq(hear_any(true).type, 0, "lo has no MAC");
	ip_tool("addr add 10.9.1.2/24 dev v0");
	l = hear_any(true);
	cr_assert_eq(l.arg, 1);
	cr_assert_arr_eq(l.laddr, ip("10.9.1.2"), 16);
	ip_tool("addr del 10.9.1.2/24 dev v0");
	l = hear_any(true);
	cr_assert_eq(l.arg, 0);
	cr_assert_arr_eq(l.laddr, ip("10.9.1.2"), 16);
	ip_tool("link set v0 address 02:00:00:00:00:07");
	l = hear_any(true);
	cr_assert_eq(l.arg, 1);
	cr_assert_eq(l.mac[5], 7);
}

Test(guest, addresses_of_others)
{
	struct xvm_shm_region_res res[3] = {
		{.flags = XVM_RES_USED | XVM_RES_VM, .peer = 2, .mac = {2, [5] = 9}},
		{.flags = XVM_RES_USED | XVM_RES_VM, .peer = SELF, .mac = {2, [5] = 1}},
		{.flags = XVM_RES_USED | XVM_RES_VM | XVM_RES_AMBIGUOUS, .peer = 0},
	};

	up();
	cr_assert_eq(flags_of("10.9.0.2"), XVM_RES_USED | XVM_RES_IN_REGION(0) | XVM_RES_SEEN);
	memcpy(res[0].addr, ip("10.9.0.5"), 16);
	memcpy(res[1].addr, ip("10.9.1.1"), 16);
	memcpy(res[2].addr, ip("10.9.0.6"), 16);
	publish(3, res);
	cr_assert_eq(flags_of("10.9.0.2"), 0, "it has gone");
	cr_assert_eq(flags_of("10.9.0.5"), XVM_RES_USED | XVM_RES_IN_REGION(0));
	cr_assert_not(flags_of("10.9.1.1") & XVM_RES_VM, "our own");
	cr_assert(flags_of("10.9.0.6") & XVM_RES_AMBIGUOUS);
	/* What is in one of our namespaces, and elsewhere too. */
	memcpy(res[0].addr, ip("10.9.0.1"), 16);
	publish(1, res);
	cr_assert(flags_of("10.9.0.1") & XVM_RES_AMBIGUOUS);
	/* It lives here, and the host says that somebody else has it as well. */
	res[1].flags |= XVM_RES_AMBIGUOUS;
	publish(1, res + 1);
	cr_assert(flags_of("10.9.1.1") & XVM_RES_AMBIGUOUS);
	cr_assert_not(flags_of("10.9.0.1") & XVM_RES_AMBIGUOUS);
}

/* ---- programs and pairs ----------------------------------------------------- */

Test(guest, a_program_gets_the_region)
{
	struct prog p, q;
	struct xvm_msg m;
	struct stat a, b;
	char path[300];
	int fd = -1;

	p = run_as(getuid());
	want(&p, XVM_MSG_WELCOME);
	cr_assert_eq(get(&p, NULL).type, 0);
	up();
	m = get(&p, &fd);
	cr_assert_eq(m.type, XVM_MSG_REGION, "as soon as there is one");
	cr_assert_eq(m.region, 0);
	cr_assert_eq(m.off, 0);
	cr_assert_eq(m.len, SIZE);
	cr_assert_eq(m.arg, SELF);
	snprintf(path, sizeof(path), "%s" DEV "/resource2", root);
	cr_assert_eq(fstat(fd, &a) | stat(path, &b), 0);
	cr_assert_eq(a.st_ino, b.st_ino);
	m = want(&p, XVM_MSG_DOORBELL);
	cr_assert_eq(m.off, 0x100);
	q = run_as(1234);
	want(&q, XVM_MSG_WELCOME);
	cr_assert_eq(get(&q, NULL).type, 0, "not everybody");
	tell(&q, (struct xvm_msg){.type = XVM_MSG_LEASE, .len = LEN}, -1);
	cr_assert_eq(recv(q.sock, path, 1, MSG_DONTWAIT), 0, "it is dropped");
}

Test(guest, a_pair_from_offer_to_freed)
{
	struct xvm_letter l;
	struct xvm_msg piece, m;
	struct prog p;
	uint64_t base = region.arena_size * SELF;
	int s[2];

	up();
	p = run();
	piece = lease(&p);
	cr_assert(xvm_region_piece_ok(&region, SELF, piece.off - base, piece.len));
	tcp(s);
	l = offer(&p, &piece, s[0]);
	cr_assert_eq(l.type, XVM_LETTER_OFFER);
	cr_assert_eq(l.off, piece.off - base);
	cr_assert_eq(l.len, piece.len);
	cr_assert_arr_eq(l.laddr, ip("10.9.0.1"), 16);
	cr_assert_arr_eq(l.raddr, ip("10.9.0.2"), 16);
	cr_assert_eq(l.role, XVM_ROLE_ACTIVE);
	say(paired(l));
	m = want(&p, XVM_MSG_PAIRED);
	cr_assert_eq(m.slot, p.slot);
	cr_assert_eq(m.gen, p.gen);
	cr_assert_eq(m.arg, XVM_ROLE_PASSIVE);
	cr_assert_eq(m.arg2, 2);
	cr_assert_eq(m.arg64, XVM_VM_DOORBELL);
	cr_assert_eq(m.off, region.arena_size * 2 + XVM_REGION_BOX + 4096);
	cr_assert_eq(m.len, LEN);
	over(&p, XVM_MSG_UNPAIR, l);
	cr_assert_eq(hear().type, XVM_LETTER_UNPAIR);
	cr_assert_eq(g->book.lent, LEN, "the other end still reads it");
	say(about(l, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, 0);
}

Test(guest, a_refused_piece_is_free)
{
	struct xvm_letter l;
	struct xvm_msg piece, m;
	struct prog p;
	int s[2];

	up();
	p = run();
	piece = lease(&p);
	tcp(s);
	l = offer(&p, &piece, s[0]);
	say((struct xvm_letter){.type = XVM_LETTER_REFUSED,
				.client = l.client,
				.slot = l.slot,
				.gen = l.gen,
				.arg = XVM_R_RULE});
	m = want(&p, XVM_MSG_REFUSED);
	cr_assert_eq(m.arg, XVM_R_RULE);
	cr_assert_eq(g->book.lent, 0);
}

static void refuse(struct xvm_letter l)
{
	l = about(l, XVM_LETTER_REFUSED);
	l.arg = XVM_R_NOT_RESIDENT;
	say(l);
}

/* An offer that can only be refused: it asks whether all has been read. */
static struct xvm_letter fence(void)
{
	struct xvm_letter l = hear();

	cr_assert_eq(l.type, XVM_LETTER_OFFER);
	cr_assert_eq(l.client, 0);
	return l;
}

Test(guest, withdrawn_and_nothing_on_its_way)
{
	struct xvm_letter l, f;
	struct xvm_msg piece;
	struct prog p;
	int s[2];

	up();
	p = run();
	piece = lease(&p);
	tcp(s);
	l = offer(&p, &piece, s[0]);
	over(&p, XVM_MSG_WITHDRAW, l);
	cr_assert_eq(hear().type, XVM_LETTER_WITHDRAW);
	f = fence();
	cr_assert_eq(g->book.lent, LEN);
	refuse(f);
	cr_assert_eq(g->book.lent, 0);
}

Test(guest, withdrawn_while_a_pair_was_on_its_way)
{
	struct xvm_letter l, f;
	struct xvm_msg piece;
	struct prog p;
	int s[2];

	up();
	p = run();
	piece = lease(&p);
	tcp(s);
	l = offer(&p, &piece, s[0]);
	over(&p, XVM_MSG_WITHDRAW, l);
	cr_assert_eq(hear().type, XVM_LETTER_WITHDRAW);
	f = fence();
	say(paired(l));
	refuse(f);
	cr_assert_eq(get(&p, NULL).type, 0, "it does not care any more");
	cr_assert_eq(hear().type, XVM_LETTER_UNPAIR, "owed for each PAIRED");
	cr_assert_eq(g->book.lent, LEN);
	say(about(l, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, 0);
}

Test(guest, a_program_that_dies)
{
	struct xvm_letter a, b, f;
	struct xvm_msg piece, second;
	struct prog p;
	int s[2], t[2];

	up();
	p = run();
	lease(&p);
	piece = lease(&p);
	second = lease(&p);
	tcp(s);
	tcp(t);
	a = offer(&p, &piece, s[0]);
	b = offer(&p, &second, t[0]);
	say(paired(a));
	die(&p);
	cr_assert_eq(g->book.lent, 3 * LEN);
	cr_assert_eq(hear().slot, b.slot, "withdrawn");
	f = fence();
	cr_assert_eq(hear().type, XVM_LETTER_UNPAIR);
	cr_assert_eq(g->book.lent, 2 * LEN, "its stock");
	refuse(f);
	cr_assert_eq(g->book.lent, LEN);
	say(about(a, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, 0);
}

Test(guest, only_what_it_was_lent)
{
	static const uint64_t bad[][2] = {{0, LEN}, {1, LEN}, {0, 1}, {4096, LEN}, {0, ~0ull / 2}};
	struct xvm_msg piece;
	struct prog p, q;
	int s[2];
	char c;
	size_t i;

	up();
	tcp(s);
	q = run();
	for (i = 0; i <= sizeof(bad) / sizeof(bad[0]); i++) {
		p = run();
		piece = lease(&p);
		if (i < sizeof(bad) / sizeof(bad[0])) {
			piece.off += bad[i][0];
			piece.len = bad[i][1];
		} else {
			piece = lease(&q); /* another's */
		}
		if (piece.off == 0)
			continue;
		tell(&p,
		     (struct xvm_msg){.type = XVM_MSG_OFFER, .off = piece.off, .len = piece.len},
		     s[0]);
		if (i)
			while (get(&p, NULL).type)
				;
		if (i)
			cr_assert_eq(recv(p.sock, &c, 1, MSG_DONTWAIT), 0, "%zu: dropped", i);
		die(&p);
		step();
	}
	cr_assert(g->up);
}

Test(guest, another_neighbour_than_the_host_says)
{
	struct xvm_msg piece, m;
	struct prog p;
	int s[2];

	up();
	p = run();
	piece = lease(&p);
	tcp(s);
	publish_one("10.9.0.2", 2, 3, XVM_RES_SEEN);
	cr_assert_eq(offer(&p, &piece, s[0]).type, 0);
	m = want(&p, XVM_MSG_REFUSED);
	cr_assert_eq(m.arg, XVM_R_NOT_RESIDENT);
	cr_assert_eq(g->book.lent, 0);
	publish_one("10.9.0.2", 2, 2, 0);
	piece = lease(&p);
	cr_assert_eq(offer(&p, &piece, s[0]).type, XVM_LETTER_OFFER);
}

static int error_of(int sock)
{
	char c;

	return recv(sock, &c, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

static void another_xvmd(bool killed)
{
	char err[16];

	/* Else it says that it ends. */
	if (killed)
		g->broken = "killed";
	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
	g = NULL;
	memset(&d, 0, sizeof(d));
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_daemon_init(&d), 0);
}

/* What the shim writes into its arena: where the socket is. */
static void note(struct prog *p, uint32_t slot, int fd)
{
	struct xvm_shm_ep *ep = xvm_arena_ep(p->mem, slot);

	ep->state = XVM_EP_PAIRED;
	ep->gen = slot; /* as offer() numbers them */
	ep->pid = getpid();
	ep->fd = fd;
	p->mem->ep_hi = slot + 1;
}

/* It finds that there is another xvmd. */
static struct xvm_msg come_back(struct prog *p)
{
	struct xvm_msg m;

	close(p->sock);
	connect_as(p, getuid());
	want(p, XVM_MSG_WELCOME);
	m = want(p, XVM_MSG_REGION);
	want(p, XVM_MSG_DOORBELL);
	return m;
}

static void time_passes(void)
{
	ev_feed_event(d.loop, &g->watch, EV_TIMER);
	step();
}

/* A pair, and the piece of its half. */
static struct xvm_letter a_pair(struct prog *p, struct xvm_msg *piece, int s[2])
{
	struct xvm_letter l;

	*piece = lease(p);
	tcp(s);
	l = offer(p, piece, s[0]);
	say(paired(l));
	want(p, XVM_MSG_PAIRED);
	note(p, l.slot, s[0]);
	return l;
}

static void same(struct xvm_letter l, uint32_t type, struct xvm_letter of)
{
	cr_assert_eq(l.type, type, "type %u, not %u", l.type, type);
	cr_assert(l.client == of.client && l.slot == of.slot && l.gen == of.gen);
}

static void a_restart(bool killed)
{
	struct xvm_msg piece, m, n;
	struct prog p, q;
	struct xvm_letter l;
	uint64_t run_id = up();
	int s[2], t[2];

	p = run();
	l = a_pair(&p, &piece, s);
	another_xvmd(killed);
	if (!killed)
		cr_assert_eq(hear().type, XVM_LETTER_BYE);
	cr_assert_eq(hear().type, 0, "pairs go on");
	look();
	cr_assert_eq(hello().run, run_id);
	cr_assert_eq(g->book.lent, LEN);
	/* A program that has nothing yet; and not before we are welcome. */
	q = run_as(getuid());
	want(&q, XVM_MSG_WELCOME);
	cr_assert_eq(get(&q, NULL).type, 0);
	welcome(run_id);
	m = want(&q, XVM_MSG_REGION);
	cr_assert_eq(m.arg2, 0);
	want(&q, XVM_MSG_DOORBELL);
	n = lease(&q);
	cr_assert_neq(n.off, piece.off);
	tcp(t);
	cr_assert_gt(offer(&q, &n, t[0]).client, l.client, "another name");
	/* It did not even notice; its name for the connection is what it was. */
	m = come_back(&p);
	cr_assert_eq(m.arg2, XVM_REGION_KEPT | XVM_REGION_VECTORS);
	cr_assert_eq(error_of(s[0]), EAGAIN);
	cr_assert_eq(hear().type, 0);
	over(&p, XVM_MSG_UNPAIR, l);
	same(hear(), XVM_LETTER_UNPAIR, l);
	cr_assert_eq(g->book.lent, 2 * LEN);
	say(about(l, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, LEN);
}

Test(guest, xvmd_is_killed_and_another_comes)
{
	a_restart(true);
}

Test(guest, xvmd_ends_and_another_comes)
{
	a_restart(false);
}

/* Letters, and changes, in the time between. */
Test(guest, what_happens_while_there_is_no_xvmd)
{
	struct xvm_letter dies, closes, lost, gone, offered;
	struct xvm_msg piece, m;
	struct prog p, q;
	uint64_t run_id = up();
	int s[2], t[2], u[2], v[2], w[2];

	q = run();
	dies = a_pair(&q, &piece, s);
	p = run();
	closes = a_pair(&p, &piece, t);
	lost = a_pair(&p, &piece, u);
	gone = a_pair(&p, &piece, v);
	piece = lease(&p);
	tcp(w);
	offered = offer(&p, &piece, w[0]);
	cr_assert_eq(g->book.lent, 5 * LEN);
	/* One more that it was lent. */
	m = lease(&p);
	another_xvmd(true);
	close(q.sock);
	close(q.life);
	xvm_arena_ep(p.mem, closes.slot)->gen++;
	cr_assert_eq(xvm_mailbox_put(&box, &(struct xvm_letter){.type = XVM_LETTER_GONE,
								.peer = 3,
								.peer_gen = 5}),
		     0);
	gone = paired(offered);
	cr_assert_eq(xvm_mailbox_put(&box, &gone), 0);
	look();
	cr_assert_eq(hello().run, run_id);
	same(hear(), XVM_LETTER_UNPAIR, offered);
	welcome(run_id);
	/* Said again, as the host may not have listened yet. */
	same(hear(), XVM_LETTER_UNPAIR, offered);
	same(hear(), XVM_LETTER_UNPAIR, dies);
	cr_assert_eq(hear().type, 0, "%u", lost.slot);
	come_back(&p);
	same(hear(), XVM_LETTER_UNPAIR, closes);
	cr_assert_eq(hear().type, 0);
	/* What it does not use after all. */
	tell(&p,
	     (struct xvm_msg){.type = XVM_MSG_WITHDRAW,
			      .slot = offered.slot,
			      .gen = offered.gen,
			      .off = piece.off,
			      .len = piece.len},
	     -1);
	cr_assert_eq(g->book.lent, 6 * LEN, "another reads it");
	tell(&p, (struct xvm_msg){.type = XVM_MSG_WITHDRAW, .off = m.off, .len = m.len}, -1);
	cr_assert_eq(g->book.lent, 5 * LEN);
	say(about(offered, XVM_LETTER_FREED));
	say(about(dies, XVM_LETTER_FREED));
	say(about(closes, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, 2 * LEN);
}

/* Offers of the last xvmd: nobody says that they are void. */
Test(guest, what_the_last_xvmd_had_offered)
{
	struct xvm_letter l, f, old;
	struct xvm_msg piece;
	struct prog p;
	uint64_t run_id = up();
	int s[2];

	p = run();
	piece = lease(&p);
	tcp(s);
	l = offer(&p, &piece, s[0]);
	/* It asks the host whether it is there, and is answered too late. */
	xvm_guest_fence(g);
	old = fence();
	another_xvmd(true);
	look();
	cr_assert_eq(hello().run, run_id);
	welcome(run_id);
	f = fence();
	refuse(old);
	cr_assert_eq(g->book.lent, LEN, "that was another question");
	refuse(f);
	cr_assert_eq(g->book.lent, 0);
	cr_assert_eq(hear().type, 0, "%u", l.slot);
}

/* A peer dies, and the program has not come back: its sockets are reset all the same. */
Test(guest, a_vm_dies_while_a_program_is_not_connected)
{
	struct xvm_letter l;
	struct xvm_msg piece;
	struct prog p;
	uint64_t run_id = up();
	int s[2];

	p = run();
	l = a_pair(&p, &piece, s);
	another_xvmd(true);
	look();
	cr_assert_eq(hello().run, run_id);
	welcome(run_id);
	cr_assert_eq(error_of(s[0]), EAGAIN);
	say((struct xvm_letter){.type = XVM_LETTER_GONE, .peer = 2, .peer_gen = 5});
	cr_assert_eq(error_of(s[0]), ECONNRESET);
	close(p.life);
	time_passes();
	same(hear(), XVM_LETTER_UNPAIR, l);
}

/* Who was lent it may still write to it, though xvmd knows nothing of him. */
Test(guest, one_that_is_dropped_and_lives)
{
	struct xvm_letter l;
	struct xvm_msg piece, stock;
	struct prog p, q;
	int s[2], i;

	up();
	p = run();
	stock = lease(&p);
	l = a_pair(&p, &piece, s);
	close(p.sock);
	step();
	cr_assert_eq(hear().type, 0, "it goes on");
	say(about(l, XVM_LETTER_FREED));
	q = run();
	for (i = 0; i < 3; i++) {
		struct xvm_msg m = lease(&q);

		cr_assert(m.off != piece.off && m.off != stock.off);
		time_passes();
	}
	/* Its forks, too. */
	close(p.life);
	time_passes();
	same(hear(), XVM_LETTER_UNPAIR, l);
	cr_assert_eq(lease(&q).off, stock.off);
	say(about(l, XVM_LETTER_FREED));
	cr_assert_eq(lease(&q).off, piece.off);
}

/* It is killed, and never comes back: what is paired goes on, however much else is going on. */
Test(guest, a_host_that_reads_no_letters)
{
	struct xvm_letter end = {.type = XVM_LETTER_WITHDRAW};
	struct xvm_msg piece, m;
	struct prog p;
	int s[2], t[2], i;

	up();
	p = run();
	a_pair(&p, &piece, s);
	for (i = 0; i < 10000; i++)
		xvm_guest_send(g, &end);
	ip_tool("addr add 10.9.1.2/24 dev v0");
	step();
	cr_assert(g->up);
	cr_assert_eq(error_of(s[0]), EAGAIN);
	/* Nothing new. */
	cr_assert_leq(g->n_queue, 10000);
	piece = lease(&p);
	tcp(t);
	tell(&p,
	     (struct xvm_msg){.type = XVM_MSG_OFFER,
			      .slot = 9,
			      .gen = 9,
			      .off = piece.off,
			      .len = piece.len},
	     t[0]);
	want(&p, XVM_MSG_SEEN);
	m = want(&p, XVM_MSG_REFUSED);
	cr_assert_eq(m.arg, XVM_R_NO_DAEMON);
	/* And when it reads again it hears of all. */
	for (i = 0; g->n_queue; i++) {
		while (!xvm_mailbox_get(&box, &end))
			;
		xvm_mailbox_done(&box);
		news();
	}
	cr_assert_gt(i, 10);
	cr_assert_arr_eq(hear_any(true).laddr, ip("10.9.1.2"), 16);
}

/* In another region nobody has anything. */
Test(guest, another_region)
{
	struct xvm_msg piece;
	struct prog p;
	uint64_t run_id = up();
	int s[2];

	p = run();
	a_pair(&p, &piece, s);
	another_xvmd(true);
	xvm_region_header(&region)->generation++;
	look();
	cr_assert_eq(g->book.lent, 0);
	cr_assert_neq(hello().run, run_id);
}

/* Interrupts that were, and are not to be had again. */
Test(guest, a_device_that_was_let_go)
{
	struct xvm_msg piece;
	struct xvm_letter l;
	struct prog p;
	uint64_t run_id;
	int s[2];

	run_id = up();
	p = run();
	l = a_pair(&p, &piece, s);
	g->record.head->vectors = 2;
	another_xvmd(true);
	look();
	cr_assert_eq(error_of(s[0]), ECONNRESET);
	cr_assert_neq(hello().run, run_id);
	welcome(g->run);
	cr_assert_eq(g->book.lent, LEN, "it may write to it");
	cr_assert_eq(come_back(&p).arg2, XVM_REGION_KEPT);
	over(&p, XVM_MSG_UNPAIR, l);
	cr_assert_eq(g->book.lent, 0);
	cr_assert_eq(hear().type, 0, "nothing is owed");
}

Test(guest, vectors)
{
	struct prog p, q;
	struct xvm_msg m;
	uint64_t n = 1;
	int fd = -1;

	/* As if vfio had brought some. */
	xvm_region_format(&region);
	look();
	g->dev.vectors = 2;
	welcome(hello().run);
	p = run();
	tell(&p, (struct xvm_msg){.type = XVM_MSG_LEASE, .len = LEN}, -1);
	m = get(&p, &fd);
	cr_assert_eq(m.type, XVM_MSG_VECTOR);
	cr_assert_eq(m.arg, 1);
	cr_assert_eq(write(g->vector[1], &n, 8), 8);
	cr_assert_eq(read(fd, &n, 8), 8, "the same eventfd");
	want(&p, XVM_MSG_PIECE);
	lease(&p);
	q = run();
	lease(&q); /* no vector is left */
	/* Dropped, it may sleep by it all the same. */
	close(p.sock);
	step();
	lease(&q);
	close(p.vector_life);
	tell(&q, (struct xvm_msg){.type = XVM_MSG_LEASE, .len = LEN}, -1);
	cr_assert_eq(want(&q, XVM_MSG_VECTOR).arg, 1);
	want(&q, XVM_MSG_PIECE);
}

Test(guest, nobody_has_more_than_half)
{
	char err[100];
	uint64_t len, has = 0, all;
	struct prog p;

	xvm_conf_free(d.conf);
	d.conf = xvm_conf_parse("share allow\n", 12, "", err, sizeof(err));
	up();
	p = run_as(1234);
	want(&p, XVM_MSG_WELCOME);
	want(&p, XVM_MSG_REGION);
	want(&p, XVM_MSG_DOORBELL);
	while ((len = lease(&p).len) != 0)
		has += len;
	all = g->book.end - g->book.first;
	cr_assert_leq(has, all / 2);
	cr_assert_gt(has, all / 2 - LEN);
	p = run();
	cr_assert_gt(lease(&p).len, 0);
}

/* ---- the dead ---------------------------------------------------------------- */

static void vm_dies(bool wrong)
{
	struct xvm_letter a, b, l;
	struct xvm_msg first, second, m;
	struct prog p;
	int s[2], t[2];

	up();
	p = run();
	first = lease(&p);
	second = lease(&p);
	tcp(s);
	tcp(t);
	a = offer(&p, &first, s[0]);
	b = offer(&p, &second, t[0]);
	say(paired(a));
	want(&p, XVM_MSG_PAIRED);
	/* The other one is paired with another VM. */
	l = paired(b);
	l.peer = 3;
	say(l);
	want(&p, XVM_MSG_PAIRED);
	note(&p, a.slot, wrong ? t[0] : s[0]);
	say((struct xvm_letter){.type = XVM_LETTER_GONE, .peer = 2, .peer_gen = 4});
	cr_assert_eq(error_of(s[0]), EAGAIN, "of an earlier life");
	say((struct xvm_letter){.type = XVM_LETTER_GONE, .peer = 2, .peer_gen = 5});
	m = want(&p, XVM_MSG_PEER_DEAD);
	cr_assert_eq(m.slot, a.slot);
	cr_assert_eq(m.gen, a.gen);
	cr_assert_eq(error_of(s[0]), ECONNRESET);
	cr_assert_eq(error_of(t[0]), EAGAIN);
	cr_assert_eq(hear().type, 0, "it is still mapped");
	over(&p, XVM_MSG_UNPAIR, a);
	cr_assert_eq(hear().type, XVM_LETTER_UNPAIR);
	say(about(a, XVM_LETTER_FREED));
	cr_assert_eq(g->book.lent, LEN);
}

Test(guest, a_vm_that_dies)
{
	vm_dies(false);
}

Test(guest, a_vm_that_dies_and_sockets_are_elsewhere)
{
	vm_dies(true);
}

Test(guest, the_host_does_not_know_us_any_more)
{
	struct xvm_letter a, b, l;
	struct xvm_msg first, second, m;
	struct prog p;
	uint64_t run_id = up();
	int s[2], t[2];

	p = run();
	first = lease(&p);
	second = lease(&p);
	tcp(s);
	tcp(t);
	a = offer(&p, &first, s[0]);
	say(paired(a));
	want(&p, XVM_MSG_PAIRED);
	b = offer(&p, &second, t[0]);
	say((struct xvm_letter){.type = XVM_LETTER_AGAIN, .arg = EPROTO});
	want(&p, XVM_MSG_PEER_DEAD);
	cr_assert_eq(error_of(s[0]), ECONNRESET);
	m = want(&p, XVM_MSG_REFUSED);
	cr_assert_eq(m.slot, b.slot);
	cr_assert_eq(flags_of("10.9.0.2"), 0);
	l = hello();
	cr_assert_neq(l.run, run_id);
	over(&p, XVM_MSG_UNPAIR, a);
	cr_assert_eq(hear().type, 0, "nothing is owed");
	cr_assert_eq(g->book.lent, 2 * LEN, "who knows who reads it");
	cr_assert_eq(lease(&p).len, 0, "not before we are welcome");
	welcome(l.run);
	cr_assert_eq(g->book.lent, 0);
	cr_assert(flags_of("10.9.0.2") & XVM_RES_VM);
	cr_assert_gt(lease(&p).len, 0);
}

/* ---- nonsense ----------------------------------------------------------------- */

Test(guest, letters_that_make_no_sense)
{
	struct xvm_letter bad[] = {
		{.type = 0},
		{.type = XVM_LETTER_OFFER},
		{.type = 99},
		{.type = XVM_LETTER_WELCOME, .peer = 3},
		{.type = XVM_LETTER_PAIRED, .peer = SELF},
		{.type = XVM_LETTER_PAIRED, .peer = 60000, .role = XVM_ROLE_ACTIVE},
		{.type = XVM_LETTER_PAIRED, .peer = 2, .role = XVM_ROLE_ACTIVE, .off = ~0ull},
		{.type = XVM_LETTER_REFUSED, .arg = 1u << 31},
		{.type = XVM_LETTER_GONE, .peer = SELF},
	};
	uint64_t run_id = up();
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct xvm_letter l;

		say(bad[i]);
		cr_assert_not(g->up, "%zu", i);
		ev_feed_event(d.loop, &g->patience, EV_TIMER);
		l = hello();
		cr_assert_neq(l.run, run_id);
		run_id = l.run;
		welcome(run_id);
		cr_assert(g->up);
	}
}

Test(guest, answers_to_what_was_never_asked)
{
	struct xvm_letter l = {.client = 1, .slot = 1, .gen = 1}, got;

	up();
	l.type = XVM_LETTER_FREED;
	say(l);
	l.type = XVM_LETTER_REFUSED;
	l.arg = XVM_R_RULE;
	say(l);
	l.type = XVM_LETTER_GONE;
	l.peer = 3;
	say(l);
	say((struct xvm_letter){.type = XVM_LETTER_ADDR_REFUSED, .arg = EPERM});
	cr_assert_eq(hear().type, 0);
	l = paired(l);
	say(l);
	got = hear();
	cr_assert_eq(got.type, XVM_LETTER_UNPAIR, "or the other's half is read for ever");
	cr_assert(g->up);
}

Test(guest, a_mailbox_that_lies)
{
	uint64_t run_id = up();
	struct xvm_letter l;
	int i;

	atomic_store(&box.mine->head, box.head + 1000);
	news();
	cr_assert_not(g->up);
	box.head += 1000;
	ev_feed_event(d.loop, &g->patience, EV_TIMER);
	l = hello();
	cr_assert_neq(l.run, run_id);
	welcome(l.run);
	cr_assert(g->up);
	for (i = 0; i < 100; i++) {
		atomic_store(&box.mine->head, random());
		atomic_store(&box.mine->tail, random());
		atomic_store(&xvm_region_header(&region)->res_seq, random());
		atomic_store(&xvm_region_header(&region)->res_count, random());
		ev_feed_event(d.loop, &g->patience, EV_TIMER);
		news();
	}
}
