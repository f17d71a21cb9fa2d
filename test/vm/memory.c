/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iv_memory: what the memory of an ivshmem device is like for programs in a guest. Where a FILE is
 * named, it is mapped instead: the host's side.
 *
 *   where                            prints the device's address on the PCI bus
 *   peek OFFSET LEN [FILE]           prints what lies there
 *   poke OFFSET TEXT [FILE]
 *   facts                            needs debugfs
 *   speed                            memcpy(), against ordinary memory
 *   fences 0|1 ROUNDS [FILE]         one of two that play Dekker; 0 judges
 */
#include <grp.h>
#include <linux/futex.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "ivshmem.h"

#define BIG (8u << 20)

static struct iv_dev dev;

static char *memory(const char *file)
{
	int fd = file ? open(file, O_RDWR | O_CLOEXEC) : iv_open(&dev, "resource2", O_RDWR);
	struct stat st;
	char *p;

	NEED(fd >= 0 && !fstat(fd, &st));
	p = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(p != MAP_FAILED);
	close(fd);
	return p;
}

/* ---- facts ---- */

static sigjmp_buf fault;

static void on_fault(int sig)
{
	siglongjmp(fault, sig);
}

/* A process of another user, that was given the descriptor, may do what it was opened for. */
static void given(int read_only)
{
	int sock[2], status;
	pid_t pid;

	NEED(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock));
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		char path[64], *p;
		int fd;

		assume_where = "given to nobody";
		NEED(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
		fd = iv_receive(sock[1]);
		/* A part, not the whole. */
		p = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 4096);
		ASSUME(p != MAP_FAILED && !memcmp(p, "part", 4), "not readable");
		ASSUME(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED &&
			       errno == EACCES,
		       "writable");
		ASSUME(mprotect(p, 4096, PROT_READ | PROT_WRITE) && errno == EACCES,
		       "can be made writable");
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		ASSUME(open(path, O_RDWR | O_CLOEXEC) < 0 && errno == EACCES, "can be opened anew");
		ASSUME(iv_open(&dev, "resource2", O_RDONLY) < 0 && errno == EACCES,
		       "anybody may open it");
		_exit(assume_failed != 0);
	}
	iv_pass(sock[0], read_only);
	NEED(waitpid(pid, &status, 0) == pid);
	ASSUME(status == 0, "%x", (unsigned)status);
	close(sock[0]);
	close(sock[1]);
}

/* As the kernel has it: "uncached-minus" and the like. Maps NAME, and says what it has become. */
static void memory_type(const char *name, const char *want)
{
	int fd = iv_open(&dev, name, O_RDWR);
	char line[200], type[100] = "none";
	uint64_t start = 0, end = 0;
	char *p;
	FILE *f;

	NEED(fd >= 0);
	p = mmap(NULL, dev.len[2], PROT_READ, MAP_SHARED, fd, 0);
	NEED(p != MAP_FAILED);
	f = fopen("/sys/kernel/debug/x86/pat_memtype_list", "re");
	NEED(f);
	while (fgets(line, sizeof(line), f)) {
		char word[100];

		if (sscanf(line, "PAT: [mem 0x%lx-0x%lx] %99s", &start, &end, word) == 3 &&
		    start == dev.start[2])
			strcpy(type, word);
	}
	fclose(f);
	ASSUME(!strcmp(type, want), "%s: %s", name, type);
	munmap(p, dev.len[2]);
	close(fd);
}

static void facts(void)
{
	int rw = iv_open(&dev, "resource2", O_RDWR), ro = iv_open(&dev, "resource2", O_RDONLY);
	int pipes[2], sig;
	char *p, command[2];
	uint32_t *word;

	assume_where = "sysfs";
	NEED(rw >= 0 && ro >= 0);
	/* Firmware has turned it on; nobody need write to `enable`. */
	sig = iv_open(&dev, "config", O_RDONLY);
	NEED(pread(sig, command, 2, 4) == 2);
	ASSUME(command[0] & 2, "memory is not decoded: %x", (unsigned)command[0]);
	close(sig);

	memory_type("resource2", "uncached-minus");
	memory_type("resource2_wc", "write-combining");

	p = mmap(NULL, dev.len[2], PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0);
	NEED(p != MAP_FAILED);
	memcpy(p + 4096, "part", 4);
	given(ro);

	/* System calls take its pages as any buffer. */
	NEED(!pipe(pipes));
	ASSUME(write(pipes[1], p + 4096, 4) == 4 && read(pipes[0], p + 4200, 4) == 4 &&
		       !memcmp(p + 4200, "part", 4),
	       "not for read() and write()");
	/* But the kernel has no struct page for them: no lock may lie there. */
	word = (uint32_t *)(p + 8192);
	ASSUME(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0) < 0 && errno == EFAULT,
	       "a shared futex works");
	ASSUME(atomic_fetch_add((_Atomic uint32_t *)word, 1) + 1 == *word, "no atomics");

	/* Past its end is a fault, not other memory. */
	ASSUME(mmap(NULL, 4096, PROT_READ, MAP_SHARED, rw, (off_t)dev.len[2]) == MAP_FAILED,
	       "can be mapped past its end");
	signal(SIGBUS, on_fault);
	signal(SIGSEGV, on_fault);
	sig = sigsetjmp(fault, 1);
	if (!sig)
		*(volatile char *)(p + dev.len[2] - 1) = 1;
	ASSUME(!sig, "its last byte faults");
	munmap(p, dev.len[2]);
}

/* ---- speed ---- */

static void copy(const char *what, char *to, const char *from)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 8; i++) {
		uint64_t start = iv_now(), took;

		memcpy(to, from, BIG);
		took = iv_now() - start;
		best = took < best ? took : best;
	}
	printf("memcpy %s: %.2f GB/s\n", what, (double)BIG / best);
}

static void speed(void)
{
	char *bar = memory(NULL), *a = malloc(BIG), *b = malloc(BIG);

	NEED(a && b && dev.len[2] >= BIG);
	memset(a, 1, BIG);
	memset(b, 2, BIG);
	copy("memory to memory", a, b);
	copy("memory to BAR", bar, b);
	copy("BAR to memory", a, bar);
	free(a);
	free(b);
}

/* ---- fences ---- */

/*
 * Each writes its own word, fences, and reads the other's. That both miss the other's write is what
 * the fences are there to rule out; a ring's sleeper and its waker would both go wrong.
 */
struct side {
	_Atomic uint64_t round; /* which it is ready for */
	char pad[56];
	_Atomic uint64_t mine;
	char pad2[56];
	_Atomic uint64_t missed; /* in its last round: 1 + whether it missed the other's */
	char pad3[56];
};

static void fences(unsigned me, uint64_t rounds, const char *file)
{
	struct side *s = (struct side *)(memory(file) + 64 * 1024);
	struct side *own = &s[me], *other = &s[!me];
	uint64_t both = 0, seen, misses = 0;

	for (uint64_t i = 1; i <= rounds; i++) {
		atomic_store_explicit(&own->round, i, memory_order_release);
		while (atomic_load_explicit(&other->round, memory_order_acquire) < i)
			;
		atomic_store_explicit(&own->mine, i, memory_order_relaxed);
		atomic_thread_fence(memory_order_seq_cst);
		seen = atomic_load_explicit(&other->mine, memory_order_relaxed);
		misses += seen < i;
		atomic_store_explicit(&own->missed, i * 2 + (seen < i), memory_order_release);
		do {
			seen = atomic_load_explicit(&other->missed, memory_order_acquire);
		} while (seen < i * 2);
		/* The other may not go on until own->round says so. */
		both += (seen & 1) && (atomic_load(&own->missed) & 1);
	}
	printf("missed the other's write in %lu of %lu rounds, both missed in %lu\n", misses,
	       rounds, both);
	ASSUME(both == 0, "fences do not work across guests: %lu", both);
}

int main(int argc, char **argv)
{
	const char *cmd = argc > 1 ? argv[1] : "";
	const char *file = argc > 4 ? argv[4] : NULL;

	if (!file)
		iv_find(&dev);
	if (!strcmp(cmd, "where")) {
		puts(dev.bdf);
	} else if (!strcmp(cmd, "facts")) {
		facts();
	} else if (!strcmp(cmd, "speed")) {
		speed();
	} else if (!strcmp(cmd, "peek") && argc > 3) {
		fwrite(memory(file) + atoi(argv[2]), 1, atoi(argv[3]), stdout);
	} else if (!strcmp(cmd, "poke") && argc > 3) {
		memcpy(memory(file) + atoi(argv[2]), argv[3], strlen(argv[3]));
	} else if (!strcmp(cmd, "fences") && argc > 3) {
		fences(atoi(argv[2]), atoll(argv[3]), file);
	} else {
		return 2;
	}
	return assume_failed != 0;
}
