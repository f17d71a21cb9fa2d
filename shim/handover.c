/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A socket is about to be used by means that no wrapper sees: by another program image, by a
 * process that it is sent to, by a FILE. Then both directions have to be on TCP first. Ours leaves
 * as ever; the peer's we ask to leave, by taking back the consent and waking the peer, which looks
 * at it before it sleeps again. Bytes that lie unread in the ring cannot be handed over, and a peer
 * that makes no call cannot leave: then the connection is reset, which is better than to let it
 * go on with a hole in it.
 */
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/stream.h"
#include "transport/sys.h"

#define LEAVE_NS 200000000ull /* how long the peer may take */

void xvm_hand_over(struct xvm_sock *s, int fd, enum xvm_reason why)
{
	uint64_t end = xvm_now_ns() + LEAVE_NS, word;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	int r;

	xvm_sock_never(s, why);
	if (!xvm_sock_on(s))
		return;
	do {
		r = xvm_rx_on_tcp(s, fd);
		if (r == 0 && xvm_tx_leave(s, fd, why) == 0)
			return;
		if (r < 0 && r != -EAGAIN)
			break;
		word = atomic_load(&s->peer.shm->sleep_data);
		if (word != atomic_load(&s->rung_data))
			xvm_tx_wake(s, fd, word, &s->rung_data, false);
		REAL(poll)(&pfd, r < 0 ? 1 : 0, 1);
	} while (xvm_now_ns() < end);
	xvm_log(1, "fd %d: could not leave the ring (%s): reset\n", fd,
		r == -EBUSY ? "unread input" : "the peer does not answer");
	xvm_sock_broken(s, fd);
}

/* The paired socket whose open file fd is: a reference, or NULL. A vfork's child may have closed
 * its copies of the descriptors that the table, its parent's, knows. */
static struct xvm_sock *by_cookie(int fd)
{
	extern _Atomic int xvm_fdtab_hi;
	int hi = atomic_load(&xvm_fdtab_hi);
	uint64_t cookie = xvm_cookie(fd);

	for (int other = 0; other < hi; other++) {
		struct xvm_sock *s = xvm_sock_get(other);

		if (!s)
			continue;
		if (xvm_sock_on(s) && s->cookie == cookie)
			return s;
		xvm_sock_put(s);
	}
	return NULL;
}

void xvm_hand_over_stdio(void)
{
	for (int fd = 0; fd <= 2; fd++) {
		struct xvm_sock *s = xvm_is_tcp(fd) ? by_cookie(fd) : NULL;

		if (!s)
			continue;
		xvm_hand_over(s, fd, XVM_R_EXEC);
		xvm_sock_put(s);
	}
}
