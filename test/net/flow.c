/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ordinary TCP program that knows what each byte of its stream must be: byte n of a
 * direction is a function of n and a seed, so that a lost, repeated or swapped byte is found where
 * it happens. Knows nothing of xvm; the tests run it plain and preloaded.
 *
 *   flow serve ADDR PORT [OPTION...]     accept --conns connections
 *   flow connect ADDR PORT [OPTION...]   make them
 *   flow self ADDR PORT [OPTION...]      both, in one process
 *
 * Ends of a direction: --send bytes were sent, or with --forever SIGTERM came or the other end
 * ended its own direction: then shutdown(SHUT_WR), and the other direction is read to its end. With
 * --mute nothing is sent, and the direction ends when the other one has. Says at last, for
 * each connection, how many bytes went each way and how it ended; exit 1 if a byte was wrong.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SAY_EVERY (64u << 20)

enum wait_by { BY_BLOCKING, BY_POLL, BY_EPOLL };

static struct {
	uint64_t send;
	uint64_t rate; /* bytes a second for each direction; 0: no limit */
	size_t chunk;
	unsigned conns;
	enum wait_by by;
	bool forever, mute;
	bool brief;    /* with epoll, as nginx does: a short answer says that there is no more */
	uint16_t from; /* the client's port; 0: any */
	const char *count;
} opt = {.send = 0, .chunk = 256u << 10, .conns = 1};

/* Bytes that send() took and recv() gave on connection 0: outlives a SIGKILL. */
static _Atomic uint64_t dummy_counts[2], *counts = dummy_counts;

static volatile sig_atomic_t told_to_stop;

struct conn {
	int fd;
	unsigned nr;
	uint64_t tx_seed, rx_seed;
	uint64_t sent, received;
	int send_err, recv_err; /* 0: all sent, EOF */
	int64_t bad;		/* offset of the first wrong byte, or -1 */
	atomic_bool peer_ended;
	bool end_near; /* with brief: epoll has told of it */
	uint64_t start_ns;
	uint64_t rnd;
	uint64_t *tx_buf, *rx_buf, *want;
	pthread_t tx_thread, rx_thread;
};

static void die(const char *what)
{
	fprintf(stderr, "flow: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The stream's bytes [off, off + n): returns where they lie in buf, which has room for n + 16. */
static const char *stream_bytes(uint64_t *buf, uint64_t seed, uint64_t off, size_t n)
{
	size_t words = (n + (off & 7) + 7) / 8;

	for (size_t i = 0; i < words; i++)
		buf[i] = mix(seed ^ (off / 8 + i));
	return (const char *)buf + (off & 7);
}

static size_t next_chunk(struct conn *c)
{
	c->rnd = mix(c->rnd);
	/* As many small ones as large ones: 2^k for a random k, then less a bit. */
	size_t n = opt.chunk >> (c->rnd % 12);
	n -= (c->rnd >> 32) % (n / 2 + 1);
	return n ? n : 1;
}

static bool sending_over(struct conn *c)
{
	if (told_to_stop && !opt.mute)
		return true;
	if (opt.forever || opt.mute)
		return atomic_load(&c->peer_ended);
	return c->sent >= opt.send;
}

static void note(struct conn *c, const char *what, uint64_t before, uint64_t now, int which)
{
	if (c->nr == 0)
		atomic_store_explicit(&counts[which], now, memory_order_relaxed);
	if (before / SAY_EVERY != now / SAY_EVERY)
		printf("%s conn=%u at=%" PRIu64 "\n", what, c->nr, now);
}

/* One send. 1: go on, 0: this direction is over, -EAGAIN. */
static int send_some(struct conn *c)
{
	size_t n;
	ssize_t k;

	if (sending_over(c)) {
		if (shutdown(c->fd, SHUT_WR) < 0 && errno != ENOTCONN)
			c->send_err = errno;
		return 0;
	}
	n = next_chunk(c);
	if (!opt.forever && n > opt.send - c->sent)
		n = opt.send - c->sent;
	k = send(c->fd, stream_bytes(c->tx_buf, c->tx_seed, c->sent, n), n, MSG_NOSIGNAL);
	if (k < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return -EAGAIN;
		c->send_err = errno;
		return 0;
	}
	c->sent += (uint64_t)k;
	note(c, "sent", c->sent - (uint64_t)k, c->sent, 0);
	if (opt.brief && (size_t)k < n)
		return -EAGAIN;
	if (opt.rate) {
		uint64_t due = c->start_ns + (uint64_t)(1e9 * (double)c->sent / (double)opt.rate);
		uint64_t now = now_ns();

		if (due > now) {
			struct timespec t = {(time_t)((due - now) / 1000000000u),
					     (long)((due - now) % 1000000000u)};
			nanosleep(&t, NULL);
		}
	}
	return 1;
}

/* In pieces, as a program that has several buffers. */
static ssize_t recv_pieces(struct conn *c, size_t n)
{
	struct iovec iov[20];
	size_t each = n / 20 + 1, done = 0;
	int i;

	for (i = 0; i < 20 && done < n; i++, done += iov[i - 1].iov_len) {
		iov[i].iov_base = (char *)c->rx_buf + done;
		iov[i].iov_len = n - done < each ? n - done : each;
	}
	return readv(c->fd, iov, i);
}

static int recv_some(struct conn *c)
{
	size_t n = next_chunk(c);
	ssize_t k = opt.brief ? recv_pieces(c, n) : recv(c->fd, c->rx_buf, n, 0);
	const char *want;

	if (k < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return -EAGAIN;
		c->recv_err = errno;
		atomic_store(&c->peer_ended, true);
		return 0;
	}
	if (k == 0) {
		atomic_store(&c->peer_ended, true);
		return 0;
	}
	want = stream_bytes(c->want, c->rx_seed, c->received, (size_t)k);
	if (c->bad < 0 && memcmp(want, c->rx_buf, (size_t)k)) {
		size_t i = 0;

		while (((const char *)c->rx_buf)[i] == want[i])
			i++;
		c->bad = (int64_t)(c->received + i);
		printf("WRONG conn=%u byte %" PRId64 " of a recv of %zd at %" PRIu64 "\n", c->nr,
		       c->bad, k, c->received);
	}
	c->received += (uint64_t)k;
	note(c, "received", c->received - (uint64_t)k, c->received, 1);
	return opt.brief && !c->end_near && (size_t)k < n ? -EAGAIN : 1;
}

static void *tx_main(void *arg)
{
	struct conn *c = arg;

	if (opt.mute)
		pthread_join(c->rx_thread, NULL);
	while (send_some(arg))
		;
	return NULL;
}

static void *rx_main(void *arg)
{
	while (recv_some(arg))
		;
	return NULL;
}

/* Both directions in one thread, without blocking. */
static void *both_main(void *arg)
{
	struct conn *c = arg;
	bool tx = true, rx = true, may_tx = true, may_rx = true;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	int ep = -1;

	fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
	if (opt.by == BY_EPOLL) {
		ep = epoll_create1(EPOLL_CLOEXEC);
		if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev) < 0)
			die("epoll");
	}
	while (tx || rx) {
		/* Nobody wakes a sender for SIGTERM or the peer's end: it looks ten times a second.
		 */
		bool can_tx = tx && (!opt.mute || !rx);
		bool idle = !(can_tx && may_tx) && !(rx && may_rx);

		if (opt.by == BY_POLL) {
			struct pollfd p = {c->fd,
					   (short)((rx ? POLLIN : 0) | (can_tx ? POLLOUT : 0)), 0};

			if (poll(&p, 1, 100) < 0 && errno != EINTR)
				die("poll");
			may_tx = p.revents & (POLLOUT | POLLERR | POLLHUP);
			may_rx = p.revents & (POLLIN | POLLERR | POLLHUP);
		} else {
			int n = epoll_wait(ep, &ev, 1, idle ? 100 : 0);

			if (n < 0 && errno != EINTR)
				die("epoll_wait");
			if (n > 0) {
				may_tx |= ev.events & (EPOLLOUT | EPOLLERR | EPOLLHUP);
				may_rx |= ev.events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
				c->end_near |= ev.events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);
			}
		}
		if (can_tx && (may_tx || sending_over(c))) {
			int r = send_some(c);

			tx = r != 0;
			may_tx = r > 0;
		}
		if (rx && may_rx) {
			int r = recv_some(c);

			rx = r != 0;
			may_rx = r > 0;
		}
	}
	if (ep >= 0)
		close(ep);
	return NULL;
}

static unsigned client_port(int fd, bool active)
{
	struct sockaddr_in6 sa = {0};
	socklen_t len = sizeof(sa);

	if ((active ? getsockname : getpeername)(fd, (struct sockaddr *)&sa, &len) < 0)
		die("address of a connection");
	return ntohs(sa.sin6_port); /* where sin_port lies, too */
}

static void conn_start(struct conn *c, int fd, unsigned nr, bool active)
{
	size_t room = opt.chunk + 16;

	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->nr = nr;
	c->bad = -1;
	c->rnd = mix(nr * 2 + active);
	/* Each connection has a stream of its own, by the port of its active end. */
	c->tx_seed = mix(client_port(fd, active) * 2 + active);
	c->rx_seed = mix(client_port(fd, active) * 2 + !active);
	c->start_ns = now_ns();
	c->tx_buf = malloc(room);
	c->rx_buf = malloc(room);
	c->want = malloc(room);
	if (!c->tx_buf || !c->rx_buf || !c->want)
		die("malloc");
	if (opt.by == BY_BLOCKING) {
		if (pthread_create(&c->rx_thread, NULL, rx_main, c))
			die("pthread_create");
		if (pthread_create(&c->tx_thread, NULL, tx_main, c))
			die("pthread_create");
	} else if (pthread_create(&c->rx_thread, NULL, both_main, c)) {
		die("pthread_create");
	}
}

static bool conn_finish(struct conn *c, const char *role)
{
	if (opt.by == BY_BLOCKING)
		pthread_join(c->tx_thread, NULL);
	if (opt.by != BY_BLOCKING || !opt.mute)
		pthread_join(c->rx_thread, NULL);
	close(c->fd);
	printf("done role=%s conn=%u sent=%" PRIu64 " received=%" PRIu64
	       " send_end=%s recv_end=%s bad=%" PRId64 "\n",
	       role, c->nr, c->sent, c->received, c->send_err ? strerrorname_np(c->send_err) : "ok",
	       c->recv_err ? strerrorname_np(c->recv_err) : "eof", c->bad);
	free(c->tx_buf);
	free(c->rx_buf);
	free(c->want);
	return c->bad < 0;
}

static struct addrinfo *resolve(const char *addr, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *ai;

	if (getaddrinfo(addr, port, &hints, &ai)) {
		fprintf(stderr, "flow: bad address %s port %s\n", addr, port);
		exit(2);
	}
	return ai;
}

static int listen_on(const char *addr, const char *port)
{
	struct addrinfo *ai = resolve(addr, port);
	int one = 1, zero = 0;
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		die("bind");
	if (listen(fd, 128) < 0)
		die("listen");
	freeaddrinfo(ai);
	printf("listening\n");
	return fd;
}

static void bind_port(int fd, int family, uint16_t port)
{
	struct sockaddr_in6 sa = {.sin6_family = (sa_family_t)family, .sin6_port = htons(port)};
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&sa,
		 family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(sa)) < 0)
		die("bind");
}

struct side {
	struct conn *conns;
	int listener;
};

static void *accept_all(void *arg)
{
	struct side *s = arg;

	for (unsigned i = 0; i < opt.conns; i++) {
		int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			die("accept");
		conn_start(&s->conns[i], fd, i, false);
	}
	close(s->listener);
	return NULL;
}

static void on_term(int sig)
{
	told_to_stop = 1;
}

static uint64_t bytes_of(const char *s)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || v < 0)
		goto bad;
	if (*end == 'K')
		v *= 1 << 10, end++;
	else if (*end == 'M')
		v *= 1 << 20, end++;
	else if (*end == 'G')
		v *= 1 << 30, end++;
	if (*end)
		goto bad;
	return (uint64_t)v;
bad:
	fprintf(stderr, "flow: not a number of bytes: %s\n", s);
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"send", 1, 0, 's'},	{"rate", 1, 0, 'r'},  {"chunk", 1, 0, 'c'},
		{"conns", 1, 0, 'n'},	{"poll", 0, 0, 'p'},  {"epoll", 0, 0, 'e'},
		{"forever", 0, 0, 'f'}, {"count", 1, 0, 'C'}, {"mute", 0, 0, 'm'},
		{"brief", 0, 0, 'b'},	{"from", 1, 0, 'F'},  {0},
	};
	struct sigaction sa = {.sa_handler = on_term, .sa_flags = SA_RESTART};
	struct side server = {0}, client = {0};
	bool serve, connects, ok = true;
	pthread_t acceptor;
	int o;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (o) {
		case 's':
			opt.send = bytes_of(optarg);
			break;
		case 'r':
			opt.rate = bytes_of(optarg);
			break;
		case 'c':
			opt.chunk = bytes_of(optarg);
			break;
		case 'n':
			opt.conns = (unsigned)atoi(optarg);
			break;
		case 'p':
			opt.by = BY_POLL;
			break;
		case 'e':
			opt.by = BY_EPOLL;
			break;
		case 'f':
			opt.forever = true;
			break;
		case 'C':
			opt.count = optarg;
			break;
		case 'm':
			opt.mute = true;
			break;
		case 'b':
			opt.brief = true;
			break;
		case 'F':
			opt.from = (uint16_t)atoi(optarg);
			break;
		default:
			return 2;
		}
	}
	if (argc - optind != 3 || !opt.chunk || !opt.conns) {
		fprintf(stderr,
			"usage: flow serve|connect|self ADDR PORT [--send BYTES] "
			"[--forever] [--rate BYTES]\n"
			"            [--chunk BYTES] [--conns N] [--poll|--epoll [--brief]] "
			"[--count FILE]\n");
		return 2;
	}
	serve = strcmp(argv[optind], "connect") != 0;
	connects = strcmp(argv[optind], "serve") != 0;
	sigaction(SIGTERM, &sa, NULL);

	if (opt.count) {
		int fd = open(opt.count, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

		if (fd < 0 || ftruncate(fd, sizeof(dummy_counts)) < 0)
			die(opt.count);
		counts =
			mmap(NULL, sizeof(dummy_counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (counts == MAP_FAILED)
			die("mmap");
		close(fd);
	}

	if (serve) {
		server.conns = calloc(opt.conns, sizeof(*server.conns));
		server.listener = listen_on(argv[optind + 1], argv[optind + 2]);
		if (pthread_create(&acceptor, NULL, accept_all, &server))
			die("pthread_create");
	}
	if (connects) {
		struct addrinfo *ai = resolve(argv[optind + 1], argv[optind + 2]);

		client.conns = calloc(opt.conns, sizeof(*client.conns));
		for (unsigned i = 0; i < opt.conns; i++) {
			int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

			if (fd >= 0 && opt.from)
				bind_port(fd, ai->ai_family, (uint16_t)(opt.from + i));
			if (fd < 0 || connect(fd, ai->ai_addr, ai->ai_addrlen) < 0)
				die("connect");
			conn_start(&client.conns[i], fd, i, true);
		}
		freeaddrinfo(ai);
		printf("connected\n");
	}
	if (serve)
		pthread_join(acceptor, NULL);
	for (unsigned i = 0; i < opt.conns; i++) {
		if (connects)
			ok &= conn_finish(&client.conns[i], "client");
		if (serve)
			ok &= conn_finish(&server.conns[i], "server");
	}
	free(client.conns);
	free(server.conns);
	return ok ? 0 : 1;
}
