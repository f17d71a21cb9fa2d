#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The echo in Python: echo.py threads|asyncio|processes, then as echo.c.

processes: the server accepts and passes each connection to one of two other processes.
"""

import asyncio
import multiprocessing
import os
import signal
import socket
import socketserver
import sys
import threading
import time

SIZES = (1, 100, 5000, 60000)


def pieces(data):
    at = i = 0
    while at < len(data):
        yield data[at : at + SIZES[i % 4]]
        at += SIZES[i % 4]
        i += 1


def wait_go(go):
    while not os.path.exists(go):
        time.sleep(0.01)


def echo(sock):
    with sock:
        while data := sock.recv(30000):
            sock.sendall(data)


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        echo(self.request)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def worker(pipe):
    while True:
        threading.Thread(target=echo, args=(pipe.recv(),), daemon=True).start()


def serve_processes(addr, port):
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    for _, theirs in pipes:
        multiprocessing.Process(target=worker, args=(theirs,), daemon=True).start()
    listener = socket.create_server((addr, port))
    while True:
        for ours, _ in pipes:
            sock, _ = listener.accept()
            ours.send(sock)
            sock.close()


def connect_threads(addr, port, data, out, n, go):
    ready = threading.Barrier(n)
    failed = []

    def one(nr):
        try:
            sock = socket.create_connection((addr, port))
            with open(f"{out}.{nr}", "wb") as save:
                for piece in pieces(data):
                    sock.sendall(piece)
                    left = len(piece)
                    while left:
                        got = sock.recv(left)
                        assert got, "end of file too soon"
                        save.write(got)
                        left -= len(got)
            if ready.wait() == 0:
                print("all back", flush=True)
            wait_go(go)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        except BaseException as e:
            failed.append(e)
            raise

    threads = [threading.Thread(target=one, args=(nr,)) for nr in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    sys.exit(1 if failed else 0)


async def serve_asyncio(addr, port):
    async def one(reader, writer):
        while data := await reader.read(30000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(one, addr, port) as server:
        await server.serve_forever()


async def connect_asyncio(addr, port, data, out, n, go):
    async def one(nr):
        reader, writer = await asyncio.open_connection(addr, port)

        async def send():
            for piece in pieces(data):
                writer.write(piece)
                await writer.drain()

        sending = asyncio.create_task(send())
        with open(f"{out}.{nr}", "wb") as save:
            left = len(data)
            while left:
                got = await reader.read(left)
                assert got, "end of file too soon"
                save.write(got)
                left -= len(got)
        await sending
        return reader, writer

    ends = await asyncio.gather(*(one(nr) for nr in range(n)))
    print("all back", flush=True)
    await asyncio.to_thread(wait_go, go)
    for reader, writer in ends:
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


def main():
    how, what, addr, port = *sys.argv[1:4], int(sys.argv[4])
    if what == "serve":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if how == "threads":
            Server((addr, port), Handler).serve_forever()
        elif how == "asyncio":
            asyncio.run(serve_asyncio(addr, port))
        else:
            serve_processes(addr, port)
    name, out, n, go = sys.argv[5:]
    with open(name, "rb") as f:
        data = f.read()
    if how == "asyncio":
        asyncio.run(connect_asyncio(addr, port, data, out, int(n), go))
    else:
        connect_threads(addr, port, data, out, int(n), go)


main()
