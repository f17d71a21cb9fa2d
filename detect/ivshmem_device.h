/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's ivshmem device: its memory (BAR2), its registers (BAR0) and its interrupts.
 *
 * Memory and registers are mapped by sysfs, whose descriptors are good for nothing else: programs
 * get them. vfio-pci, which takes an IOMMU or the kernel's no-IOMMU mode, brings the interrupts.
 * Its descriptor could do anything to the device, so it stays here; and no BAR is mapped by it, for
 * that would take the BAR away from sysfs. Only where the kernel is locked down, and sysfs maps
 * nothing, is vfio used for all, and programs get its descriptor.
 *
 * When vfio's last descriptor is closed, and sometimes when the first is opened, the memory is not
 * there for a moment. So it is kept over a restart of ours (keeper.h).
 */
#ifndef XVM_DETECT_IVSHMEM_DEVICE_H
#define XVM_DETECT_IVSHMEM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "transport/region.h"

#define XVM_IVSHMEM_DEVICES_MAX 4

struct xvm_ivshmem {
	char bdf[16];
	int vfio;		/* the device's descriptor, or -1 */
	int mem_fd, reg_fd;	/* to be mapped by programs; reg_fd -1: no doorbell */
	uint64_t mem_off, size; /* of the memory, in mem_fd */
	uint32_t reg_off;	/* of the registers, in reg_fd */
	void *mem, *reg_page;
	uint64_t vfio_reg; /* where they are in vfio's descriptor, if they are not mapped */
	uint32_t vectors;  /* 0: no interrupts */
	char why[160];	   /* there are no interrupts */
};

/* root stands before /sys, /dev and /proc: "", or a test's. How many devices there are. */
uint32_t xvm_ivshmem_find(const char *root, char bdf[][16], uint32_t max);

/* keep: vfio's descriptor from a former life, which becomes ours; or -1. in_use: programs use the
 * memory, so vfio is not to open it now. noiommu: no-IOMMU mode may be used. 0, or a negative errno
 * with what to say in v->why. */
int xvm_ivshmem_open(struct xvm_ivshmem *v, const char *root, const char *bdf, int keep,
		     bool in_use, bool noiommu);
void xvm_ivshmem_close(struct xvm_ivshmem *v);

/* Our number in the group: 0 is the host's, so there is no server. */
uint32_t xvm_ivshmem_position(const struct xvm_ivshmem *v);
void xvm_ivshmem_ring(const struct xvm_ivshmem *v, uint32_t peer, uint32_t vector);
/* From now on this vector adds to the eventfd; -1: to none. */
int xvm_ivshmem_vector(struct xvm_ivshmem *v, uint32_t vector, int efd);

#endif
