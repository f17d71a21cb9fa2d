#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""memcached.py ADDR PORT SECONDS: eight threads set and get values of all sizes and compare."""

import random
import socket
import sys
import threading
import time

addr, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
counts, errors = [0] * 8, []


def client(nr):
    rnd = random.Random(nr)
    block = rnd.randbytes(1 << 20)
    sock = socket.create_connection((addr, port))
    f = sock.makefile("rb")
    stored = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # A few at once: set without reply, get of several keys.
        for _ in range(rnd.randrange(1, 4)):
            key = f"k{nr}-{rnd.randrange(20)}"
            size = rnd.choice((0, 1, 100, 1000, 4096, 30000, 200000, 1000000))
            start = rnd.randrange(len(block) - size + 1)
            value = block[start : start + size]
            sock.sendall(f"set {key} 0 0 {size} noreply\r\n".encode() + value + b"\r\n")
            stored[key] = value
        keys = rnd.sample(sorted(stored), min(3, len(stored)))
        sock.sendall(f"get {' '.join(keys)}\r\n".encode())
        got = {}
        while (line := f.readline()) != b"END\r\n":
            word, key, _, size = line.split()
            assert word == b"VALUE", line
            got[key.decode()] = f.read(int(size))
            assert f.read(2) == b"\r\n"
        for key in keys:
            # memcached may have evicted it, but it never gives another value.
            if key in got and got[key] != stored[key]:
                raise AssertionError(f"{key}: {len(got[key])} bytes for {len(stored[key])}")
            counts[nr] += key in got
    sock.close()


def run(nr):
    try:
        client(nr)
    except BaseException as e:
        errors.append(f"client {nr}: {e!r}")


threads = [threading.Thread(target=run, args=(nr,)) for nr in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
if errors or min(counts) == 0:
    sys.exit("\n".join(errors) or f"a client got nothing: {counts}")
print(f"{sum(counts)} values compared")
