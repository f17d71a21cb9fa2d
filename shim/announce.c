/* SPDX-License-Identifier: Apache-2.0 */
/* Who sleeps outside any epoll, and for which sockets. */
#include "shim/announce.h"

#include "shim/process.h"
#include "shim/waker.h"

/*
 * By waker: the sockets that a sleeping thread waits for, 64 classes of them. What changes by a
 * call of our own process (a direction leaves the ring) no peer rings for.
 */
static _Atomic uint64_t sleeping[XVM_WAKERS_MAX];
static struct xvm_waker *_Atomic sleeper[XVM_WAKERS_MAX];
static _Atomic uint64_t any_sleeping; /* bit i: sleeping[i] may be set */

uint64_t xvm_announce_class(const struct xvm_sock *s)
{
	return 1ull << (((uint64_t)(uintptr_t)s * 0x9e3779b97f4a7c15ull) >> 58);
}

void xvm_announce_changed(struct xvm_sock *s)
{
	uint64_t c = xvm_announce_class(s), m;

	/* What changed is out before we look who sleeps; pairs with xvm_announce(). */
	atomic_thread_fence(memory_order_seq_cst);
	for (m = atomic_load_explicit(&any_sleeping, memory_order_relaxed); m; m &= m - 1) {
		unsigned i = (unsigned)__builtin_ctzll(m);

		if (atomic_load_explicit(&sleeping[i], memory_order_acquire) & c)
			xvm_waker_ring(atomic_load(&sleeper[i]));
	}
}

void xvm_announce_forked(void)
{
	atomic_store(&any_sleeping, 0);
	for (unsigned i = 0; i < XVM_WAKERS_MAX; i++)
		atomic_store(&sleeping[i], 0);
}

void xvm_announce(struct xvm_waker *w, uint64_t classes)
{
	if (classes)
		atomic_store(&sleeper[w->index], w);
	atomic_store(&sleeping[w->index], classes);
	if (classes)
		atomic_fetch_or(&any_sleeping, 1ull << w->index);
	else
		atomic_fetch_and(&any_sleeping, ~(1ull << w->index));
	atomic_thread_fence(memory_order_seq_cst);
}

void xvm_announce_one(struct xvm_waker *w, struct xvm_sock *s)
{
	xvm_announce(w, s ? xvm_announce_class(s) : 0);
}
