/* SPDX-License-Identifier: Apache-2.0 */
/* Children that talk to us in lines: their stdin and stdout are pipes of ours. */
#ifndef XVM_TOOLS_SPAWN_H
#define XVM_TOOLS_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

struct xvm_child {
	pid_t pid;
	int in, out; /* we write, we read */
	char buf[512];
	size_t have;
};

struct xvm_spawn {
	const char *lib;    /* preloaded; NULL: plain */
	const char *socket; /* XVM_SOCKET */
	int netns;	    /* a descriptor, or -1 */
	int cpu;	    /* or -1 */
	const char *env[4]; /* more, "NAME=VALUE" */
};

/* Runs `xvm argv[1] ...`; argv[0] is set here. It is killed when we die. 0 or a negative errno. */
int xvm_child_start(struct xvm_child *c, const struct xvm_spawn *s, const char **argv);
int xvm_child_say(struct xvm_child *c, const char *line); /* a newline is added */

/* The next line, without its newline. 0, -ETIMEDOUT, -EPIPE at the end, -EMSGSIZE. */
int xvm_child_line(struct xvm_child *c, char *line, size_t size, int timeout_ms);

/* Close its stdin, give it a moment, else kill it. Its status as wait() has it. */
int xvm_child_end(struct xvm_child *c);
void xvm_child_kill(struct xvm_child *c);

#endif
