/* SPDX-License-Identifier: Apache-2.0 */
/* How addresses are found in struct xvm_shm_table: shared by its writer and its readers. */
#ifndef XVM_DETECT_TABLE_H
#define XVM_DETECT_TABLE_H

#include <stdbool.h>
#include <string.h>

#include "transport/abi.h"

/* No more than half the slots are used, so that a probe ends soon. */
#define XVM_RES_MAX (XVM_RES_SLOTS / 2)

static inline uint32_t xvm_table_slot(const uint8_t addr[16])
{
	uint64_t a, b;

	memcpy(&a, addr, 8);
	memcpy(&b, addr + 8, 8);
	a = (a ^ (b * 0x9e3779b97f4a7c15ull)) * 0xff51afd7ed558ccdull;
	return (uint32_t)(a >> 40) & (XVM_RES_SLOTS - 1);
}

/* 127/8, ::1 and what is mapped to them. */
static inline bool xvm_table_loopback(const uint8_t addr[16])
{
	static const uint8_t v4[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	static const uint8_t one[16] = {[15] = 1};

	return (!memcmp(addr, v4, 12) && addr[12] == 127) || !memcmp(addr, one, 16);
}

#endif
