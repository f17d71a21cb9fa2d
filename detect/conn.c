/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "detect/answer.h"
#include "detect/arenas.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest.h"
#include "detect/guest_ep.h"
#include "detect/guest_lease.h"
#include "detect/log.h"
#include "detect/offer.h"
#include "detect/pairs.h"
#include "detect/share.h"

#define READ_AT_ONCE 64 /* messages, before others have their turn */

struct queued {
	struct xvm_list in_queue;
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS];
	int n;
};

/* ---- descriptors on account ------------------------------------------- */

static struct xvm_user *user_get(struct xvm_daemon *d, uid_t uid)
{
	struct xvm_list *n, *t;
	struct xvm_user *u;

	for (XVM_EACH(n, t, &d->users)) {
		u = xvm_container(n, struct xvm_user, in_all);
		if (u->uid == uid) {
			u->refs++;
			return u;
		}
	}
	u = calloc(1, sizeof(*u));
	if (!u)
		return NULL;
	u->uid = uid;
	u->trusted = uid == 0 || uid == geteuid();
	u->refs = 1;
	xvm_list_add(&d->users, &u->in_all);
	return u;
}

void xvm_user_put(struct xvm_user *u)
{
	if (--u->refs)
		return;
	xvm_list_del(&u->in_all);
	free(u);
}

bool xvm_conn_charge(struct xvm_conn *c, uint32_t n)
{
	struct xvm_daemon *d = c->d;

	if (d->fds + n > d->fds_max)
		return false;
	if (!c->user->trusted && c->user->fds + n > d->fds_max / 2)
		return false;
	d->fds += n;
	c->user->fds += n;
	return true;
}

void xvm_conn_release(struct xvm_conn *c, uint32_t n)
{
	c->d->fds -= n;
	c->user->fds -= n;
}

/* ---- going ------------------------------------------------------------ */

void xvm_conn_drop(struct xvm_conn *c, const char *why)
{
	if (c->dead)
		return;
	c->dead = true;
	if (why)
		xvm_log(LOG_WARNING, "client %d (uid %u) dropped: %s", c->pid, c->uid, why);
	if (why)
		c->d->n.dropped++;
	ev_io_stop(c->d->loop, &c->rd);
	ev_io_stop(c->d->loop, &c->wr);
	xvm_list_add(&c->d->dead, &c->in_dead);
}

void xvm_conn_nonsense(struct xvm_conn *c, const char *what)
{
	char why[160];

	snprintf(why, sizeof(why), "it sent nonsense: %s", what);
	xvm_conn_drop(c, why);
}

static void dequeue(struct xvm_conn *c, struct queued *q)
{
	int i;

	xvm_list_del(&q->in_queue);
	c->n_queue--;
	c->user->queued--;
	for (i = 0; i < q->n; i++)
		xvm_fd_discard(q->fds[i]);
	xvm_conn_release(c, q->n);
	free(q);
}

static void reap(struct xvm_conn *c)
{
	struct xvm_daemon *d = c->d;
	struct xvm_list *n, *t;
	int i;

	xvm_list_del(&c->in_dead);
	xvm_offer_conn_gone(c);
	xvm_pairs_conn_gone(c);
	xvm_guest_conn_gone(c);
	xvm_share_conn_gone(c);
	xvm_answer_conn_gone(c);
	for (XVM_EACH(n, t, &c->queue))
		dequeue(c, xvm_container(n, struct queued, in_queue));
	for (i = 0; i < XVM_WAKERS_MAX; i++)
		if (c->waker[i] >= 0) {
			close(c->waker[i]);
			xvm_conn_release(c, 1);
		}
	for (i = 0; i < XVM_CONN_NS_MAX; i++)
		if (c->ns[i])
			xvm_netns_put(c->ns[i]);
	if (c->arena)
		d->n_programs--;
	xvm_arenas_leave(c);
	xvm_fd_discard(c->fd);
	xvm_conn_release(c, 1);
	xvm_list_del(&c->in_all);
	d->conn[c->id] = NULL;
	d->n_conns--;
	c->user->conns--;
	xvm_user_put(c->user);
	free(c->exe);
	free(c);
	if (d->idle)
		d->idle(d);
}

void xvm_conn_reap(struct xvm_daemon *d)
{
	/* Telling the others that it went may fell the next. */
	while (!xvm_list_empty(&d->dead))
		reap(xvm_container(d->dead.next, struct xvm_conn, in_dead));
}

/* ---- sending ---------------------------------------------------------- */

static void enqueue(struct xvm_conn *c, const struct xvm_msg *m, const int *fds, int n)
{
	struct queued *q;
	int i;

	if (c->n_queue >= XVM_BACKLOG ||
	    (!c->user->trusted && c->user->queued >= XVM_USER_QUEUED_MAX)) {
		xvm_conn_drop(c, "it does not read its messages");
		return;
	}
	if (!xvm_conn_charge(c, n)) {
		xvm_conn_drop(c, "too many descriptors wait for it");
		return;
	}
	q = calloc(1, sizeof(*q));
	if (!q) {
		xvm_conn_release(c, n);
		xvm_conn_drop(c, "no memory");
		return;
	}
	q->m = *m;
	for (i = 0; i < n; i++) {
		q->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
		if (q->fds[i] < 0)
			break;
	}
	q->n = n;
	xvm_list_add(&c->queue, &q->in_queue);
	c->n_queue++;
	c->user->queued++;
	if (i < n) {
		/* reap() takes the entry apart; it must not close what is not there. */
		xvm_conn_release(c, n - i);
		q->n = i;
		xvm_conn_drop(c, "no descriptors");
		return;
	}
	ev_io_start(c->d->loop, &c->wr);
}

void xvm_conn_send(struct xvm_conn *c, const struct xvm_msg *m, const int *fds, int n)
{
	struct xvm_shm_table *t = c->d->table;
	int ret;

	if (c->dead)
		return;
	/* Before it is sent: a client that finds no mail must be right that none is there. */
	atomic_fetch_add_explicit(&t->mail[c->id], 1, memory_order_seq_cst);
	if (!xvm_list_empty(&c->queue)) {
		enqueue(c, m, fds, n);
		return;
	}
	ret = xvm_proto_send(c->fd, m, fds, n);
	if (ret == -EAGAIN)
		enqueue(c, m, fds, n);
	else if (ret == -EPIPE || ret == -ECONNRESET)
		xvm_conn_drop(c, NULL);
	else if (ret)
		xvm_conn_drop(c, strerror(-ret));
}

void xvm_conn_say(struct xvm_conn *c, uint32_t type, uint32_t slot, uint32_t gen, uint32_t arg)
{
	struct xvm_msg m = {.type = type, .slot = slot, .gen = gen, .arg = arg};

	xvm_conn_send(c, &m, NULL, 0);
}

void xvm_conn_end(struct xvm_conn *c, uint32_t err, uint32_t arg2, const char *text)
{
	struct xvm_msg m = {.type = XVM_MSG_END, .arg = err, .arg2 = arg2};

	snprintf(m.text, sizeof(m.text), "%s", text ? text : "");
	xvm_conn_send(c, &m, NULL, 0);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_conn *c = xvm_container(w, struct xvm_conn, wr);
	struct xvm_list *n, *t;
	int ret;

	for (XVM_EACH(n, t, &c->queue)) {
		struct queued *q = xvm_container(n, struct queued, in_queue);

		ret = xvm_proto_send(c->fd, &q->m, q->fds, q->n);
		if (ret == -EAGAIN)
			return;
		if (ret) {
			xvm_conn_drop(c,
				      ret == -EPIPE || ret == -ECONNRESET ? NULL : strerror(-ret));
			return;
		}
		dequeue(c, q);
	}
	ev_io_stop(loop, w);
	xvm_answer_go_on(c);
}

/* ---- hello ------------------------------------------------------------ */

/*
 * Whose process is it? The pid is the connecting process's, but it may be gone and its number
 * another's by now. A pidfd of it that is still alive afterwards says that all we read between was
 * its own.
 */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
static void look_at_process(struct xvm_conn *c)
{
	char link[32], exe[4096];
	struct xvm_ns *ns;
	socklen_t len = sizeof(int);
	ssize_t n;
	int pidfd = -1;

	if (c->pid <= 0)
		return;
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len)) {
		if (errno != ENOPROTOOPT)
			return; /* it is gone already */
		pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	}
	snprintf(link, sizeof(link), "/proc/%d/exe", c->pid);
	n = readlink(link, exe, sizeof(exe) - 1);
	if (n > 0) {
		exe[n] = 0;
		c->exe = strdup(exe);
	}
	ns = xvm_netns_of_pid(c->d, c->pid);
	if (pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) && errno == ESRCH) {
		free(c->exe);
		c->exe = NULL;
		if (ns)
			xvm_netns_put(ns);
		ns = NULL;
	}
	c->ns[0] = ns;
	if (pidfd >= 0)
		close(pidfd);
}

static void hello(struct xvm_conn *c, const struct xvm_msg *m, int *fds)
{
	struct xvm_msg r = {.type = XVM_MSG_WELCOME, .arg = XVM_PROTO_VERSION, .arg2 = c->id};
	int ret;

	if (c->hello) {
		xvm_conn_nonsense(c, "a second hello");
		return;
	}
	if (m->arg != XVM_PROTO_VERSION) {
		xvm_conn_say(c, XVM_MSG_BAD_VERSION, 0, 0, XVM_PROTO_VERSION);
		xvm_conn_drop(c, NULL);
		return;
	}
	c->hello = true;
	c->own_pid = m->pid;
	snprintf(c->comm, sizeof(c->comm), "%.15s", m->text);
	if (m->nfds == 1) {
		if (!xvm_fd_is_memfd(fds[0])) {
			xvm_conn_nonsense(c, "an arena that is no memfd");
			return;
		}
		look_at_process(c);
		ret = xvm_arenas_join(c, fds[0]);
		if (ret) {
			xvm_conn_drop(c, strerror(-ret));
			return;
		}
		fds[0] = -1;
		c->d->n_programs++;
		if (c->d->idle)
			c->d->idle(c->d);
	} else if (m->nfds) {
		xvm_conn_nonsense(c, "a hello with two descriptors");
		return;
	}
	r.arg64 = c->d->table->mail[c->id] + 1;
	/* It is to find its own namespace's addresses there when it first looks. */
	xvm_residency_publish(&c->d->residency, c->d->table);
	xvm_conn_send(c, &r, &c->d->table_fd, 1);
	xvm_guests_greet(c->d, c);
	xvm_share_greet(c->d, c);
}

/* ---- receiving -------------------------------------------------------- */

static void dispatch(struct xvm_conn *c, const struct xvm_msg *m, int *fds)
{
	if (m->type == XVM_MSG_HELLO) {
		hello(c, m, fds);
		return;
	}
	if (!c->hello) {
		xvm_conn_nonsense(c, "no hello first");
		return;
	}
	if (m->type > XVM_MSG_HELLO && m->type <= XVM_MSG_LEASE && !c->arena) {
		xvm_conn_nonsense(c, "a program's message from a tool");
		return;
	}
	switch (m->type) {
	case XVM_MSG_OFFER:
		xvm_offer_make(c, m, fds);
		break;
	case XVM_MSG_WITHDRAW:
		xvm_offer_withdraw(c, m->slot, m->gen);
		xvm_guest_over(c, m->slot, m->gen);
		if (m->len && m->region < XVM_REGIONS_GUEST)
			xvm_guest_return(c, m);
		break;
	case XVM_MSG_WAKER:
		xvm_pairs_waker(c, m, fds);
		break;
	case XVM_MSG_UNPAIR:
		xvm_pairs_unpair(c, m->slot, m->gen);
		xvm_guest_over(c, m->slot, m->gen);
		break;
	case XVM_MSG_CTL_DONE:
		xvm_answer_ctl_done(c, m->arg, m->arg2);
		break;
	case XVM_MSG_LEASE:
		if (m->region < XVM_REGIONS_GUEST)
			xvm_guest_lease(c, m);
		else
			xvm_share_lease(c, m);
		break;
	case XVM_MSG_SS:
	case XVM_MSG_STATS:
	case XVM_MSG_RESIDENT:
	case XVM_MSG_LEAVE:
	case XVM_MSG_ENTER:
	case XVM_MSG_STATUS:
	case XVM_MSG_GROUP:
		xvm_answer(c, m);
		break;
	default:
		xvm_conn_nonsense(c, "a message of unknown type");
	}
}

void xvm_conn_message(struct xvm_conn *c, const struct xvm_msg *m, int *fds, int n)
{
	int i;

	dispatch(c, m, fds);
	for (i = 0; i < n; i++)
		xvm_fd_discard(fds[i]);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_conn *c = xvm_container(w, struct xvm_conn, rd);
	struct xvm_msg m;
	int fds[XVM_PROTO_FDS], i, k, n, ret;

	for (i = 0; i < READ_AT_ONCE && !c->dead; i++) {
		ret = xvm_proto_take(c->fd, &m, fds, &n, MSG_DONTWAIT);
		if (ret == -EAGAIN)
			return;
		if (!ret) {
			xvm_conn_message(c, &m, fds, n);
			continue;
		}
		for (k = 0; k < n; k++)
			xvm_fd_discard(fds[k]);
		if (ret == -EPROTO)
			xvm_conn_nonsense(c, "a packet that is no message");
		else
			xvm_conn_drop(c, NULL);
	}
}

static bool take_id(struct xvm_daemon *d, uint32_t *id)
{
	uint32_t i;

	/* In turn, so that a number that has just gone is not somebody else at once. */
	for (i = 0; i < XVM_CLIENTS_MAX; i++) {
		*id = (d->next_id + i) % XVM_CLIENTS_MAX;
		if (!d->conn[*id]) {
			d->next_id = *id + 1;
			return true;
		}
	}
	return false;
}

struct xvm_conn *xvm_conn_new(struct xvm_daemon *d, int fd, pid_t pid, uid_t uid)
{
	struct xvm_conn *c = calloc(1, sizeof(*c));
	int i;

	if (!c)
		return NULL;
	c->d = d;
	c->fd = fd;
	c->pid = pid;
	c->uid = uid;
	c->user = user_get(d, uid);
	if (!c->user)
		goto out_free;
	if (!c->user->trusted && c->user->conns >= XVM_CLIENTS_MAX / 2)
		goto out_user;
	if (!take_id(d, &c->id) || !xvm_conn_charge(c, 1))
		goto out_user;
	c->user->conns++;
	for (i = 0; i < XVM_WAKERS_MAX; i++)
		c->waker[i] = -1;
	xvm_list_init(&c->in_arena);
	xvm_list_init(&c->in_dead);
	xvm_list_init(&c->offers);
	xvm_list_init(&c->links);
	xvm_list_init(&c->met);
	xvm_list_init(&c->queue);
	xvm_list_add(&d->all, &c->in_all);
	d->conn[c->id] = c;
	d->n_conns++;
	d->n.clients++;
	ev_io_init(&c->rd, on_readable, fd, EV_READ);
	ev_io_init(&c->wr, on_writable, fd, EV_WRITE);
	ev_io_start(d->loop, &c->rd);
	if (d->idle)
		d->idle(d);
	return c;

out_user:
	xvm_user_put(c->user);
out_free:
	free(c);
	return NULL;
}

void xvm_conn_accept(struct xvm_daemon *d, int fd)
{
	struct ucred cred = {.uid = (uid_t)-1};
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) ||
	    !xvm_conn_new(d, fd, cred.pid, cred.uid)) {
		xvm_log(LOG_WARNING, "client %d (uid %u) turned away: a limit is reached", cred.pid,
			cred.uid);
		close(fd);
	}
}
