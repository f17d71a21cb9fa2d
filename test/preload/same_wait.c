/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting calls: poll, select and epoll. */
#include "test/preload/same_wait.h"

int main(int argc, char **argv)
{
	static const struct scene scenes[] = {
		{"poll", scene_poll},
		{"signals", scene_signals},
		{"select", scene_select},
		{"room", scene_room},
		{"epoll", scene_epoll},
		{"deleted", scene_deleted},
		{"handed", scene_handed},
		{"edge", scene_edge},
		{"nested", scene_nested},
		{"inners", scene_inners},
		{"crowd", scene_crowd},
		{"crowd_edge", scene_crowd_edge},
		{"crowd_once", scene_crowd_once},
		{"cold", scene_cold},
		{"early", scene_early},
		{"copies", scene_copies},
		{"shared", scene_shared},
		{"bounds", scene_bounds},
		{"quiet", scene_quiet},
		{"rest", scene_rest},
		{"around", scene_around},
		{"twins", scene_twins},
		{"amid", scene_amid},
		{"mix", scene_mix},
		{NULL, NULL},
	};

	return play(scenes, argv + (argc > 0));
}
