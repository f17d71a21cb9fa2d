# SPDX-License-Identifier: Apache-2.0
# The table of programs in libxvm(7) says what the tests have seen, of those that have run in this build.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
[[ -d $B/compat ]] || skip "no test has noted a path"
what=all
for t in $(grep -lE '^\s*(compat|echoes) ' test/*/t_*.sh); do
	name=${t#test/}
	[[ -s $B/compat/${name/\//-} ]] || what=check
done
python3 test/lib/compat.py $what "$B/compat" shim/libxvm.7 || fail "\
the table differs: after a run of all tests, test/lib/compat.py make $B/compat shim/libxvm.7"
