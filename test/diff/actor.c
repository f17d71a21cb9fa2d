/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint's control: its names, threads for calls that may block, and when it is quiet. */
#include "test/diff/actor.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test/diff/via.h"
#include "transport/sys.h"

#define NAMES 40
#define FILE_SIZE (1 << 20)

static struct {
	char name[16];
	int fd;
} names[NAMES];
static int control, spare, echo_fd;
static struct call *pending;
static __thread struct call *current;
static char handler_line[sizeof(((struct call *)0)->line)];

__thread volatile int pipes;
int file_fd, pipe_fd[2], pipe_in[2], listen_fd;
_Atomic unsigned long position;

void die(const char *what)
{
	perror(what);
	_exit(2);
}

void tell(struct call *c, const char *fmt, ...)
{
	size_t n = strlen(c->out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->out + n, sizeof(c->out) - n, fmt, ap);
	va_end(ap);
}

void result(struct call *c, long r)
{
	c->err = errno;
	c->r = r;
	if (r < 0)
		tell(c, "%s", strerrorname_np(c->err) ?: "?");
	else
		tell(c, "%ld", r);
}

void begin(struct call *c)
{
	pipes = 0;
	c->inside = true;
	errno = 0;
}

const char *arg(const struct call *c, int i)
{
	return i < c->words ? c->word[i] : "";
}

int fd_of(const char *name)
{
	if (!strcmp(name, "listener"))
		return listen_fd;
	for (int i = 0; i < NAMES; i++)
		if (!strcmp(names[i].name, name))
			return names[i].fd;
	return (int)number(name, 199);
}

void set_name(const char *name, int fd)
{
	int free_slot = -1;

	for (int i = 0; i < NAMES; i++) {
		if (!strcmp(names[i].name, name)) {
			names[i].fd = fd;
			return;
		}
		if (free_slot < 0 && !names[i].name[0])
			free_slot = i;
	}
	if (free_slot < 0)
		die("too many names");
	snprintf(names[free_slot].name, sizeof(names[0].name), "%s", name);
	names[free_slot].fd = fd;
}

long number(const char *s, long none)
{
	char *end;
	long v = strtol(s, &end, 0);

	if (!strcmp(s, "huge"))
		return 1l << 44;
	return end == s ? none : v;
}

unsigned bits_of(const struct bit *t, const char *s)
{
	unsigned v = 0;

	while (*s) {
		size_t n = strcspn(s, "|,");

		for (const struct bit *b = t; b->name; b++)
			if (strlen(b->name) == n && !memcmp(b->name, s, n))
				v |= b->value;
		s += n + (s[n] != 0);
	}
	return v;
}

void tell_bits(struct call *c, const struct bit *t, unsigned v)
{
	const char *sep = "";

	for (const struct bit *b = t; b->name; b++)
		if (v & b->value) {
			tell(c, "%s%s", sep, b->name);
			sep = "|";
		}
	if (!*sep)
		tell(c, "-");
}

/* ---- threads ---- */

static void parse(struct call *c)
{
	char *save = NULL, *mark;

	snprintf(c->out, sizeof(c->out), "%s = ", c->line);
	for (char *w = strtok_r(c->line, " ", &save); w && c->words < WORDS;
	     w = strtok_r(NULL, " ", &save))
		c->word[c->words++] = w;
	if (!c->words)
		die("empty command");
	if ((mark = strchr(c->word[0], '='))) {
		c->name = c->word[0];
		c->word[0] = mark + 1;
		*mark = 0;
	}
	if ((mark = strchr(c->word[0], '@'))) {
		*mark = 0;
		c->via = via_of(mark + 1);
	}
}

static void run(struct call *c)
{
	const struct op *const tables[] = {data_ops, wait_ops, life_ops, file_ops, proc_ops};
	struct call *outer = current;
	enum via outer_via = via;

	for (unsigned t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
		for (const struct op *op = tables[t]; op->name; op++)
			if (!strcmp(op->name, c->word[0])) {
				begin(c);
				via = (enum via)c->via;
				current = c;
				op->run(c);
				current = outer;
				via = outer_via;
				if (c->name && c->r >= 0)
					set_name(c->name, (int)c->r);
				if (pipes)
					tell(c, " SIGPIPE");
				return;
			}
	tell(c, "no such call");
}

static void on_cancel(void *arg)
{
	struct call *c = arg;

	tell(c, "cancelled");
	c->done = true;
}

static void *thread_run(void *arg)
{
	struct call *c = arg;

	c->tid = (pid_t)xvm_sys(SYS_gettid);
	pthread_cleanup_push(on_cancel, c);
	run(c);
	pthread_cleanup_pop(0);
	c->done = true;
	return NULL;
}

static void on_pipe(int sig)
{
	pipes++;
}

/* May make a call itself; what it told stands within what is told of the interrupted one. */
static void on_kick(int sig)
{
	struct call h = {.words = 0};
	int saved = errno, had = pipes;

	if (!handler_line[0] || !current)
		return;
	memcpy(h.line, handler_line, sizeof(h.line));
	parse(&h);
	run(&h);
	tell(current, "{%s} ", h.out);
	pipes = had;
	errno = saved;
}

void set_handler(const char *line)
{
	snprintf(handler_line, sizeof(handler_line), "%s", line);
}

void set_signals(bool restart)
{
	struct sigaction sa = {.sa_handler = on_pipe, .sa_flags = restart ? SA_RESTART : 0};

	sigaction(SIGPIPE, &sa, NULL);
	sa.sa_handler = on_kick;
	sigaction(SIGUSR1, &sa, NULL);
}

static void for_pending(void (*what)(pthread_t t))
{
	for (struct call *c = pending; c; c = c->next)
		if (!c->done)
			what(c->thread);
}

static void kick(pthread_t t)
{
	pthread_kill(t, SIGUSR1);
}

static void cancel(pthread_t t)
{
	pthread_cancel(t);
}

static void kick_looks(void)
{
	for (struct call *c = pending; c; c = c->next)
		if (!c->done && (!strcmp(c->word[0], "poll") || !strcmp(c->word[0], "ppoll") ||
				 !strcmp(c->word[0], "select") || !strcmp(c->word[0], "pselect")))
			pthread_kill(c->thread, SIGUSR1);
}

/* A file about a thread. */
static bool about(pid_t tid, const char *file, char *buf, size_t size)
{
	char path[64];
	long fd, len;

	snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, file);
	fd = xvm_sys(SYS_openat, AT_FDCWD, path, O_RDONLY);
	if (fd < 0)
		return false;
	len = xvm_sys(SYS_read, fd, buf, size - 1);
	xvm_sys(SYS_close, fd);
	buf[len > 0 ? len : 0] = 0;
	return len > 0;
}

static bool few(long ms)
{
	return ms > 0 && ms < 100;
}

/* Does it sleep for a few milliseconds, to look again? */
static bool timed(pid_t tid)
{
	unsigned long nr, a[6];
	const struct timespec *ts;
	char buf[200];

	if (!about(tid, "syscall", buf, sizeof(buf)) ||
	    sscanf(buf, "%lu %lx %lx %lx %lx %lx %lx", &nr, a, a + 1, a + 2, a + 3, a + 4, a + 5) !=
		    7)
		return false;
	switch (nr) {
#ifdef SYS_poll
	case SYS_poll:
		return few((int)a[2]);
	case SYS_epoll_wait:
#endif
	case SYS_epoll_pwait:
		return few((int)a[3]);
	case SYS_ppoll:
		ts = (const struct timespec *)a[2];
		break;
	case SYS_epoll_pwait2:
		ts = (const struct timespec *)a[3];
		break;
	default:
		return false;
	}
	/* On the stack of who is in there. */
	return ts && ts->tv_sec == 0 && few((ts->tv_nsec + 999999) / 1000000);
}

/* Asleep in the kernel, with nothing due that would wake it? Adds how often it went to sleep. */
static bool asleep(pid_t tid, unsigned long *sleeps)
{
	const char *state, *n;
	char buf[4096];

	if (!about(tid, "status", buf, sizeof(buf)))
		return false;
	state = strstr(buf, "\nState:");
	n = strstr(buf, "\nvoluntary_ctxt_switches:");
	if (!state || !n)
		return false;
	*sleeps += strtoul(n + strlen("\nvoluntary_ctxt_switches:"), NULL, 10);
	return state[strlen("\nState:\t")] == 'S';
}

/* ---- quiet ---- */

static bool tcp_info(int fd, struct tcp_info *ti)
{
	socklen_t len = sizeof(*ti);

	memset(ti, 0, sizeof(*ti));
	return xvm_sys(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, ti, &len) == 0;
}

/*
 * Loopback delivers what is sent on a processor in order. So a datagram to oneself comes back when
 * the segments sent before it have been dealt with; the second one, when their answers have.
 */
static void barrier(void)
{
	char c = 0;

	for (int i = 0; i < 2; i++)
		if (xvm_sys(SYS_write, echo_fd, &c, 1) != 1 ||
		    xvm_sys(SYS_read, echo_fd, &c, 1) != 1)
			die("barrier");
}

/* Acknowledges at once what TCP would acknowledge later. Segments that are not acknowledged yet. */
static unsigned flush(void)
{
	unsigned unacked = 0;
	struct tcp_info ti;
	int one = 1;

	for (int i = 0; i < NAMES; i++) {
		if (!names[i].name[0] || !tcp_info(names[i].fd, &ti))
			continue;
		if (ti.tcpi_state == TCP_ESTABLISHED || ti.tcpi_state == TCP_CLOSE_WAIT)
			xvm_sys(SYS_setsockopt, names[i].fd, IPPROTO_TCP, TCP_QUICKACK, &one,
				sizeof(one));
		if (ti.tcpi_state != TCP_CLOSE && ti.tcpi_state != TCP_LISTEN)
			unacked += ti.tcpi_unacked;
	}
	return unacked;
}

/* What has ended since, and whether anything may still go on by itself. */
static void settle(char *out, size_t size)
{
	struct call **at = &pending, *c;
	unsigned long sleeps = 0;
	unsigned unacked;
	bool busy = false;
	size_t n;

	barrier();
	unacked = flush();
	barrier();
	if (unacked)
		unacked = flush();
	n = (size_t)snprintf(out, size, "unacked %u", unacked);
	while ((c = *at)) {
		if (c->done) {
			pthread_join(c->thread, NULL);
			n += (size_t)snprintf(out + n, size - n, "\n%s", c->out);
			*at = c->next;
			free(c);
			continue;
		}
		busy = busy || !c->tid || !c->inside || !asleep(c->tid, &sleeps);
		at = &c->next;
	}
	if (busy || pending)
		n += (size_t)snprintf(out + n, size - n, busy ? "\nbusy" : "\nsleeps %lu", sleeps);
	for (c = pending; c && !busy; c = c->next)
		if (timed(c->tid)) {
			sleeps = 0;
			asleep(c->tid, &sleeps);
			n += (size_t)snprintf(out + n, size - n, "\ntimed %d %lu", c->tid, sleeps);
		}
}

/* ---- control ---- */

static int hide(int fd, int at)
{
	if (fd < 0 || xvm_sys(SYS_dup3, fd, at, 0) != at)
		die("hide");
	if (fd != at)
		xvm_sys(SYS_close, fd);
	return at;
}

/* One that blocks in splice() keeps others from the pipe: each direction and process has its own.
 */
static void pipe_hide(int pair[2], int at)
{
	int p[2];

	if (xvm_sys(SYS_pipe2, p, 0))
		die("pipe");
	pair[0] = hide(p[0], at);
	pair[1] = hide(p[1], at + 1);
}

void become_child(void)
{
	pipe_hide(pipe_fd, HIDDEN + 2);
	pipe_hide(pipe_in, HIDDEN + 6);
	xvm_sys(SYS_close, control);
	control = spare;
	pending = NULL;
}

static void reply(const char *s)
{
	if (xvm_sys(SYS_write, control, s, strlen(s)) < 0)
		_exit(0);
}

static void command(struct call *c, bool own_thread)
{
	sigset_t kick_only, old;

	parse(c);
	if (own_thread) {
		c->next = pending;
		pending = c;
		if (pthread_create(&c->thread, NULL, thread_run, c))
			die("thread");
		reply("started");
		return;
	}
	/* What is to interrupt is for the threads. */
	sigemptyset(&kick_only);
	sigaddset(&kick_only, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &kick_only, &old);
	run(c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	barrier();
	reply(c->out);
	free(c);
}

/* Nothing of what was played is left: the next script begins as in a new process. */
static void forget(void)
{
	memset(names, 0, sizeof(names));
	position = 0;
	xvm_sys(SYS_lseek, file_fd, 0, SEEK_SET);
	pipe_hide(pipe_fd, HIDDEN + 2);
	pipe_hide(pipe_in, HIDDEN + 6);
}

static void serve(void)
{
	static char out[8000];

	for (;;) {
		struct call *c = calloc(1, sizeof(*c));
		long n = xvm_sys(SYS_read, control, c->line, sizeof(c->line) - 1);

		if (n <= 0)
			_exit(0);
		if (!strcmp(c->line, "!settle")) {
			settle(out, sizeof(out));
			reply(out);
		} else if (!strcmp(c->line, "!kick")) {
			for_pending(kick);
			reply("done");
		} else if (!strcmp(c->line, "!kick looks")) {
			kick_looks();
			reply("done");
		} else if (!strcmp(c->line, "!cancel")) {
			for_pending(cancel);
			reply("done");
		} else if (!strcmp(c->line, "!forget")) {
			forget();
			set_handler("");
			set_signals(false);
			reply("done");
		} else if (!strcmp(c->line, "!quit")) {
			exit(0);
		} else if (c->line[0] == '&') {
			memmove(c->line, c->line + 1, strlen(c->line));
			command(c, true);
			continue;
		} else {
			command(c, false);
			continue;
		}
		free(c);
	}
}

static void set_up(int cpu)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	cpu_set_t set;
	int fd;
	char *file;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (cpu >= 0 && sched_setaffinity(0, sizeof(set), &set) < 0)
		die("affinity");
	set_signals(false);
	fd = (int)xvm_sys(SYS_socket, AF_INET, SOCK_DGRAM, 0);
	if (xvm_sys(SYS_bind, fd, &sin, len) || xvm_sys(SYS_getsockname, fd, &sin, &len) ||
	    xvm_sys(SYS_connect, fd, &sin, len))
		die("echo");
	echo_fd = hide(fd, HIDDEN);
	fd = (int)xvm_sys(SYS_memfd_create, "file", 0);
	file = malloc(FILE_SIZE);
	for (int i = 0; i < FILE_SIZE; i++)
		file[i] = (char)(i * 7 + (i >> 8));
	if (xvm_sys(SYS_write, fd, file, FILE_SIZE) != FILE_SIZE)
		die("file");
	free(file);
	xvm_sys(SYS_lseek, fd, 0, SEEK_SET);
	file_fd = hide(fd, HIDDEN + 1);
	pipe_hide(pipe_fd, HIDDEN + 2);
	pipe_hide(pipe_in, HIDDEN + 6);
	/* The listener is known to the library, so it is made and moved in its sight. */
	fd = socket(AF_INET, SOCK_STREAM, 0);
	sin.sin_port = 0;
	len = sizeof(sin);
	if (bind(fd, (struct sockaddr *)&sin, len) || listen(fd, 16))
		die("listen");
	listen_fd = fcntl(fd, F_DUPFD, HIDDEN + 10);
	close(fd);
}

char **image_args(bool child)
{
	static char text[NAMES + 2][sizeof(names[0].name) + 16], *args[NAMES + 5];
	int n = 0;

	snprintf(text[0], sizeof(text[0]), "%d", child ? spare : control);
	snprintf(text[1], sizeof(text[1]), "%d", listen_fd);
	args[n++] = "actor";
	args[n++] = "goes-on";
	args[n++] = text[0];
	args[n++] = text[1];
	for (int i = 0; i < NAMES; i++) {
		if (!names[i].name[0])
			continue;
		snprintf(text[i + 2], sizeof(text[0]), "%.15s=%d", names[i].name, names[i].fd);
		args[n++] = text[i + 2];
	}
	args[n] = NULL;
	return args;
}

/* What the program before had hidden is still there. */
static void go_on(char **arg)
{
	control = atoi(arg[0]);
	listen_fd = atoi(arg[1]);
	spare = HIDDEN + 5;
	echo_fd = HIDDEN;
	file_fd = HIDDEN + 1;
	pipe_hide(pipe_fd, HIDDEN + 2);
	pipe_hide(pipe_in, HIDDEN + 6);
	set_signals(false);
	for (arg += 2; *arg; arg++) {
		char *eq = strchr(*arg, '=');

		*eq = 0;
		set_name(*arg, atoi(eq + 1));
	}
	reply("is another program");
}

/*
 * actor CPU CONTROL SPARE: sockets of packets, its own and the one of a child that it forks.
 * actor goes-on CONTROL LISTENER NAME=FD...: by exec.
 * actor -: nothing at all.
 */
int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "-"))
		return 0;
	if (argc >= 4 && !strcmp(argv[1], "goes-on")) {
		go_on(argv + 2);
		serve();
	}
	if (argc != 4)
		die("usage: actor CPU CONTROL SPARE");
	control = hide(atoi(argv[2]), HIDDEN + 4);
	spare = hide(atoi(argv[3]), HIDDEN + 5);
	set_up(atoi(argv[1]));
	serve();
}
