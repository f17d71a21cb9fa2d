/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon that is no use: what a program that was preloaded for xvm meets when the one on its
 * socket is of another version, broken or asleep.
 *
 *   fakexvmd PATH bad-version|silent|garbage|close|deaf
 *
 * silent never answers; deaf does not even accept; garbage answers with packets that are none of
 * the protocol's; close hangs up at the first message.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "detect/proto.h"

#define CLIENTS 1024

static void take(int fd, struct xvm_msg *m, ssize_t *len)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * 8)];
		struct cmsghdr align;
	} ctl;
	struct iovec iov = {m, sizeof(*m)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = ctl.buf,
			     .msg_controllen = sizeof(ctl.buf)};

	*len = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (*len <= 0)
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		int fds[8];

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(fds, CMSG_DATA(c), n * sizeof(int));
		for (size_t i = 0; i < n; i++)
			close(fds[i]);
	}
}

/* What to say to a message; false: hang up. */
static int answer(int fd, const char *how, const struct xvm_msg *in)
{
	struct xvm_msg m = {0};

	if (!strcmp(how, "silent"))
		return 1;
	if (!strcmp(how, "close"))
		return 0;
	if (!strcmp(how, "bad-version")) {
		m.type = XVM_MSG_BAD_VERSION;
		m.arg = XVM_PROTO_VERSION + 1;
		send(fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
		return 0;
	}
	/* garbage: too short, too long, and one of the right length with nonsense in it */
	memset(&m, 0xa5, sizeof(m));
	send(fd, &m, 3, MSG_NOSIGNAL | MSG_DONTWAIT);
	send(fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
	m.type = XVM_MSG_WELCOME;
	m.arg = XVM_PROTO_VERSION;
	m.arg2 = 0xffffffffu;
	send(fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT);
	return 1;
}

int main(int argc, char **argv)
{
	static struct pollfd p[CLIENTS + 1];
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	unsigned n = 1;

	if (argc != 3 || strlen(argv[1]) >= sizeof(sun.sun_path)) {
		fprintf(stderr, "usage: fakexvmd PATH bad-version|silent|garbage|close|deaf\n");
		return 2;
	}
	memcpy(sun.sun_path, argv[1], strlen(argv[1]));
	unlink(argv[1]);
	p[0].fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	p[0].events = POLLIN;
	if (p[0].fd < 0 || bind(p[0].fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    listen(p[0].fd, strcmp(argv[2], "deaf") ? 128 : 0) < 0) {
		perror("fakexvmd");
		return 2;
	}
	if (!strcmp(argv[2], "deaf"))
		for (;;)
			pause();
	for (;;) {
		if (poll(p, n, -1) < 0)
			return 2;
		if (p[0].revents && n <= CLIENTS) {
			int fd = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0)
				p[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
		for (unsigned i = 1; i < n; i++) {
			struct xvm_msg m;
			ssize_t len;

			if (!p[i].revents)
				continue;
			take(p[i].fd, &m, &len);
			if (len > 0)
				printf("message type=%u from client %u\n", m.type, i),
					fflush(stdout);
			if (len == 0 || (len < 0 && errno != EAGAIN) ||
			    (len > 0 && !answer(p[i].fd, argv[2], &m))) {
				close(p[i].fd);
				p[i--] = p[--n];
			}
		}
	}
}
