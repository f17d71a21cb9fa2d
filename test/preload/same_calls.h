/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_PRELOAD_SAME_CALLS_H
#define TEST_PRELOAD_SAME_CALLS_H

#include "test/preload/same.h"

void scene_nothing(void);
void scene_lengths(void);
void scene_messages(void);
void scene_many(void);
void scene_flags(void);
void scene_timeouts(void);
void scene_before(void);
void scene_async(void);
void scene_signals(void);
void scene_options(void);
void scene_shutdown(void);
void scene_pipe(void);
void scene_reset(void);
void scene_linger(void);
void scene_cancel(void);
void scene_closed(void);
void scene_lowat(void);
void scene_means(void);

#endif
