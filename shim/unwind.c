/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the compiler calls where a cancelled thread, or a C++ exception, leaves a frame that has
 * something to clean up. Linked the usual way, these would make libgcc_s.so.1 needed, and a program
 * of musl's, whose loader finds no such library, could not start with ours preloaded. So they are
 * looked up at the start, and where they are not found nothing can unwind either.
 */
#include "shim/unwind.h"

#include <dlfcn.h>
#include <stdlib.h>

static int (*personality)(int, int, unsigned long long, void *, void *);
static void (*resume)(void *);

void xvm_unwind_init(void)
{
	/* Libc does the same at the first pthread_cancel(). Never closed. */
	void *lib = dlopen("libgcc_s.so.1", RTLD_LAZY);

	if (!lib)
		return;
	personality = (__typeof__(personality))dlsym(lib, "__gcc_personality_v0");
	resume = (__typeof__(resume))dlsym(lib, "_Unwind_Resume");
}

int __gcc_personality_v0(int version, int actions, unsigned long long class, void *exception,
			 void *context)
{
	if (!personality)
		abort();
	return personality(version, actions, class, exception, context);
}

void _Unwind_Resume(void *exception)
{
	if (resume)
		resume(exception);
	abort();
}
