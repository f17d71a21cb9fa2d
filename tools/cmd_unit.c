/* SPDX-License-Identifier: Apache-2.0 */
/* xvm enable and xvm disable: a drop-in that preloads libxvm.so into a systemd service. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/ask.h"
#include "tools/find.h"
#include "tools/tool.h"
#include "tools/unitname.h"

static const char enable_help[] =
	"usage: xvm enable [OPTION…] UNIT\n\n"
	"Writes /etc/systemd/system/UNIT.d/50-xvm.conf, which preloads libxvm.so into the "
	"service.\n"
	"It takes effect when the service is started next: nothing is restarted. An LD_PRELOAD\n"
	"that the unit sets itself is replaced.\n\n"
	"  --socket PATH  the xvmd to use (default: " XVM_SOCKET_SYSTEM ")\n"
	"  --lib PATH     the libxvm.so to preload\n"
	"  --root DIR     write below DIR, and do not tell systemd\n";

static const char disable_help[] =
	"usage: xvm disable [--root DIR] UNIT\n\n"
	"Removes what `xvm enable` wrote. The service is plain again when it is started next.\n\n"
	"Exit status: 1 if the unit was not enabled.\n";

static const struct option enable_options[] = {
	{"socket", required_argument, NULL, 's'},
	{"lib", required_argument, NULL, 'L'},
	{"root", required_argument, NULL, 'r'},
	{0},
};

static const struct option disable_options[] = {
	{"root", required_argument, NULL, 'r'},
	{0},
};

struct dropin {
	char unit[XVM_UNIT_MAX];
	char dir[PATH_MAX], file[PATH_MAX + 32], temp[PATH_MAX + 32];
	bool live; /* systemd runs here and reads these files */
};

static void name_dropin(struct dropin *d, const char *s, const char *root)
{
	struct stat st;
	size_t n;

	switch (xvm_unit_name(s, d->unit)) {
	case 0:
		break;
	case -EPROTOTYPE:
		xvm_misuse("%s is not a service", s);
	default:
		xvm_misuse("'%s' is not the name of a systemd unit", s);
	}
	if (root && (stat(root, &st) || !S_ISDIR(st.st_mode)))
		xvm_misuse("%s is not a directory", root);
	n = snprintf(d->dir, sizeof(d->dir), "%s/etc/systemd/system/%s.d", root ? root : "",
		     d->unit);
	if (n >= sizeof(d->dir))
		xvm_misuse("%s: path too long", root);
	snprintf(d->file, sizeof(d->file), "%s/50-xvm.conf", d->dir);
	/* systemd reads *.conf only: never a half-written one. */
	snprintf(d->temp, sizeof(d->temp), "%s/.50-xvm.tmp", d->dir);
	d->live = !root && !access("/run/systemd/system", F_OK);
}

static int systemctl(const char *verb, const char *unit)
{
	char *const argv[] = {"systemctl", "--quiet", (char *)verb, (char *)unit, NULL};
	posix_spawn_file_actions_t quiet;
	extern char **environ;
	int status = -1, ret;
	pid_t pid;

	posix_spawn_file_actions_init(&quiet);
	posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
	if (unit)
		posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
	ret = posix_spawnp(&pid, argv[0], &quiet, NULL, argv, environ);
	posix_spawn_file_actions_destroy(&quiet);
	if (ret)
		return -ret;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status ? -EIO : 0;
}

static void make_dirs(const char *dir)
{
	char path[PATH_MAX];
	char *p;

	snprintf(path, sizeof(path), "%s", dir);
	for (p = path + 1;; p++) {
		if (*p && *p != '/')
			continue;
		if (*p == '/')
			*p = 0;
		else
			p = NULL;
		if (mkdir(path, 0755) && errno != EEXIST)
			xvm_die("cannot make %s: %s", path, strerror(errno));
		if (!p)
			return;
		*p = '/';
	}
}

static void write_dropin(const struct dropin *d, const char *lib, const char *socket)
{
	char env[2 * PATH_MAX + 32];
	FILE *f;
	int fd, bad;

	make_dirs(d->dir);
	fd = open(d->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f)
		xvm_die("cannot write %s: %s", d->temp, strerror(errno));
	fputs("# Written by `xvm enable`; `xvm disable` removes it.\n"
	      "# PrivateTmp= and ProtectSystem= do not hinder it: /run/xvm stays to be seen.\n"
	      "[Service]\n",
	      f);
	if (xvm_unit_env("LD_PRELOAD", lib, env, sizeof(env)))
		xvm_die("%s: path too long", lib);
	fprintf(f, "Environment=%s\n", env);
	if (strcmp(socket, XVM_SOCKET_SYSTEM) != 0 &&
	    !xvm_unit_env("XVM_SOCKET", socket, env, sizeof(env)))
		fprintf(f, "Environment=%s\n", env);
	bad = fflush(f) || ferror(f) || fsync(fd);
	fclose(f);
	if (bad || rename(d->temp, d->file)) {
		bad = errno;
		unlink(d->temp);
		xvm_die("cannot write %s: %s", d->file, strerror(bad));
	}
}

/* ProtectHome= and PrivateTmp= hide these from a service. */
static void warn_if_hidden(const char *path)
{
	static const char *const hidden[] = {"/home/", "/root/", "/run/user/", "/tmp/",
					     "/var/tmp/"};
	size_t i;

	for (i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
		if (!strncmp(path, hidden[i], strlen(hidden[i])))
			xvm_warn("%s: a service with %s does not see it", path,
				 strstr(hidden[i], "tmp") ? "PrivateTmp=" : "ProtectHome=");
}

static void reload(const struct dropin *d)
{
	if (d->live && systemctl("daemon-reload", NULL))
		xvm_die("'systemctl daemon-reload' failed");
}

static void say_restart(const struct dropin *d, const char *what)
{
	printf("%s: %s from its next start on: systemctl restart %s\n", d->unit, what, d->unit);
}

int xvm_cmd_enable(int argc, char **argv)
{
	const char *socket = NULL, *option = NULL, *root = NULL, *lib;
	struct dropin d;
	int c;

	while ((c = xvm_getopt(argc, argv, enable_options, enable_help)) != -1) {
		if (c == 's')
			socket = optarg;
		else if (c == 'L')
			option = optarg;
		else
			root = optarg;
	}
	if (argc - optind != 1)
		xvm_misuse(optind == argc ? "which unit?" : "one unit at a time");
	if (socket)
		xvm_ask_check_path(socket);
	else
		socket = xvm_client_path();
	if (*socket != '/')
		xvm_misuse("%s: a service needs the whole path of the socket", socket);
	name_dropin(&d, argv[optind], root);
	lib = xvm_find_lib_or_die(option);
	/* An instance (name@x) need not be loaded to be right. */
	if (d.live && !strchr(d.unit, '@') && systemctl("cat", d.unit))
		xvm_die("systemd knows no unit %s", d.unit);
	write_dropin(&d, lib, socket);
	warn_if_hidden(lib);
	warn_if_hidden(socket);
	reload(&d);
	say_restart(&d, "preloaded");
	return 0;
}

int xvm_cmd_disable(int argc, char **argv)
{
	const char *root = NULL;
	struct dropin d;

	while (xvm_getopt(argc, argv, disable_options, disable_help) != -1)
		root = optarg;
	if (argc - optind != 1)
		xvm_misuse(optind == argc ? "which unit?" : "one unit at a time");
	name_dropin(&d, argv[optind], root);
	if (unlink(d.file)) {
		if (errno != ENOENT && errno != ENOTDIR)
			xvm_die("cannot remove %s: %s", d.file, strerror(errno));
		xvm_warn("%s is not enabled", d.unit);
		return 1;
	}
	/* Others may have drop-ins there. */
	rmdir(d.dir);
	reload(&d);
	say_restart(&d, "plain");
	return 0;
}
