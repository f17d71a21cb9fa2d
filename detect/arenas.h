/* SPDX-License-Identifier: Apache-2.0 */
/* The arenas of the clients: one for each family of forks. Read with pread() into private
 * memory, never mapped, so that nothing that their owners do can fault or change under our eyes. */
#ifndef XVM_DETECT_ARENAS_H
#define XVM_DETECT_ARENAS_H

#include "detect/conn.h"

/* Join c to the arena in fd, which becomes ours. 0, or a negative errno and fd stays the caller's.
 */
int xvm_arenas_join(struct xvm_conn *c, int fd);
void xvm_arenas_leave(struct xvm_conn *c);

/* The entry of a slot, or NULL; it is made if need be: NULL is -ENOMEM. */
struct xvm_slot *xvm_arenas_slot(const struct xvm_arena_ref *a, uint32_t slot);
struct xvm_slot *xvm_arenas_slot_make(struct xvm_arena_ref *a, uint32_t slot);
/* Free it if nothing is going on about it. */
void xvm_arenas_slot_tidy(struct xvm_slot *s);

/* A private copy of n endpoints from slot first on: how many there were. */
uint32_t xvm_arenas_read(const struct xvm_arena_ref *a, uint32_t first, uint32_t n,
			 struct xvm_shm_ep *eps);

#define XVM_ARENAS_COUNTERS 16
/* XVM_COUNTERS of this arena, in their order. */
int xvm_arenas_counters(const struct xvm_arena_ref *a, uint64_t n[XVM_ARENAS_COUNTERS]);

#endif
