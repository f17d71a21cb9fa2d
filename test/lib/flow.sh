# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Judging what test/net/flow says.

# exact LOG...: all directions ended well, and what one end sent is what the other received.
exact()
{
	local n
	for n; do
		[[ $(grep -c '^done' "$T/$n.log") = "$(grep -c '^done.*send_end=ok recv_end=eof bad=-1' "$T/$n.log")" ]] ||
			fail "$n: $(grep -E '^(done|WRONG)' "$T/$n.log")"
	done
	n=$(cd "$T" && sed -n 's/^done.* sent=\([0-9]*\) received=\([0-9]*\).*/\1\n\2/p' "${@/%/.log}" | sort | uniq -c | awk '$1 % 2')
	[[ -z $n ]] || fail "sent and received differ: $(cd "$T" && grep '^done' "${@/%/.log}")"
}

# not_wrong LOG: no byte was wrong, however it ended.
not_wrong()
{
	! grep WRONG "$T/$1.log" || fail "$1 received a wrong byte"
}

# field LOG NAME: of the line "done" of its only connection.
field()
{
	sed -n "s/^done.* $2=\([^ ]*\).*/\1/p" "$T/$1.log"
}

# count FILE 0|1: bytes that send() took, that recv() gave, of a flow with --count FILE.
count()
{
	od -A n -t u8 -j $(($2 * 8)) -N 8 "$1" | tr -d ' '
}

# moved FILE 0|1 BYTES: at least so many.
moved()
{
	local n
	n=$(count "$1" "$2") # nothing while the file is being made, and to bash that is fatal in (( ))
	((${n:-0} >= $3))
}
