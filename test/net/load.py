#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An HTTP client that counts what it asks for and compares every byte of the answers.

load.py ADDR PORT SECONDS CONNECTIONS get DIR [REQUESTS]   the files below DIR
load.py ADDR PORT SECONDS CONNECTIONS post PATH [REQUESTS]  what is posted there comes back

Connections are kept as long as the server likes, or closed after so many requests. The server may close one that
is idle: a request that meets this, on a connection that has answered before, and has no byte of an answer, is made
again on another, as browsers do. All else is an error; but where LOAD_CUT is set, an answer
that is cut off is asked for again as well. Where LOAD_UNTIL is set, it goes on after SECONDS until there
is a file of that name, for two minutes at most.
"""

import asyncio
import os
import random
import sys
import time

BLOCK = random.Random(1).randbytes(1 << 20)
SIZES = (1, 100, 1000, 1000, 1000, 20000, 200000)


class Closed(Exception):
    """The server has closed a connection before it answered."""


class Connection:
    def __init__(self, addr, port, life):
        self.where = addr, port
        self.life = life
        self.writer = None

    async def ask(self, method, path, body):
        """The answer's body; the connection is made where there is none."""
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection(*self.where)
            self.answered = 0
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.where[0]}\r\n"
        if body is not None:
            head += f"Content-Length: {len(body)}\r\n"
        try:
            self.writer.write(head.encode() + b"\r\n" + (body or b""))
            first = await self.reader.readuntil(b"\r\n")
        except (ConnectionError, asyncio.IncompleteReadError) as e:
            if self.answered and not getattr(e, "partial", b""):
                raise Closed
            raise
        words = first.split()
        headers = {}
        while line := (await self.reader.readuntil(b"\r\n")).strip():
            key, value = line.lower().split(b":", 1)
            headers[key] = value.strip()
        if words[1] != b"200":
            raise ValueError(first)
        if headers.get(b"transfer-encoding") == b"chunked":
            parts = []
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
            answer = b"".join(parts)
        else:
            answer = await self.reader.readexactly(int(headers[b"content-length"]))
        self.answered += 1
        if headers.get(b"connection") == b"close" or self.answered == self.life:
            self.close()
        return answer

    def close(self):
        if self.writer:
            self.writer.close()
        self.writer = None


def over(end):
    now, until = time.monotonic(), os.environ.get("LOAD_UNTIL")
    return now >= end and (not until or now >= end + 120 or os.path.exists(until))


async def one(nr, end, what, counts):
    rnd = random.Random(nr)
    where = Connection(*what[0])
    while not over(end):
        if what[1] == "get":
            path = rnd.choice(what[2])
            method, body, expected = "GET", None, what[3][path]
        else:
            size = rnd.choice(SIZES)
            start = rnd.randrange(len(BLOCK) - size)
            method, path, body = "POST", what[2], BLOCK[start : start + size]
            expected = body
        try:
            while True:
                try:
                    answer = await asyncio.wait_for(where.ask(method, path, body), 60)
                    break
                except Closed:
                    counts["again"] += 1
                    where.close()
                except (ConnectionError, asyncio.IncompleteReadError):
                    if "LOAD_CUT" not in os.environ:
                        raise
                    counts["again"] += 1
                    where.close()
            if answer != expected:
                raise ValueError(f"{len(answer)} other bytes than the {len(expected)} of {path}")
            counts["answers"] += 1
            counts["bytes"] += len(answer)
        except Exception as e:
            counts["errors"].append(f"connection {nr}: {method} {path}: {e!r}")
            where.close()
    where.close()


async def main():
    addr, port, seconds, connections, how, where, *life = sys.argv[1:]
    what = [(addr, int(port), int(life[0]) if life else 0), how, where]
    if how == "get":
        names = [os.path.join(d, f) for d, _, files in os.walk(where) for f in files]
        files = {}
        for name in names:
            with open(name, "rb") as f:
                files["/" + os.path.relpath(name, where)] = f.read()
        what[2:] = [sorted(files), files]
    counts = {"answers": 0, "again": 0, "bytes": 0, "errors": []}
    end = time.monotonic() + float(seconds)
    await asyncio.gather(*(one(nr, end, what, counts) for nr in range(int(connections))))
    print(f"{counts['answers']} answers, {counts['bytes']} bytes, {counts['again']} asked again")
    if counts["errors"] or not counts["answers"]:
        print(*counts["errors"][:20], sep="\n")
        sys.exit(f"{len(counts['errors'])} errors")


asyncio.run(main())
