/* SPDX-License-Identifier: Apache-2.0 */
/* xvm leave and xvm enter: take live connections off the ring, or let them on. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/addr.h"
#include "tools/ask.h"
#include "tools/tool.h"

static const char leave_help[] =
	"usage: xvm leave [--socket PATH] PID:FD… | --all\n\n"
	"Takes live connections off the ring: their bytes go by TCP until `xvm enter`. PID and FD\n"
	"are those that `xvm ss` shows. Nothing is lost and the programs do not notice.\n\n"
	"Exit status: 1 if there is no such connection.\n";

static const char enter_help[] = "usage: xvm enter [--socket PATH] PID:FD… | --all\n\n"
				 "Lets connections that `xvm leave` took off the ring enter it "
				 "again, at their next calls.\n\n"
				 "Exit status: 1 if there is no such connection.\n";

static const struct option options[] = {
	{"all", no_argument, NULL, 'a'},
	{"socket", required_argument, NULL, 's'},
	{0},
};

/* How many connections obeyed. */
static unsigned move(struct xvm_ask *a, int type, int32_t pid, int32_t fd)
{
	struct xvm_msg m = {.type = type, .pid = pid, .fd = fd};
	char why[XVM_WHY];
	int ret = xvm_ask(a, &m);

	if (ret)
		xvm_die("%s", xvm_ask_why(a, ret, why));
	if (m.arg && m.arg != ENOENT && m.arg != ESRCH)
		xvm_die("xvmd: %s", *m.text ? m.text : strerror((int)m.arg));
	/* Some program is stopped, or makes no calls. */
	if (!m.arg && *m.text)
		xvm_warn("%s", m.text);
	return m.arg ? 0 : m.arg2;
}

static int leave_or_enter(int argc, char **argv, int type, const char *help)
{
	const char *socket = NULL;
	bool all = false;
	int32_t pid, fd;
	struct xvm_ask a;
	unsigned n = 0;
	int c, i, status = 0;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		if (c == 'a')
			all = true;
		else
			socket = optarg;
	}
	if (all == (optind < argc))
		xvm_misuse(all ? "either --all or PID:FD" : "which connection? PID:FD, or --all");
	for (i = optind; i < argc; i++)
		if (xvm_addr_parse_pidfd(argv[i], &pid, &fd))
			xvm_misuse("'%s' is not PID:FD", argv[i]);

	xvm_ask_open_or_die(&a, socket);
	if (all)
		n = move(&a, type, -1, -1);
	for (i = optind; i < argc; i++) {
		xvm_addr_parse_pidfd(argv[i], &pid, &fd);
		c = (int)move(&a, type, pid, fd);
		if (!c) {
			xvm_warn("no connection %s", argv[i]);
			status = 1;
		}
		n += c;
	}
	if (n || all)
		printf("%u %s\n", n, n == 1 ? "connection" : "connections");
	return status;
}

int xvm_cmd_leave(int argc, char **argv)
{
	return leave_or_enter(argc, argv, XVM_MSG_LEAVE, leave_help);
}

int xvm_cmd_enter(int argc, char **argv)
{
	return leave_or_enter(argc, argv, XVM_MSG_ENTER, enter_help);
}
