#!/usr/bin/env python3
"""Runs every interop suite against Oxkeeper, and with --also-java against Apache ZooKeeper 3.9.5 first: a check
that Java fails is wrong. Needs what interop/setup.sh brings; anything missing is a failure.

    interop/run.py [--also-java] [--ops 20000] [--only NAME]
"""
import argparse
import subprocess
import sys

import crash
import faults
import flips
import handover
import hostile
import learners
import starts
import words
from servers import PEERS, ROOT, Server

HERE = ROOT / "interop"
SUITES = {
    "wire": [sys.executable, str(HERE / "suite_wire.py"), "{port}"],
    "kazoo": [str(PEERS / "venv/bin/python"), str(HERE / "suite_kazoo.py"), "{port}"],
    "c": [str(PEERS / "c-suite"), "127.0.0.1:{port}"],
    "go": [str(PEERS / "go-suite"), "127.0.0.1:{port}"],
    "node": ["node", str(PEERS / "node/suite.js"), "127.0.0.1:{port}"],
    "zkCli": [sys.executable, str(HERE / "suite_zkcli.py"), "{port}"],
    "curator": ["java", "-Xmx256m", f"-Dlogback.configurationFile={HERE}/java/logback.xml",
                "-Dzookeeper.log.level=ERROR", "-cp", f"{PEERS}/classes:{PEERS}/jars/*", "Suite", "127.0.0.1:{port}"],
}

# What runs against Oxkeeper alone, or brings its own servers.
PROOFS = {"words": words, "handover": handover, "learners": learners, "crash": crash, "flips": flips, "starts": starts, "faults": faults,
          "hostile": hostile}


def suite(name, kind, failures):
    with Server(kind) as server:
        command = [part.format(port=server.port) for part in SUITES[name]]
        # A suite that passes has one line to say; of one that does not, the end of what it said is wanted.
        with open(server.directory / "suite.log", "w+", encoding="utf-8", errors="replace") as said:
            try:
                code = subprocess.run(command, timeout=240, cwd=HERE, stdout=said, stderr=subprocess.STDOUT).returncode
            except subprocess.TimeoutExpired:
                code = "not within 240 s"
            said.seek(0)
            lines = said.read().splitlines() or [""]
        if code == 0:
            print(f"{lines[-1]} against {kind}", flush=True)
            return
        failures.append(f"{name} against {kind}: {code}: {lines[-1]}")
        print("\n".join(lines[-25:]))
        print((server.directory / f"{kind}.log").read_text(errors="replace")[-2000:], flush=True)


def differential(ops, seed, failures):
    # Reapers and expiry of two servers do not act at the same moment: neither may act within the run.
    patient = {"maxSessionTimeout": "3600000"}
    with Server("java", None, patient, reap_ms=3_600_000) as java, \
            Server("oxkeeper", None, patient, reap_ms=3_600_000) as oxkeeper:
        command = [sys.executable, str(HERE / "differential.py"), "--a", str(java.port), "--b", str(oxkeeper.port),
                   "--ops", str(ops), "--seed", str(seed)]
        if subprocess.run(command, timeout=900).returncode != 0:
            failures.append("differential")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--also-java", action="store_true")
    parser.add_argument("--ops", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--only", choices=[*SUITES, "differential", *PROOFS])
    args = parser.parse_args()
    failures, ran = [], 0
    for name in SUITES:
        if args.only in (None, name):
            for kind in (["java"] if args.also_java else []) + ["oxkeeper"]:
                suite(name, kind, failures)
                ran += 1
    if args.only in (None, "differential"):
        differential(args.ops, args.seed, failures)
        ran += 1
    for name, module in PROOFS.items():
        if args.only in (None, name):
            try:
                module.main()
            except (AssertionError, OSError, SystemExit) as error:
                failures.append(f"{name}: {error}")
            ran += 1
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"interop: {ran - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
