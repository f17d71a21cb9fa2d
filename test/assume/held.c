/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is alive (detect/life.h): an OFD lock lasts as long as any descriptor or mapping of the open
 * file, wherever that came to, and no longer: not over exec, not over a kill. One who waits for all
 * to be gone is woken then.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "assume.h"

static int file, ready[2], end[2];

static int again(int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	return open(path, flags | O_CLOEXEC);
}

static bool held(off_t byte, off_t len)
{
	struct flock l = {.l_type = F_WRLCK, .l_start = byte, .l_len = len};

	NEED(!fcntl(file, F_OFD_GETLK, &l));
	return l.l_type != F_UNLCK;
}

/* In the child: an open file with a lock, mapped, and no descriptor. */
static void hold(off_t byte)
{
	struct flock l = {.l_type = F_RDLCK, .l_start = byte, .l_len = 1};
	int fd = again(O_RDONLY);

	NEED(fd >= 0 && !fcntl(fd, F_OFD_SETLK, &l));
	NEED(mmap(NULL, 4096, PROT_NONE, MAP_SHARED, fd, 0) != MAP_FAILED);
	close(fd);
}

static pid_t child(off_t byte, bool forks, bool execs)
{
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid)
		return pid;
	close(end[1]);
	hold(byte);
	if (forks && fork() > 0)
		_exit(0);
	NEED(write(ready[1], "", 1) == 1);
	/* Until the test closes its end. */
	if (execs) {
		dup2(end[0], 0);
		execlp("cat", "cat", NULL);
	}
	NEED(read(end[0], (char[1]){0}, 1) == 0);
	_exit(0);
}

static void is_ready(void)
{
	NEED(read(ready[0], (char[1]){0}, 1) == 1);
}

static void kill_it(pid_t pid)
{
	kill(pid, SIGKILL);
	NEED(waitpid(pid, NULL, 0) == pid);
}

static void all(void)
{
	pid_t a, b, waits;
	struct flock l = {.l_type = F_WRLCK};
	int status;

	NEED(!pipe(ready) && !pipe(end));
	a = child(5, false, false);
	b = child(6, true, false);
	is_ready();
	is_ready();
	NEED(waitpid(b, NULL, 0) == b);
	ASSUME(held(5, 1), "a mapping holds no lock");
	ASSUME(held(6, 1), "a fork's mapping holds no lock");
	ASSUME(held(1, 0) && !held(7, 0) && !held(0, 5), "ranges");
	waits = fork();
	if (!waits) {
		close(end[1]);
		_exit(fcntl(again(O_RDWR), F_OFD_SETLKW, &l) != 0);
	}
	kill_it(a);
	ASSUME(!held(5, 1), "the lock of one that was killed");
	ASSUME(held(6, 1), "another's lock went with it");
	ASSUME(waitpid(waits, NULL, WNOHANG) == 0, "got a lock that is not to be had");
	close(end[1]);
	NEED(waitpid(waits, &status, 0) == waits);
	ASSUME(WIFEXITED(status) && WEXITSTATUS(status) == 0, "no lock when all had gone");
	close(end[0]);
	NEED(!pipe(end));
	a = child(8, false, true);
	is_ready();
	/* It executes soon. */
	for (int i = 0; held(8, 1) && i < 5000; i++)
		poll(NULL, 0, 1);
	ASSUME(!held(8, 1), "a lock outlives exec");
	kill_it(a);
}

int main(void)
{
	char path[] = "/tmp/xvm-assume.XXXXXX";

	assume_where = "memfd";
	file = memfd_create("held", MFD_CLOEXEC);
	all();
	assume_where = "file";
	file = mkstemp(path);
	unlink(path);
	all();
	return assume_end();
}
