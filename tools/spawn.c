/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/find.h"
#include "tools/preload.h"
#include "tools/spawn.h"
#include "tools/tool.h"

#define END_MS 2000

static void child_fail(const char *what)
{
	xvm_warn("cannot start a process: %s: %s", what, strerror(errno));
	_exit(126);
}

static void child_exec(const struct xvm_spawn *s, const char **argv, int in, int out)
{
	char *list = xvm_preload_list(s->lib, getenv("LD_PRELOAD"));
	const char *const *e;
	cpu_set_t set;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (s->netns >= 0 && setns(s->netns, CLONE_NEWNET))
		child_fail("setns");
	if (s->cpu >= 0) {
		CPU_ZERO(&set);
		CPU_SET(s->cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			child_fail("sched_setaffinity");
	}
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0)
		child_fail("dup2");
	if (*list)
		setenv("LD_PRELOAD", list, 1);
	else
		unsetenv("LD_PRELOAD");
	if (s->socket)
		setenv("XVM_SOCKET", s->socket, 1);
	for (e = s->env; *e; e++)
		putenv((char *)*e);
	/* By its name, not as /proc/self/exe: `xvm ss` is to show what it is. */
	execv(xvm_find_self(), (char *const *)argv);
	child_fail("exec");
}

int xvm_child_start(struct xvm_child *c, const struct xvm_spawn *s, const char **argv)
{
	int in[2], out[2], err;

	if (!xvm_find_self())
		return -ENOENT;
	*c = (struct xvm_child){.pid = -1, .in = -1, .out = -1};
	if (pipe2(in, O_CLOEXEC))
		return -errno;
	if (pipe2(out, O_CLOEXEC)) {
		err = -errno;
		close(in[0]);
		close(in[1]);
		return err;
	}
	argv[0] = "xvm";
	c->pid = fork();
	err = -errno;
	if (!c->pid)
		child_exec(s, argv, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	c->in = in[1];
	c->out = out[0];
	if (c->pid < 0) {
		close(c->in);
		close(c->out);
		return err;
	}
	return 0;
}

int xvm_child_say(struct xvm_child *c, const char *line)
{
	char buf[128];
	int n = snprintf(buf, sizeof(buf), "%s\n", line);
	void (*old)(int) = signal(SIGPIPE, SIG_IGN);
	ssize_t ret = write(c->in, buf, n);

	signal(SIGPIPE, old);
	return ret == n ? 0 : -EPIPE;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int xvm_child_line(struct xvm_child *c, char *line, size_t size, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms, left;
	struct pollfd p = {.fd = c->out, .events = POLLIN};
	char *end;
	ssize_t n;

	while (!(end = memchr(c->buf, '\n', c->have))) {
		if (c->have == sizeof(c->buf))
			return -EMSGSIZE;
		left = deadline - now_ms();
		if (left < 0)
			left = 0;
		n = poll(&p, 1, (int)left);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ETIMEDOUT;
		n = read(c->out, c->buf + c->have, sizeof(c->buf) - c->have);
		if (n <= 0)
			return -EPIPE;
		c->have += n;
	}
	n = end - c->buf;
	if ((size_t)n >= size)
		return -EMSGSIZE;
	memcpy(line, c->buf, n);
	line[n] = 0;
	c->have -= n + 1;
	memmove(c->buf, end + 1, c->have);
	return 0;
}

static int reap(struct xvm_child *c)
{
	int status = 0;

	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(c->out);
	c->pid = c->out = -1;
	return status;
}

int xvm_child_end(struct xvm_child *c)
{
	struct pollfd p = {.events = POLLIN};

	if (c->pid < 0)
		return 0;
	if (c->in >= 0)
		close(c->in);
	c->in = -1;
	p.fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (p.fd < 0 || poll(&p, 1, END_MS) != 1)
		kill(c->pid, SIGKILL);
	if (p.fd >= 0)
		close(p.fd);
	return reap(c);
}

void xvm_child_kill(struct xvm_child *c)
{
	if (c->pid > 0)
		kill(c->pid, SIGKILL);
	xvm_child_end(c);
}
