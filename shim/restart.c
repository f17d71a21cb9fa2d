/* SPDX-License-Identifier: Apache-2.0 */
/*
 * poll(2) never goes on after a handler, so a wait that is made of it has to judge for itself
 * whether the call that it stands for would. Which handler has run nobody tells. Where all are of
 * one kind that does not matter; where they are not, ready.c sleeps in a call of the kind that was
 * made.
 *
 * Signals that a thread brings upon itself by a fault do not interrupt its calls.
 */
#include "shim/restart.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "shim/process.h"
#include "shim/real.h"

static _Atomic uint64_t going_on, interrupting; /* bit by signal */

static bool asynchronous(int sig)
{
	switch (sig) {
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
	case SIGTRAP:
	case SIGSYS:
	case SIGABRT:
		return false;
	default:
		return sig > 0 && sig < _NSIG && (sig < 32 || sig >= 34); /* libc's own */
	}
}

/* 1: goes on, -1: is interrupted, 0: no handler. */
static int kind_of(int sig)
{
	struct sigaction sa;

	if (!asynchronous(sig) || REAL(sigaction)(sig, NULL, &sa) < 0 || sa.sa_handler == SIG_DFL ||
	    sa.sa_handler == SIG_IGN)
		return 0;
	return sa.sa_flags & SA_RESTART ? 1 : -1;
}

void xvm_restart_note(int sig)
{
	uint64_t bit = 1ull << (sig & 63);
	int kind;

	if (!asynchronous(sig) || xvm_conf.sandboxed || xvm_in_vfork())
		return;
	kind = kind_of(sig);
	if (kind > 0)
		atomic_fetch_or(&going_on, bit);
	else
		atomic_fetch_and(&going_on, ~bit);
	if (kind < 0)
		atomic_fetch_or(&interrupting, bit);
	else
		atomic_fetch_and(&interrupting, ~bit);
}

bool xvm_restart_mixed(void)
{
	return atomic_load_explicit(&going_on, memory_order_relaxed) &&
	       atomic_load_explicit(&interrupting, memory_order_relaxed);
}

bool xvm_restart_all(void)
{
	for (int sig = 1; sig < _NSIG; sig++)
		if (kind_of(sig) < 0)
			return false;
	return true;
}
