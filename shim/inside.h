/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules R1, S2: which threads are inside an unlocked recv or send of the kernel. Until a socket is
 * paired, that is counted in its word users beside the references, at no cost of its own. Who pairs
 * it sets TOLD there and moves what was counted to the endpoint, where it is counted from then
 * on, by all who hold the socket. test/model/consent.pml.
 */
#ifndef XVM_SHIM_INSIDE_H
#define XVM_SHIM_INSIDE_H

#include <stddef.h>

#include "shim/sock.h"

#define XVM_INSIDE_RX 32 /* 16 bits of users from here on, */
#define XVM_INSIDE_TX 48 /* and 15 */
#define XVM_INSIDE_ANY (XVM_FILE_TOLD - XVM_FILE_USERS - 1)
#define XVM_INSIDE_GUARD (1u << 16) /* more than either can hold */

static inline uint64_t xvm_inside_one(bool rx)
{
	return 1ull << (rx ? XVM_INSIDE_RX : XVM_INSIDE_TX);
}

static inline _Atomic uint32_t *xvm_inside_told(const struct xvm_sock *s, bool rx)
{
	return rx ? &s->ep->krecv : &s->ep->ksend;
}

/* A process that has let go of the socket is no holder: the endpoint may be another's by now. */
static inline void xvm_inside_less(struct xvm_sock *s, bool rx)
{
	if (atomic_load(&s->ep->gen) == s->gen)
		atomic_fetch_sub(xvm_inside_told(s, rx), 1);
}

/* Back, but with the reference. */
static inline void xvm_inside_back(struct xvm_sock *s, bool rx)
{
	uint64_t users = atomic_load_explicit(&s->file.users, memory_order_relaxed);

	do
		if (users & XVM_FILE_TOLD) {
			xvm_inside_less(s, rx);
			return;
		}
	while (!atomic_compare_exchange_weak(&s->file.users, &users, users - xvm_inside_one(rx)));
}

/* Back, and the reference is put. */
static inline void xvm_inside_leave(struct xvm_sock *s, bool rx)
{
	uint64_t users = atomic_load_explicit(&s->file.users, memory_order_relaxed);

	do
		if (users & XVM_FILE_TOLD) {
			xvm_inside_less(s, rx);
			xvm_sock_put(s);
			return;
		}
	while (!atomic_compare_exchange_weak(&s->file.users, &users,
					     users - xvm_inside_one(rx) - 1));
	if ((users & XVM_FILE_USERS) == 1)
		xvm_file_dispose(&s->file);
}

/*
 * A reference to fd's socket, and counted, unless *told: then it is paired, or else the
 * caller counts himself. NULL if fd is none.
 */
static inline struct xvm_sock *xvm_inside_enter(int fd, bool rx, bool *told)
{
	struct xvm_file *f;
	uint64_t users;

	for (;;) {
		f = xvm_fdtab_peek(fd);
		if (!f || atomic_load_explicit(&f->kind, memory_order_relaxed) != XVM_FILE_SOCK)
			return NULL;
		users = atomic_load_explicit(&f->users, memory_order_relaxed);
		*told = users & XVM_FILE_TOLD;
		if (!(users & XVM_FILE_USERS))
			continue; /* as in xvm_fdtab_get() */
		if (!atomic_compare_exchange_weak(&f->users, &users,
						  users + 1 + (*told ? 0 : xvm_inside_one(rx))))
			continue;
		if (__builtin_expect(xvm_fdtab_peek(fd) == f, 1))
			return (struct xvm_sock *)f;
		if (*told)
			xvm_file_put(f);
		else
			xvm_inside_leave((struct xvm_sock *)f, rx);
	}
}

static inline bool xvm_inside_any(const struct xvm_sock *s)
{
	return (atomic_load(&s->file.users) & XVM_INSIDE_ANY) || atomic_load(&s->ep->krecv) ||
	       atomic_load(&s->ep->ksend);
}

/* Whoever is inside is counted where the other holders see it. */
static inline void xvm_inside_tell(struct xvm_sock *s)
{
	uint64_t users = atomic_fetch_or(&s->file.users, XVM_FILE_TOLD);

	if (users & XVM_FILE_TOLD)
		return;
	atomic_fetch_add(&s->ep->krecv, (uint32_t)(users >> XVM_INSIDE_RX & 0xffff));
	atomic_fetch_add(&s->ep->ksend, (uint32_t)(users >> XVM_INSIDE_TX & 0x7fff));
}

/* R1, S2: s is paired from here on. */
static inline void xvm_inside_paired(struct xvm_sock *s)
{
	/* Whoever sees it paired sees that there may be others inside. */
	atomic_fetch_add(&s->ep->krecv, XVM_INSIDE_GUARD);
	atomic_fetch_add(&s->ep->ksend, XVM_INSIDE_GUARD);
	atomic_store(&s->ep->state, XVM_EP_PAIRED);
	atomic_store(&s->paired, 1);
	xvm_inside_tell(s);
	atomic_fetch_sub(&s->ep->krecv, XVM_INSIDE_GUARD);
	atomic_fetch_sub(&s->ep->ksend, XVM_INSIDE_GUARD);
}

#endif
