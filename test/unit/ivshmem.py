# SPDX-License-Identifier: Apache-2.0
"""See t_ivshmem.sh. Layout and letters are written down here once more, from transport/region.h."""

import array
import ctypes
import fcntl
import ipaddress
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback

XVMD, DIR = sys.argv[1], sys.argv[2]
LETTER = "<IIII16s16sHHIQQQIH6sIII8xQQQ"
BOX, SLOTS, HALF = 20480, 128, 4096 + 65536
HELLO, ADDR, OFFER, WITHDRAW, UNPAIR, BYE = range(1, 7)
FREE, JOINED, UP, DEAD = range(4)
WELCOME, AGAIN, PAIRED, REFUSED, GONE, ADDR_REFUSED, FREED = range(32, 39)
USED, AMBIGUOUS, LOCAL, VM_FLAG, SEEN = 1, 2, 4, 8, 16
EPERM, EAGAIN = 1, 11
assert struct.calcsize(LETTER) == 136


def wait_for(what, check, limit=10):
    end = time.monotonic() + limit
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def asleep(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return f.read().rsplit(") ", 1)[1][0] == "S"


def run(cmd):
    subprocess.run(cmd, shell=True, check=True)


def raw(addr):
    ip = ipaddress.ip_address(addr)
    return ip.packed if ip.version == 6 else b"\0" * 10 + b"\xff\xff" + ip.packed


def open_tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))  # TUNSETIFF: TAP, NO_PI
    return fd


class VM:
    """A QEMU, and the xvmd in its guest."""

    def __init__(self, number, tap=True):
        self.mac = bytes((2, 0, 0, 9, 0, number))
        self.tap = open_tap(f"tap{number}") if tap else None
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(10)
        self.s.connect(f"{DIR}/g.ivshmem")
        assert self.recv()[0] == 0
        self.id = self.recv()[0]
        number, mem = self.recv()
        assert number == -1
        self.m = mmap.mmap(mem, os.fstat(mem).st_size)
        magic, version, self.peers, size, self.arena, _, self.vectors, self.box_off, self.res_off, _ = (
            struct.unpack_from("<QIIQQQIIII", self.m))
        assert magic == 0x6E6765726D7678 and version == 1 and size == len(self.m)
        self.bells = {}
        while len(self.bells.get(self.id, [])) < self.vectors:
            self.take_one()
        self.mine, self.theirs = self.id * self.arena, self.box_off + self.id * BOX
        self.head = self.tail = 0

    def recv(self):
        data, anc, _, _ = self.s.recvmsg(8, socket.CMSG_SPACE(4))
        if not data:
            raise EOFError
        fds = array.array("i")
        for _, _, d in anc:
            fds.frombytes(d)
        return struct.unpack("<q", data)[0], fds[0] if fds else -1

    def take_one(self):
        peer, fd = self.recv()
        assert fd >= 0, "QEMU 7.2 does not survive to hear that a peer is gone"
        self.bells.setdefault(peer, []).append(fd)

    def states(self):
        while select.select([self.s], [], [], 0)[0]:
            self.take_one()
        return [struct.unpack_from("<I", self.m, 128 + 64 * i)[0] for i in range(1, self.peers)]

    def say(self, kind, slot=0, laddr=b"", raddr=b"", lport=0, rport=0, role=0, mac=None, arg=0, off=0, run=0):
        letter = struct.pack(LETTER, kind, 5, slot, 1, laddr, raddr, lport, rport, role, slot + 1, 0, 0, 0, 0,
                             mac or self.mac, 0, arg, 0, off, HALF if off else 0, run)
        at = self.mine + 128 + self.head % SLOTS * 136
        self.m[at:at + 136] = letter
        self.head += 1
        struct.pack_into("<Q", self.m, self.mine + 64, self.head)
        os.eventfd_write(self.bells[0][0], 1)

    def hear(self, *kinds):
        """The next letter of these kinds, waited for by our vector 0."""
        while True:
            head, = struct.unpack_from("<Q", self.m, self.theirs + 64)
            while self.tail < head:
                at = self.theirs + 128 + self.tail % SLOTS * 136
                v = struct.unpack_from(LETTER, self.m, at)
                self.tail += 1
                struct.pack_into("<Q", self.m, self.mine, self.tail)
                if v[0] in kinds:
                    return {"type": v[0], "slot": v[2], "role": v[8], "peer": v[13], "arg": v[16], "off": v[18]}
            assert select.select([self.bells[self.id][0]], [], [], 10)[0], f"no letter of {kinds}"
            os.eventfd_read(self.bells[self.id][0])

    def hello(self, run=1):
        self.say(HELLO, arg=1, run=run)
        assert self.hear(WELCOME)["peer"] == self.id

    def claim(self, addr, there=1, mac=None):
        self.say(ADDR, laddr=raw(addr), arg=there, mac=mac)

    def offer(self, l, lport, r, rport, slot):
        self.say(OFFER, slot=slot, laddr=raw(l), raddr=raw(r), lport=lport, rport=rport,
                 role=1 if lport > rport else 2, off=BOX + slot * 4096)

    def arp(self, addr, mac=None):
        """Tell the whole link where the address is."""
        mac = mac or self.mac
        ip = ipaddress.ip_address(addr).packed
        os.write(self.tap, b"\xff" * 6 + mac + struct.pack(">HHHBBH", 0x806, 1, 0x800, 6, 4, 2) + mac + ip +
                 b"\xff" * 6 + ip)

    def answer(self, addr):
        """Answer the host's question for the address."""
        ip = ipaddress.ip_address(addr).packed
        while True:
            assert select.select([self.tap], [], [], 10)[0], "nobody asks"
            frame = os.read(self.tap, 2048)
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\x01" and frame[38:42] == ip:
                os.write(self.tap, frame[6:12] + self.mac + frame[12:20] + b"\0\x02" + self.mac + ip +
                         frame[22:32])
                return

    def table(self):
        n, = struct.unpack_from("<Q", self.m, 72)
        t = {}
        for i in range(n):
            addr, flags, peer, mac = struct.unpack_from("<16sIH6s", self.m, self.res_off + 28 * i)
            t[addr] = flags, peer, mac
        return t

    def sees(self, addr, flags, peer=None):
        """Wait for it, by our vector 0."""
        end = time.monotonic() + 10
        while True:
            got = self.table().get(raw(addr), (0, None, None))
            if got[0] == flags and (peer is None or got[1] == peer):
                return
            left = end - time.monotonic()
            assert left > 0 and select.select([self.bells[self.id][0]], [], [], left)[0], (addr, got)
            os.eventfd_read(self.bells[self.id][0])


class Child:
    """A process of its own that calls functions on request: whose pid its taps are known by."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            os._exit(self.main(theirs))
        theirs.close()
        self.f = ours.makefile("rw")

    def main(self, sock):
        f = sock.makefile("rw")
        env = dict(globals())
        try:
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


def resident(addr):
    return subprocess.run([os.path.dirname(XVMD) + "/xvm", "resident", "--socket", f"{DIR}/x.sock", addr],
                          capture_output=True, text=True, check=False).stdout


def log():
    with open(f"{DIR}/log", encoding="utf-8") as f:
        return f.read()


def boot(number):
    """A VM whose tap is in the bridge."""
    k = Child()
    k.do(f"v = VM({number})")
    run(f"ip link set tap{number} master br0 up")
    k.do("v.hello()")
    return k


def addresses(a, b):
    # Nobody has seen the MAC yet; then the bridge does.
    a.do("v.claim('10.9.0.1'); result = v.hear(ADDR_REFUSED)['arg']")
    a.do("v.arp('10.9.0.1')")
    b.do("v.sees('10.9.0.1', USED | VM_FLAG, 1)")
    assert "not-resident  (VM 1 of group g says so" in resident("10.9.0.1"), resident("10.9.0.1")
    # The host has asked who has the address.
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.9.0.1", 9))
    a.do("v.answer('10.9.0.1')")
    b.do("v.sees('10.9.0.1', USED | VM_FLAG | SEEN, 1)")
    b.do("v.arp('10.9.0.2'); v.claim('10.9.0.2')")
    a.do("v.sees('10.9.0.2', USED | VM_FLAG, 2)")
    # The host's own.
    a.do("v.sees('10.9.0.254', USED | LOCAL, 0)")

    # Another's address, with our MAC and with his.
    b.do("v.claim('10.9.0.1'); result = v.hear(ADDR_REFUSED)['arg']")
    assert b.do("v.claim('10.9.0.1', mac=bytes((2, 0, 0, 9, 0, 1))); result = v.hear(ADDR_REFUSED)['arg']") == EPERM
    assert "VM 2 claims 10.9.0.1 at 02:00:00:09:00:01, which is known to be elsewhere" in log(), log()
    a.do("v.sees('10.9.0.1', USED | VM_FLAG | SEEN, 1)")
    b.do("v.claim('10.9.0.1', 0)")

    # The MAC moves to the other's port, as the bridge sees it, and back.
    b.do("v.arp('10.9.0.77', bytes((2, 0, 0, 9, 0, 1)))")
    b.do("v.sees('10.9.0.1', 0)")
    assert a.do("result = v.hear(ADDR_REFUSED)['arg']") == EPERM
    a.do("v.arp('10.9.0.1')")
    b.do("v.sees('10.9.0.1', USED | VM_FLAG | SEEN, 1)")

    # It changes its address.
    a.do("v.claim('10.9.0.3'); v.claim('10.9.0.1', 0)")
    b.do("v.sees('10.9.0.3', USED | VM_FLAG, 1); v.sees('10.9.0.1', 0)")
    a.do("v.claim('10.9.0.1'); v.claim('fd09::1')")
    wait_for("resident", lambda: "VM 1 of group g (pid" in resident("10.9.0.1"))
    assert "tap1 on bridge br0" in resident("10.9.0.1"), resident("10.9.0.1")
    b.do("v.sees('10.9.0.1', USED | VM_FLAG | SEEN, 1); v.sees('fd09::1', USED | VM_FLAG, 1)")


def pairs(a, b):
    for n, (l, r) in enumerate((("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2"))):
        if n:
            b.do("v.claim('fd09::2'); v.sees('fd09::2', USED | VM_FLAG, 2)")
        a.do(f"v.offer({l!r}, 1000, {r!r}, 80, {n})")
        b.do(f"v.offer({r!r}, 80, {l!r}, 1000, {n})")
        got = a.do("result = v.hear(PAIRED, REFUSED)")
        assert got["type"] == PAIRED and got["peer"] == 2 and got["role"] == 1, got
        assert b.do("result = v.hear(PAIRED, REFUSED)")["off"] == BOX + n * 4096
    a.do("v.say(UNPAIR, slot=0)")
    b.do("v.say(UNPAIR, slot=0)")
    assert a.do("result = v.hear(FREED)")["slot"] == 0
    assert b.do("result = v.hear(FREED)")["slot"] == 0


def death(a, b):
    c = boot(3)
    b.do("wait_for('c', lambda: v.states() == [UP, UP, UP, FREE] and sorted(v.bells) == [0, 1, 2, 3])")
    a.kill()
    assert b.do("result = v.hear(GONE)")["peer"] == 1
    b.do("v.sees('10.9.0.1', 0); v.sees('fd09::1', 0)")
    b.do("wait_for('a has gone', lambda: v.states() == [DEAD, UP, UP, FREE])")
    # Its number is its own until nobody has its memory mapped.
    a = boot(1)
    assert a.do("result = v.id") == 4
    c.kill()
    b.do("v.say(UNPAIR, slot=1); v.hear(FREED)")
    b.do("wait_for('both have gone', lambda: v.states() == [FREE, UP, FREE, UP])")
    c = boot(3)
    assert c.do("result = v.id") in (1, 3)
    # By the eventfds that its predecessor had.
    b.do(f"os.eventfd_write(v.bells[{c.do('result = v.id')}][1], 1)")
    c.do("assert select.select([v.bells[v.id][1]], [], [], 10)[0]")
    c.do("v.arp('10.9.0.7'); v.claim('10.9.0.7')")
    b.do("v.sees('10.9.0.7', USED | VM_FLAG)")
    c.do(f"v.say({BYE})")
    b.do("v.sees('10.9.0.7', 0)")
    for k in (a, c):
        k.kill()
    # A device that is plugged in later.
    k = Child()
    k.do("v = VM(5, tap=False); v.hello(); v.claim('10.9.0.5'); v.hear(ADDR_REFUSED)")
    k.do("v.tap = open_tap('tap5')")
    run("ip link set tap5 master br0 up")
    k.do("v.arp('10.9.0.5')")
    b.do("v.sees('10.9.0.5', USED | VM_FLAG)")
    k.kill()
    b.do("v.sees('10.9.0.5', 0)")


def main():
    run("ip link set lo up; ip link add br0 type bridge; ip link set br0 up; ip addr add 10.9.0.254/24 dev br0")
    with open(f"{DIR}/conf", "w", encoding="utf-8") as f:
        f.write(f"group g socket {DIR}/g.ivshmem size 8M peers 4 vectors 4\n")
    with open(f"{DIR}/log", "w", encoding="utf-8") as f:
        p = subprocess.Popen([XVMD, "--foreground", "--socket", f"{DIR}/x.sock", "--config", f"{DIR}/conf"], stderr=f)
    try:
        # Asleep, it has opened all that it opens by itself.
        wait_for("xvmd", lambda: os.path.exists(f"{DIR}/x.sock") and asleep(p.pid) or p.poll() is not None)
        fds = len(os.listdir(f"/proc/{p.pid}/fd"))
        a, b = boot(1), boot(2)
        addresses(a, b)
        pairs(a, b)
        death(a, b)
        b.kill()
        # All but the eventfds of the four numbers that there were.
        wait_for("nothing is left", lambda: len(os.listdir(f"/proc/{p.pid}/fd")) == fds + 4 * 4)
        p.terminate()
        assert p.wait(10) == 0
        assert not os.path.exists(f"{DIR}/g.ivshmem")
    except BaseException:
        print(log())
        raise
    finally:
        p.kill()


main()
