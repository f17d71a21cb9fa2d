/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "detect/ivshmem_device.h"
#include "detect/log.h"
#include "detect/vfio.h"

#define DEVICES "/sys/bus/pci/devices"
#define VENDOR 0x1af4
#define DEVICE 0x1110
#define REG_POSITION 8
#define REG_DOORBELL 12
#define REG_LEN 16

struct place {
	const char *root;
	char dir[300]; /* of the device, in sysfs */
};

static int fail(struct xvm_ivshmem *v, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static int fail(struct xvm_ivshmem *v, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->why, sizeof(v->why), fmt, ap);
	va_end(ap);
	return err;
}

/* ---- sysfs ------------------------------------------------------------ */

static int open_at(const struct place *p, const char *name, int flags)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	return open(path, flags | O_CLOEXEC);
}

static bool read_at(const struct place *p, const char *name, char *text, size_t len)
{
	int fd = open_at(p, name, O_RDONLY);
	ssize_t n = -1;

	if (fd >= 0) {
		n = read(fd, text, len - 1);
		close(fd);
	}
	text[n < 0 ? 0 : n] = 0;
	text[strcspn(text, "\n")] = 0;
	return n >= 0;
}

static int write_path(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static int write_at(const struct place *p, const char *name, const char *text)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	return write_path(path, text);
}

/* The last part of where a link leads. */
static bool link_at(const struct place *p, const char *name, char *text, size_t len)
{
	char path[400], to[400];
	const char *last;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	n = readlink(path, to, sizeof(to) - 1);
	if (n <= 0)
		return false;
	to[n] = 0;
	last = strrchr(to, '/');
	snprintf(text, len, "%.*s", (int)len - 1, last ? last + 1 : to);
	return true;
}

static void place_of(struct place *p, const char *root, const char *bdf)
{
	p->root = root;
	snprintf(p->dir, sizeof(p->dir), "%.200s" DEVICES "/%.15s", root, bdf);
}

static bool is_ours(const struct place *p)
{
	char vendor[32], device[32];

	return read_at(p, "vendor", vendor, sizeof(vendor)) &&
	       read_at(p, "device", device, sizeof(device)) &&
	       strtoul(vendor, NULL, 16) == VENDOR && strtoul(device, NULL, 16) == DEVICE;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

uint32_t xvm_ivshmem_find(const char *root, char bdf[][16], uint32_t max)
{
	char path[300];
	struct dirent *e;
	struct place p;
	uint32_t n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "%.200s" DEVICES, root);
	dir = opendir(path);
	while (dir && n < max && (e = readdir(dir))) {
		if (*e->d_name == '.' || strlen(e->d_name) > 15)
			continue;
		place_of(&p, root, e->d_name);
		if (is_ours(&p))
			snprintf(bdf[n++], 16, "%.15s", e->d_name);
	}
	if (dir)
		closedir(dir);
	/* The order of numbers that programs get to see. */
	qsort(bdf, n, 16, by_name);
	return n;
}

/* ---- vfio ------------------------------------------------------------- */

static int bind_driver(struct xvm_ivshmem *v, const struct place *p)
{
	char driver[64], path[300];
	int ret;

	if (link_at(p, "driver", driver, sizeof(driver))) {
		if (!strcmp(driver, "vfio-pci"))
			return 0;
		return fail(v, -EBUSY, "the driver %.40s has the device", driver);
	}
	ret = write_at(p, "driver_override", "vfio-pci");
	if (ret)
		return fail(v, ret, "cannot bind vfio-pci: %s", strerror(-ret));
	snprintf(path, sizeof(path), "%.200s/sys/bus/pci/drivers_probe", p->root);
	ret = write_path(path, v->bdf);
	if (!link_at(p, "driver", driver, sizeof(driver))) {
		/* Left as it was: another driver may be meant for it. */
		write_at(p, "driver_override", "\n");
		return fail(v, -ENODEV,
			    "vfio-pci does not take the device: is the module loaded (modprobe "
			    "vfio-pci), and is there an IOMMU?");
	}
	return ret;
}

/* v->vfio, or why not. */
static int open_vfio(struct xvm_ivshmem *v, const struct place *p, bool in_use, bool noiommu)
{
	char group[64], path[300];
	bool iommu = link_at(p, "iommu_group", group, sizeof(group)), without;
	int ret;

	if (!iommu && !noiommu)
		return fail(v, -ENODEV,
			    "there is no IOMMU: give the VM one (xvm vm-args), and its kernel "
			    "intel_iommu=on or the like");
	if (in_use)
		return fail(v, -EBUSY,
			    "programs use the memory since before xvmd was started: it takes "
			    "another start when they have ended");
	ret = bind_driver(v, p);
	if (ret)
		return ret;
	if (!link_at(p, "iommu_group", group, sizeof(group)))
		return fail(v, -ENODEV, "vfio-pci has made no group of it");
	snprintf(path, sizeof(path), "%.200s/dev/vfio/%.20s", p->root, group);
	without = access(path, F_OK) != 0;
	if (without)
		snprintf(path, sizeof(path), "%.200s/dev/vfio/noiommu-%.20s", p->root, group);
	if (without && !noiommu)
		return fail(v, -EPERM, "%.60s is not there", path);
	ret = xvm_vfio_open(p->root, path, v->bdf, without, &v->vfio);
	if (ret == -EBUSY)
		return fail(v, ret, "somebody else has it open by vfio");
	return ret ? fail(v, ret, "vfio: %s", strerror(-ret)) : 0;
}

/* ---- opening ---------------------------------------------------------- */

static int map_registers(struct xvm_ivshmem *v, const struct place *p)
{
	char line[128];
	long page = sysconf(_SC_PAGESIZE);

	/* The BAR is smaller than a page, and may begin within one. */
	if (read_at(p, "resource", line, sizeof(line)))
		v->reg_off = (uint32_t)(strtoull(line, NULL, 16) % page);
	if (v->reg_off + REG_LEN > page)
		return -EPROTO;
	v->reg_fd = open_at(p, "resource0", O_RDWR);
	if (v->reg_fd < 0)
		return -errno;
	v->reg_page = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, v->reg_fd, 0);
	if (v->reg_page != MAP_FAILED)
		return 0;
	v->reg_page = NULL;
	return -errno;
}

static int map(struct xvm_ivshmem *v)
{
	v->mem = mmap(NULL, v->size, PROT_READ | PROT_WRITE, MAP_SHARED, v->mem_fd,
		      (off_t)v->mem_off);
	if (v->mem != MAP_FAILED)
		return 0;
	v->mem = NULL;
	return -errno;
}

static int map_memory(struct xvm_ivshmem *v, const struct place *p)
{
	struct stat st;

	v->mem_fd = open_at(p, "resource2", O_RDWR);
	if (v->mem_fd < 0 || fstat(v->mem_fd, &st))
		return -errno;
	v->size = st.st_size;
	return map(v);
}

static void unmap(struct xvm_ivshmem *v)
{
	if (v->mem)
		munmap(v->mem, v->size);
	if (v->reg_page)
		munmap(v->reg_page, sysconf(_SC_PAGESIZE));
	if (v->mem_fd >= 0 && v->mem_fd != v->vfio)
		close(v->mem_fd);
	if (v->reg_fd >= 0)
		close(v->reg_fd);
	v->mem = v->reg_page = NULL;
	v->mem_fd = v->reg_fd = -1;
}

static int map_by_vfio(struct xvm_ivshmem *v)
{
	int ret = xvm_vfio_bar(v->vfio, 0, NULL, &v->vfio_reg);

	if (!ret)
		ret = xvm_vfio_bar(v->vfio, 2, &v->size, &v->mem_off);
	if (ret)
		return ret;
	v->mem_fd = v->vfio;
	return map(v);
}

/* Nobody has done so yet if it was plugged in while the guest ran. */
static void enable(const struct place *p)
{
	char text[16], driver[64];

	if (!link_at(p, "driver", driver, sizeof(driver)) &&
	    read_at(p, "enable", text, sizeof(text)) && !strcmp(text, "0"))
		write_at(p, "enable", "1");
}

int xvm_ivshmem_open(struct xvm_ivshmem *v, const char *root, const char *bdf, int keep,
		     bool in_use, bool noiommu)
{
	struct place p;
	int ret;

	memset(v, 0, sizeof(*v));
	snprintf(v->bdf, sizeof(v->bdf), "%.15s", bdf);
	v->vfio = keep;
	v->mem_fd = v->reg_fd = -1;
	place_of(&p, root, bdf);
	enable(&p);
	if (keep < 0)
		open_vfio(v, &p, in_use, noiommu);
	if (v->vfio >= 0) {
		ret = xvm_vfio_start(v->vfio, keep < 0, &v->vectors);
		if (ret)
			fail(v, ret, "no interrupts: %s", strerror(-ret));
	}
	ret = map_registers(v, &p);
	if (!ret)
		ret = map_memory(v, &p);
	if (ret && v->vfio >= 0) {
		unmap(v);
		ret = map_by_vfio(v);
	}
	if (ret) {
		fail(v, ret, "it cannot be mapped: %s", strerror(-ret));
		xvm_ivshmem_close(v);
	}
	return ret;
}

void xvm_ivshmem_close(struct xvm_ivshmem *v)
{
	unmap(v);
	if (v->vfio >= 0)
		close(v->vfio);
	v->vfio = -1;
}

/* ---- use -------------------------------------------------------------- */

static volatile uint32_t *reg(const struct xvm_ivshmem *v, uint32_t off)
{
	return (volatile uint32_t *)((char *)v->reg_page + v->reg_off + off);
}

uint32_t xvm_ivshmem_position(const struct xvm_ivshmem *v)
{
	uint32_t n = 0;

	if (v->reg_page)
		return *reg(v, REG_POSITION);
	return pread(v->vfio, &n, sizeof(n), (off_t)v->vfio_reg + REG_POSITION) == sizeof(n) ? n
											     : 0;
}

void xvm_ivshmem_ring(const struct xvm_ivshmem *v, uint32_t peer, uint32_t vector)
{
	uint32_t word = peer << 16 | vector;
	ssize_t n = sizeof(word);

	if (v->reg_page)
		*reg(v, REG_DOORBELL) = word;
	else
		n = pwrite(v->vfio, &word, sizeof(word), (off_t)v->vfio_reg + REG_DOORBELL);
	if (n != sizeof(word))
		xvm_log(LOG_WARNING, "device %s: cannot ring: %s", v->bdf, strerror(errno));
}

int xvm_ivshmem_vector(struct xvm_ivshmem *v, uint32_t vector, int efd)
{
	if (vector >= v->vectors)
		return -ERANGE;
	/* A test's device has no vfio: it rings the eventfds itself. */
	return v->vfio < 0 ? 0 : xvm_vfio_vector(v->vfio, vector, efd);
}
