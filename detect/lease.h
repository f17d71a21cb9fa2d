/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pieces of an arena (transport/REGION.md) are lent: to a process, for its halves. A piece is
 * free again when its process has returned it (or is dead) and nobody reads it any more. Used by
 * whoever owns an arena: the host's xvmd, and a guest's.
 *
 * That a process is not connected any more does not mean that it is dead, nor that it has no forks:
 * then its pieces are loose, and not lent to others while somebody may still write to them
 * (life.h).
 */
#ifndef XVM_DETECT_LEASE_H
#define XVM_DETECT_LEASE_H

#include <stdint.h>

#include "detect/life.h"
#include "detect/list.h"

struct xvm_piece {
	struct xvm_list in_book;  /* by offset */
	struct xvm_list in_owner; /* the owner's own list, or none */
	struct xvm_lease_book *book;
	void *owner; /* NULL: returned */
	uint64_t off, len;
	uint32_t refs;
	bool loose;	 /* nobody will say that it is not used any more: */
	uint64_t holder; /* who then may use it still, as life.h knows */
};

struct xvm_lease_book {
	struct xvm_list pieces;
	uint64_t first, end;	     /* of what there is to lend */
	uint64_t lent;		     /* bytes */
	const struct xvm_life *life; /* NULL: nothing is ever loose */
	struct xvm_list limbo;	     /* loose pieces that nobody but their holders uses */
};

void xvm_lease_init(struct xvm_lease_book *b, uint64_t first, uint64_t end);
/* All pieces end, whoever has them. */
void xvm_lease_exit(struct xvm_lease_book *b);

/* Lend len bytes, in whole pages: one reference, the owner's. NULL: there is no room, or no memory.
 */
struct xvm_piece *xvm_lease_take(struct xvm_lease_book *b, uint64_t len, void *owner);
/* Lend what one half takes: len bytes, or less (a smaller ring) where little is left. */
struct xvm_piece *xvm_lease_half(struct xvm_lease_book *b, uint64_t len, void *owner);
/* The one that a predecessor has lent. NULL: it cannot be, or no memory. */
struct xvm_piece *xvm_lease_restore(struct xvm_lease_book *b, uint64_t off, uint64_t len,
				    void *owner);
/* The piece that begins there, or NULL. */
struct xvm_piece *xvm_lease_find(const struct xvm_lease_book *b, uint64_t off);

void xvm_lease_hold(struct xvm_piece *p);
void xvm_lease_drop(struct xvm_piece *p);
/* The owner's end of it. */
void xvm_lease_return(struct xvm_piece *p);

#endif
