/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "detect/log.h"

static bool to_syslog, with_prefix;
static int max_level = LOG_NOTICE;

void xvm_log_open(bool foreground)
{
	to_syslog = !foreground;
	/* The journal takes the priority from the line itself; a terminal should not show it. */
	with_prefix = foreground && getenv("JOURNAL_STREAM");
	if (to_syslog)
		openlog("xvmd", LOG_PID, LOG_DAEMON);
}

void xvm_log_level(int level)
{
	max_level = level;
}

void xvm_log(int priority, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (priority > max_level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (to_syslog)
		syslog(priority, "%s", line);
	else if (with_prefix)
		fprintf(stderr, "<%d>%s\n", priority, line);
	else
		fprintf(stderr, "xvmd: %s\n", line);
}
