/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "detect/fd.h"
#include "detect/reset.h"

static bool is_tcp(int sock)
{
	int proto = 0;
	socklen_t len = sizeof(proto);

	return !getsockopt(sock, SOL_SOCKET, SO_PROTOCOL, &proto, &len) && proto == IPPROTO_TCP;
}

/*
 * A connect() to nowhere: the kernel sends a RST, says ECONNRESET to whoever calls next, and
 * wakes who polls. A thread that already sleeps in recv() is told EPIPE by kernels from 6.7 on: the
 * shim makes ECONNRESET of it.
 */
static bool dissolve(int sock)
{
	struct sockaddr nowhere = {.sa_family = AF_UNSPEC};

	return !connect(sock, &nowhere, sizeof(nowhere));
}

static int get_socket(int pidfd, int fd, uint64_t *cookie)
{
	int sock = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	socklen_t len = sizeof(*cookie);

	if (sock < 0)
		return -1;
	if (is_tcp(sock) && !getsockopt(sock, SOL_SOCKET, SO_COOKIE, cookie, &len))
		return sock;
	xvm_fd_discard(sock);
	return -1;
}

bool xvm_reset_at(pid_t pid, int fd, uint64_t cookie)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), sock;
	bool done = false;
	uint64_t has;

	if (pidfd < 0)
		return false;
	sock = fd < 0 ? -1 : get_socket(pidfd, fd, &has);
	/* The number is the process's word, and may be another socket's by now. */
	if (sock >= 0 && has == cookie)
		done = dissolve(sock);
	xvm_fd_discard(sock);
	close(pidfd);
	return done;
}

int xvm_reset_order(const void *a, const void *b)
{
	const struct xvm_reset *x = a, *y = b;

	return x->cookie < y->cookie ? -1 : x->cookie > y->cookie;
}

static bool names_a_socket(int dir, const char *name)
{
	char to[16];
	ssize_t n = readlinkat(dir, name, to, sizeof(to));

	return n > 7 && !memcmp(to, "socket:", 7);
}

void xvm_reset_in(pid_t pid, struct xvm_reset *r, size_t n)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), sock;
	struct xvm_reset want, *found;
	struct dirent *e;
	char path[32];
	DIR *dir;

	if (pidfd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && (e = readdir(dir))) {
		if (*e->d_name == '.' || !names_a_socket(dirfd(dir), e->d_name))
			continue;
		sock = get_socket(pidfd, atoi(e->d_name), &want.cookie);
		if (sock < 0)
			continue;
		found = bsearch(&want, r, n, sizeof(*r), xvm_reset_order);
		if (found && !found->done)
			found->done = dissolve(sock);
		xvm_fd_discard(sock);
	}
	if (dir)
		closedir(dir);
	close(pidfd);
}
