#!/usr/bin/env python3
"""Kills Oxkeeper under load, again and again, and looks for what it acknowledged and does not have any more.

    crash.py [--cycles 300] [--seed 1] [--lanes 3]

Several servers at once, each with its directory, its writers and their call logs (see load.py). After each kill: all
acknowledged writes are there and nothing is half there; sessions that lived are taken up again and have their
ephemerals; sessions that were closed or have expired are gone. Between kills: stops by SIGTERM, second servers on the
same directory, and races of two starts. SIGKILL leaves what the kernel holds, so this says nothing about power, and much
about order and recovery; for what the kernel loses see faults.py.
"""
import argparse
import multiprocessing
import pathlib
import random
import re
import signal
import tempfile
import time

from load import Writer
from servers import Checks, Server, free_port
from zkwire import Closed, Session, create_body, four_letter_word, text

WRITERS = 3
BRIEF_MS = 1000
OPTIONS = {"tickTime": "100", "minSessionTimeout": "100", "enforceQuota": "false"}


class Lane:
    """One server and all its lives."""

    def __init__(self, number, seed, home, binary=None, name="crash", **server):
        self.c = Checks(f"{name} lane {number}")
        self.chance = random.Random(seed * 100 + number)
        # Files of every length: logs that outgrow their zeros, logs without any, logs of several snapshots.
        options = {**OPTIONS, "preAllocSize": ("64", "1024", "0")[number % 3],
                   "snapCount": ("600", "3000", "200")[number % 3]}
        options.update(server.pop("options", {}))
        self.server = Server("oxkeeper", home, options, binary, **server)
        self.rival = Server("oxkeeper", home, options, binary, name="rival", **server)
        self.writers = [Writer(home, n, seed * 10 + number) for n in range(WRITERS)]
        self.home = home
        self.brief, self.over = {}, []
        self.kills = self.stops = self.doubles = 0
        self.unlooked = 0

    def run(self, kills):
        self.server.start()
        for writer in self.writers:
            writer.attach(self.server.port)
        while self.kills < kills:
            self.life()
        self.settle()
        self.c.equal(self.server.stop(), 0, "the exit code of the last stop")
        return {"kills": self.kills, "stops": self.stops, "doubles": self.doubles, "checks": self.c.passed,
                "acknowledged": sum(writer.acknowledged for writer in self.writers)}

    def life(self):
        """A while of load, an end, and a look at what is there after it."""
        self.open_and_close()
        for writer in self.writers:
            writer.go()
        time.sleep(self.chance.uniform(0, 0.4) if self.chance.random() < 0.15 else self.chance.uniform(0, 0.05))
        turn = self.kills + self.stops
        if turn % 10 == 9:
            self.stop()
        else:
            self.server.stop(signal.SIGKILL)
            self.kills += 1
        for writer in self.writers:
            writer.wait()
        if self.chance.random() < 0.1:
            # A start is a moment like any other.
            self.server.launch()
            time.sleep(self.chance.uniform(0, 0.02))
            self.server.stop(signal.SIGKILL)
            self.kills += 1
        if turn % 20 == 13:
            self.race()
        else:
            self.server.start()
        self.look()
        if turn % 20 == 3:
            self.refuse_second()
        if turn % 30 == 17:
            self.settle()

    def open_and_close(self):
        """A session that will be left alone, with an ephemeral, and one that is over before the end."""
        left = Session(self.server.port, timeout=BRIEF_MS)
        path = f"/brief-{left.sid:x}"
        asked = time.monotonic()
        self.c.equal(left.call("create", create_body(path, b"", flags=1))[1], 0, "an ephemeral")
        left.sock.close()
        self.brief[path] = (left, asked)
        closed = Session(self.server.port, timeout=60000)
        self.c.equal(closed.call("create", create_body(f"/closed-{closed.sid:x}", b"", flags=1))[1], 0, "an ephemeral")
        closed.close()
        self.over.append((f"/closed-{closed.sid:x}", closed))

    def stop(self):
        """SIGTERM under load: the end is clean, and the next start has nothing to repair."""
        self.c.equal(self.server.stop(signal.SIGTERM), 0, "the exit code after SIGTERM")
        self.stops += 1
        data = self.server.directory / "data"
        left = [path.name for path in (data / "version-2").iterdir() if path.name.startswith("oxkeeper-")]
        self.c.equal(left, [], "unfinished files after SIGTERM")
        logs = sorted((data / "version-2").glob("log.*"), key=lambda path: int(path.name[4:], 16))
        self.c.true(logs[-1].read_bytes().endswith(b"B"), "the log ends with its last record")
        self.unlooked = len(self.server.words())

    def look(self):
        """Right after a start."""
        if self.unlooked:
            said = self.server.words()[self.unlooked:]
            self.c.equal(re.findall("torn|Cutting|damaged|is empty", said), [], f"a repair after SIGTERM: {said}")
            self.unlooked = 0
        for writer in self.writers:
            self.c.true(writer.attach(self.server.port), f"the session of {writer.root} lives on")
            writer.judge()
            self.c.passed += 1
        check = self.writers[0].session
        for path, (left, asked) in self.brief.items():
            there = check.call("exists", text(path) + b"\0")[1] == 0
            # While its time is not over, counted from its last word, it must live.
            if (time.monotonic() - asked) * 1000 < BRIEF_MS:
                self.c.true(there, f"{path} of a session that lives")
        for path, session in self.over[-20:]:
            self.c.equal(check.call("exists", text(path) + b"\0")[1], -101, f"{path} of a session that is over")
        if self.over:
            session = self.chance.choice(self.over)[1]
            again = Session(self.server.port, sid=session.sid, passwd=session.passwd)
            self.c.equal(again.timeout, 0, "taking up a session that is over")
            again.sock.close()
        words = self.server.words()
        self.c.true("panicked" not in words and "Digests are not matching" not in words, "no panic, equal digests")

    def settle(self):
        """Waits until nothing of the sessions that were left alone is there any more."""
        check = self.writers[0].session
        for path in self.brief:
            self.c.eventually(lambda: check.call("exists", text(path) + b"\0")[1] == -101, f"{path} goes", 30)
        self.over += [(path, left) for path, (left, _) in self.brief.items()]
        self.brief = {}
        dump = four_letter_word(self.server.port, "dump")
        alive = {f"0x{writer.session.sid:x}" for writer in self.writers}
        self.c.equal(set(re.findall(r"0x[0-9a-f]{12,}", dump)), alive, "sessions in dump")

    def refuse_second(self):
        self.doubles += 1
        self.rival.port = free_port()
        holder = self.server.process.pid
        self.c.equal(self.rival.launch().serves(), False, "a second server on the same directory serves")
        self.c.equal(self.rival.stop(), 1, "its exit code")
        said = self.rival.words().splitlines()[-2:]
        self.c.true(f"is in use by process {holder}" in said[0], f"the holder's pid {holder} in {said}")
        self.c.equal(self.writers[0].session.ping()[1], 0, "the first one goes on")

    def race(self):
        """Two starts at once: one serves, the other is refused and names the one."""
        self.doubles += 1
        pair = [self.server, self.rival] if self.chance.random() < 0.5 else [self.rival, self.server]
        self.rival.port = self.server.port if self.chance.random() < 0.5 else self.rival.port
        for server in pair:
            server.launch()
        deadline = time.monotonic() + 60
        while all(server.process.poll() is None for server in pair):
            self.c.true(time.monotonic() < deadline, "one of two servers ends")
            time.sleep(0.005)
        loser = next(server for server in pair if server.process.poll() is not None)
        winner = pair[1 - pair.index(loser)]
        self.c.true(winner.serves(), f"one of two serves; {winner.words()[-500:]} {loser.words()[-500:]}")
        pid = winner.process.pid
        self.c.equal(loser.stop(), 1, "the loser's exit code")
        said = loser.words().splitlines()[-2:]
        self.c.true(f"is in use by process {pid}" in said[0], f"the winner's pid {pid} in {said}")
        if winner is self.rival:
            self.c.equal(winner.stop(), 0, "the winner's exit code")
            self.server.start()


def lane(number, kills, seed, binary):
    with tempfile.TemporaryDirectory(prefix="oxkeeper-crash-") as home:
        run = Lane(number, seed, pathlib.Path(home), binary)
        try:
            return run.run(kills)
        except (AssertionError, Closed, OSError, SystemExit) as error:
            what = str(error) if isinstance(error, AssertionError) else repr(error)
            return f"{what}\nafter {run.kills} kills; the server's last words:\n{run.server.words()[-1500:]}"
        finally:
            for server in (run.server, run.rival):
                server.stop(signal.SIGKILL)


def main(cycles=300, seed=1, lanes=3, binary=None):
    with multiprocessing.Pool(lanes) as pool:
        share = [(n, cycles // lanes + (n < cycles % lanes), seed, binary) for n in range(lanes)]
        done = pool.starmap(lane, share, chunksize=1)
    for failed in (one for one in done if isinstance(one, str)):
        raise AssertionError(failed)
    total = {key: sum(one[key] for one in done) for key in done[0]}
    print(f"crash: {total['kills']} kill cycles, {total['acknowledged']} acknowledged writes, 0 lost; "
          f"{total['stops']} stops, {total['doubles']} double starts; {total['checks']} checks passed", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.cycles, arguments.seed, arguments.lanes)
