# SPDX-License-Identifier: Apache-2.0
# limit: 300
# A connection leaves the ring and enters it again 1,000 times while both directions are busy, by the wish
# of either end; then a file through it all, compared.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

start_xvmd
mode=both CMODE=xvm SMODE=xvm
[[ -z ${XVM_TEST_PLAIN-} ]] || mode=plain
port=7300

ctl()
{
	[[ -n ${XVM_TEST_PLAIN-} ]] || timeout 20 "$B/xvm" "$@" >"$T/ctl.log" 2>&1 || fail "xvm $*: $(cat "$T/ctl.log")"
}

one_fd()
{
	local fds=3
	[[ -n ${XVM_TEST_PLAIN-} ]] || fds=$(_ss fds "$1")
	[[ $fds =~ ^[0-9]+$ ]] || fail "process $1 has not one connection, but: $fds"
	echo "$fds"
}

# on_path PID PATH REASON-PATTERN
on_path()
{
	_ss path "$1" | grep -Eq "^$2 $3\$"
}

# flips N OPTION...: flow's way of waiting.
flips()
{
	local n=$1 i c s cfd sfd
	shift
	port=$((port + 1))
	step "$n times, $*"
	bg_server server "$FLOW" serve "$B4" $port --forever --count "$T/scount" "$@"
	s=$PID
	wait_port b $port
	bg_client client "$FLOW" connect "$B4" $port --forever --count "$T/ccount" "$@"
	c=$PID
	expect_ring "$c" "$s"
	cfd=$(one_fd "$c")
	sfd=$(one_fd "$s")

	step "seen to leave and to enter"
	for i in 1 2 3 4 5; do
		for end in "$c:$cfd" "$s:$sfd"; do
			ctl leave "$end"
			[[ -n ${XVM_TEST_PLAIN-} ]] || wait_for 10 on_path "${end%:*}" tcp operator || {
				show_ss
				fail "$end does not leave"
			}
			ctl enter "$end"
			[[ -n ${XVM_TEST_PLAIN-} ]] || wait_for 10 on_path "${end%:*}" ring '.*' || {
				show_ss
				fail "$end does not enter again"
			}
		done
	done
	step "in a row"
	before=$([[ -n ${XVM_TEST_PLAIN-} ]] || stat_of leaves)
	for ((i = 0; i < n; i++)); do
		end=$c:$cfd
		((i % 2)) || end=$s:$sfd
		ctl leave "$end"
		ctl enter "$end"
		((i % 50)) || {
			running "$c" || fail "client ended: $(tail "$T/client.log")"
			x=$(count "$T/scount" 1)
			wait_for 10 moved "$T/scount" 1 $((x + 1000)) || {
				_show_stuck "$c"
				_show_stuck "$s"
				fail "the server receives nothing any more, after $i"
			}
			x=$(count "$T/ccount" 1)
			wait_for 10 moved "$T/ccount" 1 $((x + 1000)) || {
				_show_stuck "$c"
				_show_stuck "$s"
				fail "the client receives nothing any more, after $i"
			}
		}
	done
	step "--all"
	for ((i = 0; i < 20; i++)); do
		ctl leave --all
		ctl enter --all
	done
	[[ -n ${XVM_TEST_PLAIN-} ]] || {
		expect_ring "$c" "$s"
		step "$(($(stat_of leaves) - before)) phases were left"
		(($(stat_of leaves) - before >= n)) || fail "fewer phases were left than were asked for"
	}
	kill -TERM "$c"
	finished "$c"
	finished "$s"
	exact client server
	grep done "$T/client.log"
}

flips 400
flips 200 --poll
flips 200 --epoll --chunk 5000
flips 200 --epoll --brief --chunk 300000

step "a file"
random_file "$T/in" 1000000000
bg_server server python3 "$SRC/test/net/file.py" "$B4" 7399 "$T/out"
s=$PID
wait_port b 7399
bg_client client python3 "$SRC/test/net/file.py" "$T/in" "$B4" 7399
c=$PID
expect_ring "$c" "$s"
fd=$(one_fd "$c")
n=0
while running "$c"; do
	# It may end between any two of these.
	[[ -n ${XVM_TEST_PLAIN-} ]] || timeout 20 "$B/xvm" leave "$c:$fd" >/dev/null 2>&1 || true
	[[ -n ${XVM_TEST_PLAIN-} ]] || timeout 20 "$B/xvm" enter "$c:$fd" >/dev/null 2>&1 || true
	n=$((n + 1))
	pause 0.001
done
finished "$c"
finished "$s"
same "$T/in" "$T/out"
[[ $(tail -n 1 "$T/server.log") = "$(sha256sum <"$T/in" | cut -d ' ' -f 1)" ]] || fail "another file than was sent"
step "$n times during the file"
