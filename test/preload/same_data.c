/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One script of data calls on a TCP connection whose two ends are in this process; each result is
 * printed. t_same.sh runs it on plain TCP and preloaded, and compares what was printed. Every
 * line must be the same on any TCP: sizes that depend on buffers are not printed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int a, b; /* the ends: a connected, b accepted */
static char buf[1 << 20], out[1 << 20];
static unsigned long sum;

static void say(const char *what, long r)
{
	if (r < 0)
		printf("%s: %ld %s\n", what, r, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	fflush(stdout);
}
#define DO(call) say(#call, (long)(call))

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void exactly(int fd, long n)
{
	sum = 0;
	while (n > 0) {
		ssize_t r = recv(fd, buf, n < (long)sizeof(buf) ? (size_t)n : sizeof(buf), 0);

		if (r <= 0)
			die("exactly");
		for (ssize_t i = 0; i < r; i++)
			sum = sum * 31 + (unsigned char)buf[i];
		n -= r;
	}
	printf("sum %lx\n", sum);
}

static void all(int fd, long n)
{
	for (long o = 0; o < n;) {
		ssize_t r = send(fd, out + o % 1000, (size_t)(n - o < 50000 ? n - o : 50000), 0);

		if (r <= 0)
			die("all");
		o += r;
	}
}

static int ready(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	if (poll(&p, 1, 0) < 0)
		die("poll");
	return p.revents;
}

static void wait_in(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	if (poll(&p, 1, 5000) != 1)
		die("wait_in");
}

static void *pong(void *arg)
{
	for (int i = 0; i < 60; i++) {
		if (recv(b, out, 100, MSG_WAITALL) != 100 || send(b, out, 100, 0) != 100)
			die("pong");
	}
	return arg;
}

/* A new connection that has made enough calls to be on the ring, if there is one. */
static void fresh(const char *name)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	pthread_t t;

	printf("== %s\n", name);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(l, (struct sockaddr *)&sa, sizeof(sa)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&sa, &len))
		die("listen");
	a = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(a, (struct sockaddr *)&sa, sizeof(sa)))
		die("connect");
	b = accept(l, NULL, NULL);
	close(l);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (char)(i * 7 + (i >> 8));
	pthread_create(&t, NULL, pong, NULL);
	for (int i = 0; i < 60; i++)
		if (send(a, out, 100, 0) != 100 || recv(a, buf, 100, MSG_WAITALL) != 100)
			die("ping");
	pthread_join(t, NULL);
}

static void sizes(void)
{
	int n = -1;

	fresh("sizes");
	DO(send(a, out, 1000, 0));
	wait_in(b);
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD", n);
	DO(recv(b, buf, 10, MSG_PEEK));
	DO(recv(b, buf, 500, 0));
	DO(ioctl(b, FIONREAD, &n));
	say("FIONREAD", n);
	DO(recv(b, NULL, 100, MSG_TRUNC));
	DO(read(b, buf, 1000));
	DO(recv(b, buf, 10, MSG_DONTWAIT));
	DO(recv(b, buf, 0, MSG_DONTWAIT));
	DO(read(b, buf, 0));
	DO(send(a, out, 0, 0));
	all(a, 1);
	DO(recv(b, buf, 0, 0));
	exactly(b, 1);
	DO(ready(a));
	DO(ready(b));
	DO(fcntl(b, F_SETFL, O_NONBLOCK));
	DO(read(b, buf, 10));
	DO(fcntl(b, F_SETFL, 0));
	close(a);
	wait_in(b);
	DO(ready(b));
	DO(read(b, buf, 10));
	close(b);
}

static void vectors(void)
{
	struct iovec v[3] = {{out, 7}, {out + 7, 0}, {out + 7, 93}};
	struct iovec w[2] = {{buf, 50}, {buf + 50, 100}};
	struct msghdr m = {.msg_iov = w, .msg_iovlen = 2};
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	volatile int minus = -1, many = 5000;

	fresh("vectors");
	DO(writev(a, v, 3));
	wait_in(b);
	DO(readv(b, w, 2));
	DO(memcmp(buf, out, 100));
	m.msg_iov = v;
	m.msg_iovlen = 3;
	DO(sendmsg(b, &m, 0));
	wait_in(a);
	m.msg_iov = w;
	m.msg_iovlen = 2;
	DO(recvmsg(a, &m, 0));
	DO(m.msg_flags);
	DO(memcmp(buf, out, 100));
	DO(sendto(a, out, 10, 0, NULL, 0));
	DO(recvfrom(b, buf, 10, 0, (struct sockaddr *)&sa, &len));
	DO(len);
	DO(writev(a, v, minus));
	DO(readv(b, w, many));
	close(a);
	close(b);
}

static void *trickle(void *arg)
{
	for (int i = 0; i < 50; i++)
		all(a, 1000);
	return arg;
}

static long ms(struct timespec *t)
{
	struct timespec n;

	clock_gettime(CLOCK_MONOTONIC, &n);
	return (n.tv_sec - t->tv_sec) * 1000 + (n.tv_nsec - t->tv_nsec) / 1000000;
}

static void waiting(void)
{
	struct timeval tv = {0, 60000};
	struct timespec t;
	pthread_t th;

	fresh("waiting");
	pthread_create(&th, NULL, trickle, NULL);
	DO(recv(b, buf, 50000, MSG_WAITALL));
	pthread_join(th, NULL);
	DO(setsockopt(b, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	clock_gettime(CLOCK_MONOTONIC, &t);
	DO(recv(b, buf, 10, 0));
	say("at least 60 ms", ms(&t) >= 59);
	all(a, 10);
	DO(recv(b, buf, 20, MSG_WAITALL));
	close(a);
	close(b);
}

static void full(void)
{
	long n = 0;
	ssize_t r;

	fresh("full");
	fcntl(a, F_SETFL, O_NONBLOCK);
	while ((r = send(a, out, 60000, 0)) > 0)
		n += r;
	say("send", r);
	DO(ready(a));
	for (long k = n; k > 0; k -= r) {
		r = recv(b, buf, sizeof(buf), 0);
		if (r <= 0)
			die("drain");
	}
	DO(recv(b, buf, 1, MSG_DONTWAIT));
	DO(ready(a) & POLLOUT);
	DO(send(a, out, 10, 0));
	exactly(b, 10);
	close(b);
	wait_in(a);
	DO(ready(a) & ~POLLRDHUP & ~POLLOUT);
	close(a);
}

static void ends(void)
{
	fresh("half-close");
	DO(send(a, out, 300, 0));
	DO(shutdown(a, SHUT_WR));
	DO(send(a, out, 1, MSG_NOSIGNAL));
	exactly(b, 300);
	DO(recv(b, buf, 1, 0));
	DO(ready(b));
	DO(ready(a));
	all(b, 100000);
	exactly(a, 100000);
	DO(send(b, out, 77, 0));
	close(b);
	exactly(a, 77);
	DO(recv(a, buf, 1, 0));
	DO(recv(a, buf, 1, 0));
	close(a);

	fresh("close with unread input");
	DO(send(a, out, 300, 0));
	wait_in(b);
	close(b);
	wait_in(a);
	DO(recv(a, buf, 1, 0));
	DO(recv(a, buf, 1, 0));
	DO(send(a, out, 1, MSG_NOSIGNAL));
	close(a);

	fresh("close, data first");
	DO(send(b, out, 3000, 0));
	DO(recv(a, buf, 1000, MSG_WAITALL));
	close(b);
	exactly(a, 2000);
	DO(recv(a, buf, 1, 0));
	DO(send(a, out, 1, MSG_NOSIGNAL));
	DO(ready(a) & POLLHUP);
	DO(send(a, out, 1, MSG_NOSIGNAL));
	close(a);

	fresh("linger 0");
	struct linger lg = {1, 0};

	DO(send(b, out, 30, 0));
	wait_in(a);
	DO(setsockopt(b, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)));
	close(b);
	DO(recv(a, buf, 30, MSG_WAITALL));
	DO(recv(a, buf, 1, 0));
	close(a);
}

static void descriptors(void)
{
	int d, e, st, v;
	socklen_t len = sizeof(v);
	pid_t pid;

	fresh("dup");
	d = dup(a);
	DO(send(d, out, 10, 0));
	exactly(b, 10);
	close(a);
	DO(send(d, out, 20, 0));
	exactly(b, 20);
	e = dup2(d, a);
	DO(e == a);
	close(d);
	DO(send(b, out, 30, 0));
	exactly(e, 30);
	close(e);
	DO(recv(b, buf, 1, 0));
	close(b);
	DO(send(b, buf, 1, 0));
	DO(recv(a, buf, 1, 0));

	fresh("fork");
	pid = fork();
	if (pid == 0) {
		close(b);
		all(a, 200000);
		shutdown(a, SHUT_WR);
		_exit(0);
	}
	close(a);
	exactly(b, 200000);
	DO(recv(b, buf, 1, 0));
	waitpid(pid, &st, 0);
	DO(st);
	close(b);

	fresh("fork, both go on");
	pid = fork();
	if (pid == 0) {
		close(a);
		for (int i = 0; i < 100; i++) {
			if (recv(b, buf, 1000, MSG_WAITALL) != 1000)
				_exit(1);
			all(b, 1000);
		}
		_exit(0);
	}
	close(b);
	for (int i = 0; i < 100; i++) {
		all(a, 1000);
		if (recv(a, buf, 1000, MSG_WAITALL) != 1000)
			die("both");
	}
	waitpid(pid, &st, 0);
	DO(st);
	DO(recv(a, buf, 1, 0));
	close(a);

	fresh("killed");
	pid = fork();
	if (pid == 0) {
		close(a);
		all(b, 5000);
		kill(getpid(), SIGKILL);
	}
	close(b);
	waitpid(pid, &st, 0);
	exactly(a, 5000);
	DO(recv(a, buf, 1, 0));
	close(a);

	fresh("options");
	DO(getsockopt(a, SOL_SOCKET, SO_ERROR, &v, &len));
	say("SO_ERROR", v);
	DO(getsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, &len));
	say("TCP_NODELAY", v);
	v = 1;
	DO(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, sizeof(v)));
	v = 5;
	DO(getsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, &len));
	say("TCP_NODELAY", v);
	close(a);
	close(b);
}

static void by_other_means(void)
{
	int p[2], f = memfd_create("f", 0);
	off_t off = 100;

	fresh("sendfile and splice");
	if (pipe(p) || f < 0 || write(f, out, 100000) != 100000)
		die("file");
	DO(sendfile(a, f, &off, 5000));
	DO(off);
	exactly(b, 5000);
	lseek(f, 99990, SEEK_SET);
	DO(sendfile(a, f, NULL, 5000));
	DO(lseek(f, 0, SEEK_CUR));
	exactly(b, 10);
	DO(send(a, out, 2000, 0));
	wait_in(b);
	DO(splice(b, NULL, p[1], NULL, 2000, 0));
	DO(fcntl(b, F_SETFL, O_NONBLOCK));
	DO(splice(b, NULL, p[1], NULL, 2000, SPLICE_F_NONBLOCK));
	DO(fcntl(b, F_SETFL, 0));
	DO(splice(p[0], NULL, b, NULL, 2000, 0));
	exactly(a, 2000);
	DO(splice(p[0], NULL, b, NULL, 2000, SPLICE_F_NONBLOCK));
	/* What the ring does not serve: this goes on over TCP. */
	DO(setsockopt(b, SOL_SOCKET, SO_RCVLOWAT, &(int){2}, sizeof(int)));
	for (int i = 0; i < 3; i++) {
		DO(write(p[1], out, 1000));
		DO(splice(p[0], NULL, b, NULL, 1000, SPLICE_F_NONBLOCK));
		exactly(a, 1000);
	}
	DO(pread(a, buf, 1, 0));
	DO(lseek(a, 0, SEEK_CUR));
	close(a);
	DO(splice(b, NULL, p[1], NULL, 2000, 0));
	close(b);
	close(p[0]);
	close(p[1]);
	close(f);
}

/* How much of a call goes through before a bad address depends on buffers. */
static void partly(const char *what, ssize_t r, long max)
{
	say(what, r < 0 ? errno == EFAULT : r > 0 && r <= max);
}

static void wrong_pointers(void)
{
	void *volatile nowhere = (void *)16, *volatile wild = (void *)~0xfffUL;
	struct iovec half[2] = {{out, 60}, {nowhere, 40}}, other[2] = {{nowhere, 40}, {out, 60}};
	struct iovec in[2] = {{buf, 60}, {nowhere, 40}}, *volatile bad_iov = nowhere;
	struct msghdr m = {.msg_iov = half, .msg_iovlen = 2}, *volatile bad_msg = nowhere;
	struct mmsghdr mm[2] = {{.msg_hdr = {.msg_iov = in, .msg_iovlen = 1}},
				{.msg_hdr = {.msg_iov = half, .msg_iovlen = 2}}};
	char *maps =
		mmap(NULL, 3 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *last = maps + (1 << 20) - 100000, *ro = maps + (2 << 20);
	struct pollfd *pro = (void *)ro;
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	int f = memfd_create("f", 0), n = 0, p[2], u[2];
	fd_set *fro = (void *)(ro + 4096), *volatile out_too = fro;
	struct epoll_event ev = {.events = EPOLLIN};
	ssize_t r;

	fresh("wrong pointers, sending");
	mprotect(maps + (1 << 20), 1 << 20, PROT_NONE);
	memcpy(last, out, 100000);
	DO(send(a, nowhere, 10, 0));
	DO(write(a, nowhere, 10));
	DO(send(a, maps + (1 << 20) - 10, 20, 0));
	DO(send(a, maps + (1 << 20) - 10, 20000, MSG_DONTWAIT));
	DO(send(a, wild, 10, 0));
	DO(send(a, wild, 0, 0));
	DO(send(a, NULL, 10, 0));
	DO(sendmsg(a, &m, 0));
	DO(writev(a, half, 2));
	DO(writev(a, other, 2));
	DO(writev(a, bad_iov, 2));
	DO(sendmsg(a, bad_msg, 0));
	m.msg_iov = bad_iov;
	DO(sendmsg(a, &m, 0));
	m.msg_iov = half;
	m.msg_iovlen = 5000;
	DO(sendmsg(a, &m, 0));
	DO(sendmmsg(a, mm, 2, 0));
	exactly(b, 60);
	DO(sendto(a, nowhere, 3, 0, NULL, 0));
	DO(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, nowhere, sizeof(n)));
	if (f < 0 || write(f, out, 5000) != 5000)
		die("file");
	DO(sendfile(a, f, nowhere, 100));
	DO(recv(b, buf, 1, MSG_DONTWAIT));
	r = send(a, last, 300000, 0);
	partly("partly sent", r, 100000);
	say("as told", r < 0 || recv(b, buf, (size_t)r, MSG_WAITALL) == r);
	say("the same", r < 0 || memcmp(buf, out, (size_t)r) == 0);
	DO(recv(b, buf, 1, MSG_DONTWAIT));
	all(a, 100000);
	exactly(b, 100000);

	DO(recv(b, nowhere, 10, MSG_DONTWAIT));
	DO(recv(b, wild, 10, MSG_DONTWAIT));
	printf("== wrong pointers, receiving\n");
	all(a, 100);
	wait_in(b);
	DO(recv(b, nowhere, 10, 0));
	DO(read(b, nowhere, 10));
	DO(recv(b, NULL, 10, 0));
	DO(recv(b, wild, 10, 0));
	DO(recv(b, ro - 10, 100, MSG_PEEK));
	DO(recv(b, nowhere, 10, MSG_PEEK));
	DO(recv(b, nowhere, 10, MSG_WAITALL));
	DO(readv(b, in, 2));
	DO(readv(b, bad_iov, 2));
	DO(recvmsg(b, bad_msg, 0));
	m.msg_iov = in;
	m.msg_iovlen = 2;
	DO(recvmsg(b, &m, 0));
	DO(ioctl(b, FIONREAD, nowhere));
	DO(ioctl(b, FIONREAD, &n));
	say("still there", n);
	exactly(b, 100);
	all(a, 30);
	wait_in(b);
	mprotect(ro, 1 << 20, PROT_READ);
	DO(recv(b, ro, 10, 0));
	DO(recv(b, nowhere, 10, MSG_TRUNC));
	DO(recvfrom(b, buf, 10, 0, (struct sockaddr *)&sa, nowhere));
	DO(recvfrom(b, buf, 10, MSG_DONTWAIT, (struct sockaddr *)&sa, &len));
	all(a, 10);
	wait_in(b);
	DO(recvfrom(b, buf, 5, 0, (struct sockaddr *)&sa, NULL));
	m.msg_iovlen = 1;
	in[0].iov_len = 5;
	m.msg_namelen = 77;
	DO(recvmsg(b, &m, 0));
	DO(m.msg_namelen);
	all(a, 200000);
	wait_in(b);
	mprotect(maps + (1 << 20), 1 << 20, PROT_NONE);
	DO(ready(b) & POLLIN);
	memset(last, 0, 100000);
	r = recv(b, last, 200000, MSG_WAITALL);
	partly("partly received", r, 100000);
	say("the same", r < 0 || memcmp(last, out, r < 50000 ? (size_t)r : 50000) == 0);
	for (long left = 200000 - (r > 0 ? r : 0); left > 0; left -= r)
		if ((r = recv(b, buf, (size_t)left, 0)) <= 0)
			die("rest");
	DO(recv(b, buf, 1, MSG_DONTWAIT));

	printf("== wrong pointers, other calls\n");
	all(a, 10);
	wait_in(b);
	DO(poll(nowhere, 1, 0));
	mprotect(ro, 1 << 20, PROT_READ | PROT_WRITE);
	*pro = (struct pollfd){.fd = b, .events = POLLIN};
	FD_ZERO(fro);
	FD_SET(b, fro);
	mprotect(ro, 1 << 20, PROT_READ);
	DO(poll(pro, 1, 0));
	DO(select(b + 1, nowhere, NULL, NULL, NULL));
	DO(select(b + 1, fro, out_too, NULL, NULL));
	n = epoll_create1(0);
	DO(epoll_ctl(n, EPOLL_CTL_ADD, b, nowhere));
	DO(epoll_ctl(n, EPOLL_CTL_ADD, b, &ev));
	DO(epoll_wait(n, nowhere, 1, 0));
	DO(epoll_wait(n, wild, 1, 0));
	DO(epoll_wait(n, (void *)ro, 1, 0));
	DO(epoll_wait(n, (void *)ro, 1, -1));
	DO(epoll_wait(n, &ev, 1, -1));
	close(n);
	if (pipe(p) || socketpair(AF_UNIX, SOCK_STREAM, 0, u))
		die("pipe");
	m = (struct msghdr){.msg_control = nowhere, .msg_controllen = 64};
	DO(sendmsg(u[0], &m, 0));
	DO(sendmsg(u[0], bad_msg, 0));
	exactly(b, 10);
	all(b, 100000);
	exactly(a, 100000);
	close(a);
	DO(recv(b, buf, 1, 0));
	close(b);
	close(f);
	close(p[0]);
	close(p[1]);
	close(u[0]);
	close(u[1]);
	munmap(maps, 3 << 20);
}

/* Before there is any connection. */
static void early(void)
{
	void *volatile nowhere = (void *)16, *volatile low = (void *)4096;
	char *none = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd *across = (void *)(none + 4096 - sizeof(*across));
	struct msghdr m = {.msg_control = nowhere, .msg_controllen = 64}, *volatile bad = nowhere;
	int u[2], e = epoll_create1(0);

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, u))
		die("socketpair");
	for (int i = 0; i < 2; i++) {
		DO(poll(nowhere, 1, 0));
		DO(poll(low, 1, 0));
		DO(poll((void *)none, 1, 0));
		DO(poll((void *)~0xfffUL, 1, 0));
		DO(select(1, nowhere, NULL, NULL, NULL));
		DO(select(1, NULL, (void *)none, NULL, NULL));
		DO(epoll_ctl(e, EPOLL_CTL_ADD, u[0], nowhere));
		DO(epoll_ctl(e, EPOLL_CTL_ADD, u[0], (void *)none));
		DO(sendmsg(u[0], bad, 0));
		DO(sendmsg(u[0], &m, 0));
	}
	mprotect(none, 4096, PROT_READ | PROT_WRITE);
	*across = (struct pollfd){.fd = u[0], .events = POLLIN};
	DO(poll(across, 1, 0));
	DO(poll(across, 2, 0));
	mprotect(none + 4096, 4096, PROT_READ | PROT_WRITE);
	DO(poll(across, 2, 0));
	munmap(none, 8192);
	close(e);
	close(u[0]);
	close(u[1]);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	early();
	sizes();
	vectors();
	waiting();
	full();
	ends();
	descriptors();
	by_other_means();
	wrong_pointers();
	return 0;
}
