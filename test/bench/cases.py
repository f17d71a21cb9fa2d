# SPDX-License-Identifier: Apache-2.0
"""What the bench measures, against whom, and what is owed: data only. bench.py does it."""

K, M = 1 << 10, 1 << 20

# Who can be a peer: name -> (title, what it is).
PEERS = {
    "veth": "TCP, veth and bridge",
    "loopback": "TCP, loopback",
    "unix": "Unix socket",
    "sockmap": "TCP, sockmap",
    "xvm": "xvm",
    "xvm-nospin": "xvm, spinning off",
    "ucx": "UCX, POSIX shm",
    "raw": "raw ring",
    "far": "TCP, elsewhere",
    "xvm-far": "one end preloaded, elsewhere",
    "veth-idle": "TCP, beside idle ones",
    "xvm-idle": "xvm, beside idle ones",
}
ALL = ["veth", "loopback", "unix", "sockmap", "xvm"]
LIMITS = ["ucx", "raw"]


def least(value, over="veth", peer="xvm", text=None):
    """The speed of `peer` is at least `value` times that of `over`."""
    return dict(what="speed", peer=peer, over=over, least=value, text=text)


def most_cpu(value, over="veth", peer="xvm", text=None):
    return dict(what="cpu", peer=peer, over=over, most=value, text=text)


def rate(value, peer="xvm", text=None):
    return dict(what="rate", peer=peer, over=None, least=value, text=text)


def size_name(n):
    return f"{n // M} MB" if n >= M else f"{n // K} KB" if n >= K else f"{n} B"


CASES = []


def case(part, name, kind, cpus, peers, owed=(), quick=False, **spec):
    """One row. kind: load, an application of APPS, or idle. cpus: two (a core each) or one (both on one)."""
    owed = list(owed)
    # Whatever else is owed: with both ends on one core nothing is slower than TCP.
    if cpus == "one" and "xvm" in peers and not any(o["what"] == "speed" for o in owed):
        owed.append(least(1))
    CASES.append(
        dict(part=part, name=name, kind=kind, cpus=cpus, peers=peers, owed=owed, quick=quick, **spec)
    )


# ---- round trips ----

RTT_OWED = {
    1: [
        least(20, text="1 B round trip, a core each"),
        least(1 / 4, over="raw", text="1 B round trip against the raw ring (4x its time)"),
        least(0.7, over="ucx", text="1 B round trip against UCX's shared memory"),
    ]
}
for n in (1, 8, 64, 512, 4 * K, 16 * K, 64 * K, 256 * K, M):
    case("rtt", f"rtt {size_name(n)}", "load", "two", ALL + LIMITS, RTT_OWED.get(n, ()), n in (1, 64 * K),
         mode="rtt", wait="block", size=n, x=n)
for n in (1, 64, 4 * K, 64 * K, M):
    case("rtt", f"rtt {size_name(n)}", "load", "one", ALL + ["raw"], quick=n == 1,
         mode="rtt", wait="block", size=n, x=n)
for cpus, owed in (("two", 1.7), ("one", 2)):
    case("nospin", "rtt 1 B, spinning off", "load", cpus, ["veth", "unix", "xvm-nospin", "raw"],
         [least(owed, peer="xvm-nospin", text=f"1 B round trip, spinning off, {cpus} core{'s' * (cpus == 'two')}")],
         True, mode="rtt", wait="block", size=1)
for wait in ("poll", "level", "edge", "spin"):
    for cpus in ("two",) if wait == "spin" else ("two", "one"):
        case("wait", f"rtt 1 B, {wait}", "load", cpus, ALL, quick=wait == "edge", mode="rtt", wait=wait, size=1)
for cpus in ("two", "one"):
    for conns in (1, 2, 4, 8, 16, 32, 64):
        case("conns", f"rtt 64 B, {conns} connection{'s' * (conns > 1)}", "load", cpus, ALL, quick=conns == 16,
             mode="rtt", wait="level", size=64, conns=conns, x=conns)

# ---- streams ----

STREAM_OWED = {64: 10, K: 6, 4 * K: 6, 16 * K: 3, 128 * K: 3}
for cpus, sizes in (
    ("two", (1, 8, 64, 256, K, 4 * K, 16 * K, 64 * K, 128 * K, 256 * K, M)),
    ("one", (8, 64, K, 16 * K, 128 * K, M)),
):
    for n in sizes:
        owed = []
        if cpus == "two" and n in STREAM_OWED:
            owed.append(least(STREAM_OWED[n], text=f"stream, {size_name(n)} writes"))
        if cpus == "two" and n == 64 * K:
            owed.append(least(0.7, over="ucx", text="stream of 64 KB against UCX's shared memory"))
        if cpus == "two" and n == 128 * K:
            owed.append(most_cpu(0.5, text="CPU for a GB streamed, 128 KB writes"))
        case("stream", f"stream {size_name(n)}", "load", cpus, ALL + (LIMITS if cpus == "two" else ["raw"]), owed,
             n in (64, 128 * K), mode="stream", wait="block", size=n, x=n, unit="B")
for wait in ("poll", "level", "edge"):
    case("wait", f"stream 16 KB, {wait}", "load", "two", ALL, mode="stream", wait=wait, size=16 * K, unit="B")
# Messages, not bytes; the reader takes what is there, as servers do, or a message each call.
case("msg", "8 B messages one way, read by 64 KB", "load", "two", ALL + LIMITS,
     [rate(5e6, text="8 B messages a second, one way")], True,
     mode="stream", wait="block", size=8, read=64 * K, per=8, unit="messages")
case("msg", "8 B messages one way, read by 8 B", "load", "two", ALL + LIMITS,
     mode="stream", wait="block", size=8, per=8, unit="messages")

# ---- short connections; the other end elsewhere ----

for cpus in ("two", "one"):
    case("crr", "connect, request, close", "load", cpus, ["veth", "loopback", "unix", "sockmap", "xvm"],
         [least(0.97, text=f"connect, one request, close, {cpus} core{'s' * (cpus == 'two')}")], True,
         mode="crr", wait="block", size=64, slices=3)
FAR = ["far", "xvm-far"]
for name, spec in (
    ("rtt 1 B", dict(kind="load", mode="rtt", wait="block", size=1)),
    ("rtt 64 B, 16 connections", dict(kind="load", mode="rtt", wait="level", size=64, conns=16)),
    ("stream 64 B", dict(kind="load", mode="stream", wait="block", size=64, unit="B")),
    ("stream 128 KB", dict(kind="load", mode="stream", wait="block", size=128 * K, unit="B")),
    ("connect, request, close", dict(kind="load", mode="crr", wait="block", size=64)),
    ("redis GET, 50 clients", dict(kind="redis", clients=50, pipeline=1)),
    ("nginx 1 KB, keep-alive", dict(kind="nginx", file="1k", keep=True)),
    ("memcached get, 50 connections", dict(kind="memcached", mode="ask", wait="level", conns=50)),
    ("pgbench -S", dict(kind="pgbench")),
):
    for cpus in ("two", "one") if spec["kind"] == "load" else ("two",):
        case("elsewhere", name, cpus=cpus, peers=FAR, quick=name in ("rtt 1 B", "connect, request, close"), slices=3,
             owed=[least(0.99, over="far", peer="xvm-far", text=f"not resident: {name}, {cpus} core{'s' * (cpus == 'two')}")],
             **spec)

# ---- idle connections ----

for n in (1, 100, 1000, 10000):
    owed = []
    if n == 10000:
        owed.append(dict(what="speed", peer="xvm-idle", over="xvm", least=1 / 1.2,
                         text="round trip beside 10,000 idle connections (1.2x the time alone)"))
    case("idle", f"rtt 64 B beside {n:,} idle", "load", "two", ["veth", "veth-idle", "xvm", "xvm-idle"], owed,
         n == 100, mode="rtt", wait="level", size=64, idle=n, x=n)

# ---- applications ----

APP_PEERS = ["veth", "loopback", "unix", "sockmap", "xvm"]
for cpus in ("two", "one"):
    for clients, pipeline in ((1, 1), (50, 1), (1, 16), (50, 16)):
        owed = [least(3, text=f"redis GET, {clients} client{'s' * (clients > 1)}")] if cpus == "two" and pipeline == 1 else []
        case("redis", f"redis GET, {clients} client{'s' * (clients > 1)}, pipeline {pipeline}", "redis", cpus, APP_PEERS,
             owed, clients == 50 and pipeline == 1, clients=clients, pipeline=pipeline)
    for conns in (1, 50):
        owed = [least(2.5, text="memcached get, 50 connections")] if cpus == "two" and conns == 50 else []
        case("memcached", f"memcached get 100 B, {conns} connection{'s' * (conns > 1)}", "memcached", cpus, APP_PEERS, owed,
             conns == 50, mode="ask", wait="level", conns=conns)
    for file in ("1k", "100k"):
        for keep in (True, False):
            owed = [least(1.5, text="nginx 1 KB, keep-alive")] if cpus == "two" and file == "1k" and keep else []
            if not keep:
                # What "connect, request, close" is owed.
                owed = [least(0.97, text=f"nginx {file[:-1]} KB, a connection each, {cpus} core{'s' * (cpus == 'two')}")]
            case("nginx", f"nginx {file[:-1]} KB, {'keep-alive' if keep else 'a connection each'}", "nginx", cpus,
                 ["veth", "loopback", "sockmap", "xvm"], owed, file == "1k" and keep and cpus == "two", file=file, keep=keep)
    case("pgbench", "pgbench -S, 8 clients", "pgbench", cpus, ["veth", "loopback", "unix", "xvm"],
         [least(1.2, text="pgbench -S")] if cpus == "two" else [], cpus == "two")
    for n in (K, 128 * K):
        case("iperf3", f"iperf3, {size_name(n)} writes", "iperf3", cpus, ["veth", "loopback", "sockmap", "xvm"],
             quick=n > K and cpus == "two", length=n, unit="B")

# ---- pictures ----

# x is the case's; each peer is a line. rate: of what is counted; time: its inverse in µs.
PLOTS = [
    dict(name="rtt", part="rtt", cpus="two", y="time", xlabel="bytes each way", title="Round trip, a core for each end"),
    dict(name="rtt-one", part="rtt", cpus="one", y="time", xlabel="bytes each way", title="Round trip, both ends on one core"),
    dict(name="stream", part="stream", cpus="two", y="rate", xlabel="bytes a write", title="Stream, a core for each end"),
    dict(name="stream-one", part="stream", cpus="one", y="rate", xlabel="bytes a write", title="Stream, both ends on one core"),
    dict(name="conns", part="conns", cpus="two", y="rate", xlabel="connections", title="Round trips of 64 B, a core for each end"),
    dict(name="idle", part="idle", cpus="two", y="time", xlabel="idle connections", title="Round trip of 64 B beside idle connections"),
]
