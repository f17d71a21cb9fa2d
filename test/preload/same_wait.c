/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One script of waiting calls: poll, select and epoll on connections whose two ends are in this
 * process, beside pipes. Each result is printed; t_wait.sh compares what plain TCP and a preloaded
 * run print. Before each scene the connection has exchanged enough to be on the ring.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "transport/sys.h"

static char buf[1 << 16];
static char huge[32 << 20];
static void *volatile nowhere = (void *)16;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void say(const char *what, long r)
{
	if (r < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	fflush(stdout);
}
#define DO(call) say(#call, (long)(call))

static void nap(int ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};

	while (nanosleep(&ts, &ts) < 0)
		;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void put(int fd, const char *s)
{
	if (send(fd, s, strlen(s), 0) != (ssize_t)strlen(s))
		die("put");
	nap(5);
}

static void nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* A connection that has been used for a while. */
static void pair(int *a, int *b)
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
	for (int i = 0; i < 40; i++) {
		if (write(*a, "ping", 4) != 4 || read(*b, buf, 4) != 4 ||
		    write(*b, "pong", 4) != 4 || read(*a, buf, 4) != 4)
			die("warm up");
		if (i == 10 || i == 20)
			nap(30); /* for the daemon's answer */
	}
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

static void do_poll(const char *what, struct pollfd *p, nfds_t n, int timeout)
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

static int do_epoll(const char *what, int ep, int max, int timeout)
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

static int ctl(int ep, int op, int fd, unsigned events, unsigned long data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, op, fd, &ev);
}

struct later {
	int ms, fd;
	const char *s;
	pthread_t t;
};

static void *later_run(void *arg)
{
	struct later *l = arg;

	nap(l->ms);
	if (send(l->fd, l->s, strlen(l->s), 0) < 0)
		die("later");
	return NULL;
}

static void later(struct later *l, int ms, int fd, const char *s)
{
	*l = (struct later){ms, fd, s, 0};
	pthread_create(&l->t, NULL, later_run, l);
}

static volatile sig_atomic_t hits;

static void on_signal(int sig)
{
	hits++;
}

static void drain(int fd)
{
	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
}

/* ---- scenes ------------------------------------------------------------- */

static void scene_poll(void)
{
	struct pollfd p[6];
	struct later l;
	int a, b, pp[2];
	long t;

	pair(&a, &b);
	if (pipe(pp) < 0)
		die("pipe");
	p[0] = (struct pollfd){.fd = a, .events = POLLIN | POLLOUT | POLLRDHUP};
	do_poll("idle", p, 1, 0);
	p[0].events = POLLIN | POLLRDNORM;
	do_poll("in, idle", p, 1, 0);
	t = now_ms();
	do_poll("in, 60 ms", p, 1, 60);
	t = now_ms() - t;
	printf("time ok: %d\n", t >= 60 && t < 400);
	put(b, "hello");
	do_poll("in", p, 1, -1);
	do_poll("in, again", p, 1, 100);
	p[1] = (struct pollfd){.fd = -1, .events = POLLIN};
	p[2] = (struct pollfd){.fd = 877, .events = POLLIN};
	p[3] = (struct pollfd){.fd = pp[0], .events = POLLIN};
	p[4] = (struct pollfd){.fd = a, .events = POLLIN | POLLOUT};
	p[5] = (struct pollfd){.fd = b, .events = 0};
	if (write(pp[1], "x", 1) != 1)
		die("write");
	do_poll("mixed", p, 6, 1000);
	drain(a);
	do_poll("mixed, drained", p, 6, 0);
	p[0].events = POLLIN;
	p[1].fd = b;
	p[1].events = POLLOUT | POLLWRNORM;
	do_poll("out of the other", p, 2, 1000);
	for (int i = 0; i < 5; i++) {
		later(&l, 20, b, "late");
		do_poll("late", p, 1, -1);
		DO(recv(a, buf, sizeof(buf), 0));
		pthread_join(l.t, NULL);
	}
	later(&l, 20, b, "late");
	p[1] = (struct pollfd){.fd = pp[1], .events = POLLIN};
	do_poll("late, with a pipe", p, 2, 2000);
	pthread_join(l.t, NULL);
	do_poll("nobody", NULL, 0, 10);
	DO(poll(nowhere, 1, 0));
	drain(a);
	/* Only the end is of interest. */
	p[0].events = POLLRDHUP;
	put(b, "data");
	do_poll("rdhup, with data", p, 1, 50);
	DO(shutdown(b, SHUT_WR));
	nap(10);
	do_poll("rdhup", p, 1, 1000);
	p[0].events = POLLIN;
	do_poll("in at the end", p, 1, 1000);
	drain(a);
	do_poll("in after the end", p, 1, 1000);
	p[0].events = POLLOUT;
	do_poll("out after the end", p, 1, 1000);
	DO(shutdown(a, SHUT_WR));
	nap(10);
	p[0].events = 0;
	do_poll("hup", p, 1, 1000);
	close(a);
	close(b);
	close(pp[0]);
	close(pp[1]);
}

static void scene_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct itimerval it = {.it_value.tv_usec = 30000}, off = {.it_value.tv_usec = 0};
	struct pollfd p;
	sigset_t set, old, none;
	struct epoll_event ev;
	int a, b, ep;

	pair(&a, &b);
	sigaction(SIGALRM, &sa, NULL);
	sa.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &sa, NULL);
	p = (struct pollfd){.fd = a, .events = POLLIN};
	setitimer(ITIMER_REAL, &it, NULL);
	do_poll("with an alarm", &p, 1, 2000);
	setitimer(ITIMER_REAL, &off, NULL);
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	raise(SIGUSR1);
	hits = 0;
	DO(ppoll(&p, 1, &(struct timespec){0, 0}, &none));
	printf("hits %d\n", (int)hits);
	raise(SIGUSR1);
	put(b, "x");
	DO(ppoll(&p, 1, &(struct timespec){1, 0}, &none));
	printf("hits %d\n", (int)hits);
	drain(a);
	DO(ppoll(&p, 1, &(struct timespec){1, 0}, &none));
	printf("hits %d\n", (int)hits);
	DO(ppoll(&p, 1, &(struct timespec){0, 1000000000}, &none));
	ep = epoll_create1(0);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1);
	raise(SIGUSR1);
	DO(epoll_pwait(ep, &ev, 1, 1000, &none));
	printf("hits %d\n", (int)hits);
	raise(SIGUSR1);
	DO(epoll_pwait(ep, &ev, 1, 0, &none));
	printf("hits %d\n", (int)hits);
	raise(SIGUSR1);
	put(b, "x");
	DO(epoll_pwait(ep, &ev, 1, 1000, &none));
	printf("hits %d\n", (int)hits);
	drain(a);
	DO(epoll_pwait2(ep, &ev, 1, &(struct timespec){0, 20000000}, NULL));
	sigprocmask(SIG_SETMASK, &old, NULL);
	printf("hits %d\n", (int)hits);
	close(a);
	close(b);
	close(ep);
}

static void do_select(const char *what, int a, int b, int c, struct timeval *tv)
{
	fd_set in, out, ex;
	int max = a > b ? a : b, r;

	max = max > c ? max : c;
	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&ex);
	if (a >= 0)
		FD_SET(a, &in);
	if (b >= 0)
		FD_SET(b, &out);
	if (c >= 0)
		FD_SET(c, &ex);
	r = select(max + 1, &in, &out, &ex, tv);
	if (r < 0)
		printf("select %s: %s\n", what, strerrorname_np(errno));
	else
		printf("select %s: %d in %d out %d ex %d\n", what, r, a >= 0 && FD_ISSET(a, &in),
		       b >= 0 && FD_ISSET(b, &out), c >= 0 && FD_ISSET(c, &ex));
	fflush(stdout);
}

static void scene_select(void)
{
	struct timeval tv = {0, 50000};
	struct later l;
	fd_set in;
	int a, b, high;

	pair(&a, &b);
	do_select("idle", a, -1, a, &tv);
	printf("left %ld %ld\n", (long)tv.tv_sec, (long)tv.tv_usec);
	tv = (struct timeval){5, 0};
	do_select("out", a, a, a, &tv);
	printf("left %ld\n", (long)tv.tv_sec);
	put(b, "x");
	do_select("in and out", a, a, b, NULL);
	drain(a);
	tv = (struct timeval){2, 0};
	later(&l, 20, b, "late");
	do_select("late", a, -1, -1, &tv);
	pthread_join(l.t, NULL);
	printf("left %ld\n", (long)tv.tv_sec);
	drain(a);
	/* Below 64 the kernel has always room in its table, above that it depends. */
	close(63);
	tv = (struct timeval){0, 1000};
	do_select("bad", a, 63, -1, &tv);
	for (int far = 64; far < FD_SETSIZE; far = far * 2 + 1) {
		struct timespec zero = {0, 0};
		long raw;

		close(far);
		FD_ZERO(&in);
		FD_SET(far, &in);
		raw = xvm_sys(SYS_pselect6, far + 1, &in, NULL, NULL, &zero, NULL);
		FD_SET(a, &in);
		tv = (struct timeval){0, 1000};
		printf("far %d as the kernel has it: %d\n", far,
		       select(far + 1, &in, NULL, NULL, &tv) == (raw ? -1 : 0) &&
			       FD_ISSET(far, &in));
	}
	/* A number that nothing can have, and more than the sets have room for. */
	FD_ZERO(&in);
	FD_SET(a, &in);
	put(b, "x");
	DO(select(1 << 20, &in, NULL, NULL, NULL));
	DO(select(INT_MAX, &in, NULL, NULL, NULL));
	drain(a);
	DO(select(-1, NULL, NULL, NULL, &tv));
	tv = (struct timeval){-1, 0};
	do_select("bad time", a, -1, -1, &tv);
	high = fcntl(a, F_DUPFD, 300);
	put(b, "y");
	do_select("high", high, a, -1, NULL);
	FD_ZERO(&in);
	FD_SET(high, &in);
	DO(pselect(high + 1, &in, NULL, NULL, &(struct timespec){1, 0}, NULL));
	drain(a);
	shutdown(b, SHUT_WR);
	shutdown(a, SHUT_WR);
	nap(10);
	tv = (struct timeval){0, 20000};
	do_select("ex at the end", -1, -1, a, &tv);
	do_select("in at the end", a, -1, -1, NULL);
	close(a);
	close(b);
	close(high);
}

static void fill(int fd)
{
	static char junk[65536];

	for (int i = 0; i < 3; i++) {
		while (send(fd, junk, sizeof(junk), MSG_DONTWAIT) > 0)
			;
		nap(20);
	}
}

static void scene_room(void)
{
	struct pollfd p;
	int a, b, ep, ep2;

	pair(&a, &b);
	nonblock(a);
	ep = epoll_create1(0);
	ep2 = epoll_create1(0);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLOUT | EPOLLET, 7);
	ctl(ep2, EPOLL_CTL_ADD, a, EPOLLOUT, 8);
	do_epoll("et, room", ep, 4, 100);
	do_epoll("lt, room", ep2, 4, 100);
	fill(a);
	p = (struct pollfd){.fd = a, .events = POLLOUT};
	do_poll("full", &p, 1, 30);
	do_epoll("et, full", ep, 4, 30);
	do_epoll("lt, full", ep2, 4, 30);
	for (int i = 0; i < 50; i++) {
		drain(b);
		nap(2);
	}
	do_poll("room again", &p, 1, 2000);
	do_epoll("et, room again", ep, 4, 2000);
	do_epoll("et, no more", ep, 4, 30);
	do_epoll("lt, room again", ep2, 4, 2000);
	/* The reader wakes a sleeper. */
	for (int i = 0; i < 3; i++) {
		pid_t pid;
		int status;

		fill(a);
		do_epoll("lt, full", ep2, 4, 0);
		pid = fork();
		if (pid == 0) {
			nap(50);
			for (int k = 0; k < 200; k++) {
				drain(b);
				nap(1);
			}
			_exit(0);
		}
		do_epoll("lt, sleeping for room", ep2, 4, 5000);
		waitpid(pid, &status, 0);
		drain(b);
	}
	close(a);
	close(b);
	close(ep);
	close(ep2);
}

static void scene_epoll(void)
{
	int a, b, c, d, ep, pp[2], file, e2;
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

static void scene_edge(void)
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

static void scene_nested(void)
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

/* Threads that wait in one epoll. */
struct crowd {
	int ep, stop, fds[4];
	_Atomic int got, bytes;
	unsigned mode;
};

static void *crowd_run(void *arg)
{
	struct crowd *c = arg;
	struct epoll_event ev;
	ssize_t n;

	for (;;) {
		if (epoll_wait(c->ep, &ev, 1, -1) != 1)
			die("crowd");
		if ((int)ev.data.u32 == c->stop)
			return NULL;
		c->got++;
		while ((n = recv((int)ev.data.u32, buf, 1, MSG_DONTWAIT)) > 0)
			c->bytes += (int)n;
		if (c->mode & EPOLLONESHOT)
			ctl(c->ep, EPOLL_CTL_MOD, (int)ev.data.u32, EPOLLIN | c->mode, ev.data.u32);
	}
}

static void scene_crowd(unsigned mode)
{
	struct crowd c = {.mode = mode};
	pthread_t t[3];
	int b[4], pp[2];

	c.ep = epoll_create1(0);
	if (pipe(pp) < 0)
		die("pipe");
	c.stop = pp[0];
	ctl(c.ep, EPOLL_CTL_ADD, pp[0], EPOLLIN, (unsigned)pp[0]);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, crowd_run, &c);
	/* They sleep already: each registration must reach them. */
	for (int i = 0; i < 4; i++) {
		pair(&c.fds[i], &b[i]);
		ctl(c.ep, EPOLL_CTL_ADD, c.fds[i], EPOLLIN | mode, (unsigned)c.fds[i]);
	}
	for (int i = 0; i < 400; i++) {
		int before = c.bytes;

		if (send(b[i % 4], "x", 1, 0) != 1)
			die("send");
		if (i % 8 == 0)
			continue; /* two at once */
		for (int k = 0; k < 5000 && c.bytes < before + 1; k++)
			nap(1);
	}
	for (int k = 0; k < 5000 && c.bytes < 400; k++)
		nap(1);
	printf("crowd %x: bytes %d\n", mode, (int)c.bytes);
	if (write(pp[1], "x", 1) != 1)
		die("write");
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 4; i++) {
		close(b[i]);
		close(c.fds[i]);
	}
	close(c.ep);
	close(pp[0]);
	close(pp[1]);
}

/* Left to the kernel because nothing happened for long, and then used by other calls than waits. */
static void scene_cold(void)
{
	int a, b, ep = epoll_create1(0), e2 = epoll_create1(0);
	struct later l;

	pair(&a, &b);
	nonblock(a);
	nonblock(b);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	ctl(e2, EPOLL_CTL_ADD, b, EPOLLIN, 2);
	do_epoll("first", ep, 8, 100);
	for (int i = 0; i < 100; i++)
		if (epoll_wait(ep, &(struct epoll_event){0}, 1, 1) ||
		    epoll_wait(e2, &(struct epoll_event){0}, 1, 1))
			printf("not idle\n");
	/* Read without waiting: whatever woke the kernel is gone. */
	for (int i = 0; i < 3; i++) {
		put(a, "x");
		for (int k = 0; k < 40; k++)
			if (recv(b, buf, sizeof(buf), 0) > 0)
				printf("taken\n");
		later(&l, 20, a, "y");
		do_epoll("after a read", e2, 8, 3000);
		pthread_join(l.t, NULL);
		drain(b);
		for (int k = 0; k < 100; k++)
			if (epoll_wait(e2, &(struct epoll_event){0}, 1, 1))
				printf("not idle\n");
	}
	/* A short send means no room, as EAGAIN does. */
	do_epoll("before", ep, 8, 20);
	printf("short: %d\n", send(a, huge, sizeof(huge), 0) < (ssize_t)sizeof(huge));
	do_epoll("short", ep, 8, 20);
	for (int i = 0; i < 50; i++) {
		drain(b);
		nap(1);
	}
	do_epoll("room", ep, 8, 3000);
	/* Written full without waiting. */
	do_epoll("before", ep, 8, 20);
	fill(a);
	do_epoll("full", ep, 8, 20);
	for (int i = 0; i < 50; i++) {
		drain(b);
		nap(1);
	}
	do_epoll("room", ep, 8, 3000);
	close(a);
	close(b);
	close(ep);
	close(e2);
}

/* Registered before there is a connection, and before a fork. */
static void scene_early(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int l, a, b, ep = epoll_create1(0), status, err;
	pid_t pid;

	l = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&sin, &len) < 0)
		die("listen");
	a = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	err = connect(a, (struct sockaddr *)&sin, sizeof(sin));
	printf("connect: %d\n", err < 0 && errno != EINPROGRESS);
	b = accept(l, NULL, NULL);
	nap(10);
	while (epoll_wait(ep, &(struct epoll_event){0}, 1, 20) > 0)
		;
	for (int i = 0; i < 60; i++) {
		struct epoll_event ev;

		if (send(b, "ping", 4, 0) != 4)
			die("send");
		do {
			if (epoll_wait(ep, &ev, 1, 5000) != 1) {
				printf("early: lost in round %d\n", i);
				return;
			}
		} while (!(ev.events & EPOLLIN));
		if (recv(a, buf, 64, 0) != 4 || send(a, "pong", 4, 0) != 4 ||
		    recv(b, buf, 64, 0) != 4)
			die("early");
		if (i == 20 || i == 30)
			nap(30);
	}
	printf("early: done\n");
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		int n = 0;
		struct epoll_event ev;

		close(b);
		for (int i = 0; i < 20; i++) {
			do {
				if (epoll_wait(ep, &ev, 1, 5000) != 1)
					_exit(100 + i);
			} while (!(ev.events & EPOLLIN));
			while (recv(a, buf, 64, 0) > 0)
				n++;
			if (send(a, "pong", 4, 0) != 4)
				_exit(50);
		}
		_exit(n >= 20 ? 0 : 60);
	}
	close(a);
	for (int i = 0; i < 20; i++) {
		if (send(b, "ping", 4, 0) != 4 || recv(b, buf, 4, MSG_WAITALL) != 4)
			break;
		nap(i % 3);
	}
	waitpid(pid, &status, 0);
	printf("forked: %d\n", status);
	close(b);
	close(l);
	close(ep);
}

/* The original is closed, a copy is left: the kernel goes on to report it. */
static void scene_copies(void)
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

/* Two threads in one epoll, each of which keeps what it was given: what comes next is the other's
 * to hear of, though the first does not come back. */
struct worker {
	int ep, done, hold;
};

static void *worker_run(void *arg)
{
	struct worker *w = arg;
	struct epoll_event ev;
	char c = '!';

	/* Level-triggered: the other may have been faster. */
	while (epoll_wait(w->ep, &ev, 1, 10000) == 1 && recv(ev.data.fd, &c, 1, MSG_DONTWAIT) < 0)
		;
	if (write(w->done, &c, 1) != 1 || read(w->hold, &c, 1) < 0)
		die("worker");
	return NULL;
}

static void workers(int ep, int *to, unsigned n, const char *what)
{
	int done[2], hold[2];
	struct worker w;
	pthread_t t[2];
	char c;

	if (pipe(done) < 0 || pipe(hold) < 0)
		die("pipe");
	w = (struct worker){ep, done[1], hold[0]};
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, worker_run, &w);
	nap(20); /* both in it, as a rule */
	for (unsigned i = 0; i < 2; i++) {
		put(to[i % n], i ? "2" : "1");
		if (read(done[0], &c, 1) != 1)
			die("done");
		printf("%s: %c\n", what, c);
	}
	close(hold[1]);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	close(hold[0]);
	close(done[0]);
	close(done[1]);
}

static void scene_shared(void)
{
	int to[2], from[2], ep = epoll_create1(0), st;
	pid_t pid;

	for (int i = 0; i < 2; i++) {
		pair(&to[i], &from[i]);
		DO(ctl(ep, EPOLL_CTL_ADD, from[i], EPOLLIN, (unsigned long)from[i]));
	}
	for (int i = 0; i < 5; i++) {
		workers(ep, to, 1, "one socket");
		workers(ep, to, 2, "two sockets");
	}
	/* A fork's child is woken by other means. */
	fflush(stdout);
	pid = fork();
	if (!pid) {
		workers(ep, to, 1, "one socket, in a child");
		workers(ep, to, 2, "two sockets, in a child");
		fflush(stdout);
		_exit(0);
	}
	waitpid(pid, &st, 0);
	say("child", st);
	for (int i = 0; i < 2; i++) {
		close(to[i]);
		close(from[i]);
	}
	close(ep);
}

int main(int argc, char **argv)
{
	static const char *const only =
		"poll signals select room epoll edge nested crowd cold early copies shared";
	const char *want = argc > 1 ? argv[1] : only;

	signal(SIGPIPE, SIG_IGN);
	if (strstr(want, "poll"))
		scene_poll();
	if (strstr(want, "signals"))
		scene_signals();
	if (strstr(want, "select"))
		scene_select();
	if (strstr(want, "room"))
		scene_room();
	if (strstr(want, "epoll"))
		scene_epoll();
	if (strstr(want, "edge"))
		scene_edge();
	if (strstr(want, "nested"))
		scene_nested();
	if (strstr(want, "crowd")) {
		scene_crowd(0);
		scene_crowd(EPOLLET);
		scene_crowd(EPOLLONESHOT);
	}
	if (strstr(want, "cold"))
		scene_cold();
	if (strstr(want, "early"))
		scene_early();
	if (strstr(want, "copies"))
		scene_copies();
	if (strstr(want, "shared"))
		scene_shared();
	return 0;
}
