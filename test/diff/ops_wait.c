/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that wait for events. A wait for ever or for some time blocks; where -1 stands, for ever.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

#include "test/diff/actor.h"
#include "test/diff/via.h"

#define MANY 16

static const struct bit poll_bits[] = {
	{"IN", POLLIN},		{"PRI", POLLPRI},   {"OUT", POLLOUT},	  {"ERR", POLLERR},
	{"HUP", POLLHUP},	{"NVAL", POLLNVAL}, {"RDHUP", POLLRDHUP}, {"RDNORM", POLLRDNORM},
	{"WRNORM", POLLWRNORM}, {NULL, 0},
};
static const struct bit epoll_bits[] = {
	{"IN", EPOLLIN},
	{"PRI", EPOLLPRI},
	{"OUT", EPOLLOUT},
	{"ERR", EPOLLERR},
	{"HUP", EPOLLHUP},
	{"RDHUP", EPOLLRDHUP},
	{"RDNORM", EPOLLRDNORM},
	{"WRNORM", EPOLLWRNORM},
	{"ET", EPOLLET},
	{"ONESHOT", EPOLLONESHOT},
	{"EXCLUSIVE", EPOLLEXCLUSIVE},
	{NULL, 0},
};

/* poll TIMEOUT FD:EVENTS... */
static void poll_with(struct call *c, bool fine)
{
	struct pollfd p[MANY];
	struct timespec ts;
	nfds_t n = 0;
	long ms = number(arg(c, 1), 0);

	for (int i = 2; i < c->words && n < MANY; i++) {
		char *colon = strchr(c->word[i], ':');

		if (colon)
			*colon++ = 0;
		p[n++] = (struct pollfd){.fd = fd_of(c->word[i]),
					 .events = (short)bits_of(poll_bits, colon ?: "")};
	}
	ts = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	begin(c);
	result(c, fine ? via_ppoll(p, n, ms < 0 ? NULL : &ts, NULL) : via_poll(p, n, (int)ms));
	for (nfds_t i = 0; i < n && c->r >= 0; i++) {
		tell(c, " ");
		tell_bits(c, poll_bits, (unsigned short)p[i].revents);
	}
}

static void op_poll(struct call *c)
{
	poll_with(c, false);
}

static void op_ppoll(struct call *c)
{
	poll_with(c, true);
}

/* As many bits as the program likes, whatever FD_SETSIZE says. */
#define WORD_BITS (8 * (int)sizeof(long))
struct big_set {
	unsigned long words[HIGHEST / WORD_BITS];
};

static void set_bit(struct big_set *s, int fd)
{
	s->words[fd / WORD_BITS] |= 1ul << fd % WORD_BITS;
}

static bool has_bit(const struct big_set *s, int fd)
{
	return s->words[fd / WORD_BITS] >> fd % WORD_BITS & 1;
}

/* select TIMEOUT FD:rwx... */
static void select_with(struct call *c, bool fine)
{
	struct big_set set[3] = {0};
	fd_set *r = (void *)&set[0], *w = (void *)&set[1], *x = (void *)&set[2];
	int fds[MANY], n = 0, max = -1;
	long ms = number(arg(c, 1), 0);
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	for (int i = 2; i < c->words && n < MANY; i++) {
		char *colon = strchr(c->word[i], ':');

		if (colon)
			*colon++ = 0;
		fds[n] = fd_of(c->word[i]);
		if (fds[n] < 0 || fds[n] >= HIGHEST)
			continue;
		for (int k = 0; k < 3; k++)
			if (colon && strchr(colon, "rwx"[k]))
				set_bit(&set[k], fds[n]);
		max = fds[n] > max ? fds[n] : max;
		n++;
	}
	begin(c);
	result(c, fine ? via_pselect(max + 1, r, w, x, ms < 0 ? NULL : &ts, NULL)
		       : via_select(max + 1, r, w, x, ms < 0 ? NULL : &tv));
	for (int i = 0; i < n && c->r >= 0; i++) {
		tell(c, " ");
		for (int k = 0; k < 3; k++)
			tell(c, "%c", has_bit(&set[k], fds[i]) ? "rwx"[k] : '-');
	}
}

static void op_select(struct call *c)
{
	select_with(c, false);
}

static void op_pselect(struct call *c)
{
	select_with(c, true);
}

/* epoll_create [CLOEXEC|old] */
static void op_epoll_create(struct call *c)
{
	if (!strcmp(arg(c, 1), "old")) {
		result(c, epoll_create(1));
		return;
	}
	result(c, via_epoll_create1(!strcmp(arg(c, 1), "CLOEXEC") ? EPOLL_CLOEXEC : 0));
}

/* epoll_ctl EP ADD|MOD|DEL FD EVENTS [DATA] */
static void op_epoll_ctl(struct call *c)
{
	static const struct bit ops[] = {{"ADD", EPOLL_CTL_ADD},
					 {"MOD", EPOLL_CTL_MOD},
					 {"DEL", EPOLL_CTL_DEL},
					 {"BAD", 17},
					 {NULL, 0}};
	struct epoll_event ev = {.events = bits_of(epoll_bits, arg(c, 4))};
	int fd = fd_of(arg(c, 3));

	ev.data.u64 = (unsigned long)number(arg(c, 5), fd);
	begin(c);
	result(c, via_epoll_ctl(fd_of(arg(c, 1)), (int)bits_of(ops, arg(c, 2)), fd,
				!strcmp(arg(c, 4), "null") ? NULL : &ev));
}

static int by_data(const void *x, const void *y)
{
	const struct epoll_event *a = x, *b = y;

	return a->data.u64 < b->data.u64 ? -1 : a->data.u64 > b->data.u64;
}

/* epoll_wait EP MAX TIMEOUT */
static void epoll_with(struct call *c, int how)
{
	struct epoll_event ev[MANY];
	int ep = fd_of(arg(c, 1));
	long max = number(arg(c, 2), MANY), ms = number(arg(c, 3), 0);
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	if (max > MANY)
		max = MANY;
	begin(c);
	result(c, how == 0   ? via_epoll_wait(ep, ev, (int)max, (int)ms)
		  : how == 1 ? via_epoll_pwait(ep, ev, (int)max, (int)ms, NULL)
			     : via_epoll_pwait2(ep, ev, (int)max, ms < 0 ? NULL : &ts, NULL));
	if (c->r <= 0)
		return;
	qsort(ev, (size_t)c->r, sizeof(ev[0]), by_data); /* no order is promised */
	for (long i = 0; i < c->r; i++) {
		tell(c, " %lu:", (unsigned long)ev[i].data.u64);
		tell_bits(c, epoll_bits, ev[i].events);
	}
}

static void op_epoll_wait(struct call *c)
{
	epoll_with(c, 0);
}

static void op_epoll_pwait(struct call *c)
{
	epoll_with(c, 1);
}

static void op_epoll_pwait2(struct call *c)
{
	epoll_with(c, 2);
}

/* epoll_rounds EP MAX TIMES: whose events are seen in so many calls; which comes when is not fixed.
 */
static void op_epoll_rounds(struct call *c)
{
	struct epoll_event ev[MANY];
	int ep = fd_of(arg(c, 1)), max = (int)number(arg(c, 2), 1);
	unsigned long seen = 0;
	int n = 0;

	begin(c);
	for (long i = number(arg(c, 3), 1); i > 0 && n >= 0; i--) {
		n = epoll_wait(ep, ev, max < MANY ? max : MANY, 0);
		for (int k = 0; k < n; k++)
			seen |= 1ul << (ev[k].data.u64 & 63);
	}
	result(c, n < 0 ? n : 0);
	for (int i = 0; i < 64; i++)
		if (seen >> i & 1)
			tell(c, " %d", i);
}

const struct op wait_ops[] = {
	{"poll", op_poll},
	{"ppoll", op_ppoll},
	{"select", op_select},
	{"pselect", op_pselect},
	{"epoll_create", op_epoll_create},
	{"epoll_ctl", op_epoll_ctl},
	{"epoll_wait", op_epoll_wait},
	{"epoll_pwait", op_epoll_pwait},
	{"epoll_pwait2", op_epoll_pwait2},
	{"epoll_rounds", op_epoll_rounds},
	{NULL, NULL},
};
