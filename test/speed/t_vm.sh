# SPDX-License-Identifier: Apache-2.0
# limit: 300
# What two machines of a group gain over virtio-net on the same bridge: round trips, a stream, redis. Medians
# of alternating runs. What misses its figure is measured again, twice at most: other things may have
# been going on. All figures are shown.
. "$(dirname "$0")/../vm/group.sh"
. "$SRC/test/vm/rate.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "there is nothing to compare on plain TCP"
(($(nproc) >= 2)) || skip "needs two CPUs: this machine has one"

# owed NAME RATIO COMMAND...: COMMAND says a rate; MODE in it becomes plain or xvm.
owed()
{
	measure "$@" || measure "$@" || measure "$@" || missed+=("$1")
}

measure()
{
	local name=$1 least=$2 i
	shift 2
	: >"$T/plain"
	: >"$T/xvm"
	for i in 1 2 3; do
		"${@//MODE/plain}" >>"$T/plain"
		"${@//MODE/xvm}" >>"$T/xvm"
	done
	python3 - "$name" "$least" "$T/plain" "$T/xvm" <<-'END'
	import statistics, sys
	name, least = sys.argv[1], float(sys.argv[2])
	plain, xvm = ([float(x) for x in open(f)] for f in sys.argv[3:])
	ratio = statistics.median(xvm) / statistics.median(plain)
	print(f"{name}: {ratio:.2f}x, owed {least}x; plain {plain}, xvm {xvm}")
	sys.exit(ratio < least)
	END
}

redis()
{
	local mode=$1 port
	port=$([[ $mode = plain ]] && echo 6400 || echo 6401)
	redis_rate "$mode" "$port"
}

missed=()
group_host
group_start one near --iommu
group_start two near --iommu
vm_ready one two
group_up one two
knows one "${VM4[two]}"
owed "round trips, 1 byte" 5 rate MODE rtt 1
owed "stream, 128 KB writes" 5 rate MODE stream 131072
bg redis-plain plain two redis-server --bind "${VM4[two]}" --port 6400 --protected-mode no --save ''
bg redis-xvm xvm two redis-server --bind "${VM4[two]}" --port 6401 --protected-mode no --save ''
wait_port two 6400
wait_port two 6401
owed "redis GET, 50 clients" 3 redis MODE
((!${#missed[@]})) || fail "below what is owed: ${missed[*]}"
