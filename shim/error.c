/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error of a connection. The kernel tells it once, to whichever call asks first, and that may
 * be one of our own: a pad that is sent, a look for pads. Then it is kept here, until a call of the
 * application's ends as the kernel would have ended it: a send, a receive that finds nothing (not
 * after the peer's FIN), recvmmsg(), SO_ERROR. As long, poll reports POLLERR.
 *
 * EPIPE is two things. A connection that is reset after its peer's FIN has it for its error; but it
 * is also what a send is told after our own shutdown, and after the error was told.
 */
#define XVM_REAL_IS_QUIET
#include "shim/stream_priv.h"
#include "transport/lock.h"

bool xvm_error_final(int err)
{
	return err == ECONNRESET || err == EPIPE || err == ETIMEDOUT;
}

/* Is err the connection's? Then the kernel has no more to tell. */
static bool seen(struct xvm_sock *s, int err)
{
	uint32_t flags = atomic_load(&s->ep->flags);

	switch (err) {
	case EAGAIN:
	case EINTR:
	case ENOBUFS:
	case ENOMEM:
	case EFAULT:
	case EINVAL:
	case EBADF:
	case ENOTSOCK:
	case EOPNOTSUPP:
		return false;
	case EPIPE:
		if (flags & XVM_EPF_TX_SHUT)
			return false;
		break;
	default:
		break;
	}
	if (!xvm_error_final(err))
		return true;
	flags = atomic_fetch_or(&s->ep->flags, XVM_EPF_ERR_SEEN);
	return err != EPIPE || !(flags & XVM_EPF_ERR_SEEN);
}

void xvm_error_told(struct xvm_sock *s, int err)
{
	seen(s, err);
}

void xvm_error_keep(struct xvm_sock *s, int err)
{
	int now = atomic_load(&s->ep->err);

	if (!seen(s, err))
		return;
	while (!xvm_error_final(now) && !atomic_compare_exchange_weak(&s->ep->err, &now, err))
		;
}

int xvm_error_so(struct xvm_sock *s, int kernel)
{
	bool locked = kernel && xvm_lock(&s->ep->rx_lock) == 0;

	/* Without the lock, in a signal handler over its holder: kept in any case. */
	if (kernel && (!locked || !xvm_rx_only_pads_locked(s, kernel)))
		xvm_error_keep(s, kernel);
	if (locked)
		xvm_unlock(&s->ep->rx_lock);
	return xvm_error_take(s->ep);
}

int xvm_sock_error(struct xvm_sock *s, int fd)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (!xvm_conf.sandboxed && REAL(getsockopt)(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		return 0;
	return xvm_error_so(s, err);
}
