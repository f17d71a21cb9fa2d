/* SPDX-License-Identifier: Apache-2.0 */
/* What xvmd says: to stderr in the foreground, to syslog otherwise. */
#ifndef XVM_DETECT_LOG_H
#define XVM_DETECT_LOG_H

#include <stdbool.h>
#include <syslog.h>

/* Until it is called, everything goes to stderr. */
void xvm_log_open(bool foreground);

/* LOG_ERR to LOG_DEBUG: what is less important is not said. */
void xvm_log_level(int level);

void xvm_log(int priority, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
