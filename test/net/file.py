#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A file over one connection, by sendfile and by recv_into. Whoever receives says its sha256, which
also makes it last long enough to be disturbed.

file.py FILE ADDR PORT   sends it
file.py ADDR PORT FILE   waits for it
"""

import hashlib
import socket
import sys

if sys.argv[2].isdigit():
    addr, port, path = sys.argv[1:]
    listener = socket.create_server((addr, int(port)))
    sock, _ = listener.accept()
    buf = memoryview(bytearray(1 << 20))
    digest = hashlib.sha256()
    with open(path, "wb") as f:
        while n := sock.recv_into(buf):
            f.write(buf[:n])
            digest.update(buf[:n])
    print(digest.hexdigest())
else:
    path, addr, port = sys.argv[1:]
    sock = socket.create_connection((addr, int(port)))
    with open(path, "rb") as f:
        # In pieces: the path is chosen anew at each call, and one call would be over TCP as a whole.
        offset = 0
        while n := sock.sendfile(f, offset, 1 << 20):
            offset += n
    sock.shutdown(socket.SHUT_WR)
    if sock.recv(1):
        sys.exit("bytes from nowhere")
sock.close()
