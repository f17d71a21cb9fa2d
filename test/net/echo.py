#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""asyncio streams.

echo.py serve ADDR PORT
echo.py connect ADDR PORT SECONDS   20 connections send random chunks and compare what comes back
echo.py self ADDR PORT SECONDS      both, in one process
"""

import asyncio
import hashlib
import random
import signal
import sys
import time


async def echo(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def client(addr, port, seconds, nr):
    rnd = random.Random(nr)
    block = rnd.randbytes(1 << 20)
    reader, writer = await asyncio.open_connection(addr, port)
    sent, received = hashlib.sha256(), hashlib.sha256()
    total = 0

    async def send():
        nonlocal total
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            size = rnd.choice((1, 10, 100, 5000, 70000, 500000))
            start = rnd.randrange(len(block) - size)
            chunk = block[start : start + size]
            sent.update(chunk)
            total += size
            writer.write(chunk)
            await writer.drain()
            if rnd.random() < 0.1:
                await asyncio.sleep(0.001)
        writer.write_eof()

    async def receive():
        while data := await reader.read(1 << 16):
            received.update(data)

    await asyncio.gather(send(), receive())
    writer.close()
    if sent.digest() != received.digest():
        sys.exit(f"connection {nr}: the echo differs")
    return total


async def main():
    what, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what != "connect":
        server = await asyncio.start_server(echo, addr, port)
    if what == "serve":
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        return
    seconds = float(sys.argv[4])
    totals = await asyncio.gather(*(client(addr, port, seconds, nr) for nr in range(20)))
    print(f"{sum(totals)} bytes came back, {min(totals)} at least on each connection")


asyncio.run(main())
