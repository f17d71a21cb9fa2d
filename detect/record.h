/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's xvmd leaves to its successor: a file that outlives it but not the boot, with a row
 * for each piece that is lent, and what is going on about it. It is mapped, so what was stored is
 * there, whenever we are killed.
 *
 * A row is stored before anybody else hears of what it says (a program of its piece, the host of an
 * offer), and cleared after the last has. So a successor may find what the host or a program does
 * not know yet or knows to be over, but never the reverse.
 */
#ifndef XVM_DETECT_RECORD_H
#define XVM_DETECT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xvm_record_row {
	_Atomic uint32_t used;	/* the last word to be stored, and the first to be cleared */
	_Atomic uint32_t state; /* guest_ep.c's: 0 in stock */
	uint64_t off, len;
	uint64_t kin, dev, ino; /* whose it is: by name, and the arena */
	int32_t uid, pid;
	uint32_t slot, gen;
	uint64_t cookie;
	uint32_t peer, peer_gen;
};

struct xvm_record_head {
	uint64_t magic;
	uint8_t boot[40];
	uint64_t generation, first; /* of the region; of our pieces */
	uint64_t run;
	uint64_t kin;	  /* highest name that was ever given */
	uint64_t starts;  /* of xvmds, in this file */
	uint64_t vectors; /* there were interrupts */
};

struct xvm_record {
	struct xvm_record_head *head;
	struct xvm_record_row *row;
	size_t size, rows;
	uint64_t first;
	int fd; /* -1: in memory only, and there will be no successor */
};

/*
 * The file at path (of this boot_id and region), for pieces in [first, end). 1: there is a
 * predecessor's record in it; 0: there is none, and it is empty; or a negative errno, and then it
 * is in memory only. -ENOMEM: not even that.
 */
int xvm_record_open(struct xvm_record *r, const char *path, const char *boot, uint64_t generation,
		    uint64_t first, uint64_t end);
void xvm_record_close(struct xvm_record *r);

/* The row of the piece that begins there. */
struct xvm_record_row *xvm_record_row(const struct xvm_record *r, uint64_t off);
/* The next row in use, from *i on, which is moved behind it; or NULL. */
struct xvm_record_row *xvm_record_next(const struct xvm_record *r, size_t *i);

void xvm_record_use(struct xvm_record_row *row);
void xvm_record_clear(struct xvm_record_row *row);

#endif
