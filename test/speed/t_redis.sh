# SPDX-License-Identifier: Apache-2.0
# limit: 240
# redis-benchmark GET with 50 clients: at least twice plain TCP where server and clients have a core each, and
# not below it where they share one. Plain and preloaded runs alternate; medians count.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is nothing to compare on plain TCP"
(($(nproc) >= 2)) || skip "needs two CPUs: this machine has one"
start_xvmd
mode=both

# rate KIND PORT CPU: requests a second.
rate()
{
	"$1" a taskset -c "$3" redis-benchmark -h "$B4" -p "$2" -c 50 -n "$n" -t get -q --csv |
		awk -F '"' '$2 == "GET" { print $4 }'
}

# measure SERVER-CPU CLIENT-CPU OWED: 0 if it is met.
measure()
{
	local i p x
	bg plain plain b taskset -c "$1" redis-server --bind "$B4" --port 6379 --protected-mode no --save '' --appendonly no
	p=$PID
	bg ring xvm b taskset -c "$1" redis-server --bind "$B4" --port 6380 --protected-mode no --save '' --appendonly no
	x=$PID
	wait_port b 6379
	wait_port b 6380
	n=50000
	: >"$T/rates"
	for i in 1 2 3 4 5; do
		if ((i % 2)); then
			echo "plain $(rate plain 6379 "$2")" >>"$T/rates"
			echo "xvm $(rate xvm 6380 "$2")" >>"$T/rates"
		else
			echo "xvm $(rate xvm 6380 "$2")" >>"$T/rates"
			echo "plain $(rate plain 6379 "$2")" >>"$T/rates"
		fi
	done
	n=1000000
	bg bench xvm a taskset -c "$2" redis-benchmark -h "$B4" -p 6380 -c 50 -n "$n" -t get -q
	expect_ring "$PID" "$x" >/dev/null
	stop "$PID" KILL
	stop "$p"
	stop "$x"
	python3 - "$T/rates" "$3" <<'END'
import statistics, sys

rates = {"plain": [], "xvm": []}
for line in open(sys.argv[1]):
    kind, value = line.split()
    rates[kind].append(float(value))
ratio = statistics.median(rates["xvm"]) / statistics.median(rates["plain"])
for kind, values in rates.items():
    print(f"{kind}: {' '.join(f'{v:.0f}' for v in values)}")
print(f"{ratio:.2f}x, owed {sys.argv[2]}x")
sys.exit(ratio < float(sys.argv[2]))
END
}

# A measurement that misses is repeated, twice at most.
owe()
{
	local try
	step "$1"
	for try in 1 2 3; do
		! measure "$2" "$3" "$4" || return 0
		step "missed, try $try"
	done
	missed+=("$1")
}

missed=()
owe "a core each" 0 1 2
owe "one core" 0 0 1
((!${#missed[@]})) || fail "missed three times: ${missed[*]}"
