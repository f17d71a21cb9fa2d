/* SPDX-License-Identifier: Apache-2.0 */
/* What tools ask. A user sees and steers his own processes; root and the daemon's own user all. */
#ifndef XVM_DETECT_ANSWER_H
#define XVM_DETECT_ANSWER_H

#include "detect/conn.h"

#define XVM_ANSWER_CTL_S 2. /* that programs have to obey xvm leave and xvm enter */

struct xvm_answer;

int xvm_answer_init(struct xvm_daemon *d);
void xvm_answer_exit(struct xvm_daemon *d);

void xvm_answer(struct xvm_conn *c, const struct xvm_msg *m);

/* The socket of c has room again. */
void xvm_answer_go_on(struct xvm_conn *c);

void xvm_answer_ctl_done(struct xvm_conn *c, uint32_t ticket, uint32_t changed);
void xvm_answer_conn_gone(struct xvm_conn *c);

#endif
