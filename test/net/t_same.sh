# SPDX-License-Identifier: Apache-2.0
# limit: 180
# What a program prints, its exit status and what the other end saw are the same plain, with either end
# preloaded and with both; also when things go wrong.
. "$(dirname "$0")/../lib/net.sh"
. "$SRC/test/lib/web.sh"

start_xvmd
web_files 3000000
web_conf "$B4"

# seen NAME CMD...: output and exit status of a client, without what differs between any two runs.
seen()
{
	local name=$1 status=0
	shift
	timeout 30 "$CMODE" a "$@" >"$T/o" 2>"$T/e" </dev/null || status=$?
	{
		echo "== $name: $status"
		cat "$T/o"
		echo "-- stderr"
		sed -E 's/[0-9]+\.[0-9]+ ?(ms|s|seconds)//g; s/port [0-9]{5}/port N/; /^Date:/d; s/^< Date:.*//; s/^< ETag:.*//; s/in [0-9]+ ms/in N ms/; s/after [0-9]+ (ms|milliseconds)/after N ms/; s/0x[0-9a-f]{8,}/0xN/; s/with [0-9]+ out of/with N out of/' "$T/e"
	} >>"$T/seen.$mode"
}
# The function of a mode in the background would be a shell's: timeout wants a program.
timeout()
{
	local secs=$1 W
	shift
	case $1 in
	plain | xvm)
		"_wrap_$1" "$2"
		shift 2
		command timeout "$secs" "${W[@]}" "$@"
		;;
	*) command timeout "$secs" "$@" ;;
	esac
}

cat >"$T/probe.py" <<'END'
# What a program can ask of a connection, before, while and after bytes flow.
import errno, os, socket, struct, sys

s = socket.create_connection((sys.argv[1], 6379))
def ask(what, f):
    try:
        print(what, f())
    except OSError as e:
        print(what, errno.errorcode[e.errno])
def everything():
    for level, opts in ((socket.SOL_SOCKET, "SO_TYPE SO_ERROR SO_KEEPALIVE SO_LINGER SO_REUSEADDR SO_RCVLOWAT SO_ACCEPTCONN".split()),
                        (socket.IPPROTO_TCP, "TCP_NODELAY TCP_CORK TCP_MAXSEG TCP_QUICKACK TCP_KEEPIDLE".split())):
        for o in opts:
            ask(o, lambda: s.getsockopt(level, getattr(socket, o), 64).hex())
    ask("peer", s.getpeername)
    ask("flags", lambda: __import__("fcntl").fcntl(s, 3))
    ask("stat", lambda: oct(os.fstat(s.fileno()).st_mode))
    ask("seek", lambda: os.lseek(s.fileno(), 0, os.SEEK_CUR))
    ask("pread", lambda: os.pread(s.fileno(), 1, 0))
    ask("tty", lambda: os.isatty(s.fileno()))
everything()
f = s.makefile("rb")
for i in range(200):
    s.sendall(b"ECHO %d\r\n" % i)
    line = f.readline()
    if i % 50 == 0:
        print(line, f.readline())
    else:
        f.readline()
everything()
s.sendall(b"ECHO peek\r\n")
while len(s.recv(100, socket.MSG_PEEK)) < 10: pass
print(s.recv(100, socket.MSG_PEEK), s.recv(3), s.recv(100, socket.MSG_DONTWAIT))
ask("empty", lambda: s.recv(1, socket.MSG_DONTWAIT))
s.settimeout(0.05)
try: s.recv(1)
except TimeoutError as e: print("timeout", e)
s.settimeout(None)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50000))
ask("rcvtimeo", lambda: s.recv(1))
s.sendall(b"QUIT\r\n")
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
print(f.read(), f.read())
ask("after end", lambda: s.recv(1))
s.shutdown(socket.SHUT_RDWR)
ask("after shutdown", lambda: s.recv(1))
ask("send after shutdown", lambda: s.send(b"x", socket.MSG_NOSIGNAL))
print("fds", len(os.listdir("/proc/self/fd")) < 20)
END

for mode in $MODES; do
	set_mode "$mode"
	bg_server nginx nginx -c "$T/nginx.conf"
	n=$PID
	bg_server redis redis-server --bind "$B4" --protected-mode no --save '' --appendonly no
	r=$PID
	wait_port b 8080
	wait_port b 6379
	url=http://$B4:8080
	: >"$T/seen.$mode"
	seen "headers" curl -sS -v "$url/small/1" -o /dev/null
	seen "many" curl -sS -v "$url/small/[0-50]" -o /dev/null
	seen "range" curl -sS -r 1000-1999 "$url/big" -o -
	seen "missing" curl -sS -f "$url/nothing"
	seen "refused" curl -sS "http://$B4:1/"
	seen "max time" curl -sS -m 1 --limit-rate 1000 "$url/big" -o /dev/null
	seen "redis errors" redis-cli -h "$B4" eval 'return {1,2,{3,"four"}}' 0
	seen "redis transaction" redis-cli -h "$B4" incr x
	seen "redis pipe" redis-cli -h "$B4" -r 300 incr x
	seen "redis bad command" redis-cli -h "$B4" nonsense
	seen "unreachable" redis-cli -h "$B4" -p 2 ping
	seen "probe" python3 "$T/probe.py" "$B4"
	seen "exec" sh -c "exec 3<>/dev/null; curl -sS $url/small/2 | sha256sum"
	seen "bash" bash -c "exec 3<>/dev/tcp/$B4/6379; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo PING >&3; read -r x <&3; echo \$x; done; exec 3>&-"
	client redis-cli -h "$B4" shutdown nosave || true
	finished "$r"
	stop "$n"
	[[ -e $T/seen.plain ]] || continue
	diff "$T/seen.plain" "$T/seen.$mode" || fail "in mode $mode (>) something differs from plain (<)"
done
wc -l "$T/seen.plain"
