# SPDX-License-Identifier: Apache-2.0
"""Stands between programs and xvmd, and lets what xvmd has announced come late, as on a busy machine.

  relay.py SOCKET XVMD-SOCKET DIR

While there is a file DIR/hold, PAIRED and all behind it wait; with DIR/welcome, so does the welcome. What has passed
is in DIR/log.
"""

import array
import os
import select
import socket
import struct
import sys

OFFER, WELCOME, PAIRED, SS = 2, 32, 35, 64

here, there, folder = sys.argv[1:]
log = open(os.path.join(folder, "log"), "w", encoding="ascii", buffering=1)


def is_there(name):
    return os.path.exists(os.path.join(folder, name))


class Side:
    def __init__(self, sock):
        self.sock, self.other, self.waiting = sock, None, []

    def take(self):
        data, anc, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(8))
        fds = array.array("i")
        for _, _, d in anc:
            fds.frombytes(d)
        return data, list(fds)

    def give(self, data, fds):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([data], anc)
        except OSError:
            pass
        for fd in fds:
            os.close(fd)

    def flush(self):
        """Sends what need not wait any more."""
        while self.waiting:
            data, fds = self.waiting[0]
            kind = struct.unpack_from("<H", data)[0]
            if (kind == PAIRED and is_there("hold")) or (kind == WELCOME and is_there("welcome")):
                return
            self.waiting.pop(0)
            log.write("%d slot %d gen %d\n" % (kind, *struct.unpack_from("<II", data, 4)))
            self.give(data, fds)


listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(here)
listener.listen(64)
os.chmod(here, 0o666)
sides = {}
poll = select.poll()
poll.register(listener, select.POLLIN)
while True:
    held = any(s.waiting for s in sides.values())
    for fd, _ in poll.poll(5 if held else None):
        if fd == listener.fileno():
            a = Side(listener.accept()[0])
            b = Side(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            b.sock.connect(there)
            a.other, b.other = b, a
            for s in (a, b):
                sides[s.sock.fileno()] = s
                poll.register(s.sock, select.POLLIN)
            continue
        side = sides.get(fd)
        if not side:
            continue
        try:
            data, fds = side.take()
        except OSError:
            data, fds = b"", []
        if not data:
            for s in (side, side.other):
                poll.unregister(s.sock)
                del sides[s.sock.fileno()]
            side.sock.close()
            side.other.sock.close()
            continue
        kind = struct.unpack_from("<H", data)[0]
        if kind == OFFER:
            log.write("%d slot %d gen %d\n" % (kind, *struct.unpack_from("<II", data, 4)))
        if kind < WELCOME or kind >= SS:
            side.other.give(data, fds)
        else:
            side.other.waiting.append((data, fds))
    for s in list(sides.values()):
        s.flush()
