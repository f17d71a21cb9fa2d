/* SPDX-License-Identifier: Apache-2.0 */
/* poll, ppoll and the names that fortified and old programs import. The engine is wait.c's. */
#include <limits.h>
#include <pthread.h>
#include <sys/resource.h>

#include "shim/fault.h"
#include "shim/link.h"
#include "shim/real.h"
#include "shim/wait.h"

static int64_t ns_of_ms(int ms)
{
	return ms < 0 ? -1 : (int64_t)ms * 1000000;
}

#define FEW 128 /* may always be open */

/* More than may be open the kernel refuses, before it looks at them. */
static bool too_many(nfds_t n)
{
	struct rlimit rl;

	return n > FEW && (n > INT_MAX || (!getrlimit(RLIMIT_NOFILE, &rl) && n > rl.rlim_cur));
}

static unsigned count(const struct pollfd *fds, nfds_t n)
{
	if (!xvm_fdtab || too_many(n) || !xvm_user_there(fds, n * sizeof(*fds)))
		return 0;
	return xvm_wait_count(fds, n);
}

static inline __attribute__((always_inline)) bool poll_ours(struct pollfd *fds, nfds_t n,
							    int timeout, int *r)
{
	unsigned tracked;

	xvm_link_care();
	xvm_link_poll();
	tracked = count(fds, n);
	if (__builtin_expect(tracked == 0, 1))
		return false;
	pthread_testcancel(); /* a ring may answer without the kernel */
	*r = (int)xvm_result(xvm_wait_set(fds, n, tracked, ns_of_ms(timeout), NULL, true));
	return true;
}

XVM_WRAP int poll(struct pollfd *fds, nfds_t n, int timeout)
{
	int r;

	return poll_ours(fds, n, timeout, &r) ? r : REAL(poll)(fds, n, timeout);
}

XVM_WRAP int __poll(struct pollfd *fds, nfds_t n, int timeout)
{
	return poll(fds, n, timeout);
}

XVM_WRAP int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t size)
{
	int r;

	if (size / sizeof(*fds) >= n && poll_ours(fds, n, timeout, &r))
		return r;
	return REAL(__poll_chk)(fds, n, timeout, size);
}

static bool ppoll_ours(struct pollfd *fds, nfds_t n, const struct timespec *ts,
		       const sigset_t *mask, int *r)
{
	unsigned tracked;
	int64_t ns;

	xvm_link_care();
	xvm_link_poll();
	tracked = count(fds, n);
	if (__builtin_expect(tracked == 0, 1) || !xvm_wait_ns(ts, &ns))
		return false;
	pthread_testcancel();
	*r = (int)xvm_result(xvm_wait_set(fds, n, tracked, ns, mask, false));
	return true;
}

XVM_WRAP int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *ts, const sigset_t *mask)
{
	int r;

	return ppoll_ours(fds, n, ts, mask, &r) ? r : REAL(ppoll)(fds, n, ts, mask);
}

XVM_WRAP int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *ts,
			 const sigset_t *mask, size_t size)
{
	int r;

	if (size / sizeof(*fds) >= n && ppoll_ours(fds, n, ts, mask, &r))
		return r;
	return REAL(__ppoll_chk)(fds, n, ts, mask, size);
}
