/* SPDX-License-Identifier: Apache-2.0 */
/* Offers as they come in: the kernel is asked, the socket closed, the other end looked for. */
#ifndef XVM_DETECT_OFFER_H
#define XVM_DETECT_OFFER_H

#include "detect/conn.h"
#include "detect/pairing.h"
#include "detect/lease.h"
#include "transport/region.h"

/* Ask the kernel about a socket: XVM_R_NONE, or why it cannot be paired. */
uint32_t xvm_offer_facts(int sock, struct xvm_facts *f);

void xvm_offer_make(struct xvm_conn *c, const struct xvm_msg *m, int *fds);
void xvm_offer_withdraw(struct xvm_conn *c, uint32_t slot, uint32_t gen);
void xvm_offer_conn_gone(struct xvm_conn *c);

/* By letter: of an endpoint in a VM. */
void xvm_offer_from_vm(struct xvm_vm *vm, const struct xvm_letter *l);
void xvm_offer_withdraw_vm(struct xvm_vm *vm, uint32_t client, uint32_t slot, uint32_t gen);
void xvm_offer_vm_gone(struct xvm_vm *vm);

/* Those of c that lie in this book are refused. */
void xvm_offer_group_gone(struct xvm_conn *c, const struct xvm_lease_book *book);

#endif
