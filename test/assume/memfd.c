/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Halves (design section 7): a memfd with the seals SHRINK, GROW, FUTURE_WRITE and SEAL stays
 * writable through the mapping that its owner made before, cannot be mapped writable by
 * whoever receives it, cannot be cut under its reader, and is gone when nobody maps it.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "assume.h"

#define SIZE (1 << 20)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

static void seals(void)
{
	int fd = memfd_create("assume", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	char *w, *r, *x;

	assume_where = "seals";
	NEED(fd >= 0 && !ftruncate(fd, SIZE));
	w = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(w != MAP_FAILED);
	w[0] = 1;
	NEED(!fcntl(fd, F_ADD_SEALS, SEALS));
	ASSUME(fcntl(fd, F_GET_SEALS) == SEALS, "%x", fcntl(fd, F_GET_SEALS));
	w[0] = 2; /* a mapping that was there keeps its right */
	w[SIZE - 1] = 3;
	r = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSUME(r != MAP_FAILED && r[0] == 2 && r[SIZE - 1] == 3, "cannot be read");
	x = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSUME(x == MAP_FAILED && errno == EPERM, "can be mapped writable");
	ASSUME(mprotect(r, SIZE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES,
	       "can be made writable");
	ASSUME(write(fd, "x", 1) < 0 && errno == EPERM, "can be written");
	ASSUME(ftruncate(fd, 0) < 0 && errno == EPERM, "can be cut");
	ASSUME(ftruncate(fd, SIZE * 2) < 0 && errno == EPERM, "can be extended");
	ASSUME(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0 &&
		       errno == EPERM,
	       "can be punched");
	ASSUME(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM, "can be sealed further");
	munmap(r, SIZE);
	close(fd);
	munmap(w, SIZE);
}

/* A peer that opens the descriptor anew through /proc gets no more than the seals allow. */
static void reopened(void)
{
	int fd = memfd_create("assume", MFD_CLOEXEC | MFD_ALLOW_SEALING), again;
	char path[64], *w;

	assume_where = "opened again";
	NEED(fd >= 0 && !ftruncate(fd, SIZE));
	w = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(w != MAP_FAILED && !fcntl(fd, F_ADD_SEALS, SEALS));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	NEED(again >= 0);
	ASSUME(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0) == MAP_FAILED,
	       "writable");
	ASSUME(write(again, "x", 1) < 0, "can be written");
	close(again);
	close(fd);
	munmap(w, SIZE);
}

/* A fork writes through the mapping that it inherited. What its parent sees is one memory. */
static void forked(void)
{
	int fd = memfd_create("assume", MFD_CLOEXEC | MFD_ALLOW_SEALING), status;
	volatile char *w;
	pid_t pid;

	assume_where = "fork";
	NEED(fd >= 0 && !ftruncate(fd, SIZE));
	w = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(w != MAP_FAILED && !fcntl(fd, F_ADD_SEALS, SEALS));
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		w[7] = 7;
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	ASSUME(status == 0 && w[7] == 7, "a fork cannot write: %x", (unsigned)status);
	close(fd);
	munmap((void *)w, SIZE);
}

static long shmem_kb(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/self/status", "re");

	NEED(f);
	while (fgets(line, sizeof(line), f))
		sscanf(line, "RssShmem: %ld", &kb);
	fclose(f);
	return kb;
}

/* Pages come when they are touched, and go with the last mapping. The descriptor is not needed. */
static void costs_what_is_touched(void)
{
	int fd = memfd_create("assume", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;
	char *w;

	assume_where = "cost";
	NEED(fd >= 0 && !ftruncate(fd, 16 << 20));
	w = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(w != MAP_FAILED && !fstat(fd, &st));
	ASSUME(st.st_blocks == 0, "%lld blocks before anything was touched",
	       (long long)st.st_blocks);
	w[5 << 20] = 1;
	NEED(!fstat(fd, &st));
	ASSUME(st.st_blocks * 512 <= 2 << 20, "%lld blocks for one byte", (long long)st.st_blocks);
	close(fd);
	w[6 << 20] = 1;
	memset(w, 1, 16 << 20);
	ASSUME(shmem_kb() >= 16 << 10, "%ld kB", shmem_kb());
	munmap(w, 16 << 20);
	ASSUME(shmem_kb() < 16 << 10, "%ld kB", shmem_kb());
}

int main(void)
{
	seals();
	reopened();
	forked();
	costs_what_is_touched();
	return assume_end();
}
