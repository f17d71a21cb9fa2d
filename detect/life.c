/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "detect/life.h"

static int again(const struct xvm_life *l, int flags)
{
	char path[32];
	int fd;

	/* Another open file, not another descriptor of the same. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", l->fd);
	fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int xvm_life_hold(const struct xvm_life *l, uint64_t number)
{
	struct flock lock = {.l_type = F_RDLCK, .l_start = (off_t)number, .l_len = 1};
	int fd = l->fd < 0 ? -ENOENT : again(l, O_RDONLY);

	if (fd < 0 || !fcntl(fd, F_OFD_SETLK, &lock))
		return fd;
	close(fd);
	return -EBUSY;
}

int xvm_life_waiter(const struct xvm_life *l)
{
	return again(l, O_RDWR);
}

static bool held(const struct xvm_life *l, off_t first, off_t len)
{
	struct flock lock = {.l_type = F_WRLCK, .l_start = first, .l_len = len};

	return l->fd >= 0 && !fcntl(l->fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK;
}

bool xvm_life_held(const struct xvm_life *l, uint64_t number)
{
	return held(l, (off_t)number, 1);
}

bool xvm_life_any(const struct xvm_life *l)
{
	return held(l, XVM_LIFE_OWNER + 1, 0);
}

int xvm_life_open(struct xvm_life *l, const char *path)
{
	l->own = -1;
	if (path)
		l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	else
		l->fd = memfd_create("xvm-life", MFD_CLOEXEC);
	if (l->fd < 0)
		return -errno;
	l->own = xvm_life_hold(l, XVM_LIFE_OWNER);
	if (l->own >= 0)
		return 0;
	close(l->fd);
	l->fd = -1;
	return l->own;
}

void xvm_life_close(struct xvm_life *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->own >= 0)
		close(l->own);
	l->fd = l->own = -1;
}
