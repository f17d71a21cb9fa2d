/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The limit: two processes and the project's rings, without sockets, calls, locks or phases.
 *
 *	rawring rtt|stream SIZE MS CPU CPU spin|sleep	"done COUNT SECONDS"
 *
 * spin: whoever finds nothing looks again. sleep: it waits for an eventfd, as rules W1 and W2 have
 *it.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "transport/half.h"

#define RING (2 << 20)

#if defined(__x86_64__)
#define relax() __builtin_ia32_pause()
#else
#define relax() __asm__ volatile("yield")
#endif

struct end {
	struct xvm_half *mine, *peer;
	int efd, peer_efd;
	uint64_t head, tail; /* what this end has published and consumed */
	uint64_t peer_head, peer_tail;
	uint64_t slept, rung;
};

static bool sleeps;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec * 1e-9;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Until the peer's word moves on from what this end knows of it. */
static uint64_t wait_for(struct end *e, _Atomic uint64_t *word, uint64_t known,
			 _Atomic uint64_t *sleep_word)
{
	uint64_t v, n;

	while ((v = atomic_load_explicit(word, memory_order_acquire)) == known) {
		if (!sleeps) {
			relax();
			continue;
		}
		atomic_store_explicit(sleep_word, ++e->slept, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		if (atomic_load_explicit(word, memory_order_relaxed) == known &&
		    read(e->efd, &n, sizeof(n)) != sizeof(n))
			die("eventfd");
	}
	return v;
}

static void wake(struct end *e, _Atomic uint64_t *sleep_word)
{
	uint64_t v, one = 1;

	if (!sleeps)
		return;
	atomic_thread_fence(memory_order_seq_cst);
	v = atomic_load_explicit(sleep_word, memory_order_relaxed);
	if (v == e->rung)
		return;
	e->rung = v;
	if (write(e->peer_efd, &one, sizeof(one)) != sizeof(one))
		die("eventfd");
}

static void put(struct end *e, const char *buf, size_t len)
{
	size_t n;

	while (len) {
		n = e->mine->ring_size - (e->head - e->peer_tail);
		if (!n) {
			e->peer_tail = wait_for(e, &e->peer->shm->tail, e->peer_tail,
						&e->mine->shm->sleep_data);
			continue;
		}
		n = n < len ? n : len;
		xvm_half_put(e->mine, e->head, buf, n);
		e->head += n;
		atomic_store_explicit(&e->mine->shm->head, e->head, memory_order_release);
		wake(e, &e->peer->shm->sleep_data);
		buf += n;
		len -= n;
	}
}

static void get(struct end *e, char *buf, size_t len)
{
	size_t n;

	while (len) {
		n = e->peer_head - e->tail;
		if (!n) {
			e->peer_head = wait_for(e, &e->peer->shm->head, e->peer_head,
						&e->mine->shm->sleep_data);
			continue;
		}
		n = n < len ? n : len;
		xvm_half_get(e->peer, e->tail, buf, n);
		e->tail += n;
		atomic_store_explicit(&e->mine->shm->tail, e->tail, memory_order_release);
		if (e->peer_head - e->tail <= RING / 2)
			wake(e, &e->peer->shm->sleep_data);
		buf += n;
		len -= n;
	}
}

static void pin(const char *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(atoi(cpu), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

/* A round trip; or some messages and, at the end, the answer that all have come. */
static double work(struct end *e, bool rtt, size_t size, char *buf, double seconds)
{
	double end = now() + seconds, count = 0;
	unsigned i, n = size > 4096 ? 1 : 64;
	uint64_t head = n * size;

	do {
		if (rtt) {
			for (i = 0; i < n; i++) {
				put(e, buf, size);
				get(e, buf, size);
			}
			count += n;
			continue;
		}
		put(e, (char *)&head, sizeof(head));
		for (i = 0; i < n; i++)
			put(e, buf, size);
		count += head;
	} while (now() < end);
	if (!rtt) {
		head = 0;
		put(e, (char *)&head, sizeof(head));
		get(e, (char *)&head, sizeof(head));
	}
	return count;
}

static void serve(struct end *e, bool rtt, size_t size, char *buf)
{
	uint64_t head;

	for (;;) {
		if (rtt) {
			get(e, buf, size);
			put(e, buf, size);
			continue;
		}
		get(e, (char *)&head, sizeof(head));
		if (!head)
			put(e, (char *)&head, sizeof(head));
		for (; head; head -= size)
			get(e, buf, size);
	}
}

int main(int argc, char **argv)
{
	struct xvm_half half[2];
	struct end e[2] = {0};
	double start, count, seconds;
	size_t size;
	int i, fd;
	bool rtt;
	char *buf;
	pid_t pid;

	if (argc != 7) {
		fprintf(stderr, "rawring rtt|stream SIZE MS CPU CPU spin|sleep\n");
		return 2;
	}
	rtt = !strcmp(argv[1], "rtt");
	size = strtoull(argv[2], NULL, 10);
	seconds = atof(argv[3]) / 1000;
	sleeps = !strcmp(argv[6], "sleep");
	buf = calloc(1, size + 1);
	for (i = 0; i < 2; i++) {
		if (!buf || xvm_half_create(&half[i], RING, &fd))
			die("half");
		xvm_half_window(&half[i], RING);
		/* The first sleep is told from the word that a new half has. */
		atomic_store(&half[i].shm->sleep_data, 0);
		e[i].mine = &half[i];
		e[!i].peer = &half[i];
		e[i].efd = e[!i].peer_efd = eventfd(0, EFD_CLOEXEC);
	}
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(argv[4]);
		serve(&e[0], rtt, size, buf);
	}
	pin(argv[5]);
	work(&e[1], rtt, size, buf, 0.02);
	start = now();
	count = work(&e[1], rtt, size, buf, seconds);
	printf("done %.0f %.9f\n", count, now() - start);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return 0;
}
