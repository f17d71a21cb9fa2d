# SPDX-License-Identifier: Apache-2.0
# limit: 90
# A group in huge pages: programs of the host map pieces that no such page begins or ends at. Without
# enough of them xvmd says so and does not start; with them it has them all, whatever comes.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/flow.sh"

POOL=/proc/sys/vm/nr_hugepages
[[ -w $POOL ]] || skip "the kernel has no huge pages"
size=$(awk '$1 == "Hugepagesize:" { print $2 }' /proc/meminfo)
((size == 2048)) || skip "huge pages of $size kB, not of 2048"
before=$(<$POOL)
# pool N: so many that are free; fails if they cannot be had.
pool()
{
	local used
	used=$(awk '$1 == "HugePages_Total:" { t = $2 } $1 == "HugePages_Free:" { f = $2 } $1 == "HugePages_Rsvd:" { r = $2 }
		END { print t - f + r }' /proc/meminfo)
	echo $((used + $1)) >$POOL
	(($(<$POOL) == used + $1))
}
at_exit "echo $before >$POOL"
install -m 755 "$B/libxvm.so" "$T/libxvm.so"

free()
{
	awk '$1 == "HugePages_Free:" { print $2 }' /proc/meminfo
}

step "too few of them: no group, and no daemon"
pool 8 || skip "no memory for huge pages"
printf 'group g socket %s size 64M peers 3 hugepages\n' "$T/iv" >"$T/xvmd.conf"
! "$B/xvmd" --foreground --config "$T/xvmd.conf" --socket "$T/sock" >"$T/out" 2>&1 || fail "it starts"
grep -q '32 pages of 2048 kB are needed, 8 are free: see sysctl vm.nr_hugepages' "$T/out" || fail "$(<"$T/out")"
(($(free) == 8)) || fail "some are kept"

step "enough: all are taken at the start"
pool 36 || skip "no memory for huge pages"
bg xvmd plain host "$B/xvmd" --foreground --config "$T/xvmd.conf" --socket "$T/sock"
says xvmd 'group g: .*64 MiB'
(($(free) == 4)) || fail "$(free) pages are free"
stop "$PID"
(($(free) == 36)) || fail "$(free) pages are free"

step "halves, groups and their wiping"
"$B/test/unit/unit_half" --filter 'half/pieces*'
"$B/test/unit/unit_detect_ivshmem" --filter 'ivshmem/huge*'

step "streams"
bg regiond plain host "$B/test/net/regiond" "$XVM_SOCKET" "$A4" "$B4" huge
wait_for 10 grep -q ready "$T/regiond.log" || fail "regiond does not come up: $(<"$T/regiond.log")"
bg server xvm b env XVM_LOG=3 "$FLOW" serve "$B4" 7100 --conns 6 --forever
s=$PID
wait_port b 7100
bg client xvm a env XVM_LOG=3 "$FLOW" connect "$B4" 7100 --conns 6 --forever --rate 60M --count "$T/count"
c=$PID
wait_for 30 moved "$T/count" 0 60000000 || fail "the stream stands still"
kill -TERM "$c"
finished "$c"
finished "$s"
exact client server
n=$(sed -n 's/.*xvm\[.*\]: enters \([0-9]*\)$/\1/p' "$T/client.log" | tail -n 1)
((n >= 6)) || fail "$n of 6 connections entered: $(tail -n 20 "$T/client.log" "$T/regiond.log")"
