# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What every test in shell starts with:  . "$(dirname "$0")/../lib/test.sh"
#
# A test passes by ending with 0, fails by ending otherwise, and skips by calling skip. It finds
# the build in $B and a directory of its own, which goes at the end, in $T. A line
# `# limit: SECONDS` in its first lines is its time limit for test/run (else 120).
set -eEu -o pipefail

SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
B=${XVM_BUILD:-$SRC/build}
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

fail()
{
	trap - ERR
	echo "FAIL: $*"
	exit 1
}

skip()
{
	trap - ERR
	echo "skip: $*"
	exit 77
}

# step TEXT: says where the test is; seen when it fails.
step()
{
	printf '== %7.2f %s\n' "$(since_start)" "$*"
}

since_start()
{
	local now=${EPOCHREALTIME/./}
	printf '%d.%06d' $(((now - T_START) / 1000000)) $(((now - T_START) % 1000000))
}

# wait_for SECONDS CMD...: runs CMD again and again until it succeeds; fails after SECONDS.
wait_for()
{
	local end=$((${EPOCHREALTIME/./} + $1 * 1000000))
	shift
	until "$@" >/dev/null 2>&1; do
		((${EPOCHREALTIME/./} < end)) || return 1
		pause 0.02
	done
}

# A breath between two looks, without a process. Never a substitute for looking.
pause()
{
	read -r -t "$1" -u "$NEVER" || true
}

# same FILE FILE: equal by sha256, and not empty.
same()
{
	local x y
	[[ -s $1 ]] || fail "$1 is empty"
	[[ -e $2 ]] || fail "$2 is missing"
	x=$(sha256sum <"$1")
	y=$(sha256sum <"$2")
	[[ $x = "$y" ]] || fail "$1 ($(stat -c %s "$1") bytes) and $2 ($(stat -c %s "$2") bytes) differ" \
		"from byte $(cmp "$1" "$2" 2>&1 | sed 's/.*byte //')"
}

# random_file FILE BYTES: different in each place, and quick to make.
random_file()
{
	# head ends the pipe early: openssl's SIGPIPE is no failure.
	(set +o pipefail; openssl enc -aes-128-ctr -pass "pass:$1" -nosalt -iter 1 </dev/zero 2>/dev/null | head -c "$2") >"$1"
	[[ $(stat -c %s "$1") = "$2" ]] || fail "could not make $1"
}

T_PID=$BASHPID
T_START=${EPOCHREALTIME/./}
T=$(mktemp -d "${TMPDIR:-/tmp}/xvm-test.XXXXXX")
chmod 755 "$T"
# Where a private daemon lives: builds of other versions are not to meet in it.
export XDG_RUNTIME_DIR=$T/run
mkdir -m 700 "$T/run"
mkfifo "$T/never"
exec {NEVER}<>"$T/never"

# at_exit CMD: run at the end, last one first.
T_EXIT=()
at_exit()
{
	T_EXIT=("$*" "${T_EXIT[@]}")
}

_on_exit()
{
	local status=$? cmd
	# A child that a signal meets before it has become another program.
	[[ $BASHPID = "$T_PID" ]] || exit "$status"
	trap - EXIT ERR INT TERM HUP
	set +e
	for cmd in "${T_EXIT[@]}"; do
		eval "$cmd"
	done
	rm -rf "$T"
	exit "$status"
}
trap _on_exit EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# To stderr: in $(...) it would be taken for what the command printed.
trap 'echo "FAIL: ${BASH_SOURCE[0]##*/}:$LINENO: \"$BASH_COMMAND\" ended with $?" >&2' ERR
