/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the application's signal handlers say SA_RESTART. */
#ifndef XVM_SHIM_RESTART_H
#define XVM_SHIM_RESTART_H

#include <stdbool.h>

/* What is done with sig may have changed. Async-signal-safe. */
void xvm_restart_note(int sig);
/* Are there of both kinds? Then only the kernel knows whether a call that blocks goes on. */
bool xvm_restart_mixed(void);
/* A signal has interrupted a call: do all handlers say that it goes on? */
bool xvm_restart_all(void);

#endif
