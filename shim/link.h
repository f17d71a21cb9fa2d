/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to xvmd, and what is known of the processes at the other ends. No
 * thread serves it: whoever makes a call looks at the mail word and handles what is there.
 */
#ifndef XVM_SHIM_LINK_H
#define XVM_SHIM_LINK_H

#include "shim/sock.h"
#include "shim/waker.h"

/* A process at the other end of some connection: its eventfds. Kept until xvmd says it is gone and
 * no socket refers to it: a descriptor number must not be reused under a ringing thread. */
struct xvm_peer {
	_Atomic uint32_t client; /* 0: unused */
	_Atomic uint32_t next;	 /* pool.h */
	_Atomic uint32_t socks;	 /* sockets that refer to it */
	_Atomic uint32_t gone;
	_Atomic uint64_t mask; /* bit i: efd[i] is there */
	bool vm;	       /* in another machine */
	uint16_t region, number;
	/* There eventfds are the machine's vectors, for all its processes; else this is NULL. */
	struct xvm_peer *machine;
	uint64_t process;	/* what its halves say, if it has a machine */
	struct xvm_peer *other; /* process of that machine */
	_Atomic int efd[XVM_WAKERS_MAX];
	_Atomic uint64_t rung[XVM_WAKERS_MAX]; /* highest sleep that was answered */
};

/* The table, and whether the daemon is there; both may change at any time. */
extern _Atomic(const struct xvm_shm_table *) xvm_link_table;

/* Differs after each change of the residency table, and from that of a former daemon's, which stays
 * mapped. */
static inline uint64_t xvm_link_version(const struct xvm_shm_table *t)
{
	return atomic_load_explicit(&t->seq, memory_order_relaxed) ^ (uint64_t)(uintptr_t)t << 16;
}

/* Connect and say hello if that has not been done or failed more than a second ago. 0, or the
 * enum xvm_reason that stands against it; XVM_R_NEW: it could not be tried now. */
enum xvm_reason xvm_link_up(void);

/* Has the daemon died since the table was last changed? Then a new one may be asked (xvm_link_up).
 * Looks at most ten times a second. */
bool xvm_link_lost(void);

/* Handle what xvmd has sent; cheap where it has sent nothing. */
void xvm_link_handle(void);
/* Do we use regions, so that a daemon is to know of us? And who is about to sleep looks whether
 * there is another: a few times a second, connected or not. */
extern _Atomic bool xvm_link_regions;
void xvm_link_look(void);
static inline void xvm_link_care(void)
{
	if (__builtin_expect(atomic_load_explicit(&xvm_link_regions, memory_order_relaxed), 0))
		xvm_link_look();
}
/* How often we have come to a daemon: what was offered to an earlier one is answered by nobody. */
extern _Atomic uint32_t xvm_link_count;
extern uint64_t xvm_link_seen;
extern uint32_t xvm_link_id;
static inline void xvm_link_poll(void)
{
	const struct xvm_shm_table *t = atomic_load_explicit(&xvm_link_table, memory_order_relaxed);

	if (__builtin_expect(t != NULL, 0) &&
	    atomic_load_explicit(&t->mail[xvm_link_id], memory_order_acquire) !=
		    __atomic_load_n(&xvm_link_seen, __ATOMIC_RELAXED))
		xvm_link_handle();
}

/* 0 or a negative errno. half_fd: -1 for a half in a piece, len bytes at off of the region. */
int xvm_link_offer(struct xvm_sock *s, int fd, int half_fd, uint64_t off, uint32_t len);
/* Was s offered to a daemon that is gone? Then nobody will answer: xvm_offer_lapsed(). */
void xvm_link_lapsed(struct xvm_sock *s);
/* Ask for a piece. */
int xvm_link_lease(unsigned region, uint32_t len);
/* A new record of a machine, or of a process in one; it stays for good. NULL where there is no
 * memory. */
struct xvm_peer *xvm_link_peer_vm(unsigned region, uint32_t number);
/* Bit i: we can ring its eventfd i. */
static inline uint64_t xvm_link_peer_mask(const struct xvm_peer *p)
{
	return atomic_load_explicit(p->machine ? &p->machine->mask : &p->mask,
				    memory_order_acquire);
}
void xvm_link_drop(uint32_t slot, uint32_t gen, bool paired); /* withdraw or unpair */
/* The offer was made to a former daemon. len != 0: its piece is not used any more. */
void xvm_link_return(uint32_t slot, uint32_t gen, unsigned region, uint64_t off, uint32_t len);
int xvm_link_waker(struct xvm_waker *w);

/* Rule W2: ring eventfd index of a peer for its sleep seq, unless that was done. False: not had. */
bool xvm_link_ring(struct xvm_peer *p, unsigned index, uint64_t seq);
void xvm_link_peer_put(struct xvm_peer *p);

void xvm_link_forked(void);

/* Can the application do without one more? Asked before each that we can do without. */
bool xvm_fd_spare(void);
/* Move one of our own descriptors to a high number, close-on-exec, where the application's close
 * will not hit it. Returns the new number (the old one is closed), or the old one. */
int xvm_fd_hide(int fd);
void xvm_fd_unhide_close(int fd); /* close one that was hidden */
/* The application is about to put something else on this number: move what is ours. */
bool xvm_fd_vacate(int fd);

/* A system call filter is about to come into force: no word with the daemon any more. */
void xvm_link_off(void);

#endif
