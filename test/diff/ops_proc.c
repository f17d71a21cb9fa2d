/* SPDX-License-Identifier: Apache-2.0 */
/* Processes, and what signals do. */
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/diff/actor.h"
#include "test/diff/via.h"
#include "transport/sys.h"

#define SELF "/proc/self/exe"
#define VARIABLES 250

/* ---- endpoints ---- */

static void op_fork(struct call *c)
{
	pid_t pid = via_fork();

	if (pid < 0)
		die("fork");
	if (pid == 0) {
		become_child();
		tell(c, "child");
		return;
	}
	tell(c, "parent \t%d", (int)pid);
}

/* The environment, or that of a program that is not preloaded. */
static char **environment(bool plain)
{
	static char *env[VARIABLES + 1];
	int n = 0;

	for (char **e = environ; *e && n < VARIABLES; e++)
		if (!plain || strncmp(*e, "LD_PRELOAD=", strlen("LD_PRELOAD=")))
			env[n++] = *e;
	env[n] = NULL;
	return env;
}

/* exec HOW [plain]: the endpoint goes on as another program. */
static void op_exec(struct call *c)
{
	const char *how = arg(c, 1);
	char **args = image_args(false), **env = environment(!strcmp(arg(c, 2), "plain"));

	environ = env;
	if (!strcmp(how, "execve"))
		execve(SELF, args, env);
	else if (!strcmp(how, "execv"))
		execv(SELF, args);
	else if (!strcmp(how, "execvp"))
		execvp(SELF, args);
	else if (!strcmp(how, "execvpe"))
		execvpe(SELF, args, env);
	else if (!strcmp(how, "fexecve"))
		fexecve(open(SELF, O_RDONLY | O_CLOEXEC), args, env);
	else if (!strcmp(how, "execveat"))
		execveat(AT_FDCWD, SELF, args, env, 0);
	else if (!strcmp(how, "raw"))
		syscall(SYS_execve, SELF, args, env);
	die(how);
}

/* spawn HOW [plain]: a child that is another program from the start, A' as a fork's is. */
static void op_spawn(struct call *c)
{
	const char *how = arg(c, 1);
	char **args = image_args(true), **env = environment(!strcmp(arg(c, 2), "plain"));
	pid_t pid = -1;

	if (!strcmp(how, "posix_spawn")) {
		if (posix_spawn(&pid, SELF, NULL, NULL, args, env))
			die(how);
	} else if (!strcmp(how, "posix_spawnp")) {
		if (posix_spawnp(&pid, SELF, NULL, NULL, args, env))
			die(how);
	} else if (!strcmp(how, "vfork")) {
		pid = vfork();
		if (pid == 0) {
			execve(SELF, args, env);
			_exit(3);
		}
	}
	if (pid < 0)
		die(how);
	tell(c, "parent \t%d", (int)pid);
}

static void op_daemon(struct call *c)
{
	result(c, daemon(1, 1));
}

/* exit [raw|quick|return|abort] */
static void op_exit(struct call *c)
{
	const char *how = arg(c, 1);

	if (!strcmp(how, "raw"))
		xvm_sys(SYS_exit_group, 0);
	if (!strcmp(how, "syscall"))
		syscall(SYS_exit_group, 0);
	if (!strcmp(how, "quick"))
		quick_exit(0);
	if (!strcmp(how, "return"))
		exit(0);
	if (!strcmp(how, "_Exit"))
		_Exit(0);
	_exit(0);
}

static void op_killed(struct call *c)
{
	kill(getpid(), SIGKILL);
}

static void op_reap(struct call *c)
{
	int st = 0;

	if (waitpid((pid_t)number(arg(c, 1), 0), &st, 0) < 0)
		die("reap");
	tell(c, "%x", (unsigned)st);
}

/* ---- children that do one thing and end ---- */

static int fd_at(const struct call *c, int i, int none)
{
	return i < c->words ? fd_of(arg(c, i)) : none;
}

static void child_does(const struct call *c)
{
	static char *const nothing[] = {"actor", "-", NULL};
	const char *what = arg(c, 2);
	int fd = fd_at(c, 3, 3), to = fd_at(c, 4, -1);

	if (!strcmp(what, "close"))
		close(fd);
	else if (!strcmp(what, "syscall_close"))
		syscall(SYS_close, fd);
	else if (!strcmp(what, "close_range"))
		close_range((unsigned)fd, (unsigned)to, 0);
	else if (!strcmp(what, "closefrom"))
		closefrom(fd);
	else if (!strcmp(what, "close_all"))
		for (int i = fd; i < HIGHEST; i++)
			close(i);
	else if (!strcmp(what, "dup2"))
		dup2(fd, to);
	else if (!strcmp(what, "cloexec"))
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	else if (!strcmp(what, "bad_exec"))
		execv("/nonexistent", nothing);
	else if (!strcmp(what, "exec"))
		execv(SELF, nothing);
	_exit(0);
}

static pid_t spawn_to(const struct call *c)
{
	static char *const nothing[] = {"actor", "-", NULL};
	const char *what = arg(c, 2);
	int fd = fd_at(c, 3, 3), to = fd_at(c, 4, -1);
	posix_spawn_file_actions_t fa;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	if (!strcmp(what, "close"))
		posix_spawn_file_actions_addclose(&fa, fd);
	else if (!strcmp(what, "closefrom"))
		posix_spawn_file_actions_addclosefrom_np(&fa, fd);
	else if (!strcmp(what, "dup2"))
		posix_spawn_file_actions_adddup2(&fa, fd, to);
	if (posix_spawn(&pid, SELF, &fa, NULL, nothing, environ))
		die("spawn");
	posix_spawn_file_actions_destroy(&fa);
	return pid;
}

static int cloned(void *arg)
{
	child_does(arg);
	return 0;
}

static pid_t by_clone(struct call *c)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	return clone(cloned, stack + sizeof(stack), SIGCHLD, c);
}

static int by_shell(const char *how)
{
	char self[PATH_MAX] = "", command[PATH_MAX + 8];

	if (xvm_sys(SYS_readlinkat, AT_FDCWD, SELF, self, sizeof(self) - 1) <= 0)
		die("readlink");
	snprintf(command, sizeof(command), "exec %s -", self);
	return !strcmp(how, "system") ? system(command) : pclose(popen(command, "r"));
}

/*
 * child HOW WHAT [FD [FD]]: HOW is fork, clone, vfork or spawn, or with WHAT - system or popen;
 * WHAT is close, closefrom and the like, in the child. Tells how it ended.
 */
static void op_child(struct call *c)
{
	const char *how = arg(c, 1);
	pid_t pid;
	int st = -1;

	if (!strcmp(how, "system") || !strcmp(how, "popen")) {
		result(c, by_shell(how));
		return;
	}
	if (!strcmp(how, "vfork"))
		pid = vfork();
	else
		pid = !strcmp(how, "spawn")   ? spawn_to(c)
		      : !strcmp(how, "clone") ? by_clone(c)
					      : via_fork();
	if (pid == 0)
		child_does(c);
	if (pid < 0 || waitpid(pid, &st, 0) != pid)
		die(how);
	result(c, st);
}

/* ---- signals ---- */

/* restart 0|1: whether handlers say SA_RESTART */
static void op_restart(struct call *c)
{
	set_signals(number(arg(c, 1), 0) != 0);
	result(c, 0);
}

/* in_handler CALL...: is made in the handler of each kick from now on. */
static void op_in_handler(struct call *c)
{
	char line[sizeof(c->line)] = "";

	for (int i = 1; i < c->words; i++) {
		strncat(line, i > 1 ? " " : "", sizeof(line) - strlen(line) - 1);
		strncat(line, c->word[i], sizeof(line) - strlen(line) - 1);
	}
	set_handler(line);
	result(c, 0);
}

const struct op proc_ops[] = {
	{"fork", op_fork},
	{"exec", op_exec},
	{"spawn", op_spawn},
	{"daemon", op_daemon},
	{"exit", op_exit},
	{"killed", op_killed},
	{"reap", op_reap},
	{"child", op_child},
	{"restart", op_restart},
	{"in_handler", op_in_handler},
	{NULL, NULL},
};
