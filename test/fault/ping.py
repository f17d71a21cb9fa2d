# SPDX-License-Identifier: Apache-2.0
"""Four bytes to and fro between two sockets of its own, until TCP carries none of them."""

import socket
import struct

EACH = 100  # rounds, of four calls


def carried(sock):
    return sum(struct.unpack_from("<QQ", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), 120))


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
a = socket.create_connection(listener.getsockname())
b = listener.accept()[0]
calls, was = 0, -1
while was != carried(a):
    was = carried(a)
    for _ in range(EACH):
        for one, other in ((a, b), (b, a)):
            one.send(b"ping")
            assert other.recv(4) == b"ping"
    calls += 4 * EACH
    print(calls, "calls", flush=True)
print("ring", flush=True)
