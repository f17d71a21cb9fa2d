/* SPDX-License-Identifier: Apache-2.0 */
/* Timeouts, signals, cancellation, and what other threads do to a call that waits. */
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "test/preload/same_calls.h"

static void set_timeout(int fd, int name, long sec, long usec)
{
	struct timeval tv = {sec, usec};

	DO(setsockopt(fd, SOL_SOCKET, name, &tv, sizeof(tv)));
}

#define TIMED(least, call)                                                                         \
	do {                                                                                       \
		long t_ = now_ms();                                                                \
		DO(call);                                                                          \
		t_ = now_ms() - t_;                                                                \
		printf("time ok: %d\n", t_ >= (least)-10 && t_ < (least) + 500);                   \
	} while (0)

static char big[16 << 20];

/* More than any buffer takes. TCP may make room for some of it at any time: not printed. */
static void not_all(const char *what, ssize_t r)
{
	printf("%s: %s\n", what,
	       r >= 0				   ? r < (ssize_t)sizeof(big) ? "not all" : "all"
	       : errno == EAGAIN || errno == EINTR ? "not all"
						   : strerrorname_np(errno));
}

static void timed_send(int fd, int flags)
{
	long t = now_ms();

	not_all("send", send(fd, big, sizeof(big), flags));
	t = now_ms() - t;
	printf("time ok: %d\n", flags ? t < 500 : t >= 50 && t < 1500);
}

void scene_timeouts(void)
{
	struct later l;
	int a, b;

	pair(&a, &b);
	set_timeout(a, SO_RCVTIMEO, 0, 60000);
	TIMED(60, recv(a, buf, 10, 0));
	TIMED(60, read(a, buf, 10));
	TIMED(0, recv(a, buf, 10, MSG_DONTWAIT));
	put(b, "12345");
	TIMED(60, recv(a, buf, 10, MSG_WAITALL));
	put(b, "12345");
	TIMED(60, recv(a, buf, 10, MSG_PEEK | MSG_WAITALL));
	drain(a);
	/* The time of the call, not of each wait. */
	set_timeout(a, SO_RCVTIMEO, 1, 0);
	later(&l, 300, b, "12345");
	TIMED(1000, recv(a, buf, 10, MSG_WAITALL));
	pthread_join(l.t, NULL);
	set_timeout(a, SO_RCVTIMEO, 0, 1000000);
	set_timeout(a, SO_RCVTIMEO, 0, -1);
	set_timeout(a, SO_RCVTIMEO, -1, 0);
	TIMED(0, recv(a, buf, 10, 0));
	set_timeout(a, SO_RCVTIMEO, 0x7fffffffffffffff, 0);
	later(&l, 20, b, "12345");
	TIMED(20, recv(a, buf, 10, 0));
	pthread_join(l.t, NULL);
	set_timeout(a, SO_RCVTIMEO, 0, 0);
	later(&l, 60, b, "12345");
	TIMED(60, recv(a, buf, 10, 0));
	pthread_join(l.t, NULL);
	/* Sending. */
	set_timeout(a, SO_SNDTIMEO, 0, 60000);
	timed_send(a, 0);
	fill(a);
	timed_send(a, 0);
	timed_send(a, 0);
	timed_send(a, MSG_DONTWAIT);
	/* A poll has nothing to do with it. */
	TIMED(100, poll(&(struct pollfd){.fd = a, .events = POLLOUT}, 1, 100));
	close(a);
	close(b);
}

/* What was set on a connection before it could be on a ring holds there. */
void scene_before(void)
{
	int a, b;

	join(&a, &b);
	set_timeout(a, SO_RCVTIMEO, 0, 60000);
	set_timeout(a, SO_SNDTIMEO, 0, 60000);
	warm(a, b);
	TIMED(60, recv(a, buf, 10, 0));
	put(b, "12345");
	TIMED(60, recv(a, buf, 10, MSG_WAITALL));
	fill(a);
	timed_send(a, 0);
	close(a);
	close(b);

	pair(&a, &b);
	nonblock(a);
	TIMED(0, recv(a, buf, 10, 0));
	put(b, "12345");
	TIMED(0, recv(a, buf, 10, MSG_WAITALL));
	timed_send(a, MSG_DONTWAIT);
	fcntl(a, F_SETFL, 0);
	set_timeout(a, SO_RCVTIMEO, 0, 60000);
	TIMED(60, recv(a, buf, 10, 0));
	close(a);
	close(b);
}

static volatile sig_atomic_t hits;

static void on_signal(int sig)
{
	hits++;
}

/* Input that is told by a signal. */
void scene_async(void)
{
	struct sigaction sa = {.sa_handler = on_signal}, old;
	int a, b;

	sigaction(SIGIO, &sa, &old);
	for (int i = 0; i < 3; i++) {
		join(&a, &b);
		if (i == 2) /* before it is paired */
			fcntl(a, F_SETFL, fcntl(a, F_GETFL) | O_ASYNC);
		warm(a, b);
		DO(fcntl(a, F_SETOWN, getpid()));
		if (i == 0)
			DO(fcntl(a, F_SETFL, fcntl(a, F_GETFL) | O_ASYNC));
		else if (i == 1)
			DO(ioctl(a, FIOASYNC, &(int){1}));
		for (int k = 0; k < 3; k++) {
			hits = 0;
			put(b, "x");
			nap(20);
			printf("told %d\n", hits > 0);
			DO(recv(a, buf, 10, 0));
		}
		hits = 0;
		put(a, "y");
		DO(recv(b, buf, 10, 0));
		DO(shutdown(b, SHUT_WR));
		nap(20);
		printf("told of the end %d\n", hits > 0);
		DO(recv(a, buf, 10, 0));
		close(a);
		close(b);
	}
	sigaction(SIGIO, &old, NULL);
}

struct kick {
	pthread_t who, t;
	int ms, times;
};

static void *kick_run(void *arg)
{
	struct kick *k = arg;

	for (int i = 0; i < k->times; i++) {
		nap(k->ms);
		pthread_kill(k->who, SIGUSR2);
	}
	return NULL;
}

static void kick(struct kick *k, int ms, int times)
{
	sigset_t set, old;

	k->who = pthread_self();
	k->ms = ms;
	k->times = times;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	pthread_create(&k->t, NULL, kick_run, k);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void handler(int flags)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = flags};

	sigaction(SIGUSR2, &sa, NULL);
}

void scene_signals(void)
{
	struct sigaction old, dfl = {.sa_handler = SIG_DFL}, other = {.sa_handler = on_signal};
	struct epoll_event ev;
	struct pollfd p;
	struct later l;
	struct kick k;
	fd_set in;
	int a, b, ep = epoll_create1(0);

	pair(&a, &b);
	/* No other handler is in the way. */
	sigaction(SIGPIPE, NULL, &old);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1);
	p = (struct pollfd){.fd = a, .events = POLLIN};
#define KICKED(call)                                                                               \
	do {                                                                                       \
		hits = 0;                                                                          \
		kick(&k, 30, 1);                                                                   \
		DO(call);                                                                          \
		pthread_join(k.t, NULL);                                                           \
		printf("hits %d\n", (int)hits);                                                    \
	} while (0)
	handler(0);
	KICKED(recv(a, buf, 10, 0));
	KICKED(read(a, buf, 10));
	KICKED(poll(&p, 1, 2000));
	KICKED(epoll_wait(ep, &ev, 1, 2000));
	FD_ZERO(&in);
	FD_SET(a, &in);
	KICKED(select(a + 1, &in, NULL, NULL, NULL));
	put(b, "123");
	KICKED(recv(a, buf, 10, MSG_WAITALL));
	handler(SA_RESTART);
	later(&l, 80, b, "after");
	KICKED(recv(a, buf, 10, 0));
	pthread_join(l.t, NULL);
	KICKED(poll(&p, 1, 2000));
	KICKED(epoll_wait(ep, &ev, 1, 2000));
	FD_ZERO(&in);
	FD_SET(a, &in);
	KICKED(select(a + 1, &in, NULL, NULL, NULL));
	/* With something done, even a call that would be restarted returns. */
	put(b, "123");
	KICKED(recv(a, buf, 10, MSG_WAITALL));
	/* With a timeout it is not restarted. */
	set_timeout(a, SO_RCVTIMEO, 2, 0);
	KICKED(recv(a, buf, 10, 0));
	set_timeout(a, SO_RCVTIMEO, 0, 0);
	/* The handler that runs decides, whatever others say. */
	other.sa_flags = 0;
	sigaction(SIGUSR1, &other, NULL);
	for (int i = 0; i < 2; i++) {
		later(&l, 80, b, "after");
		KICKED(recv(a, buf, 10, 0));
		pthread_join(l.t, NULL);
		signal(SIGSEGV, on_signal);
	}
	other.sa_flags = SA_RESTART;
	sigaction(SIGUSR1, &other, NULL);
	handler(0);
	KICKED(recv(a, buf, 10, 0));
	KICKED(read(a, buf, 10));
	handler(SA_RESTART);
	other.sa_handler = SIG_DFL;
	sigaction(SIGUSR1, &other, NULL);
	signal(SIGSEGV, SIG_DFL);
	/* Sending. */
	hits = 0;
	kick(&k, 60, 1);
	not_all("send, interrupted", send(a, big, sizeof(big), 0));
	pthread_join(k.t, NULL);
	fill(a);
	handler(0);
	kick(&k, 60, 1);
	not_all("send, interrupted", send(a, big, sizeof(big), 0));
	pthread_join(k.t, NULL);
	set_timeout(a, SO_SNDTIMEO, 2, 0);
	handler(SA_RESTART);
	kick(&k, 60, 1);
	not_all("send, interrupted", send(a, big, sizeof(big), 0));
	pthread_join(k.t, NULL);
	/* Ignored signals, and those that stop and go on, interrupt nothing. */
	drain(b);
	signal(SIGUSR2, SIG_IGN);
	set_timeout(a, SO_RCVTIMEO, 0, 100000);
	KICKED(recv(a, buf, 10, 0));
	sigaction(SIGUSR2, &dfl, NULL);
	close(a);
	close(b);
	close(ep);
}

struct victim {
	int fd, what;
	_Atomic int started;
	long result;
	int err;
};

static void *victim_run(void *arg)
{
	struct victim *v = arg;
	struct pollfd p = {.fd = v->fd, .events = POLLIN};
	struct iovec iov = {buf, 10};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct epoll_event ev;
	fd_set in;
	int ep = -1;

	FD_ZERO(&in);
	FD_SET(v->fd, &in);
	v->started = 1;
	switch (v->what) {
	case 0:
		recv(v->fd, buf, 10, 0);
		break;
	case 1:
		read(v->fd, buf, 10);
		break;
	case 2:
		(void)recvmsg(v->fd, &m, 0);
		break;
	case 3:
		readv(v->fd, &iov, 1);
		break;
	case 4:
		for (;;)
			send(v->fd, big, 100000, 0);
	case 5:
		for (;;)
			write(v->fd, big, 100000);
	case 6:
		poll(&p, 1, -1);
		break;
	case 7:
		ppoll(&p, 1, NULL, NULL);
		break;
	case 8:
		select(v->fd + 1, &in, NULL, NULL, NULL);
		break;
	case 9:
		ep = epoll_create1(0);
		ctl(ep, EPOLL_CTL_ADD, v->fd, EPOLLIN, 1);
		epoll_wait(ep, &ev, 1, -1);
		break;
	case 10: /* there is always something: the call is a cancellation point all the same */
		for (;;)
			recv(v->fd, buf, 1, MSG_PEEK);
	case 11:
		for (;;)
			poll(&p, 1, -1);
	case 12:
		for (;;)
			recv(v->fd, buf, 1, MSG_DONTWAIT);
	case 13:
		for (;;)
			if (send(v->fd, buf, 1, MSG_DONTWAIT) < 0 && errno != EAGAIN)
				break;
		break;
	case 14:
		ep = epoll_create1(0);
		ctl(ep, EPOLL_CTL_ADD, v->fd, EPOLLIN, 1);
		for (;;)
			epoll_wait(ep, &ev, 1, -1);
	}
	return (void *)1;
}

void scene_cancel(void)
{
	static const char *const names[] = {
		"recv",	 "read",	"recvmsg",    "readv",	    "send",
		"write", "poll",	"ppoll",      "select",	    "epoll_wait",
		"peek",	 "poll, ready", "recv, busy", "send, busy", "epoll_wait, ready",
	};
	int a, b;

	for (int i = 0; i < 15; i++) {
		struct victim v = {.what = i};
		pthread_t t;
		void *r;

		pair(&a, &b);
		v.fd = a;
		if (i == 10 || i == 11 || i == 14)
			put(b, "x");
		for (int k = 0; k < 2; k++) {
			v.started = 0;
			pthread_create(&t, NULL, victim_run, &v);
			while (!v.started)
				nap(1);
			nap(20);
			pthread_cancel(t);
			pthread_join(t, &r);
			printf("%s: cancelled %d\n", names[i], r == PTHREAD_CANCELED);
		}
		/* No lock is left held, and nobody is left counted: it works, and it ends. */
		if (i == 4 || i == 5 || i == 13) {
			for (int k = 0; k < 50; k++) {
				drain(b);
				nap(1);
			}
		} else {
			put(b, "after");
			DO(recv(a, buf, 100, 0) >= 5);
		}
		put(a, "back");
		DO(recv(b, buf, 100, 0));
		close(a);
		do_poll("the end", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 2000);
		DO(recv(b, buf, 100, MSG_DONTWAIT));
		close(b);
	}
}

static void *reader_run(void *arg)
{
	struct pollfd p = {.events = POLLIN};
	struct victim *v = arg;
	static char mine[100];

	p.fd = v->fd;
	v->started = 1;
	v->result = v->what ? poll(&p, 1, 3000) : recv(v->fd, mine, sizeof(mine), 0);
	v->err = errno;
	return NULL;
}

static void outcome(struct victim *v, pthread_t t)
{
	pthread_join(t, NULL);
	errno = v->err;
	say("the blocked call", v->result);
}

static void blocked(struct victim *v, pthread_t *t, int fd, int what)
{
	*v = (struct victim){.fd = fd, .what = what};
	pthread_create(t, NULL, reader_run, v);
	while (!v->started)
		nap(1);
	nap(30);
}

static void *lowat_run(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < 20; i++) {
		setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &(int){3000}, sizeof(int));
		setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &(int){10}, sizeof(int));
	}
	return NULL;
}

/* SO_RCVLOWAT is set by one thread while others wait: in the end what was set last holds. */
void scene_lowat(void)
{
	struct pollfd p[3];
	int a, b, told = 0;
	pthread_t t[2];

	pair(&a, &b);
	for (int i = 0; i < 3; i++)
		p[i] = (struct pollfd){.fd = a, .events = POLLIN};
	for (int i = 0; i < 40; i++) {
		for (int k = 0; k < 2; k++)
			pthread_create(&t[k], NULL, lowat_run, &a);
		send(b, buf, 5, 0);
		for (int k = 0; k < 40; k++)
			poll(p, 3, k % 2);
		for (int k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		send(b, buf, 5, 0);
		told += poll(p, 1, 2000) == 1;
		recv(a, buf, 100, MSG_DONTWAIT);
	}
	printf("told of ten: %d\n", told);
	close(a);
	close(b);
}

/* Closed, shut down or replaced by another thread: the blocked call goes on with what it had. */
static void *crowd_run(void *arg)
{
	struct pollfd p = {.fd = *(int *)arg, .events = POLLIN};

	poll(&p, 1, 20000);
	return NULL;
}

/* More sleep at once than there are eventfds for, and the number is another file's by the time that
 * something comes. */
static void crowded(void)
{
	int a, b, c, d, pp[2];
	pthread_t t, crowd[64];
	struct victim v;

	pair(&a, &b);
	pair(&c, &d);
	if (pipe(pp) < 0)
		die("pipe");
	for (unsigned i = 0; i < 64; i++)
		pthread_create(&crowd[i], NULL, crowd_run, &c);
	nap(50);
	blocked(&v, &t, a, 0);
	close(a);
	dup2(pp[0], a);
	put(b, "data");
	outcome(&v, t);
	do_poll("ended", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 1000);
	put(d, "x");
	for (unsigned i = 0; i < 64; i++)
		pthread_join(crowd[i], NULL);
	close(a);
	close(b);
	close(c);
	close(d);
	close(pp[0]);
	close(pp[1]);
}

void scene_closed(void)
{
	struct victim v;
	pthread_t t;
	int a, b, c, d;

	pair(&a, &b);
	blocked(&v, &t, a, 0);
	DO(shutdown(a, SHUT_RDWR));
	outcome(&v, t);
	close(a);
	close(b);

	pair(&a, &b);
	blocked(&v, &t, a, 0);
	shutdown(a, SHUT_RDWR);
	close(a);
	outcome(&v, t);
	close(b);

	pair(&a, &b);
	blocked(&v, &t, a, 1);
	shutdown(a, SHUT_RDWR);
	close(a);
	outcome(&v, t);
	close(b);

	pair(&a, &b);
	blocked(&v, &t, a, 0);
	close(a);
	do_poll("not ended while the call goes on", &(struct pollfd){.fd = b, .events = POLLIN}, 1,
		30);
	put(b, "data");
	outcome(&v, t);
	do_poll("ended", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 1000);
	DO(recv(b, buf, 10, 0));
	close(b);

	pair(&a, &b);
	pair(&c, &d);
	blocked(&v, &t, a, 0);
	dup2(c, a);
	put(d, "other");
	put(b, "data");
	outcome(&v, t);
	DO(recv(a, buf, 100, MSG_DONTWAIT));
	do_poll("ended", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 1000);
	close(a);
	close(b);
	close(c);
	close(d);

	pair(&a, &b);
	c = dup(a);
	blocked(&v, &t, a, 0);
	close(a);
	put(b, "data");
	outcome(&v, t);
	put(b, "more");
	DO(recv(c, buf, 100, 0));
	close(b);
	close(c);

	crowded();

	/* The peer ends while we wait. */
	pair(&a, &b);
	blocked(&v, &t, a, 0);
	close(b);
	outcome(&v, t);
	close(a);
	pair(&a, &b);
	put(a, "unread");
	blocked(&v, &t, a, 0);
	close(b);
	outcome(&v, t);
	close(a);
}
