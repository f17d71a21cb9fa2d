/* SPDX-License-Identifier: Apache-2.0 */
/* Options, shutdown, resets, SIGPIPE. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "test/preload/same_calls.h"

static void get(const char *what, int fd, int level, int name, socklen_t len)
{
	union {
		unsigned char c[8];
		int i;
	} v;
	socklen_t l = len;
	int r;

	memset(&v, 0x55, sizeof(v));
	r = getsockopt(fd, level, name, &v, &l);
	printf("%s, %d: %s %d:", what, (int)len, r < 0 ? strerrorname_np(errno) : "ok", (int)l);
	for (int i = 0; i < 8; i++)
		printf(" %02x", v.c[i]);
	printf("\n");
}

static void each(const char *what, int fd, int level, int name)
{
	for (int len = -1; len < 8; len++)
		get(what, fd, level, name, (socklen_t)len);
}

void scene_options(void)
{
	int a, b, v = 7;
	char c = 0;

	pair(&a, &b);
	each("SO_ERROR", a, SOL_SOCKET, SO_ERROR);
	each("TCP_NODELAY", a, IPPROTO_TCP, TCP_NODELAY);
	each("TCP_CORK", a, IPPROTO_TCP, TCP_CORK);
	DO(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &c, sizeof(c)));
	DO(setsockopt(a, IPPROTO_TCP, TCP_CORK, &v, sizeof(v)));
	each("TCP_CORK", a, IPPROTO_TCP, TCP_CORK);
	each("TCP_NODELAY", a, IPPROTO_TCP, TCP_NODELAY);
	v = 0;
	DO(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, sizeof(v)));
	each("TCP_NODELAY", a, IPPROTO_TCP, TCP_NODELAY);
	DO(setsockopt(a, IPPROTO_TCP, TCP_CORK, &v, sizeof(v)));
	each("TCP_CORK", a, IPPROTO_TCP, TCP_CORK);
	DO(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, (socklen_t)-1));
	DO(setsockopt(a, SOL_SOCKET, SO_ERROR, &v, sizeof(v)));
	DO(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &v, sizeof(v)));
	each("SO_TYPE", a, SOL_SOCKET, SO_TYPE);
	each("SO_RCVLOWAT", a, SOL_SOCKET, SO_RCVLOWAT);
	/* Not until there is as much. */
	v = 10;
	DO(setsockopt(b, SOL_SOCKET, SO_RCVLOWAT, &v, sizeof(v)));
	put(a, "12345");
	do_poll("low water", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 50);
	put(a, "67890");
	do_poll("low water", &(struct pollfd){.fd = b, .events = POLLIN}, 1, 1000);
	DO(recv(b, buf, 100, 0));
	close(a);
	close(b);
}

static volatile sig_atomic_t ios;

static void count_pipe(int sig)
{
	ios++;
}

static void state(const char *what, int a)
{
	int err = 0, n = 0;
	socklen_t len = sizeof(err);
	struct pollfd p = {.fd = a, .events = POLLIN | POLLOUT | POLLRDHUP};

	do_poll(what, &p, 1, 0);
	ioctl(a, FIONREAD, &n);
	getsockopt(a, SOL_SOCKET, SO_ERROR, &err, &len);
	printf("FIONREAD %d SO_ERROR %d\n", n, err);
}

/* In every order. */
void scene_shutdown(void)
{
	static const int how[] = {SHUT_RD, SHUT_WR, SHUT_RDWR};
	int a, b;

	for (int i = 0; i < 9; i++) {
		printf("shutdown %d, then %d\n", how[i / 3], how[i % 3]);
		pair(&a, &b);
		put(b, "to a");
		put(a, "to b");
		DO(shutdown(a, how[i / 3]));
		nap(10);
		state("a", a);
		state("b", b);
		DO(recv(a, buf, 2, 0));
		DO(recv(b, buf, 2, 0));
		DO(shutdown(a, how[i % 3]));
		nap(10);
		state("a", a);
		state("b", b);
		DO(recv(a, buf, 100, MSG_DONTWAIT));
		DO(recv(a, buf, 100, MSG_DONTWAIT));
		DO(recv(b, buf, 100, MSG_DONTWAIT));
		DO(recv(b, buf, 100, MSG_DONTWAIT));
		DO(send(a, "x", 1, MSG_NOSIGNAL));
		/* The other end goes on. */
		DO(send(b, "x", 1, MSG_NOSIGNAL));
		nap(10);
		state("a", a);
		state("b", b);
		DO(recv(a, buf, 100, MSG_DONTWAIT));
		DO(recv(a, buf, 100, MSG_DONTWAIT));
		DO(recv(b, buf, 100, MSG_DONTWAIT));
		DO(send(b, "x", 1, MSG_NOSIGNAL));
		DO(shutdown(b, SHUT_RDWR));
		nap(10);
		DO(shutdown(a, SHUT_RDWR));
		DO(shutdown(b, SHUT_WR));
		state("a", a);
		state("b", b);
		DO(shutdown(a, 3));
		DO(shutdown(a, -1));
		close(a);
		close(b);
	}
	/* Bytes that come after shutdown(SHUT_RD) can still be read. */
	pair(&a, &b);
	DO(shutdown(a, SHUT_RD));
	DO(recv(a, buf, 10, 0));
	put(b, "late");
	DO(recv(a, buf, 10, 0));
	DO(recv(a, buf, 10, 0));
	put(a, "back");
	DO(recv(b, buf, 10, 0));
	close(a);
	nap(10);
	DO(recv(b, buf, 10, 0));
	close(b);
}

/* Who is told of a broken pipe by a signal, and who is not. */
void scene_pipe(void)
{
	struct sigaction sa = {.sa_handler = count_pipe}, old;
	struct iovec v = {buf, 3};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	struct mmsghdr mm = {.msg_hdr = m};
	int a, b, f = open("/etc/passwd", O_RDONLY);

	sigaction(SIGPIPE, &sa, &old);
#define PIPE(call)                                                                                 \
	do {                                                                                       \
		ios = 0;                                                                           \
		DO(call);                                                                          \
		printf("signals %d\n", (int)ios);                                                  \
	} while (0)
	for (int peer = 0; peer < 2; peer++) {
		pair(&a, &b);
		if (peer) {
			close(b);
			nap(5);
			PIPE(write(a, "x", 1)); /* draws the reset */
			nap(10);
		} else {
			shutdown(a, SHUT_WR);
		}
		PIPE(write(a, "x", 1));
		PIPE(writev(a, &v, 1));
		PIPE(send(a, "x", 1, 0));
		PIPE(send(a, "x", 1, MSG_NOSIGNAL));
		PIPE(send(a, "x", 1, MSG_DONTWAIT));
		PIPE(sendto(a, "x", 1, MSG_NOSIGNAL, NULL, 0));
		PIPE(sendto(a, "x", 1, 0, NULL, 0));
		PIPE(sendmsg(a, &m, 0));
		PIPE(sendmsg(a, &m, MSG_NOSIGNAL));
		PIPE(sendmmsg(a, &mm, 1, 0));
		PIPE(sendmmsg(a, &mm, 1, MSG_NOSIGNAL));
		PIPE(sendfile(a, f, NULL, 3));
		PIPE(write(a, "", 0));
		PIPE(send(a, "", 0, 0));
		PIPE(dprintf(a, "x"));
		if (!peer)
			close(b);
		close(a);
	}
	close(f);
	sigaction(SIGPIPE, &old, NULL);
}

void scene_reset(void)
{
	struct pollfd p = {.events = POLLIN | POLLOUT | POLLRDHUP};
	struct linger lg = {1, 0};
	int a, b, ep = epoll_create1(0);

	/* Unread input at close. */
	pair(&a, &b);
	put(a, "unread");
	put(b, "sent before");
	close(b);
	p.fd = a;
	nap(10);
	do_poll("reset", &p, 1, 1000);
	ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1);
	do_epoll("reset", ep, 4, 1000);
	DO(recv(a, buf, 4, 0));
	do_poll("after some", &p, 1, 1000);
	DO(recv(a, buf, 100, 0));
	DO(recv(a, buf, 100, 0));
	DO(recv(a, buf, 100, 0));
	state("told", a);
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	close(a);
	/* SO_ERROR takes it. */
	pair(&a, &b);
	put(a, "unread");
	close(b);
	nap(10);
	state("to be told", a);
	state("told", a);
	DO(recv(a, buf, 100, 0));
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	close(a);
	/* A send takes it. */
	pair(&a, &b);
	put(a, "unread");
	close(b);
	nap(10);
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	DO(recv(a, buf, 100, 0));
	state("told", a);
	close(a);
	/* By option. */
	pair(&a, &b);
	put(b, "last words");
	setsockopt(b, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
	close(b);
	nap(10);
	do_poll("lingered", &(struct pollfd){.fd = a, .events = POLLIN}, 1, 1000);
	DO(recv(a, buf, 100, 0));
	DO(recv(a, buf, 100, 0));
	DO(recv(a, buf, 100, 0));
	close(a);
	/* Read in full, but the bytes come later. */
	pair(&a, &b);
	close(b);
	nap(10);
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	nap(10);
	state("after a send to nobody", a);
	DO(send(a, "x", 1, MSG_NOSIGNAL));
	DO(recv(a, buf, 100, 0));
	close(a);
	close(ep);
}

void scene_linger(void)
{
	static const struct linger forms[] = {{0, 0}, {0, 9}, {1, 2}, {1, 0}};
	struct linger lg;
	socklen_t len;
	int a, b;
	long t;

	for (int i = 0; i < 4; i++) {
		printf("linger %d %d\n", forms[i].l_onoff, forms[i].l_linger);
		pair(&a, &b);
		DO(setsockopt(a, SOL_SOCKET, SO_LINGER, &forms[i], sizeof(forms[i])));
		len = sizeof(lg);
		DO(getsockopt(a, SOL_SOCKET, SO_LINGER, &lg, &len));
		printf("%d %d\n", lg.l_onoff, lg.l_linger);
		put(a, "last words");
		t = now_ms();
		DO(close(a));
		printf("at once: %d\n", now_ms() - t < 1500);
		nap(10);
		state("the other", b);
		DO(recv(b, buf, 100, 0));
		DO(recv(b, buf, 100, 0));
		DO(send(b, "x", 1, MSG_NOSIGNAL));
		nap(10);
		DO(send(b, "x", 1, MSG_NOSIGNAL));
		close(b);
	}
}
