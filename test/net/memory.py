#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many connections with little under way on each.

memory.py serve ADDR PORT
memory.py connect ADDR PORT CONNECTIONS BYTES   16 KB there and back on one after another, until each
                                                has had so many bytes; then says so, and stays
"""

import random
import select
import signal
import socket
import sys

SIZE = 16 << 10


def serve(listener):
    ep = select.epoll()
    ep.register(listener, select.EPOLLIN)
    conns = {}
    while True:
        for fd, _ in ep.poll():
            if fd == listener.fileno():
                conn, _ = listener.accept()
                conns[conn.fileno()] = conn
                ep.register(conn, select.EPOLLIN)
            elif data := conns[fd].recv(SIZE):
                conns[fd].sendall(data)
            else:
                ep.unregister(fd)
                conns.pop(fd).close()


what, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if what == "serve":
    serve(socket.create_server((addr, port), backlog=1000))
count, total = int(sys.argv[4]), int(sys.argv[5])
block = random.Random(1).randbytes(2 * SIZE)
conns = [socket.create_connection((addr, port)) for _ in range(count)]
for turn in range(-(-total // SIZE)):
    for nr, conn in enumerate(conns):
        at = (turn * 7919 + nr) % SIZE
        message = block[at : at + SIZE]
        conn.sendall(message)
        if conn.recv(SIZE, socket.MSG_WAITALL) != message:
            sys.exit(f"connection {nr}: the echo differs")
print("done", flush=True)
signal.pause()
