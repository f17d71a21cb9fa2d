/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "detect/daemon.h"
#include "detect/vmep.h"

#define BUCKETS 4096

/* Seeded: the names are the VM's, and chains in one bucket would be our time. */
static struct xvm_vm_ep **bucket(const struct xvm_vm *vm, uint32_t client, uint32_t slot)
{
	uint64_t h = vm->group->d->pairing.seed ^ ((uint64_t)client << 32 | slot);

	h = (h ^ h >> 31) * 0xff51afd7ed558ccdull;
	h = (h ^ h >> 29) * 0x9e3779b97f4a7c15ull;
	return &vm->ep[h >> 40 & (BUCKETS - 1)];
}

int xvm_vmep_init(struct xvm_vm *vm)
{
	vm->ep = calloc(BUCKETS, sizeof(struct xvm_vm_ep *));
	return vm->ep ? 0 : -ENOMEM;
}

void xvm_vmep_exit(struct xvm_vm *vm)
{
	free(vm->ep);
	vm->ep = NULL;
}

struct xvm_vm_ep *xvm_vmep_find(const struct xvm_vm *vm, uint32_t client, uint32_t slot)
{
	struct xvm_vm_ep *ep = *bucket(vm, client, slot);

	while (ep && (ep->client != client || ep->slot != slot))
		ep = ep->hash_next;
	return ep;
}

struct xvm_vm_ep *xvm_vmep_make(struct xvm_vm *vm, uint32_t client, uint32_t slot)
{
	struct xvm_vm_ep **b = bucket(vm, client, slot), *ep = xvm_vmep_find(vm, client, slot);

	if (ep)
		return ep;
	ep = calloc(1, sizeof(*ep));
	if (!ep)
		return NULL;
	ep->client = client;
	ep->slot = slot;
	ep->hash_next = *b;
	*b = ep;
	return ep;
}

void xvm_vmep_tidy(struct xvm_vm *vm, struct xvm_vm_ep *ep)
{
	struct xvm_vm_ep **b;

	if (ep->offer || ep->end)
		return;
	b = bucket(vm, ep->client, ep->slot);
	while (*b != ep)
		b = &(*b)->hash_next;
	*b = ep->hash_next;
	free(ep);
}
