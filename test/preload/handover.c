/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection in use is handed to a program that knows nothing of rings: by exec, posix_spawn,
 * popen, in a message, in a FILE. The other end writes a pattern and may be anywhere meanwhile;
 * what is read must be the pattern, whole, whoever read it.
 *
 *   handover HOW WRITER    the test; HOW and WRITER as in the tables below
 *   handover raw FD AT     what takes over: reads to the end, from byte AT, and answers
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/preload/warm.h"

#define BATCH 100000u
#define LOTS (24u << 20)

extern char **environ;
static char buf[1 << 16];
static const char *self;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(2);
}

static unsigned char pattern(size_t i)
{
	return (unsigned char)(i * 131 + (i >> 8) * 7 + (i >> 16));
}

/* ---- the writer ----------------------------------------------------------- */

static int go[2], ready[2]; /* pipes: to the writer (its end says all), from the writer */
static size_t sent;

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		die("tell");
}

static void hear(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		die("hear");
}

/* The other program has the socket: the pipe is closed on exec. */
static void given(void)
{
	char c;

	if (read(go[0], &c, 1))
		die("given");
}

static void put(int fd, size_t n)
{
	while (n) {
		size_t k = n < sizeof(buf) ? n : sizeof(buf);
		ssize_t r;

		for (size_t i = 0; i < k; i++)
			buf[i] = (char)pattern(sent + i);
		r = send(fd, buf, k, MSG_NOSIGNAL);
		if (r < 0 && errno == EAGAIN) {
			struct pollfd p = {.fd = fd, .events = POLLOUT};

			if (poll(&p, 1, 10000) <= 0)
				die("no room");
			continue;
		}
		if (r <= 0)
			die("send");
		sent += (size_t)r;
		n -= (size_t)r;
	}
}

/* The answer: how many bytes were read, in all. */
static void answer(int fd)
{
	char line[32] = "";
	size_t n = 0;
	ssize_t r;

	while (n < sizeof(line) - 1 && (r = recv(fd, line + n, sizeof(line) - 1 - n, 0)) > 0)
		n += (size_t)r;
	if (strtoul(line, NULL, 10) != sent) {
		fprintf(stderr, "sent %zu, read %s\n", sent, line);
		exit(1);
	}
}

static void half_close(int fd)
{
	if (shutdown(fd, SHUT_WR) < 0)
		die("shutdown");
}

static void in_recv(int fd)
{
	put(fd, BATCH);
	tell(ready[1]);
	/* Sleeps in here: what is unread in the ring has to be sent again all the same. */
	if (recv(fd, buf, 1, 0) != 1)
		die("recv");
	half_close(fd);
	answer(fd);
}

static void in_epoll(int fd, uint32_t how)
{
	struct epoll_event ev = {.events = EPOLLIN | how};
	int ep = epoll_create1(0);

	fcntl(fd, F_SETFL, O_NONBLOCK);
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	put(fd, BATCH);
	tell(ready[1]);
	do {
		if (epoll_wait(ep, &ev, 1, 10000) != 1)
			die("epoll_wait");
	} while (recv(fd, buf, 1, 0) != 1);
	fcntl(fd, F_SETFL, 0);
	half_close(fd);
	answer(fd);
}

static void in_level(int fd)
{
	in_epoll(fd, 0);
}

static void in_edge(int fd)
{
	in_epoll(fd, EPOLLET);
}

/* More than a ring: it is blocked in send when the socket is handed over. */
static void in_send(int fd)
{
	tell(ready[1]);
	put(fd, LOTS);
	fcntl(fd, F_SETFL, 0);
	half_close(fd);
	if (recv(fd, buf, 1, 0) != 1)
		die("recv");
	answer(fd);
}

static void in_poll(int fd)
{
	fcntl(fd, F_SETFL, O_NONBLOCK);
	in_send(fd);
}

/* Makes no call on the socket until the other program has it. */
static void busy(int fd)
{
	put(fd, BATCH);
	tell(ready[1]);
	given();
	half_close(fd);
	if (recv(fd, buf, 1, 0) != 1)
		die("recv");
	answer(fd);
}

static void busy_close(int fd)
{
	put(fd, BATCH);
	tell(ready[1]);
	given();
	close(fd);
}

static void busy_exit(int fd)
{
	put(fd, BATCH);
	tell(ready[1]);
	given();
	(void)fd;
}

static void busy_exit_now(int fd)
{
	busy_exit(fd);
	_exit(0);
}

/* Everything has been read: nothing is to be sent again. */
static void drained(int fd)
{
	tell(ready[1]);
	if (recv(fd, buf, 1, 0) != 1)
		die("recv");
	put(fd, BATCH);
	half_close(fd);
	answer(fd);
}

static const struct writer {
	const char *name;
	void (*run)(int fd);
	int waits; /* for a byte from the new program, before it ends its direction */
	int answers;
} writers[] = {
	{"recv", in_recv, 1, 1},     {"level", in_level, 1, 1}, {"edge", in_edge, 1, 1},
	{"send", in_send, 1, 1},     {"poll", in_poll, 1, 1},	{"busy", busy, 1, 1},
	{"close", busy_close, 0, 0}, {"exit", busy_exit, 0, 0}, {"_exit", busy_exit_now, 0, 0},
	{"drained", drained, 1, 1},
};

/* ---- the reader ------------------------------------------------------------- */

/* What the writer cannot be told the test is told. */
static int whole(size_t at)
{
	const char *size = getenv("HANDOVER_SIZE");

	if (!size || at == strtoul(size, NULL, 10))
		return 0;
	fprintf(stderr, "read %zu of %s\n", at, size);
	return 1;
}

/* Reads to the end and answers; the first byte that it sends tells that it has the socket. */
static int raw(int fd, size_t at)
{
	const char *talk = getenv("HANDOVER_TALK");
	char line[32];
	ssize_t r;

	if (talk && *talk == '1' && write(fd, "x", 1) != 1)
		die("raw write");
	while ((r = read(fd, buf, sizeof(buf))) > 0) {
		for (ssize_t i = 0; i < r; i++, at++) {
			if ((unsigned char)buf[i] != pattern(at)) {
				fprintf(stderr, "byte %zu is wrong\n", at);
				return 1;
			}
		}
	}
	if (r < 0)
		die("raw read");
	if (talk && *talk == '1') {
		r = snprintf(line, sizeof(line), "%zu", at);
		if (write(fd, line, (size_t)r) != r)
			die("raw answer");
	}
	return whole(at);
}

static char at_text[32], fd_text[32];

static char **raw_args(int fd, size_t at)
{
	static char *args[5];

	snprintf(fd_text, sizeof(fd_text), "%d", fd);
	snprintf(at_text, sizeof(at_text), "%zu", at);
	args[0] = (char *)self;
	args[1] = "raw";
	args[2] = fd_text;
	args[3] = at_text;
	return args;
}

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void by_exec0(int fd, size_t at)
{
	dup2(fd, 0);
	close(fd);
	execv(self, raw_args(0, at));
	die("exec");
}

static void by_exec(int fd, size_t at)
{
	execv(self, raw_args(fd, at));
	die("exec");
}

static void by_fork(int fd, size_t at)
{
	pid_t pid = fork();

	if (pid == 0) {
		execv(self, raw_args(fd, at));
		_exit(2);
	}
	close(go[1]); /* open in the child until it has become the other program */
	close(fd);
	exit(wait_for(pid));
}

static void by_vfork(int fd, size_t at)
{
	char **args = raw_args(fd, at);
	pid_t pid = vfork();

	if (pid == 0) {
		execv(self, args);
		_exit(2);
	}
	close(go[1]);
	close(fd);
	exit(wait_for(pid));
}

static void by_spawn(int fd, size_t at)
{
	pid_t pid;

	if (posix_spawn(&pid, self, NULL, NULL, raw_args(fd, at), environ))
		die("posix_spawn");
	close(go[1]);
	close(fd);
	exit(wait_for(pid));
}

static void by_spawn0(int fd, size_t at)
{
	posix_spawn_file_actions_t fa;
	pid_t pid;

	fcntl(fd, F_SETFD, FD_CLOEXEC);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, fd, 0);
	if (posix_spawn(&pid, self, &fa, NULL, raw_args(0, at), environ))
		die("posix_spawn");
	close(go[1]);
	close(fd);
	exit(wait_for(pid));
}

static void by_popen(int fd, size_t at)
{
	char **args = raw_args(fd, at), command[256];
	FILE *f;

	snprintf(command, sizeof(command), "exec %s raw %s %s", self, args[2], args[3]);
	f = popen(command, "r");
	if (!f)
		die("popen");
	close(go[1]);
	close(fd);
	exit(pclose(f) ? 1 : 0);
}

/* To a process that was not preloaded from its beginning. */
static void by_message(int fd, size_t at)
{
	char control[CMSG_SPACE(sizeof(int))] = "", *args[] = {(char *)self, "take", "0", NULL};
	struct iovec iov = {.iov_base = &at, .iov_len = sizeof(at)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
	posix_spawn_file_actions_t fa;
	int sv[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0)
		die("socketpair");
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(sv[0], F_SETFD, FD_CLOEXEC);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, sv[1], 0);
	if (posix_spawn(&pid, self, &fa, NULL, args, environ))
		die("posix_spawn");
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(sv[0], &mh, 0) < 0)
		die("sendmsg");
	close(go[1]);
	close(fd);
	exit(wait_for(pid));
}

static int take(int sock)
{
	char control[CMSG_SPACE(sizeof(int))];
	size_t at = 0;
	struct iovec iov = {.iov_base = &at, .iov_len = sizeof(at)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control)};
	int fd;

	if (recvmsg(sock, &mh, 0) != sizeof(at))
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(int));
	return raw(fd, at);
}

static void by_file(int fd, size_t at)
{
	FILE *f = fdopen(fd, "r+");
	size_t n;

	if (!f)
		die("fdopen");
	close(go[1]);
	if (getenv("HANDOVER_TALK")[0] == '1' && (fputc('x', f) != 'x' || fflush(f)))
		die("fputc");
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0) {
		for (size_t i = 0; i < n; i++, at++) {
			if ((unsigned char)buf[i] != pattern(at)) {
				fprintf(stderr, "byte %zu is wrong\n", at);
				exit(1);
			}
		}
	}
	if (ferror(f))
		die("fread");
	if (getenv("HANDOVER_TALK")[0] == '1') {
		fseek(f, 0, SEEK_CUR);
		fprintf(f, "%zu", at);
		fclose(f);
	}
	exit(whole(at));
}

static const struct how {
	const char *name;
	void (*run)(int fd, size_t at);
} hows[] = {
	{"exec0", by_exec0}, {"exec", by_exec},	      {"fork", by_fork},
	{"vfork", by_vfork}, {"spawn", by_spawn},     {"spawn0", by_spawn0},
	{"popen", by_popen}, {"message", by_message}, {"file", by_file},
};

/* ---- both ------------------------------------------------------------------- */

/* The first says when it is enough. */
static void ping(int fd, int first)
{
	struct warm w = {0};

	for (bool more = true; more;) {
		if (first) {
			more = !warm_enough(&w, fd);
			if (write(fd, more ? "ping" : "done", 4) != 4)
				die("ping");
		}
		if (recv(fd, buf, 4, MSG_WAITALL) != 4)
			die("pong");
		if (!first) {
			more = buf[0] == 'p';
			if (write(fd, "pong", 4) != 4)
				die("pong");
		}
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct writer *w = NULL;
	const struct how *h = NULL;
	socklen_t len = sizeof(sin);
	size_t at = 0, some;
	pid_t pid;
	int l, fd;

	self = argv[0];
	if (argc == 4 && !strcmp(argv[1], "raw"))
		return raw(atoi(argv[2]), strtoul(argv[3], NULL, 10));
	if (argc == 3 && !strcmp(argv[1], "take"))
		return take(atoi(argv[2]));
	for (size_t i = 0; argc == 3 && i < sizeof(writers) / sizeof(writers[0]); i++)
		if (!strcmp(writers[i].name, argv[2]))
			w = &writers[i];
	for (size_t i = 0; argc == 3 && i < sizeof(hows) / sizeof(hows[0]); i++)
		if (!strcmp(hows[i].name, argv[1]))
			h = &hows[i];
	if (!w || !h) {
		fprintf(stderr, "usage: handover HOW WRITER\n");
		return 2;
	}
	alarm(40);
	l = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&sin, &len) < 0 || pipe(go) < 0 || pipe(ready) < 0)
		die("listen");
	for (int i = 0; i < 2; i++) {
		fcntl(go[i], F_SETFD, FD_CLOEXEC);
		fcntl(ready[i], F_SETFD, FD_CLOEXEC);
	}
	/* The reader is the child: what it becomes must not lose the one who is waited for. */
	pid = fork();
	if (pid == 0) {
		alarm(40);
		fd = accept(l, NULL, NULL);
		close(l);
		ping(fd, 0);
		/* What comes after us is not preloaded. */
		unsetenv("LD_PRELOAD");
		setenv("HANDOVER_TALK", w->waits ? "1" : "0", 1);
		hear(ready[0]);
		/* A part is taken from the ring. */
		for (some = strcmp(w->name, "drained") ? 1000 : 0; at < some;) {
			ssize_t r = recv(fd, buf, some - at, 0);

			if (r <= 0)
				die("recv");
			for (ssize_t i = 0; i < r; i++, at++)
				if ((unsigned char)buf[i] != pattern(at))
					die("pattern");
		}
		if (!w->answers) {
			char size[32];

			snprintf(size, sizeof(size), "%u", BATCH);
			setenv("HANDOVER_SIZE", size, 1);
		}
		h->run(fd, at);
	}
	close(l);
	close(go[1]);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&sin, len) < 0)
		die("connect");
	ping(fd, 1);
	if (!strstr(w->name, "exit")) {
		w->run(fd);
	} else {
		/* A process that ends without a close. */
		pid_t child = fork();

		if (child == 0) {
			w->run(fd);
			exit(0);
		}
		close(fd);
		if (wait_for(child))
			return 1;
	}
	return wait_for(pid);
}
