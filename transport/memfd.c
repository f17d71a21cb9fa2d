/* SPDX-License-Identifier: Apache-2.0 */
#include "transport/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "transport/sys.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

/*
 * Each seal protects somebody. SHRINK: the reader, from SIGBUS. FUTURE_WRITE: the writer from
 * its peer, and the reader from holes punched into the file, as filling them may fail. GROW and
 * SEAL leave nothing to be changed afterwards.
 */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)

static int map_fd(int fd, size_t len, int prot, void **map)
{
	long addr = xvm_sys(SYS_mmap, 0, len, prot, MAP_SHARED, fd, 0);

	if (xvm_sys_failed(addr))
		return (int)addr;
	*map = (void *)addr;
	return 0;
}

int xvm_memfd_map(int fd, size_t len, void **map)
{
	return map_fd(fd, len, PROT_READ, map);
}

void xvm_memfd_unmap(void *map, size_t len)
{
	xvm_sys(SYS_munmap, map, len);
}

int xvm_memfd_make(const char *name, size_t len, void **map)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	struct rlimit rl;
	int fd, err;

	/* Beyond it ftruncate would raise SIGXFSZ in a program that writes no file. */
	if (!xvm_sys(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, &rl) && len > rl.rlim_cur)
		return -EFBIG;

	/* vm.memfd_noexec may insist on the flag, and kernels before 6.3 do not know it. */
	fd = (int)xvm_sys(SYS_memfd_create, name, flags | MFD_NOEXEC_SEAL);
	if (fd == -EINVAL)
		fd = (int)xvm_sys(SYS_memfd_create, name, flags);
	if (fd < 0)
		return fd;

	/* A memfd is born 0777, and can be opened again through /proc by whoever may look there. */
	err = (int)xvm_sys(SYS_fchmod, fd, 0600);
	if (!err)
		err = (int)xvm_sys(SYS_ftruncate, fd, len);
	if (err)
		goto out_close;
	err = map_fd(fd, len, PROT_READ | PROT_WRITE, map);
	if (err)
		goto out_close;
	err = (int)xvm_sys(SYS_fcntl, fd, F_ADD_SEALS, SEALS);
	if (err)
		goto out_unmap;
	return fd;

out_unmap:
	xvm_memfd_unmap(*map, len);
out_close:
	xvm_sys(SYS_close, fd);
	return err;
}

int64_t xvm_memfd_judge(int fd)
{
	struct statfs fs;
	struct stat st;
	long seals, err;

	seals = xvm_sys(SYS_fcntl, fd, F_GET_SEALS);
	if (seals == -EINVAL)
		return -EPERM;
	if (seals < 0)
		return seals;
	if ((seals & SEALS) != SEALS)
		return -EPERM;

	/* Huge pages can be sealed as well, but run out: then a read faults. */
	err = xvm_sys(SYS_fstatfs, fd, &fs);
	if (err)
		return err;
	if (fs.f_type != TMPFS_MAGIC)
		return -EPERM;

	err = xvm_sys(SYS_fstat, fd, &st);
	if (err)
		return err;
	return st.st_size;
}
