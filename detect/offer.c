/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "detect/arenas.h"
#include "detect/client.h"
#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/guest_ep.h"
#include "detect/log.h"
#include "detect/offer.h"
#include "detect/pairs.h"
#include "detect/relay.h"
#include "detect/share.h"
#include "detect/vmep.h"
#include "detect/vms.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#define STATE_ESTABLISHED 1 /* TCP_ESTABLISHED; <netinet/tcp.h> clashes with <linux/tcp.h> */

static int get_int(int sock, int opt, int *v)
{
	socklen_t len = sizeof(*v);

	return getsockopt(sock, SOL_SOCKET, opt, v, &len);
}

static int get_u64(int sock, int opt, uint64_t *v)
{
	socklen_t len = sizeof(*v);

	return getsockopt(sock, SOL_SOCKET, opt, v, &len) || len != sizeof(*v) ? -1 : 0;
}

static bool is_tcp(int sock)
{
	int type, domain, proto;

	return !get_int(sock, SO_TYPE, &type) && !get_int(sock, SO_DOMAIN, &domain) &&
	       !get_int(sock, SO_PROTOCOL, &proto) && type == SOCK_STREAM &&
	       (domain == AF_INET || domain == AF_INET6) && proto == IPPROTO_TCP;
}

uint32_t xvm_offer_facts(int sock, struct xvm_facts *f)
{
	struct sockaddr_storage l, r;
	socklen_t llen = sizeof(l), rlen = sizeof(r), len;
	struct tcp_info ti;
	int outq, ifindex = 0;

	memset(f, 0, sizeof(*f));
	if (!is_tcp(sock) || get_u64(sock, SO_COOKIE, &f->cookie) ||
	    get_u64(sock, SO_NETNS_COOKIE, &f->where.netns))
		return XVM_R_UNSUPPORTED;
	if (getsockname(sock, (struct sockaddr *)&l, &llen) ||
	    getpeername(sock, (struct sockaddr *)&r, &rlen) ||
	    xvm_client_addr((struct sockaddr *)&l, llen, f->laddr, &f->lport) ||
	    xvm_client_addr((struct sockaddr *)&r, rlen, f->raddr, &f->rport))
		return XVM_R_UNSUPPORTED;
	get_int(sock, SO_BINDTOIFINDEX, &ifindex);
	f->ifindex = ifindex;

	/* In this order: bytes acknowledged in between are then counted twice, not lost. */
	if (ioctl(sock, SIOCOUTQ, &outq))
		return XVM_R_NO_TCP_INFO;
	len = sizeof(ti);
	memset(&ti, 0, sizeof(ti));
	if (getsockopt(sock, IPPROTO_TCP, TCP_INFO, &ti, &len) ||
	    len < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(ti.tcpi_bytes_received))
		return XVM_R_NO_TCP_INFO;
	/* On its way up, or on its way down, there is no stream to be had. */
	if (ti.tcpi_state != STATE_ESTABLISHED)
		return XVM_R_UNSUPPORTED;
	f->outq = outq;
	f->acked = ti.tcpi_bytes_acked;
	f->received = ti.tcpi_bytes_received;
	return XVM_R_NONE;
}

static void forget_at_conn(struct xvm_offer *o)
{
	struct xvm_conn *c = o->owner;
	struct xvm_slot *s = xvm_arenas_slot(c->arena, o->slot);

	if (s && s->offer == o) {
		s->offer = NULL;
		xvm_arenas_slot_tidy(s);
	}
	c->n_offers--;
	xvm_fd_discard(o->half);
	if (o->piece)
		xvm_lease_drop(o->piece);
	xvm_conn_release(c, 1);
}

static void forget_at_vm(struct xvm_offer *o)
{
	struct xvm_vm_ep *ep = xvm_vmep_find(o->vm, o->client, o->slot);

	if (ep && ep->offer == o) {
		ep->offer = NULL;
		xvm_vmep_tidy(o->vm, ep);
	}
	o->vm->n_offers--;
}

/* Out of all tables; the half is closed unless it was taken (-1). */
static void forget(struct xvm_daemon *d, struct xvm_offer *o)
{
	xvm_pairing_del(&d->pairing, o);
	xvm_list_del(&o->in_owner);
	if (o->vm)
		forget_at_vm(o);
	else
		forget_at_conn(o);
	free(o);
}

static void refuse(struct xvm_conn *c, uint32_t slot, uint32_t gen, uint32_t reason)
{
	c->d->n.refused++;
	xvm_conn_say(c, XVM_MSG_REFUSED, slot, gen, reason);
}

static void refuse_vm(struct xvm_vm *vm, uint32_t client, uint32_t slot, uint32_t gen,
		      uint32_t reason)
{
	struct xvm_letter l = {.type = XVM_LETTER_REFUSED,
			       .client = client,
			       .slot = slot,
			       .gen = gen,
			       .arg = reason};

	vm->group->d->n.refused++;
	xvm_relay_send(vm, &l);
}

static void refuse_offer(struct xvm_daemon *d, struct xvm_offer *o, uint32_t reason)
{
	if (o->vm)
		refuse_vm(o->vm, o->client, o->slot, o->gen, reason);
	else
		refuse(o->owner, o->slot, o->gen, reason);
	forget(d, o);
}

/* The namespace of an offered socket need not be its process's: follow it there too. */
static void follow(struct xvm_conn *c, int sock, uint64_t cookie)
{
	int i, room = -1;

	for (i = 0; i < XVM_CONN_NS_MAX; i++) {
		if (!c->ns[i])
			room = room < 0 ? i : room;
		else if (c->ns[i]->res->cookie == cookie)
			return;
	}
	if (room < 0)
		return;
	c->ns[room] = xvm_netns_of_sock(c->d, sock, cookie);
	if (c->ns[room])
		xvm_residency_publish(&c->d->residency, c->d->table);
}

static bool rule_allows(const struct xvm_offer *o)
{
	const struct xvm_conn *c = o->owner;

	if (o->vm)
		return xvm_conf_allows_vm(o->vm->group->d->conf, o->f.laddr, o->f.lport);
	return xvm_conf_allows(c->d->conf, c->uid, c->exe, o->f.laddr, o->f.lport);
}

/* Both are there: are they what they seem? */
static uint32_t judge(struct xvm_daemon *d, const struct xvm_offer *older,
		      const struct xvm_offer *newer, uint32_t *older_role, uint32_t *newer_role)
{
	struct xvm_where where;
	uint32_t reason;

	reason = xvm_pairing_judge(older, newer, older_role, newer_role);
	if (reason)
		return reason;
	/* Addresses may have moved while the older one waited. */
	reason = xvm_residency_peer(&d->residency, &older->f, &where);
	if (reason)
		return reason;
	if (!xvm_where_same(where, newer->f.where))
		return XVM_R_NOT_RESIDENT;
	return rule_allows(older) && rule_allows(newer) ? XVM_R_NONE : XVM_R_RULE;
}

/*
 * The tuple may be in use again, and the older socket gone, though its owner's word of that is
 * still to be read (or was lost, as where we did not read for long): its endpoint says so. One that
 * cannot be read, or lies, has itself to blame.
 */
static bool is_over(const struct xvm_offer *o)
{
	const struct xvm_conn *c = o->owner;
	struct xvm_shm_ep ep;

	return !o->vm && xvm_arenas_read(c->arena, o->slot, 1, &ep) == 1 &&
	       (ep.gen != o->gen || ep.state != XVM_EP_OFFERED);
}

static void match(struct xvm_daemon *d, struct xvm_offer *o, struct xvm_where where)
{
	struct xvm_offer *older = xvm_pairing_mirror(&d->pairing, &o->f, where);
	uint32_t older_role = 0, role = 0, reason;

	if (older && (older->vm ? older->vm->dead : ((struct xvm_conn *)older->owner)->dead))
		return;
	/* A socket that is connected to itself is its own mirror. */
	if (older == o) {
		refuse_offer(d, o, XVM_R_SELF);
		return;
	}
	if (!older)
		return;
	if (is_over(older)) {
		forget(d, older);
		return;
	}
	reason = judge(d, older, o, &older_role, &role);
	if (!reason)
		reason = xvm_pairs_make(d, older, older_role, o, role);
	if (reason) {
		/* By its counts the older is another connection's; this one's other end will come.
		 */
		refuse_offer(d, older, reason);
		if (reason != XVM_R_BAD_PEER)
			refuse_offer(d, o, reason);
		return;
	}
	forget(d, older);
	forget(d, o);
}

/* A half in a memfd is nothing that a VM could see, and one in a region only the VMs of its group.
 */
static bool medium_ok(struct xvm_daemon *d, struct xvm_where where, const struct xvm_piece *piece)
{
	const struct xvm_vm *vm;

	if (!where.vm || !piece)
		return !where.vm && !piece;
	vm = xvm_vms_find(d, where.vm);
	return vm && piece->book == &vm->group->book;
}

static uint32_t insert(struct xvm_conn *c, const struct xvm_msg *m, const struct xvm_facts *f,
		       int *half, struct xvm_piece *piece)
{
	struct xvm_daemon *d = c->d;
	struct xvm_offer *o;
	struct xvm_slot *s;
	struct xvm_where where;
	uint32_t reason;

	reason = xvm_residency_peer(&d->residency, f, &where);
	if (reason)
		return reason;
	if (!medium_ok(d, where, piece))
		return XVM_R_UNSUPPORTED;
	/* Tuples are used again: the older socket is gone, or is this very one. */
	o = xvm_pairing_same(&d->pairing, f);
	if (o)
		forget(d, o);
	s = xvm_arenas_slot(c->arena, m->slot);
	if (s && s->offer)
		forget(d, s->offer);
	/* Half the descriptors are for offers at most, so that there is always room to come in. */
	if (d->pairing.count >= XVM_OFFERS_MAX || d->pairing.count >= d->fds_max / 4 * 3 ||
	    c->n_offers >= XVM_OFFERS_CLIENT || c->n_offers >= d->fds_max / 2)
		return XVM_R_LIMIT;
	if (!xvm_conn_charge(c, 1))
		return XVM_R_LIMIT;
	o = calloc(1, sizeof(*o));
	s = o ? xvm_arenas_slot_make(c->arena, m->slot) : NULL;
	if (!s) {
		free(o);
		xvm_conn_release(c, 1);
		return XVM_R_NO_MEMORY;
	}
	o->f = *f;
	o->owner = c;
	o->slot = m->slot;
	o->gen = m->gen;
	o->role = m->arg;
	o->half = half ? *half : -1;
	if (half)
		*half = -1;
	if (piece) {
		o->piece = piece;
		o->off = piece->off;
		o->len = piece->len;
		xvm_lease_hold(piece);
	}
	s->offer = o;
	xvm_pairing_add(&d->pairing, o);
	xvm_list_add(&c->offers, &o->in_owner);
	c->n_offers++;
	match(d, o, where);
	return XVM_R_NONE;
}

/* The kernel's word about the socket, which is then closed. */
static uint32_t look_at(struct xvm_conn *c, const struct xvm_msg *m, int *sock, struct xvm_facts *f)
{
	uint32_t reason = xvm_offer_facts(*sock, f);

	if (!reason)
		follow(c, *sock, f->where.netns);
	/* At once: while we hold it, the program's close() sends no FIN. */
	xvm_fd_discard(*sock);
	*sock = -1;
	xvm_conn_say(c, XVM_MSG_SEEN, m->slot, m->gen, 0);
	return reason;
}

/* The half lies in memory that other kernels see: of a VM's device, or of a group of ours. */
static void offer_piece(struct xvm_conn *c, const struct xvm_msg *m, int *fds)
{
	bool guest = m->region < XVM_REGIONS_GUEST;
	uint32_t reason = XVM_R_LIMIT; /* the descriptor was lost */
	struct xvm_piece *piece;
	struct xvm_facts f;

	if (m->nfds == 1)
		reason = look_at(c, m, &fds[0], &f);
	if (guest) {
		reason = xvm_guest_offer(c, m, &f, reason);
	} else {
		/* Its group may have ended while this was on its way. */
		piece = xvm_share_piece(c, m);
		if (!reason && !piece)
			reason = XVM_R_NO_MEMORY;
		if (!reason)
			reason = insert(c, m, &f, NULL, piece);
		if (piece)
			xvm_lease_return(piece); /* now the offer's, and then the pair's */
	}
	if (reason)
		refuse(c, m->slot, m->gen, reason);
}

void xvm_offer_make(struct xvm_conn *c, const struct xvm_msg *m, int *fds)
{
	struct xvm_facts f;
	uint32_t reason;

	if (m->slot >= XVM_ARENA_EPS || m->arg > XVM_ROLE_PASSIVE) {
		xvm_conn_nonsense(c, "an offer of no such slot or role");
		return;
	}
	c->d->n.offers++;
	if (m->len) {
		offer_piece(c, m, fds);
		return;
	}
	/* Descriptors are lost on the way when our own table is full. */
	if (m->nfds != 2) {
		refuse(c, m->slot, m->gen, XVM_R_LIMIT);
		return;
	}
	if (!xvm_fd_is_memfd(fds[1])) {
		xvm_conn_nonsense(c, "a half that is no memfd");
		return;
	}
	reason = look_at(c, m, &fds[0], &f);
	if (!reason)
		reason = insert(c, m, &f, &fds[1], NULL);
	if (reason)
		refuse(c, m->slot, m->gen, reason);
}

void xvm_offer_withdraw(struct xvm_conn *c, uint32_t slot, uint32_t gen)
{
	struct xvm_slot *s = xvm_arenas_slot(c->arena, slot);

	/* It may have been paired or refused while this was on its way. */
	if (!s || !s->offer || s->offer->gen != gen)
		return;
	c->d->n.withdrawn++;
	forget(c->d, s->offer);
}

void xvm_offer_conn_gone(struct xvm_conn *c)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->offers)) {
		struct xvm_offer *o = xvm_container(n, struct xvm_offer, in_owner);

		if (o->piece)
			o->piece->loose = true;
		forget(c->d, o);
	}
}

/* ---- by letter -------------------------------------------------------- */

/* All that is the VM's word; its addresses were held against the tables. */
static void facts_of(const struct xvm_vm *vm, const struct xvm_letter *l, struct xvm_facts *f)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->laddr, l->laddr, 16);
	memcpy(f->raddr, l->raddr, 16);
	f->lport = l->lport;
	f->rport = l->rport;
	f->cookie = l->cookie;
	f->where.vm = vm->serial;
	f->acked = l->acked;
	f->received = l->received;
	f->outq = l->outq;
}

static uint32_t insert_vm(struct xvm_vm *vm, const struct xvm_letter *l)
{
	struct xvm_daemon *d = vm->group->d;
	struct xvm_where where;
	struct xvm_vm_ep *ep;
	struct xvm_offer *o;
	struct xvm_facts f;
	uint32_t reason;

	facts_of(vm, l, &f);
	reason = xvm_residency_peer(&d->residency, &f, &where);
	if (reason)
		return reason;
	o = xvm_pairing_same(&d->pairing, &f);
	if (o)
		forget(d, o);
	ep = xvm_vmep_find(vm, l->client, l->slot);
	if (ep && ep->offer)
		forget(d, ep->offer);
	if (d->pairing.count >= XVM_OFFERS_MAX || vm->n_offers >= XVM_OFFERS_CLIENT)
		return XVM_R_LIMIT;
	o = calloc(1, sizeof(*o));
	ep = o ? xvm_vmep_make(vm, l->client, l->slot) : NULL;
	if (!ep) {
		free(o);
		return XVM_R_NO_MEMORY;
	}
	o->f = f;
	o->vm = vm;
	o->client = l->client;
	o->slot = l->slot;
	o->gen = l->gen;
	o->role = l->role;
	o->half = -1;
	o->off = l->off;
	o->len = l->len;
	ep->offer = o;
	xvm_pairing_add(&d->pairing, o);
	xvm_list_add(&vm->offers, &o->in_owner);
	vm->n_offers++;
	match(d, o, where);
	return XVM_R_NONE;
}

void xvm_offer_from_vm(struct xvm_vm *vm, const struct xvm_letter *l)
{
	uint32_t reason;

	vm->group->d->n.offers++;
	reason = insert_vm(vm, l);
	if (reason)
		refuse_vm(vm, l->client, l->slot, l->gen, reason);
}

void xvm_offer_withdraw_vm(struct xvm_vm *vm, uint32_t client, uint32_t slot, uint32_t gen)
{
	struct xvm_vm_ep *ep = xvm_vmep_find(vm, client, slot);

	if (!ep || !ep->offer || ep->offer->gen != gen)
		return;
	vm->group->d->n.withdrawn++;
	forget(vm->group->d, ep->offer);
}

void xvm_offer_vm_gone(struct xvm_vm *vm)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &vm->offers))
		forget(vm->group->d, xvm_container(n, struct xvm_offer, in_owner));
}

void xvm_offer_group_gone(struct xvm_conn *c, const struct xvm_lease_book *book)
{
	struct xvm_list *n, *t;

	for (XVM_EACH(n, t, &c->offers)) {
		struct xvm_offer *o = xvm_container(n, struct xvm_offer, in_owner);

		if (o->piece && o->piece->book == book)
			refuse_offer(c->d, o, XVM_R_NOT_RESIDENT);
	}
}
