/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of another process that are reset under it, however it sleeps. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/fd.h"
#include "detect/reset.h"

static int c, s; /* the two ends */

static void setup(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(xvm_fd_init(), 0);
	cr_assert_eq(bind(l, (struct sockaddr *)&a, len), 0);
	cr_assert_eq(listen(l, 1), 0);
	getsockname(l, (struct sockaddr *)&a, &len);
	c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(c, (struct sockaddr *)&a, len), 0);
	s = accept(l, NULL, NULL);
	close(l);
}

TestSuite(reset, .init = setup, .timeout = 60);

static uint64_t cookie(int sock)
{
	uint64_t v = 0;
	socklen_t len = sizeof(v);

	cr_assert_eq(getsockopt(sock, SOL_SOCKET, SO_COOKIE, &v, &len), 0);
	return v;
}

static int by_recv(void)
{
	char b;

	return recv(c, &b, 1, 0) < 0 ? errno : 0;
}

static int by_poll(void)
{
	struct pollfd p = {.fd = c, .events = POLLIN};
	char b;

	if (poll(&p, 1, -1) != 1 || !(p.revents & POLLERR))
		return 0;
	return recv(c, &b, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

static int by_epoll(void)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLET};
	int ep = epoll_create1(0);
	char b;

	if (epoll_ctl(ep, EPOLL_CTL_ADD, c, &e) || epoll_wait(ep, &e, 1, -1) != 1 ||
	    !(e.events & EPOLLERR))
		return 0;
	return recv(c, &b, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

static int by_send(void)
{
	static char b[65536];

	while (send(c, b, sizeof(b), MSG_NOSIGNAL) >= 0)
		;
	return errno;
}

/* It sleeps in one of these calls; the exit status is the errno that it got. */
static pid_t sleeper(int (*sleep_in)(void))
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid)
		return pid;
	close(s);
	_exit(sleep_in());
}

static bool sleeps(pid_t pid)
{
	char path[40], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (f)
		fclose(f);
	return state == 'S';
}

static void wait_until_asleep(pid_t pid)
{
	while (!sleeps(pid))
		poll(NULL, 0, 1);
}

static int ends_with(pid_t pid)
{
	int status;

	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int reset_while(int (*sleep_in)(void))
{
	pid_t pid = sleeper(sleep_in);

	wait_until_asleep(pid);
	cr_assert(xvm_reset_at(pid, c, cookie(c)));
	return ends_with(pid);
}

Test(reset, in_poll)
{
	cr_assert_eq(reset_while(by_poll), ECONNRESET);
}

Test(reset, in_epoll)
{
	cr_assert_eq(reset_while(by_epoll), ECONNRESET);
}

Test(reset, in_send)
{
	cr_assert_eq(reset_while(by_send), ECONNRESET);
}

Test(reset, in_recv)
{
	int err = reset_while(by_recv), major = 0, minor = 0;
	struct utsname u;

	uname(&u);
	sscanf(u.release, "%d.%d", &major, &minor);
	cr_assert_eq(err, major > 6 || (major == 6 && minor >= 7) ? EPIPE : ECONNRESET, "%s",
		     strerror(err));
}

Test(reset, of_nobody_else)
{
	pid_t pid = sleeper(by_poll);
	uint64_t want = cookie(c);
	char b;

	wait_until_asleep(pid);
	cr_assert_not(xvm_reset_at(pid, c, want + 1), "another socket");
	cr_assert_not(xvm_reset_at(pid, 1, want), "no socket");
	cr_assert_not(xvm_reset_at(pid, 999, want));
	cr_assert_not(xvm_reset_at(pid, -1, want));
	cr_assert(sleeps(pid));
	cr_assert_eq(recv(s, &b, 1, MSG_DONTWAIT), -1);
	cr_assert_eq(errno, EAGAIN);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

Test(reset, wherever_it_is)
{
	struct xvm_reset r[3] = {
		{.cookie = cookie(c) - 1}, {.cookie = cookie(c)}, {.cookie = ~0ull}};
	pid_t pid = sleeper(by_poll);

	wait_until_asleep(pid);
	xvm_reset_in(pid, r, 3);
	cr_assert_eq(ends_with(pid), ECONNRESET);
	cr_assert(r[1].done);
	cr_assert_not(r[0].done || r[2].done);
	/* Of a process that has gone. */
	xvm_reset_in(pid, r, 3);
}
