/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_PRELOAD_SAME_WAIT_H
#define TEST_PRELOAD_SAME_WAIT_H

#include "test/preload/same.h"

void scene_poll(void);
void scene_signals(void);
void scene_select(void);
void scene_room(void);
void scene_epoll(void);
void scene_deleted(void);
void scene_handed(void);
void scene_edge(void);
void scene_nested(void);
void scene_inners(void);
void scene_crowd(void);
void scene_crowd_edge(void);
void scene_crowd_once(void);
void scene_cold(void);
void scene_early(void);
void scene_copies(void);
void scene_shared(void);
void scene_bounds(void);
void scene_quiet(void);
void scene_rest(void);
void scene_around(void);
void scene_twins(void);
void scene_amid(void);
void scene_mix(void);

#endif
