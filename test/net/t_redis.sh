# SPDX-License-Identifier: Apache-2.0
# limit: 300
# redis: 50 clients, pipelines, large values both ways, forks (BGSAVE), replicas that come and go, and restarts.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/load.sh"

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

in_step()
{
	[[ $(cli a 6380 info replication | sed -n 's/^master_link_status:\(up\).*/\1/p') = up ]]
}

# cli NS PORT ...
cli()
{
	plain "$1" redis-cli -h "${addr[$1]}" -p "$2" "${@:3}"
}

caught_up()
{
	in_step && [[ $(cli b 6379 debug digest) = "$(cli a 6380 debug digest)" ]]
}

# master: with what is in its file, if there is one.
master()
{
	bg_server redis redis-server --bind "$B4" --protected-mode no --save '' --appendonly no \
		--dir "$T" --dbfilename "master-$mode.rdb" --enable-debug-command yes --repl-diskless-sync-delay 0
	s=$PID
	wait_port b 6379
}

replica()
{
	bg_client replica redis-server --bind "$A4" --port 6380 --protected-mode no --save '' --appendonly no \
		--dir "$T" --dbfilename replica.rdb --enable-debug-command yes --replicaof "$B4" 6379
	r=$PID
	wait_port a 6380
	wait_for 30 in_step || fail "the replica does not connect: $(tail -n 5 "$T/replica.log")"
}

save()
{
	# Not while a replica's is under way.
	wait_for 30 eval "cli b 6379 bgsave | grep -q started" || fail "no BGSAVE"
	wait_for 30 eval "cli b 6379 info persistence | grep -q rdb_bgsave_in_progress:0" || fail "no end of BGSAVE"
	cli b 6379 info persistence | grep -q rdb_last_bgsave_status:ok
}

loaded()
{
	cli b 6379 ping | grep -qx PONG
}

declare -A addr=([a]=$A4 [b]=$B4)
v=$(redis-server --version | grep -o 'v=[0-9.]*' | cut -c 3-)
for mode in $LOAD_MODES; do
	set_mode "$mode"
	step "saves, replicas and restarts under load"
	load_before ${XVMD-}
	master
	bg_client load python3 "$SRC/test/net/redis.py" "$B4" 6379 "$(load_seconds)"
	LOAD=$PID
	expect_path "$LOAD" "$s"
	compat redis-server "$v" "$s"
	rounds=0
	while :; do
		replica
		save
		((rounds > 0)) || expect_ring "$r"
		((rounds > 0)) || compat "redis-server, replica" "$v" "$r"
		rounds=$((rounds + 1))
		running "$LOAD" || break
		load_ring "$LOAD" "$s" "$r"
		# All that it has answered is in the file.
		cli b 6379 shutdown save
		finished "$s"
		master
		wait_for 30 loaded || fail "no redis any more: $(tail -n 5 "$T/redis.log")"
		wait_for 30 in_step || fail "the replica does not connect again: $(tail -n 5 "$T/replica.log")"
		load_ring "$LOAD" "$s" "$r"
		stop "$r"
	done
	finished "$LOAD" 60
	cat "$T/load.log"
	lost=$(sed -n 's/.* \([0-9]*\) connections lost$/\1/p' "$T/load.log")
	((lost <= 8 * (rounds - 1))) || fail "$lost connections were lost in $((rounds - 1)) restarts"
	wait_for 30 caught_up || fail "the replica differs: $(cli b 6379 debug digest) $(cli a 6380 debug digest)"
	step "$rounds replicas, $(cli b 6379 dbsize) keys"
	# What was saved by a fork, when all is quiet, is what a new one has.
	save
	digest=$(cli b 6379 debug digest)
	stop "$s" KILL
	master
	wait_for 30 loaded || fail "no redis any more: $(tail -n 5 "$T/redis.log")"
	[[ $(cli b 6379 debug digest) = "$digest" ]] || fail "the file has something else"
	wait_for 30 caught_up || fail "the replica differs: $(cli b 6379 debug digest) $(cli a 6380 debug digest)"
	stop "$r"
	stop "$s"
	load_after 0 ${XVMD-}
	nothing_broken
done
