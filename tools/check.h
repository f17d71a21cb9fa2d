/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of xvm check. */
#ifndef XVM_TOOLS_CHECK_H
#define XVM_TOOLS_CHECK_H

#include "tools/ask.h"

enum xvm_verdict { XVM_OK, XVM_WARN, XVM_FAIL };

/* One line, and remembered for the exit status. */
void xvm_check_tell(enum xvm_verdict v, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* In a VM: its ivshmem devices, as xvmd and we see them. */
void xvm_check_devices(struct xvm_ask *a);

#endif
