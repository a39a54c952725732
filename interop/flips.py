#!/usr/bin/env python3
"""Flips single bytes in the files of stopped servers: Oxkeeper then serves the same data, or refuses to start and names
the file and the place. It never serves other data, hangs or panics.

    flips.py [--flips 300] [--seed 1] [--lanes 3]

One exception: within the window behind which nothing need have been synced, the newest log may end before the record that
was hit, and the data must then be exactly what the records before it make. Directories: recorded ones of Java, and our
own, of every kind of file, killed and stopped. After the flips: starts.py.
"""
import argparse
import functools
import multiprocessing
import pathlib
import random
import re
import shutil
import signal
import struct
import sys
import tempfile

from handover import fill
from servers import ROOT, Server
from zkwire import Session, buf, create_body, four_letter_word, i32, text

FIXTURES = ROOT / "crates/server/tests/fixtures"
RECORDED = ("datadir-3.8.0", "datadir-3.8.0-fuzzy", "datadir-independent-writer", "datadir-3.8.0-ensemble")
# Nothing of what is served may change by itself between two looks.
STILL = {"tickTime": "60000", "maxSessionTimeout": "3600000"}
# A damaged owner may look like a lifetime, which is refused here: but not before the seal was looked at.
PLAIN = {"extendedTypesEnabled": "false"}
# The server's own figure: behind a broken record at least so much may never have been acknowledged.
WINDOW = 4 << 20


def look(port):
    """All that a server holds: its zxid, sessions, and every znode with data, stat, list and children."""
    zxid = re.search("Zxid: (.*)", four_letter_word(port, "srvr"))[1]
    sessions = sorted(re.findall("0x[0-9a-f]{12,}", four_letter_word(port, "dump")))
    s = Session(port, wait=30)
    s.auth("digest", b"super:test")
    nodes, level = {}, ["/"]
    while level:
        asked = [[(op, s.send(op, text(path) + more)) for op, more in
                  (("getData", b"\0"), ("getACL", b""), ("getChildren", b"\0"))] for path in level]
        below = []
        for path, calls in zip(level, asked):
            (_, err, data), (_, _, acl), (_, _, names) = [s.receive(op, xid) for op, xid in calls]
            assert err == 0, (path, err)
            nodes[path] = (data, acl, names)
            below += [f"{path.rstrip('/')}/{name}" for name in names]
        level = below
    s.sock.close()
    return zxid, sessions, nodes


def start(home, binary=None, options=None):
    """What becomes of a start: what it holds, or the exit code of a server that refused; and what it said."""
    server = Server("oxkeeper", home, {**STILL, **(options or {})}, binary, reap_ms=3_600_000)
    try:
        if server.launch().serves(60):
            return look(server.port), server.words()
        return server.stop(), server.words()
    finally:
        server.stop(signal.SIGKILL)


def records(log):
    """Where the records of a log begin, and where the last one ends."""
    data, at, starts = log.read_bytes(), 16, []
    while at + 12 <= len(data):
        length = struct.unpack(">i", data[at + 8:at + 12])[0]
        if length <= 0:
            break
        starts.append(at)
        at += 12 + length + 1
    return starts, at


def number(path):
    return int(path.name.split(".")[1], 16)


def logs_of(home):
    return sorted((home / "data/version-2").glob("log.*"), key=number)


def build(home, name, seed):
    """Directories of our own."""
    kinds = {
        "killed": ({"snapCount": "150"}, signal.SIGKILL), "stopped": ({"snapCount": "150"}, signal.SIGTERM),
        "gz": ({"snapCount": "200", "snapshot.compression.method": "gz"}, signal.SIGKILL),
        "snappy": ({"snapCount": "200", "snapshot.compression.method": "snappy"}, signal.SIGKILL),
        "one": ({"snapCount": "300"}, signal.SIGKILL), "plain": ({"snapCount": "150", **PLAIN}, signal.SIGKILL),
        "long": ({"snapCount": "1000000"}, signal.SIGKILL),
    }
    options, how = kinds[name]
    with tempfile.TemporaryDirectory(prefix="oxkeeper-flips-") as made:
        server = Server("oxkeeper", made, {**STILL, "preAllocSize": "64", **options}, reap_ms=3_600_000).start()
        chance = random.Random(seed)
        for n in range(3):
            fill(server.port, f"f{n}")
        if name == "long":
            s = Session(server.port)
            for n in range(240):
                path = f"/long/{n // 2}"
                s.call("create", create_body("/long"))
                s.call("create", create_body(path, b""))
                s.call("setData", text(path) + buf(chance.randbytes(40_000)) + i32(-1))
        server.stop(how)
        shutil.copytree(pathlib.Path(made) / "data", home / "data")
    if name == "one":
        # A single snapshot, and the logs that go on from there.
        newest = max((home / "data/version-2").glob("snapshot.*"), key=number)
        for old in (home / "data/version-2").glob("snapshot.*"):
            if old != newest:
                old.unlink()


OWN = ("killed", "stopped", "gz", "snappy", "one", "plain", "long")


def prepare(work, seed):
    """All directories, under `work` by name."""
    for name in RECORDED:
        shutil.copytree(FIXTURES / name / "version-2", work / name / "data/version-2")
        for extra in (FIXTURES / name).glob("myid"):
            shutil.copy(extra, work / name / "data")
    for name in OWN:
        (work / name).mkdir()
        build(work / name, name, seed)


class Lane:
    def __init__(self, work, binary):
        self.work, self.binary = work, binary

    def copy(self, name):
        home = tempfile.TemporaryDirectory(prefix="oxkeeper-flip-")
        shutil.copytree(self.work / name / "data", pathlib.Path(home.name) / "data")
        return home

    @functools.cache
    def truth(self, name, cut=None):
        """What the directory holds; or would, if its newest log ended at `cut`."""
        with self.copy(name) as home:
            if cut is not None:
                log = logs_of(pathlib.Path(home))[-1]
                with open(log, "r+b") as file:
                    file.truncate(cut)
            found, said = start(home, self.binary, PLAIN if name == "plain" else None)
            if isinstance(found, int):
                raise AssertionError(f"{name}, cut at {cut}, does not start: {said[-500:]}")
            return found

    def flip(self, name, file, at, mask):
        """Flips bits of one byte; returns what became of it, and fails if that is wrong."""
        with self.copy(name) as home:
            path = pathlib.Path(home) / "data" / file
            data = bytearray(path.read_bytes())
            data[at] ^= mask
            path.write_bytes(data)
            found, said = start(home, self.binary, PLAIN if name == "plain" else None)
        what = f"{name}/{file}, byte {at} of {len(data)} with {mask:#04x}"
        if "panicked" in said:
            raise AssertionError(f"{what}: a panic: {said[-1500:]}")
        if isinstance(found, int):
            errors = [line for line in said.splitlines() if " ERROR " in line]
            if found != 1 or not any(path.name in line and "offset" in line for line in errors):
                raise AssertionError(f"{what}: exit code {found}, and neither file nor offset in {errors}")
            return "refused"
        if found == self.truth(name):
            return "the same"
        newest = logs_of(self.work / name)[-1]
        if path.name == newest.name:
            starts, end = records(newest)
            hit = max((begin for begin in starts if begin <= at), default=16)
            if end - hit <= WINDOW and found == self.truth(name, hit):
                return "cut in the last window"
        differing = [p for p in {*found[2], *self.truth(name)[2]} if found[2].get(p) != self.truth(name)[2].get(p)]
        raise AssertionError(f"{what}: other data: zxid {found[0]}, {self.truth(name)[0]} is right; sessions "
                             f"{set(found[1]) ^ set(self.truth(name)[1])}, znodes {sorted(differing)[:5]}\n{said[-800:]}")


def draw(work, flips, seed):
    """Which byte of which file, so that every directory and kind of file has its share."""
    chance, chosen = random.Random(seed), []
    for n in range(flips):
        name = (*RECORDED, *OWN)[n % (len(RECORDED) + len(OWN))]
        files = sorted(path for path in (work / name / "data").rglob("*") if path.is_file() and path.stat().st_size)
        path = chance.choice(files)
        size = path.stat().st_size
        # Most of a log may be zeros.
        used = records(path)[1] if path.name.startswith("log.") and chance.random() < 0.85 else size
        mask = 1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(1, 256)
        chosen.append((name, str(path.relative_to(work / name / "data")), chance.randrange(min(used, size)), mask))
    return chosen


def lane(work, binary, share):
    counts, wrong, mine = {}, [], Lane(work, binary)
    for flip in share:
        try:
            became = mine.flip(*flip)
        except (AssertionError, OSError) as error:
            wrong.append(str(error))
            continue
        counts[became] = counts.get(became, 0) + 1
    return counts, wrong


def main(flips=300, seed=1, lanes=3, binary=None):
    with tempfile.TemporaryDirectory(prefix="oxkeeper-flips-") as home:
        work = pathlib.Path(home)
        prepare(work, seed)
        chosen = draw(work, flips, seed)
        # By directory, so that a lane looks at few of them.
        chosen.sort()
        with multiprocessing.Pool(lanes) as pool:
            size = -(-len(chosen) // (lanes * 4))
            shares = [chosen[at:at + size] for at in range(0, len(chosen), size)]
            done = pool.starmap(lane, [(work, binary, share) for share in shares], chunksize=1)
    wrong = [one for _, failures in done for one in failures]
    if wrong:
        raise AssertionError(f"flips: {len(wrong)} of {flips} are wrong; some of them:\n" + "\n".join(wrong[:8]))
    total = {}
    for counts, _ in done:
        for became, count in counts.items():
            total[became] = total.get(became, 0) + count
    print(f"flips: {sum(total.values())} byte flips: " + ", ".join(f"{n} {became}" for became, n in sorted(total.items())),
          flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lanes", type=int, default=3)
    arguments = parser.parse_args()
    try:
        main(arguments.flips, arguments.seed, arguments.lanes)
    except AssertionError as error:
        sys.exit(f"FAILED {error}")
