/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "detect/qemu.h"

#define FDS_MAX 65536 /* of one process that are looked at */

/* The tun driver adds a line "iff:\tNAME" to what every file has. */
static bool tap_of(int dir, const char *name, char tap[16])
{
	char text[1024], *at, *end;
	ssize_t n;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	at = !strncmp(text, "iff:\t", 5) ? text : strstr(text, "\niff:\t");
	if (!at)
		return false;
	at = strchr(at, '\t') + 1;
	end = at + strcspn(at, "\n");
	if (end == at || end - at > 15)
		return false;
	memcpy(tap, at, end - at);
	tap[end - at] = 0;
	return true;
}

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

int xvm_qemu_taps(const char *proc, pid_t pid, char tap[][16], uint32_t max)
{
	uint32_t n = 0, k, seen = 0;
	char path[64];
	struct dirent *e;
	DIR *dir;

	if (snprintf(path, sizeof(path), "%s/%d/fdinfo", proc, pid) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (n < max && seen++ < FDS_MAX && (e = readdir(dir))) {
		if (*e->d_name == '.' || !tap_of(dirfd(dir), e->d_name, tap[n]))
			continue;
		/* A device of several queues is open several times. */
		for (k = 0; k < n && strcmp(tap[k], tap[n]) != 0; k++)
			;
		if (k == n)
			n++;
	}
	closedir(dir);
	qsort(tap, n, 16, compare);
	return (int)n;
}

bool xvm_qemu_macvtap(const char *proc, pid_t pid)
{
	char path[64], to[32];
	bool found = false;
	uint32_t seen = 0;
	struct dirent *e;
	ssize_t n;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%d/fd", proc, pid);
	dir = opendir(path);
	while (dir && !found && seen++ < FDS_MAX && (e = readdir(dir))) {
		n = readlinkat(dirfd(dir), e->d_name, to, sizeof(to) - 1);
		to[n < 0 ? 0 : n] = 0;
		/* By the number of its interface. */
		found = !strncmp(to, "/dev/tap", 8) && to[8] >= '0' && to[8] <= '9';
	}
	if (dir)
		closedir(dir);
	return found;
}
