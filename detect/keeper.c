/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/keeper.h"
#include "detect/log.h"

#define NAME "xvm-keeper"
#define KEPT_FD 3
#define LIFE_FD 4
#define PATIENCE_MS 2000

static int open_pidfd(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* When it was started: a number may be another process's by now. 0: not to be known. */
static unsigned long long birth(pid_t pid)
{
	unsigned long long t = 0;
	char path[32], text[1024], *s;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	/* Behind the name, which may have anything in it; the 22nd field. */
	s = strrchr(text, ')');
	for (int i = 0; s && i < 20; i++)
		s = strchr(s + 1, ' ');
	if (s)
		t = strtoull(s, NULL, 10);
	return t;
}

static void wait_for(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	poll(&p, 1, PATIENCE_MS);
}

static void end(int pidfd)
{
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	wait_for(pidfd);
}

static bool read_file(const char *path, int *pid, unsigned long long *born)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fscanf(f, "%d %llu", pid, born) == 2;

	if (f)
		fclose(f);
	return ok;
}

static void write_file(const char *path, pid_t pid)
{
	char tmp[310];
	FILE *f;

	snprintf(tmp, sizeof(tmp), "%s.new", path);
	f = fopen(tmp, "we");
	if (!f)
		goto out_log;
	fprintf(f, "%d %llu\n", pid, birth(pid));
	if (!fclose(f) && !rename(tmp, path))
		return;
out_log:
	xvm_log(LOG_WARNING, "%s: %s", path, strerror(errno));
}

int xvm_keeper_find(struct xvm_keeper *k, const char *path)
{
	unsigned long long born;
	int pid, fd = -1;

	k->pidfd = -1;
	k->fd = -1;
	snprintf(k->path, sizeof(k->path), "%s", path);
	if (!read_file(path, &pid, &born) || pid <= 0)
		return -1;
	k->pidfd = open_pidfd(pid);
	/* In this order: if it was the keeper after the pidfd was opened, the pidfd is of it. */
	if (k->pidfd < 0 || birth(pid) != born)
		goto out_none;
	k->pid = pid;
	fd = (int)syscall(SYS_pidfd_getfd, k->pidfd, KEPT_FD, 0);
	if (fd >= 0)
		return fd;
	/* It is about to end, and the device is free only when it has. */
	wait_for(k->pidfd);
out_none:
	if (k->pidfd >= 0)
		close(k->pidfd);
	k->pidfd = -1;
	return -1;
}

/* In the child. Nothing of xvmd's is to stay open or be waited for. */
static void keep(int fd, int life)
{
	struct flock all = {.l_type = F_WRLCK};
	sigset_t set;
	int null, i;

	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	/* Who ends xvmd by its name, or by its command line, does not mean this. */
	prctl(PR_SET_NAME, NAME);
	strncpy(program_invocation_name, NAME, strlen(program_invocation_name));
	setsid();
	null = open("/dev/null", O_RDWR);
	/* Above all numbers that they are to have. */
	fd = fcntl(fd, F_DUPFD, 16);
	life = fcntl(life, F_DUPFD, 16);
	if (fd < 0 || life < 0)
		_exit(1);
	for (i = 0; i < 3; i++)
		dup2(null, i);
	dup2(fd, KEPT_FD);
	dup2(life, LIFE_FD);
	syscall(SYS_close_range, LIFE_FD + 1, ~0u, 0);
	while (fcntl(LIFE_FD, F_OFD_SETLKW, &all) && errno == EINTR)
		;
	_exit(0);
}

static pid_t spawn(const struct xvm_keeper *k)
{
	int life = xvm_life_waiter(k->life);
	pid_t pid = life < 0 ? -1 : fork();

	if (!pid)
		keep(k->fd, life);
	if (life >= 0)
		close(life);
	return pid;
}

static void on_died(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_keeper *k = w->data;

	ev_io_stop(loop, w);
	waitpid(k->pid, NULL, WNOHANG);
	close(k->pidfd);
	k->pidfd = -1;
	xvm_log(LOG_WARNING, "somebody has ended xvm-keeper: there is another");
	xvm_keeper_start(k, loop, k->life, k->fd);
}

void xvm_keeper_start(struct xvm_keeper *k, struct ev_loop *loop, const struct xvm_life *life,
		      int fd)
{
	int older = k->pidfd;

	k->fd = fd;
	k->life = life;
	k->loop = loop;
	k->pid = spawn(k);
	k->pidfd = k->pid > 0 ? open_pidfd(k->pid) : -1;
	if (k->pidfd < 0) {
		xvm_log(LOG_WARNING, "no process that keeps the device open: restart no xvmd while "
				     "programs use it");
		k->pidfd = older;
		return;
	}
	write_file(k->path, k->pid);
	ev_io_init(&k->died, on_died, k->pidfd, EV_READ);
	k->died.data = k;
	ev_io_start(loop, &k->died);
	if (older < 0)
		return;
	end(older);
	close(older);
}

void xvm_keeper_leave(struct xvm_keeper *k)
{
	if (k->pidfd < 0)
		return;
	if (k->loop)
		ev_io_stop(k->loop, &k->died);
	close(k->pidfd);
	k->pidfd = -1;
}

void xvm_keeper_end(struct xvm_keeper *k)
{
	if (k->pidfd < 0)
		return;
	if (k->loop)
		ev_io_stop(k->loop, &k->died);
	end(k->pidfd);
	waitpid(k->pid, NULL, WNOHANG);
	xvm_keeper_leave(k);
	unlink(k->path);
}
