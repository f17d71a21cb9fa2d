# SPDX-License-Identifier: Apache-2.0
# memcached with four threads; a client that compares each value.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"

start_xvmd
for mode in $MODES; do
	set_mode "$mode"
	bg_server memcached memcached -t 4 -u root -l "$B4" -p 11211 -m 256 -I 2m
	s=$PID
	wait_port b 11211
	bg_client client python3 "$SRC/test/net/memcached.py" "$B4" 11211 "$(load_seconds)"
	c=$PID
	expect_path "$c" "$s"
	compat memcached "$(memcached --version | cut -d ' ' -f 2)" "$s"
	finished "$c"
	cat "$T/client.log"
	stop "$s"
done
nothing_broken
