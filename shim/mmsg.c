/* SPDX-License-Identifier: Apache-2.0 */
/* Many messages in one call. As in the kernel the call holds the socket, whoever closes the
 * descriptor meanwhile, and what stops it after the first message is not told by this call. */
#include <limits.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/stream.h"

/* A paired socket, for as long as the variable lives: also one whose thread is cancelled. */
struct held {
	struct xvm_sock *s;
};

static void release(struct held *h)
{
	if (!h->s)
		return;
	xvm_sock_awake(h->s);
	xvm_sock_put(h->s);
}
#define HELD __attribute__((cleanup(release)))

/* Takes over the reference. Counted before the descriptor is looked up; who closes that looks at
 * the count first, and leaves us another (ending.c). */
static void hold(struct held *h, struct xvm_sock *s)
{
	atomic_fetch_add(&s->asleep, 1);
	h->s = s;
}

/* For one message, which puts a reference of its own. A negative errno where there is no descriptor
 * left. */
static int use(struct held *h, int fd)
{
	fd = xvm_sock_fd(h->s, fd);
	if (fd < 0)
		return -EBADF;
	atomic_fetch_add(&h->s->file.users, 1);
	return fd;
}

static int tell_len(struct mmsghdr *v, ssize_t r)
{
	unsigned n = (unsigned)r;

	return xvm_user_copy(&v->msg_len, &n, sizeof(n)) < 0 ? (int)xvm_result(-EFAULT) : 0;
}

/* What the kernel's own call has moved: bytes, for the count. */
static int unclaim(struct xvm_counted *counted, const struct mmsghdr *v, int r)
{
	ssize_t sum = 0;

	for (int i = 0; counted->s && i < r; i++)
		sum += v[i].msg_len;
	if (r <= 0)
		return (int)xvm_io_unclaim(counted, r);
	xvm_io_unclaim(counted, sum);
	return r;
}

/* What is left until end; never below 0. */
static struct timespec left_of(uint64_t end)
{
	uint64_t now = xvm_now_ns(), ns = end > now ? end - now : 0;

	return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

static int receive(struct xvm_sock *s, int fd, struct mmsghdr *v, unsigned n, int flags,
		   struct timespec *ts)
{
	struct held held HELD = {NULL};
	struct timespec left;
	uint64_t end = 0;
	int r = 0, e;
	unsigned i = 0;
	ssize_t got;

	hold(&held, s);
	if (ts) {
		if (xvm_user_copy(&left, ts, sizeof(left)) < 0)
			return (int)xvm_result(-EFAULT);
		if (left.tv_sec < 0 || left.tv_nsec < 0 || left.tv_nsec >= 1000000000)
			return (int)xvm_result(-EINVAL);
		end = left.tv_sec < INT64_MAX / 2000000000
			      ? xvm_now_ns() + (uint64_t)left.tv_sec * 1000000000 +
					(uint64_t)left.tv_nsec
			      : UINT64_MAX;
	}
	/* An error goes before what there is to be received. */
	e = flags & MSG_ERRQUEUE ? 0 : xvm_sock_error(s, fd);
	if (e)
		return (int)xvm_result(-e);
	while (i < n) {
		r = use(&held, fd);
		if (r < 0) {
			r = (int)xvm_result(r);
			break;
		}
		fd = r;
		got = xvm_io_recvmsg(s, fd, &v[i].msg_hdr, flags & ~MSG_WAITFORONE);
		r = got < 0 ? -1 : tell_len(&v[i], got);
		if (r < 0)
			break;
		i++;
		if (flags & MSG_WAITFORONE)
			flags |= MSG_DONTWAIT;
		/* Only now is the time looked at: it bounds no wait. */
		if (ts && end != UINT64_MAX) {
			left = left_of(end);
			if (left.tv_sec == 0 && left.tv_nsec == 0)
				break;
		}
		if (flags & MSG_OOB)
			break;
	}
	e = errno;
	/* For the next call to tell, or SO_ERROR. What a signal has ended is no error. */
	if (r < 0 && i && e != EAGAIN && e != EINTR)
		atomic_store(&s->ep->err, e);
	if (ts && i && xvm_user_copy(ts, &left, sizeof(left)) < 0)
		return (int)xvm_result(-EFAULT);
	errno = e;
	return i ? (int)i : r;
}

XVM_WRAP int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *ts)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s = xvm_io_claim(fd, true, &counted);
	int r;

	if (s)
		return receive(s, fd, v, n, flags, ts);
	r = REAL(recvmmsg)(fd, v, n, flags, ts);
	for (int i = 0; !counted.s && i < r; i++)
		xvm_io_arrived(&v[i].msg_hdr);
	return unclaim(&counted, v, r);
}

static size_t length(const struct msghdr *msg)
{
	size_t sum = 0;

	for (size_t i = 0; i < msg->msg_iovlen && i < IOV_MAX; i++)
		sum += msg->msg_iov[i].iov_len;
	return sum;
}

static int transmit(struct xvm_sock *s, int fd, struct mmsghdr *v, unsigned n, int flags)
{
	struct held held HELD = {NULL};
	unsigned i = 0;
	ssize_t r = 0;

	hold(&held, s);
	if (n > IOV_MAX)
		n = IOV_MAX;
	while (i < n) {
		fd = use(&held, fd);
		if (fd < 0) {
			r = xvm_result(fd);
			break;
		}
		r = xvm_io_sendmsg(s, fd, &v[i].msg_hdr, flags);
		if (r < 0)
			break;
		if (tell_len(&v[i], r) < 0) {
			r = -1;
			break;
		}
		/* What follows a short one would leave a hole. */
		if ((size_t)r < length(&v[i++].msg_hdr))
			break;
	}
	return i ? (int)i : (int)r;
}

XVM_WRAP int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	struct xvm_counted counted XVM_CLEANUP;
	struct xvm_sock *s;

	xvm_io_urgent(fd, flags);
	s = xvm_io_claim(fd, false, &counted);
	if (s)
		return transmit(s, fd, v, n, flags);
	for (unsigned i = 0; !counted.s && i < n && i < IOV_MAX; i++)
		xvm_io_leaving(&v[i].msg_hdr);
	return unclaim(&counted, v, REAL(sendmmsg)(fd, v, n, flags));
}

XVM_WRAP int __sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	return sendmmsg(fd, v, n, flags);
}
