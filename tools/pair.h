/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client and a server process (`xvm peer`, see peer.c) with TCP between them, each
 * preloaded or not: what `xvm check` tries and `xvm bench` measures.
 */
#ifndef XVM_TOOLS_PAIR_H
#define XVM_TOOLS_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/ask.h"
#include "tools/spawn.h"

struct xvm_pair_spec {
	const char *mode; /* rtt, stream, crr */
	unsigned size;	  /* of a message */
	const char *addr; /* the server's */
	const char *lib, *socket;
	bool xvm_client, xvm_server; /* which of them is preloaded */
	int ns_client, ns_server;    /* descriptors, or -1 */
	int cpu_client, cpu_server;  /* or -1 */
};

struct xvm_pair {
	struct xvm_child client, server;
	char port[8];
	char why[200]; /* what went wrong */
};

/* What a timed slice has done. */
struct xvm_slice {
	double count; /* round trips, bytes or connections */
	double seconds;
};

/* All of these: 0, or a negative errno with a line in p->why. */
int xvm_pair_start(struct xvm_pair *p, const struct xvm_pair_spec *s);
/* Traffic until `ms` have passed, or, with `a`, until the client's connection is on the ring
 * (both ways, or one way for a stream); -ETIMEDOUT if it never is. *row: how it was found last. */
int xvm_pair_warm(struct xvm_pair *p, const struct xvm_pair_spec *s, int ms, struct xvm_ask *a,
		  struct xvm_msg_row *row);
int xvm_pair_slice(struct xvm_pair *p, int ms, struct xvm_slice *slice);
int xvm_pair_row(struct xvm_pair *p, struct xvm_ask *a, struct xvm_msg_row *row);

void xvm_pair_end(struct xvm_pair *p);

/* Does the process have libxvm.so mapped? */
bool xvm_pair_mapped(pid_t pid);

#endif
