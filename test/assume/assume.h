/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of facts, and TCP connections to check them on. Each fact is tried on all kinds of
 * connections that xvm meets. */
#ifndef XVM_TEST_ASSUME_H
#define XVM_TEST_ASSUME_H

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned assume_failed;
static const char *assume_where = "";

#define ASSUME(cond, ...)                                                                          \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("%s:%d: %s: not so: %s: ", __FILE__, __LINE__, assume_where,        \
			       #cond);                                                             \
			printf(__VA_ARGS__);                                                       \
			putchar('\n');                                                             \
			assume_failed++;                                                           \
		}                                                                                  \
	} while (0)

/* What a test needs to go on at all. */
#define NEED(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("%s:%d: %s: %s: %s\n", __FILE__, __LINE__, assume_where, #cond,     \
			       strerror(errno));                                                   \
			exit(1);                                                                   \
		}                                                                                  \
	} while (0)

static inline int assume_end(void)
{
	printf("%u facts are not as assumed\n", assume_failed);
	return assume_failed != 0;
}

struct assume_pair {
	int active, passive;
};

enum assume_kind { ASSUME_V4, ASSUME_V6, ASSUME_MAPPED, ASSUME_DEFERRED, ASSUME_KINDS };

static const char *const assume_names[] = {"v4", "v6", "v4 at one end, v4-mapped at the other",
					   "v4, accepted after data came"};

/* A connection over loopback. */
static inline struct assume_pair assume_connect(enum assume_kind kind)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6}, to6;
	struct sockaddr_in to4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(any);
	int ls = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), zero = 0;
	struct assume_pair p;

	assume_where = assume_names[kind];
	NEED(ls >= 0);
	NEED(!setsockopt(ls, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)));
	if (kind != ASSUME_V4 && kind != ASSUME_DEFERRED) {
		NEED(!bind(ls, (struct sockaddr *)&any, sizeof(any)));
		NEED(!listen(ls, 8));
		NEED(!getsockname(ls, (struct sockaddr *)&any, &len));
		to4.sin_port = any.sin6_port;
	} else {
		close(ls);
		ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		len = sizeof(to4);
		NEED(ls >= 0 && !bind(ls, (struct sockaddr *)&to4, sizeof(to4)));
		NEED(!listen(ls, 8));
		NEED(!getsockname(ls, (struct sockaddr *)&to4, &len));
	}
	if (kind == ASSUME_V6) {
		to6 = any;
		to6.sin6_addr = in6addr_loopback;
		p.active = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
		NEED(p.active >= 0 && !connect(p.active, (struct sockaddr *)&to6, sizeof(to6)));
	} else {
		p.active = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		NEED(p.active >= 0 && !connect(p.active, (struct sockaddr *)&to4, sizeof(to4)));
	}
	if (kind == ASSUME_DEFERRED) {
		/* Five bytes are on their way before anybody accepts. */
		NEED(send(p.active, "early", 5, 0) == 5);
	}
	p.passive = accept4(ls, NULL, NULL, SOCK_CLOEXEC);
	NEED(p.passive >= 0);
	close(ls);
	return p;
}

static inline void assume_close(struct assume_pair p)
{
	close(p.active);
	close(p.passive);
}

/* Wait, a second at most, for an event; what came. */
static inline short assume_poll(int fd, short events, int ms)
{
	struct pollfd p = {fd, events, 0};

	NEED(poll(&p, 1, ms) >= 0);
	return p.revents;
}

#endif
