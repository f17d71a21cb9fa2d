/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "transport/arena.h"

static struct xvm_shm_arena *make(void)
{
	struct xvm_shm_arena *a;
	int fd = -1;

	a = xvm_arena_create(&fd);
	cr_assert_not_null(a);
	cr_assert_geq(fd, 0);
	close(fd);
	return a;
}

Test(arena, create_and_open)
{
	struct xvm_shm_arena *a;
	const struct xvm_shm_arena *b;
	struct xvm_shm_ep *ep;
	struct stat st;
	int fd;

	a = xvm_arena_create(&fd);
	cr_assert_not_null(a);
	cr_expect_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_expect_eq(st.st_mode & 07777, 0600u);
	cr_expect_lt(st.st_blocks * 512, 1 << 20, "the memfd is not sparse");
	cr_expect_eq(ftruncate(fd, 4096), -1);

	ep = xvm_arena_alloc(a);
	cr_assert_not_null(ep);
	ep->n_rx_ring = 99;
	b = xvm_arena_open(fd);
	cr_assert_not_null(b);
	cr_expect_eq(xvm_arena_ep(b, xvm_arena_slot(a, ep))->n_rx_ring, 99u);
	xvm_arena_close(b);
	xvm_arena_close(a);
	xvm_arena_close(NULL);
	close(fd);
}

Test(arena, lies_are_refused)
{
	struct xvm_shm_arena *a;
	int fd, forged;

	a = xvm_arena_create(&fd);
	cr_assert_not_null(a);
#define LIE(field)                                                                                 \
	do {                                                                                       \
		a->field++;                                                                        \
		cr_expect_null(xvm_arena_open(fd), #field);                                        \
		cr_expect_eq(errno, EPROTO);                                                       \
		a->field--;                                                                        \
	} while (0)
	LIE(magic);
	LIE(version);
	LIE(ep_size);
	LIE(ep_max);
	LIE(ep_off);
#undef LIE

	forged = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_eq(write(forged, a, 4096), 4096);
	cr_expect_null(xvm_arena_open(forged));
	cr_expect_eq(errno, EPERM);
	cr_assert_eq(fcntl(forged, F_ADD_SEALS,
			   F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL),
		     0);
	cr_expect_null(xvm_arena_open(forged));
	cr_expect_eq(errno, EPROTO);
	cr_expect_null(xvm_arena_open(-1));
	cr_expect_eq(errno, EBADF);
}

Test(arena, slots_are_wiped_and_gen_moves)
{
	struct xvm_shm_arena *a = make();
	struct xvm_shm_ep *ep, *again;
	uint32_t gen, i;

	ep = xvm_arena_alloc(a);
	cr_assert_not_null(ep);
	for (i = 0; i < 5; i++) {
		cr_expect_eq(ep->state, (unsigned)XVM_EP_CANDIDATE);
		gen = ep->gen;
		cr_expect_neq(gen, 0u);
		memset((char *)ep + offsetof(struct xvm_shm_ep, role), 0xff,
		       sizeof(*ep) - offsetof(struct xvm_shm_ep, role));
		ep->reason = 7;
		xvm_arena_free(a, ep);
		cr_expect_eq(ep->state, (unsigned)XVM_EP_FREE);
		cr_expect_neq(ep->gen, gen, "a freed slot still passes for the old one");
		again = xvm_arena_alloc(a);
		cr_assert_eq(again, ep);
		cr_expect_neq(ep->gen, gen);
		cr_expect_eq(ep->reason, 0u);
		cr_expect_eq(ep->tx_lock.word, 0u);
		cr_expect_eq(ep->rport, 0);
	}
}

Test(arena, freed_twice_is_freed_once)
{
	struct xvm_shm_arena *a = make();
	struct xvm_shm_ep *ep = xvm_arena_alloc(a), *x, *y;

	xvm_arena_free(a, ep);
	xvm_arena_free(a, ep);
	x = xvm_arena_alloc(a);
	y = xvm_arena_alloc(a);
	cr_expect_neq(x, y);
}

Test(arena, runs_out_and_recovers)
{
	struct xvm_shm_arena *a = make();
	struct xvm_shm_ep *ep = NULL, *last = NULL;
	uint32_t n = 0;

	while ((ep = xvm_arena_alloc(a))) {
		last = ep;
		n++;
	}
	cr_expect_eq(n, (unsigned)XVM_ARENA_EPS);
	cr_expect_eq(xvm_arena_slot(a, last), XVM_ARENA_EPS - 1u);
	cr_expect_null(xvm_arena_alloc(a));
	xvm_arena_free(a, xvm_arena_ep(a, 17));
	cr_expect_eq(xvm_arena_alloc(a), xvm_arena_ep(a, 17));
	cr_expect_null(xvm_arena_alloc(a));
}

/* Each holder marks its slots; another's mark in one of them means that it was handed out twice. */
static void *churn(void *arg)
{
	struct xvm_shm_arena *a = arg;
	struct xvm_shm_ep *held[8] = {0};
	uint64_t mark = (uint64_t)gettid();
	unsigned i, k, seed = (unsigned)mark;

	for (i = 0; i < 200000; i++) {
		k = (unsigned)rand_r(&seed) % 8;
		if (!held[k]) {
			held[k] = xvm_arena_alloc(a);
			if (!held[k] || held[k]->tx_seq)
				abort();
			held[k]->tx_seq = mark;
		} else {
			if (held[k]->tx_seq != mark)
				abort();
			held[k]->tx_seq = 0;
			xvm_arena_free(a, held[k]);
			held[k] = NULL;
		}
	}
	for (k = 0; k < 8; k++)
		if (held[k])
			xvm_arena_free(a, held[k]);
	return NULL;
}

Test(arena, threads_and_forks, .timeout = 60)
{
	struct xvm_shm_arena *a = make();
	pthread_t t[2];
	pid_t pid = fork();
	int i, st;

	for (i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, churn, a);
	for (i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	if (!pid)
		_exit(0);
	cr_assert_eq(waitpid(pid, &st, 0), pid);
	cr_expect_eq(st, 0);
	cr_expect_leq(a->ep_hi, 32u, "slots leak: %u in use at most, %u handed out", 32, a->ep_hi);
}
