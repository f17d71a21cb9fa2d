/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "detect/client.h"
#include "detect/socket.h"

#define WAIT_STEP_MS 10
#define WAIT_STEPS 500 /* for a daemon that is starting, or ending */

static void nap(void)
{
	struct timespec ts = {.tv_nsec = WAIT_STEP_MS * 1000000};

	nanosleep(&ts, NULL);
}

/* The last folder of the path only: a longer one that is missing is rather a mistake. */
static void make_folder(const struct xvm_socket *s)
{
	char dir[sizeof(s->path)];
	char *slash;

	memcpy(dir, s->path, sizeof(dir));
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return;
	*slash = 0;
	if (!mkdir(dir, s->kind & XVM_SOCKET_PRIVATE ? 0700 : 0755))
		chmod(dir, s->kind & XVM_SOCKET_PRIVATE ? 0700 : 0755); /* whatever the umask is */
}

/* The lock's file may be removed by its last holder between our open and our flock. */
static bool still_there(const struct xvm_socket *s, int fd)
{
	struct stat a, b;

	return !fstat(fd, &a) && !stat(s->lock, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* 0 with the lock, -EWOULDBLOCK, or another negative errno. */
static int try_lock(struct xvm_socket *s)
{
	int fd, err;

	for (;;) {
		fd = open(s->lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB)) {
			err = -errno;
			close(fd);
			return err;
		}
		if (still_there(s, fd))
			break;
		close(fd);
	}
	s->lock_fd = fd;
	return 0;
}

static int connect_stream(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd < 0)
		return -errno;
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	if (!connect(fd, (struct sockaddr *)&sa, sizeof(sa)))
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* Does anybody listen there? 0 nobody, 1 an xvmd or the like, or a negative errno. */
static int probe(const struct xvm_socket *s)
{
	int fd =
		s->kind & XVM_SOCKET_STREAM ? connect_stream(s->path) : xvm_client_connect(s->path);

	if (fd >= 0) {
		close(fd);
		return 1;
	}
	if (fd == -ECONNREFUSED || fd == -ENOENT)
		return 0;
	return fd == -EAGAIN ? 1 : fd;
}

static int clear_path(struct xvm_socket *s, char *err, size_t err_len)
{
	struct stat st;
	int ret;

	if (lstat(s->path, &st)) {
		if (errno == ENOENT)
			return 0;
		ret = -errno;
		snprintf(err, err_len, "%s: %s", s->path, strerror(-ret));
		return ret;
	}
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err, err_len, "%s exists and is no socket", s->path);
		return -ENOTSOCK;
	}
	ret = probe(s);
	if (ret) {
		snprintf(err, err_len,
			 ret == 1 ? "%s: another daemon answers there"
				  : "%s is the socket of another program",
			 s->path);
		return -EADDRINUSE;
	}
	if (unlink(s->path) && errno != ENOENT) {
		ret = -errno;
		snprintf(err, err_len, "%s: cannot remove the stale socket: %s", s->path,
			 strerror(-ret));
		return ret;
	}
	return 0;
}

int xvm_socket_again(struct xvm_socket *s, int *fd)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	mode_t mask;
	int sock, ret;

	sock = socket(AF_UNIX,
		      (s->kind & XVM_SOCKET_STREAM ? SOCK_STREAM : SOCK_SEQPACKET) | SOCK_CLOEXEC |
			      SOCK_NONBLOCK,
		      0);
	if (sock < 0)
		return -errno;
	memcpy(sa.sun_path, s->path, sizeof(sa.sun_path));
	/* Who may pair is a matter of rules: on a system's socket anybody may ask. */
	mask = umask(s->kind & XVM_SOCKET_PRIVATE ? 0177 : 0111);
	ret = bind(sock, (struct sockaddr *)&sa, sizeof(sa)) ? -errno : 0;
	umask(mask);
	if (!ret && (listen(sock, SOMAXCONN) || lstat(s->path, &st)))
		ret = -errno;
	if (ret) {
		close(sock);
		return ret;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	*fd = sock;
	return 0;
}

int xvm_socket_open(struct xvm_socket *s, const char *path, unsigned kind, int *fd, char *err,
		    size_t err_len)
{
	int i, ret;

	memset(s, 0, sizeof(*s));
	s->lock_fd = -1;
	s->kind = kind;
	if (!*path || strlen(path) >= sizeof(s->path)) {
		snprintf(err, err_len, "%s: a socket's path has 1 to %zu bytes", path,
			 sizeof(s->path) - 1);
		return -ENAMETOOLONG;
	}
	snprintf(s->path, sizeof(s->path), "%s", path);
	snprintf(s->lock, sizeof(s->lock), "%s.lock", path);
	make_folder(s);
	ret = try_lock(s);
	for (i = 0; ret == -EWOULDBLOCK && (kind & XVM_SOCKET_PRIVATE) && i < WAIT_STEPS; i++) {
		if (probe(s) == 1)
			return 1;
		nap();
		ret = try_lock(s);
	}
	if (ret == -EWOULDBLOCK) {
		snprintf(err, err_len, "%s: another xvmd serves it", path);
		return -EADDRINUSE;
	}
	if (ret) {
		snprintf(err, err_len, "%s: cannot lock it: %s", path, strerror(-ret));
		return ret;
	}
	ret = clear_path(s, err, err_len);
	if (ret)
		goto out_close;
	ret = xvm_socket_again(s, fd);
	if (ret) {
		snprintf(err, err_len, "%s: %s", path, strerror(-ret));
		goto out_close;
	}
	return 0;

out_close:
	s->dev = 0;
	s->ino = 0;
	xvm_socket_close(s);
	return ret;
}

void xvm_socket_unlink(struct xvm_socket *s)
{
	struct stat st;

	/* Somebody may have put another thing there by hand. */
	if (s->lock_fd >= 0 && s->ino && !lstat(s->path, &st) && st.st_dev == s->dev &&
	    st.st_ino == s->ino)
		unlink(s->path);
}

void xvm_socket_close(struct xvm_socket *s)
{
	if (s->lock_fd < 0)
		return;
	xvm_socket_unlink(s);
	/* While it is still locked: who waits for it looks whether it is still there. */
	unlink(s->lock);
	close(s->lock_fd);
	s->lock_fd = -1;
}
