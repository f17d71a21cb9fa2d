/* SPDX-License-Identifier: Apache-2.0 */
#include "test/unit/detect_clients.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "detect/client.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "transport/arena.h"

struct xvm_daemon d;

void step(void)
{
	int i;

	for (i = 0; i < 4; i++)
		ev_run(d.loop, EVRUN_NOWAIT);
}

void setup(void)
{
	char err[64];

	xvm_log_level(LOG_CRIT);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_fd_init(), 0);
	cr_assert_eq(xvm_daemon_init(&d), 0);
	step();
}

void teardown(void)
{
	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
}

int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

struct xvm_msg get_fds(struct client *c, int *fds)
{
	struct xvm_msg m;

	step();
	cr_assert_eq(xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT), 0, "no message");
	return m;
}

struct xvm_msg get(struct client *c)
{
	int i, fds[XVM_PROTO_FDS];
	struct xvm_msg m = get_fds(c, fds);

	for (i = 0; i < m.nfds; i++)
		close(fds[i]);
	return m;
}

struct xvm_msg verdict(struct client *c)
{
	struct xvm_msg m;

	do {
		m = get(c);
	} while (m.type != XVM_MSG_PAIRED && m.type != XVM_MSG_REFUSED);
	return m;
}

void nothing(struct client *c)
{
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS];

	step();
	cr_assert_eq(xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT), -EAGAIN, "type %u", m.type);
}

bool dropped(struct client *c)
{
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS], ret;

	step();
	do {
		ret = xvm_proto_recv(c->sock, &m, fds, MSG_DONTWAIT);
	} while (!ret);
	return ret == -EPIPE || ret == -ECONNRESET;
}

void connect_as(struct client *c, uid_t uid)
{
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	c->sock = sv[0];
	c->arena = -1;
	cr_assert_not_null(xvm_conn_new(&d, sv[1], getpid(), uid));
}

void say(struct client *c, struct xvm_msg m, const int *fds, int n)
{
	cr_assert_eq(xvm_proto_send(c->sock, &m, fds, n), 0);
}

void hello(struct client *c)
{
	struct xvm_msg m;

	say(c, (struct xvm_msg){.type = XVM_MSG_HELLO, .arg = 1, .pid = getpid()}, &c->arena,
	    c->arena >= 0);
	m = get(c);
	cr_assert_eq(m.type, XVM_MSG_WELCOME);
	c->id = m.arg2;
}

struct client program(void)
{
	struct client c;

	connect_as(&c, getuid());
	c.shm = xvm_arena_create(&c.arena);
	cr_assert_not_null(c.shm);
	hello(&c);
	return c;
}

struct client tool(uid_t uid)
{
	struct client c;

	connect_as(&c, uid);
	hello(&c);
	return c;
}

void hang_up(struct client *c)
{
	close(c->sock);
	if (c->arena >= 0)
		close(c->arena);
	step();
}

void tcp(int fam, const char *addr, int end[2])
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	struct sockaddr *sa = fam == AF_INET ? (void *)&in : (void *)&in6;
	socklen_t len = fam == AF_INET ? sizeof(in) : sizeof(in6);
	int l = socket(fam, SOCK_STREAM, 0);

	inet_pton(fam, addr, fam == AF_INET ? (void *)&in.sin_addr : (void *)&in6.sin6_addr);
	cr_assert_eq(bind(l, sa, len), 0);
	cr_assert_eq(listen(l, 8), 0);
	getsockname(l, sa, &len);
	end[0] = socket(fam, SOCK_STREAM, 0);
	cr_assert_eq(connect(end[0], sa, len), 0);
	end[1] = accept(l, NULL, NULL);
	cr_assert(end[1] >= 0);
	close(l);
}

void offer(struct client *c, int sock, uint32_t slot, uint32_t role, const char *mark)
{
	int fds[2] = {sock, memfd_create(mark, MFD_ALLOW_SEALING)};

	cr_assert_eq(write(fds[1], mark, strlen(mark)), (ssize_t)strlen(mark));
	say(c, (struct xvm_msg){.type = XVM_MSG_OFFER, .slot = slot, .gen = 1, .arg = role}, fds,
	    2);
	close(fds[1]);
}

void expect_pair(struct client *c, uint32_t slot, uint32_t role, uint32_t peer, const char *mark)
{
	char text[16] = "";
	int fds[XVM_PROTO_FDS];
	struct xvm_msg m;

	do {
		m = get_fds(c, fds);
		if (m.type != XVM_MSG_PAIRED && m.nfds)
			close(fds[0]);
	} while (m.type != XVM_MSG_PAIRED);
	cr_assert_eq(m.slot, slot);
	cr_assert_eq(m.gen, 1);
	cr_assert_eq(m.arg, role);
	cr_assert_eq(m.arg2, peer);
	cr_assert_eq(m.nfds, 1);
	cr_assert(pread(fds[0], text, sizeof(text) - 1, 0) > 0);
	cr_assert_str_eq(text, mark);
	close(fds[0]);
}
