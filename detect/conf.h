/* SPDX-License-Identifier: Apache-2.0 */
/* xvmd.conf(5): one statement a line. */
#ifndef XVM_DETECT_CONF_H
#define XVM_DETECT_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define XVM_CONF_MAX (1u << 20) /* bytes of a file */

/* A group of VMs: see ivshmem_server.h. */
struct xvm_conf_group {
	char name[32];
	char socket[108];
	uint64_t size;
	uint32_t vms, vectors;
	bool hugepages;
	bool has_user; /* besides root and our own user, this one may connect */
	uid_t uid;
};

struct xvm_conf;

/*
 * Parse len bytes of text; name is the file's, for messages. NULL where it is wrong, and err
 * then says "name:line: reason".
 */
struct xvm_conf *xvm_conf_parse(const char *text, size_t len, const char *name, char *err,
				size_t err_len);

/* The same of a file. A file that does not exist is an empty one if missing_ok. */
struct xvm_conf *xvm_conf_load(const char *path, bool missing_ok, char *err, size_t err_len);
void xvm_conf_free(struct xvm_conf *c);

/* May a socket of this user and program (NULL: unknown), with this local address, be paired? */
bool xvm_conf_allows(const struct xvm_conf *c, uid_t uid, const char *exe, const uint8_t addr[16],
		     uint16_t port);

/* May one in a VM? Rules about users and programs are not about it: those are its own xvmd's. */
bool xvm_conf_allows_vm(const struct xvm_conf *c, const uint8_t addr[16], uint16_t port);

/* May it have memory that is shared with VMs? otherwise, if no rule says so or not. */
bool xvm_conf_shares(const struct xvm_conf *c, uid_t uid, const char *exe, bool otherwise);

/* May vfio be used without an IOMMU? */
bool xvm_conf_noiommu(const struct xvm_conf *c);

int xvm_conf_log_level(const struct xvm_conf *c);

/* How many groups there are; they are the configuration's. */
size_t xvm_conf_groups(const struct xvm_conf *c, const struct xvm_conf_group **group);

#endif
