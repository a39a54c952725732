#!/usr/bin/env python3
"""Attacks on a running Oxkeeper: memory stays within its bound, a well-behaved client beside is served and never cut, and
the server stops and starts again as ever.

    hostile.py [--full] [--only H6]

Each attack has a server of its own, under a limit on its address space, and a probe: another process with a session that
reads and writes all the time. Small numbers by default, those of the programme with --full. Time is printed, and asserted
only where silence would mean that the server hangs.
"""
import argparse
import concurrent.futures
import multiprocessing
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from servers import Server
from zkwire import OPEN, OPS, Closed, Reader, Session, buf, create_body, four_letter_word, i32, i64, multi_body, text

MIB = 1 << 20
LIMIT = 0xFFFFF
ADDRESS_SPACE = 1 << 30
# Java's nio.sessionlessCnxnTimeout; a connection is looked at when its time is over.
SESSIONLESS_S = 10
# Longer than that and the server hangs.
PATIENCE_S = 30
OPTIONS = {"tickTime": "500", "snapCount": "100000", "preAllocSize": "4096", "memoryLimitInMb": "512"}


def probe(port, pipe):
    """A client as it should be: a read and a write, again and again."""
    took, failed = [], None
    try:
        s = Session(port, timeout=6000, wait=PATIENCE_S)
        s.call("create", create_body("/probe", b"x" * 100))
        pipe.send(s.sid)
        while not pipe.poll(0.004):
            for op, body in (("getData", text("/probe") + b"\0"), ("setData", text("/probe") + buf(b"y" * 100) + i32(-1))):
                begun = time.monotonic()
                err = s.call(op, body)[1]
                took.append((begun, time.monotonic() - begun))
                if err != 0:
                    raise AssertionError(f"{op} came to {err}")
        s.close()
    except (Closed, OSError, AssertionError) as error:
        failed = repr(error)
    pipe.send((took, failed))


class Target:
    """A server under attack, its probe, and what it takes of memory."""

    def __init__(self, name, options=None, memory_mib=64):
        self.name, self.memory_mib = name, memory_mib
        self.home = tempfile.TemporaryDirectory(prefix="oxkeeper-hostile-")
        self.server = Server("oxkeeper", self.home.name, {**OPTIONS, **(options or {})},
                             wrap=["prlimit", f"--as={ADDRESS_SPACE}"])

    def __enter__(self):
        self.server.start()
        self.port = self.server.port
        self.pipe, far = multiprocessing.Pipe()
        self.probe = multiprocessing.Process(target=probe, args=(self.port, far), daemon=True)
        self.probe.start()
        self.probe_sid = self.pipe.recv()
        time.sleep(0.3)
        self.before, self.peak = self.resident(), 0
        self.begun = time.monotonic()
        self.watching = True
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        return self

    def resident(self):
        status = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024

    def watch(self):
        while self.watching:
            try:
                self.peak = max(self.peak, self.resident())
            except (OSError, TypeError, AttributeError):
                return
            time.sleep(0.02)

    def true(self, what, found):
        if not found:
            raise AssertionError(f"{self.name}: not so: {what}\n{self.server.words()[-3000:]}")

    def eventually(self, what, found, seconds=PATIENCE_S):
        deadline = time.monotonic() + seconds
        while not found():
            self.true(f"{what}, within {seconds} s", time.monotonic() < deadline)
            time.sleep(0.02)

    def session(self, **more):
        return Session(self.port, wait=PATIENCE_S, **more)

    def zxid(self):
        return int(re.search("Zxid: 0x(.*)", four_letter_word(self.port, "srvr"))[1], 16)

    def __exit__(self, kind, error, _):
        try:
            if kind is None:
                self.finish()
            elif kind is not AssertionError:
                raise AssertionError(f"{self.name}: {error!r}\n{self.server.words()[-1500:]}") from error
        finally:
            self.watching = False
            self.probe.kill()
            self.server.stop(signal.SIGKILL)
            self.home.cleanup()

    def finish(self):
        self.true("the server lives", self.server.process.poll() is None)
        grown = self.peak - self.before
        self.pipe.send("stop")
        took, failed = self.pipe.recv()
        self.true(f"the probe is served: {failed}", failed is None)
        during = sorted(length for begun, length in took if begun > self.begun)
        baseline = sorted(length for begun, length in took if begun <= self.begun)
        self.true("the probe was served during the attack", len(during) > 1)
        p99 = lambda all_of_them: all_of_them[int(len(all_of_them) * 0.99)] * 1000  # noqa: E731
        print(f"hostile: {self.name}: {grown} MiB grown of {self.memory_mib}, probe p99 {p99(during):.1f} ms, at worst "
              f"{during[-1] * 1000:.0f} ms (before: {p99(baseline):.1f} ms)", flush=True)
        self.true(f"memory grows by {grown} MiB, at most {self.memory_mib} MiB", grown <= self.memory_mib)
        self.true("no panic", "panicked" not in self.server.words())
        self.true("a clean stop", self.server.stop() == 0)
        self.server.start()
        self.true("no digest is wrong after another start", "Digests are not" not in self.server.words())


def connect(port, source="127.0.0.1"):
    sock = socket.socket()
    if source != "127.0.0.1":
        sock.bind((source, 0))
    sock.settimeout(PATIENCE_S)
    sock.connect(("127.0.0.1", port))
    return sock


def crowd(port, count, payload):
    """So many connections that have sent this."""
    socks = []
    for _ in range(count):
        sock = connect(port)
        sock.sendall(payload)
        sock.setblocking(False)
        socks.append(sock)
    return socks


def is_closed(sock):
    """Whether the other side has closed it; what comes meanwhile is read."""
    try:
        while sock.recv(1 << 16):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def still_open(socks):
    socks[:] = [sock for sock in socks if not (is_closed(sock) and (sock.close() or True))]
    return len(socks)


def closes(sock):
    sock.settimeout(PATIENCE_S)
    try:
        while sock.recv(1 << 16):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def handshake(timeout_ms=4000):
    body = i32(0) + i64(0) + i32(timeout_ms) + i64(0) + buf(b"\0" * 16) + b"\0"
    return i32(len(body)) + body


def request(xid, op, body=b""):
    number = OPS[op] if isinstance(op, str) else op
    return i32(8 + len(body)) + i32(xid) + i32(number) + body


def lengths(full):
    """H1: lengths that are none, before and after a handshake."""
    count = 5000 if full else 500
    with Target("H1 lengths", memory_mib=32) as t:
        for length in (-1, -(1 << 31), 0, LIMIT + 1, (1 << 31) - 1):
            t.true(f"closed for length {length} at first", closes(crowd(t.port, 1, i32(length))[0]))
            s = t.session()
            s.sock.sendall(i32(length))
            t.true(f"closed for length {length}", closes(s.sock))
        s = t.session()
        body = text("/probe") + b"\0"
        s.sock.sendall(request(7, "exists", body + bytes(LIMIT - 8 - len(body))))
        t.true("a frame of exactly the limit", s.receive("exists", 7)[1] == 0)
        s.close()
        waiting = crowd(t.port, count, i32(LIMIT))
        t.true("claims keep nobody", t.session().ping()[1] == 0)
        for sock in waiting:
            sock.close()


def claims(full):
    """H2, H3, H5: connections that claim much and send little, that dribble, that are silent. Those without a session are
    cut when Java cuts them; those with one when it expires, for only a whole frame says that somebody is there."""
    count = 10_000 if full else 1500
    with Target("H2 H3 H5 claims, dribbles, silence", memory_mib=64) as t:
        claiming = crowd(t.port, count // 2, i32(LIMIT) + b"\0")
        silent = crowd(t.port, count // 4, b"")
        dribbling = crowd(t.port, count // 8, i32(44))
        sessions = crowd(t.port, count // 8, handshake())
        for sock in sessions:
            sock.settimeout(PATIENCE_S)
            sock.recv(1 << 16)
            sock.send(i32(1000))
            sock.setblocking(False)
        begun = time.monotonic()
        cut = {}
        groups = {"claiming": claiming, "silent": silent, "dribbling": dribbling, "half a frame": sessions}
        while any(groups.values()):
            t.true(f"all are cut: {[(name, len(group)) for name, group in groups.items()]}",
                   time.monotonic() - begun < SESSIONLESS_S + PATIENCE_S)
            for name, group in groups.items():
                if group and not still_open(group):
                    cut[name] = time.monotonic() - begun
            for sock in (*dribbling, *sessions):
                try:
                    sock.send(b"\0")
                except OSError:
                    pass
            time.sleep(0.5)
        t.true(f"sessions of half a frame are over before connections without one: {cut}",
               cut["half a frame"] < SESSIONLESS_S + 2)


def flood(full):
    """H4: connections as fast as they come, beyond the caps for one address and for all."""
    seconds = 20 if full else 4
    with Target("H4 connection flood", {"maxClientCnxns": "60", "maxCnxns": "300"}, memory_mib=32) as t:
        begun, tries, held = time.monotonic(), 0, []
        while time.monotonic() - begun < seconds:
            for n in range(2, 12):
                try:
                    sock = connect(t.port, f"127.0.0.{n}")
                    sock.setblocking(False)
                    held.append(sock)
                except OSError:
                    pass
                tries += 1
            if len(held) >= 2000:
                still_open(held)
                while len(held) > 300:
                    held.pop(0).close()
        t.true(f"some of {tries} are open", 0 < still_open(held))
        t.eventually("no more than the cap are open", lambda: still_open(held) <= 300)
        for sock in held:
            sock.close()
        t.eventually("others are served after it", lambda: serves(t.port), 5)
        said = t.server.words()
        t.true("the log says why", "Too many connections from" in said or "Too many connections max" in said)


def serves(port):
    try:
        Session(port, wait=2).close()
        return True
    except (Closed, OSError):
        return False


def never_reads(full):
    """H6: very many requests and nobody who takes the replies."""
    count, conns = (1_000_000, 40) if full else (200_000, 12)
    with Target("H6 pipelines that are never read", memory_mib=conns * 5 + 24) as t:
        s = t.session()
        s.call("create", create_body("/large", b"l" * 1_000_000))
        s.call("create", create_body("/small", b"s" * 1000))
        s.close()
        kinds = [request(1, "getData", text("/small") + b"\0"), request(1, "getData", text("/large") + b"\0"),
                 request(1, "setData", text("/small") + buf(b"t" * 1000) + i32(-1)), request(-2, "ping")]
        socks = []
        for n in range(conns):
            sock = connect(t.port)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(handshake(60000))
            sock.setblocking(False)
            one = kinds[n % len(kinds)]
            socks.append([sock, one * (64 * 1024 // len(one) + 1), count * len(one)])
        moved = time.monotonic()
        # Whoever is neither cut nor through by then is held up by its own system, which drops what it has no room for.
        while socks and time.monotonic() - moved < 10:
            for entry in list(socks):
                sock, block, left = entry
                try:
                    for _ in range(20):
                        if entry[2] <= 0:
                            break
                        entry[2] -= sock.send(block)
                except BlockingIOError:
                    pass
                except OSError:
                    entry[2] = 0
                if entry[2] < left:
                    moved = time.monotonic()
                if entry[2] <= 0:
                    socks.remove(entry)
                    sock.close()
            time.sleep(0.01)
        cut = t.server.words().count("Cutting")
        t.true(f"those with more replies than there is room for are cut: {cut}", cut >= conns // 2)
        for sock, _, _ in socks:
            sock.close()
        t.eventually("nothing is outstanding", lambda: int(re.search(
            r"Outstanding: (\d+)", four_letter_word(t.port, "srvr"))[1]) <= 2)


def many_watch_one(full):
    """H7: very many watch one znode and take nothing when it changes; and one watches everything and takes nothing."""
    count, changes = (9000, 200) if full else (800, 60)
    with Target("H7 watchers that are slow", memory_mib=96) as t:
        s = t.session()
        s.call("create", create_body("/watched"))
        watchers = []
        for n in range(count):
            sock = connect(t.port)
            sock.sendall(handshake(60000) + request(1, "addWatch", text("/watched") + i32(n % 2))
                         + request(2, "exists", text("/watched") + b"\1")
                         + request(3, "getChildren", text("/watched") + b"\1"))
            watchers.append(sock)
        for sock in watchers:
            got = b""
            while len(got) < 41 + 20 + 88 + 24:
                got += sock.recv(1 << 16)
        begun = time.monotonic()
        for n in range(changes):
            s.call("setData", text("/watched") + buf(b"%d" % n) + i32(-1))
        s.call("create", create_body("/watched/child"))
        t.true("changes are quick for whoever makes them", time.monotonic() - begun < PATIENCE_S)
        for sock in watchers[:50]:
            events = 0
            frames = Frames(sock)
            # One-shot and persistent watches of one client on one znode are one event.
            while events < changes + 1:
                r = Reader(frames.next())
                events += r.i32() == -1
            sock.close()
        for sock in watchers[50:]:
            sock.close()


class Frames:
    def __init__(self, sock):
        self.sock, self.got = sock, b""
        sock.settimeout(PATIENCE_S)

    def next(self):
        while len(self.got) < 4 or len(self.got) < 4 + int.from_bytes(self.got[:4], "big"):
            more = self.sock.recv(1 << 16)
            if not more:
                raise Closed()
            self.got += more
        size = int.from_bytes(self.got[:4], "big")
        frame, self.got = self.got[4:4 + size], self.got[4 + size:]
        return frame


def event_storm(full):
    """H7, H6: clients that watch everything and take no event, while everything changes."""
    conns, seconds = (60, 30) if full else (16, 9)
    with Target("H7 event storm for the deaf", memory_mib=192) as t:
        s = t.session()
        for n in range(10):
            s.call("create", create_body(f"/{'long-name-' * 20}{n}"))
        deaf = []
        for _ in range(conns):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", t.port))
            sock.sendall(handshake(60000) + request(1, "addWatch", text("/") + i32(1)))
            deaf.append(sock)
        begun, waiting, paths = time.monotonic(), [], [f"/{'long-name-' * 20}{n}" for n in range(10)]
        while time.monotonic() - begun < seconds:
            waiting += [s.send("setData", text(path) + buf(b"x") + i32(-1)) for path in paths]
            while len(waiting) > 400:
                s.receive("setData", waiting.pop(0))
        while waiting:
            s.receive("setData", waiting.pop(0))
        cut = t.server.words().count("Cutting")
        t.true(f"all who took nothing are cut: {cut} of {conns}", cut >= conns)
        for sock in deaf:
            sock.close()
        s.close()


def watches_everywhere(full):
    """H8: watches on paths that are not there, as many as one likes."""
    count = 1_000_000 if full else 150_000
    with Target("H8 watches on absent paths", memory_mib=24 + count // 4000) as t:
        s = t.session(timeout=60000)
        for begin in range(0, count, 1000):
            calls = [s.send("exists", text(f"/absent/{n:09}") + b"\1") for n in range(begin, begin + 1000)]
            for xid in calls:
                err = s.receive("exists", xid)[1]
                t.true(f"a watch on nothing: {err}", err in (-101, -119))
        total = int(re.search(r"Total watches:(\d+)", four_letter_word(t.port, "wchs"))[1])
        t.true(f"{total} watches", total == count)
        s.sock.close()
        t.eventually("they go with their connection", lambda: "Total watches:0" in four_letter_word(t.port, "wchs"))


def little_memory(full):
    """H8, H13: whoever adds watches and data without end on a server that may take little: growth is refused, all else goes
    on, and there is room again when watches go with their connection and data are deleted."""
    limit = 96
    with Target("H8 H13 growth without end", {"memoryLimitInMb": str(limit)}, memory_mib=limit) as t:
        s = t.session(timeout=60000)
        refused = None
        for begin in range(0, 2_000_000, 1000):
            calls = [s.send("exists", text(f"/absent/{n:09}") + b"\1") for n in range(begin, begin + 1000)]
            answers = [s.receive("exists", xid)[1] for xid in calls]
            if -119 in answers:
                refused = begin
                break
        t.true(f"watches are refused after {refused}", refused is not None)
        t.true("a read without a watch", s.call("exists", text("/absent/1") + b"\0")[1] == -101)
        t.true("a create is refused too", s.call("create", create_body("/more", b"x" * 1000))[1] == -119)
        t.true("a ping", s.ping()[1] == 0)
        t.true(f"{t.resident()} MiB of {limit}", t.resident() < limit)
        s.sock.close()
        s = None

        def grows():
            nonlocal s
            try:
                s = s or t.session(timeout=60000)
                return s.call("create", create_body("/room", b"x"))[1] in (0, -110)
            except (Closed, OSError):
                s = None
                return False
        t.eventually("there is room when the watches are gone", grows)
        made = 0
        while (err := s.call("create", create_body(f"/much{made}", b"m" * 50_000))[1]) == 0:
            made += 1
            t.true("data do not grow without end", made < 10_000)
        t.true(f"data that grow are refused: {err} after {made}", err == -119)
        t.true(f"{t.resident()} MiB of {limit}", t.resident() < limit)
        for n in range(made):
            t.true("a delete", s.call("delete", text(f"/much{n}") + i32(-1))[1] == 0)
        t.eventually("there is room when the data are gone", grows)
        s.close()


def words(full):
    """H9: four-letter words as fast as they come, cut short, with much behind them, and within a session."""
    seconds = 20 if full else 4
    with Target("H9 four-letter words", {"4lw.commands.whitelist": "srvr, mntr, wchp, cons, dump"}, memory_mib=48) as t:
        partial = crowd(t.port, 200, b"mn")
        begun, n = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            for word in ("srvr", "mntr", "cons", "dump", "wchp", "ruok", "stat", "crst"):
                said = four_letter_word(t.port, word)
                allowed = word in ("srvr", "mntr", "cons", "dump", "wchp")
                t.true(f"{word}: {said[:60]}", allowed != said.endswith("is not executed because it is not in the whitelist.\n"))
                n += 1
            sock = connect(t.port)
            try:
                sock.sendall(b"mntr" + bytes(4 * MIB))
            except OSError:
                pass
            closes(sock)
            sock.close()
        s = t.session()
        s.sock.sendall(b"ruok")
        t.true("a word within a session is a length, and too large", closes(s.sock))
        t.true(f"many words: {n}", n > 100)
        t.eventually("words that never end are cut", lambda: still_open(partial) == 0, SESSIONLESS_S + PATIENCE_S)


def sessions(full):
    """H11: sessions opened and left alone."""
    count, rounds = (50_000, 2) if full else (6000, 2)
    with Target("H11 session flood", {"minSessionTimeout": "1000"}, memory_mib=48 if not full else 160) as t:
        peaks = []
        for _ in range(rounds):
            for _ in range(count // 500):
                socks = []
                for _ in range(500):
                    sock = connect(t.port)
                    sock.sendall(handshake(1000))
                    socks.append(sock)
                for sock in socks:
                    sock.recv(100)
                    sock.close()
            t.eventually("all expire", lambda: re.search(r"Session Sets.*?\n.*?Sessions with Ephemerals",
                                                         four_letter_word(t.port, "dump"), re.S) is not None and
                         len(set(re.findall("0x[0-9a-f]{12,}", four_letter_word(t.port, "dump")))) <= 2, 60)
            peaks.append(t.resident())
        t.true(f"a second flood takes no more than the first: {peaks}", peaks[-1] - peaks[0] < 24)


def guesses(full):
    """H12: other clients' session ids with guessed passwords."""
    count = 100_000 if full else 5000
    with Target("H12 guessed passwords", memory_mib=32) as t:
        chance = random.Random(3)
        owner = t.session(timeout=60000)
        owner.call("create", create_body("/mine", b"", OPEN, 1))
        for n in range(count):
            target = (owner.sid, t.probe_sid, owner.sid + chance.randrange(1, 1000))[n % 3]
            body = i32(0) + i64(0) + i32(4000) + i64(target) + buf(chance.randbytes(16)) + b"\0"
            sock = connect(t.port)
            sock.sendall(i32(len(body)) + body)
            answer = sock.recv(100)
            t.true(f"refused with no hint: {answer!r}", answer[8:] == i32(0) + i64(0) + buf(bytes(16)) + b"\0")
            sock.close()
        t.true("its owner is still there", owner.ping()[1] == 0)
        t.true("with what it had", owner.call("exists", text("/mine") + b"\0")[1] == 0)
        owner.close()


def shapes(full):
    """H13: paths as deep as a frame allows, names as long, and more children than a frame holds."""
    depth, children = (10_000, 300_000) if full else (3000, 60_000)
    with Target("H13 deep, long, many", memory_mib=160 if full else 96) as t:
        s = t.session(timeout=60000)
        t.true("no parent", s.call("create", create_body("/d" * 10_000))[1] == -101)
        path, waiting = "", []
        for _ in range(depth):
            path += "/d"
            waiting.append(s.send("create", create_body(path)))
            if len(waiting) > 100:
                t.true("one level more", s.receive("create", waiting.pop(0))[1] == 0)
        while waiting:
            t.true("one level more", s.receive("create", waiting.pop(0))[1] == 0)
        t.true("the deepest", s.call("exists", text(path) + b"\1")[1] == 0)
        t.true("all below", s.call("getAllChildrenNumber", text("/d"))[2] == depth - 1)
        name = "/" + "n" * 500_000
        t.true("a long name", s.call("create", create_body(name))[1] == 0)
        t.true("it is there", s.call("exists", text(name) + b"\1")[1] == 0)
        t.true("nothing may stand below what has children", s.call("delete", text("/d") + i32(-1))[1] == -111)
        s.call("create", create_body("/many"))
        for begin in range(0, children, 1000):
            ops = [("create", create_body(f"/many/child-of-many-{n:09}")) for n in range(begin, begin + 1000)]
            t.true("a thousand children", s.call("multi", multi_body(ops))[1] == 0)
        names = s.call("getChildren", text("/many") + b"\0")[2]
        t.true("a reply longer than a frame may be comes whole, as from Java", len(names) == children)
        s.sock.close()


def multis(full):
    """H14: multis of very many parts, and such as grow beyond the limit when they are encoded."""
    with Target("H14 multis", {"maxClientCnxns": "0"}, memory_mib=128) as t:
        s = t.session(timeout=60000)
        checks = [("check", text("/") + i32(-1))] * 55_000
        zxid, err, results = s.call("multi", multi_body(checks))
        t.true(f"55,000 checks: {err}", err == 0 and len(results) == 55_000)
        creates = [("create", create_body(f"/m{n:05}", b"", [(31, "world", "anyone")])) for n in range(16_000)]
        zxid, err, results = s.call("multi", multi_body(creates))
        t.true(f"16,000 creates: {err}", err in (0, -8, -4))
        there = s.call("exists", text("/m15999") + b"\0")[1] == 0
        t.true("all or nothing", there == (err == 0) == (s.call("exists", text("/m00000") + b"\0")[1] == 0))
        # A list that names whoever asks stands for all that a client has ever authenticated as.
        for n in range(200):
            t.true("auth", s.auth("digest", f"user-{n}:password".encode())[1] == 0)
        growing = [("create", create_body(f"/g{n:05}", b"", [(31, "auth", "")])) for n in range(14_000)]
        try:
            zxid, err, results = s.call("multi", multi_body(growing))
            t.true(f"refused: {err} {results[:2] if results else results}", err != 0 or results[0][1] != 0 or results[0][0] == -1)
        except Closed:
            s = t.session()
        t.true("nothing of it is there", s.call("exists", text("/g00000") + b"\0")[1] == -101)
        t.eventually("service goes on", lambda: s.call("create", create_body("/after"))[1] in (0, -110))
        s.sock.close()


def every_opcode(full):
    """H15: every operation there is and is not, with bodies that are none, before and after the handshake."""
    with Target("H15 every operation", memory_mib=48) as t:
        chance = random.Random(15)
        bodies = [b"", b"\0", i32(-1), i32(1 << 30), text("/probe"), text("/probe") + b"\1" * 30, text("no-path") + b"\0" * 40,
                  b"\xff" * 60, chance.randbytes(100), create_body("/x" * 300), text("/") + bytes(5000)]
        ops = [*range(-20, 130), 1000, -1000, (1 << 31) - 1, -(1 << 31)]
        internal = {-1, -10, 0, 20}
        known = set(OPS.values())
        for op in ops:
            for body in bodies if op in known or full else bodies[:3]:
                if op == -11:
                    continue
                s = t.session(timeout=4000)
                before = t.zxid()
                s.send_frame(i32(5) + i32(op) + body)
                # The ping's reply, or the end, says that the operation is over.
                answers = 0
                try:
                    s.send_frame(i32(-2) + i32(11))
                    while True:
                        r = Reader(s.read_frame())
                        xid = r.i32()
                        answers += 1
                        if xid == -2 and op != 11:
                            break
                        if op == 11 and answers == 2:
                            break
                except (Closed, OSError):
                    pass
                t.true(f"operation {op}: {answers} answers", answers <= 3)
                s.sock.close()
                if op in internal or op not in known:
                    t.true(f"operation {op} changes nothing", len(touched(t, before)) == 0)
        for payload in (request(1, "getData", text("/probe") + b"\0"), request(1, "create", create_body("/before")),
                        request(1, -10, i32(4000)), bytes(100)):
            sock = connect(t.port)
            sock.sendall(payload)
            # An operation before the handshake is a strange handshake at best.
            sock.settimeout(1)
            try:
                sock.recv(1000)
            except OSError:
                pass
            sock.close()
        s = t.session()
        t.true("nothing was made before a handshake", s.call("exists", text("/before") + b"\0")[1] == -101)
        s.sock.sendall(handshake() * 3)
        sock = s.sock
        sock.settimeout(2)
        try:
            sock.recv(1000)
        except OSError:
            pass
        sock.close()
        t.true("served as before", serves(t.port))


def touched(t, since):
    """Znodes of the root that are newer than this, but for the probe's own."""
    s = t.session()
    names = s.call("getChildren", text("/") + b"\0")[2]
    stats = [(name, s.call("exists", text(f"/{name}") + b"\0")[2]) for name in names if name not in ("probe", "zookeeper")]
    s.close()
    return [name for name, stat in stats if stat and max(stat["mzxid"], stat["pzxid"]) > since]


def noise(full):
    """H20: random frames, and valid ones with a few bytes changed, on living connections."""
    frames, mutated = (1_000_000, 100_000) if full else (40_000, 10_000)
    with Target("H20 noise", memory_mib=96) as t:
        chance = random.Random(20)
        s = t.session()
        s.call("create", create_body("/n"))
        s.sock.close()
        valid = [
            request(1, "create", create_body("/n/a", b"data")), request(2, "delete", text("/n/a") + i32(-1)),
            request(3, "getData", text("/n") + b"\1"), request(4, "setData", text("/n") + buf(b"x" * 50) + i32(-1)),
            request(5, "getChildren2", text("/") + b"\1"), request(6, "multi", multi_body([
                ("create", create_body("/n/b")), ("check", text("/n") + i32(-1)), ("delete", text("/n/b") + i32(-1))])),
            request(7, "multiRead", multi_body([("getData", text("/n") + b"\0"), ("getChildren", text("/") + b"\0")])),
            request(8, "setWatches2", i64(0) + (i32(1) + text("/n")) * 5), request(9, "addWatch", text("/n") + i32(1)),
            request(10, "setACL", text("/n") + i32(1) + i32(31) + text("world") + text("anyone") + i32(-1)),
            request(-4, "auth", i32(0) + text("digest") + buf(b"u:p")), request(-2, "ping"),
            request(11, "createTTL", create_body("/n/t", b"", OPEN, 5, 5000)), request(12, "sync", text("/n")),
            request(13, "removeWatches", text("/n") + i32(1)), request(14, "reconfig", i32(-1) * 3 + i64(-1)),
        ]
        sock, sent = None, 0
        while sent < frames + mutated:
            if sock is None:
                sock = connect(t.port)
                sock.sendall(handshake(4000))
                sock.setblocking(False)
                silence = 0
            out = []
            for _ in range(20):
                if sent % 11 == 10:
                    frame = bytearray(chance.choice(valid))
                    for _ in range(chance.randrange(1, 4)):
                        # Not the length's high bytes always: those only end the connection.
                        frame[chance.randrange(3 if chance.random() < 0.1 else 4, len(frame))] = chance.randrange(256)
                else:
                    body = chance.randbytes(chance.randrange(0, 120))
                    known = i32(chance.randrange(1 << 20)) + i32(chance.choice((1, 2, 3, 4, 5, 8, 12, 14, 15, 22, 101, 106)))
                    frame = i32(len(body) + 8) + known + body if chance.random() < 0.7 else i32(len(body)) + body
                out.append(bytes(frame))
                sent += 1
            sock.setblocking(True)
            sock.settimeout(PATIENCE_S)
            try:
                sock.sendall(b"".join(out))
                sock.setblocking(False)
                closed = is_closed(sock)
            except OSError:
                closed = True
            if closed or sent % 2000 < 20:
                sock.close()
                sock = None
        t.eventually("sessions of noise expire", lambda: len(set(re.findall(
            "0x[0-9a-f]{12,}", four_letter_word(t.port, "dump")))) <= 2, 60)
        t.true("served as before", serves(t.port))


CASES = {
    "H1": lengths, "H2": claims, "H4": flood, "H6": never_reads, "H7": many_watch_one, "H7b": event_storm,
    "H8": watches_everywhere, "H8b": little_memory, "H9": words, "H11": sessions, "H12": guesses, "H13": shapes, "H14": multis,
    "H15": every_opcode, "H20": noise,
}


def attack(name, full):
    """One case in a process of its own: descriptors and the interpreter are not shared between attacks."""
    command = [sys.executable, __file__, "--only", name] + (["--full"] if full else [])
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600 if full else 240)
    except subprocess.TimeoutExpired as error:
        return 1, f"FAILED {name}: not within {error.timeout} s"
    return ran.returncode, ran.stdout.strip()


def main(full=False, lanes=2):
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        for name, (code, said) in zip(CASES, pool.map(lambda name: attack(name, full), CASES)):
            print(said if code == 0 else f"{name}: {said[-3000:]}", flush=True)
            failed += code != 0
    if failed:
        raise AssertionError(f"hostile: {failed} of {len(CASES)} hostile cases failed")
    print(f"hostile: {len(CASES)} hostile cases held", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", choices=list(CASES))
    arguments = parser.parse_args()
    try:
        if arguments.only:
            CASES[arguments.only](arguments.full)
        else:
            main(arguments.full)
    except AssertionError as error:
        sys.exit(f"FAILED {error}")
