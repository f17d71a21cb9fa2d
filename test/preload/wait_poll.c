/* SPDX-License-Identifier: Apache-2.0 */
/* poll and select. */
#include "test/preload/same_wait.h"

#include <limits.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/time.h>

#include "transport/sys.h"

static void *volatile nowhere = (void *)16;

static volatile sig_atomic_t hits;

static void on_signal(int sig)
{
	hits++;
}

void scene_poll(void)
{
	struct pollfd p[6], many[201];
	volatile nfds_t much = (nfds_t)-1;
	struct rlimit old, few;
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
	getrlimit(RLIMIT_NOFILE, &old);
	few = old;
	few.rlim_cur = 200;
	setrlimit(RLIMIT_NOFILE, &few);
	for (int i = 0; i < 201; i++)
		many[i] = (struct pollfd){.fd = a, .events = POLLIN};
	DO(poll(many, 201, 0));
	DO(poll(many, 200, 0));
	DO(poll(many, much, 0));
	DO(ppoll(many, 201, &(struct timespec){0, 0}, NULL));
	setrlimit(RLIMIT_NOFILE, &old);
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

void scene_signals(void)
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

void scene_select(void)
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
