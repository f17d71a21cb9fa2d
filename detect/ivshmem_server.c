/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/ivshmem_server.h"
#include "detect/log.h"
#include "detect/qemu.h"

#define PROTOCOL 0  /* its version */
#define MEMORY (-1) /* the number that comes with the region */

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/* The introduction, in the order that the protocol prescribes. */
enum { SAY_VERSION, SAY_NUMBER, SAY_MEMORY, SAY_PEERS, SAY_OWN, INTRODUCED };

/* ---- telling a VM ----------------------------------------------------- */

static int say(struct xvm_vm *vm, int64_t number, int fd)
{
	int64_t wire = (int64_t)htole64((uint64_t)number);
	struct iovec iov = {.iov_base = &wire, .iov_len = sizeof(wire)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct cmsghdr *c;
	ssize_t n;

	if (fd >= 0) {
		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = ctl.buf;
		mh.msg_controllen = sizeof(ctl.buf);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	do {
		n = sendmsg(vm->fd, &mh, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n == sizeof(wire) ? 0 : -EIO; /* a stream of Unix takes 8 bytes or none */
}

/* The eventfd by which vm rings that vector of a peer. */
static int bell_of(const struct xvm_vm *vm, uint32_t peer, uint32_t vector)
{
	const struct xvm_group *g = vm->group;

	if (peer != XVM_PEER_HOST)
		return g->peer_vector[peer][vector];
	/* One for each VM, so that we know who rang and have whom to blame. */
	return vector == XVM_VECTOR_MAIL ? vm->bell : g->vector[vector];
}

/* One message about a peer: 1 if one was sent, 0 if vm knows all, or a negative errno. */
static int tell_peer(struct xvm_vm *vm, uint32_t peer)
{
	int ret;

	if (peer != XVM_PEER_HOST && !vm->group->peer_vector[peer])
		return 0; /* nobody has ever had this number */
	if (vm->told[peer] == vm->group->region.vectors)
		return 0;
	ret = say(vm, peer, bell_of(vm, peer, vm->told[peer]));
	if (ret)
		return ret;
	vm->told[peer]++;
	return 1;
}

static int tell_peers(struct xvm_vm *vm)
{
	uint32_t i;
	int ret = 0;

	for (i = 0; i < vm->group->region.peers && !ret; i++)
		if (i != vm->peer)
			ret = tell_peer(vm, i);
	return ret;
}

/* One message, whatever is due: as tell_peer(). */
static int tell(struct xvm_vm *vm)
{
	switch (vm->stage) {
	case SAY_VERSION:
		return say(vm, PROTOCOL, -1);
	case SAY_NUMBER:
		return say(vm, vm->peer, -1);
	case SAY_MEMORY:
		return say(vm, MEMORY, vm->group->mem_fd);
	case SAY_OWN:
		return tell_peer(vm, vm->peer);
	default:
		return tell_peers(vm);
	}
}

static void tell_all(struct xvm_vm *vm)
{
	int ret;

	if (vm->dead)
		return;
	for (;;) {
		ret = tell(vm);
		if (ret == -EAGAIN) {
			ev_io_start(vm->group->d->loop, &vm->wr);
			return;
		}
		if (ret < 0) {
			xvm_vm_leave(vm,
				     ret == -EPIPE || ret == -ECONNRESET ? NULL : strerror(-ret));
			return;
		}
		if (ret)
			continue;
		if (vm->stage == INTRODUCED)
			break;
		vm->stage++;
	}
	ev_io_stop(vm->group->d->loop, &vm->wr);
}

static void tell_others(struct xvm_group *g, const struct xvm_vm *but)
{
	uint32_t i;

	for (i = 1; i < g->region.peers; i++)
		if (g->vm[i] && g->vm[i] != but)
			tell_all(g->vm[i]);
}

/* ---- hearing from it -------------------------------------------------- */

static void on_readable(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_vm *vm = w->data;
	char c;
	/* A peek: what was sent might have descriptors with it, and closing them is no joke. */
	ssize_t n = recv(vm->fd, &c, 1, MSG_DONTWAIT | MSG_PEEK);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	xvm_vm_leave(vm, n > 0 ? "it speaks, and a QEMU does not" : NULL);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int events)
{
	tell_all(w->data);
}

static void on_bell(struct ev_loop *loop, ev_io *w, int events)
{
	struct xvm_vm *vm = w->data;

	xvm_fd_drain(vm->bell);
	if (vm->group->d->groups.rung)
		vm->group->d->groups.rung(vm);
}

void xvm_vm_ring(struct xvm_vm *vm)
{
	struct xvm_group *g = vm->group;

	if (vm->dead)
		return;
	atomic_store_explicit(&xvm_group_row(g, vm->peer)->news, ++g->news[vm->peer],
			      memory_order_release);
	xvm_fd_ring(vm->vector[XVM_VECTOR_MAIL]);
}

void xvm_vm_state(struct xvm_vm *vm, uint32_t state, uint32_t flags)
{
	xvm_group_show(vm->group, vm->peer, state, flags);
}

/* ---- whose it is ------------------------------------------------------ */

static bool still_alive(const struct xvm_vm *vm)
{
	return vm->pidfd < 0 || !syscall(SYS_pidfd_send_signal, vm->pidfd, 0, NULL, 0) ||
	       errno != ESRCH;
}

/* The names are of its own network namespace: in another they would be somebody else's. */
static bool in_our_namespace(const struct xvm_vm *vm)
{
	const struct xvm_ns *own = vm->group->d->netns.own;
	char path[40];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/net", vm->pid);
	return own && !stat(path, &st) && st.st_dev == own->dev && st.st_ino == own->ino;
}

bool xvm_vm_find_taps(struct xvm_vm *vm)
{
	char tap[XVM_VM_TAPS_MAX][16];
	int n = -ESRCH;

	memset(tap, 0, sizeof(tap));
	vm->no_taps = "QEMU is in another network namespace than xvmd";
	if (in_our_namespace(vm)) {
		n = xvm_qemu_taps("/proc", vm->pid, tap, XVM_VM_TAPS_MAX);
		vm->no_taps = n < 0 ? "xvmd may not look at QEMU's files"
			      : xvm_qemu_macvtap("/proc", vm->pid)
				      ? "QEMU has a macvtap, which is on no bridge"
				      : "QEMU has no tap open";
	}
	/* After the look: what was seen of a number that is another process's by now is not its. */
	if (n < 0 || !still_alive(vm))
		n = 0;
	if ((uint32_t)n == vm->n_taps && !memcmp(tap, vm->tap, n * sizeof(tap[0])))
		return false;
	memcpy(vm->tap, tap, sizeof(tap));
	vm->n_taps = n;
	return true;
}

static int open_pidfd(int fd, pid_t pid)
{
	int pidfd = -1;
	socklen_t len = sizeof(pidfd);

	/* A test's likeness of a QEMU has no socket that knows who is at its other end. */
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len))
		return pidfd;
	return pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

/* ---- coming and going ------------------------------------------------- */

#define FDS_OF_VM 3 /* its socket, its bell, its pidfd */

static bool take_number(struct xvm_group *g, uint32_t *peer)
{
	uint32_t i, n = g->region.peers - 1;

	for (i = 0; i < n; i++) {
		*peer = 1 + (g->next + i) % n;
		if (!g->vm[*peer]) {
			g->next = *peer % n;
			return true;
		}
	}
	return false;
}

/* Those of a number last as long as the group. What the last VM was rung for is nothing to this
 * one. */
static int take_vectors(struct xvm_group *g, uint32_t peer)
{
	uint32_t i, n = g->region.vectors;
	int *v = g->peer_vector[peer];

	for (i = 0; v && i < n; i++)
		xvm_fd_drain(v[i]);
	if (v)
		return 0;
	v = calloc(n, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		v[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (v[i] < 0)
			goto out_close;
	}
	g->peer_vector[peer] = v;
	g->d->fds += n;
	return 0;

out_close:
	while (i)
		close(v[--i]);
	free(v);
	return -EMFILE;
}

static int make_bells(struct xvm_vm *vm)
{
	int ret = take_vectors(vm->group, vm->peer);

	if (ret)
		return ret;
	vm->vector = vm->group->peer_vector[vm->peer];
	vm->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return vm->bell >= 0 ? 0 : -errno;
}

static void watch(struct xvm_vm *vm)
{
	ev_io_init(&vm->rd, on_readable, vm->fd, EV_READ);
	ev_io_init(&vm->wr, on_writable, vm->fd, EV_WRITE);
	ev_io_init(&vm->bell_io, on_bell, vm->bell, EV_READ);
	vm->rd.data = vm->wr.data = vm->bell_io.data = vm;
	ev_io_start(vm->group->d->loop, &vm->rd);
	ev_io_start(vm->group->d->loop, &vm->bell_io);
}

static void unwatch(struct xvm_vm *vm)
{
	ev_io_stop(vm->group->d->loop, &vm->rd);
	ev_io_stop(vm->group->d->loop, &vm->wr);
	ev_io_stop(vm->group->d->loop, &vm->bell_io);
}

struct xvm_vm *xvm_vm_join(struct xvm_group *g, int fd, pid_t pid, uid_t uid)
{
	struct xvm_daemon *d = g->d;
	struct xvm_vm *vm;
	uint32_t peer;

	if (g->doomed || d->fds + FDS_OF_VM + g->region.vectors > d->fds_max ||
	    !take_number(g, &peer))
		return NULL;
	vm = calloc(1, sizeof(*vm));
	if (!vm)
		return NULL;
	vm->group = g;
	vm->peer = peer;
	vm->fd = fd;
	vm->pid = pid;
	vm->uid = uid;
	vm->gen = ++g->gen[peer];
	vm->serial = ++d->groups.next_serial;
	vm->pidfd = -1;
	xvm_list_init(&vm->claims);
	xvm_list_init(&vm->offers);
	xvm_list_init(&vm->ends);
	xvm_list_init(&vm->reading);
	vm->bell = -1;
	if (make_bells(vm) || (d->groups.joined && d->groups.joined(vm))) {
		if (vm->bell >= 0)
			close(vm->bell);
		free(vm);
		return NULL;
	}
	vm->pidfd = open_pidfd(fd, pid);
	xvm_group_wipe(g, peer);
	g->vm[peer] = vm;
	g->n_vms++;
	d->fds += FDS_OF_VM;
	xvm_vm_find_taps(vm);
	watch(vm);
	xvm_group_show(g, peer, XVM_PEER_JOINED, 0);
	xvm_log(LOG_NOTICE, "group %s: VM %u (pid %d) has come", g->conf.name, peer, pid);
	tell_all(vm);
	tell_others(g, vm);
	return vm;
}

void xvm_vm_leave(struct xvm_vm *vm, const char *why)
{
	if (vm->dead)
		return;
	vm->dead = true;
	if (why)
		xvm_log(LOG_WARNING, "group %s: VM %u (pid %d) is cut off: %s",
			vm->group->conf.name, vm->peer, vm->pid, why);
	unwatch(vm);
	/* The rest when the loop comes round: whoever is about it now need not care. */
	vm->group->d->groups.any_dead = true;
	vm->buried = false;
}

void xvm_vm_hold(struct xvm_vm *vm)
{
	vm->readers++;
}

void xvm_vm_release(struct xvm_vm *vm)
{
	if (!--vm->readers && vm->dead)
		vm->group->d->groups.any_dead = true;
}

/* Its number and memory are free. */
void xvm_vm_forget(struct xvm_group *g, uint32_t peer)
{
	xvm_group_wipe(g, peer);
	xvm_group_show(g, peer, XVM_PEER_FREE, 0);
	if (g->d->groups.forgotten)
		g->d->groups.forgotten(g->vm[peer]);
	free(g->vm[peer]);
	g->vm[peer] = NULL;
}

static void bury(struct xvm_vm *vm)
{
	struct xvm_group *g = vm->group;

	vm->buried = true;
	xvm_group_show(g, vm->peer, XVM_PEER_GONE, 0);
	xvm_log(LOG_NOTICE, "group %s: VM %u (pid %d) has gone", g->conf.name, vm->peer, vm->pid);
	if (g->d->groups.gone)
		g->d->groups.gone(vm);
	close(vm->bell);
	if (vm->pidfd >= 0)
		close(vm->pidfd);
	xvm_fd_discard(vm->fd);
	g->d->fds -= FDS_OF_VM;
	g->n_vms--;
}

void xvm_vm_reap(struct xvm_group *g)
{
	uint32_t i;

	for (i = 1; i < g->region.peers; i++) {
		if (!g->vm[i] || !g->vm[i]->dead)
			continue;
		if (!g->vm[i]->buried)
			bury(g->vm[i]);
		if (!g->vm[i]->readers)
			xvm_vm_forget(g, i);
	}
}
