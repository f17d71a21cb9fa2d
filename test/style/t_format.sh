# SPDX-License-Identifier: Apache-2.0
# clang-format would change nothing.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
mapfile -d '' -t files < <(find transport detect shim tools test -name '*.[ch]' -print0)
((${#files[@]} > 20)) || fail "found ${#files[@]} files only"
clang-format --dry-run --Werror "${files[@]}"
