/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as the protocol has them (16 bytes, v4 as v4-mapped) and as people write them. */
#ifndef XVM_TOOLS_ADDR_H
#define XVM_TOOLS_ADDR_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#define XVM_ADDR_STR 64 /* room for "[address]:port" */

/* "1.2.3.4", "::1" or "[::1]"; never a name. 0 or -EINVAL. */
int xvm_addr_parse(const char *s, uint8_t addr[16]);

/* The same with an optional ":port" (in IPv6 only after brackets). *port is -1 where none is given.
 */
int xvm_addr_parse_port(const char *s, uint8_t addr[16], int *port);

/* "1.2.3.4", "::1". Returns buf. */
const char *xvm_addr_str(const uint8_t addr[16], char buf[XVM_ADDR_STR]);

/* "1.2.3.4:80", "[::1]:80"; "-" if it is not known. Returns buf. */
const char *xvm_addr_port_str(const uint8_t addr[16], uint16_t port, char buf[XVM_ADDR_STR]);

/* For bind and connect: AF_INET for a v4-mapped address. Returns the length. */
socklen_t xvm_addr_sockaddr(const uint8_t addr[16], uint16_t port, struct sockaddr_storage *ss);

/* "PID:FD": 0 or -EINVAL. */
int xvm_addr_parse_pidfd(const char *s, int32_t *pid, int32_t *fd);

#endif
