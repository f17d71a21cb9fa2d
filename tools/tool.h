/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all subcommands of xvm share. Each has a file cmd_NAME.c; xvm.c has the table.
 *
 * Exit codes: 0 done; 1 the answer is no (not resident, not on the ring, no such connection);
 * 2 misuse, or it could not be done. Misuse is one line on stderr.
 */
#ifndef XVM_TOOLS_TOOL_H
#define XVM_TOOLS_TOOL_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

struct xvm_cmd {
	const char *name;
	int (*fn)(int argc, char **argv);
	const char *args;
	const char *help; /* NULL: hidden, for xvm's own children */
};

int xvm_cmd_run(int argc, char **argv);
int xvm_cmd_ss(int argc, char **argv);
int xvm_cmd_resident(int argc, char **argv);
int xvm_cmd_leave(int argc, char **argv);
int xvm_cmd_enter(int argc, char **argv);
int xvm_cmd_stats(int argc, char **argv);
int xvm_cmd_check(int argc, char **argv);
int xvm_cmd_vm_args(int argc, char **argv);
int xvm_cmd_enable(int argc, char **argv);
int xvm_cmd_disable(int argc, char **argv);
int xvm_cmd_bench(int argc, char **argv);
int xvm_cmd_peer(int argc, char **argv);

/* Name of the running subcommand, for messages. */
extern const char *xvm_tool_name;

/* One line on stderr. */
void xvm_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* One line on stderr and exit 2. */
void xvm_die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* The same, with a hint at --help: for a command line that makes no sense. */
void xvm_misuse(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * The next option, or -1 with the operands from argv[optind] on. -h, --help and misuse do not
 * come back. `longs` need not name --help.
 */
int xvm_getopt(int argc, char **argv, const struct option *longs, const char *help);

/* The same, up to the first operand: what follows is somebody else's command line. */
int xvm_getopt_first(int argc, char **argv, const struct option *longs, const char *help);

/* A whole number in [min, max], or misuse; `what` names it. */
uint64_t xvm_number(const char *s, uint64_t min, uint64_t max, const char *what);

#endif
