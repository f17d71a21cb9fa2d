/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "detect/client.h"
#include "tools/pair.h"
#include "tools/tool.h"

#define START_MS 5000
#define RING_MS 5000 /* to get onto the ring */
#define LOOK_MS 5    /* between two looks at ss */

/* One answer of the client or server; "bad ..." is its own account of a failure. */
static int answer(struct xvm_pair *p, struct xvm_child *c, const char *want, char *line,
		  size_t size, int ms)
{
	const char *who = c == &p->client ? "client" : "server";
	int ret = xvm_child_line(c, line, size, ms);

	if (ret == -ETIMEDOUT) {
		snprintf(p->why, sizeof(p->why), "the %s hangs: no answer for %d s", who,
			 ms / 1000);
		return ret;
	}
	if (ret) {
		snprintf(p->why, sizeof(p->why), "the %s process ended early", who);
		return ret;
	}
	if (!strncmp(line, want, strlen(want)))
		return 0;
	snprintf(p->why, sizeof(p->why), "%s: %.150s", who,
		 strncmp(line, "bad ", 4) ? line : line + 4);
	return -EPROTO;
}

int xvm_pair_start(struct xvm_pair *p, const struct xvm_pair_spec *s)
{
	struct xvm_spawn spawn = {.socket = s->socket};
	char size[16], line[128];
	const char *serve[] = {NULL, "peer", "serve", s->mode, size, s->addr, NULL};
	const char *connect[] = {NULL, "peer", "connect", s->mode, size, s->addr, p->port, NULL};
	int ret;

	*p = (struct xvm_pair){.client.pid = -1, .server.pid = -1};
	snprintf(size, sizeof(size), "%u", s->size);

	spawn.lib = s->xvm_server ? s->lib : NULL;
	spawn.netns = s->ns_server;
	spawn.cpu = s->cpu_server;
	ret = xvm_child_start(&p->server, &spawn, serve);
	if (ret) {
		snprintf(p->why, sizeof(p->why), "cannot start a process: %s", strerror(-ret));
		return ret;
	}
	ret = answer(p, &p->server, "port ", line, sizeof(line), START_MS);
	if (ret)
		return ret;
	snprintf(p->port, sizeof(p->port), "%.7s", line + 5);

	spawn.lib = s->xvm_client ? s->lib : NULL;
	spawn.netns = s->ns_client;
	spawn.cpu = s->cpu_client;
	ret = xvm_child_start(&p->client, &spawn, connect);
	if (ret) {
		snprintf(p->why, sizeof(p->why), "cannot start a process: %s", strerror(-ret));
		return ret;
	}
	return answer(p, &p->client, "up", line, sizeof(line), START_MS);
}

int xvm_pair_row(struct xvm_pair *p, struct xvm_ask *a, struct xvm_msg_row *row)
{
	struct xvm_msg_row *rows;
	char why[XVM_WHY];
	int i, n, ret = -ENOENT;

	n = xvm_ask_rows(a, p->client.pid, &rows);
	if (n < 0) {
		snprintf(p->why, sizeof(p->why), "%s", xvm_ask_why(a, n, why));
		return n;
	}
	for (i = 0; i < n && ret; i++) {
		if (rows[i].rport != atoi(p->port))
			continue;
		*row = rows[i];
		ret = 0;
	}
	free(rows);
	if (ret)
		snprintf(p->why, sizeof(p->why), "xvmd does not know the connection");
	return ret;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int xvm_pair_warm(struct xvm_pair *p, const struct xvm_pair_spec *s, int ms, struct xvm_ask *a,
		  struct xvm_msg_row *row)
{
	bool stream = !strcmp(s->mode, "stream"), ring = false, known = false;
	int64_t deadline = now_ms() + (a ? RING_MS : ms), left;
	struct pollfd pfd = {.fd = p->client.out, .events = POLLIN};
	char line[128];
	int ret = 0;

	if (xvm_child_say(&p->client, "warm"))
		return answer(p, &p->client, "?", line, sizeof(line), 0);
	for (;;) {
		left = deadline - now_ms();
		if (left <= 0)
			break;
		/* It has nothing to say now but that it failed. */
		if (poll(&pfd, 1, a ? LOOK_MS : (int)left) > 0)
			return answer(p, &p->client, "?", line, sizeof(line), 0);
		if (!a)
			continue;
		ret = xvm_pair_row(p, a, row);
		if (ret && ret != -ENOENT)
			return ret;
		known = !ret;
		ring = known && row->tx_path && (stream || row->rx_path);
		if (ring)
			break;
	}
	if (xvm_child_say(&p->client, "stop"))
		return answer(p, &p->client, "?", line, sizeof(line), 0);
	ret = answer(p, &p->client, "stopped", line, sizeof(line), START_MS);
	if (!ret && a && !ring) {
		if (known)
			snprintf(p->why, sizeof(p->why), "not on the ring after %d s: %s: %s",
				 RING_MS / 1000, xvm_reason_name(row->reason),
				 xvm_reason_text(row->reason));
		else
			snprintf(p->why, sizeof(p->why), "xvmd does not know the connection");
		ret = -ETIMEDOUT;
	}
	return ret;
}

int xvm_pair_slice(struct xvm_pair *p, int ms, struct xvm_slice *slice)
{
	char line[128];
	int ret;

	snprintf(line, sizeof(line), "go %d", ms);
	xvm_child_say(&p->client, line);
	ret = answer(p, &p->client, "done ", line, sizeof(line), 4 * ms + 10000);
	if (ret)
		return ret;
	if (sscanf(line, "done %lf %lf", &slice->count, &slice->seconds) != 2 ||
	    slice->seconds <= 0) {
		snprintf(p->why, sizeof(p->why), "the client says '%.100s'", line);
		return -EPROTO;
	}
	return 0;
}

void xvm_pair_end(struct xvm_pair *p)
{
	xvm_child_end(&p->client);
	/* It may wait for connections still, and has nothing to tidy up. */
	xvm_child_kill(&p->server);
}

bool xvm_pair_mapped(pid_t pid)
{
	char path[64], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, "/libxvm.so") != NULL;
	fclose(f);
	return found;
}
