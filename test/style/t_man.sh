# SPDX-License-Identifier: Apache-2.0
# The man pages are there and well-formed, and every reason for staying on TCP is explained.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
failed=0
for page in tools/xvm.1 detect/xvmd.8 detect/xvmd.conf.5 shim/libxvm.7; do
	[[ -s $page ]] || {
		echo "$page is missing"
		failed=1
		continue
	}
	mandoc -T lint -W warning "$page" || failed=1
	mandoc -T ascii "$page" >"$T/page" && [[ -s $T/page ]] || failed=1
done

# The names of XVM_REASONS, as the compiler sees them.
cat >"$T/reasons.c" <<'END'
#include <stdio.h>
#include "transport/abi.h"
int main(void)
{
#define X(id, name, text) puts(name);
	XVM_REASONS(X)
}
END
cc -I "$SRC" -o "$T/reasons" "$T/reasons.c"
for doc in shim/libxvm.7 README.md; do
	[[ -s $doc ]] || {
		echo "$doc is missing"
		failed=1
		continue
	}
	# A man page may write a dash as \-.
	sed 's/\\-/-/g' "$doc" >"$T/doc"
	for name in $("$T/reasons"); do
		[[ $name != none ]] || continue
		grep -Eq "(^|[^a-z-])$name([^a-z-]|\$)" "$T/doc" || {
			echo "$doc does not explain the reason '$name'"
			failed=1
		}
	done
done

# Each subcommand and option that --help names is in xvm(1).
if [[ -x $B/xvm && -s tools/xvm.1 ]]; then
	mandoc -T ascii tools/xvm.1 | sed 's/.\x08//g' >"$T/xvm.txt"
	"$B/xvm" --help >"$T/help" 2>&1 || failed=1
	for cmd in run resident ss leave enter stats check vm-args enable disable bench; do
		grep -qw -- "$cmd" "$T/help" || {
			echo "xvm --help does not name $cmd"
			failed=1
			continue
		}
		for o in $("$B/xvm" $cmd --help 2>&1 | grep -oE -- '--[a-z][a-z-]+' | sort -u) "$cmd"; do
			grep -q -- "$o" "$T/xvm.txt" || {
				echo "xvm(1) does not name $cmd $o"
				failed=1
			}
		done
	done
fi
((failed == 0)) || fail "see above"
