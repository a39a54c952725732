"""Starts and stops the servers that are compared: Apache ZooKeeper 3.9.5 and Oxkeeper, alone, on loopback."""
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time

from zkwire import four_letter_word

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = ROOT / "target" / "interop"
SUPER = "super:" + "D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test
BASE = {
    "tickTime": "500", "minSessionTimeout": "1000", "maxSessionTimeout": "60000", "maxClientCnxns": "0",
    "4lw.commands.whitelist": "*", "extendedTypesEnabled": "true", "admin.enableServer": "false",
    "preAllocSize": "1024", "enforceQuota": "true", "DigestAuthenticationProvider.superDigest": SUPER,
}


def free_port():
    """A port below those that the system gives to connections, so that none of them takes it between two starts."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class Server:
    """A standalone server on a data directory that outlives it, so that another one can go on there."""

    def __init__(self, kind, directory=None, options=None, binary=None, reap_ms=300, *, name=None, wrap=(), env=None):
        """`name` tells servers on one directory apart; `wrap` is a command that starts the server's."""
        self.kind = kind
        self.binary = binary or os.environ.get("OXKEEPER", str(ROOT / "target" / "release" / "oxkeeper"))
        self.home = tempfile.TemporaryDirectory() if directory is None else None
        self.directory = pathlib.Path(directory or self.home.name)
        self.reap_ms = reap_ms
        self.options = {**BASE, **(options or {})}
        self.port = free_port()
        self.process = None
        self.name, self.wrap, self.env = name or kind, list(wrap), env or {}
        self.said = self.directory / f"{self.name}.log"

    def launch(self):
        """Starts the process, and does not wait for it."""
        config = self.directory / ("zoo.cfg" if self.name == self.kind else f"{self.name}.cfg")
        lines = {"dataDir": self.directory / "data", **self.options, "clientPort": self.port,
                 "clientPortAddress": "127.0.0.1"}
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        flags = [f"-Dznode.container.checkIntervalMs={self.reap_ms}"]
        if self.kind == "java":
            command = ["java", "-Xmx256m", *flags, f"-Dlogback.configurationFile={ROOT}/interop/java/logback.xml",
                       "-cp", f"{PEERS}/jars/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(config)]
        else:
            command = [self.binary, "--log-level", "warn", "server", *flags, str(config)]
        self.log = open(self.said, "ab")
        self.process = subprocess.Popen([*self.wrap, *command], stdout=self.log, stderr=self.log,
                                        env={**os.environ, **self.env})
        return self

    def serves(self, seconds=60):
        """Waits until it serves; false if it has ended instead."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return False
            try:
                if "Mode: standalone" in four_letter_word(self.port, "srvr"):
                    return True
            except OSError:
                pass
            time.sleep(0.005)
        raise AssertionError(f"{self.name} neither serves nor ends within {seconds} s:\n{self.words()[-3000:]}")

    def start(self):
        if self.launch().serves():
            return self
        code = self.stop()
        raise SystemExit(f"{self.name} did not start, exit code {code}:\n{self.words()[-3000:]}")

    def words(self):
        """What it has said in all its lives."""
        return self.said.read_text(errors="replace") if self.said.exists() else ""

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        if self.process:
            self.log.close()
        code, self.process = (self.process.returncode if self.process else None), None
        return code

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
        if self.home:
            self.home.cleanup()


class Checks:
    """Counts what was checked; the first thing that is wrong ends the suite."""

    def __init__(self, name):
        self.name, self.passed = name, 0

    def equal(self, found, expected, what):
        if found != expected:
            raise AssertionError(f"{self.name}: {what}: {found!r} where {expected!r} is right")
        self.passed += 1

    def true(self, found, what):
        self.equal(bool(found), True, what)

    def raises(self, error, call, what):
        try:
            call()
        except error:
            self.passed += 1
        else:
            raise AssertionError(f"{self.name}: {what}: no {error.__name__}")

    def eventually(self, found, what, seconds=15):
        deadline = time.monotonic() + seconds
        while not found():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: {what}: not within {seconds} s")
            time.sleep(0.02)
        self.passed += 1

    def report(self):
        print(f"{self.name}: {self.passed} checks passed", flush=True)
