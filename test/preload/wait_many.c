/* SPDX-License-Identifier: Apache-2.0 */
/* Several threads, epolls or descriptors that have one socket, or one value of data, in common. */
#include "test/preload/same_wait.h"

#include <stdlib.h>
#include <time.h>

/* A thread that waits in an epoll, says by a pipe what it was told, and then stays away. */
struct away {
	int ep, done, timeout;
	pthread_t t;
};

static void *away_run(void *arg)
{
	struct away *w = arg;
	struct epoll_event ev;
	char c = '-';

	if (epoll_wait(w->ep, &ev, 1, w->timeout) == 1)
		c = (char)ev.data.u64;
	if (write(w->done, &c, 1) != 1)
		die("away");
	return NULL;
}

static void away(struct away *w, int ep, int done)
{
	*w = (struct away){ep, done, 10000, 0};
	pthread_create(&w->t, NULL, away_run, w);
}

/* What one of them was told; '?' where none says anything. */
static char told(int from)
{
	struct pollfd p = {.fd = from, .events = POLLIN};
	char c = '?';

	if (poll(&p, 1, 5000) == 1 && read(from, &c, 1) != 1)
		die("told");
	return c;
}

static long cpu_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/*
 * Two epolls with one socket, in each of which somebody sleeps; in the second, since before the
 * socket came, two: and one of them goes away for good.
 */
static void two_epolls(void)
{
	int a, b, pp[2], done[2], e1 = epoll_create1(0), e2 = epoll_create1(0);
	struct away first, w[2];
	long busy;
	char c;

	pair(&a, &b);
	if (pipe(pp) < 0 || pipe(done) < 0)
		die("pipe");
	DO(ctl(e1, EPOLL_CTL_ADD, a, EPOLLIN, '1'));
	DO(ctl(e2, EPOLL_CTL_ADD, pp[0], EPOLLIN | EPOLLET, 'p'));
	away(&first, e1, done[1]);
	away(&w[0], e2, done[1]);
	away(&w[1], e2, done[1]);
	nap(30);
	DO(ctl(e2, EPOLL_CTL_ADD, a, EPOLLIN, '2'));
	busy = cpu_ms();
	nap(200);
	printf("idle: %d\n", cpu_ms() - busy < 100);
	if (write(pp[1], "x", 1) != 1)
		die("write");
	printf("two epolls: %c\n", told(done[0]));
	nap(30);
	put(b, "x");
	c = told(done[0]);
	printf("two epolls: %d\n", c ^ told(done[0])); /* in any order */
	fflush(stdout);
	pthread_join(first.t, NULL);
	pthread_join(w[0].t, NULL);
	pthread_join(w[1].t, NULL);
	close(a);
	close(b);
	close(e1);
	close(e2);
	close(pp[0]);
	close(pp[1]);
	close(done[0]);
	close(done[1]);
}

/* As before, with one; and just when he is to be woken somebody else looks at his epoll. */
static void looked_at(int a, int b, int e1)
{
	int done[2], e2 = epoll_create1(0);
	struct pollfd p = {.fd = e2, .events = POLLIN};
	struct away first, w;
	char c;

	if (pipe(done) < 0)
		die("pipe");
	away(&first, e1, done[1]);
	away(&w, e2, done[1]);
	nap(10);
	ctl(e2, EPOLL_CTL_ADD, a, EPOLLIN, '2');
	if (poll(&p, 1, 0))
		printf("looked at: readable\n");
	nap(10);
	put(b, "x");
	c = told(done[0]);
	printf("looked at: %d\n", c ^ told(done[0]));
	fflush(stdout);
	pthread_join(first.t, NULL);
	pthread_join(w.t, NULL);
	drain(a);
	close(e2);
	close(done[0]);
	close(done[1]);
}

void scene_bounds(void)
{
	int a, b, e1 = epoll_create1(0);

	two_epolls();
	pair(&a, &b);
	DO(ctl(e1, EPOLL_CTL_ADD, a, EPOLLIN, '1'));
	for (int i = 0; i < 20; i++)
		looked_at(a, b, e1);
	close(a);
	close(b);
	close(e1);
}

struct filler {
	int fd;
	pthread_t t;
};

static void *filler_run(void *arg)
{
	struct filler *f = arg;

	nap(30);
	fill(f->fd);
	return NULL;
}

struct adder {
	int ep, fd;
	unsigned long data;
	pthread_t t;
};

static void *adder_run(void *arg)
{
	struct adder *a = arg;

	nap(30);
	if (ctl(a->ep, EPOLL_CTL_ADD, a->fd, EPOLLIN, a->data) < 0)
		die("adder");
	return NULL;
}

/* Who sleeps around an epoll is told of what is there, and of nothing else; also if it came in
 * while he slept. */
void scene_around(void)
{
	int a, b, inner = epoll_create1(0), outer = epoll_create1(0), late = epoll_create1(0);
	struct pollfd p = {.fd = inner, .events = POLLIN};
	struct filler f;
	struct adder add;
	struct later l;

	pair(&a, &b);
	nonblock(a);
	DO(ctl(inner, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2));
	/* That there is no room to send is nothing to one who waits for input. */
	f.fd = a;
	pthread_create(&f.t, NULL, filler_run, &f);
	do_poll("inner, while it is filled", &p, 1, 200);
	pthread_join(f.t, NULL);
	drain(b);
	pthread_create(&f.t, NULL, filler_run, &f);
	do_epoll("outer, while it is filled", outer, 8, 200);
	pthread_join(f.t, NULL);
	for (int i = 0; i < 50; i++) {
		drain(b);
		nap(1);
	}
	/* An epoll comes into one that is slept in: by a wait, by a poll, and one deeper. */
	for (int i = 0; i < 3; i++) {
		int top = late;

		add = (struct adder){late, outer, 3, 0};
		if (i)
			DO(ctl(late, EPOLL_CTL_DEL, outer, 0, 0));
		if (i == 2) {
			DO(ctl(outer, EPOLL_CTL_DEL, inner, 0, 0));
			DO(ctl(outer, EPOLL_CTL_ADD, late, EPOLLIN, 4));
			add.fd = inner;
			top = outer;
		}
		/* What is armed is rung for, and nobody arms it again. */
		put(b, "w");
		drain(a);
		do_epoll("rung", inner, 8, 0);
		pthread_create(&add.t, NULL, adder_run, &add);
		later(&l, 90, b, "x");
		p.fd = late;
		if (i == 1)
			do_poll("late", &p, 1, 5000);
		else
			do_epoll("late", top, 8, 5000);
		pthread_join(add.t, NULL);
		pthread_join(l.t, NULL);
		do_epoll("late, inner", inner, 8, 1000);
		drain(a);
		do_epoll("late, drained", top, 8, 20);
	}
	close(a);
	close(b);
	close(inner);
	close(outer);
	close(late);
}

/* Several descriptors with the same data. */
static void same_data(void)
{
	int a, b, c, d, f, g, ep = epoll_create1(0), other = 0;
	struct epoll_event ev[8];
	struct pollfd p;

	pair(&a, &b);
	pair(&c, &d);
	pair(&f, &g);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLRDHUP, 7));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN | EPOLLRDHUP, 7));
	shutdown(b, SHUT_WR);
	do_epoll("same data, the end of one", ep, 8, 1000);
	p = (struct pollfd){.fd = c, .events = POLLIN | POLLRDHUP};
	do_poll("the other", &p, 1, 0);
	p.fd = a;
	do_poll("the one", &p, 1, 0);
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	put(d, "x");
	do_epoll("same data, the other", ep, 8, 1000);
	drain(c);
	DO(ctl(ep, EPOLL_CTL_DEL, c, 0, 0));
	close(a);
	close(b);
	close(c);
	close(d);
	/* Two of them deleted; a third keeps waits from sleeping. */
	pair(&a, &b);
	pair(&c, &d);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 8));
	DO(ctl(ep, EPOLL_CTL_ADD, c, EPOLLIN, 8));
	DO(ctl(ep, EPOLL_CTL_ADD, f, EPOLLIN, 9));
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	DO(ctl(ep, EPOLL_CTL_DEL, c, 0, 0));
	put(g, "x");
	shutdown(b, SHUT_WR);
	shutdown(d, SHUT_WR);
	nap(10);
	for (int i = 0; i < 30; i++) {
		int n = epoll_wait(ep, ev, 8, 0);

		for (int k = 0; k < n; k++)
			other += ev[k].data.u64 != 9;
	}
	DO(other);
	close(a);
	close(b);
	close(c);
	close(d);
	close(f);
	close(g);
	close(ep);
}

static void *poll_run(void *arg)
{
	struct away *w = arg;
	struct pollfd p = {.fd = w->ep, .events = POLLIN};

	if (poll(&p, 1, 10000) != 1 || write(w->done, "r", 1) != 1)
		die("poll");
	return NULL;
}

/* Two descriptors of one socket, idle for long, and one of them deleted: the other is told as ever,
 * also while a thread waits for the socket by other means. */
static void two_descriptors(void)
{
	int a, b, copy, done[2], ep = epoll_create1(0);
	struct away w, other;
	char c;

	pair(&a, &b);
	copy = dup(a);
	if (pipe(done) < 0)
		die("pipe");
	DO(ctl(ep, EPOLL_CTL_ADD, copy, EPOLLIN, 'c'));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 'a'));
	for (int i = 0; i < 150; i++)
		if (epoll_wait(ep, &(struct epoll_event){0}, 1, 1))
			printf("not idle\n");
	DO(ctl(ep, EPOLL_CTL_DEL, a, 0, 0));
	away(&w, ep, done[1]);
	nap(20);
	other = (struct away){a, done[1], 0, 0};
	pthread_create(&other.t, NULL, poll_run, &other);
	nap(20);
	put(b, "x");
	c = told(done[0]);
	printf("two descriptors: %d\n", c ^ told(done[0]));
	fflush(stdout);
	pthread_join(w.t, NULL);
	pthread_join(other.t, NULL);
	drain(a);
	/* The last one of a socket that is deleted, and the copy goes first. */
	DO(ctl(ep, EPOLL_CTL_DEL, copy, 0, 0));
	close(copy);
	put(b, "y");
	do_epoll("the copy deleted and closed", ep, 8, 20);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 'd'));
	do_epoll("the other", ep, 8, 1000);
	close(a);
	close(b);
	close(ep);
	close(done[0]);
	close(done[1]);
}

/* What is left of a descriptor that was closed before another of its socket goes with that: its
 * data may be used again. */
static void data_of_the_closed(void)
{
	int a, b, copy, ep = epoll_create1(0);

	pair(&a, &b);
	copy = dup(a);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 5));
	close(a);
	/* By the same number it is what was registered. */
	a = dup(copy);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 5));
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN, 5));
	put(b, "x");
	do_epoll("by the same number", ep, 8, 5000);
	drain(a);
	close(a);
	close(copy);
	close(b);
	for (int i = 0; i < 10; i++) {
		pair(&a, &b);
		DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 5));
		do_epoll("another's data", ep, 8, 5);
		put(b, "x");
		do_epoll("its own", ep, 8, 5000);
		close(a);
		close(b);
	}
	close(ep);
}

/* With room for one event, of a pipe or of a socket: neither starves. */
static void one_at_a_time(void)
{
	int a, b, pp[2], ep = epoll_create1(0), seen = 0;
	struct epoll_event ev;

	pair(&a, &b);
	if (pipe(pp) < 0 || write(pp[1], "x", 1) != 1)
		die("pipe");
	DO(ctl(ep, EPOLL_CTL_ADD, pp[0], EPOLLIN, 1));
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 2));
	/* The pipe has been the only one for a while. */
	for (int i = 0; i < 10; i++)
		DO(epoll_wait(ep, &ev, 1, 1000));
	for (int k = 0; k < 3; k++) {
		put(b, "x");
		for (int i = 0; i < 40; i++)
			if (epoll_wait(ep, &ev, 1, 1000) == 1)
				seen |= (int)ev.data.u64;
		DO(seen);
		drain(a);
		seen = 0;
	}
	close(a);
	close(b);
	close(pp[0]);
	close(pp[1]);
	close(ep);
}

void scene_twins(void)
{
	same_data();
	two_descriptors();
	data_of_the_closed();
	one_at_a_time();
}

/* ---- amid a call on the same epoll ---------------------------------------- */

/* Preloaded, amid.c calls this once in the middle of a wait of ours, as a signal handler might be.
 */
extern void (*amid)(void) __attribute__((visibility("default")));
void (*amid)(void);

static int amid_ep, amid_fd[2], amid_peer[2];

static void within(void (*fn)(void))
{
	struct epoll_event ev[8];

	amid = fn;
	epoll_wait(amid_ep, ev, 8, 20);
	fn = amid;
	amid = NULL;
	if (fn)
		fn(); /* nothing of ours was there to be interrupted */
}

static void deleted_amid(void)
{
	do_epoll("amid, the end of a deleted one", amid_ep, 8, 50);
	DO(ctl(amid_ep, EPOLL_CTL_MOD, amid_fd[0], EPOLLIN, 1));
	DO(ctl(amid_ep, EPOLL_CTL_DEL, amid_fd[0], 0, 0));
}

static void data_amid(void)
{
	put(amid_peer[1], "x");
	do_epoll("amid, data", amid_ep, 8, 5000);
	drain(amid_fd[1]);
	do_epoll("amid, drained", amid_ep, 8, 20);
}

static void changes_amid(void)
{
	DO(ctl(amid_ep, EPOLL_CTL_MOD, amid_fd[1], EPOLLIN | EPOLLOUT, 3));
	do_epoll("amid, changed", amid_ep, 8, 5000);
	DO(ctl(amid_ep, EPOLL_CTL_MOD, amid_fd[1], EPOLLIN, 4));
	put(amid_peer[0], "z");
	DO(ctl(amid_ep, EPOLL_CTL_ADD, amid_fd[0], EPOLLIN, 5));
	DO(ctl(amid_ep, EPOLL_CTL_ADD, amid_fd[0], EPOLLIN, 5));
}

static void closed_amid(void)
{
	close(amid_fd[0]);
}

/* Waits and changes in a signal handler that interrupts a wait in the same epoll. */
void scene_amid(void)
{
	int copy, pp[2];
	char c;

	amid_ep = epoll_create1(0);
	for (int i = 0; i < 2; i++) {
		pair(&amid_fd[i], &amid_peer[i]);
		DO(ctl(amid_ep, EPOLL_CTL_ADD, amid_fd[i], EPOLLIN, i + 1));
	}
	if (pipe(pp) < 0)
		die("pipe");
	/* Data: told in the handler, and after it. */
	within(data_amid);
	put(amid_peer[1], "y");
	do_epoll("after it", amid_ep, 8, 5000);
	drain(amid_fd[1]);
	/* One that was deleted and has data since is registered anew. */
	DO(ctl(amid_ep, EPOLL_CTL_DEL, amid_fd[0], 0, 0));
	within(changes_amid);
	do_epoll("registered amid", amid_ep, 8, 5000);
	do_epoll("still", amid_ep, 8, 0);
	if (recv(amid_fd[0], &c, 1, MSG_DONTWAIT) != 1)
		die("recv");
	do_epoll("drained", amid_ep, 8, 20);
	put(amid_peer[0], "z");
	put(amid_peer[1], "z");
	do_epoll("both", amid_ep, 8, 5000);
	drain(amid_fd[0]);
	drain(amid_fd[1]);
	/* The end of one that was deleted is nobody's. */
	DO(ctl(amid_ep, EPOLL_CTL_DEL, amid_fd[0], 0, 0));
	shutdown(amid_peer[0], SHUT_WR);
	nap(10);
	within(deleted_amid);
	do_epoll("after it", amid_ep, 8, 20);
	DO(ctl(amid_ep, EPOLL_CTL_ADD, amid_fd[0], EPOLLIN, 6));
	do_epoll("the end", amid_ep, 8, 5000);
	DO(ctl(amid_ep, EPOLL_CTL_DEL, amid_fd[0], 0, 0));
	close(amid_fd[0]);
	close(amid_peer[0]);
	/* Deleted and closed amid, with a copy left. */
	pair(&amid_fd[0], &amid_peer[0]);
	copy = dup(amid_fd[0]);
	DO(ctl(amid_ep, EPOLL_CTL_ADD, amid_fd[0], EPOLLIN, 7));
	DO(ctl(amid_ep, EPOLL_CTL_DEL, amid_fd[0], 0, 0));
	within(closed_amid);
	shutdown(amid_peer[0], SHUT_WR);
	nap(10);
	do_epoll("closed amid", amid_ep, 8, 20);
	close(copy);
	close(amid_fd[1]);
	close(amid_peer[0]);
	close(amid_peer[1]);
	close(amid_ep);
}

/* Many that have been quiet for long beside one that is always ready: they are told of as well. */
void scene_quiet(void)
{
	int ep = epoll_create1(0), a[10], b[10], said = 0, n;
	struct epoll_event ev;

	for (int i = 0; i < 10; i++) {
		pair(&a[i], &b[i]);
		DO(ctl(ep, EPOLL_CTL_ADD, a[i], EPOLLIN, '0' + i));
	}
	put(b[0], "x");
	for (int i = 0; i < 3000; i++)
		said += epoll_wait(ep, &ev, 1, 5000) == 1 && ev.data.u64 == '0';
	printf("the one: %d\n", said);
	put(b[2], "x");
	for (n = 0; n < 200; n++)
		if (epoll_wait(ep, &ev, 1, 5000) == 1 && ev.data.u64 == '2')
			break;
	printf("a quiet one: %d\n", n < 200);
	drain(a[0]);
	drain(a[2]);
	do_epoll("none", ep, 10, 0);
	put(b[0], "x");
	for (int i = 0; i < 3000; i++)
		epoll_wait(ep, &ev, 1, 5000);
	drain(a[0]);
	put(b[3], "x");
	do_epoll("a wait that looks", ep, 10, 0);
	drain(a[3]);
	put(b[0], "x");
	for (int i = 0; i < 3000; i++)
		epoll_wait(ep, &ev, 1, 5000);
	drain(a[0]);
	put(b[5], "x");
	do_epoll("a wait that sleeps", ep, 10, 5000);
	for (int i = 0; i < 10; i++) {
		close(a[i]);
		close(b[i]);
	}
	close(ep);
}

/* Three sleep around a nested epoll: whom one's wake-up is passed on to goes to sleep again. */
void scene_rest(void)
{
	int a[2], b[2], done[2], inner = epoll_create1(0), outer = epoll_create1(0);
	struct away w[3];
	long busy;
	char c;

	for (int i = 0; i < 2; i++)
		pair(&a[i], &b[i]);
	if (pipe(done) < 0)
		die("pipe");
	DO(ctl(inner, EPOLL_CTL_ADD, a[0], EPOLLIN, 'x'));
	DO(ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLONESHOT, '1'));
	DO(ctl(outer, EPOLL_CTL_ADD, a[1], EPOLLIN | EPOLLET, '2'));
	for (int i = 0; i < 3; i++)
		away(&w[i], outer, done[1]);
	nap(50);
	put(b[1], "x");
	c = told(done[0]);
	busy = cpu_ms();
	nap(300);
	printf("at rest: %c %d\n", c, cpu_ms() - busy < 100);
	put(b[0], "x");
	printf("the next: %c\n", told(done[0]));
	drain(a[0]);
	put(b[1], "x");
	printf("the last: %c\n", told(done[0]));
	fflush(stdout);
	for (int i = 0; i < 3; i++)
		pthread_join(w[i].t, NULL);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
		close(done[i]);
	}
	close(inner);
	close(outer);
}
