# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# What both parts of tools/demo show, and how they wait. $NEVER is a descriptor that nothing comes from.

TTY='' WIDTH=80
if [[ -t 1 ]]; then
	TTY=1
	WIDTH=$(tput cols 2>/dev/null) || WIDTH=80
fi

say()
{
	printf '%s[%3d s] %s\n' "${TTY:+$'\r\033[K'}" "$SECONDS" "$*"
}

# A breath between two looks, without a process.
pause()
{
	read -r -t "$1" -u "$NEVER" || true
}

# pause_until SECONDS CMD...: looks again and again until CMD succeeds.
pause_until()
{
	local end=$((SECONDS + $1 + 1))
	shift
	until "$@"; do
		((SECONDS < end)) || return 1
		pause 0.05
	done
}

ended()
{
	# A zombie has ended as well.
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
	stat=${stat##*) }
	[[ ${stat%% *} = Z ]]
}

# follow PID TEXT [HOOK]: shows that it works, for how long, and what HOOK says in $NOTE; its exit status. HOOK
# comes by ten times a second; a_second tells it whether another one has begun.
follow()
{
	local start=$SECONDS shown=-1 status=0 line NOTE=''
	until ended "$1"; do
		[[ -z ${3-} ]] || "$3"
		if ((SECONDS != shown)); then
			shown=$SECONDS
			line="$2 … $((SECONDS - start)) s${NOTE:+  $NOTE}"
			if [[ -n $TTY ]]; then
				# A line that is wrapped could not be written over.
				printf -v line '[%3d s] %s' "$SECONDS" "$line"
				printf '\r\033[K%s' "${line:0:WIDTH - 1}"
			elif (((SECONDS - start) % 5 == 0)); then
				say "$line"
			fi
		fi
		pause 0.1
	done
	[[ -z $TTY ]] || printf '\r\033[K'
	wait "$1" || status=$?
	return "$status"
}

a_second()
{
	((SECONDS != shown))
}

# last_word FILE LENGTH: the end of what is there, for $NOTE.
last_word()
{
	local line
	line=$(tail -n 1 "$1" 2>/dev/null | tr -cd ' -~') || true
	printf '%s' "${line:0:$2}"
}

# The table at the end: RATE has the figures by NAME-plain and NAME-xvm, PATHS what xvm ss said, by NAME.
declare -A RATE PATHS

heading()
{
	echo
	printf '  %-28s %12s %12s %-7s %8s   %s\n' "" plain xvm "" ratio "client's connections, by xvm ss"
}

# row TEXT UNIT NAME
row()
{
	awk -v n="$1" -v u="$2" -v p="${RATE[$3-plain]}" -v x="${RATE[$3-xvm]}" -v w="${PATHS[$3]}" 'BEGIN {
		printf "  %-28s %12.0f %12.0f %-7s %7.2fx   %s\n", n, p, x, u, x / p, w }'
}

# Rows of `xvm ss` on stdin: how many take which path.
paths()
{
	awk '{ n[$6 ($8 == "-" ? "" : " (" $8 ")")]++; all++ }
		END { for (p in n) s = s (s ? ", " : "") n[p] " of " all " on " p; print s ? s : "not seen" }'
}

all_on_ring()
{
	local p
	for p in "${PATHS[@]}"; do
		[[ $p = *" on ring"* ]] || die "not on the ring: $p"
	done
}
