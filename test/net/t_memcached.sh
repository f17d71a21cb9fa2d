# SPDX-License-Identifier: Apache-2.0
# limit: 180
# memcached with four threads, restarted under load; a client that compares each value.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"

memcached_()
{
	bg_server memcached memcached -t 4 -u root -l "$B4" -p 11211 -m 256 -I 2m
	s=$PID
	wait_port b 11211
}

start_xvmd
for mode in $MODES; do
	set_mode "$mode"
	load_before ${XVMD-}
	memcached_
	bg_client client python3 "$SRC/test/net/memcached.py" "$B4" 11211 "$(load_seconds)"
	LOAD=$PID
	expect_path "$LOAD" "$s"
	compat memcached "$(memcached --version | cut -d ' ' -f 2)" "$s"
	n=0
	while [[ $mode = plain || $mode = both ]] && running "$LOAD"; do
		# Two of each thread's.
		load_rings 8 "$LOAD" "$s"
		stop "$s"
		memcached_
		n=$((n + 1))
	done
	finished "$LOAD"
	cat "$T/client.log"
	lost=$(sed -n 's/.* \([0-9]*\) connections lost$/\1/p' "$T/client.log")
	((lost <= 8 * n)) || fail "$lost connections were lost in $n restarts"
	stop "$s"
	load_after 0 ${XVMD-}
done
nothing_broken
