# SPDX-License-Identifier: Apache-2.0
# limit: 240
# Descriptors, file size, address space and locked memory run out: whatever works plain works preloaded,
# byte for byte.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

start_xvmd
port=7700
MODES=${MODES/client server/}

# limited WHO LIMIT...: WHO (client or server) runs under prlimit. Returns 1 if it fails.
limited()
{
	local who=$1 s c status=0 pre_c=() pre_s=()
	shift
	port=$((port + 1))
	[[ $who = client ]] && pre_c=(prlimit "$@") || pre_s=(prlimit "$@")
	local W
	"_wrap_$SMODE" b
	"${W[@]}" "${pre_s[@]}" "$FLOW" serve "$B4" $port --conns 16 --send 6M --rate 12M > >(exec cat >"$T/server.log") 2>&1 &
	s=$!
	BG[$s]=server
	wait_for 5 _listens b $port || {
		kill -KILL "$s" 2>/dev/null || true
		wait "$s" || true
		cat "$T/server.log"
		return 1
	}
	"_wrap_$CMODE" a
	"${W[@]}" "${pre_c[@]}" "$FLOW" connect "$B4" $port --conns 16 --send 6M --rate 12M > >(exec cat >"$T/client.log") 2>&1 &
	c=$!
	BG[$c]=client
	wait_for 30 _gone "$c" || {
		_show_stuck "$c"
		fail "client hangs under $who $*"
	}
	wait "$c" || status=$?
	((status == 0)) || {
		kill -KILL "$s" 2>/dev/null || true
		wait "$s" || true
		echo "client ended with $status: $(tail -n 3 "$T/client.log")"
		return 1
	}
	wait_for 30 _gone "$s" || {
		_show_stuck "$s"
		fail "server hangs under $who $*"
	}
	wait "$s" || status=$?
	((status == 0)) || {
		echo "server ended with $status: $(tail -n 3 "$T/server.log")"
		return 1
	}
	# Their output goes through a pipe, as a limit of files would hit it.
	says server '^done.*conn=15'
	says client '^done.*conn=15'
	exact client server
}

# The smallest number for which it works plain.
least()
{
	local n=$1 option=$2 step=$3 who=$4
	set_mode plain >/dev/null
	until limited "$who" "$option=$n" >/dev/null 2>&1; do
		n=$((n + step))
		((n < 400000000)) || fail "no $option will do"
	done
	echo "$n"
}

misses=()
missed()
{
	misses+=("$1, preloaded")
	echo "!! $1"
}

for who in client server; do
	fds=$(least 16 --nofile 1 $who)
	as=$(least 20000000 --as 20000000 $who)
	step "$who needs, plain: $fds descriptors, $as bytes of address space"
	for mode in $MODES; do
		set_mode "$mode"
		for more in 0 1 2 5 12; do
			step "$who: $((fds + more)) descriptors"
			limited $who --nofile=$((fds + more)) || missed "$who with $((fds + more)) descriptors"
		done
		for size in 0 4096 1000000; do
			step "$who: files of $size bytes at most"
			limited $who --fsize=$size || missed "$who with files of $size bytes"
		done
		for more in 1000000 10000000 50000000 200000000; do
			step "$who: $((as + more)) bytes of address space"
			limited $who --as=$((as + more)) || missed "$who with $((as + more)) bytes of address space"
		done
		step "$who: no locked memory, no pending signals, no processes more"
		limited $who --memlock=0 --sigpending=0 --msgqueue=0 || missed "$who without locked memory"
	done
done
((!${#misses[@]})) || fail "what works plain does not work: $(printf '%s; ' "${misses[@]}")"
