# SPDX-License-Identifier: Apache-2.0
# limit: 300
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
[[ -s $B/compile_commands.json ]] || fail "no $B/compile_commands.json"
python3 - "$B/compile_commands.json" "$T/commands.json" <<'END'
import json, sys
# The project's own code, once; tests use macros that cppcheck does not know.
seen, keep = set(), []
for c in json.load(open(sys.argv[1])):
    if "/test/" not in c["file"] and c["file"].endswith(".c") and c["file"] not in seen:
        seen.add(c["file"])
        keep.append(c)
json.dump(keep, open(sys.argv[2], "w"))
print(len(keep), "files")
END
options=(
	# It does not know the machine's own macros, nor all of libc's headers.
	"-D__$(uname -m)__=1" --suppress=missingIncludeSystem
	# What a call through a pointer (REAL(recv)(fd, &c, 1, 0)) fills in looks unset to it, and it does not see
	# that (ret || line[0]) looks at line only if it is set. gcc -O2 -Wall, the sanitizers and valgrind
	# look for the same and know the flow.
	--suppress=uninitvar --suppress=legacyUninitvar
)
cppcheck --project="$T/commands.json" --enable=warning,performance,portability --inline-suppr --std=c11 \
	--error-exitcode=1 --quiet -j 2 "${options[@]}"
