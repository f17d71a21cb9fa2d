/* SPDX-License-Identifier: Apache-2.0 */
/* Calls that move bytes. */
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "test/diff/actor.h"
#include "test/diff/via.h"
#include "transport/sys.h"

#define MOST (64l << 20)
#define UNTOUCHED 0xee
#define PARTS 8

static const struct bit msg_flags[] = {
	{"PEEK", MSG_PEEK},
	{"WAITALL", MSG_WAITALL},
	{"DONTWAIT", MSG_DONTWAIT},
	{"TRUNC", MSG_TRUNC},
	{"OOB", MSG_OOB},
	{"NOSIGNAL", MSG_NOSIGNAL},
	{"MORE", MSG_MORE},
	{"EOR", MSG_EOR},
	{"ERRQUEUE", MSG_ERRQUEUE},
	{"WAITFORONE", MSG_WAITFORONE},
	{"CMSG_CLOEXEC", MSG_CMSG_CLOEXEC},
	{"CTRUNC", MSG_CTRUNC},
	{"DONTROUTE", MSG_DONTROUTE},
	{"CONFIRM", MSG_CONFIRM},
	{"FASTOPEN", MSG_FASTOPEN},
	{NULL, 0},
};
static const struct bit splice_flags[] = {{"NONBLOCK", SPLICE_F_NONBLOCK},
					  {"MORE", SPLICE_F_MORE},
					  {"MOVE", SPLICE_F_MOVE},
					  {"BAD", 0x100},
					  {NULL, 0}};

static unsigned hash(unsigned h, const void *p, size_t n)
{
	const unsigned char *c = p;

	for (size_t i = 0; i < n; i++)
		h = (h ^ c[i]) * 16777619u;
	return h;
}
#define HASH_START 2166136261u

unsigned hash_of(const void *p, size_t n)
{
	return hash(HASH_START, p, n);
}

void pattern(char *p, size_t n)
{
	unsigned long k = atomic_fetch_add(&position, n);

	for (size_t i = 0; i < n; i++, k++)
		p[i] = (char)(k * 31 + (k >> 8) * 7 + (k >> 16));
}

/* The buffer of a call: word i of it may name another than a good one. */
struct buffer {
	char *at;     /* for the call */
	char *memory; /* what is there */
	size_t n, size;
};

static void buffer_get(struct buffer *b, long n, const char *kind, bool out)
{
	b->n = n < 0 || n > MOST ? 1 << 20 : (size_t)n;
	b->size = b->n + 64;
	b->memory = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->memory == MAP_FAILED)
		die("mmap");
	if (out)
		pattern(b->memory, b->n);
	else
		memset(b->memory, UNTOUCHED, b->size < 1 << 17 ? b->size : 1 << 17);
	b->at = !strcmp(kind, "null") ? NULL : !strcmp(kind, "bad") ? (char *)16 : b->memory;
}

static void buffer_put(struct buffer *b)
{
	munmap(b->memory, b->size);
}

/* What arrived, and that nothing was written behind it. */
static void buffer_tell(struct call *c, struct buffer *b, long r)
{
	size_t n = r < 0 ? 0 : (size_t)r;

	if (b->at != b->memory)
		return;
	if (n > b->n)
		n = b->n;
	if (n)
		tell(c, " %08x", hash(HASH_START, b->memory, n));
	for (size_t i = n; i < b->size && i < 1 << 17; i++)
		if ((unsigned char)b->memory[i] != UNTOUCHED) {
			tell(c, " and writes at %zu", i);
			break;
		}
}

static const char *kind_of(const struct call *c, int from)
{
	for (int i = from; i < c->words; i++)
		if (!strcmp(c->word[i], "null") || !strcmp(c->word[i], "bad"))
			return c->word[i];
	return "";
}

static unsigned flags_of(const struct call *c, int from)
{
	unsigned v = 0;

	for (int i = from; i < c->words; i++) {
		v |= bits_of(msg_flags, c->word[i]);
		if (c->word[i][0] == '0' && c->word[i][1] == 'x')
			v |= (unsigned)strtoul(c->word[i], NULL, 16);
	}
	return v;
}

enum way { PLAIN, FILE_LIKE, NAMED };

static void put(struct call *c, enum way way)
{
	int fd = fd_of(arg(c, 1)), flags = (int)flags_of(c, 3);
	long n = number(arg(c, 2), 0);
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct buffer b;

	buffer_get(&b, n, kind_of(c, 3), true);
	begin(c);
	if (way == FILE_LIKE)
		result(c, via_write(fd, b.at, (size_t)n));
	else if (way == NAMED)
		result(c, via_sendto(fd, b.at, (size_t)n, flags, (struct sockaddr *)&sin,
				     sizeof(sin)));
	else
		result(c, via_send(fd, b.at, (size_t)n, flags));
	buffer_put(&b);
}

static void op_send(struct call *c)
{
	put(c, PLAIN);
}

static void op_write(struct call *c)
{
	put(c, FILE_LIKE);
}

static void op_sendto(struct call *c)
{
	put(c, NAMED);
}

static void take(struct call *c, enum way way)
{
	int fd = fd_of(arg(c, 1)), flags = (int)flags_of(c, 3);
	long n = number(arg(c, 2), 0), r;
	struct sockaddr_in sin;
	socklen_t len = sizeof(sin);
	struct buffer b;

	buffer_get(&b, n, kind_of(c, 3), false);
	begin(c);
	if (way == FILE_LIKE)
		r = via_read(fd, b.at, (size_t)n);
	else if (way == NAMED)
		r = via_recvfrom(fd, b.at, (size_t)n, flags, (struct sockaddr *)&sin, &len);
	else
		r = via_recv(fd, b.at, (size_t)n, flags);
	result(c, r);
	if (way == NAMED)
		tell(c, " len %d", (int)len);
	buffer_tell(c, &b, r);
	buffer_put(&b);
}

static void op_recv(struct call *c)
{
	take(c, PLAIN);
}

static void op_read(struct call *c)
{
	take(c, FILE_LIKE);
}

static void op_recvfrom(struct call *c)
{
	take(c, NAMED);
}

/* Parts of one buffer, of the lengths in word i ("10,0,5"). */
struct parts {
	struct buffer b;
	struct iovec v[PARTS];
	int n;
};

static void parts_get(struct parts *p, const struct call *c, int i, bool out)
{
	long len[PARTS], sum = 0;
	const char *s = arg(c, i);

	p->n = 0;
	while (*s && p->n < PARTS) {
		len[p->n] = strtol(s, NULL, 0);
		sum += len[p->n++];
		s += strcspn(s, ",");
		s += *s == ',';
	}
	buffer_get(&p->b, sum, kind_of(c, i), out);
	for (int k = 0, at = 0; k < p->n; at += (int)len[k++])
		p->v[k] = (struct iovec){p->b.at ? p->b.at + at : NULL, (size_t)len[k]};
}

static void op_writev(struct call *c)
{
	struct parts p;

	parts_get(&p, c, 2, true);
	begin(c);
	result(c, via_writev(fd_of(arg(c, 1)), p.v, (int)number(arg(c, 3), p.n)));
	buffer_put(&p.b);
}

static void op_readv(struct call *c)
{
	struct parts p;

	parts_get(&p, c, 2, false);
	begin(c);
	result(c, via_readv(fd_of(arg(c, 1)), p.v, (int)number(arg(c, 3), p.n)));
	buffer_tell(c, &p.b, c->r);
	buffer_put(&p.b);
}

static void op_sendmsg(struct call *c)
{
	struct parts p;
	struct msghdr m = {0};

	parts_get(&p, c, 2, true);
	m.msg_iov = p.v;
	m.msg_iovlen = (size_t)p.n;
	begin(c);
	result(c, via_sendmsg(fd_of(arg(c, 1)), &m, (int)flags_of(c, 3)));
	buffer_put(&p.b);
}

static void op_recvmsg(struct call *c)
{
	struct parts p;
	struct msghdr m = {.msg_flags = 0};

	parts_get(&p, c, 2, false);
	m.msg_iov = p.v;
	m.msg_iovlen = (size_t)p.n;
	begin(c);
	result(c, via_recvmsg(fd_of(arg(c, 1)), &m, (int)flags_of(c, 3)));
	if (c->r >= 0) {
		tell(c, " ");
		tell_bits(c, msg_flags, (unsigned)m.msg_flags);
	}
	buffer_tell(c, &p.b, c->r);
	buffer_put(&p.b);
}

/* Each length is a message. */
static int messages(struct parts *p, struct mmsghdr *m)
{
	memset(m, 0, sizeof(*m) * PARTS);
	for (int i = 0; i < p->n; i++) {
		m[i].msg_hdr.msg_iov = &p->v[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	return p->n;
}

static void tell_messages(struct call *c, const struct mmsghdr *m)
{
	for (int i = 0; i < c->r; i++)
		tell(c, " %u", m[i].msg_len);
}

static void op_sendmmsg(struct call *c)
{
	struct mmsghdr m[PARTS];
	struct parts p;
	int n;

	parts_get(&p, c, 2, true);
	n = messages(&p, m);
	begin(c);
	result(c, via_sendmmsg(fd_of(arg(c, 1)), m, (unsigned)n, (int)flags_of(c, 3)));
	tell_messages(c, m);
	buffer_put(&p.b);
}

/* recvmmsg FD LENGTHS [FLAGS] [MILLISECONDS] */
static void op_recvmmsg(struct call *c)
{
	struct mmsghdr m[PARTS];
	struct timespec ts = {0, 0};
	long ms = -1;
	struct parts p;
	int n;

	for (int i = 3; i < c->words; i++)
		ms = number(c->word[i], ms);
	if (ms >= 0)
		ts = (struct timespec){ms / 1000, ms % 1000 * 1000000};

	parts_get(&p, c, 2, false);
	n = messages(&p, m);
	begin(c);
	result(c, via_recvmmsg(fd_of(arg(c, 1)), m, (unsigned)n, (int)flags_of(c, 3),
			       ms < 0 ? NULL : &ts));
	tell_messages(c, m);
	for (int i = 0; i < c->r; i++)
		tell(c, " %08x", hash(HASH_START, p.v[i].iov_base, m[i].msg_len));
	buffer_put(&p.b);
}

/* sendfile FD N [OFFSET]: without one, from where the file stands. */
static void op_sendfile(struct call *c)
{
	off_t off = number(arg(c, 3), -1);
	bool at = c->words > 3;

	begin(c);
	result(c, via_sendfile(fd_of(arg(c, 1)), file_fd, at ? &off : NULL,
			       (size_t)number(arg(c, 2), 0)));
	off = at ? off : (off_t)xvm_sys(SYS_lseek, file_fd, 0, SEEK_CUR);
	tell(c, " at %ld", (long)off);
	xvm_sys(SYS_lseek, file_fd, 0, SEEK_SET);
}

/* splice_out FD N [FLAGS]: N bytes lie in the pipe, and go to the socket. */
static void op_splice_out(struct call *c)
{
	long n = number(arg(c, 2), 0), sum = 0, r;
	struct buffer b;

	buffer_get(&b, n < 60000 ? n : 60000, "", true);
	if (xvm_sys(SYS_write, pipe_fd[1], b.memory, b.n) != (long)b.n)
		die("pipe");
	begin(c);
	/* How much one call moves depends on how the kernel laid it out. */
	do {
		r = via_splice(pipe_fd[0], NULL, fd_of(arg(c, 1)), NULL, (size_t)(n - sum),
			       bits_of(splice_flags, arg(c, 3)));
		sum += r > 0 ? r : 0;
	} while (r > 0 && sum < n && sum < (long)b.n);
	result(c, sum ? sum : r);
	for (long left = (long)b.n - sum; left > 0; left -= r)
		if ((r = xvm_sys(SYS_read, pipe_fd[0], b.memory, left)) <= 0)
			die("pipe");
	buffer_put(&b);
}

/* splice_in FD N [FLAGS]: what is there, up to N, goes to the pipe. */
static void op_splice_in(struct call *c)
{
	long n = number(arg(c, 2), 0), sum = 0, r;
	int fd = fd_of(arg(c, 1)), more = 0;
	struct buffer b;

	buffer_get(&b, n < 4096 ? n : 4096, "", false);
	n = n > (long)b.n ? (long)b.n : n;
	begin(c);
	do {
		r = via_splice(fd, NULL, pipe_in[1], NULL, (size_t)(n - sum),
			       bits_of(splice_flags, arg(c, 3)));
		sum += r > 0 ? r : 0;
	} while (r > 0 && sum < n && ioctl(fd, FIONREAD, &more) == 0 && more > 0);
	result(c, sum ? sum : r);
	for (long got = 0; got < sum; got += r)
		if ((r = xvm_sys(SYS_read, pipe_in[0], b.memory + got, sum - got)) <= 0)
			die("pipe");
	buffer_tell(c, &b, sum);
	buffer_put(&b);
}

/* What is left of fill and drain (README.md). */
static unsigned filled = HASH_START;
static unsigned long filled_n;

/*
 * fill FD [more]: until there is no room, and none comes by itself. The second number is for the
 * driver.
 */
static void op_fill(struct call *c)
{
	int fd = fd_of(arg(c, 1)), full = 0, queued = 0;
	unsigned long from = position;
	struct buffer b;
	size_t n;
	ssize_t r;

	buffer_get(&b, 60000, "", true);
	if (c->words < 3) {
		filled = HASH_START;
		filled_n = 0;
	} else {
		position = from; /* how often this is said is nobody's business */
	}
	n = b.n;
	while (full < 20) {
		int was = queued;
		struct timespec ts = {0, 1000000};

		r = send(fd, b.memory, n, MSG_DONTWAIT);
		if (r > 0) {
			filled = hash(filled, b.memory, (size_t)r);
			filled_n += (unsigned long)r;
			full = 0;
			n = (size_t)r < n || n * 16 > b.n ? n : n * 16;
			continue;
		}
		if (errno != EAGAIN)
			break;
		/* What is on its way makes room when it is acknowledged. */
		xvm_sys(SYS_ioctl, fd, SIOCOUTQ, &queued);
		xvm_sys(SYS_nanosleep, &ts, NULL);
		/* TCP may have no room for much, and some for little. */
		if (was == queued && n > 1)
			n = n / 16 ?: 1;
		else
			full = was == queued ? full + 1 : 0;
	}
	result(c, r);
	tell(c, " \t%lu %08x", filled_n, filled);
	buffer_put(&b);
}

/* drain FD N: N bytes, waiting for them, or until the end. */
static void op_drain(struct call *c)
{
	int fd = fd_of(arg(c, 1));
	long n = number(arg(c, 2), 0), sum = 0;
	unsigned h = HASH_START;
	struct buffer b;
	ssize_t r = 0;

	buffer_get(&b, 1 << 18, "", false);
	begin(c);
	while (sum < n) {
		r = recv(fd, b.memory, (size_t)(n - sum) < b.n ? (size_t)(n - sum) : b.n, 0);
		if (r <= 0)
			break;
		h = hash(h, b.memory, (size_t)r);
		sum += r;
	}
	result(c, r > 0 ? 0 : r);
	tell(c, " \t%ld %08x", sum, h);
	buffer_put(&b);
}

/* warm FD N 0|1: N times four bytes either way, the second first. Its driver reads what TCP
 * carried. */
static void op_warm(struct call *c)
{
	int fd = fd_of(arg(c, 1)), second = (int)number(arg(c, 3), 0);
	char b[4] = "ping";
	struct tcp_info before, after;
	socklen_t len = sizeof(before);

	xvm_sys(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &before, &len);
	for (int i = 0, n = (int)number(arg(c, 2), 1); i < n; i++)
		if ((second && recv(fd, b, 4, MSG_WAITALL) != 4) || send(fd, b, 4, 0) != 4 ||
		    (!second && recv(fd, b, 4, MSG_WAITALL) != 4)) {
			tell(c, "failed");
			return;
		}
	len = sizeof(after);
	xvm_sys(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &after, &len);
	tell(c, "\t%llu",
	     after.tcpi_bytes_acked + after.tcpi_bytes_received - before.tcpi_bytes_acked -
		     before.tcpi_bytes_received);
}

static void op_preadv2(struct call *c)
{
	struct parts p;

	parts_get(&p, c, 2, false);
	begin(c);
	result(c, via_preadv2(fd_of(arg(c, 1)), p.v, p.n, -1,
			      !strcmp(arg(c, 3), "NOWAIT") ? RWF_NOWAIT : 0));
	buffer_tell(c, &p.b, c->r);
	buffer_put(&p.b);
}

static void op_pwritev2(struct call *c)
{
	struct parts p;

	parts_get(&p, c, 2, true);
	begin(c);
	result(c, via_pwritev2(fd_of(arg(c, 1)), p.v, p.n, -1, 0));
	buffer_put(&p.b);
}

static void op_fionread(struct call *c)
{
	int n = -1;

	result(c, via_ioctl(fd_of(arg(c, 1)), FIONREAD, &n));
	tell(c, " %d", n);
}

static void op_outq(struct call *c)
{
	int n = -1;

	result(c, via_ioctl(fd_of(arg(c, 1)), SIOCOUTQ, &n));
	tell(c, " %d", n);
}

static void op_atmark(struct call *c)
{
	int n = -1;

	result(c, via_ioctl(fd_of(arg(c, 1)), SIOCATMARK, &n));
	tell(c, " %d", n);
}

const struct op data_ops[] = {
	{"send", op_send},	     {"write", op_write},
	{"sendto", op_sendto},	     {"writev", op_writev},
	{"sendmsg", op_sendmsg},     {"sendmmsg", op_sendmmsg},
	{"sendfile", op_sendfile},   {"splice_out", op_splice_out},
	{"splice_in", op_splice_in}, {"recv", op_recv},
	{"read", op_read},	     {"recvfrom", op_recvfrom},
	{"readv", op_readv},	     {"recvmsg", op_recvmsg},
	{"recvmmsg", op_recvmmsg},   {"preadv2", op_preadv2},
	{"pwritev2", op_pwritev2},   {"fionread", op_fionread},
	{"outq", op_outq},	     {"atmark", op_atmark},
	{"fill", op_fill},	     {"drain", op_drain},
	{"warm", op_warm},	     {NULL, NULL},
};
