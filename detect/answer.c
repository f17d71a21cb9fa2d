/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "detect/answer.h"
#include "detect/arenas.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest_ep.h"
#include "detect/pairs.h"
#include "detect/table.h"
#include "detect/vms.h"

#define EPS_AT_ONCE 64
#define TICKETS_MAX 64

/* One xvm leave or xvm enter that is under way. */
struct ticket {
	struct xvm_list in_all;
	struct xvm_daemon *d;
	struct xvm_conn *tool;
	uint32_t number, changed, left;
	uint8_t asked[XVM_CLIENTS_MAX / 8]; /* by client: has yet to answer */
	ev_timer timer;
};

struct xvm_answer {
	struct xvm_list tickets;
	uint32_t next, count;
	uint64_t base[XVM_ARENAS_COUNTERS]; /* as of the last reset */
	uint64_t own_base[16];
};

int xvm_answer_init(struct xvm_daemon *d)
{
	d->answer = calloc(1, sizeof(*d->answer));
	if (!d->answer)
		return -ENOMEM;
	xvm_list_init(&d->answer->tickets);
	return 0;
}

static void ticket_free(struct ticket *k)
{
	ev_timer_stop(k->d->loop, &k->timer);
	xvm_list_del(&k->in_all);
	k->d->answer->count--;
	free(k);
}

void xvm_answer_exit(struct xvm_daemon *d)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &d->answer->tickets))
		ticket_free(xvm_container(n, struct ticket, in_all));
	free(d->answer);
	d->answer = NULL;
}

static bool privileged(const struct xvm_conn *tool)
{
	return tool->user->trusted;
}

static bool may_see(const struct xvm_conn *tool, const struct xvm_conn *c)
{
	return privileged(tool) || tool->uid == c->uid;
}

/* ---- ss --------------------------------------------------------------- */

static void comm_of(pid_t pid, char comm[16])
{
	char path[32];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, comm, 15);
		close(fd);
	}
	comm[n < 0 ? 0 : n] = 0;
	comm[strcspn(comm, "\n")] = 0;
}

/*
 * Which process last used the endpoint? What the arena says is in its own numbers, and may be a
 * lie: only a process that is known to share this arena is believed.
 */
static struct xvm_conn *user_of(const struct xvm_arena_ref *a, int32_t pid)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &a->conns)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_arena);

		if (c->own_pid == pid)
			return c;
	}
	return xvm_container(a->conns.next, struct xvm_conn, in_arena);
}

/* The order of looks for a row whose fields change meanwhile does not matter: it is a snapshot. */
static void send_row(struct xvm_conn *tool, const struct xvm_arena_ref *a, struct xvm_shm_ep *ep)
{
	struct xvm_conn *c = user_of(a, ep->pid);
	struct xvm_msg m = {.type = XVM_MSG_SS_ROW};
	struct xvm_msg_row *r = &m.row;

	if (!may_see(tool, c))
		return;
	r->pid = c->pid;
	r->fd = ep->fd;
	comm_of(c->pid, r->comm);
	/* Its process may be in a place that we do not see: then its own word has to do. */
	if (!*r->comm)
		memcpy(r->comm, c->comm, sizeof(r->comm));
	memcpy(r->laddr, ep->laddr, 16);
	memcpy(r->raddr, ep->raddr, 16);
	r->lport = ep->lport;
	r->rport = ep->rport;
	r->state = ep->state <= XVM_EP_PAIRED ? ep->state : XVM_EP_TCP;
	r->reason = ep->reason < XVM_R_COUNT ? ep->reason : XVM_R_BROKEN;
	if (ep->state == XVM_EP_PAIRED) {
		r->tx_path = ep->tx_epoch & 1;
		r->rx_path = ep->rx_epoch & 1;
		r->medium =
			(uint8_t)(ep->medium < XVM_MEDIUM_REGION ? ep->medium : XVM_MEDIUM_REGION);
	}
	r->tx_ring = ep->n_tx_ring;
	r->rx_ring = ep->n_rx_ring;
	r->tx_tcp = ep->n_tx_tcp;
	r->rx_tcp = ep->n_rx_tcp;
	tool->walk.rows++;
	xvm_conn_send(tool, &m, NULL, 0);
}

/* The first arena that was not walked to its end. Serials rise along the list. */
static struct xvm_arena_ref *next_arena(struct xvm_daemon *d, struct xvm_walk *w)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &d->arenas)) {
		struct xvm_arena_ref *a = xvm_container(n, struct xvm_arena_ref, in_all);

		if (a->serial < w->serial)
			continue;
		if (a->serial > w->serial)
			w->slot = 0;
		w->serial = a->serial;
		return a;
	}
	return NULL;
}

/* Rows as long as the socket takes them; the rest when it has room. */
void xvm_answer_go_on(struct xvm_conn *c)
{
	struct xvm_shm_ep ep[EPS_AT_ONCE];
	struct xvm_walk *w = &c->walk;
	struct xvm_arena_ref *a;
	uint32_t i, n;

	if (w->type != XVM_MSG_SS)
		return;
	while (!c->dead && !c->n_queue) {
		a = next_arena(c->d, w);
		if (!a) {
			w->type = 0;
			xvm_conn_end(c, 0, w->rows, NULL);
			return;
		}
		n = xvm_arenas_read(a, w->slot, EPS_AT_ONCE, ep);
		if (!n) {
			w->serial++;
			w->slot = 0;
			continue;
		}
		w->slot += n;
		for (i = 0; i < n; i++)
			if (ep[i].state != XVM_EP_FREE)
				send_row(c, a, &ep[i]);
	}
}

static void start_ss(struct xvm_conn *c)
{
	if (c->walk.type) {
		xvm_conn_nonsense(c, "a question before the last one is answered");
		return;
	}
	c->walk = (struct xvm_walk){.type = XVM_MSG_SS};
	xvm_answer_go_on(c);
}

/* ---- stats ------------------------------------------------------------ */

static void stat_row(struct xvm_conn *c, const char *prefix, const char *name, uint64_t value)
{
	struct xvm_msg m = {.type = XVM_MSG_STATS_ROW, .arg64 = value};

	snprintf(m.text, sizeof(m.text), "%s%s", prefix, name);
	xvm_conn_send(c, &m, NULL, 0);
}

static bool arena_visible(const struct xvm_conn *tool, const struct xvm_arena_ref *a)
{
	return may_see(tool, xvm_container(a->conns.next, struct xvm_conn, in_arena));
}

static void stats(struct xvm_conn *c, bool reset)
{
	static const char *const names[] = {
#define X(name) #name,
		XVM_COUNTERS(X)
#undef X
	};
	static const char *const own_names[] = {
#define X(name) #name,
		XVM_DAEMON_COUNTERS(X)
#undef X
	};
	struct xvm_daemon *d = c->d;
	const uint64_t own[] = {
#define X(name) d->n.name,
		XVM_DAEMON_COUNTERS(X)
#undef X
	};
	uint64_t sum[XVM_ARENAS_COUNTERS] = {0}, one[XVM_ARENAS_COUNTERS];
	struct xvm_list *n, *t;
	uint64_t vms = 0;
	size_t i;

	if (reset && !privileged(c)) {
		xvm_conn_end(c, EPERM, 0, "only root or the daemon's own user may reset counters");
		return;
	}
	if (privileged(c))
		memcpy(sum, d->retired, sizeof(sum));
	for (XVM_EACH(n, t, &d->arenas)) {
		struct xvm_arena_ref *a = xvm_container(n, struct xvm_arena_ref, in_all);

		if (!arena_visible(c, a) || xvm_arenas_counters(a, one))
			continue;
		for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			sum[i] += one[i];
	}
	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		uint64_t base = privileged(c) ? d->answer->base[i] : 0;

		/* Less than the base: a client has set its own counters back. */
		stat_row(c, "", names[i], sum[i] > base ? sum[i] - base : 0);
	}
	for (i = 0; i < sizeof(own_names) / sizeof(own_names[0]); i++)
		stat_row(c, "xvmd_", own_names[i], own[i] - d->answer->own_base[i]);
	stat_row(c, "xvmd_", "clients_now", d->n_programs);
	stat_row(c, "xvmd_", "offers_waiting", d->pairing.count);
	stat_row(c, "xvmd_", "pairs_now", xvm_pairs_count(d));
	stat_row(c, "xvmd_", "resident_addresses", d->table->count);
	stat_row(c, "xvmd_", "namespaces", d->netns.count);
	stat_row(c, "xvmd_", "descriptors", d->fds);
	for (XVM_EACH(n, t, &d->groups.all))
		vms += xvm_container(n, struct xvm_group, in_all)->n_vms;
	stat_row(c, "xvmd_", "vms", vms);
	if (reset) {
		memcpy(d->answer->base, sum, sizeof(sum));
		memcpy(d->answer->own_base, own, sizeof(own));
	}
	xvm_conn_end(c, 0, 0, NULL);
}

/* ---- resident, status ------------------------------------------------- */

static void resident(struct xvm_conn *c, const uint8_t addr[16])
{
	const struct xvm_res_addr *a;
	struct xvm_daemon *d = c->d;
	char text[sizeof(((struct xvm_msg *)0)->text)];
	struct xvm_list *n, *t;
	const struct xvm_vm *vm;
	int where;

	if (xvm_table_loopback(addr)) {
		xvm_conn_end(c, 0, 0, "loopback: in the very namespace that asks");
		return;
	}
	where = xvm_residency_find(&d->residency, NULL, addr, &a);
	if (!where) {
		/* Of use to the VMs of its group, and not to this host's programs. */
		vm = xvm_vms_claimant(d, addr);
		if (vm)
			snprintf(text, sizeof(text),
				 "VM %u of group %s says so; this host's neighbour table does not",
				 vm->peer, vm->group->conf.name);
		else
			xvm_netns_explain_stranger(d, addr, text, sizeof(text));
		xvm_conn_end(c, ENOENT, 0, text);
		return;
	}
	if (where > 1) {
		xvm_conn_end(c, EEXIST, 0, "the address is in more than one namespace or VM");
		return;
	}
	text[0] = 0;
	vm = a->ns->vm ? xvm_vms_find(d, a->ns->vm) : NULL;
	if (vm)
		xvm_vms_explain(vm, text, sizeof(text));
	for (XVM_EACH(n, t, &d->netns.all)) {
		struct xvm_ns *ns = xvm_container(n, struct xvm_ns, in_all);

		if (ns->res == a->ns)
			xvm_netns_explain(d, ns, a->ifindex, addr, text, sizeof(text));
	}
	if (a->ns->told)
		snprintf(text, sizeof(text),
			 a->ns->peer ? "VM %u of the group: %s" : "the host of this VM",
			 a->ns->peer,
			 a->seen ? "its host has seen the address there"
				 : "its host has seen the MAC there, and has the VM's word for the "
				   "address");
	xvm_conn_end(c, 0, 0, text);
}

static void status_device(struct xvm_conn *c, uint32_t index)
{
	struct xvm_daemon *d = c->d;
	char text[sizeof(((struct xvm_msg *)0)->text)];
	struct xvm_guest *g;
	uint32_t flags = 0;

	if (index >= d->guests.n) {
		xvm_conn_end(c, ENODEV, 0, NULL);
		return;
	}
	g = d->guests.g[index];
	if (g->opened && g->up)
		flags |= XVM_DEVICE_UP;
	if (g->dev.vectors)
		flags |= XVM_DEVICE_INTERRUPTS;
	if (xvm_conf_shares(d->conf, c->uid, NULL, c->user->trusted))
		flags |= XVM_DEVICE_MAY;
	if (g->asked)
		flags |= XVM_DEVICE_SILENT;
	xvm_guest_explain(g, text, sizeof(text));
	if (g->opened)
		xvm_guest_fence(g);
	xvm_conn_end(c, 0, flags, text);
}

static void status(struct xvm_conn *c)
{
	struct xvm_daemon *d = c->d;
	char text[sizeof(((struct xvm_msg *)0)->text)];

	snprintf(text, sizeof(text),
		 "xvmd %s pid %d: %u programs, %u pairs, %u offers waiting, %u namespaces%s",
		 XVM_VERSION, getpid(), d->n_programs, xvm_pairs_count(d), d->pairing.count,
		 d->netns.count, d->netns.cannot ? " (may not enter others)" : "");
	xvm_conn_end(c, 0, getpid(), text);
}

/* ---- groups of VMs ---------------------------------------------------- */

static void group_row(struct xvm_conn *c, const struct xvm_group *g)
{
	struct xvm_msg m = {.type = XVM_MSG_GROUP_ROW,
			    .slot = g->n_vms,
			    .arg = g->conf.vectors,
			    .arg2 = g->conf.vms,
			    .arg64 = g->conf.size};

	snprintf(m.text, sizeof(m.text), "%s", g->conf.socket);
	xvm_conn_send(c, &m, NULL, 0);
}

static void group_names(struct xvm_conn *c)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->d->groups.all)) {
		struct xvm_msg m = {.type = XVM_MSG_GROUP_ROW};

		snprintf(m.text, sizeof(m.text), "%s",
			 xvm_container(n, struct xvm_group, in_all)->conf.name);
		xvm_conn_send(c, &m, NULL, 0);
	}
}

static void group(struct xvm_conn *c, const char *name)
{
	const struct xvm_group *g = *name ? xvm_group_find(c->d, name) : NULL;

	if (g)
		group_row(c, g);
	else if (!*name)
		group_names(c);
	xvm_conn_end(c, *name && !g ? ENOENT : 0, 0, NULL);
}

/* ---- leave, enter ----------------------------------------------------- */

static void ticket_end(struct ticket *k)
{
	char text[64] = "";

	if (k->left)
		snprintf(text, sizeof(text), "%u processes have not answered", k->left);
	if (k->tool)
		xvm_conn_end(k->tool, 0, k->changed, text);
	ticket_free(k);
}

static void on_timeout(struct ev_loop *loop, ev_timer *w, int events)
{
	ticket_end(xvm_container(w, struct ticket, timer));
}

static void ask(struct ticket *k, struct xvm_conn *c, int32_t fd, uint32_t what)
{
	struct xvm_msg m = {.type = XVM_MSG_CTL, .arg = k->number, .arg2 = what, .fd = fd};
	int i;

	k->asked[c->id / 8] |= 1u << c->id % 8;
	k->left++;
	xvm_conn_send(c, &m, NULL, 0);
	/* Mail is looked at inside calls: a thread that sleeps in one has to be woken. */
	for (i = 0; i < XVM_WAKERS_MAX; i++)
		if (c->waker[i] >= 0)
			xvm_fd_ring(c->waker[i]);
}

static void control(struct xvm_conn *tool, const struct xvm_msg *m)
{
	struct xvm_daemon *d = tool->d;
	struct xvm_list *n, *t;
	struct ticket *k;
	bool denied = false, any = false;

	if (d->answer->count >= TICKETS_MAX) {
		xvm_conn_end(tool, EBUSY, 0, "too many such requests at once");
		return;
	}
	k = calloc(1, sizeof(*k));
	if (!k) {
		xvm_conn_end(tool, ENOMEM, 0, NULL);
		return;
	}
	k->d = d;
	k->tool = tool;
	k->number = ++d->answer->next;
	ev_timer_init(&k->timer, on_timeout, XVM_ANSWER_CTL_S, 0.);
	xvm_list_add(&d->answer->tickets, &k->in_all);
	d->answer->count++;

	for (XVM_EACH(n, t, &d->all)) {
		struct xvm_conn *c = xvm_container(n, struct xvm_conn, in_all);

		if (!c->arena || c->dead || (m->pid != -1 && m->pid != c->pid))
			continue;
		if (!may_see(tool, c)) {
			denied = true;
			continue;
		}
		any = true;
		ask(k, c, m->pid == -1 ? -1 : m->fd,
		    m->type == XVM_MSG_LEAVE ? XVM_CTL_LEAVE : XVM_CTL_ENTER);
	}
	if (!any && m->pid != -1) {
		xvm_conn_end(tool, denied ? EPERM : ENOENT, 0,
			     denied ? "the process is another user's"
				    : "no preloaded program with that pid is connected");
		ticket_free(k);
	} else if (!k->left) {
		ticket_end(k);
	} else {
		ev_timer_start(d->loop, &k->timer);
	}
}

static void answered(struct ticket *k, struct xvm_conn *c, uint32_t changed)
{
	if (!(k->asked[c->id / 8] & (1u << c->id % 8)))
		return;
	k->asked[c->id / 8] &= ~(1u << c->id % 8);
	k->changed += changed;
	if (--k->left == 0)
		ticket_end(k);
}

void xvm_answer_ctl_done(struct xvm_conn *c, uint32_t ticket, uint32_t changed)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->d->answer->tickets)) {
		struct ticket *k = xvm_container(n, struct ticket, in_all);

		if (k->number == ticket) {
			answered(k, c, changed);
			return;
		}
	}
}

void xvm_answer_conn_gone(struct xvm_conn *c)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->d->answer->tickets)) {
		struct ticket *k = xvm_container(n, struct ticket, in_all);

		if (k->tool == c)
			k->tool = NULL;
		answered(k, c, 0);
	}
}

void xvm_answer(struct xvm_conn *c, const struct xvm_msg *m)
{
	switch (m->type) {
	case XVM_MSG_SS:
		start_ss(c);
		break;
	case XVM_MSG_STATS:
		stats(c, m->arg2 == 1);
		break;
	case XVM_MSG_RESIDENT:
		resident(c, m->addr);
		break;
	case XVM_MSG_LEAVE:
	case XVM_MSG_ENTER:
		control(c, m);
		break;
	case XVM_MSG_STATUS:
		if (m->slot)
			status_device(c, m->slot - 1);
		else
			status(c);
		break;
	case XVM_MSG_GROUP:
		group(c, m->text);
		break;
	}
}
