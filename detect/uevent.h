/* SPDX-License-Identifier: Apache-2.0 */
/* ivshmem devices that are plugged in, or go, while we run: the kernel's uevents tell. */
#ifndef XVM_DETECT_UEVENT_H
#define XVM_DETECT_UEVENT_H

struct xvm_daemon;

/* 0, or a negative errno: then devices are looked for at the start and at SIGHUP only. */
int xvm_uevents_init(struct xvm_daemon *d);
void xvm_uevents_exit(struct xvm_daemon *d);

#endif
