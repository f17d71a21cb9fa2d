/* SPDX-License-Identifier: Apache-2.0 */
/* What can be seen of a QEMU from outside. */
#ifndef XVM_DETECT_QEMU_H
#define XVM_DETECT_QEMU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * The names of the tap devices that a process has open, sorted: each is an interface of the network
 * namespace that the device was made in. proc is "/proc", or a test's likeness of it. How many were
 * found, at most max; or a negative errno where the process is gone or not to be looked at.
 */
int xvm_qemu_taps(const char *proc, pid_t pid, char tap[][16], uint32_t max);

/* Has it a macvtap open? That is a device file of its own, and on no bridge. */
bool xvm_qemu_macvtap(const char *proc, pid_t pid);

#endif
