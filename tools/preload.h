/* SPDX-License-Identifier: Apache-2.0 */
/* LD_PRELOAD, as text. */
#ifndef XVM_TOOLS_PRELOAD_H
#define XVM_TOOLS_PRELOAD_H

#include <stdbool.h>

/* Can LD_PRELOAD name this path? It has no quoting, and blanks and colons separate. */
bool xvm_preload_possible(const char *path);

/* `old` (or NULL) with lib in front, or with no libxvm.so at all if lib is NULL. Whatever
 * else stands there stays, in order. The caller frees it. */
char *xvm_preload_list(const char *lib, const char *old);

#endif
