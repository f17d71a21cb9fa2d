/* SPDX-License-Identifier: Apache-2.0 */
/* TCP positions, as the kernel counts them: where a direction's boundaries are. */
#ifndef XVM_SHIM_POSITION_H
#define XVM_SHIM_POSITION_H

#include <stdbool.h>
#include <stdint.h>

/* R1: bytes taken from the kernel so far. 0; -ENOTCONN: *pos is set, but the peer's FIN has come;
 * -EAGAIN: the counts do not stand still; or why there is none to be had. */
int xvm_position_rx(int fd, uint64_t *pos);
/* S1: bytes given to the kernel so far, on a socket that connected (active) or was accepted. As
 * above, but without a position where it sends no more. */
int xvm_position_tx(int fd, bool active, uint64_t *pos);

#endif
