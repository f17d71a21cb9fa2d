# SPDX-License-Identifier: Apache-2.0
"""ivserver.py SOCKET BYTES VECTORS: an ivshmem server for QEMU, to try assumptions with.

As docs/specs/ivshmem-spec.rst of QEMU has it, but it never says that a peer has gone: QEMU (7.2) frees the
peer's eventfds then, and uses them again when the number comes back, and frees them again when its
device goes. So a number keeps its eventfds whoever has it, and is told to each QEMU once.

The server is peer 0 itself, and whoever rings it on some vector is rung in return on the same, as all guests
are. Says what happens, and where the memory is.
"""
import os, selectors, socket, struct, sys

path, size, vectors = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
memory = os.memfd_create("ivshmem")
os.ftruncate(memory, size)
events = {}  # a peer's number -> its eventfds
conns = {}  # a peer's number -> socket of its QEMU


def say(*words):
    print(*words, flush=True)


def send(conn, number, fd=None):
    socket.send_fds(conn, [struct.pack("<q", number)], [] if fd is None else [fd])


def introduce(conn, peer):
    for fd in events[peer]:
        send(conn, peer, fd)


def make_events(peer):
    events[peer] = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(vectors)]


def accept():
    conn, _ = listener.accept()
    peer = next(i for i in range(1, 65536) if i not in conns)
    send(conn, 0)
    send(conn, peer)
    send(conn, -1, memory)
    for other in events:
        if other != peer:
            introduce(conn, other)
    if peer not in events:
        make_events(peer)
        for other in conns.values():
            introduce(other, peer)
    introduce(conn, peer)
    conns[peer] = conn
    selector.register(conn, selectors.EVENT_READ, lambda: leave(peer))
    pid = struct.unpack("3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    say("peer", peer, "pid", pid)


def leave(peer):
    # QEMU says nothing: it can only have gone.
    conn = conns.pop(peer)
    selector.unregister(conn)
    conn.close()
    say("gone", peer)


def rung(vector):
    os.eventfd_read(events[0][vector])
    say("rung", vector)
    for peer in conns:
        os.eventfd_write(events[peer][vector], 1)


selector = selectors.DefaultSelector()
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
selector.register(listener, selectors.EVENT_READ, accept)
make_events(0)
for v, fd in enumerate(events[0]):
    selector.register(fd, selectors.EVENT_READ, lambda v=v: rung(v))
say("memory", f"/proc/{os.getpid()}/fd/{memory}")
while True:
    for key, _ in selector.select():
        key.data()
