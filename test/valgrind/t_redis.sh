# SPDX-License-Identifier: Apache-2.0
# limit: 400
# A preloaded redis-benchmark run under valgrind: no errors, nothing suppressed.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is nothing of ours on plain TCP"
start_xvmd
mode=both

# vg LOG NS plain|xvm CMD...: W is CMD under valgrind, which puts its own preload before ours.
vg()
{
	local log=$1 ns=$2 kind=$3
	shift 3
	local pre=
	[[ $kind = plain ]] || pre=$T/libxvm.so
	W=(nsenter --net="/run/netns/$ns" env "LD_PRELOAD=$pre" valgrind --error-exitcode=99 --leak-check=full
		--errors-for-leak-kinds=definite --track-origins=yes --num-callers=30 --fair-sched=yes
		--log-file="$T/$log.valgrind" "$@")
}

# run plain|xvm: redis-benchmark under valgrind.
run()
{
	local kind=$1 status=0
	bg redis "$kind" b redis-server --bind "$B4" --protected-mode no --save '' --appendonly no
	s=$PID
	wait_port b 6379
	vg bench a "$kind" redis-benchmark -h "$B4" -c 20 -n 10000 -t get,set -q
	"${W[@]}" >"$T/bench.log" 2>&1 &
	c=$!
	BG[$c]=bench
	[[ $kind = plain ]] || expect_ring "$c" "$s"
	wait_for 150 _gone "$c" || {
		_show_stuck "$c"
		_show_stuck "$s"
		fail "redis-benchmark under valgrind does not end: $(tr "\r" "\n" <"$T/bench.log" | tail -n 3)"
	}
	wait "$c" || status=$?
	unset "BG[$c]"
	grep -E 'ERROR SUMMARY' "$T/bench.valgrind"
	stop "$s"
	return $status
}

step "plain: valgrind finds nothing of redis-benchmark's own"
run plain || fail "redis-benchmark itself: $(cat "$T/bench.valgrind")"
step "preloaded"
run xvm || fail "$(cat "$T/bench.valgrind")"

step "the server under valgrind"
vg redis b xvm redis-server --bind "$B4" --protected-mode no --save '' --appendonly no
"${W[@]}" >"$T/redis.log" 2>&1 &
s=$!
BG[$s]=redis
wait_port b 6379 60
bg bench xvm a redis-benchmark -h "$B4" -c 20 -n 10000 -t get,set -q
c=$PID
expect_ring "$c" "$s"
finished "$c" 200
xvm a redis-cli -h "$B4" shutdown nosave || true
finished "$s" 60
grep -E 'ERROR SUMMARY' "$T/redis.valgrind"
