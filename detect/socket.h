/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The socket that clients connect to, and who owns its path. Whoever holds the lock on PATH.lock
 * does, for as long as it lives; so of two that start at once one wins, and a daemon that
 * ends removes its socket without removing a successor's.
 */
#ifndef XVM_DETECT_SOCKET_H
#define XVM_DETECT_SOCKET_H

#include <stddef.h>
#include <sys/types.h>

/* What kind of socket. */
#define XVM_SOCKET_PRIVATE 1u /* mode 0600; where another daemon has the path, wait for it */
#define XVM_SOCKET_STREAM 2u  /* SOCK_STREAM, for QEMU; else SOCK_SEQPACKET */

struct xvm_socket {
	char path[108], lock[116];
	int lock_fd; /* -1: given to us, nothing to remove */
	unsigned kind;
	dev_t dev;
	ino_t ino;
};

/*
 * Take the path: the listening socket, non-blocking, in *fd. Of a private one where another daemon
 * has the path already: 1, once it answers. Else 0, or a negative errno with what to say in err.
 */
int xvm_socket_open(struct xvm_socket *s, const char *path, unsigned kind, int *fd, char *err,
		    size_t err_len);

/* Let go of the path, so that nobody can connect any more. A new socket there may follow. */
void xvm_socket_unlink(struct xvm_socket *s);
int xvm_socket_again(struct xvm_socket *s, int *fd);

/* And of the lock, at the end. */
void xvm_socket_close(struct xvm_socket *s);

#endif
