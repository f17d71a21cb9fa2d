/* SPDX-License-Identifier: Apache-2.0 */
/* Many messages in one call: of a stream, as many calls. As in the kernel, what stops them after
 * the first is not told by this call. */
#include <limits.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/stream.h"

static int tell_len(struct mmsghdr *v, ssize_t r)
{
	unsigned n = (unsigned)r;

	return xvm_user_copy(&v->msg_len, &n, sizeof(n)) < 0 ? (int)xvm_result(-EFAULT) : 0;
}

/* The kernel tells of an error that came after some messages by the next call. */
static void postpone(int fd)
{
	struct xvm_sock *s;

	if (errno != ECONNRESET && errno != ETIMEDOUT)
		return;
	s = xvm_sock_get(fd);
	if (!s)
		return;
	if (xvm_sock_on(s))
		s->ep->rx_err = errno;
	xvm_sock_put(s);
}

/* What is left until end; never below 0. */
static struct timespec left_of(uint64_t end)
{
	uint64_t now = xvm_now_ns(), ns = end > now ? end - now : 0;

	return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

XVM_WRAP int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *ts)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	struct timespec left;
	uint64_t end = 0;
	int r = 0, e;
	unsigned i = 0;
	ssize_t got;

	if (!s)
		return REAL(recvmmsg)(fd, v, n, flags, ts);
	xvm_sock_put(s);
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
	while (i < n) {
		got = recvmsg(fd, &v[i].msg_hdr, flags & ~MSG_WAITFORONE);
		if (got < 0) {
			r = -1;
			break;
		}
		r = tell_len(&v[i], got);
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
	}
	if (r < 0 && i)
		postpone(fd);
	e = errno;
	if (ts && i && xvm_user_copy(ts, &left, sizeof(left)) < 0)
		return (int)xvm_result(-EFAULT);
	errno = e;
	return i ? (int)i : r;
}

static size_t length(const struct msghdr *msg)
{
	size_t sum = 0;

	for (size_t i = 0; i < msg->msg_iovlen && i < IOV_MAX; i++)
		sum += msg->msg_iov[i].iov_len;
	return sum;
}

XVM_WRAP int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	unsigned i = 0;
	ssize_t r = 0;

	if (!s)
		return REAL(sendmmsg)(fd, v, n, flags);
	xvm_sock_put(s);
	if (n > IOV_MAX)
		n = IOV_MAX;
	while (i < n) {
		r = sendmsg(fd, &v[i].msg_hdr, flags);
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

XVM_WRAP int __sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	return sendmmsg(fd, v, n, flags);
}
