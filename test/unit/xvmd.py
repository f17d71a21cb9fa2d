# SPDX-License-Identifier: Apache-2.0
"""See t_xvmd.sh. The control protocol is written down here once more, from detect/proto.h."""

import array
import contextlib
import ctypes
import fcntl
import ipaddress
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

XVMD, DIR = sys.argv[1], sys.argv[2]
FMT = "<HHIIiiIIIQQQ16s128sii16s16s16sHHBBBBIIQQQQ"
HELLO, OFFER, WITHDRAW, WAKER, UNPAIR, CTL_DONE = range(1, 7)
WELCOME, BAD_VERSION, SEEN, PAIRED, REFUSED, PEER_WAKER, PEER_GONE, CTL = range(32, 40)
SS, SS_ROW, END, STATS, STATS_ROW, RESIDENT, LEAVE, ENTER, STATUS = range(64, 73)
ACTIVE, PASSIVE = 1, 2
R_NOT_RESIDENT, R_AMBIGUOUS, R_RULE, R_BAD_PEER = 3, 6, 7, 9
EP_FREE, EP_OFFERED, EP_SIZE, EP_OFF, EP_MAX = 0, 3, 448, 65 * 4096, 65536
ENOENT, EEXIST = 2, 17
libc = ctypes.CDLL(None, use_errno=True)


class Msg:
    def __init__(self, data, fds):
        v = struct.unpack(FMT, data)
        self.type, self.slot, self.gen, self.pid, self.fd, self.arg, self.arg2 = (
            v[0], v[2], v[3], v[4], v[5], v[6], v[7])
        self.arg64, self.text, self.row, self.fds = v[9], v[13].split(b"\0")[0].decode(), v[14:], fds


def memfd(name, size, data=b""):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, data, 0)
    return fd


class Client:
    def __init__(self, path, tool=False):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.s.settimeout(10)
        self.s.connect(path)
        self.arena = None
        if not tool:
            self.arena = memfd("arena", 32 << 20, struct.pack("<6I", 0x6E657261, 1, EP_SIZE, EP_MAX, 0, 0))
        self.send(HELLO, arg=1, pid=os.getpid(), fds=[] if tool else [self.arena])
        m = self.recv()
        assert m.type == WELCOME, m.type
        self.id, self.table = m.arg2, m.fds[0]

    def send(self, kind, slot=0, gen=0, pid=0, fd=0, arg=0, arg2=0, addr=b"", fds=()):
        data = struct.pack(FMT, kind, 0, slot, gen, pid, fd, arg, arg2, 0, 0, 0, 0, addr, b"", 0, 0, b"", b"",
                           b"", *[0] * 12)
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.s.sendmsg([data], anc)

    def recv(self):
        data, anc, _, _ = self.s.recvmsg(4096, socket.CMSG_SPACE(8))
        if not data:
            raise EOFError
        fds = array.array("i")
        for _, _, d in anc:
            fds.frombytes(d)
        return Msg(data, list(fds))

    def until(self, *kinds):
        while True:
            m = self.recv()
            if m.type in kinds:
                return m
            for fd in m.fds:
                os.close(fd)

    def offer(self, sock, slot, role, mark=b"x"):
        half = memfd("half", 8192, mark)
        self.send(OFFER, slot=slot, gen=1, arg=role, fds=[sock.fileno(), half])
        os.close(half)

    def endpoint(self, slot, state, gen):
        """Says in the arena what becomes of it. Without a word of that the arena is none."""
        os.pwrite(self.arena, struct.pack("<6I", 0x6E657261, 1, EP_SIZE, EP_MAX, EP_OFF, 0) +
                  struct.pack("<I", EP_MAX), 0)
        os.pwrite(self.arena, struct.pack("<3I", state, 0, gen), EP_OFF + slot * EP_SIZE)

    def verdict(self, slot=None):
        """What came of an offer: the mark in the peer's half, or the reason."""
        while (m := self.until(PAIRED, REFUSED)) and slot not in (None, m.slot):
            for fd in m.fds:
                os.close(fd)
        if m.type == REFUSED:
            return m.arg
        mark = os.pread(m.fds[0], 64, 0).rstrip(b"\0")
        os.close(m.fds[0])
        return mark

    def ask(self, kind, **k):
        self.send(kind, **k)
        return self.until(END)

    def resident(self, addr):
        ip = ipaddress.ip_address(addr)
        raw = ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed
        m = self.ask(RESIDENT, addr=raw)
        return m.arg, m.text

    def close(self):
        self.s.close()
        os.close(self.table)
        if self.arena is not None:
            os.close(self.arena)


def tcp(addr="127.0.0.1"):
    fam = socket.AF_INET6 if ":" in addr else socket.AF_INET
    with socket.socket(fam) as listener:
        listener.bind((addr, 0))
        listener.listen()
        c = socket.create_connection(listener.getsockname()[:2])
        return c, listener.accept()[0]


def fds_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for(what, check, limit=10):
    end = time.monotonic() + limit
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def run(cmd):
    subprocess.run(cmd, shell=True, check=True)


class Daemon:
    def __init__(self, name, *options, **popen):
        self.path = f"{DIR}/{name}.sock"
        self.log = open(f"{DIR}/{name}.log", "w+", encoding="utf-8")
        self.p = subprocess.Popen([XVMD, "--foreground", "--socket", self.path, *options], stderr=self.log,
                                  stdin=subprocess.DEVNULL, **popen)
        wait_for("xvmd does not come up", lambda: os.path.exists(self.path) or self.p.poll() is not None)
        assert self.p.poll() is None, self.text()
        self.tool = Client(self.path, tool=True)
        self.fds = fds_of(self.p.pid)

    def text(self):
        with open(self.log.name, encoding="utf-8") as f:
            return f.read()

    def nothing_left(self):
        wait_for(f"{fds_of(self.p.pid)} descriptors, {self.fds} at first",
                 lambda: fds_of(self.p.pid) == self.fds)
        text = self.tool.ask(STATUS).text
        assert " 0 programs, 0 pairs, 0 offers waiting, 1 namespaces" in text, text

    def stop(self):
        self.tool.close()
        self.p.terminate()
        assert self.p.wait(10) == 0, self.text()
        assert not os.path.exists(self.path) and not os.path.exists(self.path + ".lock")


@contextlib.contextmanager
def daemon(*a, **k):
    d = Daemon(*a, **k)
    yield d
    d.stop()


class Child:
    """A process of its own, in a network namespace of its own, that calls functions on request."""

    def __init__(self, uid=0):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            os._exit(self.main(theirs, uid))
        theirs.close()
        self.f = ours.makefile("rw")
        assert self.f.readline() == "up\n"

    def main(self, sock, uid):
        f = sock.makefile("rw")
        env = dict(globals())
        try:
            if uid:
                os.setuid(uid)
            elif libc.unshare(0x40000000):
                raise OSError(ctypes.get_errno(), "unshare")
            print("up", file=f, flush=True)
            for line in f:
                exec(line, env)
                print(repr(env.pop("result", None)), file=f, flush=True)
        except BaseException:
            traceback.print_exc()
            return 1
        return 0

    def do(self, code):
        print(code, file=self.f, flush=True)
        line = self.f.readline()
        assert line, f"the child has died of: {code}"
        return eval(line)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def between_namespaces():
    run("ip link set lo up; ip link add br0 type bridge; ip link set br0 up; ip addr add 10.9.0.254/24 dev br0")
    with daemon("netns") as d:
        kids = [Child(), Child()]
        for i, k in enumerate(kids, 1):
            run(f"ip link add v{i} type veth peer name e0 netns {k.pid}; ip link set v{i} master br0 up")
            k.do(f"run('ip link set lo up; ip link set e0 up; ip addr add 10.9.0.{i}/24 dev e0;"
                 f" ip addr add fd09::{i}/64 dev e0 nodad')")
        assert d.tool.resident("10.9.0.1")[0] == ENOENT, "nobody of it is a client"
        for k in kids:
            k.do(f"c = Client({d.path!r})")
        a, b = kids
        for addr, any4 in (("10.9.0.2", 0), ("fd09::2", 0), ("10.9.0.2", 1)):
            listen = "::" if any4 else addr
            b.do(f"l = socket.socket(socket.AF_INET{6 if ':' in listen else ''}); l.bind(({listen!r}, 7000));"
                 f" l.listen()")
            a.do(f"s = socket.create_connection(({addr!r}, 7000)); c.offer(s, 1, ACTIVE, b'half a')")
            b.do("s = l.accept()[0]; l.close(); c.offer(s, 1, PASSIVE, b'half b')")
            assert a.do("result = c.verdict()") == b"half b"
            assert b.do("result = c.verdict()") == b"half a"
            # The client's end last: it is not to be in TIME_WAIT on the server's port.
            a.do("s.close()")
            b.do("s.close()")
        status, text = d.tool.resident("10.9.0.2")
        assert status == 0 and f"(pid {b.pid} python" in text and "veth v2 on bridge br0" in text, text
        assert d.tool.resident("fd09::1")[0] == 0
        assert "own ns" in d.tool.resident("10.9.0.254")[1]

        # Loopback means another thing in each of them.
        a.do("s, t = tcp(); c.offer(s, 2, ACTIVE); port = s.getsockname()[1]")
        a.do("c.offer(t, 3, PASSIVE)")
        assert a.do("result = c.verdict()") == b"x"
        a.do("s.close(); t.close()")

        # An address in two namespaces, while one waits and when it comes.
        b.do("l = socket.create_server(('10.9.0.2', 7000))")
        a.do("s = socket.create_connection(('10.9.0.2', 7000)); c.offer(s, 4, ACTIVE)")
        time.sleep(0.1)
        a.do("run('ip addr add 10.9.0.2/32 dev lo')")
        wait_for("ambiguous", lambda: d.tool.resident("10.9.0.2")[0] == EEXIST)
        b.do("s = l.accept()[0]; c.offer(s, 4, PASSIVE)")
        assert b.do("result = c.verdict()") == R_AMBIGUOUS
        a.do("run('ip addr del 10.9.0.2/32 dev lo')")
        wait_for("no more", lambda: d.tool.resident("10.9.0.2")[0] == 0)

        # Its last client goes, and nothing is known of it any more.
        b.kill()
        wait_for("gone", lambda: d.tool.resident("10.9.0.2")[0] == ENOENT)
        a.do("s = socket.socket(); s.bind(('10.9.0.1', 0)); s.listen(); c.close()")
        a.kill()
        d.nothing_left()
    run("ip link del br0")


def used_again():
    """A tuple's next connection, while xvmd has not heard of the end of the last."""
    with daemon("again") as d, socket.create_server(("127.0.0.1", 0)) as listener:
        def connect(port):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
            s.bind(("127.0.0.1", port))
            s.connect(listener.getsockname())
            return s, listener.accept()[0]

        for known in True, False:
            a, b = Client(d.path), Client(d.path)
            s, t = connect(0)
            port = s.getsockname()[1]
            if not known:  # but the counts tell
                s.sendall(bytes(100))
                t.recv(100, socket.MSG_WAITALL)
            if known:
                a.endpoint(1, EP_OFFERED, 1)
            a.offer(s, 1, ACTIVE, b"old")
            a.until(SEEN)
            s.close()
            t.close()
            if known:
                a.endpoint(1, EP_FREE, 2)
                a.endpoint(2, EP_OFFERED, 1)
            s, t = connect(port)
            b.offer(t, 1, PASSIVE, b"new b")
            b.until(SEEN)
            if not known:
                assert a.verdict(1) == R_BAD_PEER
            a.offer(s, 2, ACTIVE, b"new a")
            assert a.verdict(2) == b"new b"
            assert b.verdict(1) == b"new a"
            for x in a, b, s, t:
                x.close()
        d.nothing_left()


def lost_events():
    """More changes than a socket's buffer holds, while the daemon cannot read."""
    with daemon("lost") as d:
        d.p.send_signal(signal.SIGSTOP)
        with open(f"{DIR}/batch", "w", encoding="ascii") as f:
            for k in range(30):
                for i in range(500):
                    print(f"addr add 10.8.{i // 250}.{i % 250}/32 dev lo", file=f)
                for i in range(500 if k < 29 else 499):
                    print(f"addr del 10.8.{i // 250}.{i % 250}/32 dev lo", file=f)
        run(f"ip -batch {DIR}/batch")
        d.p.send_signal(signal.SIGCONT)
        wait_for("the one that stayed", lambda: d.tool.resident("10.8.1.249")[0] == 0)
        assert d.tool.resident("10.8.0.0")[0] == ENOENT
        d.tool.send(STATS)
        n = 0
        while (m := d.tool.recv()).type != END:
            n = m.arg64 if m.text == "xvmd_resyncs" else n
        assert n > 0, "no event was lost: the test tests nothing"
        run("ip addr del 10.8.1.249/32 dev lo")


def worker(path, seed):
    rnd = random.Random(seed)
    while True:
        a, b = Client(path), Client(path)
        for k in range(rnd.randrange(3)):
            fd = os.eventfd(0)
            a.send(WAKER, arg=k, fds=[fd])
            os.close(fd)
        for i in range(rnd.randrange(1, 40)):
            s, t = tcp()
            dice = rnd.random()
            if dice < 0.8:
                a.offer(s, i, ACTIVE)
                b.offer(t, i, PASSIVE)
                if dice < 0.6:
                    assert a.verdict(i) == b"x" and b.verdict(i) == b"x"
                    a.send(UNPAIR, slot=i, gen=1)
                if dice < 0.3:
                    b.send(UNPAIR, slot=i, gen=1)
            elif dice < 0.9:
                a.offer(s, i, ACTIVE)
                a.send(WITHDRAW, slot=i, gen=1)
            elif dice < 0.93:
                a.offer(s, i, ACTIVE)
            elif dice < 0.95:
                a.s.send(os.urandom(rnd.choice([1, 288, 300])))
                break
            s.close()
            t.close()
        for c in (a, b):
            c.close()


def killed_at_random():
    with daemon("kill") as d:
        kids, rnd = set(), random.Random(1)
        for n in range(150):
            while len(kids) < 6:
                pid = os.fork()
                if pid == 0:
                    with contextlib.suppress(EOFError, OSError):
                        worker(d.path, n * 100 + len(kids))
                    os._exit(0)
                kids.add(pid)
            time.sleep(0.03)
            pid = rnd.choice(sorted(kids))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kids.discard(pid)
        for pid in kids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        d.nothing_left()


def rules():
    conf = f"{DIR}/x.conf"

    def write(text):
        with open(conf, "w", encoding="utf-8") as f:
            f.write(text)

    write("log info\npair deny program python3* port 1-65535\n")
    with daemon("rules", "--config", conf) as d:
        a = Client(d.path)

        def pair():
            s, t = tcp()
            a.offer(s, 1, ACTIVE)
            a.offer(t, 2, PASSIVE)
            return {a.verdict(), a.verdict()}

        assert pair() == {R_RULE}
        write("pair allow user root\npair deny\n")
        d.p.send_signal(signal.SIGHUP)
        wait_for("read again", lambda: "read again" in d.text())
        assert pair() == {b"x"}
        write("pair deny\npair den")
        d.p.send_signal(signal.SIGHUP)
        wait_for("refused", lambda: "x.conf:2: " in d.text())
        assert pair() == {b"x"}, "the old one stays in force"
        a.close()


def private():
    path = f"{DIR}/private/s"
    starters = [subprocess.Popen([XVMD, "--private", "--socket", path], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT) for _ in range(8)]
    for p in starters:
        # Read to the end: whoever keeps our pipe open would hold us up here.
        out = p.communicate(timeout=10)[0]
        assert p.returncode == 0 and out == b"", out
        Client(path, tool=True).close()
    assert os.stat(path).st_mode & 0o777 == 0o600
    a, b = Client(path), Client(path)
    pid = a.ask(STATUS).arg2
    assert b.ask(STATUS).arg2 == pid, "there are two"
    assert os.getsid(pid) != os.getsid(0)
    a.close()
    time.sleep(1.5)
    assert os.path.exists(path), "it went before its last client"
    b.close()
    wait_for("the end", lambda: not os.path.exists(f"/proc/{pid}"), 5)
    assert os.listdir(f"{DIR}/private") == []

    # Newcomers while it ends: each is served, by the old one or by its own.
    lost = 0
    for i in range(6):
        for _ in range(100):
            try:
                c = Client(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                subprocess.run([XVMD, "--private", "--socket", path], check=True)
            except (EOFError, OSError):
                lost += 1
        c.close()
        time.sleep(0.9985 + i * 0.001)
    assert lost == 0, f"{lost} connected to a daemon that was leaving"
    wait_for("the end", lambda: os.listdir(f"{DIR}/private") == [], 15)


def systemd():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as n:
        n.bind(f"{DIR}/notify")
        n.settimeout(5)
        with daemon("notify", env={**os.environ, "NOTIFY_SOCKET": f"{DIR}/notify"}) as d:
            assert b"READY=1" in n.recv(200)
            d.p.send_signal(signal.SIGHUP)
            assert b"RELOADING=1\nMONOTONIC_USEC=" in n.recv(200)
            assert b"READY=1" in n.recv(200)
        assert b"STOPPING=1" in n.recv(200)

    path = f"{DIR}/activated"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(path)
        s.listen()
        c = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        c.connect(path)
        pid = os.fork()
        if pid == 0:
            os.dup2(s.fileno(), 3)
            os.set_inheritable(3, True)
            os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
            os.execv(XVMD, ["xvmd", "--foreground"])
        Client(path).close()
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0
        assert os.path.exists(path), "it is systemd's"
        c.close()


def users():
    os.chmod(DIR, 0o755)
    with daemon("users") as d:
        kid = Child(uid=65534)
        kid.do(f"c = Client({d.path!r})")
        kid.do(f"t = Client({d.path!r}, tool=True)")
        a = Client(d.path)
        assert d.tool.ask(LEAVE, pid=os.getpid(), fd=999999).type == END
        assert kid.do(f"result = t.ask(LEAVE, pid={os.getpid()}).arg") == 1
        assert kid.do("result = t.ask(LEAVE, pid=999999).arg") == ENOENT
        assert kid.do("result = t.ask(STATS, arg2=1).arg") == 1
        assert kid.do("result = t.ask(STATS).arg") == 0
        a.close()
        kid.kill()
        d.nothing_left()

    # And a daemon that has no rights at all.
    os.mkdir(f"{DIR}/nobody")
    os.chown(f"{DIR}/nobody", 65534, 65534)
    # A copy: the home of the one who builds may be closed to others.
    shutil.copy(XVMD, f"{DIR}/xvmd")
    kid = Child(uid=65534)
    assert kid.do(f"result = subprocess.run([{DIR!r} + '/xvmd', '--private', '--socket', {DIR!r} + '/nobody/s'])"
                  f".returncode") == 0
    kid.do(f"c = Client({DIR!r} + '/nobody/s'); s, t = tcp(); c.offer(s, 1, ACTIVE); c.offer(t, 2, PASSIVE)")
    assert kid.do("result = c.verdict()") == b"x"
    kid.do("c.close()")
    wait_for("the end", lambda: os.listdir(f"{DIR}/nobody") == [], 15)
    kid.kill()


if __name__ == "__main__":
    run("ip link set lo up")
    for test in (between_namespaces, used_again, lost_events, killed_at_random, rules, private, systemd, users):
        print(f"== {test.__name__}", flush=True)
        test()
