#!/usr/bin/env python3
"""Kills Oxkeeper with SIGKILL under load, again and again, and looks for acknowledged writes that are gone.

    crash.py [--cycles 20] [--seed 1]

SIGKILL leaves what the kernel holds, so this says nothing about power; it does about order and recovery.
"""
import argparse
import pathlib
import random
import signal
import socket
import tempfile
import threading

from servers import Checks, Server
from zkwire import OPEN, Closed, Session, buf, create_body, i32, text

WRITERS = 4


class Writer(threading.Thread):
    """Creates znodes, many at once, and notes which ones were acknowledged and what its counter was set to."""

    def __init__(self, port, number, cycle, old):
        super().__init__(daemon=True)
        self.session = Session(port, timeout=60000, sid=old.sid if old else 0, passwd=old.passwd if old else b"\0" * 16)
        self.number, self.cycle = number, cycle
        self.acked, self.counter, self.sent = [], -1, 0

    def run(self):
        waiting = []
        try:
            for n in range(1_000_000):
                path = f"/k/{self.cycle}-{self.number}-{n}"
                waiting.append((path, "create", self.session.send("create", create_body(path, b"x" * (n % 50), OPEN, 0))))
                body = text(f"/k/counter{self.number}") + buf(b"%d" % (self.cycle * 10**7 + n)) + i32(-1)
                waiting.append((n, "setData", self.session.send("setData", body)))
                self.sent = n
                while len(waiting) > 64:
                    self.take(waiting.pop(0))
        except (Closed, OSError, socket.timeout):
            try:
                while waiting:
                    self.take(waiting.pop(0))
            except (Closed, OSError, socket.timeout):
                pass

    def take(self, item):
        what, op, xid = item
        _, err, _ = self.session.receive(op, xid)
        assert err == 0, (what, err)
        if op == "create":
            self.acked.append(what)
        else:
            self.counter = what


def main(cycles=20, seed=1, binary=None):
    c, chance, acked, old = Checks("crash"), random.Random(seed), set(), [None] * WRITERS
    with tempfile.TemporaryDirectory() as home:
        options = {"snapCount": "2000", "enforceQuota": "false"}
        server = Server("oxkeeper", pathlib.Path(home), options, binary).start()
        first = Session(server.port)
        first.call("create", create_body("/k"))
        for n in range(WRITERS):
            first.call("create", create_body(f"/k/counter{n}"))
        first.close()
        for cycle in range(cycles):
            writers = [Writer(server.port, n, cycle, old[n]) for n in range(WRITERS)]
            if cycle:
                c.equal([w.session.sid for w in writers], [s.sid for s in old], "every session lives on")
            for writer in writers:
                writer.start()
            writers[0].join(chance.uniform(0.02, 0.4))
            server.stop(signal.SIGKILL)
            for writer in writers:
                writer.join(30)
                acked.update(writer.acked)
            server.start()
            check = Session(server.port)
            names = {f"/k/{name}" for name in check.call("getChildren", text("/k") + b"\0")[2]}
            c.equal(sorted(acked - names)[:5], [], "acknowledged creates that are gone")
            for writer in writers:
                value = int(check.call("getData", text(f"/k/counter{writer.number}") + b"\0")[2][0] or b"0")
                least = cycle * 10**7 + writer.counter
                c.true(writer.counter < 0 or value >= least, f"counter {value}, of which {least} was acknowledged")
                c.true(value <= cycle * 10**7 + writer.sent, f"counter {value} was never sent")
            check.close()
            old = [writer.session for writer in writers]
        server.stop()
    print(f"crash: {cycles} kills, {len(acked)} acknowledged creates, 0 lost")
    c.report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.cycles, arguments.seed)
