#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""redis.py ADDR PORT SECONDS: eight threads set, append, delete and get values of all sizes and compare.

The server may be restarted if it keeps what it has: a client that has lost it connects again, compares all
that it was told is stored, and goes on.
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
    """The server has ended the connection between two replies."""


class Redis:
    def __init__(self):
        """Until the server is there and has loaded its data."""
        end = time.monotonic() + GIVE_UP
        while True:
            try:
                self.sock = socket.create_connection((addr, port), timeout=GIVE_UP)
                self.sock.settimeout(None)
                self.file = self.sock.makefile("rb")
                self.send(("PING",))
                if self.reply() == b"PONG":
                    return
            except (OSError, Lost):
                pass
            if time.monotonic() > end:
                raise TimeoutError("the server does not come back")
            time.sleep(0.01)

    def send(self, *commands):
        out = bytearray()
        for words in commands:
            out += b"*%d\r\n" % len(words)
            for w in words:
                w = w.encode() if isinstance(w, str) else w
                out += b"$%d\r\n%b\r\n" % (len(w), w)
        self.sock.sendall(out)

    def reply(self):
        try:
            line = self.file.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            raise Lost
        if line.startswith(b"-LOADING"):
            return line
        assert line.endswith(b"\r\n"), f"end of file: {line}"
        if line[:1] == b"$" and line != b"$-1\r\n":
            value = self.file.read(int(line[1:]) + 2)
            assert len(value) == int(line[1:]) + 2, "end of file"
            return value[:-2]
        assert line[:1] in b"+:$", line
        return None if line == b"$-1\r\n" else line[1:-2]


def client(nr):
    rnd = random.Random(nr)
    block = rnd.randbytes(1 << 20)
    redis = Redis()
    stored = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        commands, expected = [], []
        for _ in range(rnd.randrange(1, 20)):
            key = f"k{nr}-{rnd.randrange(50)}"
            size = rnd.choice((0, 1, 10, 100, 1000, 1000, 30000, 200000))
            start = rnd.randrange(len(block) - size + 1)
            value = block[start : start + size]
            what = rnd.randrange(10)
            if what < 3:
                stored[key] = value
                commands.append(("SET", key, value))
                expected.append(b"OK")
            elif what == 3 and len(stored.get(key, b"")) < 500000:
                stored[key] = stored.get(key, b"") + value
                commands.append(("APPEND", key, value))
                expected.append(b"%d" % len(stored[key]))
            elif what == 4:
                commands.append(("DEL", key))
                expected.append(b"1" if stored.get(key) is not None else b"0")
                stored.pop(key, None)
            else:
                commands.append(("GET", key))
                expected.append(stored.get(key))
        done = 0
        try:
            redis.send(*commands)
            for c, e in zip(commands, expected):
                got = redis.reply()
                if got != e:
                    raise AssertionError(f"{c[:2]}: {len(got or b'')} bytes, other than expected")
                done += 1
                counts[nr] += 1
        except (Lost, ConnectionResetError, BrokenPipeError):
            # What has had no reply may be done or not.
            lost[nr] += 1
            redis = Redis()
            unsure = {c[1] for c in commands[done:] if c[0] != "GET"}
            for key in unsure:
                stored.pop(key, None)
                redis.send(("DEL", key))
                redis.reply()
            compare(redis, stored)
    compare(redis, stored)


def compare(redis, stored):
    for key, value in stored.items():
        redis.send(("GET", key))
        got = redis.reply()
        if got != value:
            raise AssertionError(f"{key}: {len(got or b'')} bytes, other than stored")


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
print(f"{sum(counts)} replies compared, {sum(lost)} connections lost")
