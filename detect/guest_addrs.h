/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses a guest tells its host of, and what it learns of others' from the region. */
#ifndef XVM_DETECT_GUEST_ADDRS_H
#define XVM_DETECT_GUEST_ADDRS_H

#include "detect/guest.h"

/* What the host does not know yet of our addresses, or knows no longer rightly. */
void xvm_guest_addrs_tell(struct xvm_guest *g);

/* Take over the region's table, if it has changed; and forget what came from it. */
void xvm_guest_addrs_mirror(struct xvm_guest *g);
void xvm_guest_addrs_forget(struct xvm_guest *g);

#endif
