/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/program.h"

static char path[64];

static void write_file(const void *data, size_t len, mode_t mode)
{
	int fd;

	strcpy(path, "/tmp/xvm-unit-XXXXXX");
	fd = mkstemp(path);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, data, len), (ssize_t)len);
	cr_assert_eq(fchmod(fd, mode), 0);
	close(fd);
}

static int judge(const void *data, size_t len, mode_t mode)
{
	char why[512] = "";
	int ret;

	write_file(data, len, mode);
	ret = xvm_program_judge(path, why, sizeof(why));
	unlink(path);
	cr_assert_neq(*why, 0, "no reason is given");
	return ret;
}

static int judge_text(const char *s)
{
	return judge(s, strlen(s), 0755);
}

Test(program, scripts)
{
	cr_assert_eq(judge_text("#!/bin/sh\n"), 0);
	cr_assert_eq(judge_text("#! /bin/sh -e\n"), 0);
	cr_assert_eq(judge_text("#!/usr/bin/env sh\n"), 0);
	cr_assert_lt(judge_text("#!/usr/bin/env no-such-program\n"), 0);
	cr_assert_lt(judge_text("#!\n"), 0);
	cr_assert_lt(judge_text("#!/nonexistent\n"), 0);
	cr_assert_lt(judge_text(""), 0);
	cr_assert_lt(judge_text("hello"), 0);
	/* On a script the bit means nothing. */
	cr_assert_eq(judge("#!/bin/sh\n", 10, 04755), 0);
}

Test(program, itself)
{
	char line[80];

	/* A script that runs itself has no end. */
	strcpy(path, "/tmp/xvm-unit-XXXXXX");
	close(mkstemp(path));
	snprintf(line, sizeof(line), "#!%s\n", path);
	unlink(path);
	FILE *f = fopen(path, "w");
	fputs(line, f);
	fclose(f);
	char why[512];
	cr_assert_lt(xvm_program_judge(path, why, sizeof(why)), 0);
	unlink(path);
}

Test(program, elf)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p[2];
		char interp[64];
	} f;
	int fd = open("/proc/self/exe", O_RDONLY);

	memset(&f, 0, sizeof(f));
	cr_assert_eq(read(fd, &f.h, sizeof(f.h)), (ssize_t)sizeof(f.h));
	close(fd);
	f.h.e_phoff = sizeof(f.h);
	f.h.e_phentsize = sizeof(f.p[0]);
	f.h.e_phnum = 2;
	f.p[0].p_type = PT_LOAD;
	cr_assert_eq(judge(&f, sizeof(f), 0755), 1, "static");
	f.p[1].p_type = PT_INTERP;
	f.p[1].p_offset = offsetof(typeof(f), interp);
	strcpy(f.interp, "/lib64/ld-linux-x86-64.so.2");
	cr_assert_eq(judge(&f, sizeof(f), 0755), 0, "dynamic");
	cr_assert_eq(judge(&f, sizeof(f), 04755), 1, "set-user-ID");
	cr_assert_eq(judge(&f, sizeof(f), 02755), 1, "set-group-ID");
	strcpy(f.interp, "/lib/ld-musl-x86_64.so.1");
	cr_assert_eq(judge(&f, sizeof(f), 0755), 1, "musl");

	/* Half a file, and headers that point nowhere: an answer, whichever it is. */
	cr_assert_lt(judge(&f, 40, 0755), 0);
	f.h.e_phoff = ~0ull;
	f.h.e_phnum = 0xffff;
	judge(&f, sizeof(f), 0755);
	f.h.e_phoff = sizeof(f.h);
	f.p[1].p_offset = ~0ull;
	judge(&f, sizeof(f), 0755);
	f.h.e_machine ^= 0xff;
	cr_assert_eq(judge(&f, sizeof(f), 0755), 1, "another machine");
}

Test(program, find)
{
	char found[64];

	cr_assert_eq(setenv("PATH", "/nonexistent:/bin", 1), 0);
	cr_assert_eq(xvm_program_find("sh", found, sizeof(found)), 0);
	cr_assert_str_eq(found, "/bin/sh");
	cr_assert_eq(xvm_program_find("./x", found, sizeof(found)), 0);
	cr_assert_str_eq(found, "./x");
	cr_assert_eq(xvm_program_find("no-such-program", found, sizeof(found)), -ENOENT);
	cr_assert_eq(xvm_program_find("", found, sizeof(found)), -ENOENT);
}
