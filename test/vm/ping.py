# SPDX-License-Identifier: Apache-2.0
"""Round trips of one byte, each end asleep while the other has it, until SIGTERM.

ping.py serve ADDR PORT
ping.py connect ADDR PORT FILE    FILE gets 10,000 for each, as flow --count counts bytes
"""
import mmap
import signal
import socket
import struct
import sys

if sys.argv[1] == "serve":
    c = socket.create_server((sys.argv[2], int(sys.argv[3]))).accept()[0]
    while data := c.recv(100):
        c.sendall(data)
    sys.exit()

with open(sys.argv[4], "w+b") as f:
    f.truncate(4096)
    count = mmap.mmap(f.fileno(), 4096)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
c = socket.create_connection((sys.argv[2], int(sys.argv[3])))
n = 0
while not stop:
    c.sendall(bytes([n % 251]))
    assert c.recv(100) == bytes([n % 251]), n
    n += 1
    count[0:16] = struct.pack("QQ", n * 10000, n * 10000)
print("round trips", n)
