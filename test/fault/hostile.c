/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordinary TCP program in surroundings that are hostile to a library in it. Knows nothing of
 * xvm.
 *
 *   hostile serve PORT SCENE [start]     echoes one connection, by epoll, until it ends
 *   hostile connect PORT SCENE [start]   sends and checks what comes back, blocking
 *   hostile under SCENE CMD...           the scene, then CMD
 *
 * The scene is set before there is any socket (start), or when the connection has been used for a
 * while. The client says "ready" when more has gone through it since, waits for a line on stdin,
 * goes on, and ends with "done".
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "transport/sys.h"

#define WARM 300  /* round trips before a scene in mid-stream */
#define AFTER 300 /* and after it */
#define LAST 50

static int sock = -1; /* the highest descriptor that the program has, or -1 */

/* ---- descriptors --------------------------------------------------------- */

static void scene_closefrom(void)
{
	closefrom(sock + 1 > 3 ? sock + 1 : 3);
}

static void scene_close_range(void)
{
	if (close_range((unsigned)(sock + 1 > 3 ? sock + 1 : 3), ~0u, 0) < 0)
		err(1, "close_range");
}

static void scene_close_range_syscall(void)
{
	if (syscall(SYS_close_range, (unsigned)(sock + 1 > 3 ? sock + 1 : 3), ~0u, 0) < 0)
		err(1, "close_range");
}

static void scene_close_all(void)
{
	for (int fd = sock + 1 > 3 ? sock + 1 : 3; fd < 70000; fd++)
		close(fd);
}

static void limit(int what, rlim_t soft, rlim_t hard)
{
	struct rlimit rl = {soft, hard};

	if (setrlimit(what, &rl) < 0)
		err(1, "setrlimit");
}

static void scene_nofile_soft10(void)
{
	limit(RLIMIT_NOFILE, 10, 4096);
}

static void scene_nofile10(void)
{
	limit(RLIMIT_NOFILE, 10, 10);
}

static void scene_nofile20(void)
{
	limit(RLIMIT_NOFILE, 20, 20);
}

static void scene_nofile128(void)
{
	limit(RLIMIT_NOFILE, 128, 128);
}

static void open_many(int n)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (int i = 0; i < n; i++)
		if (fcntl(fd, F_DUPFD_CLOEXEC, 0) < 0)
			err(1, "descriptor %d", i);
}

/* Or as many as there may be. */
static void scene_fds32768(void)
{
	struct rlimit rl;
	rlim_t n = 32768;

	getrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_max < n + 100 &&
	    setrlimit(RLIMIT_NOFILE, &(struct rlimit){n + 100, n + 100}) < 0)
		n = rl.rlim_max - 100;
	limit(RLIMIT_NOFILE, n + 100, n + 100);
	open_many((int)n);
}

/* Not one more is to be had. */
static void scene_fds_all(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	limit(RLIMIT_NOFILE, 1024, 1024);
	while (fcntl(fd, F_DUPFD_CLOEXEC, 0) >= 0)
		;
	/* For the socket, and an epoll. */
	for (int i = 1000; sock < 0 && i < 1003; i++)
		close(i);
}

/* ---- signals ------------------------------------------------------------- */

static void scene_blocked(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

static sigjmp_buf back;
static volatile int faults;

static void on_fault(int sig, siginfo_t *si, void *uc)
{
	faults++;
	siglongjmp(back, 1);
}

static void fault(void)
{
	static char *volatile nowhere = (char *)16;

	if (sigsetjmp(back, 1) == 0)
		*nowhere = 1;
}

static void scene_segv(void)
{
	static char stack[65536];
	stack_t ss = {.ss_sp = stack, .ss_size = sizeof(stack)};
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	sigaltstack(&ss, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	for (int i = 0; i < 10; i++)
		fault();
	if (faults != 10)
		errx(1, "%d faults, not 10", faults);
}

static void on_tick(int sig)
{
}

static void tick(int flags)
{
	struct sigaction sa = {.sa_handler = on_tick, .sa_flags = flags};
	struct itimerval it = {{0, 300}, {0, 300}};

	sigfillset(&sa.sa_mask);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
}

static void scene_ticks(void)
{
	tick(0);
}

static void scene_ticks_restart(void)
{
	tick(SA_RESTART);
}

/* Handlers of both kinds: a call that blocks has to do as the one that runs says. */
static void scene_ticks_mixed(void)
{
	struct sigaction sa = {.sa_handler = on_tick};

	sigaction(SIGUSR1, &sa, NULL);
	tick(SA_RESTART);
}

/* ---- who and where ------------------------------------------------------- */

static void scene_chroot(void)
{
	if (chroot("/proc/self/fdinfo") < 0 || chdir("/") < 0)
		err(1, "chroot");
}

static void scene_setuid(void)
{
	if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
		err(1, "setresuid");
}

static void scene_userns(void)
{
	if (unshare(CLONE_NEWUSER) < 0)
		err(1, "unshare");
}

static void scene_netns(void)
{
	if (unshare(CLONE_NEWNET) < 0)
		err(1, "unshare");
}

/* ---- memory -------------------------------------------------------------- */

static void scene_memlock(void)
{
	limit(RLIMIT_MEMLOCK, 0, 0);
}

/* All that is mapped from now on has to be locked, and may not be. */
static void scene_locked(void)
{
	mlockall(MCL_FUTURE | MCL_ONFAULT);
	limit(RLIMIT_MEMLOCK, 65536, 65536);
	scene_setuid();
}

static void scene_as(void)
{
	limit(RLIMIT_AS, 32 << 20, 32 << 20);
}

static void scene_data(void)
{
	limit(RLIMIT_DATA, 1 << 20, 1 << 20);
}

/* ---- filters ------------------------------------------------------------- */

#define NR offsetof(struct seccomp_data, nr)
#define ARG(i) (offsetof(struct seccomp_data, args) + 8 * (i))
#define LOAD(what) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, what)
#define IF(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, yes, no)
#define IF_SET(k, yes, no) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, k, yes, no)
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define REFUSE RET(SECCOMP_RET_ERRNO | EPERM)

static void filter(struct sock_filter *f, unsigned short n, bool watched)
{
	struct sock_fprog prog = {n, f};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	/* Or not by libc, as what was there before the program. */
	if ((watched ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0)
		     : (int)xvm_sys(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)) < 0)
		err(1, "seccomp");
}
#define FILTER(watched, ...)                                                                       \
	do {                                                                                       \
		struct sock_filter f[] = {__VA_ARGS__, RET(SECCOMP_RET_ALLOW)};                    \
		filter(f, sizeof(f) / sizeof(f[0]), watched);                                      \
	} while (0)
#define NEVER(nr) LOAD(NR), IF(nr, 0, 1), REFUSE

static void scene_no_memfd(void)
{
	FILTER(false, NEVER(SYS_memfd_create));
}

static void scene_no_eventfd(void)
{
	FILTER(false, NEVER(SYS_eventfd2));
}

/* Neither to connect nor to be connected: AF_UNIX. */
static void scene_no_unix(void)
{
	FILTER(false, LOAD(NR), IF(SYS_socket, 0, 3), LOAD(ARG(0)), IF(AF_UNIX, 0, 1), REFUSE);
}

/* Nothing shared is mapped. */
static void scene_no_mmap(void)
{
	FILTER(false, LOAD(NR), IF(SYS_mmap, 0, 3), LOAD(ARG(3)), IF_SET(MAP_SHARED, 0, 1), REFUSE);
}

static void scene_no_fcntl(void)
{
	FILTER(false, LOAD(NR), IF(SYS_fcntl, 0, 3), LOAD(ARG(1)), IF(F_DUPFD_CLOEXEC, 0, 1),
	       REFUSE);
}

static void scene_no_sendmsg(void)
{
	FILTER(false, NEVER(SYS_sendmsg), NEVER(SYS_recvmsg));
}

static void scene_no_tcp_info(void)
{
	FILTER(false, LOAD(NR), IF(SYS_getsockopt, 0, 3), LOAD(ARG(1)), IF(IPPROTO_TCP, 0, 1),
	       REFUSE);
}

/* What an echo is in need of, and death for all else. */
#define MAY(nr) IF(nr, 0, 1), RET(SECCOMP_RET_ALLOW)
static void scene_strict(void)
{
	struct sock_filter f[] = {
		LOAD(NR),
		MAY(SYS_read),
		MAY(SYS_write),
		MAY(SYS_recvfrom),
		MAY(SYS_sendto),
		MAY(SYS_poll),
		MAY(SYS_ppoll),
		MAY(SYS_epoll_wait),
		MAY(SYS_close),
		MAY(SYS_shutdown),
		MAY(SYS_exit_group),
		MAY(SYS_rt_sigreturn),
		RET(SECCOMP_RET_KILL_PROCESS),
	};

	filter(f, sizeof(f) / sizeof(f[0]), true);
}

/* ---- the program --------------------------------------------------------- */

static void scene_none(void)
{
}

static const struct scene {
	const char *name;
	void (*set)(void);
} scenes[] = {
#define SCENE(name)                                                                                \
	{                                                                                          \
#name, scene_##name                                                                \
	}
	SCENE(none),
	SCENE(closefrom),
	SCENE(close_range),
	SCENE(close_range_syscall),
	SCENE(close_all),
	SCENE(nofile_soft10),
	SCENE(nofile10),
	SCENE(nofile20),
	SCENE(nofile128),
	SCENE(fds32768),
	SCENE(fds_all),
	SCENE(blocked),
	SCENE(segv),
	SCENE(ticks),
	SCENE(ticks_restart),
	SCENE(ticks_mixed),
	SCENE(chroot),
	SCENE(setuid),
	SCENE(userns),
	SCENE(netns),
	SCENE(memlock),
	SCENE(locked),
	SCENE(as),
	SCENE(data),
	SCENE(no_memfd),
	SCENE(no_eventfd),
	SCENE(no_unix),
	SCENE(no_mmap),
	SCENE(no_fcntl),
	SCENE(no_sendmsg),
	SCENE(no_tcp_info),
	SCENE(strict),
#undef SCENE
};
static const struct scene *scene;
static bool at_start;

static void set(bool start)
{
	if (start == at_start)
		scene->set();
}

static void fill(char *buf, size_t n, unsigned round)
{
	for (size_t i = 0; i < n; i++)
		buf[i] = (char)((round * 2654435761u + i * 40503u) >> 13);
}

/* All of n bytes, or what was there until the end. */
static size_t receive(int fd, char *buf, size_t n)
{
	size_t got = 0;
	ssize_t r;

	while (got < n) {
		r = recv(fd, buf + got, n - got, 0);
		if (r == 0)
			break;
		if (r > 0)
			got += (size_t)r;
		else if (errno != EINTR)
			err(1, "recv");
	}
	return got;
}

static void transmit(int fd, const char *buf, size_t n)
{
	ssize_t r;

	for (size_t done = 0; done<n; done += r> 0 ? (size_t)r : 0) {
		r = send(fd, buf + done, n - done, 0);
		if (r < 0 && errno != EINTR)
			err(1, "send");
	}
}

static void rounds(int fd, unsigned *round, unsigned n)
{
	static char out[20000], in[20000];

	for (; n; n--, ++*round) {
		size_t len = 1 + *round * 7919 % 3000 * (*round % 50 ? 1 : 6);

		fill(out, len, *round);
		transmit(fd, out, len);
		if (receive(fd, in, len) != len || memcmp(in, out, len))
			errx(1, "round %u: other bytes than were sent", *round);
	}
}

static int client(struct sockaddr_in *sa)
{
	unsigned round = 0;
	char c;
	int fd;

	set(true);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)sa, sizeof(*sa)) < 0)
		err(1, "connect");
	sock = fd;
	rounds(fd, &round, WARM);
	set(false);
	rounds(fd, &round, AFTER);
	if (write(1, "ready\n", 6) != 6)
		return 1;
	while (read(0, &c, 1) < 0 && errno == EINTR)
		;
	rounds(fd, &round, LAST);
	shutdown(fd, SHUT_WR);
	if (receive(fd, &c, 1) != 0)
		errx(1, "more than was sent");
	return write(1, "done\n", 5) != 5;
}

static void wait_for(int ep, uint32_t events)
{
	struct epoll_event ev;
	int n;

	do {
		n = epoll_wait(ep, &ev, 1, -1);
		if (n < 0 && errno != EINTR)
			err(1, "epoll_wait");
	} while (n <= 0 || !(ev.events & events));
}

static int server(struct sockaddr_in *sa)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	static char buf[8192];
	size_t total = 0;
	ssize_t n, r;
	bool mid = true;
	int l, fd, ep, one = 1;

	set(true);
	l = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (l < 0 || bind(l, (struct sockaddr *)sa, sizeof(*sa)) < 0 || listen(l, 5) < 0)
		err(1, "listen");
	do
		fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		err(1, "accept");
	ep = epoll_create1(0);
	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		err(1, "epoll");
	sock = ep > fd ? ep : fd;
	for (;;) {
		n = recv(fd, buf, sizeof(buf), 0);
		if (n == 0)
			break;
		if (n < 0 && errno == EAGAIN) {
			wait_for(ep, EPOLLIN);
			continue;
		}
		if (n < 0 && errno != EINTR)
			err(1, "recv");
		for (ssize_t done = 0; done<n; done += r> 0 ? r : 0) {
			r = send(fd, buf + done, (size_t)(n - done), MSG_NOSIGNAL);
			if (r < 0 && errno == EAGAIN)
				wait_for(ep, EPOLLOUT);
			else if (r < 0 && errno != EINTR)
				err(1, "send");
		}
		total += n > 0 ? (size_t)n : 0;
		if (mid && total > WARM * 1500)
			set(mid = false);
	}
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	const char *name = argc < 3 ? "" : argc > 3 && strcmp(argv[1], "under") ? argv[3] : argv[2];

	for (unsigned i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++)
		if (!strcmp(name, scenes[i].name))
			scene = &scenes[i];
	if (!scene || argc < 4)
		errx(2, "usage: hostile serve|connect PORT SCENE [start] | under SCENE CMD...");
	if (!strcmp(argv[1], "under")) {
		scene->set();
		execvp(argv[3], argv + 3);
		err(1, "%s", argv[3]);
	}
	at_start = argc > 4;
	sa.sin_port = htons((uint16_t)atoi(argv[2]));
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return !strcmp(argv[1], "serve") ? server(&sa) : client(&sa);
}
