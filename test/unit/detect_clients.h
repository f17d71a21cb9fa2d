/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon in this process, its clients at the other ends of socket pairs. */
#ifndef XVM_TEST_DETECT_CLIENTS_H
#define XVM_TEST_DETECT_CLIENTS_H

#include <stdbool.h>

#include "detect/daemon.h"

extern struct xvm_daemon d;

struct client {
	int sock, arena;
	uint32_t id;
	struct xvm_shm_arena *shm;
};

/* Around each test. */
void setup(void);
void teardown(void);
/* The daemon does what there is to do. */
void step(void);
int open_fds(void);

/* A client, step by step. */
void connect_as(struct client *c, uid_t uid);
void hello(struct client *c);
/* One that is welcome: with an arena of its own; and without. */
struct client program(void);
struct client tool(uid_t uid);
void say(struct client *c, struct xvm_msg m, const int *fds, int n);
void hang_up(struct client *c);

/* The next message, with its descriptors; without. */
struct xvm_msg get_fds(struct client *c, int *fds);
struct xvm_msg get(struct client *c);
/* The next of the two that decide, whatever comes before. */
struct xvm_msg verdict(struct client *c);
/* No message has come. */
void nothing(struct client *c);
/* Has the daemon closed the connection? */
bool dropped(struct client *c);

/* A TCP connection, both ends here. */
void tcp(int fam, const char *addr, int end[2]);
/* An end is offered, with a half that holds mark. The client is paired with one that holds mark. */
void offer(struct client *c, int sock, uint32_t slot, uint32_t role, const char *mark);
void expect_pair(struct client *c, uint32_t slot, uint32_t role, uint32_t peer, const char *mark);

#endif
