/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon, with VMs that write anything into their arenas and say anything in any order: they
 * come, die, boot anew, claim and offer, and scribble over mailboxes; and a program of this host
 * that leases and offers. Whatever they do, nothing of them is left once they have gone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
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
#include "detect/vms.h"
#include "transport/arena.h"

#define VMS 3
#define PORT 5000 /* of this host's end of the one connection to VM 0 */

static struct xvm_daemon d;
static struct xvm_group *g;

struct input {
	const uint8_t *at;
	size_t left;
};

static struct guest {
	int sock;
	uint32_t serial;
	struct xvm_vm *vm;
	struct xvm_mailbox box;
} guest[VMS];

static struct {
	int sock, arena, tcp;
	struct xvm_shm_arena *shm;
} program = {-1, -1, -1, NULL};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static uint8_t byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static void tap(int i)
{
	struct xvm_nl_link *l = calloc(1, sizeof(*l));
	struct xvm_nl_neigh *n = calloc(1, sizeof(*n));

	snprintf(l->name, sizeof(l->name), "xvmtap%d", i);
	l->ifindex = n->ifindex = 900 + i;
	n->mac[0] = 2;
	n->mac[5] = (uint8_t)i;
	xvm_list_add(&d.netns.own->links, &l->in_ns);
	xvm_list_add(&d.netns.neighs, &n->in_all);
}

/* A connection from 10.9.0.4 to 10.9.0.1, which is said to be VM 0's. Without root there is none.
 */
static bool network(void)
{
	return !geteuid() && !unshare(CLONE_NEWNET) &&
	       !system("ip link set lo up && ip addr add 10.9.0.4/32 dev lo && "
		       "ip addr add 10.9.0.1/32 dev lo");
}

static void connect_to_vm(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(100)};
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int l = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, "10.9.0.1", &to.sin_addr);
	inet_pton(AF_INET, "10.9.0.4", &from.sin_addr);
	program.tcp = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (void *)&to, sizeof(to)) || listen(l, 1) ||
	    bind(program.tcp, (void *)&from, sizeof(from)) ||
	    connect(program.tcp, (void *)&to, sizeof(to)) || accept(l, NULL, NULL) < 0)
		abort();
	close(l);
	xvm_residency_del(&d.residency, d.netns.own->res, 1,
			  (const uint8_t[16]){[10] = 0xff, [11] = 0xff, 10, 9, 0, 1});
}

/* VM 0's address, in the neighbour table. */
static void seen_by_the_host(void)
{
	static const uint8_t a[16] = {[10] = 0xff, [11] = 0xff, 10, 9, 0, 1};
	struct xvm_nl_neigh *n = calloc(1, sizeof(*n));

	n->ifindex = 899;
	n->mac[0] = 2;
	memcpy(n->addr, a, 16);
	xvm_list_add(&d.netns.neighs, &n->in_all);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	bool net = network();
	static const struct xvm_conf_group conf = {
		.name = "g", .size = 2 << 20, .vms = VMS, .vectors = 2};
	char err[256];
	int i;

	xvm_log_level(LOG_EMERG);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("pair deny port 1\n", 17, "", err, sizeof(err));
	if (xvm_fd_init() || xvm_daemon_init(&d))
		abort();
	g = xvm_group_add(&d, &conf, err, sizeof(err));
	if (!g)
		abort();
	for (i = 0; i < VMS; i++)
		tap(i);
	seen_by_the_host();
	ev_run(d.loop, EVRUN_NOWAIT);
	if (net)
		connect_to_vm();
	return 0;
}

static void step(void)
{
	ev_run(d.loop, EVRUN_NOWAIT);
}

static void come(int i)
{
	struct guest *v = &guest[i];
	int sv[2];

	if (v->vm)
		return;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv))
		abort();
	v->vm = xvm_vm_join(g, sv[1], getpid(), 0);
	if (!v->vm) { /* the number of one that is dead is still read */
		close(sv[0]);
		close(sv[1]);
		return;
	}
	v->sock = sv[0];
	v->serial = v->vm->serial;
	xvm_mailbox_init(&v->box, xvm_region_peer_box(&g->region, v->vm->peer),
			 xvm_region_host_box(&g->region, v->vm->peer));
}

static void go(int i)
{
	if (!guest[i].vm)
		return;
	close(guest[i].sock);
	guest[i].vm = NULL;
	step();
	step();
}

/* It may have been cut off, and be forgotten by now. */
static bool alive(int i)
{
	if (guest[i].vm && xvm_vms_find(&d, guest[i].serial) != guest[i].vm) {
		close(guest[i].sock);
		guest[i].vm = NULL;
	}
	return guest[i].vm != NULL;
}

static void give_tap(int i)
{
	snprintf(guest[i].vm->tap[0], sizeof(guest[i].vm->tap[0]), "xvmtap%d", i);
	guest[i].vm->n_taps = 1;
}

static void addr(uint8_t to[16], int i)
{
	static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, 10, 9, 0, 1};

	memcpy(to, mapped, 16);
	to[15] = (uint8_t)(i + 1);
}

static void write_letter(int i, const struct xvm_letter *l)
{
	struct guest *v = &guest[i];

	if (xvm_mailbox_put(&v->box, l) == -EPROTO)
		xvm_mailbox_resume(&v->box, v->box.mine, v->box.theirs, false);
	xvm_fd_ring(v->vm->bell);
}

static void letter(int i, struct input *in)
{
	static const uint32_t types[] = {XVM_LETTER_HELLO,    XVM_LETTER_ADDR,	 XVM_LETTER_OFFER,
					 XVM_LETTER_WITHDRAW, XVM_LETTER_UNPAIR, XVM_LETTER_BYE};
	struct xvm_letter l = {0};
	uint8_t b = byte(in), peer = byte(in);

	l.type = types[b % 6];
	l.arg = l.type == XVM_LETTER_ADDR ? b >> 7 ^ 1 : 1;
	l.client = b >> 7;
	l.slot = peer >> 4;
	l.run = b >> 6;
	l.role = b >> 4 & 3;
	l.cookie = peer;
	addr(l.laddr, b & 8 ? peer % VMS : i);
	addr(l.raddr, peer % 4);
	l.mac[0] = 2;
	l.mac[5] = (uint8_t)(peer & 8 ? peer : i);
	/* So that the ends of a connection meet. */
	l.lport = (uint16_t)(100 + i + l.slot);
	l.rport = (uint16_t)(100 + peer % VMS + l.slot);
	if (peer % 4 == 3)
		l.rport = PORT;
	l.off = XVM_REGION_BOX + (uint64_t)l.slot * 4096;
	l.len = XVM_HALF_CTL + XVM_RING_MIN;
	if (l.type == XVM_LETTER_ADDR && !(peer & 64))
		give_tap(i);
	write_letter(i, &l);
}

static void scribble(int i, struct input *in)
{
	uint8_t *arena = g->region.map + xvm_region_arena(&g->region, guest[i].vm->peer);
	size_t at = byte(in) << 8 | byte(in);
	uint64_t v = byte(in);

	if (at & 1)
		v = ~v;
	at = at & 2 ? at % 128 : at % sizeof(struct xvm_shm_box);
	*(uint64_t *)(arena + at / 8 * 8) = v;
	xvm_fd_ring(guest[i].vm->bell);
}

static void read_all(int i)
{
	struct xvm_letter l;
	int k;

	for (k = 0; k < 200 && xvm_mailbox_get(&guest[i].box, &l) != -EAGAIN; k++)
		;
	if (xvm_mailbox_done(&guest[i].box))
		xvm_fd_ring(guest[i].vm->bell);
}

static void program_come(void)
{
	struct xvm_msg m = {.type = XVM_MSG_HELLO, .arg = XVM_PROTO_VERSION, .pid = getpid()};
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv))
		abort();
	program.sock = sv[0];
	program.shm = xvm_arena_create(&program.arena);
	if (!program.shm || !xvm_conn_new(&d, sv[1], getpid(), 0))
		abort();
	xvm_proto_send(program.sock, &m, &program.arena, 1);
}

static void program_go(void)
{
	if (program.sock < 0)
		return;
	close(program.sock);
	close(program.arena);
	xvm_arena_close(program.shm);
	program.sock = -1;
	step();
}

static void program_read(void)
{
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS], i;

	while (!xvm_proto_recv(program.sock, &m, fds, MSG_DONTWAIT))
		for (i = 0; i < m.nfds; i++)
			close(fds[i]);
}

/* What it says, and of which piece: one of those that it could have. */
static void program_act(struct input *in)
{
	static const uint32_t types[] = {XVM_MSG_LEASE,	  XVM_MSG_LEASE, XVM_MSG_OFFER,
					 XVM_MSG_OFFER,	  XVM_MSG_LEASE, XVM_MSG_UNPAIR,
					 XVM_MSG_WITHDRAW};
	uint8_t b = byte(in);
	struct xvm_msg m = {.type = types[b % 7], .slot = b >> 4 & 1, .gen = 1};

	if (program.sock < 0) {
		program_come();
		return;
	}
	if (b == 0xff) {
		program_go();
		return;
	}
	m.region = g->index;
	m.len = XVM_HALF_CTL + XVM_RING_MIN;
	m.off = g->region.lease_off + (uint64_t)(b >> 5) * m.len;
	if (m.type == XVM_MSG_OFFER)
		m.arg = XVM_ROLE_ACTIVE;
	xvm_proto_send(program.sock, &m, &program.tcp, m.type == XVM_MSG_OFFER && program.tcp >= 0);
	program_read();
}

static void nothing_is_left(void)
{
	struct xvm_list *n, *t;
	uint32_t i, places = 0, vms = 0, numbers = 0;

	for (i = 0; i < 4; i++)
		step();
	for (i = 1; i < g->region.peers; i++) {
		vms += g->vm[i] != NULL;
		numbers += g->peer_vector[i] != NULL;
	}
	for (XVM_EACH(n, t, &d.residency.all))
		places++;
	if (vms || g->n_vms || d.pairing.count || xvm_pairs_count(&d) || places != 1 ||
	    g->book.lent || d.n_conns ||
	    d.fds != 1 + g->region.vectors + 4 + numbers * g->region.vectors) {
		fprintf(stderr, "left: %u VMs, %u offers, %u pairs, %u places, %u fds\n", vms,
			d.pairing.count, xvm_pairs_count(&d), places, d.fds);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	uint8_t op;
	int i;

	while (in.left) {
		op = byte(&in);
		i = (op >> 3 & 7) % VMS;
		if (!alive(i))
			come(i);
		if (guest[i].vm) {
			switch (op & 7) {
			case 0:
				go(i);
				break;
			case 1:
				scribble(i, &in);
				break;
			case 2:
				read_all(i);
				break;
			case 3:
				if (op & 0x80)
					program_act(&in);
				else if (byte(&in) & 1)
					send(guest[i].sock, "x", 1, MSG_NOSIGNAL);
				else
					xvm_mailbox_resume(&guest[i].box, guest[i].box.mine,
							   guest[i].box.theirs, false);
				break;
			default:
				letter(i, &in);
			}
		}
		if (op & 0x40 || (op & 0x87) == 0x83) {
			step();
			step();
		}
	}
	for (i = 0; i < VMS; i++)
		if (alive(i))
			go(i);
	program_go();
	nothing_is_left();
	return 0;
}
