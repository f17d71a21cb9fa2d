/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What waits need of a paired socket: what is ready, what to ask of the kernel, arming (W1, W3,
 * W4), and the sleep of a single blocking call.
 */
#include <pthread.h>
#include <sched.h>

#include "shim/announce.h"
#include "shim/epoll.h"
#include "shim/link.h"
#include "shim/restart.h"
#include "shim/stream_priv.h"
#include "shim/waker.h"
#include "transport/lock.h"

#define IN_BITS (EPOLLIN | EPOLLRDNORM)
#define OUT_BITS (EPOLLOUT | EPOLLWRNORM)

void xvm_sock_publish(struct xvm_sock *s)
{
	struct xvm_shm_half *m = s->mine.shm;
	uint64_t mask = xvm_link_peer_mask(s->proc);

	if (mask != atomic_load_explicit(&m->have_wakers, memory_order_relaxed))
		atomic_store(&m->have_wakers, mask);
}

static void obey(struct xvm_sock *s, int fd)
{
	struct xvm_shm_ep *ep = s->ep;

	xvm_sock_publish(s);
	xvm_tx_enter(s, fd);
	if (xvm_tx_owes(s)) {
		xvm_tx_leave(s, fd, XVM_R_PEER_LEFT);
		return;
	}
	if (!(*(volatile uint64_t *)&ep->tx_epoch & 1))
		return;
	if (atomic_load_explicit(&s->peer.shm->consent, memory_order_relaxed) != XVM_CONSENT_YES)
		xvm_tx_leave(s, fd, XVM_R_PEER_LEFT);
	else if (atomic_load_explicit(&ep->flags, memory_order_relaxed) & XVM_EPF_NEVER)
		xvm_tx_leave(s, fd, atomic_load(&ep->reason) ?: XVM_R_UNSUPPORTED);
	else if (atomic_load_explicit(&ep->want, memory_order_relaxed) & XVM_WANT_LEAVE)
		xvm_tx_leave(s, fd, XVM_R_OPERATOR);
}

/*
 * A direction that is off the ring, or was taken off it just now (rx, tx: the epochs before): of
 * what is missing the kernel may not have been asked. It will tell of that by itself, but then not
 * amid what else is told.
 */
static uint32_t off_ring(struct xvm_sock *s, int fd, uint32_t missing, uint32_t out, uint64_t tx,
			 uint64_t rx)
{
	struct pollfd pfd = {.fd = fd};
	uint32_t more = 0;

	if ((missing & IN_BITS) && !(*(volatile uint64_t *)&s->ep->rx_epoch & 1) &&
	    (out || (rx & 1)))
		pfd.events |= POLLIN;
	if ((missing & OUT_BITS) && !(*(volatile uint64_t *)&s->ep->tx_epoch & 1) &&
	    (out || (tx & 1)))
		pfd.events |= POLLOUT;
	if ((missing & EPOLLPRI) && (out || pfd.events))
		pfd.events |= POLLPRI;
	if (!pfd.events || xvm_quiet_poll(&pfd, 1, 0) <= 0)
		return 0;
	more = (uint32_t)(pfd.revents & pfd.events & POLLPRI);
	if ((pfd.revents & pfd.events & POLLIN) && (xvm_rx_ready(s, fd, EPOLLIN) & EPOLLIN))
		more |= missing & IN_BITS;
	if ((pfd.revents & pfd.events & POLLOUT) && xvm_tx_ready(s, fd, EPOLLOUT))
		more |= missing & OUT_BITS;
	return more;
}

uint32_t xvm_sock_poll(struct xvm_sock *s, int fd, uint32_t interest, uint32_t kernel)
{
	struct pollfd pfd = {.fd = fd, .events = (short)(POLLRDHUP | (interest & EPOLLPRI))};
	uint64_t tx = *(volatile uint64_t *)&s->ep->tx_epoch;
	uint64_t rx = *(volatile uint64_t *)&s->ep->rx_epoch;
	uint32_t out, r;

	obey(s, fd);
	/* Near the end the kernel knows more: errors, and that both directions are shut. */
	if (!kernel &&
	    ((atomic_load_explicit(&s->ep->flags, memory_order_relaxed) &
	      (XVM_EPF_FIN_SEEN | XVM_EPF_TX_SHUT)) ||
	     atomic_load_explicit(&s->peer.shm->rx_closed, memory_order_relaxed) ||
	     atomic_load_explicit(&s->ep->err, memory_order_relaxed)) &&
	    xvm_quiet_poll(&pfd, 1, 0) > 0)
		kernel = (uint32_t)pfd.revents;
	out = kernel & (EPOLLERR | EPOLLHUP | (interest & EPOLLPRI));
	r = xvm_rx_ready(s, fd,
			 kernel & (EPOLLIN | EPOLLRDNORM | EPOLLRDHUP | EPOLLERR | EPOLLHUP));
	if (r & EPOLLIN)
		out |= interest & IN_BITS;
	if (atomic_load_explicit(&s->ep->flags, memory_order_relaxed) & XVM_EPF_PADS_RST)
		out &= ~(uint32_t)(EPOLLERR | EPOLLHUP);
	if (atomic_load(&s->ep->err))
		out |= EPOLLERR; /* taken from the kernel, not yet told */
	out |= (r | kernel) & interest & EPOLLRDHUP;
	if ((interest & OUT_BITS) && xvm_tx_ready(s, fd, kernel))
		out |= interest & OUT_BITS;
	return out | off_ring(s, fd, interest & ~(out | kernel), out, tx, rx);
}

uint32_t xvm_sock_peek(struct xvm_sock *s, uint32_t interest)
{
	uint32_t out = 0;

	if ((interest & IN_BITS) && xvm_rx_peek(s))
		out |= interest & IN_BITS;
	if ((interest & OUT_BITS) && xvm_tx_peek(s))
		out |= interest & OUT_BITS;
	return out;
}

uint32_t xvm_sock_kmask(struct xvm_sock *s, uint32_t interest)
{
	uint32_t mask = interest & ~(uint32_t)(OUT_BITS | IN_BITS);

	/* W3: pads come as input, also to one that waits for room only; but where input is not
	 * pads, and he does not want it, it would wake him for ever. */
	if ((interest & IN_BITS) || xvm_tx_pad_wakes(s))
		mask |= EPOLLIN;
	if (((interest & OUT_BITS) && !(*(volatile uint64_t *)&s->ep->tx_epoch & 1)) ||
	    xvm_tx_owes(s))
		mask |= EPOLLOUT;
	/* A sender must hear of its peer's end to find out whether anyone is there (S7). */
	if ((interest & OUT_BITS) && !(atomic_load(&s->ep->flags) & XVM_EPF_FIN_SEEN))
		mask |= EPOLLRDHUP;
	return mask;
}

#define AGAIN_MS 5 /* the bound of a sleep that nobody may end */

/*
 * Who sleeps: the process, in the upper half, and in it an eventfd, or (by pad) who asks: a thread
 * by its tid, an epoll by its address in their pool.
 */
static uint64_t sleeper_name(struct xvm_waker *w, uint64_t who)
{
	uint64_t in = w		       ? w->index
		      : who < 1u << 30 ? who | 1u << 30
				       : (who >> 4 & 0x7fffffff) | 1u << 31;

	return (uint64_t)xvm_pid() << 32 | in;
}

bool xvm_sock_sleeps(_Atomic uint64_t *sleeper)
{
	uint64_t who = atomic_load(sleeper);
	uint32_t pid = (uint32_t)(who >> 32);

	if (!who)
		return false;
	if (pid == (uint32_t)xvm_pid() || xvm_conf.sandboxed || !xvm_lock_dead(pid))
		return true;
	atomic_compare_exchange_strong(sleeper, &who, 0); /* killed in its sleep */
	return false;
}

/* The sleep word is me's from now on, if nobody else sleeps by it. */
static bool claim(_Atomic uint64_t *sleeper, uint64_t me)
{
	uint64_t was = 0;

	if (atomic_compare_exchange_strong(sleeper, &was, me) || was == me)
		return true;
	was = 0;
	return !xvm_sock_sleeps(sleeper) && atomic_compare_exchange_strong(sleeper, &was, me);
}

/* W3: what the peer calls w, if it can ring it; else 0. */
static unsigned name_for_peer(struct xvm_sock *s, const struct xvm_waker *w)
{
	uint64_t have = atomic_load_explicit(&s->peer.shm->have_wakers, memory_order_relaxed);

	if (!s->proc->vm)
		return have >> w->index & 1 ? XVM_WAKER_FD + w->index : 0;
	return w->vector && w->region == s->proc->region && (have >> w->vector & 1)
		       ? XVM_WAKER_VECTOR + w->vector
		       : 0;
}

/* One word: named for w if the peer can ring it and nobody else sleeps on it, else the pad. */
static int arm(struct xvm_sock *s, _Atomic uint64_t *word, _Atomic uint64_t *sleeper,
	       _Atomic uint64_t *pads, struct xvm_waker *w, uint64_t seq)
{
	unsigned name;

	if (!claim(sleeper, sleeper_name(w, seq)))
		return AGAIN_MS; /* W3: the word is another sleeper's; look again by and by */
	if (w && !s->inherited && (name = name_for_peer(s, w)))
		atomic_store_explicit(word, XVM_SLEEP(seq, name), memory_order_relaxed);
	else
		atomic_store_explicit(
			word,
			XVM_SLEEP(atomic_fetch_add_explicit(pads, 1, memory_order_relaxed) + 2,
				  XVM_WAKER_PAD),
			memory_order_relaxed);
	return -1;
}

int xvm_sock_arm(struct xvm_sock *s, int fd, uint32_t interest, struct xvm_waker *w, uint64_t seq)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *m = s->mine.shm;
	int bound = -1;

	if (interest & IN_BITS)
		bound = arm(s, &m->sleep_data, &ep->rx_sleeper, &ep->rx_seq, w, seq);
	if (interest & IN_BITS)
		xvm_rx_lowat(s, fd);
	if ((interest & OUT_BITS) && (*(volatile uint64_t *)&ep->tx_epoch & 1)) {
		int b = arm(s, &m->sleep_room, &ep->tx_sleeper, &ep->tx_seq, w, seq);

		bool fin = atomic_load(&ep->flags) & XVM_EPF_FIN_SEEN;

		/* W4, S7: nobody could wake us for room, or nobody may be there to do it. */
		if (fin || (XVM_SLEEP_WAKER(atomic_load(&m->sleep_room)) == XVM_WAKER_PAD &&
			    !xvm_tx_pad_wakes(s))) {
			atomic_thread_fence(memory_order_seq_cst);
			if (!xvm_tx_peek(s) && xvm_tx_leave(s, fd, XVM_R_NO_CONSENT) < 0) {
				b = AGAIN_MS;
				if (fin)
					xvm_tx_probe(s, fd);
			}
		}
		if (b >= 0)
			bound = b;
	}
	atomic_store_explicit(&m->cpu, (uint32_t)sched_getcpu() + 1, memory_order_relaxed);
	/* W1: the word is out before we look again; pairs with the fences of W2. */
	atomic_thread_fence(memory_order_seq_cst);
	if (__builtin_expect(xvm_cut_by_peer(s), 0))
		xvm_tx_leave(s, fd, XVM_R_PEER_LEFT); /* C2 */
	return bound;
}

void xvm_sock_disarm(struct xvm_sock *s, uint32_t interest, struct xvm_waker *w, uint64_t who)
{
	uint64_t me = sleeper_name(w, who), was = me;

	if (interest & IN_BITS)
		atomic_compare_exchange_strong(&s->ep->rx_sleeper, &was, 0);
	was = me;
	if (interest & OUT_BITS)
		atomic_compare_exchange_strong(&s->ep->tx_sleeper, &was, 0);
}

/* kmask was read after the arming, and what both ask for may have changed in between. */
bool xvm_sock_unwakeable(struct xvm_sock *s, uint32_t kmask)
{
	if (!(*(volatile uint64_t *)&s->ep->tx_epoch & 1))
		return false;
	return (atomic_load(&s->ep->flags) & XVM_EPF_FIN_SEEN) ||
	       (XVM_SLEEP_WAKER(atomic_load(&s->mine.shm->sleep_room)) == XVM_WAKER_PAD &&
		!(kmask & EPOLLIN));
}

struct xvm_edge xvm_sock_edge(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	uint32_t flags = atomic_load(&ep->flags);
	struct xvm_edge e;

	/* Each end is one, our own as well. */
	e.in = atomic_load_explicit(&s->peer.shm->head, memory_order_acquire) +
	       *(volatile uint64_t *)&ep->rx_epoch + (flags & XVM_EPF_FIN_SEEN ? 1 : 0) +
	       (flags & XVM_EPF_RX_SHUT ? 1 : 0) +
	       (atomic_load_explicit(&s->peer.shm->fin, memory_order_relaxed) ? 1 : 0);
	/* Room makes an edge only after a send that found none. */
	e.out = atomic_load_explicit(&ep->tx_full, memory_order_relaxed) +
		*(volatile uint64_t *)&ep->tx_epoch + (flags & XVM_EPF_TX_SHUT ? 1 : 0);
	return e;
}

bool xvm_sock_same_cpu(struct xvm_sock *s)
{
	/* Another machine's numbers mean other CPUs. */
	if (s->proc->vm)
		return false;
	return atomic_load_explicit(&s->peer.shm->cpu, memory_order_relaxed) ==
	       (uint32_t)sched_getcpu() + 1;
}

static bool spin(struct xvm_sock *s, uint32_t what)
{
	uint64_t budget = xvm_spin_budget(), start;

	if (!budget || xvm_sock_same_cpu(s))
		return false;
	start = xvm_now_ns();
	for (;;) {
		for (int i = 0; i < 64; i++) {
			if (xvm_sock_peek(s, what)) {
				xvm_spin_won(xvm_now_ns() - start);
				XVM_COUNT(spins_won);
				return true;
			}
#if defined(__x86_64__)
			__builtin_ia32_pause();
#endif
		}
		if (xvm_now_ns() - start > budget)
			break;
	}
	XVM_COUNT(spins_lost);
	return false;
}

struct nap {
	struct xvm_sock *s;
	uint32_t what;
	struct xvm_waker *w;
};

/* The thread is cancelled in its sleep. Our ring may have come: it is not for the next one. */
static void cancelled(void *arg)
{
	struct nap *n = arg;

	xvm_sock_disarm(n->s, n->what, n->w, xvm_lock_tid());
	xvm_sock_awake(n->s);
	if (n->w) {
		if (n->what == EPOLLOUT)
			xvm_announce_one(n->w, NULL);
		xvm_waker_drain(n->w);
		xvm_waker_put(n->w);
	}
}

/* The sleep itself, a cancellation point. A negative errno on failure. */
static int sleep_guarded(struct nap *nap, struct pollfd pfd[2], const struct timespec *ts)
{
	int r;

	pthread_cleanup_push(cancelled, nap);
	r = REAL(ppoll)(pfd, 2, ts, NULL);
	if (r < 0)
		r = -errno;
	pthread_cleanup_pop(0);
	return r;
}

/*
 * The same in a call that the kernel restarts, or not, as it does recv(): asleep by pad, as only
 * the fd itself can end it. 0: look again; -EAGAIN: not to be had, another thread has made the fd
 * non-blocking.
 */
static int sleep_restartable(struct nap *nap, int fd)
{
	struct xvm_shm_ep *ep = nap->s->ep;
	ssize_t r;
	char c;

	pthread_cleanup_push(cancelled, nap);
	r = REAL(recv)(fd, &c, 1, MSG_PEEK);
	if (r < 0)
		r = -errno;
	pthread_cleanup_pop(0);
	if (r == -EINTR || r == -EAGAIN)
		return (int)r;
	if (r == 0)
		atomic_fetch_or(&ep->flags, XVM_EPF_FIN_SEEN);
	if (r < 0)
		xvm_error_keep(nap->s, (int)-r);
	ep->rx_kcheck = 1;
	return 0;
}

/* The descriptor was closed while we slept, which ends no poll; but what does, input or a signal,
 * makes it find that. */
static bool interrupted(struct xvm_sock *s, int fd, uint32_t what)
{
	struct pollfd pfd = {.fd = xvm_sock_fd(s, fd)};

	pfd.events = (short)xvm_sock_kmask(s, what);
	return pfd.fd >= 0 && !xvm_sock_peek(s, what) && xvm_quiet_poll(&pfd, 1, 0) == 0;
}

int xvm_sock_wait_more(struct xvm_sock *s, int *fdp, uint64_t deadline)
{
	/* All but the end of the stream looks to the kernel as what is there already. */
	struct timespec ts = {0, 1000000};
	struct pollfd pfd = {.fd = xvm_sock_fd(s, *fdp), .events = POLLRDHUP};

	if (pfd.fd < 0)
		return -EBADF;
	*fdp = pfd.fd;
	if (REAL(ppoll)(&pfd, 1, &ts, NULL) && !(pfd.revents & POLLNVAL)) /* closed meanwhile */
		return -EINTR;
	return deadline && xvm_now_ns() >= deadline ? -EAGAIN : 0;
}

/*
 * The fd was closed, or became another file, while we slept on it. Whatever wakes poll(2), it looks
 * at the numbers anew, so what it says is not of our socket: was it a signal?
 */
static int moved_asleep(struct xvm_sock *s, int fd, uint32_t what, bool timed)
{
	struct pollfd pfd = {.fd = fd, .events = (short)xvm_sock_kmask(s, what)};

	if (fd < 0 || xvm_sock_peek(s, what))
		return 0;
	if (REAL(poll)(&pfd, 1, 0)) {
		s->ep->rx_kcheck = 1;
		return 0;
	}
	return !timed && xvm_restart_all() ? 0 : -EINTR;
}

int xvm_sock_wait(struct xvm_sock *s, int *fdp, uint32_t what, uint64_t deadline, bool timed)
{
	struct xvm_shm_ep *ep = s->ep;
	bool ring = what == EPOLLIN ? *(volatile uint64_t *)&ep->rx_epoch & 1
				    : *(volatile uint64_t *)&ep->tx_epoch & 1;
	struct xvm_waker *w = NULL;
	int fd;
	struct pollfd pfd[2] = {{.fd = -1}, {.events = POLLIN}};
	int by; /* the descriptor that it sleeps by */
	struct timespec ts;
	uint64_t now = 0, start, end = deadline;
	/* To peek at a byte would not wait for SO_RCVLOWAT of them. */
	bool restartable = what == EPOLLIN && !deadline && !timed && !xvm_conf.sandboxed &&
			   !(atomic_load(&ep->flags) & XVM_EPF_LOWAT) && xvm_restart_mixed();
	int bound, r;

	/* Counted before the look; who closes it looks at the count first. */
	atomic_fetch_add(&s->asleep, 1);
	fd = *fdp = xvm_sock_fd(s, *fdp);
	if (fd < 0) {
		xvm_sock_awake(s);
		return -EBADF; /* closed by another thread just when this one came in */
	}
	xvm_link_care();
	xvm_link_poll();
	obey(s, fd);
	if (ring && spin(s, what)) {
		xvm_sock_awake(s);
		return 0;
	}
	/* An inherited socket sleeps by pad; and making an eventfd is not for a sandbox. */
	w = restartable || s->inherited || xvm_conf.sandboxed ? NULL : xvm_waker_get();
	if (w)
		atomic_store_explicit(&w->sock, s, memory_order_relaxed);
	bound = xvm_sock_arm(s, fd, what, w, w ? xvm_waker_next(w) : xvm_lock_tid());
	/* Our own shutdown ends a wait for room, and the kernel does not tell of it. */
	if (w && what == EPOLLOUT)
		xvm_announce_one(w, s);
	by = w || restartable ? fd : xvm_ending_keep(s, fd);
	/* Closed meanwhile: who closes it from here on finds the waker, or leaves us ours. */
	if (xvm_sock_peek(s, what) || xvm_sock_fd(s, fd) != fd) {
		r = 0;
		goto out;
	}
	if (bound == AGAIN_MS)
		xvm_epoll_release(s);
	start = xvm_now_ns();
	if (bound >= 0 && (!end || end > start + (uint64_t)bound * 1000000))
		end = start + (uint64_t)bound * 1000000;
	if (end) {
		now = end > start ? end - start : 0;
		ts.tv_sec = (time_t)(now / 1000000000);
		ts.tv_nsec = (long)(now % 1000000000);
	}
	pfd[0].fd = by;
	pfd[0].events = (short)xvm_sock_kmask(s, what);
	if (what == EPOLLOUT && bound < 0 && xvm_sock_unwakeable(s, (uint32_t)pfd[0].events)) {
		r = 0;
		goto out;
	}
	pfd[1].fd = w ? w->fd : -1;
	XVM_COUNT(sleeps);
	r = restartable && !end ? sleep_restartable(&(struct nap){s, what, w}, fd) : -EAGAIN;
	if (r != -EAGAIN)
		goto out;
	r = sleep_guarded(&(struct nap){s, what, w}, pfd, end ? &ts : NULL);
	now = xvm_now_ns();
	if (ring)
		xvm_spin_slept(now - start);
	if (!xvm_sock_on(s)) { /* of a fork, in the handler: and it has closed it */
		r = r == -EINTR && (timed || !xvm_restart_all()) ? -EINTR : -EBADF;
		goto out;
	}
	if (r > 0 && (pfd[0].revents & POLLNVAL) && !pfd[1].revents && interrupted(s, fd, what))
		r = -EINTR;
	if (r < 0) {
		if (r == -EINTR && !timed && xvm_restart_all())
			r = 0;
	} else if (r == 0) {
		r = deadline && now >= deadline ? -EAGAIN : 0;
	} else {
		r = 0;
		if (pfd[0].revents && by == fd && xvm_sock_fd(s, fd) != fd) {
			pfd[0].revents = 0;
			if (!pfd[1].revents)
				r = moved_asleep(s, xvm_sock_fd(s, fd), what, timed);
		}
		if (pfd[0].revents)
			ep->rx_kcheck = 1;
		if (pfd[0].revents & POLLRDHUP)
			atomic_fetch_or(&ep->flags, XVM_EPF_FIN_SEEN);
		if (pfd[1].revents)
			xvm_waker_drain(w);
	}
out:
	if (w && what == EPOLLOUT)
		xvm_announce_one(w, NULL);
	xvm_sock_disarm(s, what, w, xvm_lock_tid());
	/* What woke us may be a pad that is kept for an epoll in which nobody sleeps. */
	if ((pfd[0].revents || (restartable && r == 0)) &&
	    atomic_load(what == EPOLLIN ? &ep->tx_sleeper : &ep->rx_sleeper))
		xvm_epoll_release(s);
	fd = *fdp = xvm_sock_fd(s, fd);
	xvm_sock_awake(s);
	if (r == 0 && fd < 0)
		r = -EBADF;
	/* Input that a sender does not take: pads; the receiving side sees to them. */
	if (r == 0 && what == EPOLLOUT && (pfd[0].revents & POLLIN) && xvm_sock_on(s))
		xvm_rx_ready(s, fd, EPOLLIN);
	if (w)
		xvm_waker_put(w);
	xvm_link_poll();
	return r;
}
