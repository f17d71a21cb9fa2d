/* SPDX-License-Identifier: Apache-2.0 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tools/program.h"

#define SCRIPTS_MAX 4 /* the kernel's own limit on interpreters of interpreters, near enough */
#define HEADERS_MAX 128

int xvm_program_find(const char *name, char *path, size_t size)
{
	const char *dirs = getenv("PATH"), *end;
	struct stat st;

	if (strchr(name, '/'))
		return (size_t)snprintf(path, size, "%s", name) < size ? 0 : -ENAMETOOLONG;
	for (dirs = dirs ? dirs : "/usr/bin:/bin"; *dirs; dirs = *end ? end + 1 : end) {
		end = strchrnul(dirs, ':');
		if ((size_t)snprintf(path, size, "%.*s/%s", (int)(end - dirs),
				     end > dirs ? dirs : ".", name) < size &&
		    !access(path, X_OK) && !stat(path, &st) && S_ISREG(st.st_mode))
			return 0;
	}
	return -ENOENT;
}

static int judge_elf(int fd, const char *path, char *why, size_t size)
{
	Elf64_Ehdr h, own;
	Elf64_Phdr ph;
	char interp[PATH_MAX];
	ssize_t n;
	int self, i;

	/* libxvm.so is built as we are. */
	self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	n = self < 0 ? -1 : read(self, &own, sizeof(own));
	if (self >= 0)
		close(self);
	if (n != sizeof(own) || pread(fd, &h, sizeof(h), 0) != sizeof(h) ||
	    memcmp(h.e_ident, ELFMAG, SELFMAG) != 0) {
		snprintf(why, size, "%s is no program", path);
		return -ENOEXEC;
	}
	if (h.e_ident[EI_CLASS] != own.e_ident[EI_CLASS] || h.e_machine != own.e_machine) {
		snprintf(why, size, "%s is for another kind of CPU, or 32 bits, than libxvm.so",
			 path);
		return 1;
	}
	for (i = 0; i < h.e_phnum && i < HEADERS_MAX; i++) {
		if (h.e_phentsize != sizeof(ph) ||
		    pread(fd, &ph, sizeof(ph), (off_t)(h.e_phoff + i * sizeof(ph))) != sizeof(ph))
			break;
		if (ph.p_type != PT_INTERP)
			continue;
		n = pread(fd, interp, sizeof(interp) - 1, (off_t)ph.p_offset);
		interp[n > 0 ? n : 0] = 0;
		if (strstr(interp, "musl")) {
			snprintf(why, size, "%s uses musl (%s), and libxvm.so needs glibc", path,
				 interp);
			return 1;
		}
		snprintf(why, size, "%s is linked dynamically", path);
		return 0;
	}
	snprintf(why, size, "%s is linked statically: nothing can be preloaded into it", path);
	return 1;
}

/* "#!/usr/bin/env python3" runs what env finds. False if that cannot be told. */
static bool script_runs(const char *line, char *path, size_t size)
{
	char name[PATH_MAX] = "", arg[256] = "";

	if (sscanf(line, "#! %4095[^ \t\n] %255[^ \t\n]", name, arg) < 1)
		return false;
	if (strlen(name) > 4 && !strcmp(name + strlen(name) - 4, "/env") && *arg)
		return !xvm_program_find(arg, path, size);
	return (size_t)snprintf(path, size, "%s", name) < size;
}

static int judge(const char *path, char *why, size_t size, int depth)
{
	char line[512] = "", next[PATH_MAX];
	struct stat st;
	int fd, ret;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st)) {
		ret = -errno;
		snprintf(why, size, "cannot read %s: %s", path, strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		ret = -ENOEXEC;
		snprintf(why, size, "%s is no file", path);
	} else if (pread(fd, line, sizeof(line) - 1, 0) < 0) {
		ret = -errno;
		snprintf(why, size, "cannot read %s: %s", path, strerror(errno));
	} else if (line[0] == '#' && line[1] == '!') {
		/* The kernel ignores these bits on a script. */
		if (depth == SCRIPTS_MAX || !script_runs(line, next, sizeof(next))) {
			ret = -ENOEXEC;
			snprintf(why, size, "%s: cannot tell what runs it", path);
		} else {
			ret = judge(next, why, size, depth + 1);
		}
	} else if (st.st_mode & (S_ISUID | S_ISGID)) {
		ret = 1;
		snprintf(why, size, "%s is set-user-ID or set-group-ID: LD_PRELOAD is ignored",
			 path);
	} else if (fgetxattr(fd, "security.capability", NULL, 0) > 0) {
		ret = 1;
		snprintf(why, size, "%s has file capabilities: LD_PRELOAD is ignored", path);
	} else {
		ret = judge_elf(fd, path, why, size);
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

int xvm_program_judge(const char *path, char *why, size_t size)
{
	return judge(path, why, size, 0);
}
