/* SPDX-License-Identifier: Apache-2.0 */
/* xvm: runs programs through xvm and shows what becomes of their connections. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "detect/proto.h"
#include "tools/tool.h"

static const struct xvm_cmd cmds[] = {
	{"run", xvm_cmd_run, "[OPTION…] [--] CMD…", "run a program through xvm"},
	{"ss", xvm_cmd_ss, "[--json]", "show connections and the path they take"},
	{"resident", xvm_cmd_resident, "[--json] ADDR…",
	 "tell whether addresses live on this host"},
	{"leave", xvm_cmd_leave, "PID:FD… | --all", "take live connections off the ring"},
	{"enter", xvm_cmd_enter, "PID:FD… | --all", "let them on again"},
	{"stats", xvm_cmd_stats, "[--json|--prometheus] [--reset]", "show counters"},
	{"check", xvm_cmd_check, "[ADDR[:PORT]]", "test live what works, and say what to do"},
	{"vm-args", xvm_cmd_vm_args, "[--libvirt] GROUP",
	 "show what to add to a VM's QEMU or domain"},
	{"enable", xvm_cmd_enable, "UNIT", "preload a systemd service"},
	{"disable", xvm_cmd_disable, "UNIT", "undo that"},
	{"bench", xvm_cmd_bench, "[OPTION…] [CASE…]", "measure the ring against plain TCP"},
	{"peer", xvm_cmd_peer, NULL, NULL},
};

static void usage(void)
{
	size_t i;

	puts("usage: xvm COMMAND …\n");
	for (i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++)
		if (cmds[i].help)
			printf("  %-9s %s\n", cmds[i].name, cmds[i].help);
	puts("\nxvm COMMAND --help tells more; so does xvm(1).");
}

static int finish(int status)
{
	/* A pipe that was closed early (xvm ss | head) is no failure: SIGPIPE ended us. */
	if (fflush(stdout) || ferror(stdout)) {
		xvm_warn("cannot write: %s", strerror(errno));
		return 2;
	}
	return status;
}

int main(int argc, char **argv)
{
	size_t i;

	signal(SIGPIPE, SIG_DFL);
	if (argc < 2)
		xvm_misuse("which command?");
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage();
		return finish(0);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("xvm %s (protocol %d)\n", XVM_VERSION, XVM_PROTO_VERSION);
		return finish(0);
	}
	for (i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++) {
		if (strcmp(argv[1], cmds[i].name) != 0)
			continue;
		xvm_tool_name = cmds[i].name;
		return finish(cmds[i].fn(argc - 1, argv + 1));
	}
	xvm_misuse("unknown %s '%s'", argv[1][0] == '-' ? "option" : "command", argv[1]);
}
