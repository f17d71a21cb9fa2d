# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Servers under a load of verified requests, in modes plain and both, after . "$(dirname "$0")/../lib/net.sh".
# The load lasts a few seconds; a minute in mode both where XVM_NIGHTLY is set.

LOAD_MODES=
for mode in $MODES; do
	[[ $mode != plain && $mode != both ]] || LOAD_MODES+=" $mode"
done

load_seconds()
{
	if [[ $mode != both && -z ${XVM_TEST_PLAIN-} ]]; then
		echo 2
	elif [[ -n ${XVM_NIGHTLY-} ]]; then
		echo 60
	else
		echo 6
	fi
}

# load_http NAME ADDR PORT CONNECTIONS get|post WHERE [REQUESTS]: test/net/load.py in the background, in $LOAD. It is
# the client, or as LOAD_FROM says.
load_http()
{
	# shellcheck disable=SC2086 # two words
	bg "$1" ${LOAD_FROM-$CMODE a} python3 "$SRC/test/net/load.py" "$2" "$3" "$(load_seconds)" "${@:4}"
	LOAD=$PID
}

# load_ring PID...: in mode both, as long as the load lasts, each has connections on the ring.
load_ring()
{
	load_rings 1 "$@"
}

# load_rings N PID...: N or more each, within LOAD_WAIT (30) seconds. Nor does the load's client have more descriptors each time.
declare -A LOAD_FDS
load_rings()
{
	[[ -z ${XVM_TEST_PLAIN-} && $mode = both ]] || return 0
	LOAD_SEEN=${LOAD_SEEN-0}
	if python3 "$SRC/test/lib/ss.py" --wait "$B/xvm" "${LOAD_WAIT-30}" "ring:$1" "${@:2}" while "$LOAD" >"$T/path.log" 2>&1; then
		LOAD_SEEN=$((LOAD_SEEN + 1))
	elif running "$LOAD"; then
		show_ss
		fail "$(cat "$T/path.log")"
	fi
	LOAD_FDS[$LOAD]=${LOAD_FDS[$LOAD]-$(_load_fds)}
	wait_for 10 _load_steady || {
		ls -l "/proc/$LOAD/fd"
		fail "${BG[$LOAD]} had ${LOAD_FDS[$LOAD]} descriptors, now $(_load_fds)"
	}
}

# Of one that has ended: none.
_load_fds()
{
	{ ls "/proc/$LOAD/fd" 2>/dev/null || true; } | wc -l
}

_load_steady()
{
	(($(_load_fds) <= LOAD_FDS[$LOAD] + 40))
}

# load_done [AGAIN]: it ends by itself, no request has failed, no more than AGAIN (0) met the close of an idle
# connection, and load_rings has seen it at least once.
load_done()
{
	local name=${BG[$LOAD]} again
	finished "$LOAD" 60
	cat "$T/$name.log"
	again=$(sed -n 's/.* \([0-9]*\) asked again$/\1/p' "$T/$name.log")
	((${again:-0} <= ${1:-0})) || fail "$again requests met the end of a connection, not ${1:-0} at most"
	[[ ${LOAD_SEEN-1} != 0 ]] || fail "it was over before it was seen on the ring: $(cat "$T/path.log")"
	unset LOAD_SEEN
}

# load_files: what get asks for, in $T/www/load.
load_files()
{
	local i
	mkdir -p "$T/www/load"
	random_file "$T/www/load/mid" 300000
	for i in {0..19}; do
		random_file "$T/www/load/$i" 1000
	done
}

# ---- what is left in processes that have outlived it ----

# _load_things PID: descriptors; mappings of rings; kB of shared memory, and of its own.
_load_things()
{
	echo "$(ls "/proc/$1/fd" | wc -l) $(grep -c 'memfd:xvm-half' "/proc/$1/maps" || true)" \
		"$(awk '/^RssShmem/ { s = $2 } /^RssAnon/ { a = $2 } END { print s, a }' "/proc/$1/status")"
}

# load_before PID...: what they have before it.
declare -A LOAD_HAD
load_before()
{
	local p
	for p in "$@"; do
		LOAD_HAD[$p]=$(_load_things "$p")
	done
}

# _load_back PID FDS
_load_back()
{
	local fds maps shared had_fds had_maps had_shared
	read -r had_fds had_maps had_shared _ <<<"${LOAD_HAD[$1]}"
	read -r fds maps shared _ < <(_load_things "$1")
	((fds <= had_fds + $2 && maps <= had_maps + 2 && shared <= had_shared + 4096))
}

# load_after FDS PID...: once its connections are gone, each has no ring left, and at most FDS more descriptors.
load_after()
{
	local p
	for p in "${@:2}"; do
		wait_for 20 _load_back "$p" "$1" || {
			ls -l "/proc/$p/fd" | tail -n 20
			fail "${BG[$p]-process $p} had (descriptors, rings, kB) ${LOAD_HAD[$p]} and has $(_load_things "$p")"
		}
		echo "${BG[$p]-process $p}: descriptors, rings, kB ${LOAD_HAD[$p]}, then $(_load_things "$p")"
	done
}
