/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "detect/answer.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/pairs.h"
#include "detect/relay.h"
#include "detect/vms.h"
#include "transport/memfd.h"

#define OWN_FDS 64 /* that are never a client's: stdio, the loop, what is open for a moment */

static uint32_t raise_nofile(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl))
		return 1024;
	/* A waiting offer is a descriptor. */
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	getrlimit(RLIMIT_NOFILE, &rl);
	return rl.rlim_cur > 4000000 ? 4000000 : (uint32_t)rl.rlim_cur;
}

static int make_table(struct xvm_daemon *d)
{
	void *map;
	int fd = xvm_memfd_make("xvm-table", sizeof(*d->table), &map);

	if (fd < 0)
		return fd;
	d->table_fd = fd;
	d->table = map;
	d->table->version = XVM_ABI_VERSION;
	d->table->size = sizeof(*d->table);
	d->table->magic = XVM_TABLE_MAGIC;
	return 0;
}

/* Before it sleeps: bury the dead, and let everybody see where addresses are now. */
static void on_prepare(struct ev_loop *loop, ev_prepare *w, int events)
{
	struct xvm_daemon *d = w->data;

	xvm_conn_reap(d);
	xvm_groups_reap(d);
	xvm_relay_flush(d);
	xvm_vms_update(d);
	/* What was found out about addresses is told by letters too. */
	xvm_relay_flush(d);
	xvm_guests_flush(d);
	xvm_residency_publish(&d->residency, d->table);
}

void xvm_daemon_turn_away(struct xvm_daemon *d, int listen_fd)
{
	close(d->spare_fd);
	close(accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC));
	d->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void xvm_daemon_accept(struct xvm_daemon *d)
{
	int i, fd;

	for (i = 0; i < 64; i++) {
		fd = accept4(d->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			xvm_conn_accept(d, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE)
			xvm_daemon_turn_away(d, d->listen_fd);
		else if (errno != ECONNABORTED && errno != EINTR)
			return;
	}
}

static void on_connection(struct ev_loop *loop, ev_io *w, int events)
{
	xvm_daemon_accept(w->data);
}

int xvm_daemon_init(struct xvm_daemon *d)
{
	uint32_t nofile = raise_nofile();
	int ret;

	if (nofile <= OWN_FDS * 2)
		return -EMFILE;
	d->fds_max = nofile - OWN_FDS;
	d->listen_fd = d->table_fd = -1;
	xvm_list_init(&d->users);
	xvm_list_init(&d->arenas);
	xvm_list_init(&d->all);
	xvm_list_init(&d->dead);
	xvm_groups_init(&d->groups);
	xvm_relay_init(d);
	d->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ret = make_table(d);
	if (!ret)
		ret = xvm_pairing_init(&d->pairing);
	if (!ret)
		ret = xvm_residency_init(&d->residency);
	if (!ret)
		ret = xvm_pairs_init(d);
	if (!ret)
		ret = xvm_answer_init(d);
	if (!ret)
		ret = xvm_netns_init(d);
	if (ret)
		return ret;
	ev_prepare_init(&d->prepare, on_prepare);
	d->prepare.data = d;
	ev_prepare_start(d->loop, &d->prepare);
	return 0;
}

void xvm_daemon_listen(struct xvm_daemon *d, int fd)
{
	if (d->listen_fd >= 0) {
		ev_io_stop(d->loop, &d->listen_io);
		close(d->listen_fd);
	}
	d->listen_fd = fd;
	if (fd < 0)
		return;
	ev_io_init(&d->listen_io, on_connection, fd, EV_READ);
	d->listen_io.data = d;
	ev_io_start(d->loop, &d->listen_io);
}

/* Clients look at their sockets only when there is mail: have them find theirs closed, so that
 * they try to reach our successor. */
static void say_goodbye(struct xvm_daemon *d)
{
	uint32_t i;

	for (i = 0; i < XVM_CLIENTS_MAX; i++)
		if (atomic_load_explicit(&d->table->mail[i], memory_order_relaxed))
			atomic_fetch_add_explicit(&d->table->mail[i], 1, memory_order_release);
}

void xvm_daemon_exit(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;

	d->idle = NULL;
	xvm_daemon_listen(d, -1);
	xvm_guests_exit(d);
	for (XVM_EACH(n, t, &d->all))
		xvm_conn_drop(xvm_container(n, struct xvm_conn, in_all), NULL);
	xvm_conn_reap(d);
	xvm_groups_exit(d);
	say_goodbye(d);
	ev_prepare_stop(d->loop, &d->prepare);
	xvm_netns_exit(d);
	xvm_answer_exit(d);
	xvm_pairs_exit(d);
	xvm_residency_exit(&d->residency);
	xvm_pairing_exit(&d->pairing);
	xvm_memfd_unmap(d->table, sizeof(*d->table));
	close(d->table_fd);
	close(d->spare_fd);
	xvm_conf_free(d->conf);
}
