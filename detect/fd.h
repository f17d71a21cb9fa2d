/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that came from clients. They may be anything, and the daemon has one thread: a file
 * of a FUSE server blocks in fstat and close for as long as that server likes, a socket with
 * SO_LINGER in close, a full eventfd in write. So nothing is done to them before their kind is
 * known from calls that never reach the file's own code.
 */
#ifndef XVM_DETECT_FD_H
#define XVM_DETECT_FD_H

#include <stdbool.h>

int xvm_fd_init(void);

bool xvm_fd_is_memfd(int fd);
bool xvm_fd_is_eventfd(int fd);

/* Close without ever waiting for somebody else. */
void xvm_fd_discard(int fd);

/* Add 1 to an eventfd: 0, or -EAGAIN where it is full. */
int xvm_fd_ring(int fd);

/* Take what is in an eventfd, without waiting for more: its flags may be somebody else's too. */
void xvm_fd_drain(int fd);

#endif
