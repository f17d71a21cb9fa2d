/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/groups.h"
#include "detect/ivshmem_server.h"
#include "detect/log.h"
#include "detect/share.h"

#define ACCEPT_AT_ONCE 16
#define GROUP_FDS 4 /* and one for each vector, of which 0 has none */

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

/* ---- the region ------------------------------------------------------- */

static int make_memory(struct xvm_group *g)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (g->conf.hugepages ? MFD_HUGETLB : 0);
	char name[64];
	void *map;

	/* Seen in /proc/PID/maps of each QEMU. */
	snprintf(name, sizeof(name), "xvm-group-%s", g->conf.name);
	g->mem_fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (g->mem_fd < 0 && errno == EINVAL)
		g->mem_fd = memfd_create(name, flags);
	if (g->mem_fd < 0 || fchmod(g->mem_fd, 0600) || ftruncate(g->mem_fd, g->region.size))
		return -errno;
	/* Of huge pages this reserves all, or fails. */
	map = mmap(NULL, g->region.size, PROT_READ | PROT_WRITE, MAP_SHARED, g->mem_fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	g->region.map = map;
	/* Reserved is not had: a cgroup's limit, or that of a NUMA node, shows at the first access,
	 * and kills whoever makes it (SIGBUS). */
	while (g->conf.hugepages && fallocate(g->mem_fd, 0, 0, (off_t)g->region.size))
		if (errno != EINTR)
			return -errno;
	/* Whoever has it could else make it smaller under everybody's feet. */
	if (fcntl(g->mem_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	return 0;
}

static unsigned long long meminfo(const char *name)
{
	unsigned long long n = 0;
	FILE *f = fopen("/proc/meminfo", "re");
	char line[128];
	size_t len = strlen(name);

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ':')
			n = strtoull(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return n;
}

static void no_memory(const struct xvm_conf_group *c, int why, char *err, size_t err_len)
{
	unsigned long long kb, need, free_pages;

	if (!c->hugepages) {
		snprintf(err, err_len, "group %s: no %llu bytes of memory: %s", c->name,
			 (unsigned long long)c->size, strerror(why));
		return;
	}
	kb = meminfo("Hugepagesize");
	need = kb ? (c->size / 1024 + kb - 1) / kb : 0;
	free_pages = meminfo("HugePages_Free");
	snprintf(err, err_len,
		 "group %s: no %llu bytes of memory in huge pages: %s (%llu pages of %llu kB are "
		 "needed, %llu are free: see sysctl vm.nr_hugepages%s)",
		 c->name, (unsigned long long)c->size, strerror(why), need, kb, free_pages,
		 free_pages >= need ? ", and limits of cgroups and NUMA nodes" : "");
}

static int make_region(struct xvm_group *g, char *err, size_t err_len)
{
	const struct xvm_conf_group *c = &g->conf;
	int ret = xvm_region_figure(&g->region, c->size, c->vms + 1, c->vectors);

	if (ret) {
		snprintf(err, err_len, "group %s: no region of %llu bytes for %u VMs", c->name,
			 (unsigned long long)c->size, c->vms);
		return ret;
	}
	if (getrandom(&g->region.generation, sizeof(g->region.generation), GRND_NONBLOCK) !=
	    sizeof(g->region.generation))
		g->region.generation = (uint64_t)(ev_now(g->d->loop) * 1e6);
	ret = make_memory(g);
	if (ret) {
		no_memory(c, -ret, err, err_len);
		return ret;
	}
	g->res = calloc(XVM_REGION_RES_MAX, sizeof(*g->res));
	if (!g->res) {
		snprintf(err, err_len, "group %s: out of memory", c->name);
		return -ENOMEM;
	}
	xvm_region_format(&g->region);
	return 0;
}

void xvm_group_show(struct xvm_group *g, uint32_t peer, uint32_t state, uint32_t flags)
{
	struct xvm_shm_peer *p = xvm_group_row(g, peer);

	if (g->d->groups.leaving)
		return;
	atomic_store_explicit(&p->vectors, g->region.vectors, memory_order_relaxed);
	atomic_store_explicit(&p->flags, flags, memory_order_relaxed);
	atomic_store_explicit(&p->gen, g->gen[peer], memory_order_relaxed);
	atomic_store_explicit(&p->state, state, memory_order_release);
}

/* What the last VM of this number has left behind goes, and its memory is free. */
void xvm_group_wipe(struct xvm_group *g, uint32_t peer)
{
	uint64_t at = xvm_region_arena(&g->region, peer);

	/* It is not dead: its streams, and those to it, go on. */
	if (g->d->groups.leaving)
		return;
	/* Huge pages are kept: given back they may not be had again, and an access kills. */
	if (!g->conf.hugepages && fallocate(g->mem_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					    (off_t)at, (off_t)g->region.arena_size))
		xvm_log(LOG_DEBUG, "group %s: memory of VM %u is kept: %s", g->conf.name, peer,
			strerror(errno));
	memset(g->region.map + at, 0, sizeof(struct xvm_shm_box));
	memset(xvm_region_host_box(&g->region, peer), 0, sizeof(struct xvm_shm_box));
}

/* ---- the socket ------------------------------------------------------- */

static bool may_join(const struct xvm_group *g, uid_t uid)
{
	return uid == 0 || uid == geteuid() || (g->conf.has_user && uid == g->conf.uid);
}

/* QEMU 7.2 reads on for ever from a server that has closed before it said anything, and whoever
 * started it (virsh) waits: so that it ends, and says so, it gets a version that it does not know.
 */
static void turn_away(int fd)
{
	const int64_t version = -1;
	ssize_t n;

	n = send(fd, &version, sizeof(version), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		xvm_log(LOG_DEBUG, "to one who is turned away: %s", strerror(errno));
	close(fd);
}

static void take_in(struct xvm_group *g, int fd)
{
	struct ucred cred = {.uid = (uid_t)-1};
	socklen_t len = sizeof(cred);
	const char *why;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		why = strerror(errno);
	else if (!may_join(g, cred.uid))
		why = "its user may not join";
	else if (xvm_vm_join(g, fd, cred.pid, cred.uid))
		return;
	else
		why = "the group is full, or descriptors or memory are short";
	xvm_log(LOG_WARNING, "group %s: pid %d (uid %u) turned away: %s", g->conf.name, cred.pid,
		cred.uid, why);
	turn_away(fd);
}

static void on_connection(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_group *g = w->data;
	int i, fd;

	for (i = 0; i < ACCEPT_AT_ONCE; i++) {
		fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			take_in(g, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE)
			xvm_daemon_turn_away(g->d, g->listen_fd);
		else if (errno != ECONNABORTED && errno != EINTR)
			return;
	}
}

/* ---- groups ----------------------------------------------------------- */

void xvm_groups_init(struct xvm_groups *all)
{
	memset(all, 0, sizeof(*all));
	xvm_list_init(&all->all);
}

void xvm_groups_exit(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;

	d->groups.leaving = true;
	for (XVM_EACH(n, t, &d->groups.all))
		xvm_group_del(xvm_container(n, struct xvm_group, in_all));
}

struct xvm_group *xvm_group_find(const struct xvm_daemon *d, const char *name)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		if (!strcmp(g->conf.name, name))
			return g;
	}
	return NULL;
}

static void stop_listening(struct xvm_group *g)
{
	if (g->listen_fd < 0)
		return;
	ev_io_stop(g->d->loop, &g->listen_io);
	close(g->listen_fd);
	g->listen_fd = -1;
	xvm_socket_close(&g->sock);
}

static void free_vectors(struct xvm_group *g, int *v)
{
	uint32_t i;

	for (i = 0; i < g->region.vectors; i++)
		close(v[i]);
	free(v);
	g->d->fds -= g->region.vectors;
}

static void group_free(struct xvm_group *g)
{
	uint32_t i;

	for (i = 1; i < XVM_REGION_PEERS_MAX; i++)
		if (g->peer_vector[i])
			free_vectors(g, g->peer_vector[i]);
	for (i = 0; i < XVM_REGION_VECTORS_MAX; i++)
		if (g->vector[i] >= 0)
			close(g->vector[i]);
	if (g->region.map)
		munmap(g->region.map, g->region.size);
	if (g->mem_fd >= 0)
		close(g->mem_fd);
	xvm_life_close(&g->life);
	free(g->res);
	free(g);
}

static int make_vectors(struct xvm_group *g)
{
	uint32_t i;

	for (i = XVM_VECTOR_MAIL + 1; i < g->region.vectors; i++) {
		g->vector[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (g->vector[i] < 0)
			return -errno;
	}
	return 0;
}

struct xvm_group *xvm_group_add(struct xvm_daemon *d, const struct xvm_conf_group *conf, char *err,
				size_t err_len)
{
	struct xvm_group *g = calloc(1, sizeof(*g));

	if (!g) {
		snprintf(err, err_len, "group %s: out of memory", conf->name);
		return NULL;
	}
	g->d = d;
	g->conf = *conf;
	g->mem_fd = g->listen_fd = g->life.fd = g->life.own = -1;
	memset(g->vector, 0xff, sizeof(g->vector));
	if (make_region(g, err, err_len))
		goto out_free;
	if (make_vectors(g) || xvm_life_open(&g->life, NULL)) {
		snprintf(err, err_len, "group %s: no descriptors", conf->name);
		goto out_free;
	}
	if (*conf->socket) {
		if (xvm_socket_open(&g->sock, conf->socket, XVM_SOCKET_STREAM, &g->listen_fd, err,
				    err_len))
			goto out_free;
		ev_io_init(&g->listen_io, on_connection, g->listen_fd, EV_READ);
		g->listen_io.data = g;
		ev_io_start(d->loop, &g->listen_io);
	}
	/* Never used again: clients that have the region of a group that is gone keep its number.
	 */
	g->index = XVM_REGIONS_GUEST + d->groups.next_index++;
	xvm_lease_init(&g->book, g->region.lease_off, g->region.arena_size);
	g->book.life = &g->life;
	g->gen[XVM_PEER_HOST] = XVM_GROUP_HOST_GEN;
	xvm_group_show(g, XVM_PEER_HOST, XVM_PEER_UP, XVM_LETTER_F_ALL);
	/* Vectors from 1 on; memory, socket, lock, life twice. */
	d->fds += g->region.vectors + GROUP_FDS;
	xvm_list_add(&d->groups.all, &g->in_all);
	xvm_log(LOG_NOTICE, "group %s: %s, %llu MiB for %u VMs", g->conf.name,
		*conf->socket ? conf->socket : "no socket",
		(unsigned long long)(g->region.size >> 20), g->conf.vms);
	return g;

out_free:
	group_free(g);
	return NULL;
}

void xvm_group_del(struct xvm_group *g)
{
	struct xvm_daemon *d = g->d;
	uint32_t i;

	stop_listening(g);
	for (i = 1; i < g->region.peers; i++)
		if (g->vm[i])
			xvm_vm_leave(g->vm[i], NULL);
	xvm_vm_reap(g);
	for (i = 1; i < g->region.peers; i++)
		if (g->vm[i])
			xvm_vm_forget(g, i);
	xvm_share_group_gone(g);
	xvm_list_del(&g->in_all);
	d->fds -= g->region.vectors + GROUP_FDS;
	xvm_log(LOG_NOTICE, "group %s: served no more", g->conf.name);
	group_free(g);
}

void xvm_groups_reap(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;

	/* Telling the others may show that one of them is dead too. */
	while (d->groups.any_dead) {
		d->groups.any_dead = false;
		for (XVM_EACH(n, t, &d->groups.all))
			xvm_vm_reap(xvm_container(n, struct xvm_group, in_all));
	}
	for (XVM_EACH(n, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(n, struct xvm_group, in_all);

		if (g->doomed && !g->n_vms)
			xvm_group_del(g);
	}
}

/* ---- configuration ---------------------------------------------------- */

static const struct xvm_conf_group *in_conf(const struct xvm_group *g,
					    const struct xvm_conf_group *c, size_t n)
{
	for (; n; n--, c++)
		if (!strcmp(c->name, g->conf.name))
			return c;
	return NULL;
}

/* What differs that cannot be changed under VMs that are there; NULL: nothing. */
static const char *unchangeable(const struct xvm_conf_group *a, const struct xvm_conf_group *b)
{
	if (a->size != b->size)
		return "size";
	if (a->vms != b->vms)
		return "number of peers";
	if (a->vectors != b->vectors)
		return "number of vectors";
	if (a->hugepages != b->hugepages)
		return "kind of pages";
	return strcmp(a->socket, b->socket) ? "socket" : NULL;
}

static bool change(struct xvm_group *g, const struct xvm_conf_group *c)
{
	const char *what = unchangeable(&g->conf, c);

	if (what) {
		xvm_log(LOG_ERR,
			"group %s: another %s takes a restart of xvmd, and then of its VMs: it "
			"stays as it is",
			c->name, what);
		return false;
	}
	g->conf = *c;
	return true;
}

bool xvm_groups_apply(struct xvm_daemon *d)
{
	const struct xvm_conf_group *c;
	size_t i, n = xvm_conf_groups(d->conf, &c);
	struct xvm_list *l, *t;
	bool all = true;
	char err[512];

	for (XVM_EACH(l, t, &d->groups.all)) {
		struct xvm_group *g = xvm_container(l, struct xvm_group, in_all);

		g->doomed = !in_conf(g, c, n);
		if (!g->doomed)
			continue;
		if (g->n_vms)
			xvm_log(LOG_NOTICE,
				"group %s: takes in no more VMs, and ends with its "
				"last",
				g->conf.name);
		else
			xvm_group_del(g);
	}
	for (i = 0; i < n; i++) {
		struct xvm_group *g = xvm_group_find(d, c[i].name);

		if (g) {
			all = change(g, &c[i]) && all;
		} else if (!xvm_group_add(d, &c[i], err, sizeof(err))) {
			xvm_log(LOG_ERR, "%s", err);
			all = false;
		}
	}
	return all;
}
