# SPDX-License-Identifier: Apache-2.0
# limit: 60
# A socket that a program uses by io_uring as well stays on TCP, or goes back to it.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "asks for paths"
start_xvmd
mode=both
mkfifo "$T/in"
exec {in}<>"$T/in"
port=7000
for when in early late; do
	step "a ring that is made $when"
	port=$((port + 1))
	bg server xvm host "$B/test/fault/uring" $port $when
	s=$PID
	wait_for 10 eval "_listens host $port || _gone $s" || fail "the server hangs"
	if _gone "$s"; then
		wait "$s" || [[ $? != 77 ]] || skip "this kernel has no io_uring for us"
		fail "$(cat "$T/server.log")"
	fi
	bg client xvm host sh -c 'exec "$@" <"$0"' "$T/in" "$B/test/fault/hostile" connect $port none
	c=$PID
	says client ready
	[[ $when = late ]] || ! _ss ring "$s" || fail "on the ring with io_uring there"
	_ss path "$s"
	_ss path "$s" | grep -q 'tcp unsupported' || fail "not said that io_uring keeps it on TCP"
	echo >&"$in"
	finished "$c"
	finished "$s"
	grep -q done "$T/client.log" || fail "the client has not come to its end"
done
