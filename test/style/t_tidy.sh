# SPDX-License-Identifier: Apache-2.0
# limit: 600
# clang-tidy with the project's .clang-tidy.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
[[ -e .clang-tidy ]] || fail "there is no .clang-tidy"
[[ -s $B/compile_commands.json ]] || fail "no $B/compile_commands.json"
find transport detect shim tools -name '*.c' -print0 |
	xargs -0 -n 4 -P 2 clang-tidy --quiet -p "$B" --warnings-as-errors='*' 2>"$T/err" || {
	grep -v 'warnings generated' "$T/err" || true
	fail "clang-tidy"
}
