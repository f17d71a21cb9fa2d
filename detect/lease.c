/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "detect/lease.h"
#include "transport/region.h"

#define RING_LEAST (16ull << 10) /* unless less was asked for */

static struct xvm_piece *piece(struct xvm_list *n)
{
	return xvm_container(n, struct xvm_piece, in_book);
}

static void forget(struct xvm_piece *p)
{
	p->book->lent -= p->len;
	xvm_list_del(&p->in_book);
	xvm_list_del(&p->in_owner);
	free(p);
}

void xvm_lease_init(struct xvm_lease_book *b, uint64_t first, uint64_t end)
{
	xvm_list_init(&b->pieces);
	b->first = first;
	b->end = end;
	b->lent = 0;
	b->life = NULL;
	xvm_list_init(&b->limbo);
}

/* Those whose holders have died meanwhile are free. */
static void sweep(struct xvm_lease_book *b)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &b->limbo)) {
		struct xvm_piece *p = xvm_container(n, struct xvm_piece, in_owner);

		if (!xvm_life_held(b->life, p->holder))
			forget(p);
	}
}

void xvm_lease_exit(struct xvm_lease_book *b)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &b->pieces))
		forget(piece(n));
}

/* Before what is next in the book. */
static struct xvm_piece *add(struct xvm_lease_book *b, struct xvm_list *next, uint64_t off,
			     uint64_t len, void *owner)
{
	struct xvm_piece *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->book = b;
	p->owner = owner;
	p->off = off;
	p->len = len;
	p->refs = 1;
	xvm_list_init(&p->in_owner);
	xvm_list_add(next, &p->in_book);
	b->lent += len;
	return p;
}

struct xvm_piece *xvm_lease_take(struct xvm_lease_book *b, uint64_t len, void *owner)
{
	uint64_t at = b->first;
	struct xvm_list *n, *t;

	sweep(b);
	if (!len || len > b->end - b->first)
		return NULL;
	len = (len + XVM_REGION_PAGE - 1) & ~(uint64_t)(XVM_REGION_PAGE - 1);
	/* The first gap that is large enough; n is then what it lies before. */
	for (XVM_EACH(n, t, &b->pieces)) {
		if (piece(n)->off - at >= len)
			break;
		at = piece(n)->off + piece(n)->len;
	}
	if (n == &b->pieces && b->end - at < len)
		return NULL;
	return add(b, n, at, len, owner);
}

struct xvm_piece *xvm_lease_restore(struct xvm_lease_book *b, uint64_t off, uint64_t len,
				    void *owner)
{
	uint64_t at = b->first;
	struct xvm_list *n, *t;

	if ((off | len) & (XVM_REGION_PAGE - 1) || !len || off < b->first || off >= b->end ||
	    len > b->end - off)
		return NULL;
	for (XVM_EACH(n, t, &b->pieces)) {
		if (piece(n)->off >= off)
			break;
		at = piece(n)->off + piece(n)->len;
	}
	if (at > off || (n != &b->pieces && piece(n)->off - off < len))
		return NULL;
	return add(b, n, off, len, owner);
}

/*
 * The first ones get a sixteenth of all that there is, and each less than the one before: together,
 * however many come, not much more than there is. So few have large rings and many have small ones;
 * but one that is too small is no better than TCP.
 */
static uint64_t fair(const struct xvm_lease_book *b)
{
	struct xvm_list *n, *t;
	uint64_t lent = 0;

	for (XVM_EACH(n, t, &b->pieces))
		lent++;
	return (b->end - b->first) / (16 + lent * lent / 8);
}

struct xvm_piece *xvm_lease_half(struct xvm_lease_book *b, uint64_t len, void *owner)
{
	uint64_t ring = len - XVM_HALF_CTL, most = fair(b);
	struct xvm_piece *p;

	while (ring > RING_LEAST && ring > most)
		ring /= 2;
	while (!(p = xvm_lease_take(b, XVM_HALF_CTL + ring, owner)) && ring > RING_LEAST)
		ring /= 2;
	return p;
}

struct xvm_piece *xvm_lease_find(const struct xvm_lease_book *b, uint64_t off)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &b->pieces))
		if (piece(n)->off == off)
			return piece(n);
	return NULL;
}

void xvm_lease_hold(struct xvm_piece *p)
{
	p->refs++;
}

void xvm_lease_drop(struct xvm_piece *p)
{
	if (--p->refs)
		return;
	if (p->loose && p->book->life && xvm_life_held(p->book->life, p->holder))
		xvm_list_add(&p->book->limbo, &p->in_owner);
	else
		forget(p);
}

void xvm_lease_return(struct xvm_piece *p)
{
	if (!p->owner)
		return;
	p->owner = NULL;
	xvm_list_del(&p->in_owner);
	xvm_lease_drop(p);
}
