# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# How fast guest one (client) and guest two exchange their bytes.

# rate plain|xvm MODE SIZE: of two `xvm peer` processes, in a second.
rate()
{
	local W server
	"_wrap_$1" two
	server=("${W[@]}" "$B/xvm")
	"_wrap_$1" one
	# The client's commands come by stdin.
	W=("${W[0]}" -i "${W[@]:1}")
	timeout 60 python3 "$SRC/test/vm/peer.py" "$2" "$3" "${VM4[two]}" 2 "${server[@]}" -- "${W[@]}" "$B/xvm"
}

# redis_rate plain|xvm PORT: requests in a second, over a run of two seconds at least: whoever looks each second
# sees its connections.
redis_rate()
{
	local n rate
	for ((n = 15000; n < 10000000; n *= 3)); do
		rate=$(_redis_get "$@" $n)
		[[ -n $rate ]] || break
		((n < 2 * ${rate%.*})) || break
	done
	echo "$rate"
}

# _redis_get plain|xvm PORT REQUESTS
_redis_get()
{
	"$1" one redis-benchmark -h "${VM4[two]}" -p "$2" -c 50 -n "$3" -t get -q | tr '\r' '\n' |
		sed -n 's/^GET: \([0-9.]*\) requests.*/\1/p' | tail -n 1
}
