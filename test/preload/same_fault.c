/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SIGSEGV and SIGBUS as a program sees them, before and after it has a connection on the ring, and
 * between wrong pointers that it gives to calls. One scene for each run; t_fault.sh compares what
 * plain TCP and a preloaded run print.
 */
#include <arpa/inet.h>
#include <elf.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/ucontext.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/preload/warm.h"

/* What libc advises against is what is tried here. */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
extern __typeof__(signal) bsd_signal;

static int a, b; /* the ends of a connection */
static void *volatile nowhere = (void *)16;
static char *volatile none; /* a page that is not to be touched */
static char altstack[1 << 16];
static const char *self;

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void say(const char *what, long r)
{
	if (r < 0)
		printf("%s: %ld %s\n", what, r, strerrorname_np(errno));
	else
		printf("%s: %ld\n", what, r);
	fflush(stdout);
}
#define DO(call) say(#call, (long)(call))

/* ---- the connection ------------------------------------------------------ */

static void *pong(void *arg)
{
	char buf[100];

	for (int i = 0; i < 60; i++)
		if (recv(b, buf, 100, MSG_WAITALL) != 100 || send(b, buf, 100, 0) != 100)
			die("pong");
	return arg;
}

static void pair(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	char buf[100] = "";
	pthread_t t;

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (struct sockaddr *)&sa, sizeof(sa)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&sa, &len) ||
	    connect(a, (struct sockaddr *)&sa, sizeof(sa)))
		die("connect");
	b = accept(l, NULL, NULL);
	close(l);
	pthread_create(&t, NULL, pong, NULL);
	for (int i = 0; i < 60; i++)
		if (send(a, buf, 100, 0) != 100 || recv(a, buf, 100, MSG_WAITALL) != 100)
			die("ping");
	pthread_join(t, NULL);
	if (!warm_up(a, b))
		die("warm up");
}

/* Wrong pointers both ways, and every byte all the same. */
static void wrong(int from, int to)
{
	static char out[20000], in[20000];
	size_t got = 0;
	int bad = 0;

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (char)(i * 13 + (i >> 7));
	for (size_t o = 0; o < sizeof(out); o += 1000) {
		bad += send(from, none, 1000, 0) < 0 && errno == EFAULT;
		if (send(from, out + o, 1000, 0) != 1000)
			die("send");
		bad += recv(to, nowhere, 1000, 0) < 0 && errno == EFAULT;
		for (size_t end = got + 1000; got < end;) {
			ssize_t r = recv(to, in + got, end - got, 0);

			if (r <= 0)
				die("recv");
			got += (size_t)r;
		}
	}
	printf("EFAULT %d times, the bytes are %s\n", bad,
	       memcmp(in, out, got) ? "wrong" : "right");
	memset(in, 0, sizeof(in));
}

static void both_ways(void)
{
	wrong(a, b);
	wrong(b, a);
}

/* ---- actions ------------------------------------------------------------- */

static sigjmp_buf away;
static volatile int count;

static const char *name_of(int sig)
{
	return sig == SIGSEGV ? "SEGV" : sig == SIGBUS ? "BUS" : "other";
}

static void plain_handler(int sig)
{
	count++;
	printf("plain handler of %s\n", name_of(sig));
	fflush(stdout);
}

static void other_handler(int sig)
{
	count += 10;
}

static void inform(int sig, siginfo_t *si, void *ctx)
{
	ucontext_t *uc = ctx;
	char here;
	sigset_t now;

	sigprocmask(SIG_BLOCK, NULL, &now);
	printf("%s, code %d, address %s, %s the alternate stack, blocked here:%s%s%s, there:%s\n",
	       name_of(sig), si->si_code,
	       si->si_code <= 0		     ? "none"
	       : si->si_addr == (void *)none ? "right"
	       : si->si_addr == (void *)0    ? "0"
					     : "wrong",
	       &here >= altstack && &here < altstack + sizeof(altstack) ? "on" : "not on",
	       sigismember(&now, SIGSEGV) ? " SEGV" : "", sigismember(&now, SIGBUS) ? " BUS" : "",
	       sigismember(&now, SIGUSR1) ? " USR1" : "",
	       sigismember(&uc->uc_sigmask, SIGSEGV) ? " SEGV" : "");
	fflush(stdout);
	count++;
	if (si->si_code > 0)
		siglongjmp(away, 1);
}

/* The handler may also put right what is wrong, and return. */
static void mend(int sig, siginfo_t *si, void *ctx)
{
	count++;
	mprotect(none, 4096, PROT_READ | PROT_WRITE);
}

static void touch(char *p)
{
	if (sigsetjmp(away, 1) == 0)
		*(volatile char *)p = 1;
}

static void show(int sig)
{
	struct sigaction k;

	memset(&k, 0xff, sizeof(k));
	sigaction(sig, NULL, &k);
	printf("%s: %s, flags %x, mask%s%s%s%s, restorer %s\n", name_of(sig),
	       k.sa_handler == SIG_DFL	       ? "default"
	       : k.sa_handler == SIG_IGN       ? "ignored"
	       : k.sa_handler == plain_handler ? "plain"
	       : k.sa_handler == other_handler ? "other"
	       : k.sa_sigaction == inform      ? "inform"
	       : k.sa_sigaction == mend	       ? "mend"
					       : "unknown",
	       (unsigned)k.sa_flags, sigismember(&k.sa_mask, SIGUSR1) ? " USR1" : "",
	       sigismember(&k.sa_mask, SIGSEGV) ? " SEGV" : "",
	       sigismember(&k.sa_mask, SIGBUS) ? " BUS" : "",
	       sigismember(&k.sa_mask, SIGKILL) ? " KILL" : "", k.sa_restorer ? "set" : "none");
	fflush(stdout);
}

static void show_both(void)
{
	show(SIGSEGV);
	show(SIGBUS);
}

static void act(int sig, void (*h)(int, siginfo_t *, void *), int flags)
{
	struct sigaction k = {.sa_sigaction = h, .sa_flags = flags}, old;

	sigaddset(&k.sa_mask, SIGUSR1);
	sigaddset(&k.sa_mask, SIGKILL);
	DO(sigaction(sig, &k, &old));
	printf("was %s, flags %x\n",
	       old.sa_handler == SIG_DFL   ? "default"
	       : old.sa_handler == SIG_IGN ? "ignored"
					   : "a handler",
	       (unsigned)old.sa_flags);
}

static void act1(int sig, void (*h)(int), int flags)
{
	act(sig, (void (*)(int, siginfo_t *, void *))(uintptr_t)h, flags);
}

static void state(void)
{
	sigset_t now;
	stack_t st;

	sigprocmask(SIG_BLOCK, NULL, &now);
	sigaltstack(NULL, &st);
	printf("afterwards: blocked%s%s%s, on the alternate stack: %d\n",
	       sigismember(&now, SIGSEGV) ? " SEGV" : "", sigismember(&now, SIGBUS) ? " BUS" : "",
	       sigismember(&now, SIGUSR1) ? " USR1" : "", (st.ss_flags & SS_ONSTACK) != 0);
}

/* ---- scenes -------------------------------------------------------------- */

static void own_faults(void)
{
	union sigval v = {.sival_int = 5};

	show_both();
	act(SIGSEGV, inform, SA_SIGINFO | SA_ONSTACK);
	act(SIGBUS, inform, SA_SIGINFO);
	for (int i = 0; i < 2; i++) {
		show_both();
		touch(none);
		touch(none);
		state();
		DO(raise(SIGSEGV));
		DO(raise(SIGBUS));
		DO(kill(getpid(), SIGSEGV));
		DO(pthread_kill(pthread_self(), SIGBUS));
		DO(sigqueue(getpid(), SIGSEGV, v));
		state();
		if (i == 0)
			pair();
		both_ways();
		state();
	}
	act(SIGSEGV, inform, SA_SIGINFO | SA_NODEFER | SA_RESTART);
	show_both();
	touch(none);
	both_ways();
	touch((char *)((uintptr_t)1 << 62));
	act(SIGSEGV, mend, SA_SIGINFO);
	none[5] = 77;
	DO(none[5]);
	mprotect(none, 4096, PROT_NONE);
	both_ways();
	DO(count);
}

static void nested(int sig)
{
	printf("depth %d\n", ++count);
	fflush(stdout);
	if (count < 3)
		raise(sig);
	printf("back\n");
}

static void flags(void)
{
	for (int i = 0; i < 2; i++) {
		act1(SIGSEGV, nested, SA_NODEFER);
		count = 0;
		DO(raise(SIGSEGV));
		act1(SIGSEGV, nested, 0);
		count = 0;
		DO(raise(SIGSEGV));
		act1(SIGSEGV, plain_handler, (int)SA_RESETHAND);
		show_both();
		DO(raise(SIGSEGV));
		show_both();
		act(SIGBUS, inform, SA_SIGINFO | (int)SA_RESETHAND | SA_NODEFER | SA_ONSTACK);
		show_both();
		DO(raise(SIGBUS));
		show_both();
		act1(SIGSEGV, SIG_IGN, 0);
		DO(raise(SIGSEGV));
		show_both();
		act1(SIGSEGV, SIG_DFL, SA_ONSTACK);
		show_both();
		if (i == 0)
			pair();
		both_ways();
	}
}

static const char *which(void (*h)(int))
{
	return h == SIG_DFL	    ? "default"
	       : h == SIG_IGN	    ? "ignored"
	       : h == SIG_HOLD	    ? "hold"
	       : h == SIG_ERR	    ? "error"
	       : h == plain_handler ? "plain"
	       : h == other_handler ? "other"
				    : "unknown";
}
#define OLD(call) printf("%s: %s\n", #call, which(call)), show_both(), state()

static void old_values(void)
{
	for (int i = 0; i < 2; i++) {
		OLD(signal(SIGSEGV, plain_handler));
		OLD(signal(SIGSEGV, other_handler));
		OLD(bsd_signal(SIGSEGV, SIG_IGN));
		OLD(ssignal(SIGSEGV, SIG_DFL));
		OLD(signal(SIGBUS, plain_handler));
		OLD(sysv_signal(SIGBUS, other_handler));
		OLD(__sysv_signal(SIGBUS, plain_handler));
		DO(raise(SIGBUS));
		show_both();
		OLD(sigset(SIGBUS, plain_handler));
		OLD(sigset(SIGBUS, SIG_HOLD));
		OLD(sigset(SIGBUS, other_handler));
		DO(sigignore(SIGSEGV));
		show_both();
		OLD(signal(SIGSEGV, plain_handler));
		DO(siginterrupt(SIGSEGV, 1));
		show_both();
		OLD(signal(SIGSEGV, other_handler));
		DO(siginterrupt(SIGSEGV, 0));
		show_both();
		DO(siginterrupt(SIGBUS, 1));
		DO(siginterrupt(SIGBUS, 0));
		OLD(signal(SIGSEGV, SIG_ERR));
		OLD(signal(SIGSEGV, SIG_DFL));
		OLD(signal(SIGBUS, SIG_DFL));
		OLD(signal(SIGKILL, SIG_DFL));
		OLD(signal(SIGUSR1, plain_handler));
		OLD(signal(SIGUSR1, SIG_DFL));
		DO(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
		DO(sigaction(1000, NULL, NULL));
		if (i == 0)
			pair();
		both_ways();
	}
}

static __attribute__((noinline)) void by_fault(void)
{
	*none = 1;
}
static __attribute__((noinline)) void by_wild(void)
{
	*(volatile char *)((uintptr_t)1 << 62) = 1;
}
static void by_bus(void)
{
	int f = memfd_create("f", 0);
	char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, f, 0);

	printf("%d", *(volatile char *)p);
}
static void by_raise(void)
{
	raise(SIGSEGV);
}
static void by_kill(void)
{
	kill(getpid(), SIGBUS);
}
static void by_queue(void)
{
	sigqueue(getpid(), SIGSEGV, (union sigval){.sival_int = 1});
}
static void by_reset(void)
{
	act1(SIGSEGV, plain_handler, (int)SA_RESETHAND);
	*none = 1;
}
static void by_jump(void)
{
	((void (*)(void))(uintptr_t)none)();
}
static void by_overflow(void)
{
	volatile char big[4096];

	big[0] = 1;
	if (big[0])
		by_overflow();
	big[1] = 2;
}
static void *in_thread(void *arg)
{
	*none = 1;
	return arg;
}
static void by_thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, in_thread, NULL);
	pthread_join(t, NULL);
}
static void by_blocked(void)
{
	sigset_t s;

	sigfillset(&s);
	sigprocmask(SIG_SETMASK, &s, NULL);
	*none = 1;
}

static void end_of(const char *what, void (*how)(void))
{
	siginfo_t si;
	int st;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		both_ways();
		how();
		printf("goes on\n");
		exit(0);
	}
	/* Whether a core was written is the same as well, under the same limits. */
	if (waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT) || waitpid(pid, &st, 0) != pid)
		die("wait");
	printf("%s: %s %d, code %d\n", what, WIFSIGNALED(st) ? "signal" : "exit",
	       WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st), si.si_code);
	fflush(stdout);
}
#define END(how) end_of(#how, how)

/* Where a debugger, or a core, finds the program counter at the end. */
static void place_of(const char *what, void (*how)(void))
{
	struct user_regs_struct regs;
	struct iovec v = {&regs, sizeof(regs)};
	uintptr_t pc = 0;
	pid_t pid;
	int st;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		how();
		_exit(0);
	}
	if (waitpid(pid, &st, 0) != pid ||
	    ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)PTRACE_O_TRACEEXIT))
		die("ptrace");
	for (long sig = 0; ptrace(PTRACE_CONT, pid, NULL, (void *)sig) == 0;) {
		if (waitpid(pid, &st, 0) != pid)
			die("wait");
		if (!WIFSTOPPED(st))
			break;
		sig = WSTOPSIG(st);
		if (st >> 16 == PTRACE_EVENT_EXIT) {
			if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &v))
				die("registers");
#if defined(__x86_64__)
			pc = regs.rip;
#else
			pc = regs.pc;
#endif
			sig = 0;
		}
	}
	printf("%s: %s, in its place: %d\n", what, WIFSIGNALED(st) ? "killed" : "not killed",
	       pc >= (uintptr_t)how && pc < (uintptr_t)how + 64);
}
#define PLACE(how) place_of(#how, how)

static void ends(void)
{
	static void (*const actions[])(int) = {SIG_DFL, SIG_IGN, plain_handler};
	struct rlimit few = {1 << 20, 1 << 20};

	setrlimit(RLIMIT_STACK, &few);
	pair();
	for (unsigned i = 0; i < 3; i++) {
		printf("== %s\n", which(actions[i]));
		signal(SIGSEGV, actions[i]);
		signal(SIGBUS, actions[i]);
		END(by_raise);
		END(by_kill);
		END(by_queue);
		END(by_overflow);
		END(by_blocked);
		if (actions[i] == plain_handler)
			break; /* the others would fault for ever */
		END(by_fault);
		END(by_wild);
		END(by_bus);
		END(by_reset);
		END(by_jump);
		END(by_thread);
		PLACE(by_fault);
		PLACE(by_wild);
	}
	both_ways();
}

/* ---- exec ---------------------------------------------------------------- */

static void run(bool by_vfork)
{
	char *const args[] = {(char *)self, "show", NULL}, *const bad[] = {"x", NULL};
	pid_t pid;
	int st;

	fflush(stdout);
	pid = by_vfork ? vfork() : fork();
	if (pid == 0) {
		execv("/nonexistent", bad);
		execv(self, args);
		_exit(3);
	}
	if (waitpid(pid, &st, 0) != pid)
		die("wait");
	say("ended", st);
	show_both();
}

static void vfork_child(void)
{
	pid_t pid;
	int st;

	fflush(stdout);
	pid = vfork();
	if (pid == 0) {
		struct sigaction k = {.sa_handler = SIG_DFL};

		sigaction(SIGSEGV, &k, NULL);
		raise(SIGSEGV);
		_exit(0);
	}
	waitpid(pid, &st, 0);
	say("vfork's child", WIFSIGNALED(st) ? WTERMSIG(st) : -1);
	show_both();
}

static void execs(void)
{
	for (int i = 0; i < 2; i++) {
		run(false);
		signal(SIGSEGV, SIG_IGN);
		signal(SIGBUS, plain_handler);
		run(false);
		run(true);
		signal(SIGBUS, SIG_IGN);
		run(false);
		run(true);
		DO(execl("/nonexistent", "x", (char *)NULL));
		DO(raise(SIGBUS));
		signal(SIGSEGV, plain_handler);
		vfork_child();
		DO(raise(SIGSEGV));
		signal(SIGSEGV, SIG_DFL);
		signal(SIGBUS, SIG_DFL);
		if (i == 0)
			pair();
		both_ways();
	}
}

/* ---- threads and forks --------------------------------------------------- */

static void *changes(void *arg)
{
	struct sigaction old;

	for (int i = 0; i < 3000; i++) {
		signal(SIGSEGV, i & 1 ? plain_handler : other_handler);
		sigaction(SIGSEGV, NULL, &old);
		if (old.sa_handler != (i & 1 ? plain_handler : other_handler))
			die("changes");
	}
	return arg;
}

static void *sends(void *arg)
{
	char buf[1000];
	int bad = 0;

	memset(buf, 'x', sizeof(buf));
	for (int i = 0; i < 3000; i++) {
		bad += send(a, none, 1000, 0) < 0 && errno == EFAULT;
		if (send(a, buf, 1000, 0) != 1000)
			die("sends");
	}
	say("sender's EFAULT", bad);
	return arg;
}

static void together(void)
{
	pthread_t t[2];
	char buf[1000];
	long bad = 0, wrong_bytes = 0;
	int st;
	pid_t pid;

	pair();
	for (int round = 0; round < 2; round++) {
		/* With the actions changing only where no fault depends on them. */
		pthread_create(&t[0], NULL, sends, NULL);
		for (int i = 0; i < 3000; i++) {
			bad += recv(b, nowhere, 1000, 0) < 0 && errno == EFAULT;
			if (recv(b, buf, 1000, MSG_WAITALL) != 1000)
				die("receives");
			for (int k = 0; k < 1000; k++)
				wrong_bytes += buf[k] != 'x';
		}
		pthread_join(t[0], NULL);
		DO(bad);
		DO(wrong_bytes);
		pthread_create(&t[1], NULL, changes, NULL);
		pthread_join(t[1], NULL);
		fflush(stdout);
		pid = fork();
		if (pid == 0) {
			both_ways();
			show_both();
			count = 0;
			raise(SIGSEGV);
			act(SIGSEGV, inform, SA_SIGINFO);
			touch(none);
			both_ways();
			exit(count);
		}
		waitpid(pid, &st, 0);
		DO(st);
		both_ways();
		show_both();
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} scenes[] = {
		{"own", own_faults}, {"flags", flags},	     {"old", old_values}, {"ends", ends},
		{"exec", execs},     {"together", together}, {"show", show_both},
	};
	stack_t st = {.ss_sp = altstack, .ss_size = sizeof(altstack)};
	struct rlimit no = {0, 0};

	self = "/proc/self/exe";
	setrlimit(RLIMIT_CORE, &no);
	signal(SIGPIPE, SIG_IGN);
	none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (none == MAP_FAILED || sigaltstack(&st, NULL))
		die("memory");
	for (unsigned i = 0; argc == 2 && i < sizeof(scenes) / sizeof(scenes[0]); i++)
		if (!strcmp(argv[1], scenes[i].name)) {
			scenes[i].run();
			return 0;
		}
	fprintf(stderr, "usage: same_fault SCENE\n");
	return 2;
}
