/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program and its forks, as far as they use a guest's device: those that share an arena. Their
 * kin is there as long as one of them lives (life.h), whether it is connected or not, and over
 * restarts of xvmd: it is the name that its endpoints have in letters, and the owner of its pieces.
 */
#ifndef XVM_DETECT_GUEST_KIN_H
#define XVM_DETECT_GUEST_KIN_H

#include "detect/guest.h"

struct xvm_guest_kin {
	struct xvm_list in_guest, pieces;
	struct xvm_guest *g;
	uint64_t name;
	uint64_t dev, ino; /* of the arena */
	uid_t uid;
	pid_t pid;		     /* of the one that came first */
	struct xvm_arena_ref *arena; /* NULL: none of them is connected */
};

void xvm_guest_kins_init(struct xvm_guest *g);
void xvm_guest_kins_exit(struct xvm_guest *g);

/* Of a client; NULL: it has never been told of the device. */
struct xvm_guest_kin *xvm_guest_kin_of(const struct xvm_guest *g, const struct xvm_conn *c);
/* Make one for a client that has none. NULL: no memory. */
struct xvm_guest_kin *xvm_guest_kin_make(struct xvm_guest *g, struct xvm_conn *c);
/* A client has come: is it of a kin that we know? That has then an arena again. */
struct xvm_guest_kin *xvm_guest_kin_join(struct xvm_guest *g, struct xvm_conn *c);
/* The one of this name, as it was recorded by a predecessor. NULL: no memory. */
struct xvm_guest_kin *xvm_guest_kin_restore(struct xvm_guest *g, const struct xvm_record_row *row);

/* The last of its clients has gone. */
void xvm_guest_kin_parted(struct xvm_guest_kin *k);
/* Look for those that have died unseen. */
void xvm_guest_kins_look(struct xvm_guest *g);

#endif
