/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tools/unitname.h"

static bool has_suffix(const char *s, const char *suffix)
{
	size_t n = strlen(s), m = strlen(suffix);

	return n > m && !strcmp(s + n - m, suffix);
}

int xvm_unit_name(const char *s, char name[XVM_UNIT_MAX])
{
	static const char *const others[] = {".socket", ".target",   ".timer", ".mount",
					     ".path",	".slice",    ".scope", ".device",
					     ".swap",	".automount"};
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				 ":-_.\\@";
	size_t i, len = strlen(s);

	if (!len || *s == '.' || *s == '-' || *s == '@' || s[strspn(s, ok)])
		return -EINVAL;
	for (i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (has_suffix(s, others[i]))
			return -EPROTOTYPE;
	i = snprintf(name, XVM_UNIT_MAX, "%s%s", s, has_suffix(s, ".service") ? "" : ".service");
	return i < XVM_UNIT_MAX ? 0 : -EINVAL;
}

int xvm_unit_env(const char *var, const char *value, char *buf, size_t size)
{
	size_t n;

	n = snprintf(buf, size, "\"%s=", var);
	for (; *value; value++) {
		if (n + 4 > size)
			return -ENAMETOOLONG;
		if (*value == '%')
			buf[n++] = '%';
		else if (*value == '"' || *value == '\\')
			buf[n++] = '\\';
		buf[n++] = *value;
	}
	if (n + 2 > size)
		return -ENAMETOOLONG;
	buf[n++] = '"';
	buf[n] = 0;
	return 0;
}
