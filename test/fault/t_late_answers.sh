# SPDX-License-Identifier: Apache-2.0
# What xvmd announces and then says late, as one that is stopped in between does, is heard all the same.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is no xvmd on plain TCP"
start_xvmd
mkdir "$T/relay"
bg relay plain host python3 "$SRC/test/fault/relay.py" "$T/relay.sock" "$XVM_SOCKET" "$T/relay"
relay=$PID
wait_for 10 test -S "$T/relay.sock"

# late WHAT CALLS: it comes after so many calls of the program, which then comes to the ring.
late()
{
	step "$1 is late"
	: >"$T/relay/$1"
	bg ping plain host env XVM_SOCKET="$T/relay.sock" LD_PRELOAD="$B/libxvm.so" XVM_LOG=2 \
		python3 "$SRC/test/fault/ping.py"
	ping=$PID
	wait_for 30 eval "grep -q '^$2 ' '$T/ping.log'" || fail "the program does not go on: $(tail -n 3 "$T/ping.log")"
	! grep -q paired "$T/ping.log" || fail "it was not late"
	rm "$T/relay/$1"
	wait_for 30 grep -q '^ring' "$T/ping.log" || {
		stop "$ping"
		fail "stays on TCP: $(grep xvm "$T/ping.log"; cat "$T/relay/log"; tail -n 1 "$T/ping.log")"
	}
	finished "$ping"
}

# welcomes N: so many have been asked for, that is one by each program.
welcomes()
{
	[[ $(grep -c '^32 ' "$T/relay/log") = "$1" ]] || fail "not $1 welcomes: $(cat "$T/relay/log")"
}

late hold 20000
welcomes 1
late welcome 20000
welcomes 2
stop "$relay"
