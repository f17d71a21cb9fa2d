/* SPDX-License-Identifier: Apache-2.0 */
/* What is registered in an epoll, and how it is reported. */
#include "test/preload/same_wait.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

void scene_epoll(void)
{
	int a, b, c, d, ep, pp[2], file, e2;
	volatile int minus = -1, much = INT_MAX;
	struct epoll_event some[2];
	struct later l;

	pair(&a, &b);
	pair(&c, &d);
	if (pipe(pp) < 0)
		die("pipe");
	ep = epoll_create1(EPOLL_CLOEXEC);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_MOD, c, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_DEL, c, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, 876, EPOLLIN, 1));
	DO(ctl(876, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(a, EPOLL_CTL_ADD, c, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 1));
	DO(ctl(ep, 17, a, EPOLLIN, 1));
	DO(epoll_ctl(ep, EPOLL_CTL_MOD, a, NULL));
	DO(epoll_wait(ep, NULL, 0, 0));
	put(b, "x");
	DO(epoll_wait(ep, some, 0, 0));
	DO(epoll_wait(ep, some, minus, 0));
	DO(epoll_wait(ep, some, much, 0));
	DO(epoll_wait(ep, some, 1, 0));
	DO(epoll_wait(876, some, 1, 0));
	DO(epoll_wait(a, some, 1, 0));
	DO(epoll_pwait2(ep, some, 1, &(struct timespec){0, 1000000000}, NULL));
	DO(epoll_pwait2(ep, some, 1, &(struct timespec){-1, 0}, NULL));
	drain(a);
	file = open("/etc/passwd", O_RDONLY);
	DO(ctl(ep, EPOLL_CTL_ADD, file, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN | EPOLLEXCLUSIVE, 2));
	DO(ctl(ep, EPOLL_CTL_MOD, c, EPOLLIN, 2));
	DO(ctl(ep, EPOLL_CTL_DEL, c, 0, 0));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 2));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN, 2));
	do_epoll("idle", ep, 8, 20);
	put(b, "x");
	do_epoll("one", ep, 8, -1);
	do_epoll("one, again", ep, 8, 1000);
	put(d, "y");
	do_epoll("two", ep, 8, 1000);
	DO(ctl(ep, EPOLL_CTL_ADD, pp[0], EPOLLIN, 3));
	if (write(pp[1], "z", 1) != 1)
		die("write");
	/* Which come first is not fixed; that none starves is. */
	for (int want = 0, got = 0, i = 0; i < 40 && want != 7; i++) {
		struct epoll_event ev[2];

		got = epoll_wait(ep, ev, 1 + i % 2, 1000);
		for (int k = 0; k < got; k++)
			want |= 1 << (ev[k].data.u64 - 1);
		if (i == 39 || want == 7)
			printf("seen %d\n", want);
	}
	drain(a);
	drain(c);
	if (read(pp[0], buf, 1) != 1)
		die("read");
	do_epoll("none", ep, 8, 0);
	for (int i = 0; i < 100; i++) {
		if (i % 10 == 9)
			later(&l, 1, i % 20 == 9 ? b : d, "w");
		do_epoll("many waits", ep, 8, i % 10 == 9 ? 5000 : 1);
		if (i % 10 == 9)
			pthread_join(l.t, NULL);
		drain(a);
		drain(c);
	}
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 5));
	do_epoll("out", ep, 8, 1000);
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLRDHUP, 5));
	put(b, "x");
	do_epoll("rdhup", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_MOD, a, 0, 6));
	do_epoll("nothing asked", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN, 6));
	do_epoll("asked again", ep, 8, 1000);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	do_epoll("deleted", ep, 8, 20);
	/* With the same data. */
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 2));
	do_epoll("same data", ep, 8, 1000);
	drain(a);
	do_epoll("same data, drained", ep, 8, 20);
	put(d, "x");
	do_epoll("same data, the other", ep, 8, 1000);
	drain(c);
	/* A copy of the epoll. */
	e2 = dup(ep);
	put(b, "x");
	do_epoll("copy", e2, 8, 1000);
	close(ep);
	do_epoll("copy, the first closed", e2, 8, 1000);
	/* Closed descriptors are gone from it. */
	close(a);
	do_epoll("closed", e2, 8, 20);
	close(d);
	do_epoll("the peer closed", e2, 8, 1000);
	close(b);
	close(c);
	close(e2);
	close(file);
	close(pp[0]);
	close(pp[1]);
}

/* What is said of one that was deleted is not said of another that has its data now. */
static void data_again(void)
{
	int a, b, c, d, f, g, ep = epoll_create1(EPOLL_CLOEXEC), pp[2];

	pair(&a, &b);
	pair(&c, &d);
	pair(&f, &g);
	if (pipe(pp) < 0)
		die("pipe");
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	DO(ctl(ep, EPOLL_CTL_ADD, pp[0], EPOLLIN, 1));
	close(b);
	do_epoll("a pipe has its data", ep, 8, 50);
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN | EPOLLRDHUP, 2));
	DO(ctl(ep, EPOLL_CTL_DEL, c, 0, 0));
	DO(ctl(ep, EPOLL_CTL_ADD, f, EPOLLIN | EPOLLRDHUP, 3));
	DO(ctl(ep, EPOLL_CTL_MOD, f, EPOLLIN | EPOLLRDHUP, 2));
	close(d);
	do_epoll("a socket has its data", ep, 8, 50);
	put(g, "x");
	do_epoll("its own", ep, 8, 5000);
	close(a);
	close(c);
	close(f);
	close(g);
	close(pp[0]);
	close(pp[1]);
	close(ep);
}

/* Deleted and registered again, as event loops do for each request, and what must not be heard
 * meanwhile. */
void scene_deleted(void)
{
	int a, b, ep, outer, copy, pid, st;
	struct later l;

	pair(&a, &b);
	ep = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < 30; i++) {
		DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
		later(&l, 1, b, "x");
		do_epoll("asked", ep, 8, 5000);
		pthread_join(l.t, NULL);
		drain(a);
		DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
		DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLOUT, 1 + i % 2));
		do_epoll("room", ep, 8, 5000);
		DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	}
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN, 1));
	do_epoll("empty", ep, 8, 0);
	later(&l, 1, b, "y");
	do_epoll("data for nobody", ep, 8, 50);
	pthread_join(l.t, NULL);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 3));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 3));
	do_epoll("somebody", ep, 8, 5000);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLET, 4));
	do_epoll("edge", ep, 8, 5000);
	do_epoll("no edge", ep, 8, 0);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLONESHOT, 4));
	do_epoll("once", ep, 8, 5000);
	do_epoll("only", ep, 8, 0);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	/* An epoll in an epoll. */
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 5));
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	outer = epoll_create1(0);
	DO(ctl(outer, EPOLL_CTL_ADD, ep, EPOLLIN, 6));
	do_epoll("outer", outer, 8, 20);
	DO(poll(&(struct pollfd){ep, POLLIN, 0}, 1, 20));
	later(&l, 1, b, "z");
	do_epoll("outer, data", outer, 8, 50);
	pthread_join(l.t, NULL);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 5));
	do_epoll("outer, asked", outer, 8, 5000);
	do_epoll("outer, at once", outer, 8, 0);
	DO(poll(&(struct pollfd){ep, POLLIN, 0}, 1, 0));
	drain(a);
	do_epoll("outer, drained", outer, 8, 0);
	DO(poll(&(struct pollfd){ep, POLLIN, 0}, 1, 0));
	do_epoll("outer, drained", outer, 8, 20);
	put(b, "a");
	do_epoll("outer, more at once", outer, 8, 0);
	DO(poll(&(struct pollfd){ep, POLLIN, 0}, 1, 0));
	do_epoll("inner", ep, 8, 0);
	do_epoll("outer, still", outer, 8, 0);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	do_epoll("outer, deleted", outer, 8, 20);
	close(outer);
	close(ep);
	drain(a);
	/* Another process looks at it. */
	ep = epoll_create1(0);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 7));
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	put(b, "x");
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		do_epoll("child", ep, 8, 20);
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &st, 0) != pid || st)
		die("child");
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 7));
	do_epoll("parent", ep, 8, 5000);
	close(ep);
	/* A copy of the socket outlives it. */
	ep = epoll_create1(EPOLL_CLOEXEC);
	copy = dup(a);
	DO(ctl(ep, EPOLL_CTL_ADD, copy, EPOLLIN, 8));
	DO(ctl(ep, EPOLL_CTL_DEL, copy, 0, 0));
	close(copy);
	do_epoll("copy closed", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 9));
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	close(b);
	do_epoll("the end, for nobody", ep, 8, 50);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 10));
	do_epoll("the end", ep, 8, 5000);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	do_epoll("the end, deleted", ep, 8, 20);
	close(a);
	do_epoll("closed", ep, 8, 0);
	close(ep);
	data_again();
}

static int handed, hangs_up, ready;
static pthread_barrier_t both;

static void *serve(void *arg)
{
	char c;

	pthread_barrier_wait(&both);
	while (recv(handed, &c, 1, 0) > 0)
		;
	close(handed);
	if (eventfd_write(ready, 1))
		die("eventfd");
	return NULL;
}

static void *hang_up(void *arg)
{
	pthread_barrier_wait(&both);
	close(hangs_up);
	return NULL;
}

/* Deleted, and handed to a thread that closes it at its end, just when the kernel tells of that. */
void scene_handed(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), none = 0;
	struct epoll_event ev;
	pthread_t t[2];
	eventfd_t v;

	ready = eventfd(0, EFD_CLOEXEC);
	pthread_barrier_init(&both, NULL, 2);
	ctl(ep, EPOLL_CTL_ADD, ready, EPOLLIN, 1);
	for (int i = 0; i < 20; i++) {
		pair(&handed, &hangs_up);
		ctl(ep, EPOLL_CTL_ADD, handed, EPOLLIN, 2);
		ctl(ep, EPOLL_CTL_DEL, handed, 0, 0);
		pthread_create(&t[0], NULL, serve, NULL);
		pthread_create(&t[1], NULL, hang_up, NULL);
		do {
			if (epoll_wait(ep, &ev, 1, 5000) != 1)
				die("nobody was served");
			none += ev.data.u64 != 1;
		} while (ev.data.u64 != 1);
		eventfd_read(ready, &v);
		pthread_join(t[0], NULL);
		pthread_join(t[1], NULL);
	}
	DO(none);
	close(ready);
	close(ep);
}

void scene_edge(void)
{
	int a, b, ep;
	struct later l;

	pair(&a, &b);
	nonblock(a);
	ep = epoll_create1(0);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLET, 1));
	do_epoll("et, idle", ep, 8, 20);
	put(b, "x");
	do_epoll("et, new", ep, 8, 1000);
	do_epoll("et, same", ep, 8, 20);
	put(b, "y");
	do_epoll("et, more", ep, 8, 1000);
	do_epoll("et, same", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLET, 2));
	do_epoll("et, mod", ep, 8, 1000);
	drain(a);
	do_epoll("et, drained", ep, 8, 20);
	for (int i = 0; i < 20; i++) {
		later(&l, 2, b, "w");
		do_epoll("et, late", ep, 8, 5000);
		pthread_join(l.t, NULL);
		if (i % 2)
			drain(a);
	}
	drain(a);
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLONESHOT, 3));
	do_epoll("once, idle", ep, 8, 20);
	put(b, "x");
	do_epoll("once", ep, 8, 1000);
	do_epoll("once, spent", ep, 8, 20);
	put(b, "x");
	do_epoll("once, spent, more", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLONESHOT, 4));
	do_epoll("once, anew", ep, 8, 1000);
	drain(a);
	for (int i = 0; i < 5; i++) {
		DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLONESHOT | EPOLLET, 5));
		later(&l, 2, b, "w");
		do_epoll("once, late", ep, 8, 5000);
		pthread_join(l.t, NULL);
		put(b, "more");
		do_epoll("once, spent", ep, 8, 5);
		drain(a);
	}
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN | EPOLLRDHUP | EPOLLET, 6));
	do_epoll("et, before the end", ep, 8, 20);
	shutdown(b, SHUT_WR);
	nap(10);
	do_epoll("et, the end", ep, 8, 1000);
	do_epoll("et, the end, same", ep, 8, 20);
	close(a);
	close(b);
	close(ep);
}

void scene_nested(void)
{
	int a, b, inner, outer;
	struct pollfd p;
	struct later l;

	pair(&a, &b);
	inner = epoll_create1(0);
	outer = epoll_create1(0);
	DO(ctl(inner, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2));
	DO(ctl(inner, EPOLL_CTL_ADD, outer, EPOLLIN, 2));
	do_epoll("outer, idle", outer, 8, 20);
	put(b, "x");
	do_epoll("outer", outer, 8, 1000);
	do_epoll("outer, again", outer, 8, 1000);
	do_epoll("inner", inner, 8, 1000);
	p = (struct pollfd){.fd = inner, .events = POLLIN};
	do_poll("inner", &p, 1, 1000);
	drain(a);
	do_epoll("inner, drained", inner, 8, 0);
	do_epoll("outer, drained", outer, 8, 0);
	do_poll("inner, drained", &p, 1, 20);
	for (int i = 0; i < 3; i++) {
		later(&l, 20, b, "w");
		do_epoll("outer, late", outer, 8, 5000);
		pthread_join(l.t, NULL);
		do_epoll("inner, late", inner, 8, 0);
		drain(a);
		do_epoll("inner, drained", inner, 8, 0);
		later(&l, 20, b, "w");
		do_poll("inner, late", &p, 1, 5000);
		pthread_join(l.t, NULL);
		do_epoll("inner, late", inner, 8, 0);
		drain(a);
		do_epoll("inner, drained", inner, 8, 0);
	}
	close(inner);
	do_epoll("outer, inner closed", outer, 8, 20);
	close(a);
	close(b);
	close(outer);
}

#define INNERS 20

/* More in one, and in one of those, than are looked after one by one. The first is the last to be
 * looked at. */
void scene_inners(void)
{
	int a[2], b[2], in[2][INNERS], outer = epoll_create1(0);
	struct pollfd p = {.fd = outer, .events = POLLIN};
	struct later l;

	for (int k = 0; k < 2; k++) {
		pair(&a[k], &b[k]);
		for (int i = 0; i < INNERS; i++) {
			in[k][i] = epoll_create1(0);
			ctl(k && i ? in[1][0] : outer, EPOLL_CTL_ADD, in[k][i], EPOLLIN, 7);
		}
		ctl(in[k][k], EPOLL_CTL_ADD, a[k], EPOLLIN, 1);
	}
	for (int i = 0; i < 6; i++) {
		later(&l, 20, b[i % 2], "w");
		do_epoll("outer of many", outer, 8, 3000);
		pthread_join(l.t, NULL);
		drain(a[i % 2]);
		do_epoll("drained", outer, 8, 0);
		later(&l, 20, b[i % 2], "w");
		do_poll("outer of many", &p, 1, 3000);
		pthread_join(l.t, NULL);
		drain(a[i % 2]);
	}
	for (int k = 0; k < 2; k++) {
		for (int i = 0; i < INNERS; i++)
			close(in[k][i]);
		close(a[k]);
		close(b[k]);
	}
	close(outer);
}

/* The original is closed, a copy is left: the kernel goes on to report it. */
void scene_copies(void)
{
	int a, b, c, ep = epoll_create1(0);
	struct later l;

	pair(&a, &b);
	c = dup(a);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN, 2));
	put(b, "x");
	do_epoll("both", ep, 8, 1000);
	drain(c);
	do_epoll("drained", ep, 8, 20);
	close(a);
	later(&l, 20, b, "w");
	do_epoll("the copy", ep, 1, 5000) > 0 ? (void)0 : printf("lost\n");
	pthread_join(l.t, NULL);
	drain(c);
	close(c);
	do_epoll("closed", ep, 8, 20);
	close(b);
	close(ep);
}
