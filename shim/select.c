/* SPDX-License-Identifier: Apache-2.0 */
/* select and pselect with paired sockets, by way of poll's engine. The masks are the kernel's. */
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/wait.h"
#include "shim/waker.h"
#include "transport/sys.h"

#define IN_SET (POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR)
#define OUT_SET (POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR)
#define EX_SET POLLPRI

#define STACK_FDS 64
#define STACK_WORDS 32
#define WORD_BITS (8 * (int)sizeof(unsigned long))

struct sets {
	unsigned long *word[3]; /* in, out, ex: as the kernel sees them, of any length; or NULL */
	int n;			/* descriptors below this */
	struct pollfd *fds;
	nfds_t nfds;
	unsigned tracked;
};

static unsigned long any_of(const struct sets *s, int i)
{
	unsigned long m = 0;

	for (int k = 0; k < 3; k++)
		if (s->word[k])
			m |= s->word[k][i];
	/* Bits behind the last descriptor are not looked at. */
	if (s->n - i * WORD_BITS < WORD_BITS)
		m &= (1ul << (s->n - i * WORD_BITS)) - 1;
	return m;
}

static int words(const struct sets *s)
{
	return (s->n - 1) / WORD_BITS + 1;
}

static bool isset(const unsigned long *w, int fd)
{
	return w && (w[fd / WORD_BITS] >> (fd % WORD_BITS) & 1);
}

/*
 * The kernel's select looks only at what its descriptor table has room for at present (64 numbers,
 * more by need), and says nothing of higher ones: neither an error nor a changed bit. Ask it.
 */
static bool passed_over(int fd)
{
	size_t len = ((size_t)fd / WORD_BITS + 1) * sizeof(long);
	unsigned long stack[STACK_WORDS] = {0}, *w = stack;
	struct timespec zero = {0};
	bool set;
	long r;

	if (len > sizeof(stack)) {
		r = xvm_sys(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		if (xvm_sys_failed(r))
			return true;
		w = (unsigned long *)r;
	}
	w[fd / WORD_BITS] = 1ul << (fd % WORD_BITS);
	do
		r = xvm_sys(SYS_pselect6, fd + 1, w, 0, 0, &zero, 0);
	while (r == -EINTR);
	set = isset(w, fd);
	if (w != stack)
		xvm_sys(SYS_munmap, w, len);
	return r == 0 && set;
}

/*
 * What the application gave for n may be far beyond the end of its sets (getdtablesize(), say),
 * which the kernel never reads. Sets shorter than FD_SETSIZE have a size that fits n.
 */
static int limit(int n)
{
	int p = FD_SETSIZE;

	while (p < n && p <= INT_MAX / 2 && !passed_over(p))
		p *= 2;
	return p < n ? p : n;
}

/* How many descriptors there are, and whether any of them is ours to see to. */
static nfds_t survey(struct sets *s)
{
	nfds_t count = 0;

	for (int i = 0; i < words(s); i++) {
		for (unsigned long m = any_of(s, i); m; m &= m - 1) {
			struct pollfd one = {.fd = i * WORD_BITS + __builtin_ctzl(m)};

			s->tracked += xvm_wait_count(&one, 1);
			count++;
		}
	}
	return count;
}

static void fill(struct sets *s, nfds_t max)
{
	for (int i = 0; i < words(s); i++) {
		for (unsigned long m = any_of(s, i); m && s->nfds < max; m &= m - 1) {
			int fd = i * WORD_BITS + __builtin_ctzl(m);
			short ev = 0;

			if (isset(s->word[0], fd))
				ev |= IN_SET & ~(POLLHUP | POLLERR);
			if (isset(s->word[1], fd))
				ev |= OUT_SET & ~POLLERR;
			if (isset(s->word[2], fd))
				ev |= EX_SET;
			s->fds[s->nfds++] = (struct pollfd){.fd = fd, .events = ev};
		}
	}
}

/* Bits that select would report of one descriptor. */
static int bits_of(const struct sets *s, const struct pollfd *p, int k)
{
	static const short set[3] = {IN_SET, OUT_SET, EX_SET};

	return isset(s->word[k], p->fd) && (p->revents & set[k]);
}

/* All bits, or a negative errno. What the kernel passes over is taken out, and keeps its bits. */
static int total(struct sets *s)
{
	nfds_t left = 0;
	int n = 0;

	for (nfds_t i = 0; i < s->nfds; i++) {
		if (s->fds[i].revents & POLLNVAL) {
			if (passed_over(s->fds[i].fd))
				continue;
			return -EBADF;
		}
		for (int k = 0; k < 3; k++)
			n += bits_of(s, &s->fds[i], k);
		s->fds[left++] = s->fds[i];
	}
	s->nfds = left;
	return n;
}

static void store(struct sets *s)
{
	for (nfds_t i = 0; i < s->nfds; i++) {
		int fd = s->fds[i].fd;

		for (int k = 0; k < 3; k++)
			if (s->word[k] && !bits_of(s, &s->fds[i], k))
				s->word[k][fd / WORD_BITS] &= ~(1ul << (fd % WORD_BITS));
	}
}

static int run(struct sets *s, int64_t ns, const sigset_t *mask)
{
	uint64_t deadline = ns > 0 ? xvm_now_ns() + (uint64_t)ns : 0, now;
	int r, n;

	for (;;) {
		r = xvm_wait_set(s->fds, s->nfds, s->tracked, ns, mask, false);
		if (r < 0)
			return r;
		n = total(s);
		if (n < 0)
			return n;
		if (n || r == 0)
			break;
		/* poll tells of a hang-up where select was not asked for anything that it is. */
		for (nfds_t i = 0; i < s->nfds; i++)
			if (s->fds[i].revents)
				s->fds[i].fd = -1 - s->fds[i].fd;
		if (ns < 0)
			continue;
		now = xvm_now_ns();
		if (now >= deadline)
			break;
		ns = (int64_t)(deadline - now);
	}
	for (nfds_t i = 0; i < s->nfds; i++)
		if (s->fds[i].fd < 0)
			s->fds[i] = (struct pollfd){.fd = -1 - s->fds[i].fd};
	store(s);
	return n;
}

struct mapping {
	long at;
	size_t len;
};

static void unmap(void *arg)
{
	struct mapping *m = arg;

	if (m->len)
		xvm_sys(SYS_munmap, m->at, m->len);
}

static bool there(const struct sets *s)
{
	for (int k = 0; k < 3; k++)
		if (s->word[k] && !xvm_user_there(s->word[k], (size_t)words(s) * sizeof(long)))
			return false;
	return true;
}

/* False: the kernel's business. */
static bool ours(int n, fd_set *in, fd_set *out, fd_set *ex, int64_t ns, const sigset_t *mask,
		 uint64_t *start, int *result)
{
	struct sets s = {.word = {(void *)in, (void *)out, (void *)ex}};
	struct pollfd stack[STACK_FDS];
	struct mapping m;
	size_t len = 0;
	nfds_t count;
	long map = 0;

	if (n <= 0 || !xvm_fdtab)
		return false;
	xvm_link_care();
	xvm_link_poll();
	/* Nothing of ours is higher. */
	s.n = atomic_load_explicit(&xvm_fdtab_hi, memory_order_relaxed);
	if (s.n > n)
		s.n = n;
	if (s.n <= 0 || !there(&s) || (survey(&s), __builtin_expect(s.tracked == 0, 1)))
		return false;
	s.n = limit(n);
	if (!there(&s))
		return false;
	s.tracked = 0;
	count = survey(&s);
	pthread_testcancel();
	*start = ns > 0 ? xvm_now_ns() : 0;
	for (int k = 0; k < 3; k++) {
		if (s.word[k] && xvm_user_read_only(s.word[k], (size_t)words(&s) * sizeof(long))) {
			*result = -EFAULT;
			return true;
		}
	}
	s.fds = stack;
	if (count > STACK_FDS) {
		len = count * sizeof(struct pollfd);
		map = xvm_sys(SYS_mmap, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			      -1, 0);
		if (xvm_sys_failed(map)) {
			*result = -ENOMEM;
			return true;
		}
		s.fds = (struct pollfd *)map;
	}
	fill(&s, count);
	m = (struct mapping){map, len};
	pthread_cleanup_push(unmap, &m);
	*result = run(&s, ns, mask);
	pthread_cleanup_pop(1);
	return true;
}

XVM_WRAP int select(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *tv)
{
	uint64_t start, gone;
	int64_t ns = -1;
	int r;

	if (!xvm_fdtab || (tv && (tv->tv_sec < 0 || tv->tv_usec < 0)))
		return REAL(select)(n, in, out, ex, tv);
	if (tv && tv->tv_sec < INT64_MAX / 1000000000 - tv->tv_usec / 1000000 - 1)
		ns = (int64_t)tv->tv_sec * 1000000000 + (int64_t)tv->tv_usec * 1000;
	if (!ours(n, in, out, ex, ns, NULL, &start, &r))
		return REAL(select)(n, in, out, ex, tv);
	/* Linux tells what is left of the time. */
	if (tv && ns > 0) {
		gone = xvm_now_ns() - start;
		ns = gone < (uint64_t)ns ? ns - (int64_t)gone : 0;
		tv->tv_sec = (time_t)(ns / 1000000000);
		tv->tv_usec = (suseconds_t)(ns % 1000000000 / 1000);
	}
	return (int)xvm_result(r);
}

XVM_WRAP int __select(int n, fd_set *in, fd_set *out, fd_set *ex, struct timeval *tv)
{
	return select(n, in, out, ex, tv);
}

XVM_WRAP int pselect(int n, fd_set *in, fd_set *out, fd_set *ex, const struct timespec *ts,
		     const sigset_t *mask)
{
	uint64_t start;
	int64_t ns;
	int r;

	if (!xvm_wait_ns(ts, &ns) || !ours(n, in, out, ex, ns, mask, &start, &r))
		return REAL(pselect)(n, in, out, ex, ts, mask);
	return (int)xvm_result(r);
}
