/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "detect/fd.h"
#include "detect/log.h"

#define PATIENCE_US 50000
#define CLOSERS_MAX 16

static _Atomic int closers;

static void on_alarm(int sig)
{
}

int xvm_fd_init(void)
{
	/* Without SA_RESTART: its only task is to end a system call that has begun to wait. */
	struct sigaction sa = {.sa_handler = on_alarm};

	return sigaction(SIGALRM, &sa, NULL) ? -errno : 0;
}

/*
 * Looking at SO_LINGER or O_NONBLOCK first would be a race with a client that has the same
 * open file, so the wait itself is bounded. Repeats, lest a signal that comes just before
 * the wait be the last.
 */
static void patience(bool on)
{
	struct itimerval it = {.it_value.tv_usec = on ? PATIENCE_US : 0,
			       .it_interval.tv_usec = on ? PATIENCE_US : 0};

	setitimer(ITIMER_REAL, &it, NULL);
}

bool xvm_fd_is_memfd(int fd)
{
	/* Answered for memfds, and files on tmpfs and hugetlbfs, all of them plain memory. */
	return fcntl(fd, F_GET_SEALS) >= 0;
}

static bool is_socket(int fd)
{
	int type;
	socklen_t len = sizeof(type);

	return !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len);
}

bool xvm_fd_is_eventfd(int fd)
{
	static const char want[] = "anon_inode:[eventfd]";
	char link[32], name[64];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, name, sizeof(name));
	return n == sizeof(want) - 1 && !memcmp(name, want, sizeof(want) - 1);
}

static void *closer(void *arg)
{
	close((int)(intptr_t)arg);
	closers--;
	return NULL;
}

/* Files of an unknown kind are sent only by a hostile client: they may take a thread each. */
static void close_elsewhere(int fd)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;

	if (closers < CLOSERS_MAX && !pthread_attr_init(&attr)) {
		closers++;
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&attr, 65536);
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		if (pthread_create(&thread, &attr, closer, (void *)(intptr_t)fd))
			closers--;
		else
			fd = -1;
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		pthread_attr_destroy(&attr);
	}
	if (fd >= 0)
		xvm_log(LOG_WARNING, "a descriptor that may block when closed is left open");
}

void xvm_fd_discard(int fd)
{
	if (fd < 0)
		return;
	if (xvm_fd_is_memfd(fd)) {
		close(fd);
	} else if (is_socket(fd)) {
		patience(true);
		close(fd);
		patience(false);
	} else if (xvm_fd_is_eventfd(fd)) {
		close(fd);
	} else {
		close_elsewhere(fd);
	}
}

int xvm_fd_ring(int fd)
{
	uint64_t one = 1;
	ssize_t n;
	int err;

	patience(true);
	n = write(fd, &one, sizeof(one));
	err = errno;
	patience(false);
	if (n == sizeof(one))
		return 0;
	return n < 0 && err != EINTR ? -err : -EAGAIN;
}

void xvm_fd_drain(int fd)
{
	uint64_t n;

	patience(true);
	if (read(fd, &n, sizeof(n)) < 0 && errno != EAGAIN && errno != EINTR)
		xvm_log(LOG_WARNING, "cannot read an eventfd: %s", strerror(errno));
	patience(false);
}
