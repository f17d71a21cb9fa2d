/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls in any order on a few connections, copies of their descriptors, and epolls in and beside
 * each other. The same in each run with the same seed (MIX_SEED, and MIX_STEPS). To hunt with: it
 * is not among the scenes of t_wait.sh, as when a socket comes to the ring is not fixed.
 */
#include "test/preload/same_wait.h"

#include <stdbool.h>
#include <stdlib.h>

#define PAIRS 3
#define COPIES 2 /* of each first end, the first included */
#define EPOLLS 3 /* the last is around the others */

static int end[PAIRS][COPIES], peer[PAIRS], ep[EPOLLS];
static bool shut[PAIRS];
static unsigned state;

static unsigned any(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % n;
}

static void open_pair(unsigned i)
{
	pair(&end[i][0], &peer[i]);
	for (unsigned k = 1; k < COPIES; k++)
		end[i][k] = dup(end[i][0]);
	shut[i] = false;
}

static void change(void)
{
	static const int ops[] = {EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_ADD,
				  EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CTL_DEL};
	static const unsigned masks[] = {EPOLLIN,
					 EPOLLIN,
					 EPOLLIN | EPOLLRDHUP,
					 EPOLLOUT,
					 EPOLLIN | EPOLLOUT,
					 0,
					 EPOLLIN | EPOLLONESHOT};
	unsigned i = any(PAIRS), k = any(COPIES), e = any(EPOLLS);
	unsigned long data = any(4) ? 10 * i + k : 99;
	unsigned events = masks[any(7)];
	int op = ops[any(6)];

	printf("%u.%u in %u: %s %x %lu", i, k, e,
	       op == EPOLL_CTL_ADD   ? "add"
	       : op == EPOLL_CTL_MOD ? "mod"
				     : "del",
	       events, data);
	say("", ctl(ep[e], op, end[i][k], events, data));
}

static void around(void)
{
	unsigned e = any(EPOLLS - 1);

	DO(ctl(ep[EPOLLS - 1], any(2) ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, ep[e], EPOLLIN, 50 + e));
}

/* A wait need not tell of all that is ready, but in the end of each. */
static void all(unsigned e, unsigned max)
{
	static const unsigned long data[] = {0, 1, 10, 11, 20, 21, 50, 51, 99};
	unsigned bits[100] = {0};
	struct epoll_event ev[16];

	for (int i = 0; i < (max == 1 ? 40 : 12); i++) {
		int n = epoll_wait(ep[e], ev, (int)max, 0);

		for (int k = 0; k < n; k++)
			bits[ev[k].data.u64] |= ev[k].events;
	}
	printf("%u has", e);
	for (unsigned i = 0; i < sizeof(data) / sizeof(*data); i++)
		if (bits[data[i]])
			printf(" %lu:%x", data[i], bits[data[i]]);
	printf("\n");
}

static void renew(unsigned i)
{
	unsigned k = any(COPIES + 1);

	if (k < COPIES && end[i][1 - k] >= 0 && end[i][k] >= 0) {
		/* One of two is closed, and made again. Of what lies in the ring just then nobody
		 * is told by the registration that is left (libxvm.7). */
		drain(end[i][k]);
		close(end[i][k]);
		printf("closed %u.%u\n", i, k);
		for (unsigned e = 0; e < EPOLLS; e++)
			all(e, 16);
		end[i][k] = dup(end[i][1 - k]);
		return;
	}
	for (k = 0; k < COPIES; k++)
		close(end[i][k]);
	close(peer[i]);
	printf("closed %u\n", i);
	open_pair(i);
}

static void look(void)
{
	unsigned e = any(EPOLLS);
	struct pollfd p = {.fd = ep[e], .events = POLLIN};

	switch (any(3)) {
	case 0:
		do_poll("epoll", &p, 1, 0);
		break;
	case 1:
		all(e, 1);
		break;
	default:
		all(e, 16);
		break;
	}
}

void scene_mix(void)
{
	int steps = atoi(getenv("MIX_STEPS") ?: "600");

	state = (unsigned)atoi(getenv("MIX_SEED") ?: "1") * 2654435761u | 1;
	for (unsigned e = 0; e < EPOLLS; e++)
		ep[e] = epoll_create1(EPOLL_CLOEXEC);
	for (unsigned i = 0; i < PAIRS; i++)
		open_pair(i);
	for (int n = 0; n < steps; n++) {
		unsigned i = any(PAIRS), what = any(64);

		if (what < 26)
			change();
		else if (what < 28)
			around();
		else if (what < 34 && !shut[i])
			say("send", send(peer[i], "x", 1, MSG_NOSIGNAL));
		else if (what < 40)
			drain(end[i][0]);
		else if (what < 41 && !shut[i]) {
			shut[i] = true;
			say("shut", shutdown(peer[i], SHUT_WR));
		} else if (what < 42)
			renew(i);
		else
			look();
	}
	for (unsigned e = 0; e < EPOLLS; e++) {
		all(e, 16);
		close(ep[e]);
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		for (unsigned k = 0; k < COPIES; k++)
			close(end[i][k]);
		close(peer[i]);
	}
}
