/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/addr.h"
#include "tools/ask.h"
#include "tools/json.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm resident [--json] [--socket PATH] ADDR…\n\n"
	"Tells whether addresses live on this host, where, and how that is known. ADDR is an\n"
	"IPv4 or IPv6 address; names are not looked up.\n\n"
	"Exit status: 0 if all do, 1 if one does not or lives in two places, 2 on error.\n";

static const struct option options[] = {
	{"json", no_argument, NULL, 'j'},
	{"socket", required_argument, NULL, 's'},
	{0},
};

int xvm_cmd_resident(int argc, char **argv)
{
	const char *socket = NULL, *verdict;
	char why[XVM_WHY], text[XVM_ADDR_STR];
	uint8_t addr[16];
	bool json = false, all = true;
	struct xvm_json j;
	struct xvm_ask a;
	struct xvm_msg m;
	int c, i, ret;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		if (c == 'j')
			json = true;
		else
			socket = optarg;
	}
	if (optind == argc)
		xvm_misuse("which address?");
	/* All of them first: half an answer before an error is of no use. */
	for (i = optind; i < argc; i++)
		if (xvm_addr_parse(argv[i], addr))
			xvm_misuse("'%s' is not an IPv4 or IPv6 address", argv[i]);

	xvm_ask_open_or_die(&a, socket);
	xvm_json_begin(&j, stdout);
	if (json)
		xvm_json_array(&j, NULL);
	for (i = optind; i < argc; i++) {
		m = (struct xvm_msg){.type = XVM_MSG_RESIDENT};
		xvm_addr_parse(argv[i], m.addr);
		xvm_addr_str(m.addr, text);
		ret = xvm_ask(&a, &m);
		if (ret)
			xvm_die("%s", xvm_ask_why(&a, ret, why));
		if (m.arg && m.arg != ENOENT && m.arg != EEXIST)
			xvm_die("xvmd: %s: %s", text, strerror((int)m.arg));
		verdict = !m.arg ? "resident" : m.arg == EEXIST ? "ambiguous" : "not-resident";
		all = all && !m.arg;
		if (!json) {
			printf("%s  %s%s%s%s\n", text, verdict, *m.text ? "  (" : "", m.text,
			       *m.text ? ")" : "");
			continue;
		}
		xvm_json_object(&j, NULL);
		xvm_json_str(&j, "addr", text);
		xvm_json_bool(&j, "resident", !m.arg);
		xvm_json_str(&j, "verdict", verdict);
		xvm_json_str(&j, "detail", m.text);
		xvm_json_close(&j);
	}
	if (json)
		xvm_json_close(&j);
	return all ? 0 : 1;
}
