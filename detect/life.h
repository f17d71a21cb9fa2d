/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is still alive, whether connected to us or not: programs that we have dropped, forks that we
 * never heard of, those of our predecessor. It is the kernel that keeps the book.
 *
 * A program is given an open file of its own, of a file without content, in which a byte is locked
 * for reading (an OFD lock). It maps the file; forks inherit the mapping, and exec ends it. The
 * lock goes with the last mapping and descriptor, by whatever kind of death. (test/assume/held.c)
 *
 * The bytes are numbers that mean what the file's owner says; 0 is the owner itself.
 */
#ifndef XVM_DETECT_LIFE_H
#define XVM_DETECT_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#define XVM_LIFE_OWNER 0ull
#define XVM_LIFE_VECTOR (1ull << 40) /* + vector: whoever may be rung by it */

struct xvm_life {
	int fd;	 /* -1: there is no file, and nobody is known to live */
	int own; /* holds XVM_LIFE_OWNER */
};

/* The file at path, or (NULL) one without a name. 0 or a negative errno. */
int xvm_life_open(struct xvm_life *l, const char *path);
void xvm_life_close(struct xvm_life *l);

/* An open file that holds this number, to be sent and then closed; or a negative errno. */
int xvm_life_hold(const struct xvm_life *l, uint64_t number);
bool xvm_life_held(const struct xvm_life *l, uint64_t number);
/* Another, to wait in the kernel until nobody holds any (F_OFD_SETLKW). */
int xvm_life_waiter(const struct xvm_life *l);
/* Does anybody but the owner hold any number? */
bool xvm_life_any(const struct xvm_life *l);

#endif
