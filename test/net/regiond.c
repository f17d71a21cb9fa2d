/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon to whom each of its clients is a virtual machine: all of them share a region, in a
 * memfd, and are told of it as REGION.md says. So the shim's part in that is tried without a
 * machine.
 *
 *   regiond PATH ADDR... [novectors] [dry] [machines] [huge] [dies]     ADDR: what lives in
 * another machine
 *
 * novectors: no interrupts, all sleep by pad. dry: no client gets more than one piece. machines:
 * those in one network namespace are in one machine, which has one vector: the next gets it when
 * its owner has gone. huge: the region is in huge pages. dies: to who offers first, the other is
 * dead as soon as it has offered too. On SIGUSR1 the first client's device is to be unplugged: it
 * is told so until it has unpaired all.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "detect/client.h"
#include "detect/table.h"

#define CLIENTS 64
#define VECTORS 2u /* of each */
#define REGION (64ull << 20)

struct offer {
	struct sockaddr_storage l, r;
	unsigned client;
	uint32_t slot, gen, role;
	uint64_t off, len;
	bool used;
	int fd; /* the socket, if dies */
};

static struct pollfd fds[CLIENTS + 1];
static unsigned nclients;
static unsigned machine[CLIENTS]; /* of a client */
static ino_t netns[CLIENTS];	  /* of a machine */
static int vector[CLIENTS][VECTORS], owner[CLIENTS];
static struct offer offers[4096];
static struct xvm_shm_table *table;
static int table_fd, region_fd;
static uint64_t next_piece;
static unsigned leased[CLIENTS];
static bool vectors = true, dry, machines, huge, dies;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static int make(const char *name, size_t len, unsigned flags, void **map)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);

	if (fd < 0 || ftruncate(fd, (off_t)len) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
		die(name);
	*map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (*map == MAP_FAILED)
		die(name);
	return fd;
}

static void resident(const char *text)
{
	struct sockaddr_in6 sa6 = {.sin6_family = AF_INET6};
	struct sockaddr_in sa4 = {.sin_family = AF_INET};
	uint8_t addr[16];
	uint16_t port;
	uint32_t i;

	if (inet_pton(AF_INET, text, &sa4.sin_addr) == 1)
		xvm_client_addr((struct sockaddr *)&sa4, sizeof(sa4), addr, &port);
	else if (inet_pton(AF_INET6, text, &sa6.sin6_addr) == 1)
		xvm_client_addr((struct sockaddr *)&sa6, sizeof(sa6), addr, &port);
	else
		die(text);
	for (i = xvm_table_slot(addr); table->res[i].flags; i = (i + 1) % XVM_RES_SLOTS)
		;
	memcpy(table->res[i].addr, addr, 16);
	table->res[i].flags = XVM_RES_USED | XVM_RES_IN_REGION(0);
	atomic_fetch_add(&table->count, 1);
}

static void say(unsigned c, const struct xvm_msg *m, const int *f, int n)
{
	atomic_fetch_add(&table->mail[c], 1);
	if (xvm_proto_send(fds[c].fd, m, f, n))
		fprintf(stderr, "client %u does not listen\n", c);
}

/* Its machine's number; all of them are numbered from 0, and there are as many as clients at most.
 */
static unsigned find_machine(unsigned c)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	char path[40];
	struct stat st;
	unsigned m;

	if (!machines)
		return c;
	if (getsockopt(fds[c].fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		die("credentials");
	snprintf(path, sizeof(path), "/proc/%d/ns/net", cred.pid);
	if (stat(path, &st))
		die(path);
	for (m = 0; m < c && netns[m] && netns[m] != st.st_ino; m++)
		;
	netns[m] = st.st_ino;
	return m;
}

/* Client c learns how to ring machine m. */
static void tell_vectors(unsigned c, unsigned m)
{
	struct xvm_msg msg = {.type = XVM_MSG_PEER_VECTOR, .arg2 = m};

	for (unsigned v = 0; v < VECTORS; v++) {
		msg.arg = v + 1;
		say(c, &msg, &vector[m][v], 1);
	}
}

static void give_vectors(unsigned c)
{
	struct xvm_msg msg = {.type = XVM_MSG_VECTOR};

	for (unsigned v = 0; v < (machines ? 1 : VECTORS); v++) {
		msg.arg = v + 1;
		say(c, &msg, &vector[machine[c]][v], 1);
	}
	owner[machine[c]] = (int)c;
}

static void welcome(unsigned c)
{
	struct xvm_msg m = {.type = XVM_MSG_WELCOME, .arg = XVM_PROTO_VERSION, .arg2 = c};
	unsigned mine = machine[c] = find_machine(c);
	bool fresh = !vector[mine][0];

	m.arg64 = atomic_load(&table->mail[c]) + 1;
	say(c, &m, &table_fd, 1);
	m = (struct xvm_msg){.type = XVM_MSG_REGION, .len = REGION, .arg = mine};
	say(c, &m, &region_fd, 1);
	if (!vectors)
		return;
	for (unsigned v = 0; fresh && v < VECTORS; v++)
		vector[mine][v] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fresh || owner[mine] < 0)
		give_vectors(c);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (vector[i][0] && (i != mine || !machines))
			tell_vectors(c, i);
	for (unsigned i = 0; fresh && i < nclients; i++)
		if (fds[i].fd >= 0 && i != c && machine[i] != mine)
			tell_vectors(i, mine);
}

static void lease(unsigned c, const struct xvm_msg *in)
{
	struct xvm_msg m = {.type = XVM_MSG_PIECE};

	if (!dry || !leased[c]++) {
		m.off = next_piece;
		m.len = in->len;
		next_piece += in->len;
	}
	if (next_piece > REGION)
		next_piece = 0, m.len = 0;
	say(c, &m, NULL, 0);
}

static void paired(const struct offer *o, uint32_t role, const struct offer *peer)
{
	struct xvm_msg m = {.type = XVM_MSG_PAIRED,
			    .slot = o->slot,
			    .gen = o->gen,
			    .arg = role,
			    .arg2 = machine[peer->client],
			    .off = peer->off,
			    .len = peer->len};

	say(o->client, &m, NULL, 0);
}

/* As xvmd does, for p: PEER_DEAD, then its socket is dissolved. */
static void dead(const struct offer *p)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	struct xvm_msg m = {.type = XVM_MSG_PEER_DEAD, .slot = p->slot, .gen = p->gen};

	say(p->client, &m, NULL, 0);
	if (connect(p->fd, &nowhere, sizeof(nowhere)))
		die("dissolve");
}

static void offer(unsigned c, const struct xvm_msg *in, int fd)
{
	struct xvm_msg m = {.type = XVM_MSG_SEEN, .slot = in->slot, .gen = in->gen};
	struct offer o = {.client = c,
			  .slot = in->slot,
			  .gen = in->gen,
			  .role = in->arg,
			  .off = in->off,
			  .len = in->len,
			  .used = true};
	socklen_t ll = sizeof(o.l), rl = sizeof(o.r);
	bool ok = !getsockname(fd, (struct sockaddr *)&o.l, &ll) &&
		  !getpeername(fd, (struct sockaddr *)&o.r, &rl);
	unsigned i;

	say(c, &m, NULL, 0);
	o.fd = fd;
	if (!ok || !in->len)
		die("an offer without a piece");
	for (i = 0; i < sizeof(offers) / sizeof(offers[0]); i++) {
		struct offer *p = &offers[i];

		if (!p->used || memcmp(&p->l, &o.r, rl) || memcmp(&p->r, &o.l, ll))
			continue;
		p->used = false;
		paired(p, p->role, &o);
		paired(&o, o.role, p);
		if (dies)
			dead(p);
		close(p->fd);
		close(o.fd);
		return;
	}
	for (i = 0; offers[i].used; i = (i + 1) % (sizeof(offers) / sizeof(offers[0])))
		;
	offers[i] = o;
}

static volatile sig_atomic_t unplug;

static void on_usr1(int sig)
{
	unplug = 1;
}

static void say_unplug(void)
{
	static int times;
	struct xvm_msg m = {.type = XVM_MSG_UNPLUG, .arg = ++times > 40};
	uint64_t one = 1;

	say(0, &m, NULL, 0);
	for (unsigned v = 0; vectors && v < VECTORS; v++)
		if (write(vector[0][v], &one, sizeof(one)) < 0)
			die("ring");
}

static void message(unsigned c)
{
	struct xvm_msg m;
	int f[XVM_PROTO_FDS], r = xvm_proto_recv(fds[c].fd, &m, f, MSG_DONTWAIT);

	if (r == -EAGAIN)
		return;
	if (r < 0) {
		close(fds[c].fd);
		fds[c].fd = -1;
		if (owner[machine[c]] == (int)c)
			owner[machine[c]] = -1;
		return;
	}
	switch (m.type) {
	case XVM_MSG_HELLO:
		welcome(c);
		break;
	case XVM_MSG_LEASE:
		lease(c, &m);
		break;
	case XVM_MSG_UNPAIR:
		if (c == 0 && unplug)
			printf("unpaired\n"), fflush(stdout);
		break;
	case XVM_MSG_OFFER:
		offer(c, &m, f[0]);
		f[0] = -1;
		break;
	default:
		break;
	}
	for (int i = 0; i < XVM_PROTO_FDS; i++)
		if (f[i] >= 0)
			close(f[i]);
}

int main(int argc, char **argv)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct pollfd *listener = &fds[CLIENTS];
	void *map;

	if (argc < 3 || strlen(argv[1]) >= sizeof(sun.sun_path)) {
		fprintf(stderr, "usage: regiond PATH ADDR... [novectors] [dry] [machines] [huge] "
				"[dies]\n");
		return 2;
	}
	table_fd = make("table", sizeof(*table), 0, &map);
	table = map;
	table->version = XVM_ABI_VERSION;
	table->size = sizeof(*table);
	table->magic = XVM_TABLE_MAGIC;
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "novectors"))
			vectors = false;
		else if (!strcmp(argv[i], "machines"))
			machines = true;
		else if (!strcmp(argv[i], "dry"))
			dry = true;
		else if (!strcmp(argv[i], "huge"))
			huge = true;
		else if (!strcmp(argv[i], "dies"))
			dies = true;
		else
			resident(argv[i]);
	}
	signal(SIGUSR1, on_usr1);
	region_fd = make("region", REGION, huge ? MFD_HUGETLB : 0, &map);
	memcpy(sun.sun_path, argv[1], strlen(argv[1]));
	unlink(argv[1]);
	for (unsigned i = 0; i < CLIENTS; i++)
		fds[i] = (struct pollfd){.fd = -1, .events = POLLIN};
	*listener = (struct pollfd){.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0),
				    .events = POLLIN};
	if (listener->fd < 0 || bind(listener->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    listen(listener->fd, 128) < 0)
		die("regiond");
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		int r = poll(fds, CLIENTS + 1, unplug ? 50 : -1);

		if (unplug && fds[0].fd >= 0)
			say_unplug();
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			die("poll");
		for (unsigned i = 0; i < nclients; i++)
			if (fds[i].revents)
				message(i);
		if (listener->revents && nclients < CLIENTS) {
			fds[nclients].fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
			fds[nclients].revents = 0;
			nclients++;
		}
	}
}
