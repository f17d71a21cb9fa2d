/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmctl [-i] [-t SECONDS] DIR CMD...: runs CMD in the guest whose channels lie in DIR (channel.h),
 * and ends as CMD ends. -i hands its stdin over. Signals are passed on; where vmctl is killed, so
 * is CMD. Waits for a guest that has not booted yet, with -t no longer than that. Ends with 255 if
 * there is no guest (any more).
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "channel.h"

static const char *dir;

static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "vmctl: %s: ", dir ? dir : "");
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	exit(255);
}

static int lock_fd;

/* A channel whose file is empty and unlocked is free. One that was locked once and is not empty was
 * left by a vmctl that was killed. */
static int take(void)
{
	char path[100];

	for (int i = 0; i < CHANNEL_PORTS; i++) {
		struct sockaddr_un sa = {.sun_family = AF_UNIX};
		int fd;

		snprintf(path, sizeof(path), "%.80s/lock.%d", dir, i);
		lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (lock_fd < 0)
			die("%s: %s", path, strerror(errno));
		if (flock(lock_fd, LOCK_EX | LOCK_NB) || lseek(lock_fd, 0, SEEK_END) != 0) {
			close(lock_fd);
			continue;
		}
		if (write(lock_fd, "x", 1) != 1)
			die("%s: %s", path, strerror(errno));
		snprintf(sa.sun_path, sizeof(sa.sun_path), "%.80s/ctl.%d", dir, i);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
			die("no guest: %s", strerror(errno));
		fcntl(fd, F_SETFL, O_NONBLOCK);
		return fd;
	}
	die("all %d channels are in use, or were left by a vmctl that was killed", CHANNEL_PORTS);
	return -1;
}

static void gone(void)
{
	die("the guest is gone");
}

static void put(int fd, const char *buf, unsigned len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);
		struct pollfd p = {fd, POLLOUT, 0};

		if (n >= 0) {
			buf += n;
			len -= n;
		} else if (errno == EAGAIN) {
			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			return; /* SIGPIPE came; main() passes it on */
		}
	}
}

/* What is on its way to the guest. While it is, nothing more is taken from stdin. */
static struct channel_frame out;
static unsigned sent;
static bool sending;

static void send_on(int sock)
{
	while (sending) {
		unsigned len = CHANNEL_HEAD + out.len;
		ssize_t n = write(sock, (char *)&out + sent, len - sent);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			gone();
		sent += n;
		sending = sent < len;
	}
}

static void send_frame(int sock, uint8_t type, unsigned len)
{
	out.type = type;
	out.len = len;
	sent = 0;
	sending = true;
	send_on(sock);
}

static void run(int sock, char **argv)
{
	unsigned len = 0;

	for (; *argv; argv++) {
		unsigned n = strlen(*argv) + 1;

		if (n > sizeof(out.data) - 1 - len)
			die("the command is too long");
		memcpy(out.data + len, *argv, n);
		len += n;
	}
	send_frame(sock, CHANNEL_RUN, len);
}

static int signals(void)
{
	static const int which[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGPIPE};
	sigset_t set;

	sigemptyset(&set);
	for (unsigned i = 0; i < sizeof(which) / sizeof(which[0]); i++)
		sigaddset(&set, which[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* One frame from the guest. True when the command's last one has come. */
static bool take_frame(const struct channel_frame *f, int *status)
{
	switch (f->type) {
	case CHANNEL_OUT:
		put(1, f->data, f->len);
		break;
	case CHANNEL_ERR:
		put(2, f->data, f->len);
		break;
	case CHANNEL_EXIT:
		*status = (unsigned char)f->data[0];
		break;
	case CHANNEL_BYE:
		return true;
	}
	return false;
}

int main(int argc, char **argv)
{
	static struct channel_in in;
	bool input = false, here = false, bye = false;
	int opt, sock, sigs, status = -1, timeout = -1;

	while ((opt = getopt(argc, argv, "+it:")) != -1) {
		if (opt == 'i')
			input = true;
		else if (opt == 't')
			timeout = atoi(optarg) * 1000;
		else
			return 255;
	}
	if (argc - optind < 2)
		die("usage: vmctl [-i] [-t SECONDS] DIR CMD...");
	dir = argv[optind];
	sigs = signals();
	sock = take();
	run(sock, argv + optind + 1);
	if (!input && (dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), 0) || !(input = true)))
		die("/dev/null: %s", strerror(errno));
	for (;;) {
		enum { SOCK, SIG, IN };
		struct pollfd p[] = {
			[SOCK] = {sock, sending ? POLLIN | POLLOUT : POLLIN, 0},
			[SIG] = {sending ? -1 : sigs, POLLIN, 0},
			[IN] = {input && !sending ? 0 : -1, POLLIN, 0},
		};
		int ret = poll(p, 3, timeout);

		if (ret == 0)
			die("the guest does not answer");
		if (p[SOCK].revents & (POLLIN | POLLHUP | POLLERR)) {
			while ((ret = channel_read(sock, &in)) == 1) {
				in.have = 0;
				here = true;
				timeout = -1;
				if (take_frame(&in.f, &status)) {
					if (ftruncate(lock_fd, 0))
						die("lock: %s", strerror(errno));
					return status;
				}
			}
			if (ret < 0)
				gone();
		}
		send_on(sock);
		if (!sending && status >= 0 && !bye) {
			bye = true;
			input = false;
			send_frame(sock, CHANNEL_BYE, 0);
		}
		if (!sending && (p[SIG].revents & POLLIN) && !bye) {
			struct signalfd_siginfo si;

			if (read(sigs, &si, sizeof(si)) == sizeof(si)) {
				if (!here)
					return 128 + (int)si.ssi_signo; /* nothing runs yet */
				out.data[0] = (char)si.ssi_signo;
				send_frame(sock, CHANNEL_SIGNAL, 1);
			}
		}
		if (!sending && input && p[IN].revents) {
			ssize_t n = read(0, out.data, sizeof(out.data));

			input = n > 0;
			send_frame(sock, CHANNEL_IN, n > 0 ? n : 0);
		}
	}
}
