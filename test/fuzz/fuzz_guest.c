/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's daemon, whose host writes anything into the region and says anything in any order, and
 * whose programs lease, offer, close and die. Whatever happens, once the programs have gone and a
 * new run is welcome nothing is lent any more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/guest_ep.h"
#include "detect/log.h"
#include "transport/memfd.h"

#define SIZE (1u << 20)
#define SELF 1
#define PROGS 2
#define PIECES 4
#define LEN (XVM_HALF_CTL + XVM_RING_MIN)
#define DEV "/sys/bus/pci/devices/0000:00:04.0"

static struct xvm_daemon d;
static struct xvm_guest *g;
static struct xvm_region region; /* the host's view */
static struct xvm_mailbox box;

static struct prog {
	int sock;
	uint32_t id;
	struct xvm_conn *c;
	uint64_t piece[PIECES]; /* 0: none */
} prog[PROGS];

struct input {
	const uint8_t *at;
	size_t left;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static uint8_t byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static void step(void)
{
	ev_feed_event(d.loop, &g->look, EV_CUSTOM);
	ev_run(d.loop, EVRUN_NOWAIT);
}

static void addr(uint8_t to[16], int i)
{
	static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, 10, 9, 0, 1};

	memcpy(to, mapped, 16);
	to[15] = (uint8_t)i;
}

/* ---- the device ------------------------------------------------------- */

static void put(const char *root, const char *name, const char *text, off_t size)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s" DEV "/%s", root, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) < 0 || (size && ftruncate(fd, size)))
		abort();
	close(fd);
}

static void *map(const char *root, const char *name, size_t len)
{
	char path[300];
	void *p;
	int fd;

	snprintf(path, sizeof(path), "%s" DEV "/%s", root, name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		abort();
	close(fd);
	return p;
}

static void make_device(char *root)
{
	char cmd[300];

	if (!mkdtemp(root))
		abort();
	snprintf(cmd, sizeof(cmd), "mkdir -p %s" DEV, root);
	if (system(cmd))
		abort();
	put(root, "vendor", "0x1af4\n", 0);
	put(root, "device", "0x1110\n", 0);
	put(root, "resource0", "", 4096);
	put(root, "resource2", "", SIZE);
	((uint32_t *)map(root, "resource0", 4096))[2] = SELF;
	if (xvm_region_figure(&region, SIZE, 3, 4))
		abort();
	region.map = map(root, "resource2", SIZE);
	xvm_region_format(&region);
	xvm_mailbox_init(&box, xvm_region_host_box(&region, SELF),
			 xvm_region_peer_box(&region, SELF));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char root[] = "/tmp/xvm-fuzz.XXXXXX";
	uint8_t own[16];
	char text[256];

	xvm_log_level(LOG_EMERG);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("pair deny port 1\n", 17, "", text, sizeof(text));
	if (xvm_daemon_init(&d))
		abort();
	make_device(root);
	xvm_guests_look(&d, root);
	snprintf(text, sizeof(text), "rm -rf %s", root);
	if (system(text) || d.guests.n != 1)
		abort();
	g = d.guests.g[0];
	g->dev.vectors = 2;
	addr(own, 100);
	xvm_residency_add(&d.residency, d.netns.own->res, 900, own);
	return 0;
}

/* ---- programs --------------------------------------------------------- */

static void come(struct prog *p)
{
	struct xvm_msg m = {.type = XVM_MSG_HELLO, .arg = XVM_PROTO_VERSION, .pid = getpid()};
	void *mem;
	int sv[2], arena;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv))
		abort();
	arena = xvm_memfd_make("arena", 4096, &mem);
	p->c = xvm_conn_new(&d, sv[1], getpid(), 0);
	if (arena < 0 || !p->c || xvm_proto_send(sv[0], &m, &arena, 1))
		abort();
	xvm_memfd_unmap(mem, 4096);
	close(arena);
	p->sock = sv[0];
	p->id = p->c->id;
	memset(p->piece, 0, sizeof(p->piece));
	step();
}

static void go(struct prog *p)
{
	if (!p->c)
		return;
	close(p->sock);
	p->c = NULL;
	step();
	step();
}

/* What it was told; and is it still there? */
static bool alive(struct prog *p)
{
	int fds[XVM_PROTO_FDS], i, ret;
	struct xvm_msg m;

	while (p->c && (ret = xvm_proto_recv(p->sock, &m, fds, MSG_DONTWAIT)) != -EAGAIN) {
		if (ret) {
			go(p);
			break;
		}
		for (i = 0; i < m.nfds; i++)
			close(fds[i]);
		for (i = 0; m.type == XVM_MSG_PIECE && m.len && i < PIECES; i++)
			if (!p->piece[i]) {
				p->piece[i] = m.off;
				break;
			}
	}
	return p->c != NULL;
}

static void offer(struct prog *p, uint8_t b)
{
	uint64_t *piece = &p->piece[b % PIECES];
	struct xvm_msg m = {.type = XVM_MSG_OFFER,
			    .slot = b >> 4,
			    .gen = b >> 6,
			    .arg = XVM_ROLE_ACTIVE,
			    .off = *piece,
			    .len = LEN};
	struct xvm_facts f = {.lport = b & 4 ? 1 : 5000, .rport = 6000, .cookie = b};

	/* One that it does not have would be the end of it, and of this input. */
	if (!*piece || !(p->c->regions & 1))
		return;
	*piece = 0;
	f.where.netns = d.netns.own->res->cookie;
	addr(f.laddr, 100);
	addr(f.raddr, 1 + b % 3);
	xvm_guest_offer(p->c, &m, &f, b & 8 ? XVM_R_UNSUPPORTED : XVM_R_NONE);
}

static void tell(struct prog *p, uint32_t type, uint8_t b)
{
	struct xvm_msg m = {.type = type, .slot = b >> 4, .gen = b >> 6, .len = LEN};

	if (xvm_proto_send(p->sock, &m, NULL, 0) == 0)
		step();
}

/* ---- the host --------------------------------------------------------- */

static void say(const struct xvm_letter *l)
{
	if (xvm_mailbox_put(&box, l) == -EPROTO)
		xvm_mailbox_resume(&box, box.mine, box.theirs, false);
	step();
}

static void letter(struct input *in)
{
	static const uint32_t types[] = {
		XVM_LETTER_WELCOME, XVM_LETTER_AGAIN, XVM_LETTER_PAIRED,       XVM_LETTER_REFUSED,
		XVM_LETTER_FREED,   XVM_LETTER_GONE,  XVM_LETTER_ADDR_REFUSED, 99};
	struct xvm_letter l = {0};
	uint8_t b = byte(in), who = byte(in);

	l.type = types[b % 8];
	l.client = who & 1 ? (uint32_t)d.arena_serial - (who >> 1 & 1) : who >> 1 & 1;
	l.slot = who >> 4;
	l.gen = l.client ? who >> 6 : (uint32_t)g->fence_asked;
	l.run = g->run + (b >> 7);
	l.role = 1 + (b >> 3 & 1);
	l.peer = l.type == XVM_LETTER_WELCOME ? SELF : (b >> 4 & 1) * 2;
	l.arg = l.type == XVM_LETTER_REFUSED ? XVM_R_RULE : XVM_REGION_VERSION;
	l.off = (l.peer ? XVM_REGION_BOX : region.lease_off) + (b >> 5) * 4096;
	l.len = LEN;
	say(&l);
}

static void publish(uint8_t b)
{
	struct xvm_shm_region *h = xvm_region_header(&region);
	struct xvm_shm_region_res res = {.flags = XVM_RES_USED | XVM_RES_VM, .peer = b & 3};
	int i;

	for (i = 0; i < 3; i++) {
		addr(res.addr, i == 2 && b & 64 ? 100 : 1 + i);
		res.peer = i ? 2 : b & 3;
		res.flags |= b & 32 ? XVM_RES_AMBIGUOUS : 0;
		memcpy(region.map + region.res_off + i * sizeof(res), &res, sizeof(res));
	}
	atomic_store(&h->res_count, b & 16 ? 1ull << 40 : b >> 3 & 3);
	atomic_store(&h->res_seq, atomic_load(&h->res_seq) + 2);
	step();
}

static void scribble(struct input *in)
{
	uint8_t *mine = (uint8_t *)box.mine;
	size_t at = byte(in) << 8 | byte(in);
	uint64_t v = byte(in);

	if (at & 1)
		v = ~v;
	at = at & 2 ? at % 128 : at % sizeof(struct xvm_shm_box);
	*(uint64_t *)(mine + at / 8 * 8) = v;
	step();
}

static void read_all(void)
{
	struct xvm_letter l;
	int k;

	for (k = 0; k < 200 && xvm_mailbox_get(&box, &l) != -EAGAIN; k++)
		if (xvm_letter_wrong(&l, &region, true, SELF))
			abort();
	xvm_mailbox_done(&box);
}

/* Both sides agree again on what has been read, and a new run is welcome. */
static void make_up(void)
{
	struct xvm_letter l = {.type = XVM_LETTER_WELCOME, .arg = XVM_REGION_VERSION, .peer = SELF};

	g->broken = "the input is over";
	step();
	box.tail = g->box.head;
	atomic_store(&box.mine->tail, box.tail);
	box.head = g->box.tail;
	atomic_store(&box.mine->head, box.head);
	l.run = g->run;
	say(&l);
	step();
}

static void nothing_is_left(void)
{
	uint32_t i, vectors = 0;

	make_up();
	for (i = 0; i < XVM_REGION_VECTORS_MAX; i++)
		vectors += g->vector[i] >= 0;
	if (!g->up || g->book.lent || !xvm_list_empty(&g->eps) || vectors || d.n_conns ||
	    d.fds != 1) {
		fprintf(stderr, "left: up %d, %llu bytes lent, %u vectors, %u programs, %u fds\n",
			g->up, (unsigned long long)g->book.lent, vectors, d.n_conns, d.fds);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct prog *p;
	uint8_t op;
	int i;

	make_up();
	while (in.left) {
		op = byte(&in);
		p = &prog[op >> 3 & 1];
		if (!alive(p))
			come(p);
		switch (op & 7) {
		case 0:
			go(p);
			break;
		case 1:
			tell(p, XVM_MSG_LEASE, 0);
			break;
		case 2:
			offer(p, byte(&in));
			break;
		case 3:
			tell(p, op & 16 ? XVM_MSG_UNPAIR : XVM_MSG_WITHDRAW, byte(&in));
			break;
		case 4:
			publish(byte(&in));
			break;
		case 5:
			if (op & 16)
				scribble(&in);
			else
				read_all();
			break;
		default:
			letter(&in);
		}
	}
	for (i = 0; i < PROGS; i++)
		go(&prog[i]);
	nothing_is_left();
	return 0;
}
