/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "detect/vfio.h"
#include "transport/region.h"

static int join(int container, int group, bool noiommu)
{
	struct vfio_group_status status = {.argsz = sizeof(status)};

	if (ioctl(group, VFIO_GROUP_GET_STATUS, &status))
		return -errno;
	/* Something else is in the group, with a driver of its own. */
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return -EPERM;
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		return -errno;
	if (ioctl(container, VFIO_SET_IOMMU, noiommu ? VFIO_NOIOMMU_IOMMU : VFIO_TYPE1v2_IOMMU))
		return -errno;
	return 0;
}

int xvm_vfio_open(const char *root, const char *path, const char *bdf, bool noiommu, int *fd)
{
	char all[300];
	int container, group = -1, ret;

	snprintf(all, sizeof(all), "%.200s/dev/vfio/vfio", root);
	container = open(all, O_RDWR | O_CLOEXEC);
	if (container < 0)
		return -errno;
	group = open(path, O_RDWR | O_CLOEXEC);
	ret = group < 0 ? -errno : join(container, group, noiommu);
	if (!ret) {
		*fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
		ret = *fd < 0 ? -errno : 0;
	}
	if (!ret)
		fcntl(*fd, F_SETFD, FD_CLOEXEC);
	if (group >= 0)
		close(group);
	close(container);
	return ret;
}

static int region(int fd, uint32_t index, struct vfio_region_info *r)
{
	memset(r, 0, sizeof(*r));
	r->argsz = sizeof(*r);
	r->index = index;
	return ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, r) ? -errno : 0;
}

int xvm_vfio_bar(int fd, uint32_t bar, uint64_t *size, uint64_t *off)
{
	struct vfio_region_info r;
	int ret = region(fd, VFIO_PCI_BAR0_REGION_INDEX + bar, &r);

	if (ret)
		return ret;
	if (size && !(r.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return -EOPNOTSUPP;
	if (size)
		*size = r.size;
	*off = r.offset;
	return 0;
}

static int set_irqs(int fd, uint32_t index, uint32_t first, uint32_t count, const int *efd)
{
	union {
		struct vfio_irq_set set;
		char room[sizeof(struct vfio_irq_set) + XVM_REGION_VECTORS_MAX * sizeof(int)];
	} s = {.set = {.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		       .index = index}};

	s.set.argsz = (uint32_t)(sizeof(s.set) + count * sizeof(*efd));
	s.set.start = first;
	s.set.count = count;
	memcpy(s.room + sizeof(s.set), efd, count * sizeof(*efd));
	return ioctl(fd, VFIO_DEVICE_SET_IRQS, &s) ? -errno : 0;
}

/* Interrupts are writes to memory, so they need bus mastering. */
static int master(int fd)
{
	struct vfio_region_info r;
	uint16_t command;
	int ret = region(fd, VFIO_PCI_CONFIG_REGION_INDEX, &r);

	if (ret)
		return ret;
	if (pread(fd, &command, 2, (off_t)r.offset + PCI_COMMAND) != 2)
		return -EIO;
	command |= PCI_COMMAND_MASTER;
	return pwrite(fd, &command, 2, (off_t)r.offset + PCI_COMMAND) == 2 ? 0 : -EIO;
}

int xvm_vfio_start(int fd, bool fresh, uint32_t *vectors)
{
	struct vfio_irq_info irq = {.argsz = sizeof(irq), .index = VFIO_PCI_MSIX_IRQ_INDEX};
	int none[XVM_REGION_VECTORS_MAX], ret = 0;
	uint32_t n;

	if (ioctl(fd, VFIO_DEVICE_GET_IRQ_INFO, &irq))
		return -errno;
	n = irq.count < XVM_REGION_VECTORS_MAX ? irq.count : XVM_REGION_VECTORS_MAX;
	if (!n)
		return -ENODEV;
	/* All at once: later only those can be changed that were there then. */
	memset(none, 0xff, sizeof(none));
	if (fresh)
		ret = set_irqs(fd, VFIO_PCI_MSIX_IRQ_INDEX, 0, n, none);
	if (!ret)
		ret = master(fd);
	if (!ret)
		*vectors = n;
	return ret;
}

int xvm_vfio_vector(int fd, uint32_t vector, int efd)
{
	return set_irqs(fd, VFIO_PCI_MSIX_IRQ_INDEX, vector, 1, &efd);
}

int xvm_vfio_request(int fd, int efd)
{
	return set_irqs(fd, VFIO_PCI_REQ_IRQ_INDEX, 0, 1, &efd);
}
