# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Running test/fault/hostile, after . "$(dirname "$0")/../lib/net.sh".
#
#   scene SIDE SCENE start|mid|under ring|tcp|any [VAR=VALUE...]
#
# SIDE (server, client) of a connection on which both are preloaded is in the SCENE, from its start,
# in mid-stream, or since before it is executed; VAR=VALUE is its environment. Its bytes must be right and
# both must end well. Seen from the other side the path must be as given; tcp: there is a reason, and one
# for the SIDE too, in `xvm ss` or, of a program that xvmd knows nothing of, in its log.

HOSTILE=$T/hostile
scene_nr=0

scene()
{
	local side=$1 name=$2 when=$3 path=$4 in s c p q who
	local -a env=("${@:5}") cs=(none) ss=(none) cpre=() spre=()
	[[ -x $HOSTILE ]] || install -m 755 "$B/test/fault/hostile" "$HOSTILE"
	step "$side: $name, $when${env[*]:+, ${env[*]##*/}}"
	case $side,$when in
	server,mid) ss=("$name") ;;
	server,start) ss=("$name" start) ;;
	server,under) spre=("$HOSTILE" under "$name") ;;
	client,mid) cs=("$name") ;;
	client,start) cs=("$name" start) ;;
	client,under) cpre=("$HOSTILE" under "$name") ;;
	esac
	[[ $side = client ]] && cpre=(env XVM_LOG=1 "${env[@]}" "${cpre[@]}") || spre=(env XVM_LOG=1 "${env[@]}" "${spre[@]}")
	scene_nr=$((scene_nr + 1))
	mkfifo "$T/in$scene_nr"
	exec {in}<>"$T/in$scene_nr"
	# The filters are there before the library is; so what comes last is preloaded by env.
	[[ ${env[*]} = *LD_PRELOAD* ]] || env+=("LD_PRELOAD=$T/libxvm.so")
	if [[ $side = server ]]; then
		bg server plain host "${spre[@]}" env "${env[@]}" "$HOSTILE" serve $((7000 + scene_nr)) "${ss[@]}"
	else
		bg server xvm host "$HOSTILE" serve $((7000 + scene_nr)) "${ss[@]}"
	fi
	s=$PID
	wait_port host $((7000 + scene_nr))
	if [[ $side = client ]]; then
		bg client plain host sh -c 'in=$1; shift; exec "$@" <"$in"' - "$T/in$scene_nr" \
			"${cpre[@]}" env "${env[@]}" "$HOSTILE" connect $((7000 + scene_nr)) "${cs[@]}"
	else
		bg client xvm host sh -c 'in=$1; shift; exec "$@" <"$in"' - "$T/in$scene_nr" \
			"$HOSTILE" connect $((7000 + scene_nr)) "${cs[@]}"
	fi
	c=$PID
	wait_for 30 eval "grep -q ready '$T/client.log' || _gone $c" || {
		_show_stuck "$c"
		_show_stuck "$s"
		fail "no bytes go through"
	}
	running "$c" || finished "$c"
	if [[ $side = server ]]; then
		p=$c q=$s who=server
	else
		p=$s q=$c who=client
	fi
	if [[ $path != any ]]; then
		mode=both
		_expect "$path" "$p"
	fi
	if [[ $path = tcp ]] && ! _ss tcp "$q"; then
		grep 'xvm\[' "$T/$who.log" || fail "nothing says why the $who is on TCP"
	fi
	echo >&"$in"
	exec {in}>&-
	finished "$c"
	finished "$s"
	grep -q done "$T/client.log" || fail "the client has not come to its end"
}

# scenes SIDES WHEN PATH NAME...
scenes()
{
	local side name
	for name in "${@:4}"; do
		for side in $1; do
			scene "$side" "$name" "$2" "$3"
		done
	done
}
