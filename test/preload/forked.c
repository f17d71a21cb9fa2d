/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A handler that calls fork() while it interrupts a call on a socket, or a wait: in its sleep, or
 * between any two of its instructions, by the processor's single-step trap. Parent and child both
 * come back from the handler and end the call. Whatever the child got, it got it right; to the
 * parent it is as if nothing had happened, and the connection goes on.
 */
#include "test/preload/same.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>

static int a, b, ep, outer;
static volatile pid_t child;
static int go[2]; /* closed by the parent, for the child to go on */
static char one[8];
static volatile bool closes; /* the child closes all in the handler */

static void fork_now(void)
{
	child = fork();
	if (child < 0)
		_exit(9);
	if (child)
		return;
	alarm(10);   /* it does not hang */
	if (go[1]) { /* and who was first is not left to chance */
		close(go[1]);
		while (read(go[0], one, 1) < 0)
			;
	}
	if (closes) {
		close(a);
		close(b);
		close(ep);
		close(outer);
	}
}

/* The end of a child is its verdict. */
static void verdict(const char *what, int at)
{
	int st = 0;

	if (waitpid(child, &st, 0) != child || st) {
		printf("%s, at %d: the child ends with %x\n", what, at, st);
		exit(1);
	}
}

/* ---- asleep -------------------------------------------------------------- */

static void on_usr1(int sig)
{
	int e = errno;

	fork_now();
	errno = e;
}

static void *kick(void *arg)
{
	nap(30);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void exchange(void)
{
	char got[8] = "";
	int n;

	for (int i = 0; i < 3; i++) {
		put(b, "data");
		do_epoll("told", ep, 8, 5000);
		do_epoll("told outside", outer, 8, 5000);
		n = (int)recv(a, got, sizeof(got), 0);
		printf("received %d: %.4s\n", n, got);
		do_epoll("no more", ep, 8, 0);
	}
	DO(ctl(ep, EPOLL_CTL_MOD, a, EPOLLIN, 1));
}

static void by_recv(void)
{
	DO(recv(a, one, 1, 0));
}

static void by_send(void)
{
	ssize_t r;

	do
		r = send(a, buf, sizeof(buf), 0);
	while (r > 0 && child == -1);
	printf("sent\n");
}

static void by_poll(void)
{
	struct pollfd p[2] = {{.fd = a, .events = POLLIN}, {.fd = ep, .events = POLLIN}};

	DO(poll(p, 2, 10000));
}

static void by_epoll(void)
{
	do_epoll("wait", ep, 8, 10000);
}

static void by_outer(void)
{
	do_epoll("outer wait", outer, 8, 10000);
}

static void empty(void)
{
	for (int i = 0; i < 5; i++) {
		drain(a);
		drain(b);
		nap(5);
	}
}

static void asleep(const char *what, void (*call)(void))
{
	pthread_t me = pthread_self(), t;

	printf("%s%s\n", what, closes ? ", closed in the child" : "");
	fflush(stdout);
	child = -1;
	if (call == by_send)
		fill(a);
	pthread_create(&t, NULL, kick, &me);
	call();
	if (child == 0) {
		if (!closes && call != by_send)
			exchange();
		fflush(stdout);
		_exit(0);
	}
	pthread_join(t, NULL);
	verdict(what, 0);
	empty();
	exchange();
}

static void open_all(bool used)
{
	if (used)
		pair(&a, &b);
	else
		join(&a, &b);
	ep = epoll_create1(EPOLL_CLOEXEC);
	outer = epoll_create1(EPOLL_CLOEXEC);
	DO(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1));
	DO(ctl(outer, EPOLL_CTL_ADD, ep, EPOLLIN, 3));
}

/* And their ends are told. */
static void close_all(void)
{
	put(b, "end");
	close(b);
	DO(recv(a, buf, 10, MSG_WAITALL));
	do_epoll("the end", ep, 8, 1000);
	close(a);
	close(ep);
	close(outer);
}

static void all_asleep(bool used)
{
	for (int i = 0; i < 2; i++) {
		open_all(used);
		closes = i;
		asleep("recv", by_recv);
		asleep("recv again", by_recv);
		asleep("poll", by_poll);
		asleep("epoll_wait", by_epoll);
		asleep("epoll_wait again", by_epoll);
		asleep("epoll_wait outside", by_outer);
		asleep("send", by_send);
		warm(a, b);
		asleep("recv, used", by_recv);
		close_all();
	}
	closes = false;
}

static void scene_asleep(void)
{
	struct sigaction sa = {.sa_handler = on_usr1};

	sigaction(SIGUSR1, &sa, NULL);
	all_asleep(true);
	all_asleep(false);
}

/* ---- between two instructions ------------------------------------------- */

#if defined(__x86_64__)
#include <ucontext.h>

#define TRAP_FLAG 0x100

static enum { OFF, BEGIN, STEP } stepping;
static volatile bool over; /* the call */
static long left;
static unsigned round_;

static void on_trap(int sig, siginfo_t *si, void *arg)
{
	greg_t *flags = &((ucontext_t *)arg)->uc_mcontext.gregs[REG_EFL];
	int e = errno;

	if (stepping == BEGIN) {
		stepping = STEP;
		*flags |= TRAP_FLAG;
	} else if (stepping == OFF || left-- == 0) {
		*flags &= ~(greg_t)TRAP_FLAG;
		if (stepping == STEP && !over)
			fork_now();
		stepping = OFF;
	}
	errno = e;
}

/* What the child may be told: what the parent is, or what a reset, an interrupted call or a lost
 * race says. */
static bool right(long r, long want)
{
	return r == want || (r == -1 && (errno == EINTR || errno == EAGAIN || errno == ENOTCONN ||
					 errno == ECONNRESET || errno == EPIPE));
}

struct stepped {
	const char *name;
	void (*before)(void);
	long (*call)(void);
	void (*after)(void);
	long want;
	int each; /* of so many instructions */
};

static void tell(char c)
{
	if (send(b, &c, 1, 0) != 1)
		die("tell");
}

static void one_there(void)
{
	tell((char)('a' + round_ % 26));
}

static long take_one(void)
{
	long r = recv(a, one, 1, MSG_DONTWAIT);

	if (r == 1 && *one != (char)('a' + round_ % 26)) {
		printf("received %c for %c\n", *one, (char)('a' + round_ % 26));
		exit(1);
	}
	return r;
}

static long send_one(void)
{
	char c = (char)('a' + round_ % 26);

	return send(b, &c, 1, MSG_NOSIGNAL);
}

/* In the parent alone, or the child has done it as well. */
static void take_sent(void)
{
	char got[4];
	long n = recv(a, got, sizeof(got), 0);

	if (n < 1 || n > 2 || *got != (char)('a' + round_ % 26)) {
		printf("%ld received, of %c\n", n, (char)('a' + round_ % 26));
		exit(1);
	}
}

static long wait_ready(void)
{
	struct epoll_event ev;

	return epoll_wait(ep, &ev, 1, 5000);
}

static long wait_none(void)
{
	struct epoll_event ev;

	return epoll_wait(ep, &ev, 1, 1);
}

static long poll_none(void)
{
	struct pollfd p = {.fd = a, .events = POLLIN};

	return poll(&p, 1, 1);
}

static long change(void)
{
	return ctl(ep, EPOLL_CTL_DEL, a, 0, 0) < 0	   ? -1
	       : ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1) < 0 ? -1
							   : 1;
}

static void take_it(void)
{
	if (take_one() != 1)
		die("lost");
}

static void nothing(void)
{
}

/* After its call, in the child: what it has is right, and nothing blocks it for long. */
static void child_ends(const struct stepped *s, long r)
{
	char got[16];
	struct pollfd p = {.fd = a, .events = POLLIN};

	if (!right(r, s->want) && s->call != change && s->want)
		_exit(3);
	poll(&p, 1, 0);
	wait_none();
	r = recv(a, got, sizeof(got), MSG_DONTWAIT | MSG_PEEK);
	if (r > 0 && *got != (char)('a' + round_ % 26))
		_exit(4);
	close(a);
	close(b);
	_exit(0);
}

static void between(const struct stepped *s)
{
	long r;

	for (int at = 0;; at += s->each) {
		round_++;
		s->before();
		child = -1;
		left = at;
		if (pipe(go) < 0)
			die("pipe");
		over = false;
		stepping = BEGIN;
		raise(SIGTRAP);
		r = s->call();
		over = true;
		if (child == 0)
			child_ends(s, r);
		close(go[0]);
		close(go[1]);
		if (r != s->want) {
			printf("%s, at %d: %ld (%s)\n", s->name, at, r, strerror(errno));
			exit(1);
		}
		if (stepping != OFF) {
			stepping = OFF;
			raise(SIGTRAP);
		}
		if (child < 0) {
			s->after();
			break;
		}
		verdict(s->name, at);
		s->after();
	}
	printf("%s\n", s->name);
	fflush(stdout);
}

static void scene_between(void)
{
	static const struct stepped all[] = {
		{"recv", one_there, take_one, nothing, 1, 2},
		{"recv of nothing", nothing, take_one, nothing, -1, 7},
		{"send", nothing, send_one, take_sent, 1, 2},
		{"poll", nothing, poll_none, nothing, 0, 13},
		{"epoll_wait", one_there, wait_ready, take_it, 1, 7},
		{"epoll_wait for nothing", nothing, wait_none, nothing, 0, 13},
		{"epoll_ctl", nothing, change, nothing, 1, 5},
	};
	struct sigaction sa = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

	sigaction(SIGTRAP, &sa, NULL);
	open_all(true);
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		warm(a, b);
		between(&all[i]);
	}
	exchange();
	close_all();
}
#endif

int main(int argc, char **argv)
{
	static const struct scene scenes[] = {
		{"asleep", scene_asleep},
#if defined(__x86_64__)
		{"between", scene_between},
#endif
		{NULL, NULL},
	};

	return play(scenes, argv + (argc > 0));
}
