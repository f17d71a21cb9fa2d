# SPDX-License-Identifier: Apache-2.0
# Preloaded, and no daemon, or one that is no use: of another version, silent, deaf, talking nonsense,
# hanging up; or a socket path that is not ours. Programs work as ever, and soon.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

install -m 755 "${XVM_TEST_PLAIN:+/dev/null}${XVM_TEST_PLAIN:-$B/libxvm.so}" "$T/libxvm.so" 2>/dev/null || true
port=7600

transfer()
{
	local s c start
	set_mode "$1"
	port=$((port + 1))
	start=${EPOCHREALTIME/./}
	bg_server server "$FLOW" serve "$B4" $port --conns 8 --send 10M
	s=$PID
	wait_port b $port
	bg_client client "$FLOW" connect "$B4" $port --conns 8 --send 10M
	c=$PID
	finished "$c" 20
	finished "$s" 20
	exact client server
	client python3 -c 'import socket; print(socket.socket())' >/dev/null 2>"$T/err"
	[[ ! -s $T/err ]] || fail "written to stderr: $(cat "$T/err")"
	! grep -v -E '^(listening|connected|sent|received|done)' "$T/client.log" "$T/server.log" || fail "something else was written"
	took=$(((${EPOCHREALTIME/./} - start) / 1000))
}

# It may take some attempts at a hello longer than where nothing is preloaded, on a machine as busy as this one.
soon()
{
	transfer both
	((took < 5000 + 5 * plain)) || fail "took $took ms; not preloaded $plain ms"
}

step "not preloaded"
transfer plain
plain=$took
step "no daemon"
soon
step "a path that is no socket"
echo hello >"$XVM_SOCKET"
soon
step "a path that nobody may open"
XVM_SOCKET=/proc/nothing/there soon
step "a path that is too long"
XVM_SOCKET=/tmp/$(printf '%0300d' 0) soon
for how in bad-version silent garbage close deaf; do
	step "a daemon: $how"
	rm -f "$XVM_SOCKET"
	bg fake plain host "$B/test/net/fakexvmd" "$XVM_SOCKET" $how
	f=$PID
	wait_for 10 test -S "$XVM_SOCKET"
	soon
	[[ $how = deaf || -n ${XVM_TEST_PLAIN-} ]] || [[ -s $T/fake.log ]] || fail "nobody asked the daemon"
	if [[ -z ${XVM_TEST_PLAIN-} ]]; then
		step "xvm ss, of the same daemon"
		timeout 30 "$B/xvm" ss >"$T/out" 2>"$T/err" && fail "xvm ss is content with it" || status=$?
		((status < 124)) || fail "xvm ss: $status"
		[[ $(wc -l <"$T/err") = 1 ]] || fail "not one clear line: $(cat "$T/err")"
		cat "$T/err"
	fi
	stop "$f" KILL
done
