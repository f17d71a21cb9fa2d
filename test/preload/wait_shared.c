/* SPDX-License-Identifier: Apache-2.0 */
/* Several threads in one epoll: see same_wait.h. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/preload/same_wait.h"

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

void scene_shared(void)
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
