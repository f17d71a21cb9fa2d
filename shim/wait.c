/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine of poll, select and their kin. A set without a paired socket (or an epoll that holds
 * one) is the kernel's business. Otherwise: look at the rings, spin if that has paid off lately,
 * arm (W1), look again, and sleep in the kernel's poll with an eventfd of ours appended.
 *
 * A socket that is tracked but not paired is counted in krecv while a thread polls it for input
 * (R1): else another thread could take a pad, or bytes of the ring, for which this one sleeps.
 */
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>

#include "shim/announce.h"
#include "shim/epset.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/quiet.h"
#include "shim/real.h"
#include "shim/wait.h"
#include "transport/sys.h"

#define STACK_BYTES 3072 /* of descriptors in a set; more are mapped */
#define SKIP_MAX 16	 /* looks in a row that rings alone may answer */
#define LOOK_NS 8000	 /* between looks at the kernel while spinning */
#define VAIN_MAX 16	 /* times that the kernel woke us for nothing; then it is asked each */
#define VALVE_MS 1	 /* so many ms, and not waited for, about input */

/* A member of the set that is not the kernel's alone. */
struct slot {
	uint32_t i;    /* in the application's array */
	uint32_t want; /* events, as it gave them */
	uint32_t bits; /* ready */
	uint32_t armed;
	struct xvm_sock *s; /* a reference, or NULL: inners has it */
	bool on;	    /* paired */
	bool counted;	    /* in krecv */
	bool asleep;	    /* in s->asleep */
};

struct pset {
	struct pollfd *fds; /* the application's */
	nfds_t n;
	struct pollfd *k; /* the kernel's: the same with masks of our own, and one more */
	struct slot *slots;
	unsigned nslots, paired;
	bool epolls; /* among them are some */
	struct xvm_inners inners;
	struct xvm_waker *w;
	bool no_waker;
	bool rung; /* the last sleep ended by w */
	const sigset_t *mask;
	bool plain;	/* the application called poll: a sandbox may know nothing else */
	uint32_t forks; /* xvm_forks, when its members were counted */
	void *map;
	size_t map_len;
};

static _Thread_local unsigned skipped __attribute__((tls_model("initial-exec")));

static void announce(struct pset *p, bool on)
{
	uint64_t classes = 0;

	if (!p->w)
		return;
	for (unsigned i = 0; on && i < p->nslots; i++)
		if (p->slots[i].on)
			classes |= xvm_announce_class(p->slots[i].s);
	xvm_announce(p->w, classes);
}

/* ---- the set ------------------------------------------------------------ */

/*
 * May it be paired while we sleep? A candidate that has made no call since it was last looked up is
 * not worth the cost: most are connected to somewhere else.
 */
static bool may_pair(const struct xvm_shm_ep *ep)
{
	switch (atomic_load_explicit(&ep->state, memory_order_relaxed)) {
	case XVM_EP_OFFERED:
	case XVM_EP_PAIRED:
		return true;
	case XVM_EP_CANDIDATE:
		return atomic_load_explicit(&ep->reason, memory_order_relaxed) == XVM_R_NEW &&
		       atomic_load_explicit(&ep->calls, memory_order_relaxed) != 0;
	default:
		return false;
	}
}

/* Would this thread's poll have to know of fd? */
static bool concerns(int fd)
{
	struct xvm_file *f = xvm_fdtab_peek(fd);

	if (!f)
		return false;
	switch (atomic_load_explicit(&f->kind, memory_order_relaxed)) {
	case XVM_FILE_SOCK:
		return xvm_sock_on((struct xvm_sock *)f) || may_pair(((struct xvm_sock *)f)->ep);
	case XVM_FILE_EPOLL:
		return true;
	default:
		return false;
	}
}

unsigned xvm_wait_count(const struct pollfd *fds, nfds_t n)
{
	unsigned c = 0;

	if (!xvm_fdtab || (uintptr_t)fds < 4096)
		return 0;
	for (nfds_t i = 0; i < n; i++)
		c += concerns(fds[i].fd);
	return c;
}

static void add_sock(struct pset *p, struct slot *sl, struct xvm_sock *s)
{
	sl->s = s;
	sl->on = xvm_sock_on(s);
	if (!sl->on && (sl->want & XVM_EP_IN)) {
		/* R1: counted before the look; pairs with xvm_offer_paired(). */
		atomic_fetch_add(&s->ep->krecv, 1);
		sl->on = atomic_load(&s->paired);
		if (sl->on)
			atomic_fetch_sub(&s->ep->krecv, 1);
		else
			sl->counted = true;
	}
	p->paired += sl->on;
}

/* At most max members: others may have joined since they were counted; they are the kernel's. */
static void fill(struct pset *p, unsigned max)
{
	for (nfds_t i = 0; i < p->n; i++) {
		struct slot *sl = &p->slots[p->nslots];
		struct xvm_sock *s;

		p->k[i] = p->fds[i];
		p->k[i].revents = 0;
		p->epolls |= !xvm_epset_plain(p->fds[i].fd);
		if (p->nslots == max || !concerns(p->fds[i].fd))
			continue;
		s = xvm_sock_get(p->fds[i].fd);
		if (s) {
			memset(sl, 0, sizeof(*sl));
			sl->i = (uint32_t)i;
			sl->want = (uint16_t)p->fds[i].events;
			add_sock(p, sl, s);
			p->nslots++;
		}
	}
}

/* The epolls of the set and what is in them, as they are now; then those that were before are left:
 * in between one is counted twice. Returns the bound of a sleep. */
static int prepare_inners(struct pset *p)
{
	struct xvm_inners old = p->inners;
	int bound = -1;

	p->inners.n = 0;
	p->inners.more = false;
	for (nfds_t i = 0; i < p->n && p->epolls; i++) {
		struct xvm_epoll *e =
			xvm_epset_plain(p->fds[i].fd) ? NULL : xvm_epset_get(p->fds[i].fd);

		if (!e)
			continue;
		xvm_inners_add(&p->inners, e);
		xvm_epset_put(e);
	}
	if (p->inners.n)
		bound = xvm_inners_prepare(&p->inners);
	xvm_inners_end(&old);
	return bound;
}

/* That the kernel says an epoll is readable may be but a call to look again. */
static void judge_epolls(struct pset *p)
{
	bool any = false;

	for (nfds_t i = 0; i < p->n && p->epolls && !any; i++)
		any = p->k[i].revents && !xvm_epset_plain(p->k[i].fd);
	if (!any)
		return;
	prepare_inners(p);
	for (nfds_t i = 0; i < p->n; i++)
		if (p->k[i].revents && !xvm_epset_plain(p->k[i].fd) &&
		    xvm_quiet_poll(&p->k[i], 1, 0) <= 0)
			p->k[i].revents = 0;
}

static void release(struct pset *p)
{
	for (unsigned i = 0; i < p->nslots; i++) {
		if (p->slots[i].counted && p->forks == xvm_forks)
			atomic_fetch_sub(&p->slots[i].s->ep->krecv, 1);
		xvm_sock_put(p->slots[i].s);
	}
	xvm_inners_end(&p->inners);
	if (p->map)
		xvm_sys(SYS_munmap, p->map, p->map_len);
}

static void disarm(struct pset *p)
{
	for (unsigned i = 0; i < p->nslots; i++) {
		struct slot *sl = &p->slots[i];

		if (sl->armed)
			xvm_sock_disarm(sl->s, sl->armed, p->w, xvm_lock_tid());
		sl->armed = 0;
		if (sl->asleep)
			xvm_sock_awake(sl->s);
		sl->asleep = false;
	}
	if (!p->w)
		return;
	announce(p, false);
	if (p->k[p->n].revents)
		xvm_waker_drain(p->w);
	xvm_waker_put(p->w);
	p->w = NULL;
}

/* The thread is cancelled in its sleep: the kernel's answer is not known. */
static void cancelled(void *arg)
{
	struct pset *p = arg;

	p->k[p->n].revents = POLLIN;
	disarm(p);
	release(p);
}

/* ---- looking ------------------------------------------------------------ */

/* How many slots are ready by shared memory. thorough: with the chances of a call (consent). */
static unsigned look(struct pset *p, bool thorough)
{
	unsigned ready = 0;
	int fd;

	for (unsigned i = 0; i < p->nslots; i++) {
		struct slot *sl = &p->slots[i];

		sl->bits = 0;
		if (!sl->on || (!thorough && !xvm_sock_peek(sl->s, sl->want)))
			continue;
		fd = xvm_sock_fd(sl->s, p->fds[sl->i].fd);
		if (fd >= 0)
			sl->bits = xvm_sock_poll(sl->s, fd, sl->want, 0);
		ready += sl->bits != 0;
	}
	return ready;
}

static void masks(struct pset *p, bool valve)
{
	for (unsigned i = 0; i < p->nslots; i++) {
		struct slot *sl = &p->slots[i];
		uint32_t m;
		int fd;

		if (!sl->on)
			continue;
		/* Closed meanwhile: the call goes on with the socket, as in the kernel. */
		fd = xvm_sock_fd(sl->s, p->fds[sl->i].fd);
		if (fd >= 0)
			p->k[sl->i].fd = fd;
		m = xvm_sock_kmask(sl->s, sl->want);
		if (valve)
			m &= ~(XVM_EP_IN | EPOLLRDHUP);
		p->k[sl->i].events = (short)m;
	}
}

static int kernel_poll(struct pset *p, nfds_t n, int64_t ns)
{
	struct timespec ts = {ns / 1000000000, ns % 1000000000};
	int64_t ms = ns < 0 ? -1 : (ns + 999999) / 1000000;
	int r;

	if (p->plain && !p->mask)
		r = REAL(poll)(p->k, n, ms > INT_MAX ? INT_MAX : (int)ms);
	else
		r = REAL(ppoll)(p->k, n, ns < 0 ? NULL : &ts, p->mask);
	return r < 0 ? -errno : r;
}

/* The kernel, without waiting, beside what the rings have. Not with the application's signal mask:
 * something is ready, and then the kernel delivers no signal either. */
static void look_kernel(struct pset *p)
{
	static const struct timespec zero;
	const sigset_t *mask = p->mask;

	p->mask = NULL;
	if (p->plain)
		REAL(poll)(p->k, p->n, 0);
	else
		REAL(ppoll)(p->k, p->n, &zero, NULL);
	p->mask = mask;
}

/*
 * The application's results, of what the kernel and the rings have. How many have one. A descriptor
 * that another thread has closed while we slept is found to be so by whom something else wakes:
 * not by a ring that has come to nothing.
 */
static int collect(struct pset *p)
{
	int ready = 0, closed = 0;

	judge_epolls(p);
	for (unsigned i = 0; i < p->nslots; i++) {
		struct slot *sl = &p->slots[i];
		struct pollfd *k = &p->k[sl->i];
		uint32_t kernel = (uint16_t)k->revents;
		int fd;

		if (!sl->on)
			continue;
		fd = xvm_sock_fd(sl->s, k->fd);
		if (fd < 0)
			continue;
		kernel &= ~(uint32_t)POLLNVAL;
		if (kernel) {
			if (kernel & POLLRDHUP) /* S7, as xvm_sock_kmask() says */
				atomic_fetch_or(&sl->s->ep->flags, XVM_EPF_FIN_SEEN);
			sl->bits |= xvm_sock_poll(sl->s, fd, sl->want, kernel);
		}
		k->revents = (short)sl->bits;
		if (fd == p->fds[sl->i].fd)
			continue;
		closed += !sl->bits;
		k->revents = POLLNVAL;
	}
	for (nfds_t i = 0; i < p->n; i++) {
		p->fds[i].revents = p->k[i].revents;
		ready += p->fds[i].revents != 0;
	}
	return ready == closed && p->rung ? 0 : ready;
}

/* Is everything that was asked for there already? Then the kernel has little to add. */
static bool complete(const struct pset *p)
{
	if (p->nslots != p->n || ++skipped >= SKIP_MAX)
		return false;
	for (unsigned i = 0; i < p->nslots; i++) {
		uint32_t want = p->slots[i].want & (XVM_EP_IN | XVM_EP_OUT);

		if (!want || (p->slots[i].bits & want) != want ||
		    (p->slots[i].want & ~p->slots[i].bits & (EPOLLPRI | EPOLLRDHUP)))
			return false;
	}
	return true;
}

/* Rings have something: what else is ready? */
static int answer(struct pset *p)
{
	if (complete(p)) {
		for (nfds_t i = 0; i < p->n; i++)
			p->k[i].revents = 0;
	} else {
		skipped = 0;
		masks(p, false);
		look_kernel(p);
	}
	return collect(p);
}

/* ---- sleeping ----------------------------------------------------------- */

static bool spin(struct pset *p, int64_t ns)
{
	uint64_t budget = xvm_spin_budget(), start, now, asked;
	bool other = false;

	for (unsigned i = 0; budget && i < p->nslots && !other; i++)
		other = p->slots[i].on && !xvm_sock_same_cpu(p->slots[i].s);
	if (!other)
		return false;
	if (ns > 0 && (uint64_t)ns < budget)
		budget = (uint64_t)ns;
	start = asked = now = xvm_now_ns();
	do {
		for (int i = 0; i < 16; i++) {
			if (look(p, false)) {
				xvm_spin_won(now - start);
				XVM_COUNT(spins_won);
				return true;
			}
			xvm_relax();
		}
		if (now - asked > LOOK_NS) {
			masks(p, false);
			look_kernel(p);
			if (collect(p))
				return true;
			asked = now;
		}
		now = xvm_now_ns();
	} while (now - start < budget);
	XVM_COUNT(spins_lost);
	return false;
}

static uint32_t to_arm(uint32_t want)
{
	return (want & XVM_EP_IN ? EPOLLIN : 0) | (want & XVM_EP_OUT ? EPOLLOUT : 0);
}

/* Rule W1. Returns the bound of the sleep in ms, or -1. */
static int arm(struct pset *p)
{
	int bound = -1, b;
	uint64_t seq;

	/* An inherited socket sleeps by pad; but its own changes may ring an eventfd. */
	p->w = p->no_waker || xvm_conf.sandboxed ? NULL : xvm_waker_get();
	seq = p->w ? xvm_waker_next(p->w) : xvm_lock_tid();
	p->k[p->n] = (struct pollfd){.fd = p->w ? p->w->fd : -1, .events = POLLIN};
	announce(p, true);
	for (unsigned i = 0; i < p->nslots; i++) {
		struct slot *sl = &p->slots[i];

		if (!sl->on)
			continue;
		atomic_fetch_add(&sl->s->asleep, 1);
		sl->asleep = true;
		sl->armed = to_arm(sl->want);
		if (!sl->armed)
			continue;
		b = xvm_sock_arm(sl->s, p->fds[sl->i].fd, sl->armed, p->w, seq);
		/* W3: the word is another's. An epoll in which nobody sleeps has no need of it. */
		if (b >= 0 && xvm_epoll_release(sl->s))
			b = xvm_sock_arm(sl->s, p->fds[sl->i].fd, sl->armed, p->w, seq);
		if (b < 0 && !p->w && (sl->armed & EPOLLOUT))
			b = 5; /* nobody could tell us that the direction has left the ring */
		if (b >= 0 && (bound < 0 || b < bound))
			bound = b;
	}
	b = prepare_inners(p);
	if (b >= 0 && (bound < 0 || b < bound))
		bound = b;
	return bound;
}

/* Sleeps once, not longer than ns. Ready ones, 0 for none, or a negative errno. */
static int sleep_once(struct pset *p, int64_t ns, bool valve)
{
	int bound = arm(p), n;
	uint64_t start;

	if (valve && (bound < 0 || bound > VALVE_MS))
		bound = VALVE_MS;
	if (look(p, true)) {
		p->k[p->n].revents = 0;
		disarm(p);
		return answer(p);
	}
	/* After the arming: a direction that leaves the ring from here on rings us. */
	masks(p, valve);
	for (unsigned i = 0; bound < 0 && i < p->nslots; i++)
		if ((p->slots[i].armed & EPOLLOUT) &&
		    xvm_sock_unwakeable(p->slots[i].s, (uint32_t)p->k[p->slots[i].i].events))
			bound = 5;
	if (bound >= 0 && (ns < 0 || ns > (int64_t)bound * 1000000))
		ns = (int64_t)bound * 1000000;
	XVM_COUNT(sleeps);
	start = xvm_now_ns();
	n = kernel_poll(p, p->n + (p->w != NULL), ns);
	xvm_spin_slept(xvm_now_ns() - start);
	if (n == -EINVAL && p->w) {
		/* One more than RLIMIT_NOFILE. */
		p->no_waker = true;
		n = 0;
	}
	if (n <= 0)
		for (nfds_t i = 0; i <= p->n; i++)
			p->k[i].revents = 0;
	p->rung = n == 0 || (p->w && p->k[p->n].revents);
	disarm(p);
	/* What woke us may be pads that are kept for an epoll in which nobody sleeps. */
	for (unsigned i = 0; n > 0 && i < p->nslots; i++) {
		const struct slot *sl = &p->slots[i];

		if (sl->on && (p->k[sl->i].revents & POLLIN) &&
		    (atomic_load(&sl->s->ep->tx_sleeper) || atomic_load(&sl->s->ep->rx_sleeper)))
			xvm_epoll_release(sl->s);
	}
	if (n < 0)
		return n;
	/* A fork in a handler, which may have closed them in the child. */
	for (unsigned i = 0; p->forks != xvm_forks && i < p->nslots; i++)
		p->slots[i].on &= xvm_sock_on(p->slots[i].s);
	if (valve) { /* the sleep has not waited for input, so it is asked about now */
		masks(p, false);
		look_kernel(p);
	}
	look(p, false);
	return collect(p);
}

static int wait_paired(struct pset *p, int64_t ns)
{
	uint64_t deadline = ns > 0 ? xvm_now_ns() + (uint64_t)ns : 0, now;
	int64_t left = ns;
	unsigned vain = 0;
	int n;

	prepare_inners(p); /* the kernel is to know what is ready there */
	if (look(p, false))
		return answer(p);
	if (ns == 0) {
		look(p, true);
		masks(p, false);
		n = kernel_poll(p, p->n, 0);
		return n < 0 ? n : collect(p);
	}
	if (p->paired && spin(p, ns)) {
		n = answer(p);
		if (n)
			return n;
	}
	for (;;) {
		n = sleep_once(p, left, vain >= VAIN_MAX);
		if (n)
			return n;
		vain += !p->rung;
		xvm_link_poll();
		if (ns < 0)
			continue;
		now = xvm_now_ns();
		if (now >= deadline) { /* and what the kernel would say at its last look */
			p->rung = false;
			return collect(p);
		}
		left = (int64_t)(deadline - now);
	}
}

int xvm_wait_set(struct pollfd *fds, nfds_t n, unsigned tracked, int64_t ns, const sigset_t *mask,
		 bool plain)
{
	size_t len = tracked * sizeof(struct slot) + (n + 1) * sizeof(struct pollfd);
	struct pset p = {.fds = fds, .n = n, .mask = mask, .plain = plain, .forks = xvm_forks};
	char stack[STACK_BYTES] __attribute__((aligned(16)));
	void *mem = stack;
	int r;

	/* The kernel would say so in the end. */
	if (xvm_user_read_only(fds, n * sizeof(*fds)))
		return -EFAULT;
	if (len > sizeof(stack)) {
		long m = xvm_sys(SYS_mmap, 0, len, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (xvm_sys_failed(m))
			return -ENOMEM;
		p.map = mem = (void *)m;
		p.map_len = len;
	}
	p.slots = mem;
	p.k = (struct pollfd *)(p.slots + tracked);
	fill(&p, tracked);
	pthread_cleanup_push(cancelled, &p);
	if (p.paired || p.epolls) {
		r = wait_paired(&p, ns);
	} else {
		r = kernel_poll(&p, n, ns);
		for (nfds_t i = 0; r >= 0 && i < n; i++)
			fds[i].revents = p.k[i].revents;
	}
	pthread_cleanup_pop(0);
	release(&p);
	return r;
}

bool xvm_wait_ns(const struct timespec *ts, int64_t *ns)
{
	*ns = -1;
	if (!ts)
		return true;
	if (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= 1000000000)
		return false;
	if (ts->tv_sec < INT64_MAX / 1000000000 - 1)
		*ns = (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
	return true;
}
