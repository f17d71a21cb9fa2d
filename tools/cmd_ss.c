/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "detect/client.h"
#include "tools/addr.h"
#include "tools/ask.h"
#include "tools/columns.h"
#include "tools/json.h"
#include "tools/tool.h"

static const char help[] =
	"usage: xvm ss [--json] [--socket PATH]\n\n"
	"Shows the connections of all preloaded programs. path is ring, tcp, or ring/tcp where\n"
	"sending and receiving differ, in this order; reason says why it is not on the ring\n"
	"(libxvm(7) explains each). The last columns are stream bytes by path.\n";

static const struct option options[] = {
	{"json", no_argument, NULL, 'j'},
	{"socket", required_argument, NULL, 's'},
	{0},
};

static const char *path_name(uint8_t path)
{
	return path ? "ring" : "tcp";
}

static const char *both_paths(const struct xvm_msg_row *r)
{
	if (!r->tx_path == !r->rx_path)
		return path_name(r->tx_path);
	return r->tx_path ? "ring/tcp" : "tcp/ring";
}

static const char *pick(const char *const *names, size_t n, unsigned i)
{
	return i < n ? names[i] : "?";
}

static const char *medium_name(unsigned medium)
{
	static const char *const names[] = {"none", "memfd", "ivshmem"};

	return pick(names, 3, medium);
}

static const char *state_name(unsigned state)
{
	static const char *const names[] = {"free", "tcp", "candidate", "offered", "paired"};

	return pick(names, 5, state);
}

static void print_json(const struct xvm_msg_row *rows, int n)
{
	char local[XVM_ADDR_STR], remote[XVM_ADDR_STR];
	const struct xvm_msg_row *r;
	struct xvm_json j;

	xvm_json_begin(&j, stdout);
	xvm_json_array(&j, NULL);
	for (r = rows; r < rows + n; r++) {
		xvm_json_object(&j, NULL);
		xvm_json_int(&j, "pid", r->pid);
		xvm_json_str(&j, "comm", r->comm);
		xvm_json_int(&j, "fd", r->fd);
		xvm_json_str(&j, "local", xvm_addr_port_str(r->laddr, r->lport, local));
		xvm_json_str(&j, "remote", xvm_addr_port_str(r->raddr, r->rport, remote));
		xvm_json_str(&j, "path", both_paths(r));
		xvm_json_str(&j, "medium", medium_name(r->medium));
		xvm_json_str(&j, "reason", xvm_reason_name(r->reason));
		xvm_json_uint(&j, "tx_ring", r->tx_ring);
		xvm_json_uint(&j, "rx_ring", r->rx_ring);
		xvm_json_uint(&j, "tx_tcp", r->tx_tcp);
		xvm_json_uint(&j, "rx_tcp", r->rx_tcp);
		xvm_json_str(&j, "tx_path", path_name(r->tx_path));
		xvm_json_str(&j, "rx_path", path_name(r->rx_path));
		xvm_json_str(&j, "state", state_name(r->state));
		xvm_json_close(&j);
	}
	xvm_json_close(&j);
}

static const char *or_dash(const char *name)
{
	return strcmp(name, "none") != 0 ? name : "-";
}

static void print_table(const struct xvm_msg_row *rows, int n)
{
	static const char *const heads[] = {"PID",     "COMM",	  "FD",	    "LOCAL",
					    "REMOTE",  "PATH",	  "MEDIUM", "REASON",
					    "TX_RING", "RX_RING", "TX_TCP", "RX_TCP"};
	char local[XVM_ADDR_STR], remote[XVM_ADDR_STR];
	const struct xvm_msg_row *r;
	struct xvm_columns c;
	unsigned i;

	xvm_columns_init(&c, 12, 1u << 0 | 1u << 2 | 0xfu << 8);
	for (i = 0; i < 12; i++)
		xvm_columns_add(&c, "%s", heads[i]);
	for (r = rows; r < rows + n; r++) {
		xvm_columns_add(&c, "%d", r->pid);
		xvm_columns_add(&c, "%s", r->comm);
		xvm_columns_add(&c, "%d", r->fd);
		xvm_columns_add(&c, "%s", xvm_addr_port_str(r->laddr, r->lport, local));
		xvm_columns_add(&c, "%s", xvm_addr_port_str(r->raddr, r->rport, remote));
		xvm_columns_add(&c, "%s", both_paths(r));
		xvm_columns_add(&c, "%s", or_dash(medium_name(r->medium)));
		xvm_columns_add(&c, "%s", or_dash(xvm_reason_name(r->reason)));
		xvm_columns_add(&c, "%" PRIu64, r->tx_ring);
		xvm_columns_add(&c, "%" PRIu64, r->rx_ring);
		xvm_columns_add(&c, "%" PRIu64, r->tx_tcp);
		xvm_columns_add(&c, "%" PRIu64, r->rx_tcp);
	}
	xvm_columns_print(&c, stdout);
}

int xvm_cmd_ss(int argc, char **argv)
{
	struct xvm_msg_row *rows;
	const char *socket = NULL;
	struct xvm_ask a;
	bool json = false;
	char why[XVM_WHY];
	int c, n;

	while ((c = xvm_getopt(argc, argv, options, help)) != -1) {
		if (c == 'j')
			json = true;
		else
			socket = optarg;
	}
	if (optind < argc)
		xvm_misuse("takes no operand: '%s'", argv[optind]);
	xvm_ask_open_or_die(&a, socket);
	n = xvm_ask_rows(&a, 0, &rows);
	if (n < 0)
		xvm_die("%s", xvm_ask_why(&a, n, why));
	if (json)
		print_json(rows, n);
	else
		print_table(rows, n);
	free(rows);
	return 0;
}
