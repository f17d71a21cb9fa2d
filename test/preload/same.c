/* SPDX-License-Identifier: Apache-2.0 */
/* What the scenes have in common. */
#include "test/preload/same.h"

#include "test/preload/warm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <time.h>

char buf[1 << 16];

void die(const char *what)
{
	perror(what);
	exit(2);
}

void say(const char *what, long r)
{
	if (r < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	fflush(stdout);
}

void nap(int ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

	while (nanosleep(&ts, &ts) < 0)
		;
}

long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void put(int fd, const char *s)
{
	if (send(fd, s, strlen(s), 0) != (ssize_t)strlen(s))
		die("put");
	nap(5);
}

void nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

void join(int *a, int *b)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&sin, &len) < 0)
		die("listen");
	*a = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(*a, (struct sockaddr *)&sin, sizeof(sin)) < 0)
		die("connect");
	*b = accept(l, NULL, NULL);
	close(l);
	/* What was sent is to be there at once. */
	setsockopt(*a, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	setsockopt(*b, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

void warm(int a, int b)
{
	if (!warm_up(a, b))
		die("warm up");
}

void pair(int *a, int *b)
{
	join(a, b);
	warm(*a, *b);
}

static void flags(unsigned ev)
{
	static const struct {
		unsigned bit;
		const char *name;
	} names[] = {{EPOLLIN, "in"},	 {EPOLLOUT, "out"},	  {EPOLLPRI, "pri"},
		     {EPOLLERR, "err"},	 {EPOLLHUP, "hup"},	  {EPOLLRDHUP, "rdhup"},
		     {POLLNVAL, "nval"}, {EPOLLRDNORM, "rdnorm"}, {EPOLLWRNORM, "wrnorm"}};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (ev & names[i].bit)
			printf(" %s", names[i].name);
}

void do_poll(const char *what, struct pollfd *p, nfds_t n, int timeout)
{
	int r = poll(p, n, timeout);

	printf("poll %s: ", what);
	if (r < 0) {
		printf("%s\n", strerrorname_np(errno));
		return;
	}
	printf("%d", r);
	for (nfds_t i = 0; i < n; i++) {
		printf(" [");
		flags((unsigned short)p[i].revents);
		printf(" ]");
	}
	printf("\n");
	fflush(stdout);
}

static int by_data(const void *x, const void *y)
{
	const struct epoll_event *a = x, *b = y;

	return a->data.u64 < b->data.u64 ? -1 : a->data.u64 > b->data.u64;
}

int do_epoll(const char *what, int ep, int max, int timeout)
{
	struct epoll_event ev[16];
	int r = epoll_wait(ep, ev, max, timeout);

	printf("epoll %s: ", what);
	if (r < 0) {
		printf("%s\n", strerrorname_np(errno));
		return r;
	}
	printf("%d", r);
	qsort(ev, (size_t)r, sizeof(ev[0]), by_data);
	for (int i = 0; i < r; i++) {
		printf(" [ %llu:", (unsigned long long)ev[i].data.u64);
		flags(ev[i].events);
		printf(" ]");
	}
	printf("\n");
	fflush(stdout);
	return r;
}

int ctl(int ep, int op, int fd, unsigned events, unsigned long data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, op, fd, &ev);
}

static void *later_run(void *arg)
{
	struct later *l = arg;

	nap(l->ms);
	if (send(l->fd, l->s, strlen(l->s), 0) < 0)
		die("later");
	return NULL;
}

void later(struct later *l, int ms, int fd, const char *s)
{
	*l = (struct later){ms, fd, s, 0};
	pthread_create(&l->t, NULL, later_run, l);
}

void drain(int fd)
{
	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

void fill(int fd)
{
	static char junk[65536];

	for (int i = 0; i < 3; i++) {
		while (send(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
			;
		nap(20);
	}
}

int play(const struct scene *scenes, char **names)
{
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (const struct scene *s = scenes; s->name; s++) {
		char **n = names;

		while (*n && strcmp(*n, s->name))
			n++;
		if (*n || !*names)
			s->run();
	}
	return 0;
}
