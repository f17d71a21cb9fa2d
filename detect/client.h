/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's side of xvmd: used by libxvm.so and by xvm. Nothing here allocates,
 * logs or keeps state of its own.
 */
#ifndef XVM_DETECT_CLIENT_H
#define XVM_DETECT_CLIENT_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "proto.h"
#include "transport/abi.h"

/* A program that may have fewer descriptors than this has none to spare for the library. */
#define XVM_FEW_FDS 128

/* The path of the daemon's socket: $XVM_SOCKET or XVM_SOCKET_SYSTEM. */
const char *xvm_client_path(void);

/*
 * Connect to the daemon at path (NULL: xvm_client_path()). Returns a close-on-exec,
 * blocking SOCK_SEQPACKET socket or a negative errno. Never waits: a full
 * backlog gives -EAGAIN.
 */
int xvm_client_connect(const char *path);

/* Say hello as a program (arena >= 0) or as a tool (arena < 0). 0 or a negative errno. */
int xvm_client_greet(int sock, int arena);

/*
 * Wait, timeout_ms at most, for the welcome. On success 0, *id is this client's number, *table the
 * mapped, checked table, and *mail what table->mail[*id] counts with the welcome. -ETIMEDOUT: it
 * may come yet. -EPROTONOSUPPORT: another version (*id is then the daemon's). Or another negative
 * errno. The socket stays the caller's.
 */
int xvm_client_welcome(int sock, int timeout_ms, uint32_t *id, uint64_t *mail,
		       const struct xvm_shm_table **table);

/* XVM_RES_* flags of an address (16 bytes, v4-mapped for v4), 0 if it is not there. Safe against
 * concurrent change; 0 if it changes without end. Loopback is always XVM_RES_USED. */
uint32_t xvm_client_resident(const struct xvm_shm_table *table, const uint8_t addr[16]);

/* The 16-byte form and the port (host order) of an AF_INET or AF_INET6 address, or
 * -EAFNOSUPPORT. */
int xvm_client_addr(const struct sockaddr *sa, socklen_t len, uint8_t addr[16], uint16_t *port);

/* Names and texts of enum xvm_reason; "?" for a number that is none. */
const char *xvm_reason_name(uint32_t reason);
const char *xvm_reason_text(uint32_t reason);

#endif
