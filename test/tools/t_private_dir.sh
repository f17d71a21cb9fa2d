# SPDX-License-Identifier: Apache-2.0
# xvm run trusts no directory in /tmp that somebody else could have made, and runs the program all the same.
if [[ -z ${XVM_TEST_INSIDE-} && $(id -u) = 0 ]]; then
	export XVM_TEST_INSIDE=1 TMPDIR=/var/tmp
	exec unshare --mount --pid --fork --kill-child --mount-proc -- bash "$0" "$@"
fi
. "$(dirname "$0")/../lib/test.sh"

[[ $(id -u) = 0 ]] || fail "plays two users, so it must run as root"
unset XVM_SOCKET XDG_RUNTIME_DIR LD_PRELOAD
mkdir "$T/bin"
cp "$B/xvm" "$B/xvmd" "$B/libxvm.so" "$T/bin"
chmod 755 "$T/bin"/*
# Where xvm looks for one that is not beside it.
installed=$(sed -n 's/^CMAKE_INSTALL_PREFIX:PATH=//p; s/^CMAKE_INSTALL_SBINDIR:PATH=/\//p' "$B/CMakeCache.txt")/xvmd
installed=${installed//$'\n'/}
# A /tmp and a /run of the test's own.
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
cd /
dir=/tmp/xvm-$(id -u nobody)
as_nobody=(setpriv --reuid=nobody --regid=nogroup --clear-groups)

# run [VAR=VALUE...] -- [OPTION...]: as nobody; the socket that the program is given, or nothing.
run()
{
	local env=()
	while [[ $1 != -- ]]; do
		env+=("$1")
		shift
	done
	shift
	"${as_nobody[@]}" env "${env[@]}" "$T/bin/xvm" run "$@" -- sh -c 'echo "ran ${XVM_SOCKET-} ${LD_PRELOAD-}"' \
		>"$T/out" 2>"$T/err" || fail "the program did not run: $(cat "$T/err")"
	grep -q '^ran' "$T/out" || fail "the program did not run: $(cat "$T/out" "$T/err")"
}

# plain WHY: without xvm, silently; with --log it says so in one line.
plain()
{
	run -- || true
	[[ $(cat "$T/out") = "ran  " && ! -s $T/err ]] || fail "$1: $(cat "$T/out" "$T/err")"
	run -- --log 1 || true
	[[ $(cat "$T/out") = "ran  " && $(wc -l <"$T/err") = 1 ]] || fail "$1, --log 1: $(cat "$T/out" "$T/err")"
	cat "$T/err"
}

step "a symbolic link"
ln -s /var/tmp "$dir"
plain "a symbolic link"
rm "$dir"
step "somebody else's directory"
mkdir -m 777 "$dir"
chmod 777 "$dir"
plain "somebody else's directory"
step "ours, but others may enter"
chown nobody "$dir"
plain "others may enter"
step "a file"
rmdir "$dir"
"${as_nobody[@]}" touch "$dir"
plain "a file"
rm "$dir"

step "a runtime directory that is not ours, as under sudo"
mkdir -m 700 "$T/rt"
run "XDG_RUNTIME_DIR=$T/rt" --
[[ $(cat "$T/out") = "ran $dir/xvmd.sock $T/bin/libxvm.so" ]] || fail "$(cat "$T/out")"
[[ $(stat -c '%a %U' "$dir") = "700 nobody" ]] || fail "$(stat -c '%a %U' "$dir")"
step "and one that is"
chown nobody "$T/rt"
run "XDG_RUNTIME_DIR=$T/rt" LD_PRELOAD=libc.so.6 --
[[ $(cat "$T/out") = "ran $T/rt/xvm/xvmd.sock $T/bin/libxvm.so:libc.so.6" ]] || fail "$(cat "$T/out")"

step "no daemon to be had"
mv "$T/bin/xvmd" "$T/bin/xvmd.real"
# One that is installed would do as well.
[[ ! -e $installed ]] || mount --bind /dev/null "$installed"
run -- --private --socket "$T/rt/a/x.sock"
[[ $(cat "$T/out") = "ran  " ]] || fail "no xvmd: $(cat "$T/out")"
printf '#!/bin/sh\nexit 3\n' >"$T/bin/xvmd"
chmod 755 "$T/bin/xvmd"
run -- --private --socket "$T/rt/a/x.sock"
[[ $(cat "$T/out") = "ran  " ]] || fail "xvmd fails: $(cat "$T/out")"
# It is given five seconds.
printf '#!/bin/sh\nexec tail -f /dev/null\n' >"$T/bin/xvmd"
run -- --private --socket "$T/rt/a/x.sock" --log 1
[[ $(cat "$T/out") = "ran  " && $(wc -l <"$T/err") = 1 ]] || fail "xvmd hangs: $(cat "$T/out" "$T/err")"
mv "$T/bin/xvmd.real" "$T/bin/xvmd"

step "a daemon keeps nothing of its caller's open"
# Not to hang here is the test: the pipe would stay open as long as the daemon.
out=$(timeout 5 "${as_nobody[@]}" "$T/bin/xvm" run --private --socket "$T/rt/b/x.sock" echo hi 3>&1)
[[ $out = hi ]] || fail "'$out'"
