/* SPDX-License-Identifier: Apache-2.0 */
/* Waits while the ring fills, while sockets go cold, before there is a connection, in many threads.
 */
#include "test/preload/same_wait.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/wait.h>

static char huge[32 << 20];

void scene_room(void)
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

static void crowd(unsigned mode)
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

void scene_crowd(void)
{
	crowd(0);
}

void scene_crowd_edge(void)
{
	crowd(EPOLLET);
}

void scene_crowd_once(void)
{
	crowd(EPOLLONESHOT);
}

/* Left to the kernel because nothing happened for long, and then used by other calls than waits. */
void scene_cold(void)
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
void scene_early(void)
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
