/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/tool.h"

const char *xvm_tool_name;

/* In one write, so that lines of processes that share a terminal do not mix. */
static void say(const char *fmt, va_list ap, const char *tail)
{
	char buf[1024];
	int n;

	n = snprintf(buf, sizeof(buf), "xvm: %s%s", xvm_tool_name ? xvm_tool_name : "",
		     xvm_tool_name ? ": " : "");
	vsnprintf(buf + n, sizeof(buf) - n, fmt, ap);
	fflush(stdout);
	fprintf(stderr, "%s%s\n", buf, tail);
}

void xvm_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap, "");
	va_end(ap);
}

void xvm_die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap, "");
	va_end(ap);
	exit(2);
}

void xvm_misuse(const char *fmt, ...)
{
	va_list ap;
	char tail[64];

	snprintf(tail, sizeof(tail), " (see 'xvm %s--help')", "");
	if (xvm_tool_name)
		snprintf(tail, sizeof(tail), " (see 'xvm %s --help')", xvm_tool_name);
	va_start(ap, fmt);
	say(fmt, ap, tail);
	va_end(ap);
	exit(2);
}

static int next_option(int argc, char **argv, const char *shorts, const struct option *longs,
		       const char *help)
{
	struct option all[16];
	int n = 0, ret;

	for (; longs && longs[n].name; n++)
		all[n] = longs[n];
	all[n++] = (struct option){"help", no_argument, NULL, 'h'};
	all[n] = (struct option){0};

	opterr = 0;
	ret = getopt_long(argc, argv, shorts, all, NULL);
	switch (ret) {
	case 'h':
		fputs(help, stdout);
		exit(fflush(stdout) ? 2 : 0);
	case ':':
		xvm_misuse("option '%s' needs a value", argv[optind - 1]);
	case '?':
		/* optopt is 0 for a long option that is unknown or ambiguous, its value for one
		 * that was given an argument it does not take, the character of a short one. */
		if (argv[optind - 1][0] == '-' && argv[optind - 1][1] == '-')
			xvm_misuse("unknown option '%s'", argv[optind - 1]);
		xvm_misuse("unknown option '-%c'", optopt);
	}
	return ret;
}

int xvm_getopt(int argc, char **argv, const struct option *longs, const char *help)
{
	return next_option(argc, argv, ":h", longs, help);
}

int xvm_getopt_first(int argc, char **argv, const struct option *longs, const char *help)
{
	return next_option(argc, argv, "+:h", longs, help);
}

uint64_t xvm_number(const char *s, uint64_t min, uint64_t max, const char *what)
{
	unsigned long long v;
	char *end;

	errno = 0;
	v = strtoull(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno || v < min || v > max)
		xvm_misuse("%s is a whole number from %llu to %llu, not '%s'", what,
			   (unsigned long long)min, (unsigned long long)max, s);
	return v;
}
