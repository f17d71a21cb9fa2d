/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripts of calls on connections whose two ends are in this process, beside pipes. Each result is
 * printed; t_wait.sh and t_calls.sh compare what plain TCP and a preloaded run print. Before each
 * scene the connection has exchanged enough to be on the ring. Every line must be the same on any
 * TCP: sizes that depend on buffers are not printed.
 */
#ifndef TEST_PRELOAD_SAME_H
#define TEST_PRELOAD_SAME_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

extern char buf[1 << 16];

void die(const char *what);
void say(const char *what, long r);
#define DO(call) say(#call, (long)(call))

void nap(int ms);
long now_ms(void);

/* A new connection; use of one for a while; one that has been used for a while. */
void join(int *a, int *b);
void warm(int a, int b);
void pair(int *a, int *b);
void put(int fd, const char *s);
void drain(int fd);
void fill(int fd);
void nonblock(int fd);

void do_poll(const char *what, struct pollfd *p, nfds_t n, int timeout);
int do_epoll(const char *what, int ep, int max, int timeout);
int ctl(int ep, int op, int fd, unsigned events, unsigned long data);

/* Sends s to fd in so many ms, from a thread. */
struct later {
	int ms, fd;
	const char *s;
	pthread_t t;
};
void later(struct later *l, int ms, int fd, const char *s);

struct scene {
	const char *name;
	void (*run)(void);
};
/* The scenes that the arguments name, or all of them; the table ends with an empty row. */
int play(const struct scene *scenes, char **names);

#endif
