/* SPDX-License-Identifier: Apache-2.0 */
/* Can a library be preloaded into a program? */
#ifndef XVM_TOOLS_PROGRAM_H
#define XVM_TOOLS_PROGRAM_H

#include <stddef.h>

/* Where execvp() would find it, following no "#!". 0, or a negative errno. */
int xvm_program_find(const char *name, char *path, size_t size);

/* 0: yes. 1: no, for a reason. Negative errno: it cannot be told. `why` gets a line in any case. */
int xvm_program_judge(const char *path, char *why, size_t size);

#endif
