/* SPDX-License-Identifier: Apache-2.0 */
/* Questions to xvmd. */
#ifndef XVM_TOOLS_ASK_H
#define XVM_TOOLS_ASK_H

#include <stdint.h>

#include "detect/proto.h"

struct xvm_ask {
	int sock;
	char path[128];	  /* of the socket that answered, or that did not */
	uint32_t version; /* of the daemon, where it is another one */
};

#define XVM_WHY 256
#define XVM_ASK_MS 5000 /* a daemon that takes longer for one message is taken for dead */

/* Path longer than a socket's can be, or something else than a socket is there: misuse. */
void xvm_ask_check_path(const char *path);

/* Is there an xvmd of our version at path? 0 or a negative errno. */
int xvm_ask_open_at(struct xvm_ask *a, const char *path);

/*
 * The daemon at path (NULL: at XVM_SOCKET or the system's place); if that is the system's place and
 * nobody is there, this user's private one. 0 or a negative errno, which is the first place's.
 */
int xvm_ask_open(struct xvm_ask *a, const char *path);
void xvm_ask_open_or_die(struct xvm_ask *a, const char *path);
const char *xvm_ask_why(const struct xvm_ask *a, int err,
			char buf[XVM_WHY]); /* why it failed, for people */
void xvm_ask_close(struct xvm_ask *a);

/* 0 or a negative errno. */
int xvm_ask_send(struct xvm_ask *a, const struct xvm_msg *m);
int xvm_ask_next(struct xvm_ask *a, struct xvm_msg *m);

/* One question, one XVM_MSG_END: its arg, text and so on are in *m. 0 or a negative errno. */
int xvm_ask(struct xvm_ask *a, struct xvm_msg *m);

/* All rows of `ss`, in an array that the caller frees; rows of pid only, unless it is 0. Their
 * number or a negative errno. */
int xvm_ask_rows(struct xvm_ask *a, int32_t pid, struct xvm_msg_row **rows);

#endif
