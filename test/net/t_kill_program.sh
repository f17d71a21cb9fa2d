# SPDX-License-Identifier: Apache-2.0
# limit: 240
# kill -9 of either program in mid-transfer. The other one receives every byte that send() had taken, none
# wrong, then what TCP gives; and does not hang.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

start_xvmd
port=7400
MODES=${MODES/client server/}

# start SERVER-OPTIONS CLIENT-OPTIONS
start()
{
	port=$((port + 1))
	rm -f "$T/ccount" "$T/scount"
	bg_server server "$FLOW" serve "$B4" $port --count "$T/scount" $1
	s=$PID
	wait_port b $port
	bg_client client "$FLOW" connect "$B4" $port --count "$T/ccount" $2
	c=$PID
}

# survivor PID LOG: it ends soon, by end of file or reset.
survivor()
{
	local t=${EPOCHREALTIME/./} status=0
	wait_for 20 _gone "$1" || {
		_show_stuck "$1"
		fail "$2 does not notice that the other end was killed"
	}
	wait "$1" || status=$?
	unset "BG[$1]"
	((status == 0)) || fail "$2 ended with $status: $(tail "$T/$2.log")"
	not_wrong "$2"
	[[ $(field "$2" recv_end) =~ ^(eof|ECONNRESET|EPIPE)$ ]] || fail "$(tail -n 1 "$T/$2.log")"
	[[ $(field "$2" send_end) =~ ^(ok|ECONNRESET|EPIPE)$ ]] || fail "$(tail -n 1 "$T/$2.log")"
	took=$(((${EPOCHREALTIME/./} - t) / 1000))
}

# A moment after the transfer is under way, each time another.
some_bytes()
{
	wait_for 20 moved "$T/$1" "$2" $((1000000 + RANDOM * 1500)) || fail "no transfer"
}

RANDOM=7
for mode in $MODES; do
	set_mode "$mode"
	rounds=8
	[[ $mode = both ]] || rounds=2
	for by in "" --poll --epoll; do
		for ((i = 0; i < rounds; i++)); do
			step "the sender is killed ($by)"
			start "--mute $by" "--forever $by"
			some_bytes scount 1
			((i)) || expect_ring "$c" "$s"
			stop "$c" KILL
			survivor "$s" server
			(($(field server received) >= $(count "$T/ccount" 0))) ||
				fail "sent $(count "$T/ccount" 0), received $(field server received)"

			step "killed while both send ($by)"
			start "--forever $by" "--forever $by"
			some_bytes scount 1
			if ((i % 2)); then
				stop "$c" KILL
				survivor "$s" server
			else
				stop "$s" KILL
				survivor "$c" client
			fi
			((took < 5000)) || fail "noticed after $took ms only"
		done
	done

	step "the receiver is stopped, the sender waits for room, the receiver is killed"
	for by in "" --poll --epoll; do
		start "--mute $by" "--forever $by"
		some_bytes scount 1
		expect_ring "$c" "$s"
		kill -STOP "$s"
		# The sender has come to a halt when two looks find the same count.
		x=-1
		stalled()
		{
			local y
			y=$(count "$T/ccount" 0)
			[[ $x = "$y" ]] || {
				x=$y
				pause 0.2
				return 1
			}
		}
		wait_for 20 stalled || fail "it is not stopped by a full ring"
		stop "$s" KILL
		survivor "$c" client
		((took < 5000)) || fail "noticed after $took ms only"
	done

	step "one is killed while the other one is mostly asleep"
	for by in "" --poll --epoll; do
		start "--mute $by" "--forever --rate 1M --chunk 3000 $by"
		wait_for 20 moved "$T/scount" 1 100000 || fail "no transfer"
		expect_ring "$c" "$s"
		stop "$s" KILL
		survivor "$c" client
		((took < 5000)) || fail "noticed after $took ms only"
	done
done
step "xvmd is well"
[[ -n ${XVM_TEST_PLAIN-} ]] || {
	running "$XVMD" || fail "xvmd is gone: $(tail "$T/xvmd.log")"
	wait_for 10 eval '[[ $('"$B"'/xvm ss --json | tr -d " \n") = "[]" ]]' || fail "connections of dead programs are shown: $("$B/xvm" ss)"
}
