/* SPDX-License-Identifier: Apache-2.0 */
/* The shim's two directions without the rest of it: what the rest would do, for a test that links
 * just what CMakeLists.txt names. */
#ifndef XVM_TEST_SHIM_ALONE_H
#define XVM_TEST_SHIM_ALONE_H

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "shim/announce.h"
#include "shim/epoll.h"
#include "shim/fault.h"
#include "shim/link.h"
#include "shim/process.h"
#include "shim/stream.h"
#include "shim/vm.h"

struct xvm_conf xvm_conf = {.ring_size = 4096};
uint32_t xvm_forks;
_Atomic(const struct xvm_shm_table *) xvm_link_table;
uint64_t xvm_link_seen;
uint32_t xvm_link_id;
_Atomic bool xvm_link_regions;
_Atomic uint32_t xvm_link_count;

void xvm_epoll_changed(struct xvm_sock *s)
{
}
void xvm_announce_one(struct xvm_waker *w, struct xvm_sock *s)
{
}
void xvm_epoll_tracked(struct xvm_sock *sock, int f)
{
}
bool xvm_epoll_release(struct xvm_sock *sock)
{
	return false;
}
void xvm_epoll_closing(struct xvm_sock *s, int fd)
{
}
void xvm_epoll_dispose(struct xvm_file *f)
{
}
void xvm_link_handle(void)
{
}
static enum xvm_reason link_is = XVM_R_NO_DAEMON; /* NONE: up */
enum xvm_reason xvm_link_up(void)
{
	return link_is;
}
static unsigned link_offers;
int xvm_link_offer(struct xvm_sock *s, int fd, int half_fd, uint64_t off, uint32_t len)
{
	link_offers += link_is == XVM_R_NONE;
	return link_is == XVM_R_NONE ? 0 : -ENOTCONN;
}
void xvm_link_look(void)
{
}
static uint32_t link_returned; /* bytes */
void xvm_link_return(uint32_t slot, uint32_t gen, unsigned region, uint64_t off, uint32_t len)
{
	link_returned += len;
}
int xvm_vm_make(unsigned region, uint32_t len, struct xvm_half *h, uint64_t *off)
{
	return -ENODEV;
}
static bool vm_told, vm_kept; /* what a daemon has said */
bool xvm_vm_told(unsigned region, bool *kept)
{
	*kept = vm_kept;
	return vm_told;
}
void xvm_vm_unmake(unsigned region, struct xvm_half *h, uint64_t off)
{
}
uint8_t xvm_user_avx;
void xvm_fault_install(void)
{
}
void xvm_link_drop(uint32_t slot, uint32_t gen, bool paired)
{
}
bool xvm_link_ring(struct xvm_peer *p, unsigned index, uint64_t seq)
{
	return false;
}
void xvm_link_peer_put(struct xvm_peer *p)
{
}
bool xvm_fd_spare(void)
{
	return true;
}
int xvm_fd_hide(int fd)
{
	return fd;
}
void xvm_fd_unhide_close(int fd)
{
	close(fd);
}
uint64_t xvm_cookie(int f)
{
	return 0;
}
bool xvm_held_elsewhere(int f)
{
	return false;
}
bool xvm_link_lost(void)
{
	return false;
}
void xvm_link_lapsed(struct xvm_sock *s)
{
}
bool xvm_has_uring(void)
{
	return false;
}
bool xvm_in_vfork(void)
{
	return false;
}
int xvm_pid(void)
{
	return getpid();
}
bool xvm_init(void)
{
	return true;
}
void xvm_log(int level, const char *fmt, ...)
{
}
void xvm_waker_ring_for(const struct xvm_sock *s)
{
}

struct xvm_waker *xvm_waker_get(void)
{
	return NULL;
}
void xvm_waker_put(struct xvm_waker *w)
{
}
void xvm_waker_drain(struct xvm_waker *w)
{
}
uint64_t xvm_spin_budget(void)
{
	return 0;
}
void xvm_spin_won(uint64_t ns)
{
}
void xvm_spin_slept(uint64_t ns)
{
}
uint64_t xvm_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

#endif
