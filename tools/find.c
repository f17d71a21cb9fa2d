/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/find.h"
#include "tools/preload.h"
#include "tools/tool.h"

const char *xvm_find_self(void)
{
	static char self[PATH_MAX];
	ssize_t n;

	if (!*self) {
		n = readlink("/proc/self/exe", self, sizeof(self) - 1);
		if (n < 0)
			return NULL;
		self[n] = 0;
	}
	return self;
}

static const char *find(char *buf, size_t size, const char *name, int mode, const char *installed)
{
	const char *self = xvm_find_self(), *slash;
	size_t n;

	if (self) {
		slash = strrchr(self, '/');
		n = snprintf(buf, size, "%.*s/%s", (int)(slash - self), self, name);
		if (n < size && !access(buf, mode))
			return buf;
	}
	return access(installed, mode) ? NULL : installed;
}

const char *xvm_find_lib(void)
{
	static char buf[PATH_MAX];

	return find(buf, sizeof(buf), "libxvm.so", R_OK, XVM_LIB_INSTALLED);
}

const char *xvm_find_xvmd(void)
{
	static char buf[PATH_MAX];

	return find(buf, sizeof(buf), "xvmd", X_OK, XVM_XVMD_INSTALLED);
}

const char *xvm_find_lib_or_die(const char *option)
{
	static char buf[PATH_MAX];
	const char *lib;

	if (option) {
		/* The program may run elsewhere, or change its directory before it starts others.
		 */
		lib = realpath(option, buf);
		if (!lib || access(lib, R_OK))
			xvm_misuse("cannot read %s: %s", option, strerror(errno));
	} else {
		lib = xvm_find_lib();
		if (!lib)
			xvm_die("libxvm.so can be read neither beside xvm nor at %s; --lib tells "
				"where it is",
				XVM_LIB_INSTALLED);
	}
	if (!xvm_preload_possible(lib))
		xvm_die("%s: LD_PRELOAD can name no path with a blank or colon in it", lib);
	return lib;
}
