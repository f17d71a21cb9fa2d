/* SPDX-License-Identifier: Apache-2.0 */
/* Where the other parts of xvm are: beside this program (a build tree), or where they were
 * installed. */
#ifndef XVM_TOOLS_FIND_H
#define XVM_TOOLS_FIND_H

/* Absolute paths, or NULL with errno set; never freed. */
const char *xvm_find_self(void);
const char *xvm_find_lib(void);
const char *xvm_find_xvmd(void);

/* --lib: made absolute and checked, or misuse. NULL: xvm_find_lib(), or a fatal error. */
const char *xvm_find_lib_or_die(const char *option);

#endif
