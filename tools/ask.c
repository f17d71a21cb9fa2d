/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "detect/client.h"
#include "tools/ask.h"
#include "tools/private.h"
#include "tools/tool.h"

void xvm_ask_check_path(const char *path)
{
	struct sockaddr_un sa;
	struct stat st;

	if (!*path || strlen(path) >= sizeof(sa.sun_path))
		xvm_misuse("a socket's path has 1 to %zu characters", sizeof(sa.sun_path) - 1);
	if (!stat(path, &st) && !S_ISSOCK(st.st_mode))
		xvm_misuse("%s is not a socket", path);
}

int xvm_ask_open_at(struct xvm_ask *a, const char *path)
{
	const struct xvm_shm_table *table;
	uint64_t mail;
	uint32_t id = 0;
	int ret;

	snprintf(a->path, sizeof(a->path), "%s", path);
	a->sock = xvm_client_connect(path);
	if (a->sock < 0)
		return a->sock;
	ret = xvm_client_greet(a->sock, -1);
	if (!ret)
		ret = xvm_client_welcome(a->sock, XVM_ASK_MS, &id, &mail, &table);
	if (ret) {
		a->version = id;
		xvm_ask_close(a);
		return ret;
	}
	munmap((void *)table, sizeof(*table));
	return 0;
}

int xvm_ask_open(struct xvm_ask *a, const char *path)
{
	struct xvm_ask other;
	char private[128];
	int ret;

	if (!path)
		path = xvm_client_path();
	ret = xvm_ask_open_at(a, path);
	if (strcmp(path, XVM_SOCKET_SYSTEM) != 0)
		return ret;
	if (ret && !xvm_private_path(private, sizeof(private)) &&
	    !xvm_ask_open_at(&other, private)) {
		*a = other;
		return 0;
	}
	return ret;
}

const char *xvm_ask_why(const struct xvm_ask *a, int err, char buf[XVM_WHY])
{
	switch (err) {
	case -ENOENT:
	case -ECONNREFUSED:
		snprintf(buf, XVM_WHY, "no xvmd answers at %s", a->path);
		break;
	case -EPROTONOSUPPORT:
		snprintf(buf, XVM_WHY, "the xvmd at %s speaks protocol %u, this xvm %d", a->path,
			 a->version, XVM_PROTO_VERSION);
		break;
	case -EPROTO:
	case -EPIPE:
	case -ECONNRESET:
	case -EPROTOTYPE:
		snprintf(buf, XVM_WHY, "what answers at %s is not xvmd", a->path);
		break;
	case -ETIMEDOUT:
	case -EAGAIN:
		snprintf(buf, XVM_WHY, "the xvmd at %s does not answer in time", a->path);
		break;
	default:
		snprintf(buf, XVM_WHY, "cannot ask xvmd at %s: %s", a->path, strerror(-err));
	}
	return buf;
}

void xvm_ask_open_or_die(struct xvm_ask *a, const char *path)
{
	char why[XVM_WHY];
	int ret;

	if (path)
		xvm_ask_check_path(path);
	ret = xvm_ask_open(a, path);
	if (ret)
		xvm_die("%s%s", xvm_ask_why(a, ret, why),
			ret == -ENOENT || ret == -ECONNREFUSED
				? ": start it (see xvmd(8)), or programs by `xvm run`"
				: "");
}

void xvm_ask_close(struct xvm_ask *a)
{
	if (a->sock >= 0)
		close(a->sock);
	a->sock = -1;
}

int xvm_ask_send(struct xvm_ask *a, const struct xvm_msg *m)
{
	return xvm_proto_send(a->sock, m, NULL, 0);
}

int xvm_ask_next(struct xvm_ask *a, struct xvm_msg *m)
{
	struct pollfd p = {.fd = a->sock, .events = POLLIN};
	int fds[XVM_PROTO_FDS], i, ret;

	do {
		ret = poll(&p, 1, XVM_ASK_MS);
	} while (ret < 0 && errno == EINTR);
	if (ret <= 0)
		return ret ? -errno : -ETIMEDOUT;
	ret = xvm_proto_recv(a->sock, m, fds, 0);
	if (ret)
		return ret;
	/* A tool gets none: whoever sends some is no xvmd that we know. */
	for (i = 0; i < m->nfds; i++)
		close(fds[i]);
	return 0;
}

int xvm_ask(struct xvm_ask *a, struct xvm_msg *m)
{
	int ret;

	ret = xvm_ask_send(a, m);
	if (!ret)
		ret = xvm_ask_next(a, m);
	if (!ret && m->type != XVM_MSG_END)
		ret = -EPROTO;
	return ret;
}

int xvm_ask_rows(struct xvm_ask *a, int32_t pid, struct xvm_msg_row **rows)
{
	struct xvm_msg m = {.type = XVM_MSG_SS};
	struct xvm_msg_row *r = NULL, *more;
	size_t n = 0, room = 0;
	int ret;

	/* Print later: a daemon drops a client that does not read. */
	ret = xvm_ask_send(a, &m);
	while (!ret) {
		ret = xvm_ask_next(a, &m);
		if (ret || m.type != XVM_MSG_SS_ROW)
			break;
		if (pid && m.row.pid != pid)
			continue;
		if (n == room) {
			room = room ? 2 * room : 64;
			more = realloc(r, room * sizeof(*r));
			if (!more)
				abort();
			r = more;
		}
		r[n++] = m.row;
	}
	if (!ret && m.type != XVM_MSG_END)
		ret = -EPROTO;
	if (!ret && m.arg)
		ret = -(int)m.arg;
	if (ret) {
		free(r);
		return ret;
	}
	*rows = r;
	return (int)n;
}
