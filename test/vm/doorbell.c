/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iv_doorbell: what a guest can do with an ivshmem device's interrupts.
 *
 *   facts                  with vfio-pci and an IOMMU, ivserver.py as peer 0
 *   life                   what becomes of the device as its users come and go
 *   unplug                 what it sees when the host takes the device away
 *   send PEER VECTOR       rings, by sysfs
 *   ping PEER ROUNDS       how long a doorbell takes to a guest that runs pong, and back
 *   pong PEER ROUNDS
 *   tcp-ping ADDR ROUNDS   the same by TCP, on port 7200
 *   tcp-pong ADDR ROUNDS
 */
#include <grp.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>

#include "ivshmem.h"

#define VECTORS 4
#define WORD 0x12345678
#define HOST 0 /* peer that rings back */

static struct iv_dev dev;
static struct iv_vfio v;
static volatile uint32_t *reg;

static uint64_t taken(int efd)
{
	uint64_t n = 0;

	NEED(read(efd, &n, sizeof(n)) == sizeof(n));
	return n;
}

static int new_event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

/* The host rings back within this; so long is waited for what must not come. */
#define SOON_MS 500

static void arrives(int efd, const char *what)
{
	ASSUME(assume_poll(efd, POLLIN, 20 * SOON_MS) == POLLIN, "%s: no interrupt", what);
	if (assume_poll(efd, POLLIN, 0))
		taken(efd);
}

static void does_not_arrive(int efd, const char *what)
{
	ASSUME(assume_poll(efd, POLLIN, SOON_MS) == 0, "%s: an interrupt", what);
}

static sigjmp_buf fault;

static void on_fault(int sig)
{
	siglongjmp(fault, sig);
}

/* The signal that reading P raises, or 0. */
static int faults(volatile char *p)
{
	int sig = sigsetjmp(fault, 1);

	if (!sig)
		(void)*p;
	return sig;
}

static void *map_sysfs(int prot)
{
	int fd = iv_open(&dev, "resource2", prot & PROT_WRITE ? O_RDWR : O_RDONLY);
	void *p;

	NEED(fd >= 0);
	p = mmap(NULL, dev.len[2], prot, MAP_SHARED, fd, 0);
	close(fd);
	return p;
}

static void interrupts(int *efd)
{
	int other = new_event(), none = -1;

	assume_where = "interrupts";
	printf("vectors %u; flags of BAR0 %x, of BAR2 %x (1 read, 2 write, 4 mmap)\n", v.vectors,
	       v.bar0.flags, v.bar2.flags);
	ASSUME(v.vectors == VECTORS, "%u vectors", v.vectors);
	for (int i = 0; i < VECTORS; i++)
		efd[i] = new_event();
	NEED(!iv_vfio_irqs(v.device, 0, VECTORS, efd));

	iv_ring(reg, HOST, 0);
	does_not_arrive(efd[0], "before bus mastering");
	iv_vfio_master(&v);
	does_not_arrive(efd[0], "the one from before, late");
	for (int i = 0; i < VECTORS; i++) {
		iv_ring(reg, HOST, i);
		arrives(efd[i], "from the host");
	}
	iv_ring(reg, reg[IV_POSITION / 4], 1);
	arrives(efd[1], "from oneself");

	/* One vector gets another eventfd, as a process comes and goes; the others don't notice. */
	NEED(!iv_vfio_irqs(v.device, 2, 1, &other));
	iv_ring(reg, HOST, 2);
	arrives(other, "on the new eventfd");
	does_not_arrive(efd[2], "on the old eventfd");
	NEED(!iv_vfio_irqs(v.device, 2, 1, &none));
	iv_ring(reg, HOST, 2);
	does_not_arrive(other, "on no eventfd");
	iv_ring(reg, HOST, 3);
	arrives(efd[3], "on another vector");
	NEED(!iv_vfio_irqs(v.device, 2, 1, &efd[2]));
	iv_ring(reg, HOST, 2);
	arrives(efd[2], "on the old eventfd again");
	close(other);
}

/* Runs in another process, as nobody, who was passed the device: what it can do. */
static void guest_of_the_device(int sock)
{
	uint16_t command;
	int fd, e = new_event();
	char *p;

	assume_where = "the device's descriptor, passed to nobody";
	NEED(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
	fd = iv_receive(sock);
	p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, (off_t)v.bar2.offset + 4096);
	ASSUME(p != MAP_FAILED && !memcmp(p, "part", 4), "a part is not readable");
	/* Here is no bound to what it may do. */
	ASSUME(!mprotect(p, 8192, PROT_READ | PROT_WRITE), "cannot be made writable");
	ASSUME(pread(fd, &command, 2, (off_t)v.config.offset + 4) == 2 &&
		       pwrite(fd, &command, 2, (off_t)v.config.offset + 4) == 2,
	       "config space is not its own");
	ASSUME(!iv_vfio_irqs(fd, 1, 1, &e), "interrupts are not its own");
	iv_ring(reg, HOST, 1);
	arrives(e, "on nobody's eventfd");
}

/* In which ways BAR2 can be mapped, and which way takes it from the other. */
static void mappings(int efd1)
{
	int sock[2], status;
	char *before = map_sysfs(PROT_READ | PROT_WRITE), *ours, *ro;
	pid_t pid;

	assume_where = "mappings";
	/* vfio-pci has the device, is open, has its interrupts: sysfs still maps the memory. */
	ASSUME(before != MAP_FAILED, "not by sysfs");
	memcpy(before + 4096, "part", 4);
	NEED(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock));
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		guest_of_the_device(sock[1]);
		_exit(assume_failed != 0);
	}
	iv_pass(sock[0], v.device);
	NEED(waitpid(pid, &status, 0) == pid);
	ASSUME(status == 0, "%x", (unsigned)status);
	NEED(!iv_vfio_irqs(v.device, 1, 1, &efd1));

	/* It mapped BAR2 by vfio, which so has claimed it: with CONFIG_IO_STRICT_DEVMEM sysfs is
	 * out, now and for mappings that there were. */
	status = faults(before + 4096);
	ro = map_sysfs(PROT_READ);
	ASSUME(status == SIGBUS, "a mapping from before: %s", status ? strsignal(status) : "stays");
	ASSUME(ro == MAP_FAILED && errno == EINVAL, "a new one can be made by sysfs");
	ours = mmap(NULL, v.bar2.size, PROT_READ | PROT_WRITE, MAP_SHARED, v.device,
		    (off_t)v.bar2.offset);
	ASSUME(ours != MAP_FAILED && !memcmp(ours + 4096, "part", 4), "not by vfio");
}

/* As with the memory: what vfio has touched is lost for sysfs. */
static void registers(int efd2)
{
	uint32_t word;
	int sig;

	assume_where = "registers";
	NEED(pread(v.device, &word, 4, (off_t)v.bar0.offset + IV_POSITION) == 4);
	ASSUME(word >= 1 && word <= 3, "%u is not a peer of ours", word);
	word = HOST << 16 | 2;
	NEED(pwrite(v.device, &word, 4, (off_t)v.bar0.offset + IV_DOORBELL) == 4);
	arrives(efd2, "rung by vfio");
	sig = faults((volatile char *)reg);
	ASSUME(sig == SIGBUS, "a mapping by sysfs from before: %s", sig ? strsignal(sig) : "stays");
}

static void facts(void)
{
	int efd[VECTORS];

	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	iv_vfio_open(&dev, &v);
	interrupts(efd);
	mappings(efd[1]);
	registers(efd[2]);
}

/* ---- whose life the device depends on ---- */

/* Opens the device, wires vector 0 and passes device and eventfd on; then waits to be killed. */
static pid_t opener(int sock)
{
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		int e = new_event();

		iv_vfio_open(&dev, &v);
		iv_vfio_master(&v);
		NEED(!iv_vfio_irqs(v.device, 0, 1, &e));
		iv_pass(sock, v.device);
		iv_pass(sock, e);
		for (;;)
			pause();
	}
	return pid;
}

/* A processor learns a little later than the others that the memory is back: that is SETTLING. */
enum phase { OPENING, OPEN, CLOSING, CLOSED, SETTLING, PHASES };

/* Shared with a reader of the memory, which counts the reads that were wrong. */
struct watch {
	_Atomic int phase;
	_Atomic unsigned long reads[PHASES], wrong[PHASES];
};

static pid_t reader(volatile uint32_t *word, struct watch *w)
{
	pid_t pid = fork();

	NEED(pid >= 0);
	while (pid == 0) {
		int phase = w->phase;
		uint32_t value = *word;

		/* What a phase's end cuts in two says nothing of either. */
		if (w->phase != phase)
			continue;
		w->reads[phase]++;
		w->wrong[phase] += value != WORD;
	}
	return pid;
}

/* Until the reader has looked some more. */
static void looked(struct watch *w, enum phase phase)
{
	unsigned long now;

	w->phase = phase;
	now = w->reads[phase];
	while (w->reads[phase] < now + 100)
		sched_yield();
}

static void life(void)
{
	volatile uint32_t *word = map_sysfs(PROT_READ | PROT_WRITE);
	struct watch *w =
		mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int sock[2], device, efd, fd, status;
	uint16_t command;
	pid_t pid, r;

	assume_where = "the opener was killed, another process has the device";
	NEED(word != MAP_FAILED && w != MAP_FAILED);
	*word = WORD;
	NEED(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock));
	pid = opener(sock[0]);
	device = iv_receive(sock[1]);
	efd = iv_receive(sock[1]);
	iv_ring(reg, HOST, 0);
	arrives(efd, "first");
	NEED(!kill(pid, SIGKILL) && waitpid(pid, &status, 0) == pid);
	iv_ring(reg, HOST, 0);
	arrives(efd, "afterwards");
	fd = iv_vfio_group(&dev);
	ASSUME(fd < 0 && errno == EBUSY,
	       "the group can be opened again while another has the device");
	close(device);
	iv_ring(reg, HOST, 0);
	does_not_arrive(efd, "after the last close");
	close(efd);
	fd = iv_open(&dev, "config", O_RDONLY);
	NEED(pread(fd, &command, 2, 4) == 2);
	close(fd);
	ASSUME((command & 6) == 2, "command register after the last close: %04x", command);
	ASSUME(*word == WORD, "the memory reads %x", *word);

	assume_where = "memory while vfio opens and closes";
	r = reader(word, w);
	for (int i = 0; i < 20; i++) {
		w->phase = OPENING;
		pid = opener(sock[0]);
		device = iv_receive(sock[1]);
		efd = iv_receive(sock[1]);
		looked(w, SETTLING);
		looked(w, OPEN);
		NEED(!kill(pid, SIGKILL) && waitpid(pid, &status, 0) == pid);
		looked(w, OPEN);
		w->phase = CLOSING;
		close(device);
		close(efd);
		looked(w, SETTLING);
		looked(w, CLOSED);
	}
	NEED(!kill(r, SIGKILL) && waitpid(r, &status, 0) == r);
	printf("wrong reads of the memory, vfio opening: %lu, open: %lu, closing: %lu, closed: "
	       "%lu\n",
	       w->wrong[OPENING], w->wrong[OPEN], w->wrong[CLOSING], w->wrong[CLOSED]);
	/* And right reads there were. */
	ASSUME(w->wrong[OPEN] + w->wrong[CLOSED] == 0 && w->reads[OPEN] && w->reads[CLOSED],
	       "wrong at other times");
}

/* The host takes the device away. The guest's kernel asks whoever has it by vfio, and waits. */
static void unplug(void)
{
	volatile uint32_t *word = map_sysfs(PROT_READ | PROT_WRITE);
	int e = new_event(), sig = 0;
	char buf[sizeof(struct vfio_irq_set) + sizeof(int)] = {0};
	struct vfio_irq_set *set = (struct vfio_irq_set *)buf;

	assume_where = "unplugged";
	NEED(word != MAP_FAILED);
	*word = WORD;
	iv_vfio_open(&dev, &v);
	set->argsz = sizeof(buf);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = VFIO_PCI_REQ_IRQ_INDEX;
	set->count = 1;
	memcpy(set->data, &e, sizeof(e));
	NEED(!ioctl(v.device, VFIO_DEVICE_SET_IRQS, set));
	puts("ready");
	ASSUME(assume_poll(e, POLLIN, 60000) == POLLIN, "not asked");
	puts("asked");
	ASSUME(*word == WORD, "the memory reads %x", *word);
	ASSUME(iv_present(&dev), "gone already");
	close(v.device);
	close(v.group);
	close(v.container);
	for (int i = 0; i < 3000 && iv_present(&dev); i++)
		assume_poll(e, 0, 10);
	ASSUME(!iv_present(&dev), "still there");
	/* QEMU takes it off a little later. */
	for (int i = 0; i < 3000 && !(sig = faults((volatile char *)word)) && *word; i++)
		assume_poll(e, 0, 10);
	/* No signal tells a process that its memory is gone: it reads zeros, and its writes are
	 * lost. */
	ASSUME(sig == 0 && *word == 0, "a mapping from before: %s", sig ? strsignal(sig) : "reads");
}

/* ---- times ---- */

static int by_number(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void say_times(const char *what, uint64_t *ns, unsigned rounds)
{
	qsort(ns, rounds, sizeof(*ns), by_number);
	printf("%s: round trip median %.0f us, 5%% below %.0f us, 95%% below %.0f us\n", what,
	       ns[rounds / 2] / 1e3, ns[rounds / 20] / 1e3, ns[rounds - 1 - rounds / 20] / 1e3);
}

static void doorbells(unsigned peer, unsigned rounds, bool first)
{
	uint64_t *ns = calloc(rounds, sizeof(*ns)), start, ringing = 0;
	int efd = new_event();

	NEED(ns);
	iv_vfio_open(&dev, &v);
	iv_vfio_master(&v);
	NEED(!iv_vfio_irqs(v.device, 0, 1, &efd));
	puts("ready");
	for (unsigned i = 0; i < rounds; i++) {
		start = iv_now();
		if (first)
			iv_ring(reg, peer, 0);
		ringing += iv_now() - start;
		taken(efd);
		if (!first)
			iv_ring(reg, peer, 0);
		ns[i] = iv_now() - start;
	}
	if (first)
		say_times("doorbell", ns, rounds),
			printf("ringing it: %.1f us\n", ringing / 1e3 / rounds);
	free(ns);
}

static void segments(const char *addr, unsigned rounds, bool first)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(7200)};
	uint64_t *ns = calloc(rounds, sizeof(*ns)), start;
	int s = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char byte = 0;

	NEED(ns && inet_pton(AF_INET, addr, &sa.sin_addr) == 1);
	if (first) {
		NEED(!connect(s, (struct sockaddr *)&sa, sizeof(sa)));
	} else {
		NEED(!bind(s, (struct sockaddr *)&sa, sizeof(sa)) && !listen(s, 1));
		s = accept(s, NULL, NULL);
	}
	NEED(!setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
	for (unsigned i = 0; i < rounds; i++) {
		start = iv_now();
		NEED(!first || write(s, &byte, 1) == 1);
		NEED(read(s, &byte, 1) == 1);
		NEED(first || write(s, &byte, 1) == 1);
		ns[i] = iv_now() - start;
	}
	if (first)
		say_times("TCP segment", ns, rounds);
	free(ns);
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 3 && !strncmp(cmd, "tcp-", 4)) {
		segments(argv[2], atoi(argv[3]), !strcmp(cmd, "tcp-ping"));
		return 0;
	}
	iv_find(&dev);
	reg = iv_registers(&dev);
	if (!strcmp(cmd, "facts"))
		facts();
	else if (!strcmp(cmd, "life"))
		life();
	else if (!strcmp(cmd, "unplug"))
		unplug();
	else if (!strcmp(cmd, "send") && argc > 3)
		iv_ring(reg, atoi(argv[2]), atoi(argv[3]));
	else if (!strcmp(cmd, "id"))
		printf("%u\n", reg[IV_POSITION / 4]);
	else if ((!strcmp(cmd, "ping") || !strcmp(cmd, "pong")) && argc > 3)
		doorbells(atoi(argv[2]), atoi(argv[3]), cmd[1] == 'i');
	else
		return 2;
	return assume_failed != 0;
}
