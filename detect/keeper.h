/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that holds vfio's descriptor of a device. When the last of its descriptors is closed
 * the device's memory reads as zeros for a moment, in the middle of whatever streams there are; so
 * it is not to be closed while any program may have the memory mapped, be there an xvmd or not.
 *
 * The keeper does nothing but wait for life.h to say that nobody is left; then it ends. The next
 * xvmd takes a copy of the descriptor out of it, by which it finds the interrupts as they were.
 */
#ifndef XVM_DETECT_KEEPER_H
#define XVM_DETECT_KEEPER_H

#include <ev.h>

#include "detect/life.h"

struct xvm_keeper {
	char path[300]; /* of the file that tells of the keeper */
	int pidfd;	/* -1: there is none */
	pid_t pid;
	ev_io died;
	int fd; /* what is kept; not ours to close */
	const struct xvm_life *life;
	struct ev_loop *loop;
};

/* What a former xvmd's keeper has: a descriptor, or -1. That keeper stays until there is another.
 */
int xvm_keeper_find(struct xvm_keeper *k, const char *path);
/* From now on one keeps this, and is replaced when it dies. */
void xvm_keeper_start(struct xvm_keeper *k, struct ev_loop *loop, const struct xvm_life *life,
		      int fd);
/* Of ours; it goes on. */
void xvm_keeper_leave(struct xvm_keeper *k);
/* The device is to be let go, whoever may use it. */
void xvm_keeper_end(struct xvm_keeper *k);

#endif
