# SPDX-License-Identifier: Apache-2.0
# xvm enable and xvm disable, on files below a directory: what is written is what systemd reads.
. "$(dirname "$0")/../lib/test.sh"

xvm=$B/xvm
lib=$(realpath "$B/libxvm.so")
root=$T/root
mkdir "$root"
file=$root/etc/systemd/system/nginx.service.d/50-xvm.conf
unset XVM_SOCKET

step "enable"
"$xvm" enable --root "$root" nginx >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
grep -q 'nginx.service.*restart' "$T/out" || fail "it does not say that a restart is needed"
grep -qxF "Environment=\"LD_PRELOAD=$lib\"" "$file" || fail "$(cat "$file")"
grep -q XVM_SOCKET "$file" && fail "it names a socket that is the default"
[[ $(stat -c %a "$file") = 644 ]] || fail "mode $(stat -c %a "$file")"
cp "$file" "$T/first"
"$xvm" enable nginx.service --root "$root" >/dev/null 2>&1 || fail "not a second time"
cmp "$T/first" "$file" || fail "a second time gives something else"

step "a socket elsewhere; characters that mean something to systemd"
"$xvm" enable --root "$root" --socket '/run/a%b"c/x.sock' nginx >/dev/null 2>&1 || fail "with --socket"
grep -qxF 'Environment="XVM_SOCKET=/run/a%%b\"c/x.sock"' "$file" || fail "$(cat "$file")"
if command -v systemd-analyze >/dev/null; then
	mkdir -p "$root/usr/lib/systemd/system"
	printf '[Service]\nExecStart=/bin/true\n' >"$root/etc/systemd/system/nginx.service"
	# It tells much of what this root lacks; only our own file matters.
	systemd-analyze verify --root="$root" --man=no nginx.service >"$T/verify" 2>&1 || true
	grep -q '50-xvm.conf' "$T/verify" && fail "systemd: $(grep 50-xvm.conf "$T/verify")"
	rm "$root/etc/systemd/system/nginx.service"
fi

step "disable"
touch "$(dirname "$file")/60-other.conf"
"$xvm" disable --root "$root" nginx >/dev/null || fail "disable"
[[ ! -e $file ]] || fail "the file is still there"
[[ -e $(dirname "$file")/60-other.conf ]] || fail "somebody else's drop-in is gone"
rm "$(dirname "$file")/60-other.conf"
"$xvm" enable --root "$root" nginx >/dev/null 2>&1
"$xvm" disable --root "$root" nginx >/dev/null
[[ ! -e $(dirname "$file") ]] || fail "an empty directory is left"
status=0
"$xvm" disable --root "$root" nginx >"$T/out" 2>"$T/err" || status=$?
[[ $status = 1 && ! -s $T/out && $(wc -l <"$T/err") = 1 ]] || fail "disabled twice: $status, $(cat "$T/out" "$T/err")"

step "misuse"
for unit in ../x a/b '' .x 'a b' nginx.socket x.target -- "$(printf '%0300d' 1)"; do
	status=0
	"$xvm" enable --root "$root" "$unit" >"$T/out" 2>"$T/err" || status=$?
	[[ $status = 2 && ! -s $T/out && $(wc -l <"$T/err") = 1 ]] || fail "'$unit': $status, $(cat "$T/err")"
done
for args in '--root /nonexistent' '--lib /nonexistent' '--socket relative'; do
	status=0
	# shellcheck disable=SC2086
	"$xvm" enable --root "$root" $args nginx >"$T/out" 2>"$T/err" || status=$?
	[[ $status = 2 && ! -s $T/out && $(wc -l <"$T/err") = 1 ]] || fail "$args: $status, $(cat "$T/err")"
done
[[ -z $(find "$root" -type f) ]] || fail "something is left: $(find "$root" -type f)"
