/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of this process: start, forks, exec, sandboxes. Everything is set up by the first of our
 * constructor and a wrapper that needs it; the environment is read once, then.
 */
#include "shim/process.h"

#include <ctype.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <sys/resource.h>

#include "detect/client.h"
#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "shim/unwind.h"
#include "transport/lock.h"
#include "transport/sys.h"

#define INHERITED 64 /* descriptors looked at after an exec */

struct xvm_conf xvm_conf = {
	.ring_size = 2 << 20,
	.spin_us = 100,
	.offer_after = 8,
};

uint32_t xvm_forks;
static _Atomic int my_pid;
static _Atomic int started; /* 0 no, 1 under way, 2 done */

int xvm_pid(void)
{
	int pid = atomic_load_explicit(&my_pid, memory_order_relaxed);

	if (!pid) {
		pid = (int)xvm_sys6(SYS_getpid, 0, 0, 0, 0, 0, 0);
		atomic_store(&my_pid, pid);
	}
	return pid;
}

/*
 * Set for good when a child is made that shares our memory: by vfork.S, clone() and syscall(). What
 * glibc makes itself (posix_spawn) calls none of our wrappers.
 */
__attribute__((visibility("hidden"))) uint8_t xvm_shares;

bool xvm_in_vfork(void)
{
	/* Sandboxed, vfork() is fork(), and to ask may be death. */
	if (!*(volatile uint8_t *)&xvm_shares || xvm_conf.sandboxed)
		return false;
	return xvm_sys6(SYS_getpid, 0, 0, 0, 0, 0, 0) != xvm_pid();
}

void xvm_log(int level, const char *fmt, ...)
{
	char buf[256];
	va_list ap;
	int n, saved = errno;

	if (level > xvm_conf.log || xvm_conf.sandboxed)
		return;
	n = snprintf(buf, sizeof(buf), "xvm[%d]: ", xvm_pid());
	va_start(ap, fmt);
	n += vsnprintf(buf + n, sizeof(buf) - (size_t)n, fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(buf))
		n = sizeof(buf) - 1;
	xvm_sys6(SYS_write, 2, (long)buf, n, 0, 0, 0);
	errno = saved;
}

static uint32_t number(const char *name, uint32_t fallback, uint32_t max)
{
	const char *s = getenv(name);
	unsigned long long v;
	char *end;

	if (!s || !*s)
		return fallback;
	v = strtoull(s, &end, 10);
	if (*end == 'k' || *end == 'K')
		v <<= 10, end++;
	else if (*end == 'm' || *end == 'M')
		v <<= 20, end++;
	if (*end || !isdigit((unsigned char)*s)) {
		xvm_log(1, "%s=%s is no number: it counts as not set\n", name, s);
		return fallback;
	}
	return v > max ? max : (uint32_t)v;
}

/* ---- forks --------------------------------------------------------------- */

void xvm_forking(void)
{
	xvm_epoll_sharing();
	xvm_holders_forking();
}

static void in_child(void)
{
	atomic_store(&my_pid, (int)xvm_sys6(SYS_getpid, 0, 0, 0, 0, 0, 0));
	xvm_forks++;
	xvm_lock_forked();
	xvm_fault_forked();
	xvm_lock_tid(); /* now: a sandbox may forbid it later */
	xvm_link_forked();
	xvm_waker_forked();
	if (xvm_adrift()) {
		xvm_holders_lost();
		xvm_epoll_forked();
		xvm_adrift_forked();
		return;
	}
	xvm_holders_forked();
	xvm_epoll_forked();
}

long xvm_forked(long pid)
{
	int e = errno;

	if (pid == 0)
		in_child();
	else if (pid < 0)
		xvm_holders_fork_failed();
	errno = e;
	return pid;
}

/* The handlers do the work, whoever forks; only here is it known that a fork has failed. */
XVM_WRAP pid_t fork(void)
{
	pid_t pid = REAL(fork)();

	return pid < 0 && xvm_fdtab ? (pid_t)xvm_forked(pid) : pid;
}

void xvm_sharing_child(void)
{
	*(volatile uint8_t *)&xvm_shares = 1;
}

/* Libc's handlers do not run. */
XVM_WRAP pid_t _Fork(void)
{
	if (!xvm_fdtab || xvm_in_vfork())
		return REAL(_Fork)();
	xvm_forking();
	return (pid_t)xvm_forked(REAL(_Fork)());
}

/*
 * pthread_atfork() of glibc, which programs link statically. Weak: musl has none. Its loader
 * preloads us into its own programs, and ends those where a symbol is missing; there we do nothing.
 */
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *)
	__attribute__((weak));
extern int __cxa_at_quick_exit(void (*)(void *), void *) __attribute__((weak));
extern void *__dso_handle __attribute__((visibility("hidden")));

/* A vfork's child is noticed by its pid, and a sandbox may forbid to ask. vfork.S. */
__attribute__((visibility("hidden"))) pid_t (*xvm_vfork_by)(void) = fork;

/* ---- start --------------------------------------------------------------- */

bool xvm_is_tcp(int fd)
{
	int v = 0;
	socklen_t len = sizeof(v);

	return xvm_sys6(SYS_getsockopt, fd, SOL_SOCKET, SO_PROTOCOL, (long)&v, (long)&len, 0) ==
		       0 &&
	       v == IPPROTO_TCP;
}

uint64_t xvm_cookie(int fd)
{
	uint64_t c = 0;
	socklen_t len = sizeof(c);

	xvm_sys6(SYS_getsockopt, fd, SOL_SOCKET, SO_COOKIE, (long)&c, (long)&len, 0);
	return c;
}

void xvm_adopt(int fd)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);

	if (xvm_fdtab_peek(fd) || !xvm_is_tcp(fd) ||
	    xvm_sys6(SYS_getpeername, fd, (long)&sa, (long)&len, 0, 0, 0) < 0)
		return;
	/* Two descriptors of one open file are one socket. */
	for (int other = 0; other < INHERITED; other++) {
		if (other != fd && xvm_fdtab_peek(other) && xvm_cookie(fd) == xvm_cookie(other)) {
			xvm_fdtab_dup(other, fd);
			return;
		}
	}
	xvm_sock_track(fd, XVM_ROLE_UNKNOWN);
}

/* ino of a descriptor's socket as /proc names it: "socket:[123]". */
static bool socket_name(int dir, const char *name, char out[32])
{
	long n = xvm_sys6(SYS_readlinkat, dir, (long)name, (long)out, 31, 0, 0);

	if (n <= 8 || memcmp(out, "socket:[", 8))
		return false;
	out[n] = 0;
	return true;
}

/* Calls fn for each entry of an open directory that is a number, until it says true. */
static bool each_number(int dir, bool (*fn)(int dir, const char *name, void *arg), void *arg)
{
	char buf[4096] __attribute__((aligned(8)));
	long n;

	while ((n = xvm_sys6(SYS_getdents64, dir, (long)buf, sizeof(buf), 0, 0, 0)) > 0) {
		for (long o = 0; o < n; o += *(unsigned short *)(buf + o + 16)) {
			const char *name = buf + o + 19;

			if (isdigit((unsigned char)*name) && fn(dir, name, arg))
				return true;
		}
	}
	return false;
}

static bool same_socket(int dir, const char *name, void *arg)
{
	char link[32];

	return socket_name(dir, name, link) && !strcmp(link, arg);
}

static bool process_has(int dir, const char *name, void *arg)
{
	char path[32];
	bool has;
	long fd;

	if (atoi(name) == xvm_pid())
		return false;
	snprintf(path, sizeof(path), "%s/fd", name);
	fd = xvm_sys6(SYS_openat, dir, (long)path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return false;
	has = each_number((int)fd, same_socket, arg);
	xvm_sys6(SYS_close, fd, 0, 0, 0, 0, 0);
	return has;
}

bool xvm_held_elsewhere(int fd)
{
	char self[32], link[32];
	bool held;
	long proc;

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (!socket_name(AT_FDCWD, self, link))
		return true;
	proc = xvm_sys6(SYS_openat, AT_FDCWD, (long)"/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0,
			0, 0);
	if (proc < 0)
		return true;
	held = each_number((int)proc, process_has, link);
	xvm_sys6(SYS_close, proc, 0, 0, 0, 0, 0);
	return held;
}

static bool is_uring(int dir, const char *name, void *arg)
{
	static const char want[] = "anon_inode:[io_uring]";
	char link[32];

	return xvm_sys(SYS_readlinkat, dir, name, link, sizeof(link)) == sizeof(want) - 1 &&
	       !memcmp(link, want, sizeof(want) - 1);
}

bool xvm_has_uring(void)
{
	static _Atomic uint32_t asked;
	uint32_t n = atomic_fetch_add(&asked, 1) + 1;
	long dir;

	if (xvm_conf.io_uring || (n & (n - 1)))
		return xvm_conf.io_uring;
	dir = xvm_sys(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return false;
	xvm_conf.io_uring = each_number((int)dir, is_uring, NULL);
	xvm_sys(SYS_close, dir);
	if (xvm_conf.io_uring)
		xvm_hand_over_all(XVM_R_UNSUPPORTED);
	return xvm_conf.io_uring;
}

static void quick_last_words(void *unused);

bool xvm_init(void)
{
	const char *path;
	struct rlimit rl;
	int zero = 0;

	if (atomic_load_explicit(&started, memory_order_acquire) == 2)
		return !xvm_conf.disabled;
	if (!atomic_compare_exchange_strong(&started, &zero, 1))
		return false; /* by ourselves, or by another thread that is at it */
	xvm_conf.disabled = getenv("XVM_DISABLE") != NULL || !__register_atfork;
	xvm_conf.log = (int)number("XVM_LOG", 0, 9);
	xvm_conf.ring_size = number("XVM_RING_SIZE", xvm_conf.ring_size, XVM_RING_MAX);
	xvm_conf.spin_us = number("XVM_SPIN_US", xvm_conf.spin_us, 1000000);
	xvm_conf.offer_after = number("XVM_OFFER_AFTER", xvm_conf.offer_after, INT_MAX);
	/* Copied: a program may clear or overwrite its environment, as nginx does. */
	path = xvm_client_path();
	if (strlen(path) < sizeof(xvm_conf.socket))
		memcpy(xvm_conf.socket, path, strlen(path) + 1);
	/* We reserve address space, and use descriptors: not those of a program that has none to
	 * spare. */
	if ((!getrlimit(RLIMIT_AS, &rl) && rl.rlim_cur != RLIM_INFINITY) ||
	    (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur == rl.rlim_max &&
	     rl.rlim_cur < XVM_FEW_FDS)) {
		if (!xvm_conf.disabled)
			xvm_log(1, "not used: too few descriptors, or RLIMIT_AS is set\n");
		xvm_conf.disabled = true;
	}
	if (!xvm_conf.disabled && (!__register_atfork || xvm_fdtab_init() < 0 ||
				   __register_atfork(xvm_forking, NULL, in_child, __dso_handle))) {
		xvm_log(1, "not used: no memory\n");
		xvm_conf.disabled = true;
	}
	atomic_store(&started, 2);
	if (xvm_conf.disabled)
		return false;
	if (__cxa_at_quick_exit)
		__cxa_at_quick_exit(quick_last_words, __dso_handle);
	xvm_pid();
	xvm_spin_budget(); /* asks for what a sandbox may forbid to ask */
	for (int fd = 0; fd < INHERITED; fd++)
		xvm_adopt(fd);
	return true;
}

__attribute__((constructor)) static void start(void)
{
	/* Before there are threads: while one of them looks up, the others would be without. */
	xvm_real_find(0);
	xvm_unwind_init();
	xvm_vfork_by = REAL(vfork);
	xvm_init();
}

/* ---- exec and sandboxes --------------------------------------------------- */

/* The new program image knows nothing of a ring. It may be the image of a vfork's child. */
static void before_exec(void)
{
	int hi = atomic_load(&xvm_fdtab_hi);

	if (!xvm_fdtab)
		return;
	xvm_fault_exec();
	xvm_hand_over_inherited(XVM_R_EXEC, !xvm_in_vfork());
	if (xvm_in_vfork())
		return;
	xvm_epoll_sharing();
	for (int fd = 0; fd < hi; fd++)
		xvm_holders_exec(fd);
}

static int failed_exec(int r)
{
	int e = errno;

	xvm_fault_exec_failed();
	errno = e;
	return r;
}

XVM_WRAP int execve(const char *path, char *const argv[], char *const envp[])
{
	before_exec();
	return failed_exec(REAL(execve)(path, argv, envp));
}

XVM_WRAP int execv(const char *path, char *const argv[])
{
	before_exec();
	return failed_exec(REAL(execv)(path, argv));
}

XVM_WRAP int execvp(const char *file, char *const argv[])
{
	before_exec();
	return failed_exec(REAL(execvp)(file, argv));
}

XVM_WRAP int execvpe(const char *file, char *const argv[], char *const envp[])
{
	before_exec();
	return failed_exec(REAL(execvpe)(file, argv, envp));
}

static size_t count_args(va_list *ap)
{
	size_t n = 1;

	while (va_arg(*ap, char *))
		n++;
	return n;
}

static void take_args(char **argv, size_t n, const char *first, va_list *ap)
{
	argv[0] = (char *)first;
	for (size_t i = 1; i <= n; i++)
		argv[i] = va_arg(*ap, char *); /* the last one is NULL */
}

/*
 * Declares argv, of the function's own arguments from first on, and ap, which has come behind them.
 * On the stack, as a vfork's child may not allocate. libc's own functions would not come by the
 * wrapper of execve().
 */
#define EXEC_ARGS(argv, ap, first)                                                                 \
	va_list ap;                                                                                \
	size_t ap##_n;                                                                             \
                                                                                                   \
	va_start(ap, first);                                                                       \
	ap##_n = count_args(&ap);                                                                  \
	va_end(ap);                                                                                \
	char *argv[ap##_n + 1];                                                                    \
	va_start(ap, first);                                                                       \
	take_args(argv, ap##_n, first, &ap)

XVM_WRAP int execl(const char *path, const char *arg, ...)
{
	EXEC_ARGS(argv, ap, arg);
	va_end(ap);
	return execv(path, argv);
}

XVM_WRAP int execlp(const char *file, const char *arg, ...)
{
	EXEC_ARGS(argv, ap, arg);
	va_end(ap);
	return execvp(file, argv);
}

XVM_WRAP int execle(const char *path, const char *arg, ...)
{
	char *const *envp;

	EXEC_ARGS(argv, ap, arg);
	envp = va_arg(ap, char *const *);
	va_end(ap);
	return execve(path, argv, envp);
}

XVM_WRAP int fexecve(int fd, char *const argv[], char *const envp[])
{
	before_exec();
	return failed_exec(REAL(fexecve)(fd, argv, envp));
}

XVM_WRAP int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags)
{
	before_exec();
	return failed_exec(REAL(execveat)(dir, path, argv, envp, flags));
}

/*
 * libc makes the child of these itself, and executes in it past our wrappers. What file actions
 * give to the child under another number is known when they are added.
 */
static void before_spawn(void)
{
	if (xvm_fdtab)
		xvm_hand_over_inherited(XVM_R_EXEC, false);
}

XVM_WRAP int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *fa,
			 const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	before_spawn();
	return REAL(posix_spawn)(pid, path, fa, attr, argv, envp);
}

XVM_WRAP int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *fa,
			  const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	before_spawn();
	return REAL(posix_spawnp)(pid, file, fa, attr, argv, envp);
}

XVM_WRAP int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t *fa, int from, int to)
{
	struct xvm_sock *s = xvm_sock_get(from);

	if (s) {
		xvm_hand_over(s, from, XVM_R_EXEC);
		xvm_sock_put(s);
	}
	return REAL(posix_spawn_file_actions_adddup2)(fa, from, to);
}

XVM_WRAP FILE *popen(const char *command, const char *type)
{
	before_spawn();
	return REAL(popen)(command, type);
}

XVM_WRAP int system(const char *command)
{
	if (command)
		before_spawn();
	return REAL(system)(command);
}

void xvm_sandbox(void)
{
	if (!xvm_fdtab || xvm_conf.sandboxed || xvm_in_vfork())
		return;
	xvm_epoll_sharing(); /* later it may be forbidden to delete what is parked */
	xvm_conf.sandboxed = true;
	xvm_vfork_by = fork;
	xvm_link_off();
}

XVM_WRAP int prctl(int op, ...)
{
	unsigned long a, b, c, d;
	va_list ap;

	va_start(ap, op);
	a = va_arg(ap, unsigned long);
	b = va_arg(ap, unsigned long);
	c = va_arg(ap, unsigned long);
	d = va_arg(ap, unsigned long);
	va_end(ap);
	if (op == PR_SET_SECCOMP)
		xvm_sandbox();
	return REAL(prctl)(op, a, b, c, d);
}

/* What is left to do for the peers of a process that ends by itself. */
static void last_words(void)
{
	if (xvm_arena && !xvm_in_vfork())
		xvm_ending_exit();
}

/* quick_exit() ends in libc, where no wrapper of _exit() sees it. */
static void quick_last_words(void *unused)
{
	last_words();
}

XVM_WRAP void _exit(int status)
{
	last_words();
	REAL(_exit)(status);
	__builtin_unreachable();
}

XVM_WRAP void _Exit(int status)
{
	last_words();
	REAL(_Exit)(status);
	__builtin_unreachable();
}

/* At the end; with XVM_LOG=3 also the counters of this process and its forks. */
__attribute__((destructor)) static void finish(void)
{
	if (!xvm_arena)
		return;
	xvm_ending_exit();
	if (xvm_conf.log < 3)
		return;
#define X(name) xvm_log(3, #name " %lu\n", (unsigned long)atomic_load(&xvm_arena->n_##name));
	XVM_COUNTERS(X)
#undef X
}
