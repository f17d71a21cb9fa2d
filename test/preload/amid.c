/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded behind libxvm.so: in the middle of a wait, where it asks for its CPU with an epoll's
 * lock held, a function of the program runs, as a signal handler would.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT int sched_getcpu(void);
EXPORT int sched_getcpu(void)
{
	void (**amid)(void) = dlsym(RTLD_DEFAULT, "amid"), (*fn)(void) = amid ? *amid : NULL;
	unsigned cpu = 0;

	if (fn) {
		*amid = NULL;
		fn();
	}
	syscall(SYS_getcpu, &cpu, NULL, NULL);
	return (int)cpu;
}
