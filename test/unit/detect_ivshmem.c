/* SPDX-License-Identifier: Apache-2.0 */
/* The ivshmem server in this process, with QEMUs that are not: clients that keep the protocol, or
 * don't. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "detect/daemon.h"
#include "detect/fd.h"
#include "detect/log.h"
#include "detect/qemu.h"

#define VECTORS 3

static struct xvm_daemon d;
static struct xvm_group *g;
static int fds_before;

/* What a QEMU knows. */
struct qemu {
	int sock, mem;
	int64_t version, id;
	int vector[8][8], n[8]; /* of each peer */
	uint8_t *map;
};

static int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void step(void)
{
	int i;

	for (i = 0; i < 4; i++)
		ev_run(d.loop, EVRUN_NOWAIT);
}

static const struct xvm_conf_group small = {
	.name = "small", .size = 4 << 20, .vms = 3, .vectors = VECTORS};

static void setup(void)
{
	char err[256] = "";

	xvm_log_level(LOG_EMERG);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	d.conf = xvm_conf_parse("", 0, "", err, sizeof(err));
	cr_assert_eq(xvm_fd_init(), 0);
	cr_assert_eq(xvm_daemon_init(&d), 0);
	step();
	fds_before = open_fds();
	g = xvm_group_add(&d, &small, err, sizeof(err));
	cr_assert_not_null(g, "%s", err);
}

static void teardown(void)
{
	xvm_daemon_exit(&d);
	ev_loop_destroy(d.loop);
}

TestSuite(ivshmem, .init = setup, .fini = teardown, .timeout = 60);

static struct xvm_vm *connect_raw(int *sock, pid_t pid)
{
	int sv[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	*sock = sv[0];
	struct xvm_vm *vm = xvm_vm_join(g, sv[1], pid, getuid());

	if (!vm)
		close(sv[1]);
	return vm;
}

/* One message; -EAGAIN: there is none. The descriptor, or -1, in *fd. */
static int receive(int sock, int64_t *number, int *fd)
{
	struct iovec iov = {.iov_base = number, .iov_len = 8};
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} ctl;
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = ctl.buf,
			    .msg_controllen = sizeof(ctl)};
	ssize_t n = recvmsg(sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c;

	*fd = -1;
	if (n <= 0)
		return n ? -errno : -EPIPE;
	cr_assert_eq(n, 8);
	for (c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c))
		memcpy(fd, CMSG_DATA(c), sizeof(*fd));
	return 0;
}

/* Whatever there is, as a QEMU takes it. */
static void take_in(struct qemu *q)
{
	int64_t number;
	int fd;

	while (!receive(q->sock, &number, &fd)) {
		if (q->version < 0) {
			q->version = number;
			cr_assert_eq(fd, -1);
		} else if (q->id < 0) {
			q->id = number;
			cr_assert_eq(fd, -1);
		} else if (number == -1) {
			cr_assert_geq(fd, 0);
			cr_assert_eq(q->mem, -1, "the region comes once");
			q->mem = fd;
		} else if (fd >= 0) {
			cr_assert(number >= 0 && number < 8);
			cr_assert_geq(q->mem, 0, "the region comes before the peers");
			cr_assert_lt(q->n[number], VECTORS, "more vectors than it has");
			q->vector[number][q->n[number]++] = fd;
		} else {
			cr_assert_fail("QEMU 7.2 does not survive to hear that %d is gone",
				       (int)number);
		}
	}
}

static struct qemu join(void)
{
	struct qemu q = {.version = -1, .id = -1, .mem = -1};

	cr_assert_not_null(connect_raw(&q.sock, getpid()));
	step();
	take_in(&q);
	return q;
}

static void leave(struct qemu *q)
{
	int i;

	close(q->sock);
	if (q->mem >= 0)
		close(q->mem);
	for (i = 0; i < 8; i++)
		while (q->n[i])
			close(q->vector[i][--q->n[i]]);
	q->mem = -1;
	step();
}

static uint32_t state(uint32_t peer)
{
	return xvm_region_header(&g->region)->peer[peer].state;
}

Test(ivshmem, a_vm_is_introduced)
{
	struct qemu a = join();
	struct xvm_region seen;
	struct stat st;
	int seals;
	void *map;

	cr_assert_eq(a.version, 0);
	cr_assert_eq(a.id, 1);
	cr_assert_eq(a.n[0], VECTORS, "the host is a peer");
	cr_assert_eq(a.n[1], VECTORS);
	cr_assert_eq(a.n[2], 0);
	cr_assert_eq(fstat(a.mem, &st), 0);
	cr_assert_eq(st.st_size, 4 << 20);
	seals = fcntl(a.mem, F_GET_SEALS);
	cr_assert_eq(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
		     F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	cr_assert_neq(ftruncate(a.mem, 4096), 0);
	map = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, a.mem, 0);
	cr_assert_neq(map, MAP_FAILED, "a VM writes");
	cr_assert_eq(xvm_region_open(&seen, map, st.st_size), 0);
	cr_assert_eq(seen.peers, 4);
	cr_assert_eq(seen.vectors, VECTORS);
	cr_assert_eq(seen.generation, g->region.generation);
	cr_assert_eq(state(0), XVM_PEER_UP);
	cr_assert_eq(state(1), XVM_PEER_JOINED);
	munmap(map, st.st_size);
	leave(&a);
}

Test(ivshmem, peers_hear_of_each_other)
{
	struct qemu a = join(), b = join(), c = join();
	uint64_t n = 1;

	take_in(&a);
	take_in(&b);
	cr_assert_eq(a.n[2], VECTORS);
	cr_assert_eq(a.n[3], VECTORS);
	cr_assert_eq(b.n[1], VECTORS);
	cr_assert_eq(c.n[1], VECTORS);
	/* What a rings b by is what b is rung by. */
	cr_assert_eq(write(a.vector[2][1], &n, 8), 8);
	cr_assert_eq(read(b.vector[2][1], &n, 8), 8);
	cr_assert_eq(read(b.vector[2][0], &n, 8), -1);
	cr_assert_eq(read(c.vector[3][1], &n, 8), -1);
	cr_assert_eq(write(a.vector[2][2], &n, 8), 8);
	leave(&b);
	take_in(&a);
	cr_assert_eq(state(2), XVM_PEER_FREE);
	/* Another with the same number is rung by the same eventfds, and not for what was before.
	 */
	b = join();
	cr_assert_eq(b.id, 2);
	cr_assert_eq(read(b.vector[2][2], &n, 8), -1);
	take_in(&a);
	cr_assert_eq(a.n[2], VECTORS);
	n = 1;
	cr_assert_eq(write(a.vector[2][1], &n, 8), 8);
	cr_assert_eq(read(b.vector[2][1], &n, 8), 8);
	leave(&a);
	leave(&b);
	leave(&c);
	cr_assert_eq(g->n_vms, 0);
}

static uint32_t rung[8], gone[8];
static void (*gone_too)(struct xvm_vm *vm);

static void on_rung(struct xvm_vm *vm)
{
	rung[vm->peer]++;
}

static void on_gone(struct xvm_vm *vm)
{
	gone[vm->peer]++;
	gone_too(vm);
}

Test(ivshmem, the_host_is_rung_and_rings)
{
	struct qemu a = join(), b = join();
	uint64_t n = 1, news;

	d.groups.rung = on_rung;
	cr_assert_eq(write(a.vector[0][0], &n, 8), 8);
	step();
	cr_assert_eq(rung[1], 1);
	cr_assert_eq(rung[2], 0, "we know who it was");
	step();
	cr_assert_eq(rung[1], 1, "once");
	news = xvm_region_header(&g->region)->peer[2].news;
	xvm_vm_ring(g->vm[2]);
	cr_assert_eq(xvm_region_header(&g->region)->peer[2].news, news + 1);
	cr_assert_eq(read(b.vector[2][0], &n, 8), 8);
	/* Vectors of the host's processes are one for all. */
	cr_assert_eq(write(a.vector[0][1], &n, 8), 8);
	cr_assert_eq(read(b.vector[0][1], &n, 8), 8);
	leave(&a);
	leave(&b);
}

Test(ivshmem, an_eventfd_that_its_qemu_has_made_blocking_and_full)
{
	struct qemu a = join();
	uint64_t n = ~0ull - 1;

	cr_assert_eq(write(a.vector[1][0], &n, 8), 8);
	fcntl(a.vector[1][0], F_SETFL, 0);
	xvm_vm_ring(g->vm[1]);
	d.groups.rung = on_rung;
	fcntl(a.vector[0][0], F_SETFL, 0);
	xvm_fd_drain(g->vm[1]->bell);
	leave(&a);
	cr_assert_eq(g->n_vms, 0);
}

Test(ivshmem, a_group_is_full)
{
	struct qemu a = join(), b = join(), c = join();
	int sock;

	cr_assert_null(connect_raw(&sock, 1));
	leave(&a);
	a = join();
	cr_assert_eq(a.id, 1);
	leave(&a);
	leave(&b);
	leave(&c);
}

Test(ivshmem, an_arena_stays_as_long_as_it_is_read)
{
	struct qemu a = join(), b = join();
	struct xvm_vm *vm = g->vm[1];
	uint32_t gen = vm->gen;

	memset(g->region.map + xvm_region_arena(&g->region, 1), 7, g->region.arena_size);
	gone_too = d.groups.gone;
	d.groups.gone = on_gone;
	xvm_vm_hold(vm);
	leave(&a);
	cr_assert_eq(gone[1], 1);
	cr_assert_eq(state(1), XVM_PEER_GONE);
	cr_assert_eq(g->region.map[xvm_region_arena(&g->region, 1) + 5], 7);
	a = join();
	cr_assert_eq(a.id, 3, "another number");
	cr_assert_eq(g->vm[1], vm);
	xvm_vm_release(vm);
	step();
	cr_assert_eq(state(1), XVM_PEER_FREE);
	cr_assert_null(g->vm[1]);
	cr_assert_eq(g->region.map[xvm_region_arena(&g->region, 1) + 5], 0, "given back");
	leave(&a);
	a = join();
	cr_assert_eq(a.id, 1);
	cr_assert_eq(g->vm[1]->gen, gen + 1);
	leave(&a);
	leave(&b);
}

Test(ivshmem, qemus_that_speak)
{
	struct qemu a = join(), b = join();
	int null = open("/dev/null", O_RDONLY);

	cr_assert_eq(send(a.sock, "hello", 5, 0), 5);
	step();
	cr_assert_eq(g->n_vms, 1);
	take_in(&b);
	leave(&a);
	/* Flooding, with a descriptor. */
	while (send(b.sock, &null, 4, MSG_DONTWAIT) == 4)
		;
	step();
	cr_assert_eq(g->n_vms, 0);
	leave(&b);
	close(null);
}

Test(ivshmem, a_qemu_that_dies_in_the_middle)
{
	struct qemu a = {.version = -1, .id = -1, .mem = -1};
	struct qemu b = join();
	int i, size = 1;

	for (i = 0; i < 20; i++) {
		struct xvm_vm *vm = connect_raw(&a.sock, getpid());

		cr_assert_not_null(vm);
		/* It reads nothing, and the server is stuck somewhere in its introduction. */
		setsockopt(vm->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		step();
		take_in(&b);
		cr_assert_eq(b.n[vm->peer], VECTORS);
		close(a.sock);
		step();
		take_in(&b);
		cr_assert_eq(g->n_vms, 1);
	}
	leave(&b);
}

Test(ivshmem, a_qemu_that_stands_still_while_others_come_and_go)
{
	struct qemu a = {.version = -1, .id = -1, .mem = -1}, b, c;
	struct xvm_vm *vm = connect_raw(&a.sock, getpid());
	int i, fds;

	b = join();
	c = join();
	leave(&c);
	take_in(&b);
	fds = open_fds();
	for (i = 0; i < 3000; i++) {
		c = join();
		cr_assert_neq(c.id, -1);
		leave(&c);
		take_in(&b);
	}
	cr_assert_eq(open_fds(), fds, "nothing piles up");
	cr_assert(!vm->dead, "and it may stand as long as it likes");
	c = join();
	/* When it goes on it finds out what is true now, however old the rest was. */
	for (i = 0; i < 3000; i++) {
		take_in(&a);
		step();
	}
	cr_assert_eq(a.id, 1);
	cr_assert_eq(a.n[0], VECTORS);
	cr_assert_eq(a.n[1], VECTORS);
	cr_assert_eq(a.n[b.id], VECTORS);
	cr_assert_eq(a.n[c.id], VECTORS);
	leave(&a);
	leave(&b);
	leave(&c);
}

Test(ivshmem, nothing_is_left)
{
	struct qemu a = join(), b = join();
	uint32_t fds;

	xvm_vm_hold(g->vm[1]);
	leave(&a);
	leave(&b);
	fds = d.fds;
	xvm_group_del(g);
	cr_assert_eq(open_fds(), fds_before);
	cr_assert_lt(d.fds, fds);
	cr_assert_eq(d.fds, 1, "the namespace's netlink socket");
}

/* ---- the socket and the configuration ---------------------------------- */

static char dir[] = "/tmp/xvm-unit-ivshmem-XXXXXX";

static bool configure(const char *text)
{
	char err[256] = "";
	struct xvm_conf *c = xvm_conf_parse(text, strlen(text), "f", err, sizeof(err));

	cr_assert_not_null(c, "%s", err);
	xvm_conf_free(d.conf);
	d.conf = c;
	return xvm_groups_apply(&d);
}

static bool configure_in_dir(const char *name, const char *rest)
{
	char text[256];

	snprintf(text, sizeof(text), "group %s socket %s/%s size 2M peers 1 vectors 2 %s\n", name,
		 dir, name, rest);
	return configure(text);
}

static int dial(const char *name)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%s", dir, name);
	if (connect(fd, (void *)&sa, sizeof(sa))) {
		close(fd);
		return -1;
	}
	return fd;
}

Test(ivshmem, groups_by_configuration)
{
	struct qemu q = {.version = -1, .id = -1, .mem = -1};
	struct qemu r = {.version = -1, .id = -1, .mem = -1};
	struct xvm_group *a;
	char path[64];

	xvm_group_del(g);
	cr_assert_not_null(mkdtemp(dir));
	cr_assert(configure_in_dir("a", ""));
	a = xvm_group_find(&d, "a");
	cr_assert_not_null(a);
	q.sock = dial("a");
	cr_assert_geq(q.sock, 0);
	step();
	take_in(&q);
	cr_assert_eq(q.id, 1);
	cr_assert_eq(a->vm[1]->pid, getpid());
	r.sock = dial("a");
	step();
	cr_assert_eq(receive(r.sock, &r.version, &r.mem), 0, "full: turned away, not left waiting");
	cr_assert_eq(r.version, -1, "by a version that QEMU refuses");
	cr_assert_eq(receive(r.sock, &r.id, &r.mem), -EPIPE);
	close(r.sock);

	cr_assert(configure_in_dir("a", "user 7"));
	cr_assert_eq(a->conf.uid, 7);
	cr_assert(!configure_in_dir("a", "hugepages"), "not under its VMs");
	cr_assert(!a->conf.hugepages);
	cr_assert_eq(xvm_group_find(&d, "a"), a);

	/* No longer configured: it ends with its last VM. */
	cr_assert(configure_in_dir("b", ""));
	cr_assert_eq(xvm_group_find(&d, "a"), a);
	cr_assert_not_null(xvm_group_find(&d, "b"));
	leave(&q);
	cr_assert_null(xvm_group_find(&d, "a"));
	cr_assert_lt(dial("a"), 0);
	cr_assert(configure(""));
	cr_assert(xvm_list_empty(&d.groups.all));
	snprintf(path, sizeof(path), "%s", dir);
	cr_assert_eq(rmdir(path), 0, "sockets and locks are removed");
	cr_assert_eq(open_fds(), fds_before);
}

Test(ivshmem, a_socket_that_cannot_be_had)
{
	char path[128];

	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a", dir);
	cr_assert_eq(mkdir(path, 0700), 0);
	cr_assert(!configure_in_dir("a", ""));
	cr_assert_null(xvm_group_find(&d, "a"));
	rmdir(path);
	rmdir(dir);
}

Test(ivshmem, huge_pages)
{
	struct xvm_conf_group conf = small;
	char err[256] = "";
	struct xvm_group *h;
	struct qemu q;

	snprintf(conf.name, sizeof(conf.name), "huge");
	conf.hugepages = true;
	h = xvm_group_add(&d, &conf, err, sizeof(err));
	/* Most machines have none in their pool: then it says so. */
	if (!h) {
		cr_assert_not_null(strstr(err, "huge pages"), "%s", err);
		return;
	}
	g = h;
	q = join();
	memset(h->region.map + xvm_region_arena(&h->region, 1), 7, h->region.arena_size);
	leave(&q);
	q = join();
	cr_assert_eq(xvm_region_peer_box(&h->region, (uint32_t)q.id)->head, 0);
	leave(&q);
	xvm_group_del(h);
}

Test(ivshmem, users_that_may_not_join)
{
	pid_t pid;
	int status;

	if (getuid() != 0)
		return;
	xvm_group_del(g);
	cr_assert_not_null(mkdtemp(dir));
	chmod(dir, 0755);
	cr_assert(configure_in_dir("a", "user 4243"));
	pid = fork();
	if (!pid) {
		bool denied, allowed;
		int64_t n;
		int fd;

		if (setresuid(4242, 4242, 0))
			_exit(9);
		fd = dial("a");
		seteuid(0);
		step();
		denied = !receive(fd, &n, &status) && n == -1;
		close(fd);
		seteuid(4243);
		fd = dial("a");
		seteuid(0);
		step();
		allowed = !receive(fd, &n, &status) && !n;
		_exit(!denied * 1 + !allowed * 2);
	}
	waitpid(pid, &status, 0);
	cr_assert_eq(status, 0, "%x", status);
	configure("");
	rmdir(dir);
}

/* ---- whose taps --------------------------------------------------------- */

static void fdinfo(const char *proc, int pid, const char *name, const char *text)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%d", proc, pid);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/%d/fdinfo", proc, pid);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/%d/fdinfo/%s", proc, pid, name);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

Test(ivshmem, taps_of_a_process)
{
	char proc[] = "/tmp/xvm-unit-proc-XXXXXX", tap[4][16], cmd[128];

	cr_assert_not_null(mkdtemp(proc));
	fdinfo(proc, 7, "0", "pos:\t0\nflags:\t02\nmnt_id:\t15\n");
	fdinfo(proc, 7, "11", "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t9\niff:\ttap1\n");
	fdinfo(proc, 7, "12", "pos:\t0\niff:\ttap0\n");
	fdinfo(proc, 7, "13", "pos:\t0\niff:\ttap1\n");
	fdinfo(proc, 7, "14", "pos:\t0\nxiff:\ttap3\nother:\tiff:\ttap4\n");
	fdinfo(proc, 7, "15", "pos:\t0\niff:\ta-name-that-is-too-long\n");
	fdinfo(proc, 7, "16", "pos:\t0\niff:\t\n");
	cr_assert_eq(xvm_qemu_taps(proc, 7, tap, 4), 2);
	cr_assert_str_eq(tap[0], "tap0");
	cr_assert_str_eq(tap[1], "tap1");
	cr_assert_eq(xvm_qemu_taps(proc, 7, tap, 1), 1);
	cr_assert_eq(xvm_qemu_taps(proc, 8, tap, 4), -ENOENT);
	cr_assert_eq(xvm_qemu_taps("/proc", getpid(), tap, 4), 0);
	cr_assert(!xvm_qemu_macvtap(proc, 7));
	snprintf(cmd, sizeof(cmd), "cd %s/7 && mkdir fd && ln -s /dev/tapestry fd/1", proc);
	cr_assert_eq(system(cmd), 0);
	cr_assert(!xvm_qemu_macvtap(proc, 7));
	snprintf(cmd, sizeof(cmd), "ln -s /dev/tap12 %s/7/fd/2", proc);
	cr_assert_eq(system(cmd), 0);
	cr_assert(xvm_qemu_macvtap(proc, 7));
	snprintf(cmd, sizeof(cmd), "rm -r %s", proc);
	cr_assert_eq(system(cmd), 0);
}
