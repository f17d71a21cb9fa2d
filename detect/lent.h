/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is lent of a guest's arena, in a file that outlives this xvmd but not the boot: the
 * processes of its predecessor may still write to what they have, whoever has died or been reset
 * meanwhile. So that is not lent to others.
 */
#ifndef XVM_DETECT_LENT_H
#define XVM_DETECT_LENT_H

#include <stddef.h>
#include <stdint.h>

#include "detect/lease.h"

struct xvm_lent {
	uint8_t *map, *next; /* NULL: there is no file */
	size_t size;
	uint64_t first, pages;
};

/* The file at path, of the region of that generation. What was lent is, in b, nobody's to have. 0,
 * or a negative errno, and then nothing is noted. */
int xvm_lent_open(struct xvm_lent *l, const char *path, uint64_t generation,
		  struct xvm_lease_book *b);
void xvm_lent_close(struct xvm_lent *l);

/* Before it is lent. */
void xvm_lent_note(struct xvm_lent *l, const struct xvm_piece *p);
/* By and by: what was returned goes. */
void xvm_lent_sync(struct xvm_lent *l, const struct xvm_lease_book *b);

#endif
