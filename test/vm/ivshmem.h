/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's ivshmem device, by sysfs (its BARs) and by vfio (its interrupts too). */
#ifndef XVM_TEST_IVSHMEM_H
#define XVM_TEST_IVSHMEM_H

#include <dirent.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../assume/assume.h"

#define IV_SYSFS "/sys/bus/pci/devices"

/* BAR0 */
enum iv_register { IV_MASK = 0, IV_STATUS = 4, IV_POSITION = 8, IV_DOORBELL = 12 };

struct iv_dev {
	char bdf[16];
	uint64_t start[6], len[6]; /* of the BARs */
};

static inline void iv_find(struct iv_dev *d)
{
	DIR *dir = opendir(IV_SYSFS);
	struct dirent *e;
	char path[300], line[100];
	FILE *f;

	NEED(dir);
	d->bdf[0] = 0;
	while (!d->bdf[0] && (e = readdir(dir))) {
		unsigned vendor = 0, device = 0;

		snprintf(path, sizeof(path), IV_SYSFS "/%.20s/uevent", e->d_name);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f))
			sscanf(line, "PCI_ID=%x:%x", &vendor, &device);
		if (f)
			fclose(f);
		if (vendor == 0x1af4 && device == 0x1110)
			snprintf(d->bdf, sizeof(d->bdf), "%.15s", e->d_name);
	}
	closedir(dir);
	errno = ENODEV;
	NEED(d->bdf[0]);
	snprintf(path, sizeof(path), IV_SYSFS "/%s/resource", d->bdf);
	f = fopen(path, "re");
	NEED(f);
	for (int i = 0; i < 6; i++) {
		uint64_t first = 0, last = 0;

		NEED(fgets(line, sizeof(line), f) && sscanf(line, "%lx %lx", &first, &last) == 2);
		d->start[i] = first;
		d->len[i] = last ? last - first + 1 : 0;
	}
	fclose(f);
}

static inline bool iv_present(const struct iv_dev *d)
{
	char path[100];

	snprintf(path, sizeof(path), IV_SYSFS "/%s", d->bdf);
	return !access(path, F_OK);
}

/* NAME is resource0, resource2, resource2_wc. */
static inline int iv_open(const struct iv_dev *d, const char *name, int flags)
{
	char path[100];

	snprintf(path, sizeof(path), IV_SYSFS "/%s/%s", d->bdf, name);
	return open(path, flags | O_CLOEXEC);
}

/* The registers, by sysfs. A BAR that is smaller than a page may start within one. */
static inline volatile uint32_t *iv_registers(const struct iv_dev *d)
{
	int fd = iv_open(d, "resource0", O_RDWR);
	char *p;

	NEED(fd >= 0);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	NEED(p != MAP_FAILED);
	close(fd);
	return (volatile uint32_t *)(p + (d->start[0] & 4095));
}

static inline void iv_ring(volatile uint32_t *reg, unsigned peer, unsigned vector)
{
	reg[IV_DOORBELL / 4] = peer << 16 | vector;
}

struct iv_vfio {
	int container, group, device;
	unsigned vectors;
	struct vfio_region_info bar0, bar2, config;
};

static inline struct vfio_region_info iv_region(int device, unsigned index)
{
	struct vfio_region_info r = {.argsz = sizeof(r), .index = index};

	NEED(!ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r));
	return r;
}

static inline int iv_vfio_group(const struct iv_dev *d)
{
	char path[300], to[300];
	ssize_t n;

	snprintf(path, sizeof(path), IV_SYSFS "/%s/iommu_group", d->bdf);
	n = readlink(path, to, sizeof(to) - 1);
	NEED(n > 0);
	to[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%.20s", strrchr(to, '/') + 1);
	return open(path, O_RDWR | O_CLOEXEC);
}

static inline void iv_vfio_open(const struct iv_dev *d, struct iv_vfio *v)
{
	struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = VFIO_PCI_MSIX_IRQ_INDEX};

	v->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	v->group = iv_vfio_group(d);
	NEED(v->container >= 0 && v->group >= 0);
	NEED(!ioctl(v->group, VFIO_GROUP_SET_CONTAINER, &v->container));
	NEED(!ioctl(v->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	v->device = ioctl(v->group, VFIO_GROUP_GET_DEVICE_FD, d->bdf);
	NEED(v->device >= 0);
	v->bar0 = iv_region(v->device, VFIO_PCI_BAR0_REGION_INDEX);
	v->bar2 = iv_region(v->device, VFIO_PCI_BAR2_REGION_INDEX);
	v->config = iv_region(v->device, VFIO_PCI_CONFIG_REGION_INDEX);
	NEED(!ioctl(v->device, VFIO_DEVICE_GET_IRQ_INFO, &irq));
	v->vectors = irq.count;
}

/* Vectors FIRST… to these eventfds; -1 for none. */
static inline int iv_vfio_irqs(int device, unsigned first, unsigned count, const int *fds)
{
	char buf[sizeof(struct vfio_irq_set) + 64 * sizeof(int)] = {0};
	struct vfio_irq_set *set = (struct vfio_irq_set *)buf;

	set->argsz = sizeof(*set) + count * sizeof(int);
	set->flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
	set->index = VFIO_PCI_MSIX_IRQ_INDEX;
	set->start = first;
	set->count = count;
	memcpy(set->data, fds, count * sizeof(int));
	return ioctl(device, VFIO_DEVICE_SET_IRQS, set);
}

/* Interrupts are writes to memory: they need bus mastering, bit 2 of the command register. */
static inline void iv_vfio_master(const struct iv_vfio *v)
{
	uint16_t command;

	NEED(pread(v->device, &command, 2, v->config.offset + 4) == 2);
	command |= 4;
	NEED(pwrite(v->device, &command, 2, v->config.offset + 4) == 2);
}

/* A descriptor to another process. */
static inline void iv_pass(int sock, int fd)
{
	char byte = 0;
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c = {.h = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = c.buf,
			   .msg_controllen = sizeof(c.buf)};

	memcpy(CMSG_DATA(&c.h), &fd, sizeof(fd));
	NEED(sendmsg(sock, &m, 0) == 1);
}

static inline int iv_receive(int sock)
{
	char byte;
	union {
		struct cmsghdr h;
		char buf[CMSG_SPACE(sizeof(int))];
	} c;
	struct iovec iov = {&byte, 1};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = c.buf,
			   .msg_controllen = sizeof(c.buf)};
	int fd;

	NEED(recvmsg(sock, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m));
	memcpy(&fd, CMSG_DATA(&c.h), sizeof(fd));
	return fd;
}

static inline uint64_t iv_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

#endif
