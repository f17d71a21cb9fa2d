# SPDX-License-Identifier: Apache-2.0
"""Plays a script on a pair of endpoints (actor.c), plain or preloaded. See README.md."""
import os, re, signal, socket, subprocess, time

BUILD = os.environ.get("XVM_BUILD") or os.path.join(os.path.dirname(__file__), "../../build")
ACTOR = os.path.join(BUILD, "test/diff/actor")
WARM_ROUNDS, WARM_TRIES = 10, 200
TAKES = ("recv", "read", "recvfrom", "readv", "recvmsg", "recvmmsg", "splice_in", "preadv2", "drain")
LOOKS = ("poll", "ppoll", "select", "pselect")
EPOLLS = ("epoll_wait", "epoll_pwait", "epoll_pwait2")
PIECES = ("sendmmsg", "sendfile", "splice_out")  # several segments, one after the other


class Stuck(Exception):
    """A call that is not to block has not come back, or an endpoint has died."""


class Blocked:
    """A call that may block: what it does with which connections."""

    def __init__(self, line, does, conns, epoll=None):
        self.line, self.does, self.conns, self.epoll = line, does, conns, epoll

    def meets(self, conns):
        return bool(self.conns & conns)

    def competes(self, other):
        """Is it left to the scheduler which of the two finds what is there?"""
        if "take" in (self.does, other.does):
            return self.meets(other.conns)
        if self.does == other.does == "epoll":
            return self.epoll is other.epoll or self.meets(other.conns) and (
                "EXCLUSIVE" in self.epoll.modes or "EXCLUSIVE" in other.epoll.modes)
        return False


class Epoll:
    """What was ever registered, and how."""

    def __init__(self):
        self.conns, self.modes = set(), set()


class Actor:
    def __init__(self, name, sock, pid):
        self.name, self.sock, self.pid = name, sock, pid
        self.names = {}  # of descriptors
        self.conns = {}  # by descriptor: the connection's name
        self.epolls = {}
        self.blocked = []
        self.spare = None

    def conns_of(self, *words):
        """The connections that words name, those in an epoll as well."""
        found = set()
        for word in words:
            if word in self.epolls:
                found |= self.epolls[word].conns
            fd = self.names.get(word, int(word) if word.isdigit() else None)
            if fd in self.conns:
                found.add(self.conns[fd])
        return found

    def say(self, line):
        try:
            self.sock.send(line.encode())
        except OSError:
            raise Stuck("%s is gone" % self.name)

    def hear(self, seconds=5):
        self.sock.settimeout(seconds)
        try:
            got = self.sock.recv(16384)
        except TimeoutError:
            raise Stuck("%s: HANGS" % self.name)
        except OSError:
            got = b""
        if not got:
            raise Stuck("%s: DIES" % self.name)
        return got.decode()

    def ask(self, line):
        self.say(line)
        return self.hear()


class Daemon:
    """An xvmd for preloaded endpoints, in a directory of its own."""

    def __init__(self, where):
        self.socket = os.path.join(where, "xvmd.sock")
        self.log = open(os.path.join(where, "xvmd.log"), "w")
        self.proc = subprocess.Popen(
            [os.path.join(BUILD, "xvmd"), "--socket", self.socket, "--foreground"],
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        end = time.time() + 10
        while not os.path.exists(self.socket):
            if time.time() > end or self.proc.poll() is not None:
                raise RuntimeError("xvmd does not start, see %s" % self.log.name)
            time.sleep(0.01)

    def stop(self):
        self.proc.terminate()
        self.proc.wait()


class Stage:
    """Two endpoints that live for several scripts."""

    def __init__(self, where, daemon=None, env=None, apart=True):
        self.where, self.daemon, self.extra, self.apart = where, daemon, env or {}, apart
        self.procs, self.actors, self.warmed = [], {}, 0
        self.start()

    def start(self):
        env = dict(os.environ)
        env.pop("LD_PRELOAD", None)
        if self.daemon:
            env.update(LD_PRELOAD=os.path.join(BUILD, "libxvm.so"), XVM_SOCKET=self.daemon.socket, XVM_LOG="3")
            env.update(self.extra)
        cpus = sorted(os.sched_getaffinity(0))
        self.actors, self.procs = {}, []
        self.log = open(os.path.join(self.where, "preloaded.log" if self.daemon else "plain.log"), "a")
        for i, name in enumerate("AB"):
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            spare, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            cpu = cpus[i % len(cpus) if self.apart else 0]
            proc = subprocess.Popen([ACTOR, str(cpu), str(theirs.fileno()), str(childs.fileno())], env=env,
                                    pass_fds=(theirs.fileno(), childs.fileno()), stderr=self.log,
                                    stdin=subprocess.DEVNULL, stdout=self.log)
            theirs.close()
            childs.close()
            actor = Actor(name, mine, proc.pid)
            actor.spare = spare
            self.actors[name] = actor
            self.procs.append(proc)

    def stop(self):
        for name in "AB":
            try:
                self.actors[name].say("!quit")
            except Stuck:
                pass
        for name in list(self.actors):
            if name not in "AB":
                self.kill(self.actors[name].pid)
        for proc in self.procs:
            try:
                proc.wait(2)
            except subprocess.TimeoutExpired:
                proc.kill()
                proc.wait()
        for name in "AB":
            self.actors[name].sock.close()
            self.actors[name].spare.close()
        self.log.close()

    @staticmethod
    def kill(pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass

    def restart(self):
        for actor in self.actors.values():
            self.kill(actor.pid)
        self.stop()
        self.start()

    # ---- playing ----

    def play(self, lines):
        """What it tells, line by line."""
        self.out, self.decided, self.filled, self.stuck = [], False, {}, None
        try:
            for n, line in enumerate(lines, 1):
                self.at = "%d " % n
                self.step(line.split("#")[0].split())
            self.at = "end "
            self.end()
        except Stuck as e:
            self.stuck = self.at + str(e)
            self.out.append(self.stuck)
            self.restart()
            return self.out
        self.at = "after "
        try:
            self.clean()
        except Stuck:
            self.restart()
        return self.out

    def tell(self, text):
        # On TCP the FIN waits behind what the window has no room for, and on the ring it overtakes that.
        text = re.sub(r"FIN_WAIT[12]$", "FIN_WAIT", text.split("\t")[0].strip())
        self.out.append(self.at + text)

    def step(self, words):
        if not words:
            return
        if words[0] == "decided":
            self.decided = True
            return
        if words[0] in ("pair", "warm", "kick", "cancel", "leave", "enter", "fill", "drain"):
            getattr(self, "do_" + words[0])(words[1:])
        elif words[0] in self.actors:
            self.call(self.actors[words[0]], words[1:])
        else:
            self.tell("no %s" % words[0])
            return
        self.settle()

    def call(self, actor, words):
        background = words[-1] == "&"
        line = " ".join(words[:-1] if background else words)
        verb = words[0].split("=")[-1].split("@")[0]
        if "PORT" in words:
            port = self.actors["B" if actor.name[0] == "A" else "A"].ask("port").split(" = ")[1]
            self.tell("%s %s" % (actor.name, actor.ask(line.replace("PORT", port)).replace(port, "PORT")))
            return None
        why = self.decided and self.undecided(actor, verb, words, background)
        if why:
            self.tell("%s %s: not while %s" % (actor.name, line, why))
            return None
        if background:
            actor.blocked.append(self.blocking(actor, verb, words))
            actor.ask("&" + line)
            return None
        if verb in ("fork", "spawn", "exit", "killed"):
            getattr(self, "do_" + verb)(actor, line)
            return None
        answer = actor.ask(line)
        if answer.endswith("= no such call"):
            raise ValueError("%s: no such call" % line)
        self.tell("%s %s" % (actor.name, answer))
        self.note(actor, words, answer)
        return answer

    @staticmethod
    def blocking(actor, verb, words):
        line = " ".join(w for w in words if w != "&")
        if verb in TAKES:
            return Blocked(line, "take", actor.conns_of(words[1]))
        if verb in LOOKS:
            return Blocked(line, "look", actor.conns_of(*(w.split(":")[0] for w in words[2:])))
        if verb in EPOLLS and words[1] in actor.epolls:
            epoll = actor.epolls[words[1]]
            return Blocked(line, "epoll", epoll.conns, epoll)
        return Blocked(line, "put", set())

    def undecided(self, actor, verb, words, background):
        """Where plain TCP itself would leave it to the scheduler what happens: why. README.md, "What is left out"."""
        def calls(same):
            return [b for a in self.actors.values() if (a.name[0] == actor.name[0]) == same for b in a.blocked]
        if background:
            new = self.blocking(actor, verb, words)
            # Both are woken by the same segment, and the one that is first takes what is there.
            if any(new.competes(b) for b in calls(True)):
                return "another call waits for the same"
        # An endpoint has one pipe for it.
        if verb == "splice_in" and any(b.line.startswith(verb) for b in actor.blocked):
            return "the pipe is taken"
        # Nor does the kernel say what becomes of a descriptor that is closed while it is polled (select(2)).
        gone = words[2:3] if verb in ("dup2", "dup3") else words[1:] if "close" in verb else []
        if any(b.does == "look" and b.meets(actor.conns_of(*gone)) for b in actor.blocked):
            return "it is polled"
        # README.md, "What is not mended".
        lost = actor.conns_of(*gone)
        if any(b.does == "take" and b.meets(lost) for b in actor.blocked) and any(
                e.conns & lost for e in actor.epolls.values()):
            return "a call and an epoll have it"
        if verb in PIECES:
            # Who is woken by the first segment finds one or all; edges are one or several. At our own end, who is
            # woken by the reset that the first draws finds the error, or that the second has taken it.
            conns = actor.conns_of(words[1])
            if any(b.meets(conns) and (b.does == "take" or b.epoll and "ET" in b.epoll.modes) for b in calls(False)):
                return "the other end waits for it"
            if any(b.meets(conns) for b in calls(True)):
                return "this end waits"
        return None

    @staticmethod
    def note(actor, words, answer):
        """The descriptors that have names, and what they stand for; of epolls no end is looked at."""
        name, eq, verb = words[0].rpartition("=")
        result = (answer.partition(" = ")[2].split() or [""])[0]
        if verb == "epoll_ctl" and words[1] in actor.epolls and len(words) > 4:
            actor.epolls[words[1]].conns |= actor.conns_of(words[3])
            actor.epolls[words[1]].modes |= set(words[4].split("|"))
        if not eq or not result.isdigit():
            return
        fd = int(result)
        if verb == "epoll_create":
            actor.epolls[name] = Epoll()
            return
        found = [name] if verb in ("connect", "accept") else list(actor.conns_of(*words[1:2]))
        actor.conns.pop(fd, None)
        if found:
            actor.conns[fd] = found[0]
        actor.names[name] = fd

    def settle(self):
        """Nothing happens any more by itself. Tells which calls have ended by then."""
        ended, still, quiet, end, before, looks = [], 0, False, time.time() + 20, None, {}
        while not quiet:
            quiet, unacked, sleeps, soon = True, 0, [], False
            for actor in list(self.actors.values()):
                first, *rest = actor.ask("!settle").split("\n")
                unacked += int(first.split()[1])
                for line in rest:
                    # All asleep, each at the moment when it was looked at: once more.
                    if line.startswith("sleeps"):
                        sleeps.append(line)
                        continue
                    if line.startswith("timed"):
                        _, tid, n = line.split()
                        looks.setdefault((actor.name, tid), int(n))
                        soon |= int(n) < looks[actor.name, tid] + 2
                        continue
                    quiet = False
                    if line == "busy":
                        continue
                    self.unblocked(actor, line)
                    ended.append("%s %s" % (actor.name, self.partial(line)))
            if not quiet:
                looks = {}
            # Who looks again every few milliseconds has to have looked at what is there now.
            if quiet and soon:
                quiet = False
                time.sleep(0.001)
                continue
            quiet = quiet and (not sleeps or sleeps == before or looks)
            before = sleeps
            # Busy without an end is spinning, a bounded matter.
            if time.time() > end:
                raise Stuck("does not come to rest")
            # An acknowledgement may be late; one of what nobody takes does not come.
            if quiet and unacked and still < 25:
                still += 1
                quiet = False
                time.sleep(0.002)
        for line in sorted(ended):
            self.tell(line + " (had blocked or might have)")

    @staticmethod
    def unblocked(actor, line):
        for b in actor.blocked:
            if line.startswith(b.line + " ="):
                actor.blocked.remove(b)
                return

    @staticmethod
    def partial(line):
        """Where a send is ended amid more than buffers hold, how much they held is nobody's business."""
        m = re.match(r"(\w*send\w*|\w*write\w*) (\S+) (\d{6,})(.*) = (\d+)$", line)
        return line.replace(" = " + m.group(5), " = partial") if m and int(m.group(5)) < int(m.group(3)) else line

    def do_pair(self, words):
        """pair NAME [cold] [from B]"""
        name = words[0]
        active, passive = (self.actors["B"], self.actors["A"]) if "B" in words else (self.actors["A"], self.actors["B"])
        port = passive.ask("port").split(" = ")[1]
        for actor, line in (active, "%s=connect %s" % (name, port)), (passive, "%s=accept" % name):
            answer = actor.ask(line)
            self.note(actor, line.split(), answer)
            self.tell("%s %s" % (actor.name, answer.replace(port, "PORT")))
        if "cold" not in words[1:]:
            self.do_warm([name])

    def do_warm(self, words):
        """Uses a connection until it is on the ring."""
        a, b = self.actors["A"], self.actors["B"]
        for i in range(WARM_TRIES if self.daemon else 1):
            a.say("warm %s %d 0" % (words[0], WARM_ROUNDS))
            b.say("warm %s %d 1" % (words[0], WARM_ROUNDS))
            moved = [x.hear().split(" = ")[1].strip() for x in (a, b)]
            if not moved[0].isdigit() or not moved[1].isdigit():
                self.tell("warm fails")
                return
            if int(moved[0]) < WARM_ROUNDS:
                self.warmed += 1
                return

    def do_kick(self, words):
        self.actors[words[0]].ask("!kick")

    def do_cancel(self, words):
        self.actors[words[0]].ask("!cancel")

    def move(self, what, words):
        actor = self.actors[words[0]]
        if self.daemon and words[1] in actor.names:
            asked = subprocess.Popen([os.path.join(BUILD, "xvm"), what, "%d:%d" % (actor.pid, actor.names[words[1]])],
                                     env=dict(os.environ, XVM_SOCKET=self.daemon.socket), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            # The library hears of it in a call; till then xvm would wait for an answer.
            while asked.poll() is None:
                actor.ask("poll 0")
                time.sleep(0.002)

    def do_leave(self, words):
        self.move("leave", words)

    def do_enter(self, words):
        self.move("enter", words)

    def do_fill(self, words):
        """fill A NAME: sends until no room is left. Nobody's business how much that is."""
        actor = self.actors[words[0]]
        answer = actor.ask("fill " + words[1])
        self.tell("%s %s" % (words[0], answer))
        last = None
        while answer.split("\t")[1] != last:
            last = answer.split("\t")[1]
            self.settle()  # what is acknowledged then makes room
            answer = actor.ask("fill %s more" % words[1])
        self.filled[tuple(words)] = last

    def do_drain(self, words):
        """drain B NAME: takes what fill has sent, and looks whether it is that."""
        actor, sent = self.actors[words[0]], self.filled.pop(
            ("A" if words[0] == "B" else "B", words[1]), "0 811c9dc5")
        answer = actor.ask("drain %s %s" % (words[1], sent.split()[0])).split("\t")
        self.tell("%s drain %s%s" % (words[0], words[1], ": the same" if answer[1] == sent else ": OTHER BYTES"))

    def do_fork(self, actor, line):
        child = Actor(actor.name + "'", actor.spare, 0)
        if child.name in self.actors:
            self.tell("%s: one child at a time" % actor.name)
            return
        actor.say(line)
        self.tell("%s %s" % (actor.name, child.hear()))
        child.pid = int(actor.hear().split("\t")[1])
        child.names, child.conns, child.epolls = dict(actor.names), dict(actor.conns), dict(actor.epolls)
        self.actors[child.name] = child

    def do_exit(self, actor, line):
        if not actor.name.endswith("'"):
            self.tell("%s stays" % actor.name)
            return
        actor.say(line)
        del self.actors[actor.name]
        self.tell("%s %s, status %s" % (actor.name, line, self.reap(actor)))

    do_killed = do_exit
    do_spawn = do_fork

    def reap(self, child):
        return self.actors[child.name[:-1]].ask("reap %d" % child.pid).split(" = ")[1]

    def look(self, actor, name):
        for line in ("recv %s 1000000 DONTWAIT" % name, "recv %s 1000000 DONTWAIT" % name,
                     "poll 0 %s:IN|OUT|RDHUP|PRI" % name, "getopt %s ERROR" % name, "state %s" % name):
            self.tell("%s %s" % (actor.name, actor.ask(line)))

    def end(self):
        """What is left, and how it ends."""
        self.settle()
        for actor in self.actors.values():
            for name in actor.names:
                self.look(actor, name)
        for actor in list(self.actors.values()):
            # See undecided().
            # A signal that comes between two sleeps of one wait does not end it: libxvm(7).
            for _ in range(20):
                if not any(b.does == "look" for b in actor.blocked):
                    break
                actor.ask("!kick looks")
                self.settle()
            for name in actor.names:
                self.tell("%s %s" % (actor.name, actor.ask("close " + name)))
                self.settle()
            if actor.name.endswith("'"):
                self.do_exit(actor, "exit")
            if actor.name == "A":
                for name in self.actors["B"].names:
                    self.look(self.actors["B"], name)
        for actor in self.actors.values():
            self.tell("%s %s" % (actor.name, actor.ask("fds")))

    def clean(self):
        for actor in self.actors.values():
            for i in range(100):
                if not actor.blocked:
                    break
                actor.ask("!kick")
                self.settle()
            if actor.blocked:
                raise Stuck("%s: a call goes on and on" % actor.name)
            actor.ask("close_range 3 199")
            actor.ask("close_range 1024 4095")
            actor.ask("!forget")
            actor.names, actor.conns, actor.epolls = {}, {}, {}
