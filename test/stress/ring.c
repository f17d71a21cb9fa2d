/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One ring between processes that are killed. Real halves, locks and arena; a socketpair stands for
 * the TCP connection: it carries pads and says when the other end is gone. Each byte of the
 * stream is a function of its position, so a byte lost, repeated, torn or out of place shows.
 *
 *	stress_ring [SECONDS [SEED]]
 *
 * Rounds, chosen at random: one writer and one reader, by eventfd or by pad, the writer left
 * alone or killed; two readers or two writers (forks, so by pad), of which one is killed,
 * also while it holds the lock. Nobody sleeps but in poll, without a timeout: a wake-up that is
 * lost is a hang, which ends the round by SIGALRM.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "transport/arena.h"
#include "transport/half.h"
#include "transport/lock.h"

#define HANG_S 30

struct counts {
	_Atomic uint64_t bytes, pads, rings, sleeps, kills, died_holding;
};

/* One end, as one process sees it. */
struct end {
	struct xvm_shm_ep *ep; /* shared with the fork */
	struct xvm_half mine, peer;
	int sock;
	int efd, peer_efd; /* -1: this round wakes by pad */
	uint64_t rung;
	bool dies; /* by its own hand, inside a critical section */
	bool gone; /* the kernel says that nobody is there */
	uint64_t rnd;
};

static struct counts *counts;
static uint8_t pattern[1 << 16];

static uint64_t next_random(uint64_t *s)
{
	uint64_t x = *s;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *s = x;
}

static uint8_t byte_at(uint64_t pos)
{
	/* The high part of the position counts too, or a whole lap of the pattern could go missing.
	 */
	return pattern[pos & 0xffff] ^ (uint8_t)((pos >> 16) * 37);
}

static void die(const char *what)
{
	fprintf(stderr, "ring: %s\n", what);
	_exit(1);
}

static void lock(struct xvm_shm_lock *l)
{
	if (xvm_lock(l) < 0)
		die("deadlock with myself");
}

/* Nobody gets on unless a fork takes the lock over. */
static void die_holding(struct end *e)
{
	if (!e->dies || next_random(&e->rnd) % 64)
		return;
	atomic_fetch_add(&counts->died_holding, 1);
	raise(SIGKILL);
}

/* S4, with the lock of this end's sending direction. */
static void pad_locked(struct end *e)
{
	uint64_t put = atomic_load(&e->mine.shm->tcp_put);
	uint8_t pad = 0;

	/* No private count: the last holder may have died between any two steps. A pad counted
	 * and never sent is harmless, one sent and not counted would be data. */
	atomic_store(&e->mine.shm->tcp_put, put + 1);
	if (send(e->sock, &pad, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		atomic_fetch_add(&counts->pads, 1);
	else
		atomic_store(&e->mine.shm->tcp_put, put);
}

/* W2: after publishing. */
static void wake(struct end *e, _Atomic uint64_t *sleep_word, struct xvm_shm_lock *l)
{
	uint64_t word, one = 1;

	atomic_thread_fence(memory_order_seq_cst);
	word = atomic_load_explicit(sleep_word, memory_order_relaxed);
	if (word == e->rung)
		return;
	e->rung = word;
	if (XVM_SLEEP_WAKER(word) == XVM_WAKER_FD) {
		if (write(e->peer_efd, &one, sizeof(one)) != sizeof(one))
			die("eventfd");
		atomic_fetch_add(&counts->rings, 1);
		return;
	}
	if (l)
		lock(l);
	pad_locked(e);
	if (l)
		xvm_unlock(l);
}

/* Looked at without a lock too, while a sibling may move our cursor: both of one moment. */
static uint64_t used(struct end *e, bool writer)
{
	_Atomic uint64_t *own = writer ? &e->mine.shm->head : &e->mine.shm->tail;
	_Atomic uint64_t *other = writer ? &e->peer.shm->tail : &e->peer.shm->head;
	uint64_t n, at;

	do {
		at = atomic_load(own);
		n = writer ? at - atomic_load(other) : atomic_load(other) - at;
	} while (atomic_load(own) != at);
	if (n > e->mine.ring_size)
		die("more in the ring than it holds");
	return n;
}

static bool ready(struct end *e, bool writer)
{
	/* W5 */
	return writer ? used(e, true) <= e->mine.ring_size / 2 : used(e, false) > 0;
}

/* W1, under the lock of the direction, as the number is shared with the fork. */
static void arm(struct end *e, bool writer)
{
	uint64_t word = XVM_SLEEP(++e->ep->rx_seq + 1, e->efd >= 0 ? XVM_WAKER_FD : XVM_WAKER_PAD);

	atomic_store_explicit(writer ? &e->mine.shm->sleep_room : &e->mine.shm->sleep_data, word,
			      memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
}

/* W6: count the pads, arm for the fork that may sleep, look, and only then take them. */
static void take_pads(struct end *e, bool writer)
{
	uint64_t due;
	uint8_t buf[64];
	ssize_t r;

	lock(&e->ep->rx_lock);
	due = atomic_load(&e->peer.shm->tcp_put) - e->ep->rx_tcp_got;
	arm(e, writer);
	if (ready(e, writer))
		goto out;
	do {
		r = recv(e->sock, buf, due < sizeof(buf) ? due : sizeof(buf), MSG_DONTWAIT);
		if (r > 0) {
			/* A fork that dies here took pads that nobody counts: so many too few are
			 * taken for good, and the fd stays readable. Costs time only. */
			e->ep->rx_tcp_got += (uint64_t)r;
			due -= (uint64_t)r;
		}
	} while (r > 0 && due);
	if (due && (r == 0 || (r < 0 && errno != EAGAIN)))
		e->gone = true;
out:
	xvm_unlock(&e->ep->rx_lock);
}

static void wait_ready(struct end *e, bool writer)
{
	struct pollfd p[2] = {{.fd = e->sock, .events = POLLIN | POLLRDHUP},
			      {.fd = e->efd, .events = POLLIN}};
	uint64_t n;

	lock(&e->ep->rx_lock);
	arm(e, writer);
	xvm_unlock(&e->ep->rx_lock);
	if (ready(e, writer))
		return;
	atomic_fetch_add(&counts->sleeps, 1);
	if (poll(p, 2, -1) < 0)
		die("poll");
	if (p[1].revents && read(e->efd, &n, sizeof(n)) != sizeof(n))
		die("eventfd");
	if (p[0].revents & (POLLRDHUP | POLLHUP | POLLERR))
		e->gone = true;
	else if (p[0].revents)
		take_pads(e, writer);
}

static void __attribute__((noreturn)) writer(struct end *e, uint64_t total)
{
	uint8_t *buf = malloc(e->mine.ring_size);
	uint64_t pos, i, n;
	int64_t room;

	for (;;) {
		lock(&e->ep->tx_lock);
		pos = atomic_load(&e->mine.shm->head);
		if (pos == total)
			break;
		n = next_random(&e->rnd) % 8 ? next_random(&e->rnd) % 300 + 1
					     : next_random(&e->rnd) % e->mine.ring_size + 1;
		n = n > total - pos ? total - pos : n;
		/* G1 */
		do
			room = xvm_half_room(&e->mine, pos, atomic_load(&e->peer.shm->tail));
		while (room >= 0 && (uint64_t)room < n && xvm_half_grow(&e->mine, pos, room));
		if (room < 0)
			die("more in the window than it holds");
		if (!room) {
			xvm_unlock(&e->ep->tx_lock);
			if (e->gone)
				_exit(0);
			wait_ready(e, true);
			continue;
		}
		n = n > (uint64_t)room ? (uint64_t)room : n;
		for (i = 0; i < n; i++)
			buf[i] = byte_at(pos + i);
		xvm_half_put(&e->mine, pos, buf, n);
		die_holding(e);
		/* S5 */
		atomic_store_explicit(&e->mine.shm->head, pos + n, memory_order_release);
		wake(e, &e->peer.shm->sleep_data, NULL);
		xvm_unlock(&e->ep->tx_lock);
	}
	xvm_unlock(&e->ep->tx_lock);
	_exit(0);
}

/* Takes until the writers are gone and the ring is drained; or until total is reached. */
static void __attribute__((noreturn))
reader(struct end *e, uint64_t total, pid_t victim, uint64_t kill_at)
{
	uint8_t *buf = malloc(e->mine.ring_size);
	uint64_t pos, i, n, left;
	bool last = false;

	for (;;) {
		lock(&e->ep->rx_lock);
		pos = atomic_load(&e->mine.shm->tail);
		n = used(e, false);
		if (!n) {
			xvm_unlock(&e->ep->rx_lock);
			/* R3: gone was said first, then the ring was looked at once more. */
			if (pos == total || last)
				break;
			if (e->gone)
				last = true;
			else
				wait_ready(e, false);
			continue;
		}
		if (next_random(&e->rnd) % 4 == 0)
			n = next_random(&e->rnd) % n + 1;
		xvm_half_get(&e->peer, pos, buf, n);
		for (i = 0; i < n; i++)
			if (buf[i] != byte_at(pos + i)) {
				fprintf(stderr, "ring: byte %llu is wrong\n",
					(unsigned long long)pos + i);
				_exit(1);
			}
		die_holding(e);
		atomic_store_explicit(&e->mine.shm->tail, pos + n, memory_order_release);
		xvm_unlock(&e->ep->rx_lock);
		atomic_fetch_add_explicit(&counts->bytes, n, memory_order_relaxed);
		if (victim && pos + n >= kill_at) {
			kill(victim, SIGKILL);
			atomic_fetch_add(&counts->kills, 1);
			victim = 0;
		}
		/* W5 */
		atomic_thread_fence(memory_order_seq_cst);
		left = atomic_load(&e->peer.shm->head) - atomic_load(&e->mine.shm->tail);
		if (left <= e->mine.ring_size / 2)
			wake(e, &e->peer.shm->sleep_room, &e->ep->tx_lock);
	}
	_exit(0);
}

static pid_t spawn(uint64_t *seed)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	next_random(seed);
	if (!pid) {
		xvm_lock_forked();
		alarm(HANG_S);
	}
	return pid;
}

/* 0 if it ended well, or by the SIGKILL that was meant for it. */
static int reap(pid_t pid, const char *who, bool may_be_killed)
{
	int st;

	if (waitpid(pid, &st, 0) != pid)
		return 1;
	if (st == 0 || (may_be_killed && WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL))
		return 0;
	fprintf(stderr, "ring: %s %s %d\n", who,
		!WIFSIGNALED(st)	  ? "exit status"
		: WTERMSIG(st) == SIGALRM ? "hung; signal"
					  : "signal",
		WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st));
	return 1;
}

enum mode { PLAIN, KILL_WRITER, TWO_READERS, TWO_WRITERS, MODES };

static const char *const mode_name[] = {"plain", "kill-writer", "two-readers", "two-writers"};

static int one_round(struct xvm_shm_arena *a, enum mode mode, uint64_t *seed)
{
	struct end w = {.efd = -1, .peer_efd = -1}, r = {.efd = -1, .peer_efd = -1};
	struct end *ends[] = {&w, &r};
	uint32_t size = XVM_RING_MIN << next_random(seed) % 5;
	uint64_t total = (uint64_t)size * 8 + next_random(seed) % (size * 64ull);
	uint64_t kill_at = next_random(seed) % total, head, tail;
	bool by_fd = mode < TWO_READERS && next_random(seed) % 2;
	pid_t pid[3] = {0};
	int fds[2], sv[2], i, bad = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		die("socketpair");
	for (i = 0; i < 2; i++) {
		ends[i]->ep = xvm_arena_alloc(a);
		ends[i]->sock = sv[i];
		if (!ends[i]->ep || xvm_half_create(&ends[i]->mine, size, &fds[i]))
			die("no memory");
		xvm_half_window(&ends[i]->mine, XVM_RING_MIN);
		if (by_fd)
			ends[i]->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	for (i = 0; i < 2; i++) {
		if (xvm_half_open(&ends[i]->peer, fds[1 - i]))
			die("an honest half was refused");
		ends[i]->peer_efd = ends[1 - i]->efd;
	}

	for (i = 0; i < 3; i++) {
		bool is_writer = i == 0 || (i == 1 && mode == TWO_WRITERS);
		bool dies = i == 1 && mode >= TWO_READERS && next_random(seed) % 2;
		/* The last to come knows the others. */
		pid_t victim = i < 2		     ? 0
			       : mode == KILL_WRITER ? pid[0]
			       : mode >= TWO_READERS ? pid[1]
						     : 0;

		if (i == 1 && mode < TWO_READERS)
			continue;
		pid[i] = spawn(seed);
		if (pid[i])
			continue;
		if (is_writer) {
			close(r.sock);
			w.rnd = *seed;
			w.dies = dies;
			writer(&w, total);
		}
		close(w.sock);
		r.rnd = *seed;
		r.dies = dies;
		reader(&r, total, victim, kill_at);
	}
	close(sv[0]);
	close(sv[1]);
	bad |= reap(pid[0], "writer", mode == KILL_WRITER);
	if (pid[1])
		bad |= reap(pid[1], "second", true);
	bad |= reap(pid[2], "reader", false);

	head = atomic_load(&w.mine.shm->head);
	tail = atomic_load(&r.mine.shm->tail);
	if (!bad && (head != tail || (mode != KILL_WRITER && head != total))) {
		fprintf(stderr, "ring: %llu published, %llu taken, of %llu\n",
			(unsigned long long)head, (unsigned long long)tail,
			(unsigned long long)total);
		bad = 1;
	}
	if (bad)
		fprintf(stderr, "ring: round %s, ring %u, %s\n", mode_name[mode], size,
			by_fd ? "eventfd" : "pad");
	for (i = 0; i < 2; i++) {
		if (by_fd)
			close(ends[i]->efd);
		close(fds[i]);
		xvm_half_close(&ends[i]->mine);
		xvm_half_close(&ends[i]->peer);
		xvm_arena_free(a, ends[i]->ep);
	}
	return bad;
}

/* A peer that writes anything at all into its header, at any time: refused, or within bounds. */
static int liars(uint64_t *seed, int n)
{
	static const uint32_t words[] = {0,    XVM_HALF_MAGIC, XVM_HALF_VERSION, XVM_HALF_CTL, 4096,
					 8192, 65536,	       UINT32_MAX};
	struct xvm_half mine, h;
	uint8_t sink[64];
	uint32_t *hdr;
	int fd, i, k, err, ok = 0;

	if (xvm_half_create(&mine, 8192, &fd))
		die("no memory");
	xvm_half_window(&mine, XVM_RING_MIN);
	hdr = (uint32_t *)mine.shm;
	for (i = 0; i < n; i++) {
		uint32_t good[] = {XVM_HALF_MAGIC, XVM_HALF_VERSION, 8192, XVM_HALF_CTL};
		bool fits;

		for (k = 0; k < 4; k++)
			if (next_random(seed) % 4 == 0)
				good[k] = next_random(seed) % 2 ? words[next_random(seed) % 8]
								: (uint32_t)next_random(seed);
		memcpy(hdr, good, sizeof(good));
		fits = good[0] == XVM_HALF_MAGIC && good[1] == XVM_HALF_VERSION &&
		       (good[2] == 4096 || good[2] == 8192) && good[3] == XVM_HALF_CTL;
		err = xvm_half_open(&h, fd);
		if ((err == 0) != fits) {
			fprintf(stderr, "ring: header %x %x %x %x: %d\n", good[0], good[1], good[2],
				good[3], err);
			return 1;
		}
		if (err)
			continue;
		ok++;
		/* Lies told after the check change nothing: the size that counts is private. */
		hdr[2] = UINT32_MAX;
		xvm_half_get(&h, next_random(seed), sink, sizeof(sink));
		xvm_half_close(&h);
	}
	xvm_half_close(&mine);
	close(fd);
	printf("liars: %d headers, %d of them harmless\n", n, ok);
	return 0;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	double end = now() + (argc > 1 ? atof(argv[1]) : 20);
	uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1, first = seed;
	struct xvm_shm_arena *a;
	unsigned rounds[MODES] = {0}, i;
	int fd, bad;

	if (!seed)
		seed = 1;
	for (i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 2654435761u >> 13);
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	a = xvm_arena_create(&fd);
	if (counts == MAP_FAILED || !a)
		die("no memory");

	bad = liars(&seed, 20000);
	for (i = 0; !bad && now() < end; i++) {
		bad = one_round(a, i % MODES, &seed);
		rounds[i % MODES]++;
	}
	printf("seed %llu: rounds", (unsigned long long)first);
	for (i = 0; i < MODES; i++)
		printf(" %s %u", mode_name[i], rounds[i]);
	printf("; bytes %llu, sleeps %llu, pads %llu, rings %llu, kills %llu, died with a lock "
	       "%llu\n",
	       (unsigned long long)counts->bytes, (unsigned long long)counts->sleeps,
	       (unsigned long long)counts->pads, (unsigned long long)counts->rings,
	       (unsigned long long)counts->kills, (unsigned long long)counts->died_holding);
	puts(bad ? "FAILED" : "ok");
	return bad;
}
