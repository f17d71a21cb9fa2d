# SPDX-License-Identifier: Apache-2.0
# Bad input to xvm and xvmd gets one clear line and a non-zero exit, soon.
. "$(dirname "$0")/../lib/net.sh"

[[ -z ${XVM_TEST_PLAIN-} ]] || skip "nothing of ours runs on plain TCP"
start_xvmd
failures=0

# bad CMD...
bad()
{
	local status=0
	timeout 10 "$@" >"$T/out" 2>"$T/err" </dev/null || status=$?
	printf '%3d %s: %s\n' $status "${*##*/}" "$(cat "$T/err")"
	if ((status == 0 || status == 124 || status >= 128)); then
		echo "!! exit status"
	elif [[ $(wc -l <"$T/err") != 1 ]]; then
		echo "!! not one line"
	elif [[ -s $T/out ]]; then
		echo "!! something on stdout: $(head -n 3 "$T/out")"
	else
		return 0
	fi
	failures=$((failures + 1))
}

xvm=$B/xvm
bad "$xvm"
bad "$xvm" nonsense
bad "$xvm" --nonsense
for cmd in ss stats resident leave enter check bench run enable disable; do
	bad "$xvm" $cmd --nonsense
done
bad "$xvm" ss extra
bad "$xvm" stats --json --prometheus
bad "$xvm" stats extra
bad "$xvm" resident
for addr in 1.2.3 1.2.3.4.5 256.1.1.1 fe80::g localhost '' 10.0.0.1/8 "$(printf '%0500d' 1)"; do
	bad "$xvm" resident "$addr"
done
bad "$xvm" leave
for id in 1 1: :1 a:b 1:2:3 -1:3 1:-3 99999999999:3 1:99999999999 '' ' 1:3' 0x1:3; do
	bad "$xvm" leave -- "$id"
	bad "$xvm" enter -- "$id"
done
bad "$xvm" leave --all 1:3
bad "$xvm" leave 999999:3
bad "$xvm" run
bad "$xvm" run -- /nonexistent
bad "$xvm" check 1.2.3
bad "$xvm" check "$B4:99999"
bad "$xvm" bench nonsense
bad "$xvm" bench --rounds 0
bad "$xvm" bench --rounds x
bad "$xvm" bench --sizes 0
bad "$xvm" bench --netns nonsense
bad "$xvm" bench --addr 1.2.3
bad "$xvm" enable
bad "$xvm" enable ../../etc/passwd
bad "$xvm" disable nonsense.service

step "a socket path that is not ours"
: >"$T/file"
bg other plain host python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); s.bind(sys.argv[1]); s.listen(); time.sleep(1000)' "$T/stream.sock"
wait_for 5 test -S "$T/stream.sock"
for path in "$T/file" "$T" "$T/nothing" /dev/null "$T/stream.sock" "$(printf '/%0300d' 1)" ''; do
	bad "$xvm" ss --socket "$path"
	bad "$xvm" leave --socket "$path" 1:3
	bad env "XVM_SOCKET=${path:-relative/nothing}" "$xvm" stats
done

step "xvmd"
xvmd=("$B/xvmd" --foreground)
bad "${xvmd[@]}" --nonsense
bad "${xvmd[@]}" extra
bad "${xvmd[@]}" --socket
bad "${xvmd[@]}" --socket ''
bad "${xvmd[@]}" --socket "$T/no/such/directory/sock"
bad "${xvmd[@]}" --socket "$(printf '/%0300d' 1)"
bad "${xvmd[@]}" --socket "$T"
bad "${xvmd[@]}" --socket "$T/file"
[[ -f $T/file ]] || fail "xvmd removed a file that was not its socket"
bad "${xvmd[@]}" --socket "$XVM_SOCKET"
"$xvm" ss >/dev/null || fail "a second xvmd took the socket of the first one"
for text in 'pair' 'pair maybe' 'pair deny port 0x10' 'pair deny port 80 port 81' 'log' 'log loud' 'x'; do
	printf '\n%s\n' "$text" >"$T/bad.conf"
	bad "${xvmd[@]}" --socket "$T/x.sock" --config "$T/bad.conf"
	grep -q "bad.conf:2: " "$T/err" || { echo "!! without file and line"; failures=$((failures + 1)); }
done
printf 'pair deny por' >"$T/bad.conf"
bad "${xvmd[@]}" --socket "$T/x.sock" --config "$T/bad.conf"
bad "${xvmd[@]}" --socket "$T/x.sock" --config "$T/nothing.conf"
bad "${xvmd[@]}" --socket "$T/x.sock" --config "$T"
bad "${xvmd[@]}" --socket "$T/x.sock" --config /dev/zero

step "packets that are no messages"
python3 - "$XVM_SOCKET" <<'END'
import os, random, socket, sys
rnd = random.Random(3)
for n in range(300):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(sys.argv[1])
    for _ in range(rnd.randrange(1, 5)):
        size = rnd.choice((0, 1, 10, 287, 288, 289, 1000))
        body = bytearray(rnd.randbytes(size))
        if size >= 2 and rnd.random() < 0.8:
            body[0:2] = bytes((rnd.choice((0, 1, 2, 3, 4, 5, 6, 32, 37, 64, 66, 68, 70, 71, 72, 73)), 0))
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(rnd.randrange(4))]
        try:
            socket.send_fds(s, [body], fds)
        except OSError:
            break
        finally:
            for fd in fds:
                os.close(fd)
    s.close()
END
running "$XVMD" || fail "xvmd is gone: $(tail "$T/xvmd.log")"
"$xvm" ss >/dev/null || fail "xvmd answers no more"
((failures == 0)) || fail "$failures are not as they should be"
