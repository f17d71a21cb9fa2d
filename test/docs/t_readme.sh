# SPDX-License-Identifier: Apache-2.0
# The README has what it must have; files it names are there; licence and heads of files.
. "$(dirname "$0")/../lib/test.sh"

cd "$SRC"
failed=0
no()
{
	echo "$*"
	failed=1
}

[[ -s README.md ]] || fail "there is no README.md"
grep -q 'sudo tools/demo' README.md || no "README.md does not name sudo tools/demo"
grep -q 'sudo test/run' README.md || no "README.md does not name sudo test/run"
# Relative links.
while read -r link; do
	[[ -e ${link%%#*} ]] || no "README.md links to $link, which is not there"
done < <(grep -oE '\]\([^)#:]+[^):]*\)' README.md | sed 's/^](//; s/)$//')
grep -q 'Apache License' LICENSE && grep -q 'Version 2.0' LICENSE || no "LICENSE is not Apache-2.0"
sources=0
while read -r f; do
	# The licence is said in each source file.
	head -n 3 "$f" >"$T/head"
	grep -q 'SPDX-License-Identifier: Apache-2.0' "$T/head" || no "$f does not name its licence"
	sources=$((sources + 1))
done < <(find . \( -path './build*' -o -path './.*' -o -path "./${B#"$SRC/"}" \) -prune -o -type f \
	\( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' -o -name '*.def' \) -print)
((sources > 100)) || no "found only $sources sources: is this the whole project?"
((failed == 0)) || fail "see above"
