/* SPDX-License-Identifier: Apache-2.0 */
/* What is going on about the endpoints of a VM, by the names that it has for them. */
#ifndef XVM_DETECT_VMEP_H
#define XVM_DETECT_VMEP_H

#include "detect/ivshmem_server.h"

#define XVM_VM_ENDS_MAX 100000

/* Goes when there is neither. */
struct xvm_vm_ep {
	struct xvm_vm_ep *hash_next;
	uint32_t client, slot;
	struct xvm_offer *offer;
	struct xvm_end *end;
};

int xvm_vmep_init(struct xvm_vm *vm);
void xvm_vmep_exit(struct xvm_vm *vm);

/* NULL: none, or (make) no memory. */
struct xvm_vm_ep *xvm_vmep_find(const struct xvm_vm *vm, uint32_t client, uint32_t slot);
struct xvm_vm_ep *xvm_vmep_make(struct xvm_vm *vm, uint32_t client, uint32_t slot);
/* Free it if nothing is going on about it. */
void xvm_vmep_tidy(struct xvm_vm *vm, struct xvm_vm_ep *ep);

#endif
