/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The processes that hold a socket, as its endpoint names them: forks and what they become. While
 * one lives that lacks the mapping nobody may be on the ring (R1, S1), and the last one's close is
 * the end (S6).
 */
#include "shim/inside.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/real.h"
#include "shim/sock_priv.h"
#include "shim/stream.h"
#include "transport/lock.h"
#include "transport/sys.h"

/* struct xvm_shm_holder's mapped. Who is ashore has copies: it was mapped, and nobody enters again.
 */
enum { UNMAPPED, MAPPED, ASHORE };

/* Others on the list that live, and are in a state of this set. */
static unsigned others(struct xvm_shm_ep *ep, unsigned states)
{
	int me = xvm_pid();
	unsigned n = 0;

	for (int i = 0; i < XVM_HOLDERS; i++) {
		int pid = atomic_load(&ep->holders[i].pid);

		if (pid == 0 || pid == me)
			continue;
		if (xvm_lock_dead((uint32_t)pid)) {
			atomic_compare_exchange_strong(&ep->holders[i].pid, &pid, 0);
			continue;
		}
		n += states >> (atomic_load(&ep->holders[i].mapped) & 31) & 1;
	}
	return n;
}

unsigned xvm_holders_other(struct xvm_shm_ep *ep, bool unmapped_only)
{
	if (xvm_conf.sandboxed)
		return 1; /* kill(2) may not be ours to call */
	return atomic_load(&ep->unmapped) + (unmapped_only ? 0 : atomic_load(&ep->forking)) +
	       others(ep, unmapped_only ? 1u << UNMAPPED : ~0u);
}

bool xvm_holders_unmapped(struct xvm_shm_ep *ep)
{
	return xvm_holders_other(ep, true) != 0;
}

void xvm_holders_mapped(struct xvm_shm_ep *ep)
{
	for (int i = 0; i < XVM_HOLDERS; i++)
		if (atomic_load(&ep->holders[i].pid) == xvm_pid())
			atomic_store(&ep->holders[i].mapped, MAPPED);
}

bool xvm_holders_ashore(struct xvm_shm_ep *ep)
{
	/* All say so before they look: the last sees that it is the last. */
	for (int i = 0; i < XVM_HOLDERS; i++)
		if (atomic_load(&ep->holders[i].pid) == xvm_pid())
			atomic_store(&ep->holders[i].mapped, ASHORE);
	return !atomic_load(&ep->forking) && !others(ep, 1u << MAPPED);
}

static void let_go(struct xvm_shm_ep *ep)
{
	int me = xvm_pid();

	/* Nobody else puts us there or takes us away. */
	for (int i = 0; i < XVM_HOLDERS; i++)
		if (atomic_load(&ep->holders[i].pid) == me)
			atomic_compare_exchange_strong(&ep->holders[i].pid, &(int){me}, 0);
}

bool xvm_holders_release(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	uint32_t zero = 0;

	/* The others go on, and may pair it while a thread of ours is still in the kernel's call.
	 */
	if (atomic_load(&s->file.users) & XVM_INSIDE_ANY)
		xvm_inside_tell(s);
	let_go(ep);
	s->last = !s->last && !xvm_holders_other(ep, false) && atomic_load(&ep->gen) == s->gen &&
		  atomic_compare_exchange_strong(&ep->final, &zero, 1);
	return s->last;
}

/*
 * What stays open is on TCP in the new image, and what is not paired is nothing to the old one any
 * more, which may go on if exec fails: then it is just not tracked. A fork's child that execs
 * is no holder of what exec closes.
 */
void xvm_holders_exec(int fd)
{
	struct xvm_sock *s = xvm_sock_get(fd);
	int fl;

	if (!s)
		return;
	fl = REAL(fcntl)(fd, F_GETFD);
	if (!xvm_sock_on(s)) {
		/* Still a holder if it stays open: then nobody offers it meanwhile. */
		if (fl >= 0 && (fl & FD_CLOEXEC))
			xvm_fdtab_clear(fd);
	} else if (fl < 0 || (fl & FD_CLOEXEC)) {
		/* A pad that lies unread would make exec's close a reset. */
		if (xvm_holders_other(s->ep, false))
			let_go(s->ep);
		else
			xvm_pads_tidy(s, fd);
	}
	xvm_sock_put(s);
}

/* Counted from before the fork until the child has put itself on the list of holders. */
static _Atomic uint32_t *fork_count(struct xvm_sock *s)
{
	return s->fork_on ? &s->ep->forking : &s->ep->unmapped;
}

/* As the child will find it, or a little less: another thread may be pairing it just now. */
void xvm_holders_forking(void)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));) {
		s->fork_held = xvm_lock_mine(&s->ep->rx_lock) || xvm_lock_mine(&s->ep->tx_lock);
		if (!atomic_load(&s->file.nfds))
			continue;
		s->fork_on = xvm_sock_on(s);
		s->fork_counted = true;
		atomic_fetch_add(fork_count(s), 1);
	}
}

void xvm_holders_fork_failed(void)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));) {
		if (!atomic_load(&s->file.nfds))
			continue;
		if (s->fork_counted)
			atomic_fetch_sub(fork_count(s), 1);
		s->fork_counted = false;
	}
}

/* To the others a child that has lost it never had it. What was not paired it has, and is counted
 * for good. */
void xvm_holders_lost(void)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));)
		if (atomic_load(&s->file.nfds) && s->fork_counted && xvm_sock_on(s))
			atomic_fetch_sub(fork_count(s), 1);
}

static void forked_child(struct xvm_sock *s)
{
	struct xvm_shm_ep *ep = s->ep;
	bool on = xvm_sock_on(s);
	int i;

	s->inherited = true;
	atomic_store(&s->asleep, 0); /* those were our parent's, and what it has offered */
	atomic_store(&s->offered_to, 0);
	if (xvm_sys6(SYS_getppid, 0, 0, 0, 0, 0, 0) == 0) {
		/* Another pid namespace: our tids mean nothing to the locks. Counted for good. */
		atomic_store(&s->paired, 0);
		atomic_store(&s->file.users, XVM_FILE_TOLD | 1);
		return;
	}
	s->last = false;
	/* Only those of this thread live on in the child. */
	atomic_store(&s->file.users, on ? XVM_FILE_TOLD | 1 : 1);
	for (i = 0; i < XVM_HOLDERS; i++) {
		int none = 0;

		if (!atomic_compare_exchange_strong(&ep->holders[i].pid, &none, xvm_pid()))
			continue;
		atomic_store(&ep->holders[i].mapped, s->ashore ? ASHORE : on ? MAPPED : UNMAPPED);
		break;
	}
	if (!on) {
		/* What the parent has offered is the parent's. */
		xvm_half_close(&s->mine);
	}
	if (i < XVM_HOLDERS &&
	    s->fork_counted) /* else it stays counted, and nobody is ever the last */
		atomic_fetch_sub(fork_count(s), 1);
}

void xvm_holders_forked(void)
{
	struct xvm_sock *s;

	for (uint32_t i = 0; (s = xvm_sock_next_slot(&i));) {
		int fd;

		if (atomic_load(&s->file.nfds))
			forked_child(s);
		/* Only our parent's threads are in a call with it. */
		fd = atomic_exchange(&s->kept, -1);
		if (fd >= 0)
			xvm_fd_unhide_close(fd);
	}
}
