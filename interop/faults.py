#!/usr/bin/env python3
"""Disks and limits that fail under a running Oxkeeper: it stops before it lies, goes on where it can, and comes back.

    faults.py [--only NAME] [--lost 60]

Errors, delays, short and interrupted calls come from c/faultdisk.c, which interop/setup.sh compiles; full disks from a
small tmpfs in a mount namespace; other limits from the kernel. What is missing for a case is a failure of that case.
"""
import argparse
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

from crash import Lane
from load import Writer
from servers import PEERS, Checks, Server
from zkwire import Closed, Session, buf, create_body, i32, text

SHIM = PEERS / "faultdisk.so"
ENOSPC, NOT_READ_ONLY = 28, -119
OPTIONS = {"tickTime": "200", "enforceQuota": "false", "snapCount": "100000", "preAllocSize": "256"}
WRITERS = 2


class Disk:
    """The rules of c/faultdisk.c."""

    def __init__(self, home, **env):
        if not SHIM.exists():
            raise AssertionError(f"{SHIM} is missing: run interop/setup.sh")
        self.rules = pathlib.Path(home) / "rules"
        self.env = {"LD_PRELOAD": str(SHIM), "FAULTDISK": str(self.rules), **env}
        self.set()

    def set(self, *rules):
        fresh = self.rules.with_suffix(".new")
        fresh.write_text("".join(f"{rule}\n" for rule in rules))
        fresh.rename(self.rules)


class Case:
    """A server on such a disk, with writers."""

    def __init__(self, c, home, options=None, lazy=True, **more):
        self.c, self.home = c, pathlib.Path(home)
        self.disk = Disk(home, **({"FAULTDISK_LAZY": "1"} if lazy else {}))
        self.server = Server("oxkeeper", home, {**OPTIONS, **(options or {})}, env=self.disk.env, **more).start()
        maps = pathlib.Path(f"/proc/{self.server.process.pid}/maps").read_text()
        c.true("faultdisk.so" in maps, "the shim is in the server, which must be linked dynamically")
        self.writers = [Writer(home, n, 1) for n in range(WRITERS)]
        for writer in self.writers:
            writer.attach(self.server.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(signal.SIGKILL)

    def go(self):
        for writer in self.writers:
            writer.go()

    def wait(self):
        for writer in self.writers:
            writer.wait()

    def goes_on(self, more=300, seconds=60):
        """Waits until every writer has had so many more answers."""
        least = [writer.acknowledged + more for writer in self.writers]
        self.c.eventually(lambda: all(w.acknowledged >= n for w, n in zip(self.writers, least)), "writes go on", seconds)

    def ends(self):
        """Waits until the server ends by itself."""
        self.c.eventually(lambda: self.server.process.poll() is not None, "the server stops", 30)
        self.wait()
        return self.server.stop()

    def comes_back(self):
        """On a disk that is well again everything is there that was acknowledged, and sessions live on."""
        self.disk.set()
        self.server.start()
        for writer in self.writers:
            self.c.true(writer.attach(self.server.port), "a session lives on")
            writer.judge()
        self.go()
        self.goes_on(100)
        self.server.stop(signal.SIGKILL)
        self.wait()
        self.server.start()
        for writer in self.writers:
            self.c.true(writer.attach(self.server.port), "a session lives on")
            writer.judge()

    def files(self, kind):
        return sorted(path.name for path in (self.home / "data/version-2").glob(f"{kind}.*"))


def log_fails(c):
    """Any error of the log: the server stops with one clear line, and has acknowledged nothing after it."""
    rolling = {"snapCount": "400"}
    cases = [
        (["sync /version-2/log. error 5"], {}), (["write /version-2/log. error 5"], {}),
        (["rename /version-2/log. error 5"], rolling), (["sync version-2$ error 5"], rolling),
        (["open oxkeeper-beginning-log error 5", "open oxkeeper-next-log error 5"], rolling),
        (["sync oxkeeper-beginning-log error 5", "sync oxkeeper-next-log error 5"], rolling),
        (["truncate /version-2/log. error 5"], rolling),
        (["write /version-2/log. short", "sync /version-2/log. error 5"], {}),
    ]
    for rules, options in cases:
        with tempfile.TemporaryDirectory() as home, Case(c, home, options) as case:
            case.go()
            case.goes_on(50)
            said = len(case.server.words())
            case.disk.set(*rules)
            c.equal(case.ends(), 1, f"the exit code after {rules}")
            lines = [line for line in case.server.words()[said:].splitlines() if "ERROR" in line]
            lines = [line for line in lines if "snapshot was taken" not in line]
            c.equal(len(lines), 2, f"error lines after {rules}: {lines}")
            c.true("version-2" in lines[0] and "Input/output error" in lines[0], f"what and which file: {lines[0]}")
            c.true("exiting abnormally" in lines[1], f"that it ends: {lines[1]}")
            case.comes_back()


def snapshot_fails(c):
    """An error of a snapshot: service goes on, somebody is told, older files stay, and a later one succeeds."""
    for rule in ("open oxkeeper-unfinished error 5", "write oxkeeper-unfinished error 5", "sync oxkeeper-unfinished error 5",
                 "rename /version-2/snapshot. error 5", "write oxkeeper-unfinished error 28"):
        with tempfile.TemporaryDirectory() as home, Case(c, home, {"snapCount": "400"}) as case:
            case.go()
            c.eventually(lambda: len(case.files("snapshot")) > 1, "a first snapshot")
            case.disk.set(rule)
            alarms = case.server.words().count("no snapshot was taken")
            c.eventually(lambda: case.server.words().count("no snapshot was taken") > alarms + 1, f"alarms after {rule}", 60)
            kept = case.files("snapshot")
            case.goes_on()
            c.equal(case.files("snapshot")[:len(kept)], kept, "older snapshots")
            case.disk.set()
            c.eventually(lambda: len(case.files("snapshot")) > len(kept), "a later snapshot succeeds", 60)
            case.server.stop(signal.SIGKILL)
            case.wait()
            case.comes_back()


def zeros_fail(c):
    """Without zeros written ahead the log is only slower."""
    for rule in ("write oxkeeper-preparing error 5", "sync oxkeeper-preparing error 28", "rename oxkeeper-next-log error 5",
                 "open oxkeeper-preparing error 24"):
        with tempfile.TemporaryDirectory() as home, Case(c, home, {"snapCount": "400"}) as case:
            # A start prepares a file and the reserve; without the latter nothing may grow, which is another matter.
            made = lambda: {path.name for path in (case.home / "data/version-2").iterdir()}
            c.eventually(lambda: {"oxkeeper-reserve", "oxkeeper-next-log"} <= made(), "the start has prepared all")
            case.disk.set(rule)
            case.go()
            c.eventually(lambda: "does without a prepared file" in case.server.words(), f"a warning after {rule}")
            c.eventually(lambda: len(case.files("log")) > 3, "logs are rolled", 60)
            case.goes_on()
            case.server.stop(signal.SIGKILL)
            case.wait()
            case.comes_back()


def disk_stumbles(c):
    """Interrupted, short and slow calls are nothing to a client but slow."""
    every = [f"{call} /version-2/ eintr" for call in ("write", "sync", "truncate", "open")]
    cases = [(every, None), (["write /version-2/ short"], None), (["sync /version-2/log. wait 150"], "fsync-ing the write ahead"),
             (["write oxkeeper-unfinished wait 20", "sync oxkeeper-unfinished wait 300"], None)]
    for rules, warning in cases:
        with tempfile.TemporaryDirectory() as home:
            with Case(c, home, {"snapCount": "400", "fsync.warningthresholdms": "100"}) as case:
                case.disk.set(*rules)
                case.go()
                case.goes_on(300)
                c.true(warning is None or warning in case.server.words(), f"{warning!r} is logged")
                c.equal([w.ended_by for w in case.writers], [None] * WRITERS, f"no client is cut after {rules}")
                case.server.stop(signal.SIGKILL)
                case.wait()
                case.comes_back()


def files_run_out(c):
    """A flood of connections takes every descriptor there is: who is served goes on, log and snapshots included, and
    when the flood is over others are served again."""
    with tempfile.TemporaryDirectory() as home:
        with Case(c, home, {"snapCount": "400"}, lazy=False, wrap=["prlimit", "--nofile=96:96"]) as case:
            case.go()
            flood = []
            logs = len(case.files("log"))
            for _ in range(300):
                flood.append(socket.create_connection(("127.0.0.1", case.server.port), timeout=5))
            c.eventually(lambda: "Too many" in case.server.words(), "a warning")
            case.goes_on(1000)
            c.eventually(lambda: len(case.files("log")) > logs + 2, "logs are rolled meanwhile", 60)
            c.eventually(lambda: len(case.files("snapshot")) > 2, "snapshots are taken meanwhile", 60)
            c.equal([w.ended_by for w in case.writers], [None] * WRITERS, "no client is cut")
            for sock in flood:
                sock.close()
            c.eventually(lambda: serves_another(case.server.port), "another client is served after the flood")
            case.server.stop(signal.SIGKILL)
            case.wait()
            case.comes_back()


def serves_another(port):
    try:
        Session(port, wait=2).close()
        return True
    except (Closed, OSError):
        return False


def unsynced_is_lost(c, lives=60):
    """Kill cycles on a disk that loses what was not synced: nothing acknowledged is among it."""
    with tempfile.TemporaryDirectory() as home:
        disk = Disk(home, FAULTDISK_LAZY="1")
        lane = Lane(0, 5, pathlib.Path(home), None, "lossy disk", env=disk.env)
        try:
            done = lane.run(lives)
        finally:
            lane.server.stop(signal.SIGKILL)
            lane.rival.stop(signal.SIGKILL)
        c.passed += done["checks"]
    # The same must be seen to fail where nothing is synced, or it would prove nothing.
    with tempfile.TemporaryDirectory() as home:
        disk = Disk(home, FAULTDISK_LAZY="1")
        lane = Lane(0, 5, pathlib.Path(home), None, "lossy disk", env=disk.env, options={"forceSync": "no"})
        try:
            lane.run(20)
        except (AssertionError, SystemExit):
            c.passed += 1
        else:
            raise AssertionError("a server that does not sync loses nothing on a disk that loses what is not synced")
        finally:
            lane.server.stop(signal.SIGKILL)
            lane.rival.stop(signal.SIGKILL)


def files_too_large(c):
    """A limit on the length of files: the log goes on in the next file, and the signal that comes with it is nothing."""
    with tempfile.TemporaryDirectory() as home:
        with Case(c, home, {"preAllocSize": "64"}, lazy=False, wrap=["prlimit", "--fsize=200000"]) as case:
            case.go()
            case.goes_on(5000)
            c.true(len(case.files("log")) > 3, "the log goes on in other files")
            c.true(all(file.stat().st_size <= 200_000 for file in (case.home / "data/version-2").iterdir()), "none is larger")
            c.equal([w.ended_by for w in case.writers], [None] * WRITERS, "no client is cut")
            case.server.stop(signal.SIGKILL)
            case.wait()
            case.comes_back()


def disk_full(c):
    """A disk that fills, and frees again: what would grow is refused, all else is served, and service resumes unaided."""
    if os.environ.get("OXKEEPER_OWN_MOUNTS") != "1":
        # Nobody else is to see the small disk.
        command = ["unshare", "--mount", sys.executable, __file__, "--only", "disk_full"]
        ran = subprocess.run(command, env={**os.environ, "OXKEEPER_OWN_MOUNTS": "1"}, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=300)
        if ran.returncode != 0:
            raise AssertionError(f"in a mount namespace, which needs root: {ran.stdout.strip()[-3000:]}")
        c.passed += int(re.search(r"faults: (\d+) checks passed", ran.stdout)[1])
        return
    with tempfile.TemporaryDirectory() as home:
        small = pathlib.Path(home) / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], check=True)
        try:
            options = {"dataDir": str(small / "data"), "preAllocSize": "64", "snapCount": "3000"}
            with Case(c, home, options, lazy=False) as case:
                for round_ in range(3):
                    fill_and_free(c, case, small / "filler", round_)
        finally:
            subprocess.run(["umount", str(small)], check=True)


def fill(filler):
    with open(filler, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != ENOSPC:
                    raise


def fill_and_free(c, case, filler, round_):
    port = case.server.port
    case.go()
    case.goes_on(100)
    for writer in case.writers:
        writer.stopped.set()
    case.wait()
    for writer in case.writers:
        writer.judge()
    names = [f"/full{round_}-{n}" for n in range(20)]
    s, leaving, left = (Session(port, timeout=ms) for ms in (60000, 60000, 2000))
    for name in names:
        c.equal(s.call("create", create_body(name, b"x" * 200))[1], 0, "a create while there is space")
    c.equal(leaving.call("create", create_body(f"/leaving{round_}", b"", flags=1))[1], 0, "an ephemeral")
    c.equal(left.call("create", create_body(f"/left{round_}", b"", flags=1))[1], 0, "another one")
    left.sock.close()
    fill(filler)
    made = 0
    while (err := s.call("create", create_body(f"/more{round_}-{made}", b"m" * 1000))[1]) == 0:
        made += 1
        c.true(made < 20_000, "a full disk ends growth")
        fill(filler)
    c.equal(err, NOT_READ_ONLY, "a create on a full disk")
    c.equal(s.call("setData", text(names[0]) + buf(b"y" * 2000) + i32(-1))[1], NOT_READ_ONLY, "data that grow")
    c.equal(s.call("setData", text(names[0]) + buf(b"y" * 200) + i32(-1))[1], 0, "data that do not grow")
    c.equal(s.call("delete", text(names[1]) + i32(-1))[1], 0, "a delete")
    c.equal(s.call("getData", text(names[0]) + b"\0")[2][0], b"y" * 200, "a read")
    c.equal(s.ping()[1], 0, "a ping")
    c.raises((Closed, OSError), lambda: Session(port), "a new session: it is closed without a word")
    again = Session(port, sid=s.sid, passwd=s.passwd, timeout=60000)
    c.equal(again.sid, s.sid, "a session is taken up")
    s = again
    leaving.close()
    c.equal(s.call("exists", text(f"/leaving{round_}") + b"\0")[1], -101, "closing takes its ephemerals along")
    c.eventually(lambda: s.call("exists", text(f"/left{round_}") + b"\0")[1] == -101, "a session expires on a full disk")
    # More than the reserve holds: some of it waits, unanswered, and reads are served.
    asked = [s.send("setData", text(names[2]) + buf(b"%03d" % (n % 1000)) + i32(-1)) for n in range(2000)]
    c.eventually(lambda: "writes wait until there is space" in case.server.words(), "the reserve is used up")
    reader = case.writers[0]
    c.true(reader.attach(port), "a session is taken up")
    c.equal(reader.session.call("getData", text(names[0]) + b"\0")[2][0], b"y" * 200, "a read")
    acknowledged = 0
    if round_ == 2:
        # An end on a full disk, and a start on one.
        while select.select([s.sock], [], [], 0.5)[0] and acknowledged < len(asked):
            c.equal(s.receive("setData", asked[acknowledged])[1], 0, "an answer")
            acknowledged += 1
        case.server.stop(signal.SIGKILL)
        case.server.start()
        s = Session(port, sid=s.sid, passwd=s.passwd, timeout=60000)
        version = s.call("exists", text(names[2]) + b"\0")[2]["version"]
        c.true(acknowledged <= version <= len(asked), f"{acknowledged} acknowledged writes of {version}")
        c.equal(s.call("getData", text(names[0]) + b"\0")[2][0], b"y" * 200, "a read after a start on a full disk")
    filler.unlink()
    if round_ != 2:
        for xid in asked:
            c.equal(s.receive("setData", xid)[1], 0, "what waited is answered when there is space")
    c.eventually(lambda: s.call("create", create_body(f"/again{round_}"))[1] in (0, -110), "growth is allowed again")
    c.eventually(lambda: serves_another(port), "new sessions are opened again")
    c.equal(s.call("exists", text(names[1]) + b"\0")[1], -101, "what was deleted is gone")
    for n in range(made):
        c.equal(s.call("delete", text(f"/more{round_}-{n}") + i32(-1))[1], 0, "what was made is there")
    s.close()
    for writer in case.writers:
        c.true(writer.attach(port), "a session lives on")
        writer.judge()


CASES = {
    "files_too_large": files_too_large, "disk_full": disk_full, "log_fails": log_fails, "snapshot_fails": snapshot_fails, "zeros_fail": zeros_fail, "disk_stumbles": disk_stumbles,
    "files_run_out": files_run_out, "unsynced_is_lost": unsynced_is_lost,
}


def main(only=None):
    c = Checks("faults")
    for name, case in CASES.items():
        if only in (None, name):
            started, before = time.monotonic(), c.passed
            try:
                case(c)
            except (AssertionError, OSError, Closed, SystemExit) as error:
                raise AssertionError(f"{name}: {error!r}") from error
            print(f"faults: {name}: {c.passed - before} checks in {time.monotonic() - started:.0f} s", flush=True)
    c.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES))
    main(parser.parse_args().only)
