# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# For the tests of test/lang, after . "$(dirname "$0")/../lib/net.sh": an echo in some language, as
# server and as client. test/lang/echo.c says how all of them are called.

# Enough that its connections are on the ring before they have nothing more to say.
random_file "$T/in" 6000000
ECHO_PORT=8500

# The Debian package's, whatever else is first in PATH.
PATH=/usr/bin:$PATH

# echoes WHAT VERSION PATH CMD...: CMD serve and CMD connect, in each mode, give back each byte; PATH is
# that of mode both: ring, tcp (shown, with a reason), or why no connection of theirs is seen at all.
echoes()
{
	local what=$1 version=$2 path=$3 c s i
	shift 3
	for mode in $MODES; do
		set_mode "$mode"
		step "$what"
		ECHO_PORT=$((ECHO_PORT + 1))
		rm -f "$T"/got.* "$T/go"
		bg_server server "$@" serve "$B4" $ECHO_PORT
		s=$PID
		wait_port b $ECHO_PORT
		bg_client client "$@" connect "$B4" $ECHO_PORT "$T/in" "$T/got" 4 "$T/go"
		c=$PID
		says client "all back"
		case $path in
		ring) expect_path "$c" "$s" ;;
		tcp) expect_all_tcp "$s" ;;
		*) expect_unseen "$c" "$s" ;;
		esac
		[[ $path = ring || $path = tcp ]] && compat "$what" "$version" "$s" || compat "$what" "$version" "$s" "$path"
		: >"$T/go"
		finished "$c"
		for i in 0 1 2 3; do
			same "$T/in" "$T/got.$i"
		done
		stop "$s"
	done
	nothing_broken
}
