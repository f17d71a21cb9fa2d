# SPDX-License-Identifier: Apache-2.0
# xvm run with no daemon, no root and no configuration: two programs find each other through a private xvmd,
# which ends with the last of them. What they exchange is compared.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "xvm run preloads"
mode=both
unset XVM_SOCKET
# Where any user can read it, as it is when installed.
mkdir "$T/bin" "$T/rt"
cp "$B/xvm" "$B/xvmd" "$B/libxvm.so" "$FLOW" "$T/bin"
chmod 755 "$T/bin"/*
chmod 700 "$T/rt"
chown nobody: "$T/rt"
as_nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups env "XDG_RUNTIME_DIR=$T/rt" HOME=/nonexistent)

daemons()
{
	pgrep -x xvmd | wc -l
}

no_daemons()
{
	[[ $(daemons) = 0 ]]
}

# pair PORT PREFIX...
pair()
{
	local port=$1
	shift
	bg "server$port" plain host "$@" "$T/bin/xvm" run "$T/bin/flow" serve 127.0.0.1 "$port" --forever
	s=$PID
	wait_port host "$port"
	bg "client$port" plain host "$@" "$T/bin/xvm" run -- "$T/bin/flow" connect 127.0.0.1 "$port" --forever --rate 50M
	c=$PID
	says "client$port" "connected"
}

step "a user"
pair 8301 "${as_nobody[@]}"
export XVM_SOCKET=$T/rt/xvm/xvmd.sock
expect_ring "$c" "$s"
first=("$c" "$s")
[[ $(daemons) = 1 ]] || fail "$(daemons) daemons"
step "the daemon is killed: the stream goes on, the next program gets a new daemon"
pkill -KILL -x xvmd
wait_for 5 no_daemons
pair 8302 "${as_nobody[@]}"
expect_ring "$c" "$s"
for c in "$c" "${first[0]}"; do
	kill -TERM "$c"
	finished "$c"
done
finished "$s"
finished "${first[1]}"
exact client8301 server8301 client8302 server8302
step "the daemon ends with its last client"
wait_for 20 no_daemons || fail "$(daemons) daemons are still there"

step "many at once start one daemon"
unset XVM_SOCKET
pids=()
for i in 1 2 3 4 5 6 7 8; do
	bg "at-once$i" plain host "${as_nobody[@]}" "$T/bin/xvm" run "$T/bin/flow" serve 127.0.0.1 $((8310 + i)) --forever
	pids+=("$PID")
done
for i in 1 2 3 4 5 6 7 8; do
	wait_port host $((8310 + i))
done
[[ $(daemons) = 1 ]] || fail "$(daemons) daemons"
for p in "${pids[@]}"; do
	stop "$p" KILL
done
wait_for 20 no_daemons || fail "$(daemons) daemons are still there"

step "exit status and misuse"
status=0
"$T/bin/xvm" run sh -c 'exit 3' || status=$?
((status == 3)) || fail "exit status $status"
status=0
"$T/bin/xvm" run /nonexistent/program 2>"$T/err" || status=$?
((status == 127)) || fail "exit status $status for a program that is not there"
[[ $(wc -l <"$T/err") = 1 ]] || fail "not one line: $(cat "$T/err")"
out=$("$T/bin/xvm" run sh -c 'echo out; echo err >&2' 2>"$T/err")
[[ $out = out && $(cat "$T/err") = err ]] || fail "output: $out; $(cat "$T/err")"
