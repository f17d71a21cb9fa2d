/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The embedded default: an xvmd of this user's own, for when no other is there. Its socket is
 * in $XDG_RUNTIME_DIR/xvm or /tmp/xvm-UID, a directory that belongs to the user and that nobody
 * else can enter, so nobody else can put a daemon there or talk to this one.
 */
#ifndef XVM_TOOLS_PRIVATE_H
#define XVM_TOOLS_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/ask.h"

/* Where its socket is or would be. 0, -ENAMETOOLONG; looks only. */
int xvm_private_path(char *buf, size_t size);

/* Make the directory of `path`, or check the one that is there. 0, -EPERM if it is not
 * ours alone, or another negative errno. */
int xvm_private_dir(const char *path);

/* Is a daemon there, or can one be started? `loud`: it keeps our stderr. 0 or a negative errno. */
int xvm_private_up(const char *path, bool loud);

/*
 * The daemon that a program run through xvm is to talk to, as `xvm run` chooses it: the one at
 * `path` or XVM_SOCKET or the system's place if it answers and `own` is not set; else a private
 * one. Its path is in a->path, the connection is open. 0 or a negative errno.
 */
int xvm_private_choose(struct xvm_ask *a, const char *path, bool own, bool loud);

#endif
