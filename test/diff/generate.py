# SPDX-License-Identifier: Apache-2.0
"""Random scripts. What a sequence may do next depends on little: most illegal calls are welcome."""
import random


def sequence(seed):
    return Sequence(random.Random(seed)).lines


class Sequence:
    CAP = 30000  # bytes of one direction in all: less than any buffer holds

    def __init__(self, r):
        self.r = r
        self.lines = ["decided"]
        self.conns = []  # names
        self.names = {"A": [], "B": []}  # name, connection
        self.epolls = {"A": [], "B": []}
        self.sent = {}
        self.timed = set()
        self.ended = set()
        self.nonblock = set()
        self.forked = set()
        self.urgent = set()
        self.cold = False
        
        self.dups = 0
        # An edge says that something has changed. When nothing has, as when a FIN is acknowledged or when the
        # path changes, TCP and the ring may each say so again.
        self.edges = r.random() < 0.25
        self.pair()
        if r.random() < 0.2:
            self.pair()
        for _ in range(r.randint(4, 28)):
            self.step()

    def pair(self):
        name = "st"[len(self.conns)]
        self.conns.append(name)
        cold = self.r.random() < 0.25 and not self.edges
        self.cold |= cold
        self.lines.append("pair %s%s%s" % (name, " cold" if cold else "", " from B" if self.r.random() < 0.3 else ""))
        for who in "AB":
            self.names[who].append((name, name))
            self.sent[who, name] = 0

    def say(self, who, what, background=False):
        child = who + "'" if who in self.forked and self.r.random() < 0.4 else who
        self.lines.append("%s %s%s" % (child, what, " &" if background else ""))

    def size(self):
        return self.r.choice([0, 1, 1, 2, 3, 5, 10, 17, 100, 500, 1000, 1448, 3000, 4096, 5000])

    def step(self):
        r = self.r
        who = r.choice("AB")
        name, conn = r.choice(self.names[who])
        what = r.choices([f for f, _ in self.STEPS], [w for _, w in self.STEPS])[0]
        if self.edges and what.__name__ in ("shut", "close", "phase", "dup", "fork", "full"):
            return
        what(self, who, name, conn)

    def can_send(self, who, conn, n):
        if self.sent[who, conn] + n > self.CAP:
            return False
        self.sent[who, conn] += n
        return True

    def flags(self, of, p=0.3):
        return " " + "|".join(self.r.sample(of, self.r.choice([1, 1, 2]))) if self.r.random() < p else ""

    def send(self, who, name, conn):
        r, n = self.r, self.size()
        parts = [self.size() for _ in range(r.randint(1, 4))]
        call = r.choice(["send", "send", "send", "write", "sendto", "writev", "sendmsg", "sendmmsg", "sendfile",
                         "splice_out"])
        if call in ("writev", "sendmsg", "sendmmsg"):
            if not self.can_send(who, conn, sum(parts)):
                return
            args = ",".join(map(str, parts))
        else:
            if not self.can_send(who, conn, n):
                return
            args = str(n)
            if n == 0 and call != "sendfile" and r.random() < 0.3:
                args += " null"
            elif n and call in ("send", "write", "sendto") and r.random() < 0.03:
                args += " bad"
        if call in ("send", "sendto", "sendmsg", "sendmmsg"):  # not MORE: TCP sends it some time
            args += self.flags(["DONTWAIT", "NOSIGNAL", "EOR", "DONTROUTE"])
            # On the ring nothing is urgent: it waits until the other end has followed there, by a call that
            # takes what was sent before. And but one: with a second right behind it TCP drops the first, if that
            # was not read, but not where a pad lies before it.
            if r.random() < 0.02 and call != "sendmmsg" and conn not in self.ended | self.urgent and not self.edges:
                self.urgent.add(conn)
                self.lines.append("%s recv %s 1000000 DONTWAIT" % ("B" if who == "A" else "A", conn))
                args += " OOB"
        if call == "sendfile" and r.random() < 0.6:
            args += " %d" % r.choice([0, 5, 100, 1048570, 2000000])
        if call == "splice_out" and n == 0:
            return
        self.say(who, "%s %s %s" % (call, name, args))

    def recv(self, who, name, conn):
        r, n = self.r, self.r.choice([self.size(), 20000])
        parts = [self.size() for _ in range(r.randint(1, 4))]
        call = r.choice(["recv", "recv", "recv", "read", "recvfrom", "readv", "recvmsg", "recvmmsg", "splice_in",
                         "preadv2"])
        args = ",".join(map(str, parts)) if call in ("readv", "recvmsg", "recvmmsg", "preadv2") else str(n)
        now = conn in self.timed
        if call in ("recv", "recvfrom", "recvmsg", "recvmmsg"):
            args += self.flags(["PEEK", "WAITALL", "TRUNC", "NOSIGNAL", "CMSG_CLOEXEC", "ERRQUEUE", "PEEK", "WAITALL"],
                               0.4)
            # A wait for nothing is ended in the kernel by whatever wakes it, such as room: README.md.
            nothing = not (sum(parts) if call in ("recvmsg", "recvmmsg") else n)
            if r.random() < 0.6 or nothing:
                args, now = args + " DONTWAIT", True
            if r.random() < 0.02:
                args += " OOB"
            if n == 0 and call == "recv" and r.random() < 0.3:
                args += " null"
            elif n and call == "recv" and r.random() < 0.03:
                args += " bad"
        # A peek that waits for all, beside one who takes: README.md, "What is not mended".
        if "PEEK" in args and not now:
            args = args.replace("|WAITALL", "").replace("WAITALL|", "")
        if call == "preadv2" and r.random() < 0.5:
            args, now = args + " NOWAIT", True
        if call == "recvmmsg":
            args += " WAITFORONE"
        if call == "splice_in" and n == 0:
            return
        self.say(who, "%s %s %s" % (call, name, args), not now)

    def events(self):
        return "|".join(self.r.sample(["IN", "IN", "OUT", "RDHUP", "PRI", "HUP"], self.r.randint(1, 3)))

    def poll(self, who, name, conn):
        r = self.r
        some = r.sample(self.names[who], min(len(self.names[who]), r.randint(1, 3)))
        timeout = r.choice([0, 0, 0, 1, -1, -1])
        if r.random() < 0.7:
            fds = " ".join("%s:%s" % (n, self.events()) for n, _ in some)
            call = r.choice(["poll", "ppoll"])
        else:
            fds = " ".join("%s:%s" % (n, r.choice(["r", "w", "rw", "x", "rwx"])) for n, _ in some)
            call = r.choice(["select", "pselect"])
            timeout = max(timeout, 0)  # of a descriptor that is closed meanwhile nothing is promised
        self.say(who, "%s %d %s" % (call, timeout, fds), timeout < 0)

    def epoll(self, who, name, conn):
        r = self.r
        if not self.epolls[who] or r.random() < 0.1:
            if len(self.epolls[who]) > 2 or who in self.forked:
                return
            ep = "e%d" % len(self.epolls[who])
            self.epolls[who].append(ep)
            self.lines.append("%s %s=epoll_create" % (who, ep))
            self.say(who, "epoll_ctl %s ADD %s %s" % (ep, name, self.mode()))
            return
        ep = r.choice(self.epolls[who])
        what = r.random()
        if what < 0.3:
            target = r.choice(self.epolls[who]) if r.random() < 0.1 else name
            self.say(who, "epoll_ctl %s %s %s %s" % (ep, r.choice(["ADD", "ADD", "MOD", "MOD", "DEL"]), target,
                                                     self.mode()))
            return
        timeout = r.choice([0, 0, 0, 1, -1])
        self.say(who, "%s %s 16 %d" % (r.choice(["epoll_wait", "epoll_wait", "epoll_pwait", "epoll_pwait2"]), ep,
                                       timeout), timeout < 0)

    def mode(self):
        r = self.r
        if self.edges:
            return "IN" + r.choice(["|ET", "|ET", "|ET|ONESHOT", "|ONESHOT", ""])
        events = self.events()
        # One that comes to the ring after the kernel has told of it: README.md as well.
        return events + r.choice(["", "", "", "" if self.cold else "|ONESHOT", "|EXCLUSIVE"])

    def option(self, who, name, conn):
        r = self.r
        what = r.choice(["NODELAY", "CORK", "LINGER", "RCVTIMEO", "SNDTIMEO", "RCVLOWAT", "ERROR", "KEEPALIVE",
                         "BROKEN", "OOBINLINE"])
        if r.random() < 0.5:
            self.say(who, "getopt %s %s" % (name, what))
            return
        if what == "CORK":  # or what is sent would come by a timer
            return
        if what in ("NODELAY", "ERROR", "TYPE", "BROKEN", "KEEPALIVE"):
            value = "1"
        elif what == "LINGER":
            value = r.choice(["0 0", "1 0", "1 2"])
        elif what == "RCVLOWAT":
            value = r.choice(["0", "1", "1", "2", "10", "100", "3000"][:2 if self.edges else 7])
        elif what == "OOBINLINE":
            value = r.choice(["0", "0", "0", "1"])
            if self.edges:  # that changes the path
                value = "0"
        else:
            value = r.choice(["0", "5", "20"])
            self.timed.add(conn)
        self.say(who, "setopt %s %s %s" % (name, what, value))

    def count(self, who, name, conn):
        call = self.r.choice(["fionread", "fionread", "outq", "atmark", "getfl", "at pread", "lseek", "state",
                              "peername", "fds"])
        self.say(who, "%s %s" % (call, name))

    def shut(self, who, name, conn):
        self.ended.add(conn)
        self.say(who, "shutdown %s %s" % (name, self.r.choice(["RD", "WR", "WR", "WR", "RDWR", "3"])))

    def close(self, who, name, conn):
        self.ended.add(conn)
        call = self.r.choice(["close", "close", "close", "close@raw", "close_range"])
        self.say(who, "%s %s%s" % (call, name, " " + name if call == "close_range" else ""))

    def dup(self, who, name, conn):
        if self.dups > 3 or who in self.forked:
            return
        self.dups += 1
        new = "d%d" % self.dups
        self.lines.append("%s %s=%s" % (who, new, self.r.choice(
            ["dup %s", "dup2 %s %d" % ("%s", 20 + self.dups), "dup3 %s %d" % ("%s", 20 + self.dups), "dupfd %s 10",
             "dup2 %s " + self.r.choice(self.names[who])[0]]) % name))
        self.names[who].append((new, conn))

    def mark_nonblock(self, who, name, conn):
        # Calls in the foreground are those that do not wait in any case.
        self.say(who, "%s %s %d" % (self.r.choice(["nonblock", "fionbio"]), name, self.r.randint(0, 1)))

    def fork(self, who, name, conn):
        if who in self.forked:
            self.forked.discard(who)
            self.lines.append("%s' %s" % (who, self.r.choice(["exit", "exit", "exit raw", "killed"])))
        elif not self.epolls[who]:  # README.md, "What is not mended"
            self.lines.append("%s fork" % who)
            self.forked.add(who)

    def phase(self, who, name, conn):
        self.lines.append("%s %s %s" % (self.r.choice(["leave", "leave", "enter"]), who, conn))

    def kick(self, who, name, conn):
        self.lines.append("kick %s" % who)

    def wrong(self, who, name, conn):
        r = self.r
        # Zero-copy takes the connection off the ring: that changes the path.
        copies = "send %s 5 0x400000" if self.edges else "send %s 5 0x4000000"
        self.say(who, r.choice([
            "send 876 5", "recv -1 5 DONTWAIT", "close 876", "dup 876", "dup2 %s -1" % name, "dup2 %s %s" % (name, name),
            "dup3 %s %s" % (name, name), "shutdown %s -1" % name, "shutdown 876 WR", "poll 0 876:IN",
            "poll 0 -1:IN %s:IN" % name, "epoll_ctl 876 ADD %s IN" % name, "epoll_ctl %s ADD %s IN" % (name, name),
            "epoll_wait %s 1 0" % name, "readv %s 5,5 -1" % name, "writev %s 5,5 2000" % name,
            "recv %s huge PEEK|DONTWAIT" % name, "recv %s -1 PEEK|DONTWAIT" % name, "read 876 0 null",
            copies % name, "recv %s 5 DONTWAIT 0x80000" % name, "send %s 1 FASTOPEN|NOSIGNAL" % name,
            "fionread 876", "close_range 50 20", "epoll_ctl %s BAD %s IN" % (name, name)]))

    def full(self, who, name, conn):
        """No room: what is sent and read meanwhile would depend on buffers."""
        r, other = self.r, "B" if who == "A" else "A"
        if conn in self.ended or conn in self.timed or who in self.forked or other in self.forked or r.random() < 0.5:
            return
        self.lines.append("%s recv %s 1000000 DONTWAIT" % (other, conn))
        self.lines.append("fill %s %s" % (who, conn))
        for _ in range(r.randint(0, 2)):
            if self.epolls[who] and r.random() < 0.5:
                self.lines.append("%s epoll_wait %s 16 0" % (who, self.epolls[who][0]))
            else:
                self.lines.append("%s poll 0 %s:OUT|IN" % (who, conn))
        self.lines.append("drain %s %s" % (other, conn))

    STEPS = [(send, 30), (recv, 30), (poll, 12), (epoll, 16), (option, 6), (count, 6), (shut, 3), (close, 2),
             (dup, 3), (mark_nonblock, 2), (fork, 2), (phase, 3), (kick, 2), (wrong, 4), (full, 1)]
