# SPDX-License-Identifier: Apache-2.0
# A program that knows each byte of its streams: blocking, poll and edge-triggered epoll, in both
# directions at once, several connections.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

start_xvmd
port=7000
for mode in $MODES; do
	set_mode "$mode"
	for by in "" --poll --epoll; do
		for other in "" --epoll; do
			# With one end only the shim must just keep out of the way.
			[[ $mode = plain || $mode = both || $by = "$other" ]] || continue
			port=$((port + 1))
			step "client ${by:-blocking}, server ${other:-blocking}"
			bg_server server "$FLOW" serve "$B4" $port --conns 3 --forever $other
			s=$PID
			wait_port b $port
			rm -f "$T/count"
			bg_client client "$FLOW" connect "$B4" $port --conns 3 --forever --rate 60M --count "$T/count" $by
			c=$PID
			# It goes on until it has been seen, however slow the machine is.
			expect_path "$c" "$s"
			wait_for 30 moved "$T/count" 0 60000000 || fail "the stream stands still"
			kill -TERM "$c"
			finished "$c"
			finished "$s"
			exact client server
		done
	done
done
