/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <netlink/netlink.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/log.h"
#include "detect/netlink.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#define AGAIN_S 1.

/* ---- events ----------------------------------------------------------- */

static void resync(struct xvm_ns *ns)
{
	struct xvm_daemon *d = ns->d;

	d->n.resyncs++;
	if (!xvm_netlink_dump(ns) || ev_is_active(&ns->again))
		return;
	/* The kernel is short of memory, or the addresses change faster than they can be read. */
	ev_timer_set(&ns->again, AGAIN_S, 0.);
	ev_timer_start(d->loop, &ns->again);
}

static void on_again(struct ev_loop *loop, ev_timer *w, int events)
{
	resync(xvm_container(w, struct xvm_ns, again));
}

static void on_event(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_ns *ns = xvm_container(w, struct xvm_ns, io);

	if (xvm_netlink_read(ns))
		resync(ns);
}

/* ---- entering --------------------------------------------------------- */

/* Made by somebody who is as much root as we are? See netns.h. */
static bool trusted(struct xvm_netns *all, int nsfd)
{
	struct stat st;
	int fd = ioctl(nsfd, NS_GET_USERNS);
	bool ok;

	if (fd < 0)
		return false;
	ok = !fstat(fd, &st) && st.st_dev == all->user_dev && st.st_ino == all->user_ino;
	close(fd);
	return ok;
}

static int open_inside(struct xvm_daemon *d, struct xvm_ns *ns, int nsfd)
{
	int err = 0;

	if (nsfd >= 0 && setns(nsfd, CLONE_NEWNET))
		return -errno;
	ns->sock = xvm_netlink_open(ns);
	if (!ns->sock)
		err = -errno;
	if (nsfd >= 0 && setns(d->netns.own_fd, CLONE_NEWNET)) {
		/* Whatever would be done next would be done in a stranger's namespace. */
		xvm_log(LOG_CRIT, "cannot return to the own network namespace: %s",
			strerror(errno));
		abort();
	}
	return err;
}

static void give_up(struct xvm_daemon *d, struct xvm_ns *ns)
{
	if (ns->sock)
		xvm_netlink_close(ns);
	if (ns->res)
		xvm_residency_ns_del(&d->residency, ns->res);
	free(ns);
}

/* nsfd -1: our own. NULL with errno. */
static struct xvm_ns *follow(struct xvm_daemon *d, int nsfd, const struct stat *st)
{
	struct xvm_netns *all = &d->netns;
	struct xvm_ns *ns;
	uint64_t cookie;
	socklen_t len = sizeof(cookie);
	int err;

	if (all->count >= XVM_NETNS_MAX || d->fds >= d->fds_max) {
		errno = EMFILE;
		return NULL;
	}
	ns = calloc(1, sizeof(*ns));
	if (!ns)
		return NULL;
	ns->d = d;
	ns->refs = 1;
	ns->dev = st->st_dev;
	ns->ino = st->st_ino;
	xvm_list_init(&ns->links);
	if (nsfd < 0)
		all->own = ns;
	err = open_inside(d, ns, nsfd);
	if (!err &&
	    getsockopt(nl_socket_get_fd(ns->sock), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len))
		err = -errno;
	if (!err)
		ns->res = xvm_residency_ns_add(&d->residency, cookie, nsfd < 0);
	if (!err && !ns->res)
		err = -ENOMEM;
	if (err) {
		give_up(d, ns);
		errno = -err;
		return NULL;
	}
	xvm_list_add(&all->all, &ns->in_all);
	all->count++;
	d->fds++;
	ev_timer_init(&ns->again, on_again, 0., 0.);
	ev_io_init(&ns->io, on_event, nl_socket_get_fd(ns->sock), EV_READ);
	ev_io_start(d->loop, &ns->io);
	if (xvm_netlink_dump(ns))
		resync(ns);
	xvm_log(LOG_INFO, "namespace %llu followed: %u addresses", (unsigned long long)ns->ino,
		ns->res->count);
	return ns;
}

static struct xvm_ns *get(struct xvm_daemon *d, int nsfd)
{
	struct xvm_netns *all = &d->netns;
	struct xvm_list *n, *t;
	struct xvm_ns *ns;
	struct stat st;

	if (fstat(nsfd, &st))
		return NULL;
	for (XVM_EACH(n, t, &all->all)) {
		ns = xvm_container(n, struct xvm_ns, in_all);
		if (ns->dev == st.st_dev && ns->ino == st.st_ino) {
			ns->refs++;
			return ns;
		}
	}
	if (!trusted(all, nsfd)) {
		xvm_log(LOG_DEBUG, "namespace %llu is of another user namespace: not followed",
			(unsigned long long)st.st_ino);
		return NULL;
	}
	ns = follow(d, nsfd, &st);
	if (!ns && errno == EPERM && !all->cannot) {
		all->cannot = true;
		xvm_log(LOG_NOTICE, "not allowed to enter other network namespaces: pairs within "
				    "one namespace only");
	} else if (!ns && errno != EPERM) {
		xvm_log(LOG_WARNING, "namespace %llu cannot be followed: %s",
			(unsigned long long)st.st_ino, strerror(errno));
	}
	return ns;
}

struct xvm_ns *xvm_netns_of_pid(struct xvm_daemon *d, pid_t pid)
{
	struct xvm_ns *ns;
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	ns = get(d, fd);
	close(fd);
	return ns;
}

struct xvm_ns *xvm_netns_of_sock(struct xvm_daemon *d, int sock, uint64_t cookie)
{
	struct xvm_list *n, *t;
	struct xvm_ns *ns;
	int fd;

	for (XVM_EACH(n, t, &d->netns.all)) {
		ns = xvm_container(n, struct xvm_ns, in_all);
		if (ns->res->cookie == cookie) {
			ns->refs++;
			return ns;
		}
	}
	fd = ioctl(sock, SIOCGSKNS);
	if (fd < 0)
		return NULL;
	ns = get(d, fd);
	close(fd);
	return ns;
}

void xvm_netns_put(struct xvm_ns *ns)
{
	struct xvm_daemon *d = ns->d;

	if (--ns->refs)
		return;
	ev_io_stop(d->loop, &ns->io);
	ev_timer_stop(d->loop, &ns->again);
	xvm_list_del(&ns->in_all);
	d->netns.count--;
	d->fds--;
	give_up(d, ns);
}

int xvm_netns_init(struct xvm_daemon *d)
{
	struct xvm_netns *all = &d->netns;
	struct stat st;

	memset(all, 0, sizeof(*all));
	xvm_list_init(&all->all);
	xvm_list_init(&all->neighs);
	if (stat("/proc/self/ns/user", &st))
		return -errno;
	all->user_dev = st.st_dev;
	all->user_ino = st.st_ino;
	all->own_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (all->own_fd < 0 || fstat(all->own_fd, &st))
		return -errno;
	return follow(d, -1, &st) ? 0 : -errno;
}

void xvm_netns_exit(struct xvm_daemon *d)
{
	if (d->netns.own)
		xvm_netns_put(d->netns.own);
	close(d->netns.own_fd);
}

/* ---- in words --------------------------------------------------------- */

struct words {
	char *at;
	size_t left;
};

static void say(struct words *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct words *w, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(w->at, w->left, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= w->left)
		n = w->left ? (int)w->left - 1 : 0;
	w->at += n;
	w->left -= n;
}

/* "veth vethA on bridge br0", of a link in our own namespace. */
static void say_port(struct words *w, const struct xvm_ns *own, const struct xvm_nl_link *l)
{
	const struct xvm_nl_link *br = l->master ? xvm_netlink_link(own, l->master) : NULL;

	say(w, "%s %s", *l->kind ? l->kind : "dev", l->name);
	if (br)
		say(w, " on %s %s", *br->kind ? br->kind : "dev", br->name);
}

static const struct xvm_nl_link *by_fdb(struct xvm_daemon *d, const uint8_t mac[6])
{
	const struct xvm_nl_neigh *g = xvm_netlink_neigh(&d->netns, NULL, mac);

	return g ? xvm_netlink_link(d->netns.own, g->ifindex) : NULL;
}

static void say_client(struct words *w, struct xvm_daemon *d, const struct xvm_ns *ns)
{
	struct xvm_list *n, *t;
	int i;

	for (XVM_EACH(n, t, &d->all)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_all);

		for (i = 0; i < XVM_CONN_NS_MAX; i++)
			if (c->ns[i] == ns) {
				const char *slash = c->exe ? strrchr(c->exe, '/') : NULL;

				say(w, " (pid %d%s%.15s)", c->pid, slash ? " " : "",
				    slash ? slash + 1 : "");
				return;
			}
	}
}

void xvm_netns_explain(struct xvm_daemon *d, const struct xvm_ns *ns, uint32_t ifindex,
		       const uint8_t addr[16], char *text, size_t len)
{
	const struct xvm_nl_link *l = xvm_netlink_link(ns, ifindex), *host = NULL;
	struct words w = {text, len};

	if (ns == d->netns.own) {
		say(&w, "this host's own ns %llu", (unsigned long long)ns->ino);
		if (l) {
			say(&w, ", ");
			say_port(&w, ns, l);
		}
	} else {
		say(&w, "ns %llu", (unsigned long long)ns->ino);
		say_client(&w, d, ns);
		/* The host's end of its veth; else wherever the bridge has seen its MAC. */
		if (l && !strcmp(l->kind, "veth") && l->peer)
			host = xvm_netlink_link(d->netns.own, l->peer);
		if (host && (strcmp(host->kind, "veth") || host->peer != ifindex))
			host = NULL;
		if (l && !host)
			host = by_fdb(d, l->mac);
		if (host) {
			say(&w, ", ");
			say_port(&w, d->netns.own, host);
		} else if (l) {
			say(&w, ", its %s", l->name);
		}
	}
	say(&w, ", by netlink address");
}

void xvm_netns_explain_stranger(struct xvm_daemon *d, const uint8_t addr[16], char *text,
				size_t len)
{
	const struct xvm_nl_neigh *g = xvm_netlink_neigh(&d->netns, addr, NULL);
	const struct xvm_nl_link *l;
	struct words w = {text, len};

	if (!g) {
		say(&w, "in no namespace that a preloaded program lives in");
		return;
	}
	l = by_fdb(d, g->mac);
	if (!l)
		l = xvm_netlink_link(d->netns.own, g->ifindex);
	say(&w, "a neighbour");
	if (l) {
		say(&w, " behind ");
		say_port(&w, d->netns.own, l);
	}
	say(&w, ", where no preloaded program is known");
}
