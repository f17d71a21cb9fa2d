#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""memcached.py ADDR PORT SECONDS: eight threads set and get values of all sizes and compare.

The server may be restarted: a client that has lost it connects again, to one that is empty.
"""

import random
import socket
import sys
import threading
import time

addr, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
counts, lost, errors = [0] * 8, [0] * 8, []
GIVE_UP = 30


class Lost(Exception):
    """The server has ended the connection between two lines or values."""


def read(f, size):
    data = f.read(size)
    if len(data) < size:
        raise Lost
    return data


def connect():
    end = time.monotonic() + GIVE_UP
    while True:
        try:
            sock = socket.create_connection((addr, port), timeout=GIVE_UP)
            sock.settimeout(None)
            return sock, sock.makefile("rb")
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def client(nr):
    rnd = random.Random(nr)
    block = rnd.randbytes(1 << 20)
    sock, f = connect()
    stored, answered = {}, False
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            talk(nr, rnd, block, sock, f, stored)
            answered = True
        except (Lost, ConnectionResetError, BrokenPipeError):
            # One that was accepted by nobody, as the server was ending, is none.
            lost[nr] += answered
            sock, f = connect()
            stored, answered = {}, False
    sock.close()


def talk(nr, rnd, block, sock, f, stored):
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
        if not line.endswith(b"\n"):
            raise Lost
        word, key, _, size = line.split()
        assert word == b"VALUE", line
        got[key.decode()] = read(f, int(size))
        assert read(f, 2) == b"\r\n"
    for key in keys:
        # memcached may have evicted it, but it never gives another value.
        if key in got and got[key] != stored[key]:
            raise AssertionError(f"{key}: {len(got[key])} bytes for {len(stored[key])}")
        counts[nr] += key in got


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
print(f"{sum(counts)} values compared, {sum(lost)} connections lost")
