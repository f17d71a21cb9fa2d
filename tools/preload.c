/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "tools/preload.h"

#define SEPARATORS " :"
#define NAME "libxvm.so"

bool xvm_preload_possible(const char *path)
{
	return !path[strcspn(path, SEPARATORS "\t\n")];
}

static bool is_ours(const char *s, size_t len)
{
	size_t n = strlen(NAME);

	if (len < n || memcmp(s + len - n, NAME, n) != 0)
		return false;
	return len == n || s[len - n - 1] == '/';
}

char *xvm_preload_list(const char *lib, const char *old)
{
	size_t len;
	char *list, *p;

	if (!old)
		old = "";
	list = malloc((lib ? strlen(lib) : 0) + strlen(old) + 2);
	if (!list)
		abort();
	p = lib ? stpcpy(list, lib) : list;
	for (; *old; old += len) {
		old += strspn(old, SEPARATORS);
		len = strcspn(old, SEPARATORS);
		if (!len || is_ours(old, len))
			continue;
		if (p > list)
			*p++ = ':';
		p = mempcpy(p, old, len);
	}
	*p = 0;
	return list;
}
