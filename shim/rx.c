/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving: what a call takes from TCP, from the ring (R3), on both sides of a boundary (R2), and
 * what it is told at the end (R5). Where the reader is: rx_path.c. Everything named *_locked runs
 * under ep->rx_lock, and never waits: to wait is xvm_sock_wait()'s part, without the lock.
 */
#define XVM_REAL_IS_QUIET
#include <limits.h>
#include <linux/sockios.h>

#include "shim/fault.h"
#include "shim/stream_priv.h"
#include "shim/waker.h"
#include "transport/lock.h"

/* What recvmsg() has beside bytes: nothing, on the ring. */
static void nothing_else(struct xvm_io *io)
{
	if (!io->msg || io->some) /* what the first receive of the call had */
		return;
	if (io->msg->msg_name)
		io->msg->msg_namelen = 0;
	io->msg->msg_controllen = 0;
	io->msg->msg_flags = io->flags & MSG_CMSG_CLOEXEC;
}

#define PIECES 16

/* Where the next bytes of the call go, of at most limit: how many pieces, and their sum. */
static size_t pieces(const struct xvm_io *io, uint64_t limit, struct iovec *to, size_t *sum)
{
	uint64_t left = limit < io->left ? limit : io->left;
	size_t n = 0, off = io->off, len;

	*sum = 0;
	for (size_t i = 0; left && n < PIECES && i < io->iovcnt; i++, off = 0) {
		len = io->iov[i].iov_len - off;
		if (len > left)
			len = (size_t)left;
		to[n].iov_base = (char *)io->iov[i].iov_base + off;
		to[n++].iov_len = len;
		left -= len;
		*sum += len;
	}
	return n;
}

/*
 * At most limit bytes into the call's buffers, and no fewer if they are there: one that waits for
 * edges takes a short answer for an empty socket.
 */
static ssize_t recv_limited(struct xvm_sock *s, int fd, const struct xvm_io *io, uint64_t limit,
			    int flags)
{
	struct xvm_io rest = *io;
	struct iovec iov[PIECES];
	struct msghdr mh;
	ssize_t done = 0, r;
	size_t sum;

	for (;;) {
		memset(&mh, 0, sizeof(mh));
		mh.msg_iov = iov;
		mh.msg_iovlen = pieces(&rest, limit - (uint64_t)done, iov, &sum);
		r = REAL(recvmsg)(fd, &mh, flags);
		if (r < 0 && !done)
			return -errno;
		/* An error that comes after bytes is the next call's to tell. */
		if (r < 0 && errno != EAGAIN && errno != EINTR && errno != EFAULT)
			xvm_rx_error_locked(s, errno);
		if (r > 0)
			done += r;
		if (r < (ssize_t)sum || (flags & MSG_PEEK) || (uint64_t)done == limit)
			return done;
		xvm_io_advance(&rest, (size_t)r);
		if (!rest.left)
			return done;
	}
}

/* What the kernel has, of at most limit bytes, never waiting. */
static ssize_t kernel_recv(struct xvm_sock *s, int fd, struct xvm_io *io, uint64_t limit)
{
	int flags = (io->flags & ~MSG_WAITALL) | MSG_DONTWAIT;
	/* The call's own message serves as long as nothing of it is done. */
	bool whole = io->msg && io->iov == io->msg->msg_iov && !io->off && io->left <= limit;
	struct iovec one;
	struct msghdr mh;
	ssize_t r;

	if (xvm_conf.sandboxed) {
		one.iov_base = (char *)io->iov[0].iov_base + io->off;
		one.iov_len = io->iov[0].iov_len - io->off;
		if (one.iov_len > limit)
			one.iov_len = limit;
		if (io->flags & MSG_PEEK)
			return -EOPNOTSUPP; /* read() would consume */
		if (!xvm_readable(fd))
			return -EAGAIN;
		r = REAL(read)(fd, one.iov_base, one.iov_len);
		return r < 0 ? -errno : r;
	}
	if (whole) {
		r = REAL(recvmsg)(fd, io->msg, flags);
		return r < 0 ? -errno : r;
	}
	if (io->off || io->left > limit) {
		r = recv_limited(s, fd, io, limit, flags);
	} else {
		memset(&mh, 0, sizeof(mh));
		mh.msg_iov = io->iov;
		mh.msg_iovlen = io->iovcnt;
		r = REAL(recvmsg)(fd, &mh, flags);
		if (r < 0)
			r = -errno;
	}
	if (r >= 0)
		nothing_else(io);
	return r;
}

/*
 * Copy from the ring into the call's buffer: bytes, or -EFAULT. As from TCP, which has its own
 * chunks, a bad address spoils the chunk that it is in, and those before are delivered.
 */
static ssize_t copy_out(struct xvm_sock *s, struct xvm_io *io, uint64_t pos, uint64_t avail)
{
	size_t want = io->left < avail ? io->left : (size_t)avail, done = 0, off = io->off;

	if (want == 0 || (io->flags & MSG_TRUNC))
		return (ssize_t)want; /* TCP: thrown away, not copied */
	if (xvm_io_simple(io, want))
		return xvm_user_get(&s->peer, pos, (char *)io->iov[0].iov_base + off, want) < 0
			       ? -EFAULT
			       : (ssize_t)want;
	for (size_t i = 0; done < want;) {
		size_t k = xvm_io_piece(io, i, off, done, want);

		if (xvm_user_get(&s->peer, pos + done, (char *)io->iov[i].iov_base + off, k) < 0)
			return xvm_io_fault(done);
		done += k;
		off += k;
		if (off == io->iov[i].iov_len)
			i++, off = 0;
	}
	return (ssize_t)want;
}

/* An error that a receive would tell, as it finds nothing? That of who has had the FIN it does not.
 */
static bool has_error(struct xvm_shm_ep *ep)
{
	int err = atomic_load_explicit(&ep->err, memory_order_relaxed);

	return err && err != EPIPE && ep->rx_end != XVM_END_FIN;
}

/* R5: an error is told once, then the end. */
static ssize_t end_locked(struct xvm_sock *s, struct xvm_io *io)
{
	int err = has_error(s->ep) ? xvm_error_take(s->ep) : 0;

	if (err)
		return -err;
	nothing_else(io);
	return 0;
}

/* A peek that has reached the boundary goes on in the ring, n bytes into the call's buffer. */
static size_t peek_ring(struct xvm_sock *s, const struct xvm_io *io, size_t n)
{
	struct xvm_io rest = *io;
	uint64_t avail =
		atomic_load_explicit(&s->peer.shm->head, memory_order_acquire) - s->ep->rx_tail;

	ssize_t r;

	xvm_io_advance(&rest, n);
	if (!rest.left || avail > s->peer.ring_size)
		return 0;
	r = copy_out(s, &rest, s->ep->rx_tail, avail);
	return r > 0 ? (size_t)r : 0;
}

#define PADS_PEEK 256 /* a peek looks across so many */

/* The opposite: S has left, and behind n bytes of the ring lie the pads up to the boundary, and
 * then bytes of TCP. */
static size_t peek_tcp(struct xvm_sock *s, int fd, const struct xvm_io *io, size_t n)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	struct xvm_io rest = *io;
	struct iovec iov[PIECES + 1];
	char pads[PADS_PEEK];
	struct msghdr mh;
	uint64_t due;
	size_t sum;
	ssize_t r;

	if (n == io->left || xvm_conf.sandboxed || xvm_cut_begun(s) ||
	    atomic_load_explicit(&p->epoch, memory_order_acquire) != ep->rx_epoch + 1 ||
	    atomic_load_explicit(&p->bnd_ring, memory_order_relaxed) != ep->rx_tail + n)
		return 0;
	due = atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed) - ep->rx_tcp_got;
	if (due > sizeof(pads))
		return 0;
	xvm_io_advance(&rest, n);
	memset(&mh, 0, sizeof(mh));
	iov[0] = (struct iovec){pads, (size_t)due};
	mh.msg_iov = iov;
	mh.msg_iovlen = 1 + pieces(&rest, UINT64_MAX, iov + 1, &sum);
	r = REAL(recvmsg)(fd, &mh, (io->flags & ~MSG_WAITALL) | MSG_DONTWAIT);
	if (r < 0)
		xvm_error_keep(s, errno);
	return r > (ssize_t)due ? (size_t)r - (size_t)due : 0;
}

/* Bytes taken (or peeked), 0 at the end, -EAGAIN where there is nothing now. */
static ssize_t take_locked(struct xvm_sock *s, int fd, struct xvm_io *io, bool wait)
{
	struct xvm_shm_ep *ep = s->ep;
	struct xvm_shm_half *p = s->peer.shm;
	uint64_t avail, epoch, bnd, limit;
	bool bounded, shut;
	ssize_t r;
	int err, mark = 0;

	xvm_rx_recount_locked(s, fd);
	if (!atomic_load_explicit(&s->mine.shm->consent, memory_order_relaxed))
		xvm_rx_consent_locked(s, fd);
	for (;;) {
		err = xvm_rx_settle_locked(s, fd, &avail);
		if (err)
			return err;
		if (avail) {
			ssize_t n = copy_out(s, io, ep->rx_tail, avail);

			if (n < 0)
				return n;
			if (!(io->flags & MSG_PEEK)) {
				ep->rx_tail += (size_t)n;
				atomic_store_explicit(&ep->n_rx_ring, ep->rx_tail,
						      memory_order_relaxed);
				/* The bytes are ours before the peer may overwrite them: pairs with
				 * the acquire of tail in tx.c. */
				atomic_store_explicit(&s->mine.shm->tail, ep->rx_tail,
						      memory_order_release);
			} else if ((size_t)n == avail) {
				n += (ssize_t)peek_tcp(s, fd, io, (size_t)n);
			}
			nothing_else(io);
			return n;
		}
		epoch = ep->rx_epoch;
		if (epoch & 1) { /* on the ring, and it is empty */
			uint64_t fin = atomic_load_explicit(&p->fin, memory_order_acquire);

			if (fin && fin == ep->rx_tail + 1 && atomic_load(&p->epoch) == epoch)
				xvm_rx_eof_locked(s);
			if (ep->rx_end || has_error(ep))
				return end_locked(s, io);
			shut = atomic_load_explicit(&ep->flags, memory_order_relaxed) &
			       XVM_EPF_RX_SHUT;
			if (atomic_load(&p->epoch) != epoch) /* left; the pad is under way */
				return shut ? end_locked(s, io) : -EAGAIN;
			/* Who does not wait wants to hear of the end now, as from TCP; who waits
			 * will be told by poll. */
			if ((ep->rx_kcheck || !wait || shut) && xvm_pads_ask_locked(s, fd))
				continue;
			return shut || has_error(ep) ? end_locked(s, io) : -EAGAIN;
		}
		if (ep->rx_end == XVM_END_ERROR)
			return end_locked(s, io);
		limit = UINT64_MAX;
		bounded = !xvm_cut_done(s);
		if (bounded && atomic_load_explicit(&p->epoch, memory_order_acquire) != epoch) {
			limit = atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed) -
				ep->rx_tcp_got;
			/* Entered since xvm_rx_settle_locked() looked. To ask the kernel for no
			 * bytes would be answered by 0 where a pad lies there, and that is no end.
			 */
			if ((int64_t)limit <= 0)
				continue;
		}
		if (io->some && !xvm_conf.sandboxed && REAL(ioctl)(fd, SIOCATMARK, &mark) == 0 &&
		    mark) {
			io->mark = true;
			return -EAGAIN;
		}
		xvm_busy(&ep->rx_busy, true);
		r = kernel_recv(s, fd, io, limit);
		if (r == -EFAULT) { /* the call's error, not the connection's; nothing is taken */
			xvm_busy(&ep->rx_busy, false);
			return r;
		}
		if (bounded && atomic_load_explicit(&p->epoch, memory_order_acquire) != epoch &&
		    (atomic_load(&ep->flags) & XVM_EPF_RX_POS)) {
			bnd = atomic_load_explicit(&p->bnd_tcp, memory_order_relaxed);
			if (r > 0) { /* R2: what lies behind the boundary is pads */
				uint64_t over = 0, got = ep->rx_tcp_got + (uint64_t)r;

				if ((int64_t)(got - bnd) > 0)
					over = got - bnd;
				if (over > (uint64_t)r)
					return xvm_sock_broken(s, fd);
				if (!(io->flags & MSG_PEEK)) {
					ep->rx_tcp_got = got;
					ep->rx_pads += over;
					XVM_COUNT_BY(pads_taken, over);
					atomic_fetch_add_explicit(&ep->n_rx_tcp, (uint64_t)r - over,
								  memory_order_relaxed);
				}
				xvm_busy(&ep->rx_busy, false);
				if (over && !(io->flags & MSG_PEEK)) {
					/* The count is beyond the boundary, for pads: we are there.
					 */
					if (atomic_load(&p->bnd_ring) != ep->rx_tail)
						return xvm_sock_broken(s, fd);
					xvm_rx_reach_locked(s, epoch + 1);
				}
				r -= (ssize_t)over;
				if ((io->flags & MSG_PEEK) && r > 0 &&
				    ep->rx_tcp_got + (uint64_t)r == bnd)
					r += (ssize_t)peek_ring(s, io, (size_t)r);
				if (r == 0) {
					if ((io->flags & MSG_PEEK) && bnd != ep->rx_tcp_got)
						return xvm_sock_broken(s, fd);
					continue;
				}
				return r;
			}
			xvm_busy(&ep->rx_busy, false);
			if (bnd == ep->rx_tcp_got) {
				/* R3: the ring goes before what the kernel says. */
				if (r == 0 && io->left)
					xvm_rx_zero_locked(s);
				else if (r < 0 && r != -EAGAIN && r != -EINTR)
					xvm_rx_error_locked(s, (int)-r);
				continue;
			}
		}
		if (r > 0 && !(io->flags & MSG_PEEK)) {
			ep->rx_tcp_got += (uint64_t)r;
			atomic_fetch_add_explicit(&ep->n_rx_tcp, (uint64_t)r, memory_order_relaxed);
		}
		xvm_busy(&ep->rx_busy, false);
		if (r == 0 && io->left) {
			xvm_rx_zero_locked(s);
			return end_locked(s, io);
		}
		if (r < 0 && r != -EAGAIN && r != -EINTR) {
			xvm_rx_error_locked(s, (int)-r);
			/* Or it is the call's, as where its descriptor was closed. */
			return ep->rx_end || has_error(ep) ? end_locked(s, io) : r;
		}
		return r == -EAGAIN && has_error(ep) ? end_locked(s, io) : r;
	}
}

/* How many bytes a call that waits waits for. */
static size_t wanted(const struct xvm_io *io, size_t low)
{
	if ((io->flags & MSG_WAITALL) || low > io->left)
		low = io->left;
	return low < 1 ? 1 : low; /* also for no bytes one waits for input */
}

/* Who waits and looks by turns is in its call all the time, whoever closes the descriptor. */
static void stay(struct xvm_sock **held, struct xvm_sock *s)
{
	if (!*held)
		atomic_fetch_add(&s->asleep, 1);
	*held = s;
}

static void let_go(struct xvm_sock **held)
{
	if (*held)
		xvm_sock_awake(*held);
}

ssize_t xvm_rx(struct xvm_sock *s, int fd, struct xvm_io *io)
{
	struct xvm_shm_ep *ep = s->ep;
	bool wait = !(io->flags & MSG_DONTWAIT) && !(atomic_load(&ep->flags) & XVM_EPF_NONBLOCK);
	uint64_t deadline = 0;
	int64_t timeo = atomic_load_explicit(&ep->rcvtimeo_us, memory_order_relaxed);
	ssize_t r, done = 0, peeked = 0, base = 0, ended = 0;
	bool last = false, waited = false, few;
	size_t want = 1, low = 1;
	bool none = !io->left;
	uint32_t forks = xvm_forks;
	uint64_t epoch, taken = 0, now;
	struct xvm_sock *held __attribute__((cleanup(let_go))) = NULL;

	if (io->flags & (MSG_OOB | MSG_ERRQUEUE)) {
		r = REAL(recvmsg)(
			fd,
			io->msg ? io->msg
				: &(struct msghdr){.msg_iov = io->iov, .msg_iovlen = io->iovcnt},
			io->flags);
		return r < 0 ? -errno : r;
	}
	xvm_io_trim(io);
	if (wait && (atomic_load(&ep->flags) & XVM_EPF_LOWAT))
		low = atomic_load(&ep->lowat);
	if (wait || (io->flags & MSG_WAITALL))
		want = wanted(io, low);
	for (;;) {
		r = xvm_lock(&ep->rx_lock);
		if (r < 0)
			return wait ? -EINTR : -EAGAIN;
		epoch = ep->rx_epoch;
		/* The kernel wakes nobody for less than SO_RCVLOWAT, whatever he has already. */
		few = waited && !last && low > 1 && !xvm_rx_enough_locked(s, fd);
		/* A peek keeps what another has taken meanwhile, and goes on behind that. */
		if (io->flags & MSG_PEEK) {
			now = atomic_load(&ep->n_rx_ring) + atomic_load(&ep->n_rx_tcp);
			if (peeked && now != taken) {
				xvm_io_advance(io, (size_t)peeked);
				want = want > (size_t)peeked ? want - (size_t)peeked : 1;
				base += peeked;
				peeked = 0;
			}
			taken = now;
		}
		r = few ? -EAGAIN : take_locked(s, fd, io, wait);
		epoch ^= ep->rx_epoch;
		/* If it was taken from us wrongly, no byte is to be lost by that. */
		if (!xvm_unlock(&ep->rx_lock) && forks != xvm_forks)
			return -EINTR; /* adrift.c */
		if (r > 0) {
			if (io->flags & MSG_PEEK) {
				/* A ring that has just grown may not be filled to its end (G1). */
				size_t most = s->peer.ring_size / 2;

				if (most > want)
					most = want;
				if (r > peeked)
					peeked = r;
				if (!wait || last || (size_t)r >= most)
					return base + peeked;
				if (timeo && !deadline)
					deadline = xvm_now_ns() + (uint64_t)timeo * 1000;
				stay(&held, s);
				last = xvm_sock_wait_more(s, &fd, deadline) < 0;
				waited = true;
				continue;
			}
			xvm_rx_room(s, fd);
			done += r;
			if ((size_t)r == io->left)
				return done;
			xvm_io_advance(io, (size_t)r);
			/* One receive takes all that is there, also on both sides of a boundary. */
			if ((size_t)done >= want && !epoch &&
			    atomic_load(&s->peer.shm->epoch) == ep->rx_epoch)
				return done;
			io->some = true;
			continue;
		}
		if (r != -EAGAIN || !wait || last || io->mark || (size_t)done >= want)
			break;
		if (timeo && !deadline)
			deadline = xvm_now_ns() + (uint64_t)timeo * 1000;
		waited = true;
		/* Of too few bytes no wake-up tells. */
		if (few && (peeked || xvm_rx_peek(s))) {
			stay(&held, s);
			last = xvm_sock_wait_more(s, &fd, deadline) < 0;
			continue;
		}
		/* With something done the kernel restarts no call either. */
		r = xvm_sock_wait(s, &fd, EPOLLIN, deadline, timeo || done || base || peeked);
		/* Who goes without having waited to the end takes what there is. */
		if (r < 0 && r != -EBADF && low > 1) {
			ended = r;
			last = true;
		} else if (r < 0) {
			break;
		}
	}
	if (r == -EAGAIN && ended)
		r = ended;
	/* Who waits for input to take none of it: whatever ends that, it is not told. */
	if (none && waited && r < 0 && r != -EBADF) {
		xvm_error_keep(s, (int)-r);
		r = 0;
	}
	/* Another has taken what this peek had found and waited beside. */
	done += base + peeked;
	/* An error that came after bytes is the next call's to tell. */
	if (done && r < 0)
		xvm_error_keep(s, (int)-r);
	return done ? done : r;
}

void xvm_rx_room(struct xvm_sock *s, int fd)
{
	uint64_t word, used;

	/* W1, W2: tail is out before the word is read; pairs with the fence in xvm_sock_arm(). */
	atomic_thread_fence(memory_order_seq_cst);
	word = atomic_load_explicit(&s->peer.shm->sleep_room, memory_order_relaxed);
	if (word == atomic_load_explicit(&s->rung_room, memory_order_relaxed))
		return;
	used = atomic_load_explicit(&s->peer.shm->head, memory_order_relaxed) -
	       atomic_load_explicit(&s->mine.shm->tail, memory_order_relaxed);
	if (used <= s->peer.ring_size / 2) /* W5 */
		xvm_tx_wake(s, fd, word, &s->rung_room, false);
}
