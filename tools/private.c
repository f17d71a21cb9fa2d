/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/find.h"
#include "tools/preload.h"
#include "tools/private.h"
#include "tools/tool.h"

#define START_MS 5000

/* systemd's promise about XDG_RUNTIME_DIR does not hold under sudo or su: look. */
static bool runtime_dir_is_ours(const char *dir)
{
	struct stat st;

	return dir && *dir == '/' && !lstat(dir, &st) && S_ISDIR(st.st_mode) &&
	       st.st_uid == geteuid() && !(st.st_mode & 022);
}

int xvm_private_path(char *buf, size_t size)
{
	const char *dir = secure_getenv("XDG_RUNTIME_DIR");
	size_t n;

	if (runtime_dir_is_ours(dir))
		n = snprintf(buf, size, "%s/xvm/xvmd.sock", dir);
	else
		n = snprintf(buf, size, "/tmp/xvm-%u/xvmd.sock", (unsigned)geteuid());
	return n < size ? 0 : -ENAMETOOLONG;
}

/* The directory, as a descriptor: what was checked is what is used. Negative errno. */
static int open_dir(const char *path)
{
	char dir[128];
	const char *slash = strrchr(path, '/');
	struct stat st;
	int fd;

	if (!slash || slash == path || (size_t)(slash - path) >= sizeof(dir))
		return -EINVAL;
	memcpy(dir, path, slash - path);
	dir[slash - path] = 0;
	if (mkdir(dir, 0700) && errno != EEXIST)
		return -errno;
	/* Anybody may make things in /tmp: no symlink, no directory of somebody else's, none that
	 * others can write to. */
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP || errno == ENOTDIR ? -EPERM : -errno;
	if (fstat(fd, &st) || st.st_uid != geteuid() || (st.st_mode & 077)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

int xvm_private_dir(const char *path)
{
	int fd = open_dir(path);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static void exec_xvmd(const char *xvmd, const char *path, bool loud)
{
	char *list = xvm_preload_list(NULL, getenv("LD_PRELOAD"));
	sigset_t none;
	int null;

	/* It outlives us: whatever our caller has open (the pipe of a $(...), a lock) stays with
	 * the caller. */
	null = open("/dev/null", O_RDWR);
	dup2(null, 0);
	dup2(null, 1);
	if (!loud)
		dup2(null, 2);
	syscall(SYS_close_range, 3, ~0u, 0);
	if (*list)
		setenv("LD_PRELOAD", list, 1);
	else
		unsetenv("LD_PRELOAD");
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execl(xvmd, "xvmd", "--private", "--socket", path, (char *)NULL);
	_exit(127);
}

/* xvmd leaves the foreground once it listens. */
static int start(const char *path, bool loud)
{
	const char *xvmd = xvm_find_xvmd();
	struct pollfd p = {.events = POLLIN};
	int status;
	pid_t pid;

	if (!xvmd)
		return -ENOENT;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		exec_xvmd(xvmd, path, loud);
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd >= 0) {
		if (poll(&p, 1, START_MS) == 0)
			kill(pid, SIGKILL);
		close(p.fd);
	}
	if (waitpid(pid, &status, 0) != pid)
		return -errno;
	if (WIFSIGNALED(status))
		return -ETIMEDOUT;
	return WEXITSTATUS(status) ? -ECHILD : 0;
}

static int private_open(struct xvm_ask *a, const char *path, bool loud)
{
	int dir, lock, ret;

	snprintf(a->path, sizeof(a->path), "%s", path);
	a->sock = -1;
	dir = open_dir(path);
	if (dir < 0)
		return dir;
	ret = xvm_ask_open_at(a, path);
	if (!ret)
		goto out_dir;
	/* Two programs that are started at once must find one daemon, not make two. */
	lock = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (lock < 0) {
		ret = -errno;
		goto out_dir;
	}
	while (flock(lock, LOCK_EX) && errno == EINTR)
		;
	ret = xvm_ask_open_at(a, path);
	if (ret) {
		ret = start(path, loud);
		if (!ret)
			ret = xvm_ask_open_at(a, path);
	}
	close(lock);
out_dir:
	close(dir);
	return ret;
}

int xvm_private_up(const char *path, bool loud)
{
	struct xvm_ask a;
	int ret = private_open(&a, path, loud);

	if (!ret)
		xvm_ask_close(&a);
	return ret;
}

int xvm_private_choose(struct xvm_ask *a, const char *path, bool own, bool loud)
{
	char private[128], why[XVM_WHY];
	int ret;

	if (!own) {
		ret = xvm_ask_open_at(a, path ? path : xvm_client_path());
		if (!ret)
			return 0;
		/* Who names one means that one. */
		if (path)
			xvm_warn("%s: using a private one", xvm_ask_why(a, ret, why));
		path = NULL;
	}
	if (!path) {
		ret = xvm_private_path(private, sizeof(private));
		if (ret)
			return ret;
		path = private;
	}
	return private_open(a, path, loud);
}
