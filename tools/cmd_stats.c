/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ask.h"
#include "tools/columns.h"
#include "tools/json.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm stats [--json|--prometheus] [--reset] [--socket PATH]\n\n"
	"Shows the counters of xvmd and, summed up, of all preloaded programs.\n\n"
	"  --json        as one JSON object\n"
	"  --prometheus  in Prometheus' text format\n"
	"  --reset       and set them to 0\n";

static const struct option options[] = {
	{"json", no_argument, NULL, 'j'},
	{"prometheus", no_argument, NULL, 'p'},
	{"reset", no_argument, NULL, 'r'},
	{"socket", required_argument, NULL, 's'},
	{0},
};

struct row {
	char name[128];
	uint64_t value;
};

static size_t read_rows(struct xvm_ask *a, bool reset, struct row **rows)
{
	struct xvm_msg m = {.type = XVM_MSG_STATS, .arg2 = reset};
	size_t n = 0;
	char why[XVM_WHY];
	int ret;

	*rows = NULL;
	ret = xvm_ask_send(a, &m);
	while (!ret) {
		ret = xvm_ask_next(a, &m);
		if (ret || m.type != XVM_MSG_STATS_ROW)
			break;
		*rows = realloc(*rows, (n + 1) * sizeof(**rows));
		if (!*rows)
			abort();
		snprintf((*rows)[n].name, sizeof((*rows)[n].name), "%s", m.text);
		(*rows)[n++].value = m.arg64;
	}
	if (!ret && m.type == XVM_MSG_END && m.arg)
		xvm_die("xvmd: %s", *m.text ? m.text : strerror((int)m.arg));
	if (!ret && m.type != XVM_MSG_END)
		ret = -EPROTO;
	if (ret)
		xvm_die("%s", xvm_ask_why(a, ret, why));
	return n;
}

/* What tells how many there are now; all else counts up. */
static bool is_gauge(const char *name)
{
	static const char *const gauges[] = {"xvmd_clients_now",
					     "xvmd_pairs_now",
					     "xvmd_offers_waiting",
					     "xvmd_resident_addresses",
					     "xvmd_namespaces",
					     "xvmd_descriptors",
					     "xvmd_vms"};
	size_t i;

	for (i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++)
		if (!strcmp(name, gauges[i]))
			return true;
	return false;
}

static void print_prometheus(const struct row *r)
{
	bool gauge = is_gauge(r->name);
	char name[160];
	char *p;

	snprintf(name, sizeof(name), "%s%s%s", strncmp(r->name, "xvmd_", 5) ? "xvm_" : "", r->name,
		 gauge ? "" : "_total");
	for (p = name; *p; p++)
		if (!isalnum((unsigned char)*p))
			*p = '_';
	printf("# TYPE %s %s\n%s %" PRIu64 "\n", name, gauge ? "gauge" : "counter", name, r->value);
}

int xvm_cmd_stats(int argc, char **argv)
{
	bool json = false, prometheus = false, reset = false;
	const char *socket = NULL;
	struct xvm_columns cols;
	struct xvm_json j;
	struct xvm_ask a;
	struct row *rows;
	size_t i, n;
	int c;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'p':
			prometheus = true;
			break;
		case 'r':
			reset = true;
			break;
		default:
			socket = optarg;
		}
	}
	if (optind < argc)
		xvm_misuse("takes no operand: '%s'", argv[optind]);
	if (json && prometheus)
		xvm_misuse("either --json or --prometheus");
	xvm_ask_open_or_die(&a, socket);
	n = read_rows(&a, reset, &rows);

	xvm_columns_init(&cols, 2, 2);
	xvm_json_begin(&j, stdout);
	if (json)
		xvm_json_object(&j, NULL);
	for (i = 0; i < n; i++) {
		if (json) {
			xvm_json_uint(&j, rows[i].name, rows[i].value);
		} else if (prometheus) {
			print_prometheus(&rows[i]);
		} else {
			xvm_columns_add(&cols, "%s", rows[i].name);
			xvm_columns_add(&cols, "%" PRIu64, rows[i].value);
		}
	}
	if (json)
		xvm_json_close(&j);
	else
		xvm_columns_print(&cols, stdout);
	free(rows);
	return 0;
}
