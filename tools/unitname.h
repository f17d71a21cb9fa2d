/* SPDX-License-Identifier: Apache-2.0 */
/* Names of systemd services, and words in their files. */
#ifndef XVM_TOOLS_UNITNAME_H
#define XVM_TOOLS_UNITNAME_H

#include <stddef.h>

#define XVM_UNIT_MAX 256 /* with the NUL; systemd's own limit */

/* Full name of a service ("nginx" is "nginx.service"). 0, -EINVAL for what systemd would not
 * take, -EPROTOTYPE for a unit that is no service. */
int xvm_unit_name(const char *s, char name[XVM_UNIT_MAX]);

/* VAR=VALUE for Environment=, quoted, specifiers escaped. 0, or -ENAMETOOLONG. */
int xvm_unit_env(const char *var, const char *value, char *buf, size_t size);

#endif
