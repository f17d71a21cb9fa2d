/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that is about to be unplugged: the kernel asks vfio's users to close it, and waits until
 * they have. Before that our programs leave the memory: their streams go on over TCP, and what is
 * still in the other end's ring is sent again (REGION.md). Those that do not answer in time are
 * reset. Where vfio does not have the device nobody asks: it is just gone.
 */
#ifndef XVM_DETECT_UNPLUG_H
#define XVM_DETECT_UNPLUG_H

#include "detect/guest.h"

#define XVM_UNPLUG_STEP_S .1	  /* how often programs are asked */
#define XVM_UNPLUG_LATE_S 2.	  /* then a peer that makes no call is not waited for */
#define XVM_UNPLUG_PATIENCE_S 10. /* then what is left is reset */

void xvm_unplug_init(struct xvm_guest *g);
void xvm_unplug_exit(struct xvm_guest *g);
void xvm_unplug_begin(struct xvm_guest *g);
/* It has gone without a word. */
void xvm_unplug_gone(struct xvm_guest *g);

#endif
