# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Two network namespaces joined by a bridge, and programs in them:
#
#   namespace a                 the test's own namespace                 namespace b
#   10.77.0.1, fd77::1 ──veth── bridge xbr0, 10.77.0.3, fd77::3 ──veth── 10.77.0.2, fd77::2
#
# The whole test runs in PID, mount and network namespaces of its own. So nothing of it is
# seen outside, nothing outside is changed, names need not be unique, and whatever the test has
# started, however it was started, is gone when the test is.
#
# Programs are started by `plain NS CMD...` or `xvm NS CMD...` (preloaded). What a test does in
# each mode of "$MODES" uses `server` and `client` instead, which set_mode makes either:
#
#   plain   neither end is preloaded: shows that the test itself is right
#   both    both ends: the stream must be found on the ring
#   client  one end only: must stay on TCP, with a reason
#   server
#
# XVM_TEST_PLAIN=1 preloads nothing and does not ask for paths: to try the tests themselves.

if [[ -z ${XVM_TEST_INSIDE-} ]]; then
	if [[ $(id -u) != 0 ]]; then
		echo "FAIL: makes network namespaces, so it must run as root"
		exit 1
	fi
	export XVM_TEST_INSIDE=1
	exec unshare --mount --net --pid --fork --kill-child --mount-proc -- bash "$0" "$@"
fi

. "$(dirname "${BASH_SOURCE[0]}")/test.sh"

A4=10.77.0.1 B4=10.77.0.2 H4=10.77.0.3
A6=fd77::1 B6=fd77::2 H6=fd77::3
MODES=${XVM_TEST_MODES:-plain both client server}
[[ -z ${XVM_TEST_PLAIN-} ]] || MODES=plain
FLOW=$B/test/net/flow
CHURN=$B/test/net/churn
unset LD_PRELOAD XVM_LOG XVM_DISABLE
export XVM_SOCKET=$T/xvmd.sock

# ---- namespaces ----

# add_ns NAME V4 V6: one more namespace on the bridge.
add_ns()
{
	ip netns add "$1"
	ip link add "v$1" type veth peer name eth0 netns "$1"
	ip link set "v$1" master xbr0 up
	ip -n "$1" link set lo up
	ip -n "$1" link set eth0 up
	ip -n "$1" addr add "$2/24" dev eth0
	ip -n "$1" addr add "$3/64" dev eth0 nodad
	wait_for 10 _forwards "v$1" || fail "the bridge does not forward for v$1"
}

_forwards()
{
	bridge link show dev "$1" | grep -q 'state forwarding'
}

_make_net()
{
	mount -t tmpfs -o mode=755 tmpfs /run
	mkdir /run/netns /run/sshd
	ip link set lo up
	ip link add xbr0 type bridge
	ip link set xbr0 up
	ip addr add "$H4/24" dev xbr0
	ip addr add "$H6/64" dev xbr0 nodad
	add_ns a "$A4" "$A6"
	add_ns b "$B4" "$B6"
}

# ---- programs ----

_wrap_plain()
{
	W=(nsenter --net="/run/netns/$1")
	[[ $1 != host ]] || W=(env)
}

_wrap_xvm()
{
	_wrap_plain "$1"
	[[ -n ${XVM_TEST_PLAIN-} ]] || W+=(env "LD_PRELOAD=$T/libxvm.so")
}

# plain NS CMD..., xvm NS CMD...: NS is a, b, another that add_ns made, or host.
plain()
{
	local W
	_wrap_plain "$1"
	shift
	"${W[@]}" "$@"
}

xvm()
{
	local W
	_wrap_xvm "$1"
	shift
	"${W[@]}" "$@"
}

# bg NAME plain|xvm NS CMD...: in the background; output in $T/NAME.log, process in $PID.
declare -A BG
bg()
{
	local W name=$1
	"_wrap_$2" "$3"
	shift 3
	# What an earlier one said is not to be taken for its words.
	: >"$T/$name.log"
	"${W[@]}" "$@" >"$T/$name.log" 2>&1 &
	PID=$!
	BG[$PID]=$name
}

# finished PID [SECONDS]: it ends by itself, with 0.
finished()
{
	local name=${BG[$1]} status=0
	wait_for "${2:-60}" _gone "$1" || {
		_show_stuck "$1"
		fail "$name (process $1) does not end"
	}
	wait "$1" || status=$?
	unset "BG[$1]"
	((status == 0)) || {
		cat "$T/$name.log"
		fail "$name ended with $status"
	}
}

# stop PID [SIGNAL]: ends a server; that it crashed, or will not end, fails the test.
stop()
{
	local name=${BG[$1]} status=0
	kill "-${2:-TERM}" "$1" 2>/dev/null || fail "$name was gone already: $(tail -n 20 "$T/$name.log")"
	wait_for 20 _gone "$1" || {
		_show_stuck "$1"
		fail "$name (process $1) does not end on SIG${2:-TERM}"
	}
	wait "$1" || status=$?
	unset "BG[$1]"
	case $status in
	0 | 130 | 143) ;;
	137) [[ ${2-} = KILL ]] || fail "$name was killed" ;;
	*)
		tail -n 50 "$T/$name.log"
		fail "$name ended with $status on SIG${2:-TERM}"
		;;
	esac
}

_gone()
{
	# A zombie has ended as well.
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
	stat=${stat##*) }
	[[ ${stat%% *} = Z ]]
}

running()
{
	! _gone "$1"
}

# For the log: where all the threads of a process are.
_show_stuck()
{
	local t
	for t in "/proc/$1/task/"*; do
		echo "thread ${t##*/}: wchan $(cat "$t/wchan" 2>/dev/null) syscall $(cat "$t/syscall" 2>/dev/null)"
	done
	if command -v gdb >/dev/null; then
		timeout 20 gdb -p "$1" -batch -ex 'thread apply all bt 12' 2>/dev/null </dev/null | grep -E '^(#|Thread)' | head -80
	fi
	show_ss
}

# wait_port NS PORT: something listens there.
wait_port()
{
	wait_for "${3:-20}" _listens "$1" "$2" || {
		local p
		for p in "${!BG[@]}"; do
			echo "-- ${BG[$p]}"
			tail -n 30 "$T/${BG[$p]}.log"
		done
		fail "nothing listens on port $2 in namespace $1"
	}
}

_listens()
{
	[[ -n $(plain "$1" ss -Hltn "sport = :$2") ]]
}

# says FILE TEXT [SECONDS]: a line of the background program's output has TEXT.
says()
{
	wait_for "${3:-30}" grep -q -- "$2" "$T/$1.log" || {
		tail -n 30 "$T/$1.log"
		fail "$1 does not say '$2'"
	}
}

# ---- modes ----

set_mode()
{
	mode=$1
	CMODE=plain SMODE=plain
	case $mode in
	plain) ;;
	both) CMODE=xvm SMODE=xvm ;;
	client) CMODE=xvm ;;
	server) SMODE=xvm ;;
	*) fail "no such mode: $mode" ;;
	esac
	step "mode $mode"
}

# The server lives in b, the client in a.
client()
{
	"$CMODE" a "$@"
}

server()
{
	"$SMODE" b "$@"
}

bg_client()
{
	local name=$1
	shift
	bg "$name" "$CMODE" a "$@"
}

bg_server()
{
	local name=$1
	shift
	bg "$name" "$SMODE" b "$@"
}

# ---- xvmd, paths ----

# start_xvmd [OPTION...]: its pid is in $XVMD.
start_xvmd()
{
	[[ -z ${XVM_TEST_PLAIN-} ]] || return 0
	: >"$T/xvmd.conf"
	# Programs of any user load it, from wherever the source lies.
	[[ -e $T/libxvm.so ]] || install -m 755 "$B/libxvm.so" "$T/libxvm.so"
	bg xvmd plain host "$B/xvmd" --foreground --config "$T/xvmd.conf" --socket "$XVM_SOCKET" "$@"
	XVMD=$PID
	wait_for 10 "$B/xvm" ss --json || {
		cat "$T/xvmd.log"
		fail "xvmd does not answer"
	}
}

show_ss()
{
	[[ -n ${XVM_TEST_PLAIN-} ]] || timeout 5 "$B/xvm" ss || true
}

_ss()
{
	timeout 10 "$B/xvm" ss --json | python3 "$SRC/test/lib/ss.py" "$@"
}

# expect_ring PID...: in mode both, while they run. Connections of a process's children are its own.
expect_ring()
{
	[[ -z ${XVM_TEST_PLAIN-} && $mode = both ]] || return 0
	_expect ring "$@"
}

# expect_tcp PID: in modes client and server: shown, on TCP, with a reason, no byte by ring.
expect_tcp()
{
	[[ -z ${XVM_TEST_PLAIN-} && ($mode = client || $mode = server) ]] || return 0
	_expect tcp "$@"
}

_expect()
{
	python3 "$SRC/test/lib/ss.py" --wait "$B/xvm" 15 "$@" >"$T/path.log" 2>&1 || {
		show_ss
		fail "$(cat "$T/path.log")"
	}
	cat "$T/path.log"
}

# expect_all_tcp PID: in mode both, where what is passed on or inherited stays on TCP all the same.
expect_all_tcp()
{
	[[ -z ${XVM_TEST_PLAIN-} && $mode = both ]] || return 0
	_expect tcp "$@"
}

# expect_unseen PID...: the library sees no connection of theirs, as they make their calls without it.
expect_unseen()
{
	[[ -z ${XVM_TEST_PLAIN-} ]] || return 0
	_ss unseen "$@"
}

# nothing_broken: no connection was reset as its peer wrote nonsense.
nothing_broken()
{
	local n
	[[ -z ${XVM_TEST_PLAIN-} ]] || return 0
	n=$(stat_of broken)
	((n == 0)) || fail "$n connections were found broken"
}

# compat WHAT VERSION PID [WHY]: in mode both, notes for the table of libxvm(7) which path PID's
# connections take. WHY: why none is seen. test/lib/compat.py makes and judges the table.
COMPAT=$B/compat/$(basename "$(cd "$(dirname "$0")" && pwd)")-${0##*/}
compat()
{
	[[ -z ${XVM_TEST_PLAIN-} && $mode = both ]] || return 0
	if [[ -z ${compat_begun-} ]]; then
		mkdir -p "$B/compat"
		: >"$COMPAT"
		compat_begun=1
	fi
	local path
	path=$(_ss compat "$3" "${4-}" 2>/dev/null) || fail "no connection of process $3"
	printf '%s\t%s\t%s\n' "$1" "$2" "$path" | tee -a "$COMPAT"
}

# expect_path CLIENT SERVER: whatever the mode demands of a client and a server's process.
expect_path()
{
	case $mode in
	both) expect_ring "$@" ;;
	client) expect_tcp "$1" ;;
	server) expect_tcp "$2" ;;
	esac
}

# stat NAME: a counter of `xvm stats`, over all that xvmd knows.
stat_of()
{
	timeout 10 "$B/xvm" stats --json | python3 "$SRC/test/lib/ss.py" stat "$1"
}

_make_net
