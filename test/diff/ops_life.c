/* SPDX-License-Identifier: Apache-2.0 */
/* Connections, descriptors, options, processes. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "test/diff/actor.h"
#include "test/diff/via.h"
#include "transport/sys.h"

static const struct bit socket_flags[] = {
	{"NONBLOCK", SOCK_NONBLOCK}, {"CLOEXEC", SOCK_CLOEXEC}, {"BAD", 0x100}, {NULL, 0}};
static const struct bit range_flags[] = {{"UNSHARE", CLOSE_RANGE_UNSHARE},
					 {"CLOEXEC", CLOSE_RANGE_CLOEXEC},
					 {"BAD", 0x100},
					 {NULL, 0}};

static void op_port(struct call *c)
{
	struct sockaddr_in sin;
	socklen_t len = sizeof(sin);

	if (getsockname(listen_fd, (struct sockaddr *)&sin, &len))
		die("port");
	tell(c, "%d", ntohs(sin.sin_port));
}

/* What is sent is to be there at once. */
static void at_once(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* connect PORT */
static void op_connect(struct call *c)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons((uint16_t)number(arg(c, 1), 0))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0)
		die("connect");
	at_once(fd);
	result(c, fd);
}

static void op_accept(struct call *c)
{
	int fd = accept(listen_fd, NULL, NULL);

	if (fd < 0)
		die("accept");
	at_once(fd);
	result(c, fd);
}

/* socket [NONBLOCK|CLOEXEC] */
static void op_socket(struct call *c)
{
	result(c, via_socket(AF_INET, SOCK_STREAM | (int)bits_of(socket_flags, arg(c, 1)), 0));
}

/* connect_to FD PORT|unspec */
static void op_connect_to(struct call *c)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				  .sin_port = htons((uint16_t)number(arg(c, 2), 0))};

	if (!strcmp(arg(c, 2), "unspec"))
		sin = (struct sockaddr_in){.sin_family = AF_UNSPEC};
	begin(c);
	result(c, via_connect(fd_of(arg(c, 1)), (struct sockaddr *)&sin, sizeof(sin)));
}

/* accept4 [NONBLOCK|CLOEXEC|BAD] */
static void op_accept4(struct call *c)
{
	int fd;

	begin(c);
	fd = c->words > 1
		     ? via_accept4(listen_fd, NULL, NULL, (int)bits_of(socket_flags, arg(c, 1)))
		     : via_accept(listen_fd, NULL, NULL);
	result(c, fd);
	if (fd >= 0)
		at_once(fd);
}

static void op_listen(struct call *c)
{
	result(c, via_listen(fd_of(arg(c, 1)), 16));
}

static void op_close(struct call *c)
{
	result(c, via_close(fd_of(arg(c, 1))));
}

/* Behind the library's back, as libc closes some. */
static void op_unseen_close(struct call *c)
{
	long r = xvm_sys(SYS_close, fd_of(arg(c, 1)));

	errno = r < 0 ? (int)-r : 0;
	result(c, r < 0 ? -1 : r);
}

static void op_dup(struct call *c)
{
	result(c, via_dup(fd_of(arg(c, 1))));
}

static void op_dup2(struct call *c)
{
	result(c, via_dup2(fd_of(arg(c, 1)), fd_of(arg(c, 2))));
}

static void op_dup3(struct call *c)
{
	result(c, via_dup3(fd_of(arg(c, 1)), fd_of(arg(c, 2)),
			   !strcmp(arg(c, 3), "CLOEXEC") ? O_CLOEXEC : 0));
}

/* dupfd FD LEAST [kept]: for an exec, that is */
static void op_dupfd(struct call *c)
{
	int cmd = !strcmp(arg(c, 3), "kept") ? F_DUPFD : F_DUPFD_CLOEXEC;

	result(c, via_fcntl(fd_of(arg(c, 1)), cmd, number(arg(c, 2), 0)));
}

/* setfd FD CLOEXEC|- */
static void op_setfd(struct call *c)
{
	result(c, via_fcntl(fd_of(arg(c, 1)), F_SETFD,
			    !strcmp(arg(c, 2), "CLOEXEC") ? FD_CLOEXEC : 0));
}

static void op_getfd(struct call *c)
{
	result(c, via_fcntl(fd_of(arg(c, 1)), F_GETFD, 0));
}

/* Never the descriptors that we are driven by. */
static void op_close_range(struct call *c)
{
	int from = fd_of(arg(c, 1)), to = fd_of(arg(c, 2));

	if (from < HIGH && to >= HIDDEN)
		to = HIDDEN - 1;
	result(c,
	       via_close_range((unsigned)from, (unsigned)to, (int)bits_of(range_flags, arg(c, 3))));
}

/* Which of the script's numbers are open. */
static void op_fds(struct call *c)
{
	for (int fd = 3; fd < HIDDEN; fd++)
		if (xvm_sys(SYS_fcntl, fd, F_GETFD) >= 0)
			tell(c, "%d ", fd);
}

static void op_nonblock(struct call *c)
{
	int fd = fd_of(arg(c, 1)), fl = fcntl(fd, F_GETFL);

	if (fl < 0) {
		result(c, fl);
		return;
	}
	fl = number(arg(c, 2), 1) ? fl | O_NONBLOCK : fl & ~O_NONBLOCK;
	result(c, via_fcntl(fd, F_SETFL, fl));
}

static void op_fionbio(struct call *c)
{
	int on = (int)number(arg(c, 2), 1);

	result(c, via_ioctl(fd_of(arg(c, 1)), FIONBIO, &on));
}

static void op_getfl(struct call *c)
{
	result(c, via_fcntl(fd_of(arg(c, 1)), F_GETFL, 0));
}

static void op_shutdown(struct call *c)
{
	const char *how = arg(c, 2);

	result(c, via_shutdown(fd_of(arg(c, 1)), !strcmp(how, "RD")	? SHUT_RD
						 : !strcmp(how, "WR")	? SHUT_WR
						 : !strcmp(how, "RDWR") ? SHUT_RDWR
									: (int)number(how, 3)));
}

static const struct {
	const char *name;
	int level, opt;
	enum { INT, LINGER, TIME } type;
} options[] = {
	{"RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, INT},
	{"RCVTIMEO", SOL_SOCKET, SO_RCVTIMEO, TIME},
	{"SNDTIMEO", SOL_SOCKET, SO_SNDTIMEO, TIME},
	{"LINGER", SOL_SOCKET, SO_LINGER, LINGER},
	{"ERROR", SOL_SOCKET, SO_ERROR, INT},
	{"NODELAY", IPPROTO_TCP, TCP_NODELAY, INT},
	{"CORK", IPPROTO_TCP, TCP_CORK, INT},
	{"OOBINLINE", SOL_SOCKET, SO_OOBINLINE, INT},
	{"KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, INT},
	{"TYPE", SOL_SOCKET, SO_TYPE, INT},
	{"BROKEN", SOL_SOCKET, 9999, INT},
};

union value {
	int i;
	struct linger l;
	struct timeval t;
};

static int option_of(const char *name)
{
	for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (!strcmp(options[i].name, name))
			return (int)i;
	die(name);
}

static socklen_t option_size(int o)
{
	union value v;

	return options[o].type == INT	   ? sizeof(v.i)
	       : options[o].type == LINGER ? sizeof(v.l)
					   : sizeof(v.t);
}

/* setopt FD NAME VALUE...: milliseconds, or on and seconds, or a number */
static void op_setopt(struct call *c)
{
	int o = option_of(arg(c, 2));
	long n = number(arg(c, 3), 0);
	union value v = {.i = (int)n};

	if (options[o].type == LINGER)
		v.l = (struct linger){(int)n, (int)number(arg(c, 4), 0)};
	else if (options[o].type == TIME)
		v.t = (struct timeval){n / 1000, n % 1000 * 1000};
	result(c, via_setsockopt(fd_of(arg(c, 1)), options[o].level, options[o].opt, &v,
				 option_size(o)));
}

static void op_getopt(struct call *c)
{
	int o = option_of(arg(c, 2));
	socklen_t len = option_size(o);
	union value v;

	memset(&v, 0, sizeof(v));
	result(c, via_getsockopt(fd_of(arg(c, 1)), options[o].level, options[o].opt, &v, &len));
	if (c->r < 0)
		return;
	if (options[o].type == LINGER)
		tell(c, " %d %d", v.l.l_onoff, v.l.l_linger);
	else if (options[o].type == TIME)
		tell(c, " %ld.%06ld", (long)v.t.tv_sec, (long)v.t.tv_usec);
	else
		tell(c, " %d", v.i);
}

static void op_state(struct call *c)
{
	static const char *const states[] = {"?",	   "ESTABLISHED", "SYN_SENT",  "SYN_RECV",
					     "FIN_WAIT1",  "FIN_WAIT2",	  "TIME_WAIT", "CLOSE",
					     "CLOSE_WAIT", "LAST_ACK",	  "LISTEN",    "CLOSING"};
	struct tcp_info ti = {0};
	socklen_t len = sizeof(ti);

	result(c, via_getsockopt(fd_of(arg(c, 1)), IPPROTO_TCP, TCP_INFO, &ti, &len));
	if (c->r == 0)
		tell(c, " %s", ti.tcpi_state < 12 ? states[ti.tcpi_state] : "?");
}

/* info FD LEN: as much of it, and the state, which is its first byte */
static void op_info(struct call *c)
{
	unsigned char info[512] = {0};
	socklen_t len = (socklen_t)number(arg(c, 2), sizeof(info));

	result(c, via_getsockopt(fd_of(arg(c, 1)), IPPROTO_TCP, TCP_INFO, info, &len));
	tell(c, " %d %d", (int)len, info[0]);
}

static void op_peername(struct call *c)
{
	struct sockaddr_in sin;
	socklen_t len = sizeof(sin);

	result(c, getpeername(fd_of(arg(c, 1)), (struct sockaddr *)&sin, &len));
}

const struct op life_ops[] = {
	{"port", op_port},
	{"connect", op_connect},
	{"accept", op_accept},
	{"close", op_close},
	{"unseen_close", op_unseen_close},
	{"socket", op_socket},
	{"connect_to", op_connect_to},
	{"accept4", op_accept4},
	{"listen", op_listen},
	{"dup", op_dup},
	{"dup2", op_dup2},
	{"dup3", op_dup3},
	{"dupfd", op_dupfd},
	{"setfd", op_setfd},
	{"getfd", op_getfd},
	{"close_range", op_close_range},
	{"fds", op_fds},
	{"nonblock", op_nonblock},
	{"fionbio", op_fionbio},
	{"getfl", op_getfl},
	{"shutdown", op_shutdown},
	{"setopt", op_setopt},
	{"getopt", op_getopt},
	{"state", op_state},
	{"info", op_info},
	{"peername", op_peername},
	{NULL, NULL},
};
