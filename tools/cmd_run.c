/* SPDX-License-Identifier: Apache-2.0 */
/* xvm run: becomes the program, preloaded, with a daemon that it can reach. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/ask.h"
#include "tools/find.h"
#include "tools/preload.h"
#include "tools/private.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm run [OPTION…] [--] CMD…\n\n"
	"Runs CMD with libxvm.so preloaded. Where no xvmd answers, a private one is started\n"
	"for this user; it ends with its last client. If that fails, CMD runs without xvm.\n\n"
	"  --socket PATH  the xvmd to use (default: $XVM_SOCKET, or " XVM_SOCKET_SYSTEM ")\n"
	"  --private      use a private xvmd even where another one answers\n"
	"  --log LEVEL    what CMD's stderr is told: 0 nothing, 1 errors, 2 what becomes\n"
	"                 of each connection, 3 counters at exit too\n"
	"  --spin US      how long to spin before sleeping, microseconds\n"
	"  --lib PATH     the libxvm.so to preload\n\n"
	"Exit status: CMD's; 126 if it cannot be run, 127 if there is none, 2 for misuse.\n";

static const struct option options[] = {
	{"socket", required_argument, NULL, 's'}, {"private", no_argument, NULL, 'p'},
	{"log", required_argument, NULL, 'l'},	  {"spin", required_argument, NULL, 'u'},
	{"lib", required_argument, NULL, 'L'},	  {0},
};

static void explain(const struct xvm_ask *a, int err)
{
	char why[XVM_WHY];

	switch (err) {
	case -EPERM:
		xvm_warn("without xvm: the directory of %s is not this user's alone", a->path);
		break;
	case -ENOENT:
		xvm_warn("without xvm: there is no xvmd to start");
		break;
	case -ECHILD:
		xvm_warn("without xvm: xvmd did not start");
		break;
	default:
		xvm_warn("without xvm: %s", xvm_ask_why(a, err, why));
	}
}

static void set_number(const char *name, const char *s, uint64_t max, const char *what)
{
	if (!s)
		return;
	xvm_number(s, 0, max, what);
	setenv(name, s, 1);
}

int xvm_cmd_run(int argc, char **argv)
{
	const char *socket = NULL, *log = NULL, *spin = NULL, *option = NULL, *lib;
	struct xvm_ask a = {.sock = -1};
	bool own = false;
	char *list;
	int c, ret;

	while ((c = xvm_getopt_first(argc, argv, options, help)) != -1) {
		switch (c) {
		case 's':
			socket = optarg;
			break;
		case 'p':
			own = true;
			break;
		case 'l':
			log = optarg;
			break;
		case 'u':
			spin = optarg;
			break;
		case 'L':
			option = optarg;
			break;
		}
	}
	if (optind == argc)
		xvm_misuse("which command?");
	if (socket)
		xvm_ask_check_path(socket);
	set_number("XVM_LOG", log, 3, "a log level");
	set_number("XVM_SPIN_US", spin, 1000000, "the time to spin");
	lib = xvm_find_lib_or_die(option);

	ret = xvm_private_choose(&a, socket, own, log && *log != '0');
	if (!ret) {
		if (strcmp(a.path, XVM_SOCKET_SYSTEM) != 0 || getenv("XVM_SOCKET"))
			setenv("XVM_SOCKET", a.path, 1);
		list = xvm_preload_list(lib, getenv("LD_PRELOAD"));
		setenv("LD_PRELOAD", list, 1);
		free(list);
	} else if (log && *log != '0') {
		explain(&a, ret);
	}
	/* The connection closes with the exec: it has kept a private daemon alive until now. */
	execvp(argv[optind], argv + optind);
	ret = errno == ENOENT ? 127 : 126;
	xvm_warn("cannot run %s: %s", argv[optind], strerror(errno));
	return ret;
}
