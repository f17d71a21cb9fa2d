/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bench's own client and server, over TCP or a Unix stream socket; ordinary programs, preloaded
 *or not. They wait as real programs do: in the call itself, by poll, by epoll, or not at all
 *(spin).
 *
 *	load serve --mode M --size N --wait W --addr A		says "port N", then serves
 *	load connect --mode M --size N --wait W --addr A --port P [--conns N] ...
 *
 * The client says "up" and then does what its stdin says:
 *
 *	go MS	    timed work: "done COUNT SECONDS" (round trips, bytes or connections)
 *	open N	    N connections more, each used for a while and then idle: "opened N"
 *
 * Modes: rtt (a message there, the same size back, one under way on each connection), stream (bytes
 *one way), crr (connect, a message there, one back, close), ask (the text --send there, --expect
 *bytes back: the server is another program). "bad TEXT" tells a failure.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 16384
#define CRR_MAX 20000 /* connections to one port: each leaves one in TIME_WAIT */
#define USED 24	      /* round trips that make an idle connection one that has been used */
#define ECHO 0xa5

enum mode { RTT, STREAM, CRR, ASK };
enum wait { BLOCK, POLL, LEVEL, EDGE, SPIN };

static const char *const modes[] = {"rtt", "stream", "crr", "ask", NULL};
static const char *const waits[] = {"block", "poll", "level", "edge", "spin", NULL};

struct conn {
	int fd;
	size_t in;	   /* bytes that have come of the message */
	size_t out;	   /* bytes that have still to go of the other one */
	uint8_t tag, came; /* first bytes of the one that goes and of the one that came */
	bool wants_out;
	uint64_t left; /* of a stream's batch; 0: its head is next */
	uint64_t head, total;
};

static struct {
	enum mode mode;
	enum wait wait;
	size_t send, expect; /* bytes of the message that goes, and of the one that comes */
	size_t read;	     /* a stream is read by so many */
	const char *text, *prime;
	size_t prime_expect;
	struct sockaddr_storage sa;
	socklen_t salen;
	int listener, ep;
	struct conn *conn;
	unsigned n, looks;
	unsigned first, active; /* of the connections that a client uses */
	struct pollfd *pfd;
	char *buf;
	uint8_t tag;
	uint64_t batch, sent, conns;
} l = {.listener = -1, .ep = -1, .batch = 16};

static void bad(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void bad(const char *fmt, ...)
{
	va_list ap;

	fputs("bad ", stdout);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

/* ---- waiting ---- */

static void epoll_set(struct conn *c, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	if (epoll_ctl(l.ep, op, c->fd, &ev))
		bad("epoll_ctl: %s", strerror(errno));
}

static void want_out(struct conn *c, bool on)
{
	if (c->wants_out == on)
		return;
	c->wants_out = on;
	if (l.wait == LEVEL)
		epoll_set(c, EPOLL_CTL_MOD, on ? EPOLLOUT : EPOLLIN);
}

static struct conn *add(int fd)
{
	struct conn *c = &l.conn[l.n];
	int one = 1;

	if (l.n == CONNS_MAX)
		bad("more than %d connections", CONNS_MAX);
	*c = (struct conn){.fd = fd};
	/* A stream's small writes are TCP's to gather, as iperf3's are. */
	if (l.sa.ss_family != AF_UNIX && l.mode != STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (l.wait != BLOCK)
		fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	if (l.wait == LEVEL)
		epoll_set(c, EPOLL_CTL_ADD, EPOLLIN);
	if (l.wait == EDGE)
		epoll_set(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET);
	l.n++;
	return c;
}

/* The end of the stream: the last takes the empty place. Only spinning and polling look there. */
static void drop(struct conn *c)
{
	close(c->fd);
	c->fd = -1;
	if (c == &l.conn[l.n - 1])
		l.n--;
}

static void look_for_new(void)
{
	int fd;

	while ((fd = accept4(l.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		add(fd);
	if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		bad("accept: %s", strerror(errno));
}

/* Waits and does what is to be done; false from `work` is all the same to it. */
static void wait_and(void (*work)(struct conn *))
{
	struct epoll_event ev[64];
	unsigned i, n = 0;
	int k, got;

	switch (l.wait) {
	case BLOCK:
	case SPIN:
		/* A call for the listener, each time, would be what is measured. */
		if (l.listener >= 0 && (!l.n || !(++l.looks % 4096)))
			look_for_new();
		for (i = 0; i < l.n; i++)
			if (l.conn[i].fd >= 0)
				work(&l.conn[i]);
		return;
	case POLL:
		for (i = 0; i < l.n; i++) {
			l.pfd[n].fd = l.conn[i].fd;
			l.pfd[n++].events = l.conn[i].wants_out ? POLLOUT : POLLIN;
		}
		if (l.listener >= 0)
			l.pfd[n++] = (struct pollfd){.fd = l.listener, .events = POLLIN};
		if (poll(l.pfd, n, -1) < 0 && errno != EINTR)
			bad("poll: %s", strerror(errno));
		if (l.listener >= 0 && l.pfd[n - 1].revents)
			look_for_new();
		n -= l.listener >= 0;
		for (i = 0; i < n; i++)
			if (l.pfd[i].revents && l.conn[i].fd >= 0)
				work(&l.conn[i]);
		return;
	case LEVEL:
	case EDGE:
		got = epoll_wait(l.ep, ev, 64, -1);
		if (got < 0 && errno != EINTR)
			bad("epoll_wait: %s", strerror(errno));
		for (k = 0; k < got; k++)
			if (ev[k].data.ptr)
				work(ev[k].data.ptr);
			else
				look_for_new();
		return;
	}
}

/* ---- moving bytes ---- */

/* All that is left of the message that goes; false: there is no room now. */
static bool flush(struct conn *c)
{
	const char *p = l.text ? l.text : l.buf;
	ssize_t n;

	while (c->out) {
		if (c->out == l.send && !l.text)
			l.buf[0] = (char)c->tag;
		n = write(c->fd, p + l.send - c->out, c->out);
		if (n < 0 && errno == EAGAIN) {
			want_out(c, true);
			return false;
		}
		if (n < 0 && errno != EINTR)
			bad("write: %s", strerror(errno));
		if (n > 0)
			c->out -= n;
	}
	want_out(c, false);
	return true;
}

/* Bytes read; 0: none there now; -1: the end. */
static ssize_t take(struct conn *c, void *buf, size_t len)
{
	ssize_t n = read(c->fd, buf, len);

	if (!n || (n < 0 && errno == ECONNRESET))
		return -1;
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		bad("read: %s", strerror(errno));
	return n < 0 ? 0 : n;
}

/* Part of the message that comes. 1: it is complete; 0: not yet; -1: the end. */
static int take_message(struct conn *c)
{
	ssize_t n = take(c, l.buf, l.expect - c->in);

	if (n <= 0)
		return (int)n;
	if (!c->in)
		c->came = (uint8_t)l.buf[0];
	c->in += n;
	if (c->in < l.expect)
		return 0;
	c->in = 0;
	return 1;
}

/* Level-triggered loops read once; an edge is told once, and blocking calls wait by themselves. */
static bool once_only(void)
{
	return l.wait == POLL || l.wait == LEVEL || l.wait == SPIN;
}

/* ---- server ---- */

static void serve_rtt(struct conn *c)
{
	size_t before;
	int got;

	if (c->out && !flush(c))
		return;
	do {
		before = c->in;
		got = take_message(c);
		if (got < 0) {
			drop(c);
			return;
		}
		if (got) {
			c->tag = c->came ^ ECHO;
			c->out = l.send;
			if (!flush(c))
				return;
		} else if (c->in == before && l.wait != BLOCK) {
			return;
		}
	} while (!once_only());
}

/* Batches: eight bytes say how many come; 0 asks for the number of bytes so far. */
static void serve_stream(struct conn *c)
{
	ssize_t n;

	do {
		if (!c->left) {
			n = take(c, (char *)&c->head + c->in, sizeof(c->head) - c->in);
			if (n > 0)
				c->in += n;
			if (c->in == sizeof(c->head)) {
				c->in = 0;
				c->left = c->head;
				if (!c->head && write(c->fd, &c->total, 8) != 8)
					bad("write: %s", strerror(errno));
			}
		} else {
			n = take(c, l.buf, c->left < l.read ? c->left : l.read);
			if (n > 0) {
				c->left -= n;
				c->total += n;
			}
		}
		if (n < 0) {
			drop(c);
			return;
		}
		if (!n && l.wait != BLOCK)
			return;
	} while (!once_only());
}

static void serve_crr(struct conn *c)
{
	int got;

	do {
		got = take_message(c);
		if (got < 0) {
			drop(c);
			return;
		}
		if (got) {
			c->tag = c->came ^ ECHO;
			c->out = l.send;
			flush(c);
		}
	} while (l.wait == BLOCK);
}

static void serve(void)
{
	void (*const work[])(struct conn *) = {serve_rtt, serve_stream, serve_crr};
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct epoll_event ev = {.events = EPOLLIN};
	int fd;

	l.listener = socket(l.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l.listener < 0 || bind(l.listener, (struct sockaddr *)&l.sa, l.salen) ||
	    listen(l.listener, 4096) || getsockname(l.listener, (struct sockaddr *)&sa, &len))
		bad("cannot listen: %s", strerror(errno));
	printf("port %u\n",
	       sa.ss_family == AF_UNIX ? 1 : ntohs(((struct sockaddr_in *)&sa)->sin_port));
	fflush(stdout);
	while (l.wait == BLOCK) {
		fd = accept4(l.listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			bad("accept: %s", strerror(errno));
		work[l.mode](add(fd));
	}
	fcntl(l.listener, F_SETFL, O_RDWR | O_NONBLOCK);
	if (l.ep >= 0)
		epoll_ctl(l.ep, EPOLL_CTL_ADD, l.listener, &ev);
	for (;;)
		wait_and(work[l.mode]);
}

/* ---- client ---- */

static struct conn *dial(void)
{
	int fd = socket(l.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&l.sa, l.salen))
		bad("cannot connect: %s", strerror(errno));
	return add(fd);
}

static unsigned under_way, done;
static bool stopping;

static void ask(struct conn *c)
{
	c->tag = l.tag++;
	c->out = l.send;
	under_way++;
	flush(c);
}

static void answered(struct conn *c)
{
	size_t before;
	int got;

	do {
		if (c->out && !flush(c))
			return;
		before = c->in;
		got = take_message(c);
		if (got < 0)
			bad("the other end hung up");
		if (got) {
			if (!l.text && c->came != (c->tag ^ ECHO))
				bad("a wrong byte came back");
			done++;
			under_way--;
			if (stopping)
				return;
			ask(c);
		} else if (c->in == before && l.wait != BLOCK) {
			return;
		}
	} while (l.wait == EDGE || (l.wait == BLOCK && !got));
}

/* Round trips on the active connections until `end`, or `most` of them. */
static double closed_loop(double end, unsigned most)
{
	unsigned i, looks = l.send > 4096 || l.text ? 1 : 16;

	done = 0;
	stopping = false;
	for (i = 0; i < l.active; i++)
		ask(&l.conn[l.first + i]);
	do {
		for (i = 0; i < looks; i++)
			wait_and(answered);
	} while (done < most && now() < end);
	stopping = true;
	while (under_way)
		wait_and(answered);
	return done;
}

static void pushed(struct conn *c)
{
}

static void put(struct conn *c, const char *buf, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(c->fd, buf, len);
		if (n > 0) {
			buf += n;
			len -= n;
		} else if (errno == EAGAIN) {
			want_out(c, true);
			wait_and(pushed);
		} else if (errno != EINTR) {
			bad("write: %s", strerror(errno));
		}
	}
	want_out(c, false);
}

static void get(struct conn *c, char *buf, size_t len)
{
	ssize_t n;

	while (len) {
		n = take(c, buf, len);
		if (n < 0)
			bad("the other end hung up");
		buf += n;
		len -= n;
		if (len && !n)
			wait_and(pushed);
	}
}

static double stream(double end)
{
	struct conn *c = &l.conn[0];
	uint64_t i, head, bytes, count = 0;
	double began;

	do {
		began = now();
		head = l.batch * l.send;
		put(c, (char *)&head, sizeof(head));
		for (i = 0; i < l.batch; i++)
			put(c, l.buf, l.send);
		count += head;
		/* Looking at the clock, and the head, are to cost nothing. */
		if (now() < began + 0.001 && l.batch < 1 << 20)
			l.batch *= 2;
		else if (now() > began + 0.008 && l.batch > 1)
			l.batch /= 2;
	} while (now() < end);
	head = 0;
	put(c, (char *)&head, sizeof(head));
	get(c, (char *)&bytes, sizeof(bytes));
	l.sent += count;
	if (bytes != l.sent)
		bad("%llu bytes sent, %llu have come", (unsigned long long)l.sent,
		    (unsigned long long)bytes);
	return (double)count;
}

static double crr(double end)
{
	double count = 0;
	struct conn *c;

	while (l.conns++ < CRR_MAX && now() < end) {
		c = dial();
		l.buf[0] = (char)l.tag;
		put(c, l.buf, l.send);
		get(c, l.buf, l.expect);
		if ((uint8_t)l.buf[0] != (l.tag++ ^ ECHO))
			bad("a wrong byte came back");
		drop(c);
		count++;
	}
	return count;
}

static void go(double seconds)
{
	double start = now(), count;

	if (l.mode == CRR)
		count = crr(start + seconds);
	else if (l.mode == STREAM)
		count = stream(start + seconds);
	else
		count = closed_loop(start + seconds, UINT32_MAX);
	printf("done %.0f %.9f\n", count, now() - start);
	fflush(stdout);
}

/* Each is the only active one for a moment, so that it is on the ring when it falls idle. */
static void open_idle(unsigned n)
{
	unsigned i, active = l.active;

	l.active = 1;
	for (i = 0; i < n; i++) {
		l.first = (unsigned)(dial() - l.conn);
		closed_loop(now() + 10, USED);
	}
	l.first = 0;
	l.active = active;
	printf("opened %u\n", n);
	fflush(stdout);
}

static void drive(unsigned conns)
{
	char line[64], got[256];
	unsigned i, k;

	for (i = 0; i < conns && l.mode != CRR; i++)
		dial();
	l.active = conns;
	if (l.prime) {
		put(&l.conn[0], l.prime, strlen(l.prime));
		get(&l.conn[0], got, l.prime_expect);
	}
	puts("up");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "go ", 3))
			go(atof(line + 3) / 1000);
		else if (sscanf(line, "open %u", &k) == 1)
			open_idle(k);
		else
			bad("what is '%s'?", line);
	}
}

/* ---- options ---- */

static int one_of(const char *const *names, const char *name)
{
	int i;

	for (i = 0; names[i]; i++)
		if (!strcmp(names[i], name))
			return i;
	bad("what is '%s'?", name);
}

static void address(const char *addr, unsigned port)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&l.sa;
	struct sockaddr_in *in = (struct sockaddr_in *)&l.sa;

	if (*addr == '/') {
		un->sun_family = AF_UNIX;
		snprintf(un->sun_path, sizeof(un->sun_path), "%s", addr);
		l.salen = sizeof(*un);
		return;
	}
	in->sin_family = AF_INET;
	in->sin_port = htons(port);
	l.salen = sizeof(*in);
	if (inet_pton(AF_INET, addr, &in->sin_addr) != 1)
		bad("'%s' is no address", addr);
}

/* "\r\n" is hard to pass otherwise. */
static char *unescape(char *s)
{
	char *to = s, *from = s;

	for (; *from; from++) {
		if (from[0] != '\\' || !from[1]) {
			*to++ = *from;
			continue;
		}
		from++;
		*to++ = *from == 'r' ? '\r' : *from == 'n' ? '\n' : *from;
	}
	*to = 0;
	return s;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"mode", 1, NULL, 'm'},	 {"size", 1, NULL, 's'},   {"wait", 1, NULL, 'w'},
		{"addr", 1, NULL, 'a'},	 {"port", 1, NULL, 'p'},   {"conns", 1, NULL, 'c'},
		{"read", 1, NULL, 'r'},	 {"send", 1, NULL, 't'},   {"expect", 1, NULL, 'e'},
		{"prime", 1, NULL, 'P'}, {"primed", 1, NULL, 'E'}, {0},
	};
	const char *addr = "127.0.0.1";
	unsigned port = 0, conns = 1;
	size_t size = 1;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'm':
			l.mode = one_of(modes, optarg);
			break;
		case 's':
			size = strtoull(optarg, NULL, 10);
			break;
		case 'w':
			l.wait = one_of(waits, optarg);
			break;
		case 'a':
			addr = optarg;
			break;
		case 'p':
			port = atoi(optarg);
			break;
		case 'c':
			conns = atoi(optarg);
			break;
		case 'r':
			l.read = strtoull(optarg, NULL, 10);
			break;
		case 't':
			l.text = unescape(optarg);
			break;
		case 'e':
			l.expect = strtoull(optarg, NULL, 10);
			break;
		case 'P':
			l.prime = unescape(optarg);
			break;
		case 'E':
			l.prime_expect = strtoull(optarg, NULL, 10);
			break;
		default:
			return 2;
		}
	}
	if (optind != argc - 1 || !size || !conns || conns > CONNS_MAX || l.prime_expect > 256)
		bad("misuse: see load.c");
	l.send = l.text ? strlen(l.text) : size;
	l.expect = l.expect ? l.expect : size;
	l.read = l.read ? l.read : size;
	address(addr, port);
	l.conn = calloc(CONNS_MAX, sizeof(*l.conn));
	l.pfd = calloc(CONNS_MAX + 1, sizeof(*l.pfd));
	c = l.wait == LEVEL || l.wait == EDGE;
	l.ep = c ? epoll_create1(EPOLL_CLOEXEC) : -1;
	size = l.send > l.expect ? l.send : l.expect;
	l.buf = calloc(1, (size > l.read ? size : l.read) + 16);
	if (!l.conn || !l.pfd || !l.buf)
		bad("no memory");
	if (!strcmp(argv[optind], "serve"))
		serve();
	else
		drive(conns);
	return 0;
}
