/* SPDX-License-Identifier: Apache-2.0 */
/* What xvmd does with vfio: linux/vfio.h, and the kernel's Documentation/driver-api/vfio.rst. */
#ifndef XVM_DETECT_VFIO_H
#define XVM_DETECT_VFIO_H

#include <stdbool.h>
#include <stdint.h>

/* The device of that group, whose file path is. noiommu: in a group of that kind. 0, and the
 * device's descriptor in *fd, which is all that has to stay open; or a negative errno. */
int xvm_vfio_open(const char *root, const char *path, const char *bdf, bool noiommu, int *fd);

/* Where a BAR is in the descriptor. size NULL: it need not be mapped. */
int xvm_vfio_bar(int fd, uint32_t bar, uint64_t *size, uint64_t *off);

/* Interrupts: how many there are. fresh: nobody has set any up yet. */
int xvm_vfio_start(int fd, bool fresh, uint32_t *vectors);
int xvm_vfio_vector(int fd, uint32_t vector, int efd);
/* This eventfd is rung when the kernel wants the device back, as it is about to be unplugged: that
 * waits until the last of the device's descriptors is closed. */
int xvm_vfio_request(int fd, int efd);

#endif
