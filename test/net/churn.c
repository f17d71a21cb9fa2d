/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens and closes connections: what is left of them afterwards?
 *
 *   churn serve ADDR PORT             an echo server, one thread, epoll
 *   churn connect ADDR PORT N SEED    for each line on stdin: open N connections and close them
 *
 * Of the connections some carry one request, some many (long enough to be paired), some nothing,
 * and they end in every way: closed by the client, by the server (on request), reset, with unread
 * input. The client says "round K ok" after each line and ends at the end of stdin.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LIVE 16 /* connections open at a time */
#define BUF 8192

static void die(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(2);
}

static struct addrinfo *resolve(const char *addr, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *ai;

	if (getaddrinfo(addr, port, &hints, &ai)) {
		fprintf(stderr, "churn: bad address %s port %s\n", addr, port);
		exit(2);
	}
	return ai;
}

/* ---- server ---- */

static void echo(int fd)
{
	static char buf[BUF];
	ssize_t n = recv(fd, buf, sizeof(buf), 0);

	if (n <= 0 || buf[0] == 'Q') { /* 'Q': hang up without a word */
		close(fd);
		return;
	}
	for (ssize_t done = 0; done < n;) {
		ssize_t k = send(fd, buf + done, (size_t)(n - done), MSG_NOSIGNAL);

		if (k < 0) {
			close(fd);
			return;
		}
		done += k;
	}
}

static _Noreturn void serve(const char *addr, const char *port)
{
	struct addrinfo *ai = resolve(addr, port);
	struct epoll_event ev = {.events = EPOLLIN}, got[64];
	int ls = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ep = epoll_create1(EPOLL_CLOEXEC);
	int one = 1;

	setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ls < 0 || ep < 0 || bind(ls, ai->ai_addr, ai->ai_addrlen) < 0 || listen(ls, 1024) < 0)
		die("listen");
	freeaddrinfo(ai);
	ev.data.fd = ls;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, ls, &ev) < 0)
		die("epoll_ctl");
	printf("listening\n");
	for (;;) {
		int n = epoll_wait(ep, got, 64, -1);

		if (n < 0)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			if (got[i].data.fd != ls) {
				echo(got[i].data.fd);
				continue;
			}
			ev.data.fd = accept4(ls, NULL, NULL, SOCK_CLOEXEC);
			if (ev.data.fd < 0)
				die("accept");
			if (epoll_ctl(ep, EPOLL_CTL_ADD, ev.data.fd, &ev) < 0)
				die("epoll_ctl");
		}
	}
}

/* ---- client ---- */

static uint64_t seed;

static unsigned rnd(unsigned n)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(seed >> 33) % n;
}

static void ask(int fd, size_t n)
{
	static char out[BUF], in[BUF];

	for (size_t i = 0; i < n; i++)
		out[i] = (char)('a' + rnd(20));
	if (send(fd, out, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("send");
	for (size_t done = 0; done < n;) {
		ssize_t k = recv(fd, in + done, n - done, 0);

		if (k <= 0)
			die("recv");
		done += (size_t)k;
	}
	if (memcmp(in, out, n)) {
		fprintf(stderr, "churn: the echo differs\n");
		exit(1);
	}
}

static void end(int fd)
{
	char c;

	switch (rnd(4)) {
	case 0: /* reset */
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0},
			   sizeof(struct linger));
		break;
	case 1: /* the server closes first */
		if (send(fd, "Q", 1, MSG_NOSIGNAL) != 1 || recv(fd, &c, 1, 0) != 0)
			die("no end of file after Q");
		break;
	case 2: /* unread input, which resets too */
		if (send(fd, "unread", 6, MSG_NOSIGNAL) != 6)
			die("send");
		if (poll(&(struct pollfd){fd, POLLIN, 0}, 1, 10000) != 1)
			die("no answer");
		break;
	}
	close(fd);
}

static void one_round(const struct addrinfo *ai, unsigned n)
{
	int fds[LIVE];
	unsigned opened = 0;

	memset(fds, -1, sizeof(fds));
	while (opened < n) {
		unsigned i = rnd(LIVE);

		if (fds[i] >= 0) {
			end(fds[i]);
			fds[i] = -1;
		}
		fds[i] = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fds[i] < 0 || connect(fds[i], ai->ai_addr, ai->ai_addrlen) < 0)
			die("connect");
		opened++;
		/* None, one, or many requests; and some more on one that is open already. */
		for (unsigned k = (unsigned[]){0, 1, 1, 60}[rnd(4)]; k; k--)
			ask(fds[i], 1 + rnd(rnd(2) ? 64 : BUF - 1));
		i = rnd(LIVE);
		if (fds[i] >= 0)
			ask(fds[i], 1 + rnd(64));
	}
	for (unsigned i = 0; i < LIVE; i++)
		if (fds[i] >= 0)
			end(fds[i]);
}

int main(int argc, char **argv)
{
	struct addrinfo *ai;
	char line[64];

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 4 && !strcmp(argv[1], "serve"))
		serve(argv[2], argv[3]);
	if (argc != 6 || strcmp(argv[1], "connect") != 0) {
		fprintf(stderr, "usage: churn serve ADDR PORT | churn connect ADDR PORT N SEED\n");
		return 2;
	}
	ai = resolve(argv[2], argv[3]);
	seed = strtoull(argv[5], NULL, 0);
	for (unsigned k = 1; fgets(line, sizeof(line), stdin); k++) {
		one_round(ai, (unsigned)atoi(argv[4]));
		printf("round %u ok\n", k);
	}
	freeaddrinfo(ai);
	return 0;
}
