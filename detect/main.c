/* SPDX-License-Identifier: Apache-2.0 */
/* xvmd: options, signals, coming up and going down. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "detect/client.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/notify.h"
#include "detect/share.h"
#include "detect/socket.h"
#include "detect/uevent.h"

#ifndef XVM_CONF_PATH
#define XVM_CONF_PATH "/etc/xvm/xvmd.conf"
#endif
#define FIRST_CLIENT_S 10. /* that a private daemon waits for a program */
#define LAST_CLIENT_S 1.   /* that it stays when the last has gone: it may have called execve */

static struct {
	const char *conf;
	bool conf_given, private, foreground;
	char socket[4096];
} opt;

static struct xvm_daemon d;
static struct xvm_socket sock;
static ev_timer end_timer;
static ev_signal sig_hup, sig_term, sig_int;
static uint32_t programs_before;

static const char usage[] =
	"usage: xvmd [--config FILE] [--socket PATH] [--foreground]\n"
	"\n"
	"Tells preloaded programs on this host which connections may use shared memory.\n"
	"\n"
	"  -c, --config FILE   rules (default " XVM_CONF_PATH ", if it is there)\n"
	"  -s, --socket PATH   where programs find it (default $XVM_SOCKET or\n"
	"                      " XVM_SOCKET_SYSTEM ")\n"
	"  -f, --foreground    stay, and log to stderr rather than syslog\n"
	"  -h, --help          this text\n"
	"  -V, --version       version\n"
	"\n"
	"See xvmd(8) and xvmd.conf(5).\n";

/* ---- options ---------------------------------------------------------- */

static void absolute(char *to, size_t len, const char *path)
{
	char cwd[2048];

	/* We leave the working directory. */
	if (*path == '/' || !getcwd(cwd, sizeof(cwd)))
		snprintf(to, len, "%s", path);
	else
		snprintf(to, len, "%s/%s", cwd, path);
}

static int parse_options(int argc, char **argv)
{
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
					      {"socket", required_argument, NULL, 's'},
					      {"foreground", no_argument, NULL, 'f'},
					      {"private", no_argument, NULL, 'p'},
					      {"help", no_argument, NULL, 'h'},
					      {"version", no_argument, NULL, 'V'},
					      {NULL, 0, NULL, 0}};
	static char conf[4096];
	const char *path = xvm_client_path();
	int o, at;

	opterr = 0;
	for (at = optind; (o = getopt_long(argc, argv, ":c:s:fhV", longs, NULL)) != -1;
	     at = optind) {
		switch (o) {
		case 'c':
			absolute(conf, sizeof(conf), optarg);
			opt.conf = conf;
			opt.conf_given = true;
			break;
		case 's':
			path = optarg;
			break;
		case 'f':
			opt.foreground = true;
			break;
		case 'p':
			opt.private = true;
			break;
		case 'h':
			fputs(usage, stdout);
			exit(0);
		case 'V':
			printf("xvmd %s (protocol %d)\n", XVM_VERSION, XVM_PROTO_VERSION);
			exit(0);
		case ':':
			fprintf(stderr, "xvmd: option %s wants a value; see xvmd --help\n",
				argv[at]);
			return -EINVAL;
		default:
			fprintf(stderr, "xvmd: unknown option %s; see xvmd --help\n", argv[at]);
			return -EINVAL;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "xvmd: unexpected argument %s; see xvmd --help\n", argv[optind]);
		return -EINVAL;
	}
	if (!*path) {
		fprintf(stderr, "xvmd: the socket's path is empty\n");
		return -EINVAL;
	}
	absolute(opt.socket, sizeof(opt.socket), path);
	/* A private one does without configuration, unless it is given one. */
	if (!opt.conf && !opt.private)
		opt.conf = XVM_CONF_PATH;
	return 0;
}

static struct xvm_conf *load_conf(char *err, size_t len)
{
	if (!opt.conf)
		return xvm_conf_parse("", 0, "", err, len);
	return xvm_conf_load(opt.conf, !opt.conf_given, err, len);
}

/* ---- signals ---------------------------------------------------------- */

static void on_hup(struct ev_loop *loop, ev_signal *w, int events)
{
	struct xvm_conf *conf;
	char err[512];

	xvm_notify_reloading();
	conf = load_conf(err, sizeof(err));
	if (conf) {
		xvm_conf_free(d.conf);
		d.conf = conf;
		xvm_log_level(xvm_conf_log_level(conf));
		xvm_groups_apply(&d);
		xvm_guests_look(&d, "");
		xvm_guests_greet(&d, NULL);
		xvm_share_greet(&d, NULL);
		xvm_log(LOG_NOTICE, "configuration read again");
	} else {
		xvm_log(LOG_ERR, "%s (the old configuration stays in force)", err);
	}
	xvm_notify("READY=1");
}

static void on_term(struct ev_loop *loop, ev_signal *w, int events)
{
	ev_break(loop, EVBREAK_ALL);
}

/* ---- a private daemon's end ------------------------------------------- */

/*
 * Nobody is there. Close the door before looking who is still on the doorstep: a connect() either
 * fails now, and its caller starts another daemon, which waits for our lock; or it had
 * succeeded, and then we stay and open a new door.
 */
static void on_end(struct ev_loop *loop, ev_timer *w, int events)
{
	int fd, ret;

	xvm_socket_unlink(&sock);
	shutdown(d.listen_fd, SHUT_RDWR);
	xvm_daemon_accept(&d);
	if (!d.n_conns) {
		ev_break(loop, EVBREAK_ALL);
		return;
	}
	ret = xvm_socket_again(&sock, &fd);
	if (ret) {
		xvm_log(LOG_ERR, "%s: %s", sock.path, strerror(-ret));
		fd = -1;
	}
	xvm_daemon_listen(&d, fd);
}

static void on_idle(struct xvm_daemon *daemon)
{
	bool program_left = daemon->n_programs < programs_before;

	programs_before = daemon->n_programs;
	ev_timer_stop(daemon->loop, &end_timer);
	if (daemon->n_conns)
		return;
	/* After a tool, a program may follow: xvm run asks first whether we are there. */
	ev_timer_set(&end_timer, program_left ? LAST_CLIENT_S : FIRST_CLIENT_S, 0.);
	ev_timer_start(daemon->loop, &end_timer);
}

/* ---- coming up -------------------------------------------------------- */

/*
 * Leave the caller's session. The caller returns from main() with what the daemon says
 * through the pipe once it listens, so that whoever comes after it finds the socket.
 */
static int go_background(void)
{
	int p[2];
	char ok = 1;
	pid_t pid;
	ssize_t n;

	/* Whatever the caller has open would stay open with us. */
	syscall(SYS_close_range, 3, ~0u, 0);
	if (pipe2(p, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid) {
		close(p[1]);
		do {
			n = read(p[0], &ok, 1);
		} while (n < 0 && errno == EINTR);
		_exit(n == 1 ? ok : 1);
	}
	setsid();
	pid = fork();
	if (pid)
		_exit(pid < 0);
	close(p[0]);
	if (chdir("/"))
		return -errno;
	return p[1];
}

static void ready(int pipe_fd)
{
	int fd;

	if (pipe_fd >= 0) {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		if (fd > 2)
			close(fd);
		if (write(pipe_fd, "", 1) != 1)
			xvm_log(LOG_WARNING, "the process that started us has gone");
		close(pipe_fd);
	}
	xvm_notify("READY=1\nSTATUS=serving");
}

static void watch_signals(void)
{
	sigset_t none;

	/* The caller's mask and dispositions are inherited. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	ev_signal_init(&sig_hup, on_hup, SIGHUP);
	ev_signal_init(&sig_term, on_term, SIGTERM);
	ev_signal_init(&sig_int, on_term, SIGINT);
	ev_signal_start(d.loop, &sig_hup);
	ev_signal_start(d.loop, &sig_term);
	ev_signal_start(d.loop, &sig_int);
}

static int fail(const char *what, int err)
{
	fprintf(stderr, "xvmd: %s%s%s\n", what, err ? ": " : "", err ? strerror(-err) : "");
	return 1;
}

static int take_socket(int *fd)
{
	char err[512];
	int ret;

	sock.lock_fd = -1;
	*fd = opt.private ? -ENOENT : xvm_notify_listen_fd();
	if (*fd >= 0)
		return 0;
	if (*fd == -EINVAL) {
		fail("what systemd handed over is not one listening SOCK_SEQPACKET socket", 0);
		return -EINVAL;
	}
	ret = xvm_socket_open(&sock, opt.socket, opt.private ? XVM_SOCKET_PRIVATE : 0, fd, err,
			      sizeof(err));
	if (ret < 0)
		fail(err, 0);
	return ret;
}

static int serve(int pipe_fd)
{
	int fd, ret;

	ret = take_socket(&fd);
	if (ret > 0) {
		ready(pipe_fd); /* another was faster: just as good */
		return 0;
	}
	if (ret)
		return 1;
	d.loop = ev_loop_new(EVFLAG_AUTO);
	if (!d.loop) {
		ret = fail("no event loop", 0);
		goto out_socket;
	}
	watch_signals();
	ret = xvm_fd_init();
	if (!ret)
		ret = xvm_daemon_init(&d);
	if (ret) {
		ret = fail("cannot start", ret);
		goto out_socket;
	}
	/* It has said what is wrong, to stderr as yet. */
	if (!xvm_groups_apply(&d)) {
		ret = fail("cannot serve all groups", 0);
		xvm_socket_unlink(&sock);
		xvm_daemon_exit(&d);
		ev_loop_destroy(d.loop);
		goto out_socket;
	}
	/* A device is the system's, not one user's. */
	if (!opt.private) {
		ret = xvm_uevents_init(&d);
		if (ret)
			xvm_log(LOG_WARNING,
				"devices that are plugged in later are seen at SIGHUP: %s",
				strerror(-ret));
		xvm_guests_look(&d, "");
	}
	if (opt.private) {
		d.idle = on_idle;
		ev_timer_init(&end_timer, on_end, FIRST_CLIENT_S, 0.);
		ev_timer_start(d.loop, &end_timer);
	}
	xvm_daemon_listen(&d, fd);
	xvm_log_open(pipe_fd < 0);
	xvm_log_level(xvm_conf_log_level(d.conf));
	ready(pipe_fd);
	ev_run(d.loop, 0);

	xvm_notify("STOPPING=1");
	xvm_socket_unlink(&sock);
	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
out_socket:
	xvm_socket_close(&sock);
	return ret;
}

int main(int argc, char **argv)
{
	char err[512];
	int pipe_fd = -1;

	if (parse_options(argc, argv))
		return 2;
	/* Before anything else is touched: a wrong file changes nothing. */
	d.conf = load_conf(err, sizeof(err));
	if (!d.conf)
		return fail(err, 0);
	if (!opt.foreground) {
		pipe_fd = go_background();
		if (pipe_fd < 0)
			return fail("cannot go to the background", pipe_fd);
	}
	return serve(pipe_fd);
}
