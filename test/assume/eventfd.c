/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wakers (PROTOCOL.md, W1-W6): an eventfd in an epoll with EPOLLET gives an event for each write,
 * read or not; a write that comes before the wait is not missed; a write to a full counter says
 * EAGAIN and the sleeper is awake all the same; poll sees it level-triggered.
 */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "assume.h"

static void edge(void)
{
	int ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN | EPOLLET};
	uint64_t one = 1, huge = UINT64_MAX - 1;

	assume_where = "edge";
	NEED(ev >= 0 && ep >= 0 && !epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e));
	ASSUME(epoll_wait(ep, &e, 1, 0) == 0, "an event before any write");
	for (int i = 0; i < 3; i++) {
		NEED(write(ev, &one, 8) == 8);
		ASSUME(epoll_wait(ep, &e, 1, 1000) == 1, "write %d gave no event, without a read",
		       i);
		ASSUME(epoll_wait(ep, &e, 1, 0) == 0, "write %d gave two events", i);
	}
	NEED(write(ev, &one, 8) == 8 && write(ev, &one, 8) == 8);
	ASSUME(epoll_wait(ep, &e, 1, 1000) == 1, "two writes gave no event");
	ASSUME(epoll_wait(ep, &e, 1, 0) == 0, "two writes before the wait gave two events");
	/* A counter that is full cannot be written, and need not be: it is readable. */
	NEED(read(ev, &one, 8) == 8);
	NEED(write(ev, &huge, 8) == 8);
	one = 1;
	ASSUME(write(ev, &one, 8) < 0 && errno == EAGAIN, "a full counter was written");
	ASSUME(assume_poll(ev, POLLIN, 0) & POLLIN, "a full counter is not readable");
	close(ep);
	close(ev);
}

/* An epoll instance in another one is readable when the eventfd in it is. */
static void nested(void)
{
	int ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int in = epoll_create1(EPOLL_CLOEXEC), out = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN | EPOLLET};
	uint64_t one = 1;

	assume_where = "nested";
	NEED(!epoll_ctl(in, EPOLL_CTL_ADD, ev, &e));
	e.events = EPOLLIN;
	NEED(!epoll_ctl(out, EPOLL_CTL_ADD, in, &e));
	ASSUME(epoll_wait(out, &e, 1, 0) == 0, "readable at first");
	NEED(write(ev, &one, 8) == 8);
	ASSUME(epoll_wait(out, &e, 1, 1000) == 1, "not readable");
	ASSUME(assume_poll(in, POLLIN, 0) & POLLIN, "not readable by poll");
	ASSUME(epoll_wait(in, &e, 1, 0) == 1, "the inner one has nothing");
	ASSUME(epoll_wait(out, &e, 1, 0) == 0, "readable after the edge was taken");
	close(in);
	close(out);
	close(ev);
}

static void *ring(void *arg)
{
	uint64_t one = 1;

	poll(NULL, 0, 20);
	NEED(write(*(int *)arg, &one, 8) == 8);
	return NULL;
}

/* One write wakes all that poll it, and one that waits in an epoll. */
static void *sleeper(void *arg)
{
	return (void *)(intptr_t)(assume_poll(*(int *)arg, POLLIN, 5000) & POLLIN);
}

static void wakes(void)
{
	int ev = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_t t, s[3];
	void *woken;

	assume_where = "wakes";
	for (int i = 0; i < 3; i++)
		NEED(!pthread_create(&s[i], NULL, sleeper, &ev));
	NEED(!pthread_create(&t, NULL, ring, &ev));
	for (int i = 0; i < 3; i++) {
		NEED(!pthread_join(s[i], &woken));
		ASSUME(woken != NULL, "sleeper %d slept on", i);
	}
	NEED(!pthread_join(t, NULL));
	close(ev);
}

/* Input on a TCP socket in an EPOLLET registration gives an edge for each segment, read or not: so
 * a pad does. */
static void pads_are_edges(void)
{
	for (enum assume_kind k = 0; k < ASSUME_KINDS; k++) {
		struct assume_pair p = assume_connect(k);
		int ep = epoll_create1(EPOLL_CLOEXEC);
		struct epoll_event e = {.events = EPOLLIN | EPOLLET};

		NEED(ep >= 0 && !epoll_ctl(ep, EPOLL_CTL_ADD, p.passive, &e));
		if (k == ASSUME_DEFERRED)
			NEED(epoll_wait(ep, &e, 1, 1000) == 1);
		for (int i = 0; i < 3; i++) {
			NEED(send(p.active, "x", 1, 0) == 1);
			ASSUME(epoll_wait(ep, &e, 1, 1000) == 1, "segment %d gave no event", i);
			ASSUME(epoll_wait(ep, &e, 1, 0) == 0, "segment %d gave two events", i);
		}
		/* EPOLL_CTL_MOD reports anew what is there already. */
		e.events = EPOLLIN | EPOLLET;
		NEED(!epoll_ctl(ep, EPOLL_CTL_MOD, p.passive, &e));
		ASSUME(epoll_wait(ep, &e, 1, 0) == 1, "MOD does not look again");
		close(ep);
		assume_close(p);
	}
}

int main(void)
{
	edge();
	nested();
	wakes();
	pads_are_edges();
	return assume_end();
}
