# SPDX-License-Identifier: Apache-2.0
# limit: 180
# redis: 50 clients, pipelines, large values both ways, and a fork (BGSAVE) among it all.
. "$(dirname "$0")/../lib/net.sh"

bench()
{
	bg_client bench redis-benchmark -h "$B4" "$@"
	expect_path "$PID" "$s"
	finished "$PID"
	! grep -iE 'error|abort' "$T/bench.log" || fail "redis-benchmark $*"
	tr '\r' '\n' <"$T/bench.log" | grep -E 'per second' || fail "$(tail -n 5 "$T/bench.log")"
}

start_xvmd
random_file "$T/big" 10000000
head -c 3000 "$T/big" >"$T/small"
for mode in $MODES; do
	set_mode "$mode"
	# Long enough to be looked at.
	n=100000
	[[ $mode != both ]] || n=300000
	bg_server redis redis-server --bind "$B4" --protected-mode no --save '' --appendonly no \
		--dir "$T" --dbfilename "$mode.rdb"
	s=$PID
	wait_port b 6379
	bench -c 50 -n $n -t get,set -q
	bench -c 50 -n $((n * 4)) -P 16 -t get,set -q
	bench -c 10 -n $((n / 5)) -d 20000 -t get,set -q

	step "values"
	for v in big small; do
		client redis-cli -h "$B4" -x set $v <"$T/$v" | grep -qx OK
		client redis-cli -h "$B4" --raw get $v | head -c -1 >"$T/got"
		same "$T/$v" "$T/got"
	done

	step "a fork while clients are busy"
	bg_client bench redis-benchmark -h "$B4" -c 50 -n $n -t get,set -q
	c=$PID
	for _ in 1 2 3; do
		client redis-cli -h "$B4" bgsave | grep -q started
		wait_for 30 eval "client redis-cli -h $B4 info persistence | grep -q rdb_bgsave_in_progress:0"
	done
	finished "$c"
	client redis-cli -h "$B4" info persistence | grep -q rdb_last_bgsave_status:ok
	[[ -s $T/$mode.rdb ]] || fail "nothing was saved"
	client redis-cli -h "$B4" --raw get big | head -c -1 >"$T/got"
	same "$T/big" "$T/got"
	stop "$s"
done
