#!/usr/bin/env python3
"""Starts Oxkeeper on every combination of a snapshot {none, valid, damaged, cut short, newer than the log}, a log {none,
valid, torn, with a gap, with a wrong magic} and epoch files {none, valid, garbage}, and compares what becomes of it
with what must. A standalone server takes no notice of epoch files.

    starts.py
"""
import itertools
import multiprocessing
import pathlib
import shutil
import signal
import sys
import tempfile

from flips import STILL, look, number, records, start
from servers import Checks, Server
from zkwire import Session, buf, create_body, i32, text

SNAPSHOTS = ("none", "valid", "damaged", "cut", "newer")
LOGS = ("none", "valid", "torn", "gap", "magic")
EPOCHS = ("none", "valid", "garbage")


def build(home):
    """A directory with one snapshot in the middle and a log before and after it; returns what it holds at the snapshot,
    before its last record, and at the end."""
    server = Server("oxkeeper", home, {**STILL, "preAllocSize": "0", "snapCount": "100000"}, reap_ms=3_600_000).start()
    s = Session(server.port)
    for n in range(60):
        s.call("create", create_body(f"/a{n}", b"x" * n))
    s.sock.close()
    server.stop()
    # The next start takes a snapshot of what it replays.
    server.start()
    version = home / "data/version-2"
    Checks("starts").eventually(lambda: len(list(version.glob("snapshot.*"))) == 2, "a snapshot at the start")
    at_snapshot = look(server.port)
    server.stop(signal.SIGKILL)
    for log in version.glob("log.*"):
        if number(log) > number(max(version.glob("snapshot.*"), key=number)):
            log.unlink()
    server.start()
    s = Session(server.port)
    for n in range(60):
        s.call("setData", text(f"/a{n}") + buf(b"second") + i32(-1))
    s.sock.close()
    server.stop(signal.SIGKILL)
    (version / "snapshot.0").unlink()
    return at_snapshot


def arrange(home, snapshot, log, epochs):
    version = home / "data/version-2"
    file = next(version.glob("snapshot.*"))
    logs = sorted(version.glob("log.*"), key=number)
    if snapshot == "none":
        file.unlink()
    elif snapshot == "damaged":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x10
        file.write_bytes(data)
    elif snapshot == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif snapshot == "newer":
        logs.pop().unlink()
    newest = logs[-1]
    starts, end = records(newest)
    data = newest.read_bytes()
    if log == "none":
        for one in logs:
            one.unlink()
    elif log == "torn":
        newest.write_bytes(data[:end - 7])
    elif log == "gap":
        newest.write_bytes(data[:starts[20]] + data[starts[21]:])
    elif log == "magic":
        newest.write_bytes(b"XXXX" + data[4:])
    if epochs != "none":
        for name in ("acceptedEpoch", "currentEpoch"):
            (version / name).write_bytes(b"1" if epochs == "valid" else b"\xff not a number \0")
    return file.name, newest.name


def expected(snapshot, log):
    """What must become of it: which state, or what the refusal must name."""
    if snapshot == "none":
        return "empty" if log == "none" else ["No snapshot found, but there are log entries"]
    if snapshot in ("damaged", "cut"):
        return ["{snapshot}", "offset"]
    if log == "magic":
        return ["{log}", "invalid magic number"]
    if snapshot == "newer" or log == "none":
        return "at the snapshot"
    return {"valid": "all", "torn": "without the last", "gap": ["{log}", "are missing"]}[log]


def combination(base, states, snapshot, log, epochs):
    with tempfile.TemporaryDirectory(prefix="oxkeeper-start-") as made:
        home = pathlib.Path(made)
        shutil.copytree(base / "data", home / "data")
        names = arrange(home, snapshot, log, epochs)
        found, said = start(home)
        due = expected(snapshot, log)
        what = f"snapshot {snapshot}, log {log}, epoch files {epochs}"
        if "panicked" in said:
            return f"{what}: a panic: {said[-500:]}"
        if isinstance(due, list):
            wanted = [part.format(snapshot=names[0], log=names[1]) for part in due]
            errors = "\n".join(line for line in said.splitlines() if " ERROR " in line)
            right = found == 1 and all(part in errors for part in wanted)
            return None if right else f"{what}: {found if isinstance(found, int) else 'serves'}, {errors!r}, not {wanted}"
        if isinstance(found, int):
            return f"{what}: refused where it must serve: {said[-500:]}"
        return None if found == states[due] else f"{what}: zxid {found[0]} where {states[due][0]} is right"


def main(lanes=3, binary=None):
    with tempfile.TemporaryDirectory(prefix="oxkeeper-starts-") as made:
        base = pathlib.Path(made)
        states = {"at the snapshot": build(base)}
        for name, change in (("all", "valid"), ("without the last", "torn"), ("empty", None)):
            with tempfile.TemporaryDirectory() as copy:
                if change:
                    shutil.copytree(base / "data", pathlib.Path(copy) / "data")
                    arrange(pathlib.Path(copy), "valid", change, "none")
                states[name] = start(pathlib.Path(copy))[0]
        second = [sum(node[0][0] == b"second" for node in state[2].values()) for state in states.values()]
        Checks("starts").equal(second, [0, 60, 59, 0], "znodes of the second life, by state")
        all_of_them = list(itertools.product(SNAPSHOTS, LOGS, EPOCHS))
        with multiprocessing.Pool(lanes) as pool:
            wrong = [one for one in pool.starmap(combination, [(base, states, *one) for one in all_of_them]) if one]
    if wrong:
        raise AssertionError(f"starts: {len(wrong)} of {len(all_of_them)} are wrong; some of them:\n" + "\n".join(wrong[:8]))
    print(f"starts: {len(all_of_them)} starts from every kind of directory", flush=True)


if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        sys.exit(f"FAILED {error}")
