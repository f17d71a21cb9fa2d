/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Letters to and from the xvmds in the VMs: transport/REGION.md. Whatever a VM writes is hostile.
 * Nothing waits for it: letters that find no room in its mailbox are queued, up to
 * XVM_RELAY_QUEUE_MAX, then its run ends, as it does with a letter that makes no sense.
 *
 * A run is the time in which the processes of a guest can be alive: from boot to boot. Pairs end
 * with it. Addresses and offers end with the xvmd that said them, whose successor says hello again.
 */
#ifndef XVM_DETECT_RELAY_H
#define XVM_DETECT_RELAY_H

#include <stdbool.h>
#include <stdint.h>

#include "detect/ivshmem_server.h"

#define XVM_RELAY_QUEUE_MAX 4096

void xvm_relay_init(struct xvm_daemon *d);

/* Is it welcome, so that its addresses are to be believed and its offers taken? */
bool xvm_relay_up(const struct xvm_vm *vm);
bool xvm_relay_bye(const struct xvm_vm *vm);

/* XVM_LETTER_F_*, as it said. */
uint32_t xvm_relay_flags(const struct xvm_vm *vm);

void xvm_relay_send(struct xvm_vm *vm, const struct xvm_letter *l);
void xvm_relay_addr_refused(struct xvm_vm *vm, const uint8_t addr[16], int err);

/* Before the loop sleeps: ring those that have mail, and greet those that nobody reads any more. */
void xvm_relay_flush(struct xvm_daemon *d);

#endif
