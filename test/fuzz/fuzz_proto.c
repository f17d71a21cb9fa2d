/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon, with clients that send anything in any order: connect, hang up, messages with
 * fields and descriptors that may or may not fit, packets that are no messages. Whatever they
 * do, nothing of them is left once they have gone.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/pairs.h"
#include "transport/arena.h"

#define CLIENTS 6
#define ENDS 8

static struct xvm_daemon d;
static int end[ENDS], event, null, pipes[2];

struct input {
	const uint8_t *at;
	size_t left;
};

static struct client {
	int sock, arena;
	struct xvm_shm_arena *shm;
} client[CLIENTS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static uint8_t byte(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static void make_ends(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int i, l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (void *)&sa, len) || listen(l, 8) || getsockname(l, (void *)&sa, &len))
		abort();
	for (i = 0; i < ENDS; i += 2) {
		end[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(end[i], (void *)&sa, sizeof(sa)))
			abort();
		end[i + 1] = accept(l, NULL, NULL);
	}
	close(l);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char err[64];

	xvm_log_level(LOG_EMERG);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("pair deny port 1\n", 17, "", err, sizeof(err));
	if (xvm_fd_init() || xvm_daemon_init(&d))
		abort();
	make_ends();
	event = eventfd(0, EFD_NONBLOCK);
	null = open("/dev/null", O_RDWR);
	if (pipe(pipes))
		abort();
	return 0;
}

static void step(void)
{
	ev_run(d.loop, EVRUN_NOWAIT);
}

static void come(struct client *c, int kind)
{
	int sv[2];

	if (c->sock >= 0)
		return;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv))
		abort();
	c->sock = sv[0];
	c->arena = -1;
	if (kind & 1)
		c->shm = xvm_arena_create(&c->arena);
	if (!xvm_conn_new(&d, sv[1], getpid(), kind & 2 ? 0 : 4242))
		abort();
	if (kind & 4)
		return;
	xvm_proto_send(c->sock, &(struct xvm_msg){.type = XVM_MSG_HELLO, .arg = 1, .pid = 1},
		       &c->arena, c->arena >= 0);
}

static void go(struct client *c)
{
	if (c->sock < 0)
		return;
	close(c->sock);
	c->sock = -1;
	if (c->arena >= 0) {
		close(c->arena);
		xvm_arena_close(c->shm);
	}
	c->arena = -1;
}

static void read_all(struct client *c)
{
	int i, fds[XVM_PROTO_FDS];
	struct xvm_msg m;

	while (c->sock >= 0 && !xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT))
		for (i = 0; i < m.nfds; i++)
			close(fds[i]);
}

static int pick_fd(uint8_t b, const struct client *c)
{
	switch (b % 16) {
	case 0 ... 7:
		return end[b % 8];
	case 8:
		return event;
	case 9:
		return null;
	case 10:
		return pipes[b / 16 & 1];
	case 11:
		return c->sock;
	case 12:
		return d.table_fd;
	default:
		return c->arena >= 0 ? c->arena : d.table_fd;
	}
}

static void message(struct client *c, struct input *in, uint8_t kind)
{
	struct xvm_msg m = {.type = byte(in) % 80, .slot = byte(in), .gen = byte(in) & 1};
	int fds[2], n = kind % 3;

	m.arg = byte(in);
	m.arg2 = m.arg & 1;
	m.pid = kind & 8 ? -1 : getpid();
	if (kind & 16)
		m.slot = m.slot << 24 | m.slot << 8;
	fds[0] = n > 0 ? pick_fd(byte(in), c) : -1;
	fds[1] = n > 1 ? pick_fd(byte(in), c) : -1;
	if (c->sock >= 0)
		xvm_proto_send(c->sock, &m, fds, n);
}

static void packet(struct client *c, struct input *in)
{
	size_t n = byte(in) * 2;

	if (n > in->left)
		n = in->left;
	if (c->sock >= 0)
		send(c->sock, in->at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	in->at += n;
	in->left -= n;
}

/* An arena that its owner scribbles over. */
static void scribble(struct client *c, struct input *in)
{
	size_t at = byte(in) << 8 | byte(in);

	if (c->sock >= 0 && c->arena >= 0)
		((uint8_t *)c->shm)[at % (sizeof(*c->shm) + 4096)] = byte(in);
}

static void nothing_is_left(void)
{
	int i;

	for (i = 0; i < 3; i++)
		step();
	/* The namespace's own netlink socket is the one that stays. */
	if (d.n_conns || d.n_programs || d.pairing.count || xvm_pairs_count(&d) || d.fds != 1 ||
	    !xvm_list_empty(&d.arenas) || !xvm_list_empty(&d.users) || !xvm_list_empty(&d.dead) ||
	    d.netns.count != 1) {
		fprintf(stderr, "left: %u connections, %u programs, %u offers, %u pairs, %u fds\n",
			d.n_conns, d.n_programs, d.pairing.count, xvm_pairs_count(&d), d.fds);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct client *c;
	uint8_t op;
	int i;

	for (i = 0; i < CLIENTS; i++)
		client[i].sock = client[i].arena = -1;
	while (in.left) {
		op = byte(&in);
		c = &client[(op >> 3) % CLIENTS];
		switch (op & 7) {
		case 0:
			come(c, byte(&in));
			break;
		case 1:
			go(c);
			break;
		case 2:
			packet(c, &in);
			break;
		case 3:
			read_all(c);
			break;
		case 4:
			scribble(c, &in);
			break;
		default:
			message(c, &in, byte(&in));
		}
		if (op & 0x40)
			step();
	}
	step();
	for (i = 0; i < CLIENTS; i++)
		go(&client[i]);
	nothing_is_left();
	return 0;
}
