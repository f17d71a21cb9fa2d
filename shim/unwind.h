/* SPDX-License-Identifier: Apache-2.0 */
/* Unwinding, without libgcc_s among what the library needs. */
#ifndef XVM_SHIM_UNWIND_H
#define XVM_SHIM_UNWIND_H

/* Early, while there is one thread. */
void xvm_unwind_init(void);

/* The compiler's names. */
int __gcc_personality_v0(int version, int actions, unsigned long long class, void *exception,
			 void *context);
void _Unwind_Resume(void *exception) __attribute__((noreturn));

#endif
