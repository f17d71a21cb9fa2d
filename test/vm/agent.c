/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmagent: a guest's process 1. Runs the commands that vmctl sends by virtio-serial (channel.h),
 * one process per port, and reaps orphans. init/ has made the guest ready before it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "channel.h"

#define PORTS "/sys/class/virtio-ports"

static void die(const char *what)
{
	fprintf(stderr, "vmagent: %s: %s\n", what, strerror(errno));
	_exit(1);
}

/* ---- the host ---- */

/* The kernel hears of a connection's end and of the next one's beginning later than of its first
 * bytes, so for a moment it may say HUP while there is a host. A port that a host left without BYE
 * is never used again. */
static bool gone(int port)
{
	for (int i = 0; i < 50; i++) {
		struct pollfd p = {port, 0, 0};

		if (poll(&p, 1, 0) >= 0 && !(p.revents & POLLHUP))
			return false;
		usleep(10000);
	}
	return true;
}

static int host_read(int port, struct channel_in *in)
{
	int ret = channel_read(port, in);

	return ret == -EPIPE && !gone(port) ? 0 : ret;
}

/* Waits for room if need be. 0 or -EPIPE. */
static int host_write(int port, const struct channel_frame *f)
{
	unsigned done = 0, len = CHANNEL_HEAD + f->len;

	while (done < len) {
		struct pollfd p = {port, POLLOUT, 0};
		ssize_t n = write(port, (const char *)f + done, len - done);

		if (n > 0) {
			done += n;
			continue;
		}
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return -EPIPE;
		if (poll(&p, 1, -1) > 0 && (p.revents & POLLHUP) && gone(port))
			return -EPIPE;
	}
	return 0;
}

/* ---- one command ---- */

struct command {
	pid_t pid;
	int pidfd;
	int in, out, err;
	struct channel_frame pending; /* of stdin, what the command has not taken yet */
	unsigned taken;
	bool ended; /* stdin is to be closed when nothing is pending */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void child(char *args, unsigned len, int in, int out, int err)
{
	char *argv[1024];
	unsigned n = 0, i = 0;
	sigset_t none;

	while (i < len && n < sizeof(argv) / sizeof(argv[0]) - 1) {
		argv[n++] = args + i;
		i += strlen(args + i) + 1;
	}
	argv[n] = NULL;
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (n)
		execvp(argv[0], argv);
	dprintf(2, "vmagent: %s: %s\n", n ? argv[0] : "nothing to run", strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* RUN's frame is in f, with a NUL behind it. */
static int start(struct command *c, struct channel_frame *f)
{
	int in[2], out[2], err[2];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		return -errno;
	c->pid = fork();
	if (c->pid == 0)
		child(f->data, f->len, in[0], out[1], err[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	c->in = in[1];
	c->out = out[0];
	c->err = err[0];
	c->taken = c->pending.len = 0;
	c->ended = false;
	fcntl(c->in, F_SETFL, O_NONBLOCK);
	fcntl(c->out, F_SETFL, O_NONBLOCK);
	fcntl(c->err, F_SETFL, O_NONBLOCK);
	c->pidfd = c->pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, c->pid, 0);
	return c->pidfd < 0 ? -errno : 0;
}

/* To the host what is there now. 1: there may be more; 0: nothing now; -EPIPE. */
static int pump(int port, int *from, uint8_t type)
{
	static struct channel_frame f;
	ssize_t n = *from < 0 ? 0 : read(*from, f.data, sizeof(f.data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		close_fd(from);
		return 0;
	}
	f.type = type;
	f.len = n;
	return host_write(port, &f) ?: 1;
}

static void feed(struct command *c)
{
	while (c->in >= 0 && c->taken < c->pending.len) {
		ssize_t n = write(c->in, c->pending.data + c->taken, c->pending.len - c->taken);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			close_fd(&c->in); /* it reads no more: nor do we keep it */
		else
			c->taken += n;
	}
	c->taken = c->pending.len = 0;
	if (c->ended)
		close_fd(&c->in);
}

static void obey(struct command *c, const struct channel_frame *f)
{
	if (f->type == CHANNEL_SIGNAL && f->len == 1) {
		syscall(SYS_pidfd_send_signal, c->pidfd, f->data[0], NULL, 0);
	} else if (f->type == CHANNEL_IN) {
		c->ended = f->len == 0;
		c->pending = *f;
		feed(c);
	}
}

/* Until the command has ended (its status) or the host is gone (-EPIPE). */
static int attend(int port, struct channel_in *in, struct command *c)
{
	enum { PORT, PID, OUT, ERR, IN };
	int status, ret;

	for (;;) {
		struct pollfd p[] = {
			[PORT] = {port, c->pending.len ? 0 : POLLIN, 0},
			[PID] = {c->pidfd, POLLIN, 0},
			[OUT] = {c->out, POLLIN, 0},
			[ERR] = {c->err, POLLIN, 0},
			[IN] = {c->pending.len ? c->in : -1, POLLOUT, 0},
		};

		if (poll(p, 5, -1) < 0 && errno != EINTR)
			return -errno;
		if ((p[PORT].revents & POLLHUP) && gone(port))
			return -EPIPE;
		if (p[PORT].revents & POLLIN) {
			ret = host_read(port, in);
			if (ret < 0)
				return ret;
			if (ret) {
				obey(c, &in->f);
				in->have = 0;
			}
		}
		if (p[IN].revents)
			feed(c);
		if ((p[OUT].revents && pump(port, &c->out, CHANNEL_OUT) < 0) ||
		    (p[ERR].revents && pump(port, &c->err, CHANNEL_ERR) < 0))
			return -EPIPE;
		if (p[PID].revents)
			break;
	}
	if (waitpid(c->pid, &status, 0) != c->pid)
		die("waitpid");
	/* What it has written by now; what it left running is not waited for. */
	while ((ret = pump(port, &c->out, CHANNEL_OUT)) > 0)
		;
	while (ret == 0 && (ret = pump(port, &c->err, CHANNEL_ERR)) > 0)
		;
	return ret < 0 ? ret : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- one port ---- */

static int reply(int port, uint8_t type, int byte)
{
	static struct channel_frame f;

	f.type = type;
	f.len = byte >= 0;
	f.data[0] = (char)byte;
	return host_write(port, &f);
}

/* Waits for a frame of this type; others belong to a command that has ended. */
static void await(int port, struct channel_in *in, uint8_t type)
{
	for (;;) {
		struct pollfd p = {port, POLLIN, 0};
		int ret = channel_read(port, in); /* without a host: -EPIPE */

		if (ret == 1) {
			in->have = 0;
			if (in->f.type == type)
				return;
			continue;
		}
		if (ret == -EPIPE && in->have == 0) {
			/* No host is connected: poll() would not wait, nor read(), but write()
			 * does. */
			fcntl(port, F_SETFL, 0);
			if (reply(port, CHANNEL_HERE, -1))
				die("port");
			fcntl(port, F_SETFL, O_NONBLOCK);
			continue;
		}
		if (ret < 0 && (ret != -EPIPE || gone(port)))
			die("port");
		poll(&p, 1, -1);
	}
}

static void serve(const char *name)
{
	static struct channel_in in;
	static struct command c;
	char path[300];
	int port, status;

	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	snprintf(path, sizeof(path), "/dev/%s", name);
	port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port < 0)
		die(path);
	for (;;) {
		await(port, &in, CHANNEL_RUN);
		in.f.data[in.f.len < CHANNEL_MAX ? in.f.len : CHANNEL_MAX - 1] = 0;
		if (reply(port, CHANNEL_HERE, -1))
			die("port");
		if (start(&c, &in.f))
			die("cannot run");
		status = attend(port, &in, &c);
		if (status < 0) {
			kill(-c.pid, SIGKILL);
			kill(c.pid, SIGKILL); /* it may not have come to setsid() yet */
			die("host is gone");
		}
		close_fd(&c.pidfd);
		close_fd(&c.in);
		close_fd(&c.out);
		close_fd(&c.err);
		if (reply(port, CHANNEL_EXIT, status))
			die("port");
		await(port, &in, CHANNEL_BYE);
		if (reply(port, CHANNEL_BYE, -1))
			die("port");
	}
}

/* ---- process 1 ---- */

static bool served(const char *name)
{
	static char seen[CHANNEL_PORTS][300];

	for (int i = 0; i < CHANNEL_PORTS; i++) {
		if (!strcmp(seen[i], name))
			return true;
		if (!seen[i][0]) {
			snprintf(seen[i], sizeof(seen[i]), "%s", name);
			return false;
		}
	}
	return true;
}

/* A process for each port that is ours and has none. The kernel sets a port's name before it
 * announces the port's change, so a port that is seen without one is seen again. */
static void look(void)
{
	DIR *d = opendir(PORTS);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[300], name[32] = "", dev[300];
		FILE *f;

		snprintf(path, sizeof(path), PORTS "/%.200s/name", e->d_name);
		snprintf(dev, sizeof(dev), "/dev/%.200s", e->d_name);
		f = fopen(path, "re");
		if (!f)
			continue;
		if (!fgets(name, sizeof(name), f))
			name[0] = 0;
		fclose(f);
		if (!strncmp(name, CHANNEL_NAME, strlen(CHANNEL_NAME)) && !access(dev, F_OK) &&
		    !served(e->d_name) && fork() == 0)
			serve(e->d_name);
	}
	if (d)
		closedir(d);
}

int main(void)
{
	struct sockaddr_nl sa = {.nl_family = AF_NETLINK, .nl_groups = 1};
	int events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	char buf[8192];

	if (events < 0 || bind(events, (struct sockaddr *)&sa, sizeof(sa)))
		die("uevents");
	/* The kernel reaps for us. */
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		look();
		if (recv(events, buf, sizeof(buf), 0) < 0 && errno != EINTR && errno != ENOBUFS)
			die("uevents");
	}
}
