/* SPDX-License-Identifier: Apache-2.0 */
/* Sealed memfds: what halves and arenas of one kernel lie in. Async-signal-safe. */
#ifndef XVM_TRANSPORT_MEMFD_H
#define XVM_TRANSPORT_MEMFD_H

#include <stddef.h>
#include <stdint.h>

/*
 * A new memfd of len bytes, mapped writable at *map, and sealed: nobody can shrink or grow it,
 * write to it other than through mappings that exist by now, or change the seals. The fd
 * (close-on-exec, mode 0600), or a negative errno, and then nothing stays behind.
 */
int xvm_memfd_make(const char *name, size_t len, void **map);

/*
 * May this fd of a stranger be mapped without the risk that reading faults later? The size of
 * the file; -EPERM if it is no memfd sealed as above; another negative errno.
 */
int64_t xvm_memfd_judge(int fd);

/* Map len bytes read-only, and unmap. 0 or a negative errno. */
int xvm_memfd_map(int fd, size_t len, void **map);
void xvm_memfd_unmap(void *map, size_t len);

#endif
