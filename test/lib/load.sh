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
	if [[ $mode != both ]]; then
		echo 2
	elif [[ -n ${XVM_NIGHTLY-} ]]; then
		echo 60
	else
		echo 6
	fi
}

# load_http NAME ADDR PORT CONNECTIONS get|post WHERE: test/net/load.py in the background, in $LOAD.
load_http()
{
	bg_client "$1" python3 "$SRC/test/net/load.py" "$2" "$3" "$(load_seconds)" "${@:4}"
	LOAD=$PID
}

# load_done: it ends by itself, and no request has failed.
load_done()
{
	local name=${BG[$LOAD]}
	finished "$LOAD" 60
	cat "$T/$name.log"
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
