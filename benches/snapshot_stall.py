#!/usr/bin/env python3
"""Do writers notice that a snapshot is written?

With very many znodes and writes offered at half of what the server can do, the p99.9 of the writes over a window in which
a snapshot is written is compared with that over a window as long in which none is. Both come of the same server program
on the same directory, started anew for each window, turn about. The median of all runs counts.

    cargo build --release
    python3 benches/snapshot_stall.py --zkload PATH/TO/zkload

`zkload` is the load generator that docs/benchmarks.md names: its writes are due at fixed times, and a write that waits
counts from when it was due. Ends with status 1 if the median of the ratios is above --at-most.
"""
import argparse
import json
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NEVER = 2_000_000_000


class Server:
    """A server on a directory, and when it began and ended its snapshots."""

    def __init__(self, binary, directory, snap_count):
        self.port = free_port()
        config = pathlib.Path(directory) / "zoo.cfg"
        config.write_text(f"dataDir={directory}/data\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
                          f"maxClientCnxns=0\nsnapCount={snap_count}\n4lw.commands.whitelist=*\n")
        self.snapshots = []
        self.process = subprocess.Popen([binary, "server", str(config)], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self.listen, daemon=True).start()
        self.wait_until_it_serves()

    def listen(self):
        for line in self.process.stdout:
            if "Snapshotting:" in line:
                self.snapshots.append([time.monotonic(), None])
            elif "Snapshot taken in" in line and self.snapshots:
                self.snapshots[-1][1] = time.monotonic()

    def wait_until_it_serves(self):
        end = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                    sock.sendall(b"mntr")
                    if b"zk_znode_count" in sock.recv(1 << 16):
                        return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server does not start")
            time.sleep(0.02)

    def settle(self):
        """Waits until the snapshot that a start takes over a log is written, and the pause after it is over."""
        end = time.monotonic() + 3
        while not self.snapshots and time.monotonic() < end:
            time.sleep(0.02)
        while self.snapshots and self.snapshots[-1][1] is None:
            time.sleep(0.05)
        if self.snapshots:
            begun, ended = self.snapshots[-1]
            time.sleep(max(0, ended + 3.2 * (ended - begun) - time.monotonic()))
        self.snapshots.clear()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def free_port():
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def zkload(args, server, *what):
    command = [args.zkload, *what, "--servers", f"127.0.0.1:{server.port}:{server.process.pid}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


def writes(args, server, seconds, rate=0, warmup=0.5):
    shape = ["--sessions", str(args.sessions), "--inflight", str(args.inflight), "--mix", args.mix,
             "--size", "100", "--duration", str(seconds), "--warmup", str(warmup)]
    return zkload(args, server, "run", *shape, "--rate", str(rate))


def window(args, directory, rate, seconds, with_snapshot):
    """One window: its p99.9, its greatest latency and, of its time, the part in which a snapshot was written."""
    # Due between half a second and a second after the load begins, that is within the window's first half second.
    snap_count = int(rate) if with_snapshot else NEVER
    server = Server(args.server, directory, snap_count)
    try:
        server.settle()
        result = writes(args, server, seconds, rate)
        end = time.monotonic()
    finally:
        server.stop()
    begin = end - seconds
    inside = sum(max(0.0, min(ended or end, end) - max(begun, begin)) for begun, ended in server.snapshots)
    latency = result["latency_us"]
    return {"p999_us": latency["p999"], "p50_us": latency["p50"], "max_us": latency["max"],
            "ops_s": result["ops_per_s"], "errors": result["errors"], "share": inside / seconds,
            "lengths": [ended - begun for begun, ended in server.snapshots if ended]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zkload", required=True, help="the load generator's program")
    parser.add_argument("--server", default=str(ROOT / "target" / "release" / "oxkeeper"))
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--inflight", type=int, default=16)
    parser.add_argument("--mix", default="set")
    parser.add_argument("--rate", type=float, help="writes per second, instead of half of what is measured")
    parser.add_argument("--at-most", type=float, default=3.0, help="the ratio that is allowed")
    parser.add_argument("--dir", help="where to keep the directory; elsewhere than /tmp if that is not a disk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        server = Server(args.server, directory, NEVER)
        zkload(args, server, "fill", "--nodes", str(args.nodes), "--size", "100", "--fanout", "1000")
        writes(args, server, 2)
        capacity = statistics.median(writes(args, server, 3)["ops_per_s"] for _ in range(3))
        server.stop()
        rate = round(args.rate or capacity / 2)
        print(f"{args.nodes} znodes; capacity {capacity:.0f} writes/s, offered {rate}/s")
        # How long a snapshot takes under this load decides how long the windows are.
        probe = window(args, directory, rate, 6, True)
        if not probe["lengths"]:
            raise SystemExit("no snapshot was written in 6 s")
        seconds = round(probe["lengths"][0] + 0.4, 1)
        print(f"a snapshot takes {probe['lengths'][0]:.2f} s; windows of {seconds} s\n")
        print("| run | without: p99.9 ms | max ms | with: p99.9 ms | max ms | in the snapshot | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        ratios, before, during = [], [], []
        run = 0
        for _ in range(3 * args.runs):
            pair = {}
            for with_snapshot in ([False, True] if run % 2 == 0 else [True, False]):
                pair[with_snapshot] = window(args, directory, rate, seconds, with_snapshot)
            without, snap = pair[False], pair[True]
            wrong = [f"a snapshot took {without['share']:.0%} of the window without"] if without["share"] > 0 else []
            wrong += [f"it took {snap['share']:.0%} of the window with"] if snap["share"] < 0.5 else []
            wrong += [f"errors: {pair[key]['errors']}" for key in pair if pair[key]["errors"]]
            wrong += [f"only {pair[key]['ops_s']:.0f} writes/s were done" for key in pair if pair[key]["ops_s"] < 0.95 * rate]
            if wrong:
                print(f"| not counted: {'; '.join(wrong)} | | | | | | |", flush=True)
                continue
            run += 1
            ratios.append(snap["p999_us"] / without["p999_us"])
            before.append(without["p999_us"])
            during.append(snap["p999_us"])
            print(f"| {run} | {without['p999_us'] / 1e3:.2f} | {without['max_us'] / 1e3:.2f} | {snap['p999_us'] / 1e3:.2f} | "
                  f"{snap['max_us'] / 1e3:.2f} | {snap['share']:.0%} | {ratios[-1]:.2f}x |", flush=True)
            if run == args.runs:
                break
        if run < args.runs:
            raise SystemExit("too few windows held a snapshot")
        ratio = statistics.median(ratios)
        print(f"| median | {statistics.median(before) / 1e3:.2f} | | {statistics.median(during) / 1e3:.2f} | | | **{ratio:.2f}x** |")
        return 0 if ratio <= args.at_most else 1


if __name__ == "__main__":
    sys.exit(main())
