/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracked socket's last close, by close() or with the process: what must precede the kernel's
 * (S6), and whether it has to be a reset. And a close by one thread amid another's call.
 */
#include <netinet/in.h>
#include <sys/single_threaded.h>
#pragma weak __libc_single_threaded /* musl, and glibc before 2.32, have none */

#include "shim/epoll.h"
#include "shim/inside.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "shim/waker.h"
#include "transport/sys.h"

void xvm_ending_reset(int fd)
{
	struct linger lg = {.l_onoff = 1, .l_linger = 0};

	REAL(setsockopt)(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof(lg));
}

/* xvmd may still have the socket in its queue: the FIN, or the reset, must not wait for it. */
static void end_now(int fd)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	struct linger lg = {0, 0};
	socklen_t len = sizeof(lg);
	int unread = 0;

	REAL(ioctl)(fd, FIONREAD, &unread);
	REAL(getsockopt)(fd, SOL_SOCKET, SO_LINGER, &lg, &len);
	if (unread || (lg.l_onoff && !lg.l_linger))
		REAL(connect)(fd, &none, sizeof(none)); /* dissolves the connection by a reset */
	else
		REAL(shutdown)(fd, SHUT_RDWR);
}

/* The last close, as far as we know, of a paired socket. */
static void end_paired(struct xvm_sock *s, int fd)
{
	bool unread = xvm_pads_finish(s, fd);

	/* S6: TCP resets where input is left unread; the kernel sees only its own queue. */
	if (!xvm_tx_finish(s, fd) || unread)
		xvm_ending_reset(fd);
}

/*
 * Closed by one thread while others wait in a call: the kernel lets their call go on, and the
 * connection lives as long. So a descriptor of our own takes the place of the one that is closed.
 */
static void keep_open(struct xvm_sock *s, int fd)
{
	int kept, none = -1;
	long r;

	if (!atomic_load(&s->asleep) || atomic_load(&s->file.nfds) > 1 || !xvm_sock_on(s) ||
	    atomic_load(&s->kept) >= 0)
		return;
	r = xvm_sys6(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0, 0, 0, 0);
	if (r < 0)
		return;
	kept = xvm_fd_hide((int)r);
	/* One who went to sleep may have been first: xvm_ending_keep(). */
	if (!atomic_compare_exchange_strong(&s->kept, &none, kept))
		xvm_fd_unhide_close(kept);
}

static bool single_threaded(void)
{
	return &__libc_single_threaded && __libc_single_threaded;
}

int xvm_ending_keep(struct xvm_sock *s, int fd)
{
	int kept = atomic_load(&s->kept), none = -1;
	long r;

	if (kept >= 0 || single_threaded() || xvm_conf.sandboxed || !xvm_fd_spare())
		return kept >= 0 ? kept : fd;
	r = xvm_sys6(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0, 0, 0, 0);
	if (r < 0)
		return fd;
	kept = xvm_fd_hide((int)r);
	/* The table still says so: it is our socket's, as who closes it says that first. */
	if (xvm_fdtab_peek(fd) == &s->file && atomic_compare_exchange_strong(&s->kept, &none, kept))
		return kept;
	xvm_fd_unhide_close(kept);
	return none >= 0 ? none : fd;
}

void xvm_ending_kept(struct xvm_sock *s)
{
	int fd = atomic_load(&s->kept);

	if (fd < 0)
		return;
	if (xvm_holders_release(s) && !(atomic_load(&s->ep->flags) & XVM_EPF_GIVEN))
		end_paired(s, fd);
	xvm_fd_unhide_close(fd);
}

void xvm_ending_vacated(int fd, int to)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));)
		atomic_compare_exchange_strong(&s->kept, &(int){fd}, to);
}

void xvm_ending_close(int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	struct xvm_shm_ep *ep;

	if (!s)
		return;
	ep = s->ep;
	xvm_link_poll();
	keep_open(s, fd);
	xvm_epoll_closing(s, fd);
	if (atomic_load(&s->file.nfds) > 1 || atomic_load(&s->kept) >= 0 ||
	    !xvm_holders_release(s) || (atomic_load(&ep->flags) & XVM_EPF_GIVEN))
		goto out;
	if (xvm_sock_on(s)) {
		end_paired(s, fd);
	} else if (!xvm_inside_any(s) && atomic_load(&ep->state) == XVM_EP_OFFERED &&
		   !(atomic_load(&ep->flags) & XVM_EPF_SEEN)) {
		end_now(fd);
	}
out:
	/* The number will be another file's, and a poll that is woken by the socket would go on to
	 * wait for that. Cleared before the ring; pairs with the look in xvm_sock_wait(). */
	if (atomic_load(&s->asleep)) {
		xvm_fdtab_clear(fd);
		xvm_waker_ring_for(s);
	}
	xvm_sock_put(s);
}

void xvm_ending_exit(void)
{
	struct xvm_sock *s;

	for (int fd = 0; (s = xvm_sock_next(&fd)); fd++) {
		/* Where others hold it too, all this is theirs. */
		if (xvm_sock_on(s) && !(atomic_load(&s->ep->flags) & XVM_EPF_GIVEN) &&
		    !xvm_holders_other(s->ep, false)) {
			bool unread = xvm_pads_tidy(s, fd);

			if (!xvm_tx_finish(s, fd) || unread)
				xvm_ending_reset(fd);
		}
		xvm_sock_put(s);
	}
}
