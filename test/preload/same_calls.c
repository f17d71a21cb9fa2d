/* SPDX-License-Identifier: Apache-2.0 */
/* Calls on a connection: their results, errno, partial counts, and what interrupts them. */
#include "test/preload/same_calls.h"

int main(int argc, char **argv)
{
	static const struct scene scenes[] = {
		{"nothing", scene_nothing},
		{"lengths", scene_lengths},
		{"messages", scene_messages},
		{"many", scene_many},
		{"flags", scene_flags},
		{"timeouts", scene_timeouts},
		{"signals", scene_signals},
		{"before", scene_before},
		{"async", scene_async},
		{"options", scene_options},
		{"shutdown", scene_shutdown},
		{"pipe", scene_pipe},
		{"reset", scene_reset},
		{"linger", scene_linger},
		{"cancel", scene_cancel},
		{"closed", scene_closed},
		{"means", scene_means},
		{"lowat", scene_lowat},
		{NULL, NULL},
	};

	return play(scenes, argv + (argc > 0));
}
