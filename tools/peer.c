/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `xvm peer`, hidden: the processes that `xvm check` and `xvm bench` run, preloaded or not. They
 * use sockets as plain programs do, blocking.
 *
 *   peer serve MODE SIZE ADDR         says "port N", then serves
 *   peer connect MODE SIZE ADDR PORT  says "up", then does what stdin says:
 *     warm      traffic until the next command
 *     stop      answers "stopped" when no byte is under way any more
 *     go MS     timed traffic; answers "done COUNT SECONDS"
 *
 * "bad TEXT" tells a failure. The end of stdin ends them.
 *
 * Each message carries its number, changed on the way back, and the other end checks it:
 * a path that loses, repeats or reorders bytes can not look fast.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/addr.h"
#include "tools/tool.h"

#define CRR_MAX 20000	/* connections to one port: each leaves one in TIME_WAIT */
#define MARK UINT64_MAX /* number of the message that asks "how many bytes have come?" */
#define ECHO 0xa5

struct peer {
	int fd;
	struct sockaddr_storage sa;
	socklen_t salen;
	unsigned size;
	char *buf;
	uint64_t seq;  /* of the next message */
	uint64_t sent; /* bytes since the last mark */
	uint64_t conns;
};

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

static void say(const char *line)
{
	puts(line);
	fflush(stdout);
}

static void put(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			bad("write: %s", n ? strerror(errno) : "nothing was written");
		p += n;
		len -= n;
	}
}

/* False at the end of the stream, if it comes between messages. */
static bool get(int fd, void *buf, size_t len)
{
	size_t have = 0;
	ssize_t n;

	while (have < len) {
		n = read(fd, (char *)buf + have, len - have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			bad("read: %s", strerror(errno));
		if (!n && have)
			bad("the stream ended within a message");
		if (!n)
			return false;
		have += n;
	}
	return true;
}

static void must_get(int fd, void *buf, size_t len)
{
	if (!get(fd, buf, len))
		bad("the other end hung up");
}

static void stamp(char *buf, unsigned size, uint64_t seq)
{
	uint64_t end = ~seq;

	memcpy(buf, &seq, sizeof(seq));
	memcpy(buf + size - sizeof(end), &end, sizeof(end));
}

/* The number of the message in buf. */
static uint64_t stamped(const char *buf, unsigned size)
{
	uint64_t seq, end;

	memcpy(&seq, buf, sizeof(seq));
	memcpy(&end, buf + size - sizeof(end), sizeof(end));
	if (end != ~seq)
		bad("bytes were lost, repeated or reordered");
	return seq;
}

static void expect(uint64_t seq, uint64_t want)
{
	if (seq != want)
		bad("message %llu came where %llu was due", (unsigned long long)seq,
		    (unsigned long long)want);
}

/* ---- server ---- */

static void serve_rtt(struct peer *p)
{
	unsigned char c;

	while (get(p->fd, &c, 1)) {
		c ^= ECHO;
		put(p->fd, &c, 1);
	}
}

static void serve_stream(struct peer *p)
{
	uint64_t seq, bytes = 0, next = 0;

	while (get(p->fd, p->buf, p->size)) {
		seq = stamped(p->buf, p->size);
		if (seq != MARK) {
			expect(seq, next++);
			bytes += p->size;
			continue;
		}
		put(p->fd, &bytes, sizeof(bytes));
		bytes = 0;
	}
}

static void serve_crr(struct peer *p)
{
	uint64_t seq;

	if (!get(p->fd, p->buf, p->size))
		return;
	seq = stamped(p->buf, p->size);
	stamp(p->buf, p->size, seq ^ ECHO);
	put(p->fd, p->buf, p->size);
	if (get(p->fd, p->buf, 1))
		bad("a byte too many");
}

static int serve(struct peer *p, const char *mode)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int listener, one = 1;

	listener = socket(p->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&p->sa, p->salen) ||
	    listen(listener, 1024) || getsockname(listener, (struct sockaddr *)&sa, &len))
		bad("cannot listen: %s", strerror(errno));
	printf("port %u\n", ntohs(((struct sockaddr_in *)&sa)->sin_port));
	fflush(stdout);
	do {
		p->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (p->fd < 0)
			bad("accept: %s", strerror(errno));
		setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (!strcmp(mode, "rtt"))
			serve_rtt(p);
		else if (!strcmp(mode, "stream"))
			serve_stream(p);
		else
			serve_crr(p);
		close(p->fd);
	} while (!strcmp(mode, "crr"));
	return 0;
}

/* ---- client ---- */

static void dial(struct peer *p)
{
	int one = 1;

	p->fd = socket(p->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&p->sa, p->salen))
		bad("cannot connect: %s", strerror(errno));
	setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Ask until which byte the stream has come: all of them, or bytes were lost. */
static void mark(struct peer *p)
{
	uint64_t bytes;

	stamp(p->buf, p->size, MARK);
	put(p->fd, p->buf, p->size);
	must_get(p->fd, &bytes, sizeof(bytes));
	expect(bytes, p->sent);
	p->sent = 0;
}

static double once_rtt(struct peer *p)
{
	unsigned char c, sent = (unsigned char)p->seq++;

	c = sent;
	put(p->fd, &c, 1);
	must_get(p->fd, &c, 1);
	if ((c ^ ECHO) != sent)
		bad("a wrong byte came back");
	return 1;
}

static double once_stream(struct peer *p)
{
	stamp(p->buf, p->size, p->seq++);
	put(p->fd, p->buf, p->size);
	p->sent += p->size;
	return p->size;
}

static double once_crr(struct peer *p)
{
	if (p->conns == CRR_MAX)
		return 0;
	dial(p);
	stamp(p->buf, p->size, p->seq);
	put(p->fd, p->buf, p->size);
	must_get(p->fd, p->buf, p->size);
	expect(stamped(p->buf, p->size), p->seq++ ^ ECHO);
	close(p->fd);
	p->conns++;
	return 1;
}

/* `xvm check ADDR:PORT`: what listens there is unknown, so nothing is sent. */
static double once_probe(struct peer *p)
{
	struct pollfd pfd = {.fd = p->fd, .events = POLLIN};
	ssize_t n;

	poll(&pfd, 1, 10);
	n = recv(p->fd, p->buf, p->size, MSG_DONTWAIT);
	if (!n)
		bad("the other end hung up");
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		bad("read: %s", strerror(errno));
	return 1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void warm(struct peer *p, double (*once)(struct peer *))
{
	struct pollfd in = {.events = POLLIN};
	double end;

	/* crr would use up its ports. */
	if (once == once_crr) {
		for (end = now() + 0.05; now() < end && once(p) > 0;)
			;
		poll(&in, 1, -1);
		return;
	}
	do {
		/* As many as take a millisecond or so. The mark makes the way back enter too. */
		for (end = now() + 0.001; now() < end;)
			once(p);
		if (once == once_stream)
			mark(p);
	} while (!poll(&in, 1, 0));
}

static void go(struct peer *p, double (*once)(struct peer *), double seconds)
{
	double count = 0, start = now(), end, n;
	unsigned i;

	do {
		/* Looking at the clock costs a fifth of a round trip on the ring. */
		for (i = 0; i < (once == once_rtt ? 16 : 1); i++) {
			n = once(p);
			count += n;
		}
		end = now();
	} while (n > 0 && end < start + seconds);
	if (once == once_stream) {
		mark(p);
		end = now();
	}
	printf("done %.0f %.9f\n", count, end - start);
	fflush(stdout);
}

static int drive(struct peer *p, const char *mode)
{
	double (*once)(struct peer *) = once_rtt;
	char line[64];

	if (!strcmp(mode, "stream"))
		once = once_stream;
	else if (!strcmp(mode, "crr"))
		once = once_crr;
	else if (!strcmp(mode, "probe"))
		once = once_probe;
	if (once != once_crr)
		dial(p);
	say("up");
	/* Unbuffered: poll() must see what has not been read. */
	setvbuf(stdin, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "warm"))
			warm(p, once);
		else if (!strcmp(line, "stop"))
			say("stopped");
		else if (!strncmp(line, "go ", 3))
			go(p, once, atoi(line + 3) / 1000.0);
		else
			bad("what is '%s'?", line);
	}
	return 0;
}

int xvm_cmd_peer(int argc, char **argv)
{
	struct peer p = {.fd = -1};
	uint8_t addr[16];
	bool client;
	int ret;

	client = argc == 6 && !strcmp(argv[1], "connect");
	if (!client && !(argc == 5 && !strcmp(argv[1], "serve")))
		xvm_misuse("is for xvm's own use");
	if (xvm_addr_parse(argv[4], addr))
		xvm_misuse("'%s' is not an IPv4 or IPv6 address", argv[4]);
	p.size = xvm_number(argv[3], 1, 64 << 20, "a size");
	p.buf = calloc(1, p.size);
	if (!p.buf)
		bad("no memory");
	p.salen = xvm_addr_sockaddr(addr, client ? xvm_number(argv[5], 1, 65535, "a port") : 0,
				    &p.sa);
	ret = client ? drive(&p, argv[2]) : serve(&p, argv[2]);
	free(p.buf);
	return ret;
}
