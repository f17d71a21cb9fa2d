/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What identifies a socket (design section 7): SO_COOKIE is the same through every descriptor, dup
 * and fork, differs between sockets, and belongs to the socket, not to the connection;
 * SO_NETNS_COOKIE differs between namespaces; addresses are read through a descriptor that another
 * process sent; SO_PROTOCOL and SO_DOMAIN tell TCP from what only looks like it (MPTCP, SMC, Unix).
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/wait.h>

#include "assume.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static uint64_t cookie(int fd, int what)
{
	uint64_t v = 0;
	socklen_t len = sizeof(v);

	NEED(!getsockopt(fd, SOL_SOCKET, what, &v, &len) && len == 8);
	return v;
}

static int number(int fd, int what)
{
	int v = -1;
	socklen_t len = sizeof(v);

	NEED(!getsockopt(fd, SOL_SOCKET, what, &v, &len));
	return v;
}

static void cookies(enum assume_kind k)
{
	struct assume_pair p = assume_connect(k);
	uint64_t a = cookie(p.active, SO_COOKIE), b = cookie(p.passive, SO_COOKIE);
	int d = dup(p.active), status;
	pid_t pid;

	ASSUME(a && b && a != b, "%llx %llx", (unsigned long long)a, (unsigned long long)b);
	ASSUME(cookie(d, SO_COOKIE) == a, "a dup has another");
	ASSUME(cookie(p.active, SO_NETNS_COOKIE) == cookie(p.passive, SO_NETNS_COOKIE),
	       "one namespace");
	ASSUME(cookie(p.active, SO_NETNS_COOKIE) != 0, "none");
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0)
		_exit(cookie(p.active, SO_COOKIE) != a);
	NEED(waitpid(pid, &status, 0) == pid);
	ASSUME(status == 0, "a fork sees another");
	ASSUME(number(p.active, SO_PROTOCOL) == IPPROTO_TCP, "%d", number(p.active, SO_PROTOCOL));
	ASSUME(number(p.passive, SO_PROTOCOL) == IPPROTO_TCP, "%d", number(p.passive, SO_PROTOCOL));
	ASSUME(number(p.active, SO_TYPE) == SOCK_STREAM, "%d", number(p.active, SO_TYPE));
	close(d);
	assume_close(p);
}

/* Mirrored 4-tuples match once v4 is written as v4-mapped. */
static void put16(const struct sockaddr_in6 *sa, uint8_t addr[16], uint16_t *port)
{
	const struct sockaddr_in *s4 = (const struct sockaddr_in *)sa;

	if (sa->sin6_family == AF_INET6) {
		memcpy(addr, &sa->sin6_addr, 16);
	} else {
		memset(addr, 0, 10);
		memset(addr + 10, 0xff, 2);
		memcpy(addr + 12, &s4->sin_addr, 4);
	}
	*port = ntohs(sa->sin6_port);
}

static void tuples(enum assume_kind k)
{
	struct assume_pair p = assume_connect(k);
	struct sockaddr_in6 sa[4];
	uint8_t addr[4][16];
	uint16_t port[4];

	for (int i = 0; i < 4; i++) {
		socklen_t len = sizeof(sa[i]);

		memset(&sa[i], 0, len);
		NEED(!(i & 1 ? getpeername : getsockname)(i & 2 ? p.passive : p.active,
							  (struct sockaddr *)&sa[i], &len));
		put16(&sa[i], addr[i], &port[i]);
	}
	ASSUME(!memcmp(addr[0], addr[3], 16) && port[0] == port[3],
	       "active's own is not passive's peer");
	ASSUME(!memcmp(addr[1], addr[2], 16) && port[1] == port[2],
	       "active's peer is not passive's own");
	assume_close(p);
}

static void namespaces(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), status;
	uint64_t here = cookie(fd, SO_NETNS_COOKIE);
	pid_t pid;

	assume_where = "namespaces";
	if (geteuid() != 0) {
		printf("not root: namespaces are not tried\n");
		close(fd);
		return;
	}
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		int other;

		if (unshare(CLONE_NEWNET))
			_exit(2);
		other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		/* The old socket stays where it was made. */
		_exit(cookie(other, SO_NETNS_COOKIE) == here ||
		      cookie(fd, SO_NETNS_COOKIE) != here);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	ASSUME(WEXITSTATUS(status) == 0, "%d", WEXITSTATUS(status));
	close(fd);
}

/* Who sends an offer is known from the kernel. */
static void peercred(void)
{
	int sp[2];
	struct ucred c = {0};
	socklen_t len = sizeof(c);

	assume_where = "SO_PEERCRED";
	NEED(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sp));
	NEED(!getsockopt(sp[0], SOL_SOCKET, SO_PEERCRED, &c, &len));
	ASSUME(c.pid == getpid() && c.uid == geteuid(), "%d %u", c.pid, c.uid);
	ASSUME(number(sp[0], SO_DOMAIN) == AF_UNIX, "%d", number(sp[0], SO_DOMAIN));
	close(sp[0]);
	close(sp[1]);
}

int main(void)
{
	for (enum assume_kind k = 0; k < ASSUME_KINDS; k++) {
		cookies(k);
		tuples(k);
	}
	namespaces();
	peercred();
	return assume_end();
}
