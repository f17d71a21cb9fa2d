/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "detect/notify.h"

#define LISTEN_FD 3

#define KEPT_MAX 16

static struct {
	int fd;
	char name[32];
} kept[KEPT_MAX];
static int n_kept;

static bool address(struct sockaddr_un *sa, socklen_t *sa_len)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;

	if (!len || len >= sizeof(sa->sun_path) || (*path != '/' && *path != '@'))
		return false;
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	memcpy(sa->sun_path, path, len);
	if (*path == '@')
		sa->sun_path[0] = 0;
	*sa_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	return true;
}

/* with: a descriptor that goes with it, or -1. */
static void say(const char *state, int with)
{
	struct sockaddr_un sa;
	struct iovec iov = {.iov_base = (char *)state, .iov_len = strlen(state)};
	struct msghdr mh = {.msg_name = &sa, .msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct cmsghdr *c;
	int fd;

	if (!address(&sa, &mh.msg_namelen))
		return;
	if (with >= 0) {
		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = sizeof(ctl.buf);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &with, sizeof(with));
	}
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	sendmsg(fd, &mh, MSG_NOSIGNAL);
	close(fd);
}

void xvm_notify(const char *state)
{
	say(state, -1);
}

/* Names in a list that colons part. */
static void to_name(char name[32], const char *from)
{
	char *s;

	snprintf(name, 32, "%s", from);
	while ((s = strchr(name, ':')))
		*s = '.';
}

void xvm_notify_keep(int fd, const char *name)
{
	char text[64], as[32];

	to_name(as, name);
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s", as);
	say(text, fd);
}

void xvm_notify_keep_no_more(const char *name)
{
	char text[64], as[32];

	to_name(as, name);
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", as);
	say(text, -1);
}

int xvm_notify_kept(const char *name)
{
	char as[32];
	int i, fd;

	to_name(as, name);
	for (i = 0; i < n_kept; i++)
		if (kept[i].fd >= 0 && !strcmp(kept[i].name, as)) {
			fd = kept[i].fd;
			kept[i].fd = -1;
			return fd;
		}
	return -1;
}

void xvm_notify_reloading(void)
{
	struct timespec ts;
	char text[80];

	clock_gettime(CLOCK_MONOTONIC, &ts);
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%lld",
		 (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000);
	xvm_notify(text);
}

/* Those that xvm_notify_keep() has sent have its names. The one that has not is the socket: its
 * number, or -ENOENT, or -EINVAL if there are several. */
static int take_fds(int n, const char *names)
{
	int i, fd = -ENOENT;
	size_t len;

	for (i = 0; i < n; i++) {
		len = strcspn(names, ":");
		if (!strncmp(names, "ivshmem-", 8) && len < sizeof(kept[0].name) &&
		    n_kept < KEPT_MAX) {
			kept[n_kept].fd = LISTEN_FD + i;
			memcpy(kept[n_kept].name, names, len);
			kept[n_kept++].name[len] = 0;
			fcntl(LISTEN_FD + i, F_SETFD, FD_CLOEXEC);
		} else {
			fd = fd == -ENOENT ? LISTEN_FD + i : -EINVAL;
		}
		names += len + (names[len] == ':');
	}
	return fd;
}

int xvm_notify_listen_fd(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	const char *names = getenv("LISTEN_FDNAMES");
	int type, listening, fd;
	socklen_t len = sizeof(int);
	struct sockaddr_un sa;
	socklen_t sa_len = sizeof(sa);

	if (!pid || !fds || atoi(pid) != getpid())
		return -ENOENT;
	fd = take_fds(atoi(fds), names ? names : "");
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (fd < 0)
		return fd;
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_SEQPACKET)
		return -EINVAL;
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) || !listening)
		return -EINVAL;
	if (getsockname(fd, (struct sockaddr *)&sa, &sa_len) || sa.sun_family != AF_UNIX)
		return -EINVAL;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return fd;
}
