# SPDX-License-Identifier: Apache-2.0
# limit: 120
# A send and a recv of 64 bytes on the ring take no more instructions than they did. callgrind's count is the
# same each time, whatever else the machine does.
. "$(dirname "$0")/../lib/test.sh"

N=6400
P=$B/test/valgrind/instructions
[[ -x $P ]] || skip "valgrind's headers were not there at build time"

# count CALL: instructions of one, the loop's own included.
count()
{
	local total
	timeout 60 env XVM_LOG=3 "$B/xvm" run --private -- valgrind --tool=callgrind --callgrind-out-file=/dev/null \
		--collect-atstart=no "$P" "$1" $N >"$T/$1.out" 2>"$T/$1.log" || fail "$(tail -n 5 "$T/$1.log")"
	grep -q 'enters [1-9]' "$T/$1.log" || fail "it never entered the ring: $(<"$T/$1.log")"
	total=$(sed -n 's/.*Collected : \([0-9]*\)$/\1/p' "$T/$1.log")
	echo $((total / N))
}

# at_most CALL BOUND
at_most()
{
	local n
	n=$(count "$1")
	echo "$1: $n instructions, at most $2"
	((n > 0 && n <= $2)) || fail "$1 of 64 bytes takes $n instructions, more than $2"
}

at_most send 515
at_most recv 490
