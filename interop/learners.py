"""A Java server, once as a follower and once as an observer, behind a leader that says what only Oxkeeper's leaders say:
that a session has moved, that leadership is handed over, and to an observer that it is to vote. Java's server must pass
over the first and the last, log the second, and go on; and its directory must be readable, by itself and by Oxkeeper.

The leader is as much as one learner needs. It, and whoever else votes, are this process.
"""
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from servers import BASE, PEERS, ROOT, Checks, Server, free_port
from zkwire import OPEN, Session, acl, buf, four_letter_word, i32, i64, text

PROPOSAL, ACK, COMMIT, PING, INFORM, NEW_LEADER, UP_TO_DATE, DIFF, LEADER_INFO, MOVED = 2, 3, 4, 5, 8, 10, 12, 13, 17, 1001
FOLLOWER_INFO, OBSERVER_INFO, ACK_EPOCH = 11, 16, 18
FOLLOWING, LEADING = 1, 2
SESSION = 0x300000000000001


def zxid(counter):
    return 1 << 32 | counter


def txn(counter, kind, body, session=SESSION, cxid=0):
    return i64(session) + i32(cxid) + i64(zxid(counter)) + i64(int(time.time() * 1000)) + i32(kind) + body


def create(counter, path):
    return txn(counter, 1, text(path) + buf(b"x") + acl(OPEN) + b"\0" + i32(counter), cxid=counter)


class Ensemble:
    """Server 1 is Java's; the others are two or three voters, of whom 3 leads, as far as server 1 can tell."""

    def __init__(self, home, observes):
        self.home, self.observes = pathlib.Path(home), observes
        self.voters = [2, 3, 4] if observes else [2, 3]
        self.client = free_port()
        self.ports = {id: (free_port(), free_port()) for id in [1, *self.voters]}
        self.listener = socket.create_server(("127.0.0.1", self.ports[3][0]))
        self.listener.settimeout(60)
        self.votes = []

    def config(self, version, role="observer"):
        role = role if self.observes else "participant"
        lines = [f"server.{id}=127.0.0.1:{quorum}:{election}:{role if id == 1 else 'participant'};127.0.0.1:{self.client}"
                 for id, (quorum, election) in self.ports.items()]
        return "\n".join([*lines, f"version={version:x}"]).encode()

    def start(self):
        data = self.home / "data"
        data.mkdir()
        (data / "myid").write_text("1\n")
        keys = {"dataDir": data, **BASE, "tickTime": "2000", "initLimit": "20", "syncLimit": "20", "clientPort": self.client,
                "clientPortAddress": "127.0.0.1", "reconfigEnabled": "true",
                **({"peerType": "observer"} if self.observes else {})}
        lines = [f"{key}={value}" for key, value in keys.items()]
        lines += [line.split(";")[0] for line in self.config(0).decode().split("\n")[:-1]]
        (self.home / "zoo.cfg").write_text("\n".join(lines) + "\n")
        self.log = open(self.home / "learner.log", "ab")
        command = ["java", "-Xmx256m", f"-Dlogback.configurationFile={ROOT}/interop/java/logback.xml", "-cp",
                   f"{PEERS}/jars/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self.home / "zoo.cfg")]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for voter in self.voters:
            threading.Thread(target=self.vote, args=(voter,), daemon=True).start()

    def vote(self, voter):
        """Says again and again that 3 leads, to whoever listens at the election port of server 1."""
        state = LEADING if voter == 3 else FOLLOWING
        config = self.config(0)
        notification = struct.pack(">iqqqqi", state, 3, 0, 1, 1, 2) + buf(config)
        address = f"127.0.0.1:{self.ports[voter][1]}".encode()
        while self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.ports[1][1])) as sock:
                    sock.sendall(i64(-65536) + i64(voter) + buf(address))
                    while self.process.poll() is None:
                        sock.sendall(buf(notification))
                        time.sleep(0.3)
            except OSError:
                time.sleep(0.1)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.log.close()
        self.listener.close()

    def words(self):
        return (self.home / "learner.log").read_text(errors="replace")


class Link:
    """The leader's end of the link to its learner."""

    def __init__(self, listener):
        self.sock, _ = listener.accept()
        self.sock.settimeout(30)
        self.stream = self.sock.makefile("rb")

    def send(self, kind, zxid=-1, data=None):
        self.sock.sendall(i32(kind) + i64(zxid) + buf(data) + i32(-1))

    def read(self, length):
        data = self.stream.read(length)
        if len(data) < length:
            raise AssertionError("learners: the learner has left its leader")
        return data

    def take(self, *, past=()):
        """The next packet that is none of these: its type and zxid."""
        while True:
            kind, at, length = struct.unpack(">iqi", self.read(16))
            self.read(max(length, 0))
            for _ in range(2 * max(struct.unpack(">i", self.read(4))[0], 0)):
                self.read(struct.unpack(">i", self.read(4))[0])
            if kind not in past:
                return kind, at


def as_learner(c, observes):
    name = "observer" if observes else "follower"
    with tempfile.TemporaryDirectory() as home:
        ensemble = Ensemble(home, observes)
        ensemble.start()
        try:
            link = Link(ensemble.listener)
            c.equal(link.take()[0], OBSERVER_INFO if observes else FOLLOWER_INFO, f"the {name} comes")
            link.send(LEADER_INFO, zxid(0), i32(0x10000))
            kind, last = link.take()
            c.equal(kind, ACK_EPOCH, f"the {name} promises the epoch")
            link.send(DIFF, last)
            link.send(NEW_LEADER, zxid(0), ensemble.config(0))
            c.equal(link.take(), (ACK, zxid(0)), f"the {name} has the history")
            link.send(UP_TO_DATE)
            c.equal(link.take(), (ACK, zxid(0)), f"the {name} serves")

            def agreed(counter, record):
                if observes:
                    return link.send(INFORM, zxid(counter), record)
                link.send(PROPOSAL, zxid(counter), record)
                link.send(COMMIT, zxid(counter))
                c.equal(link.take(past=(PING,)), (ACK, zxid(counter)), f"transaction {counter} is acknowledged")

            agreed(1, txn(1, -10, i32(40000)))
            agreed(2, create(2, "/before"))
            link.send(MOVED, -1, i64(SESSION))
            if observes:
                config = ensemble.config(zxid(3), "participant")
                link.send(PROPOSAL, zxid(3), txn(3, 16, text("/zookeeper/config") + buf(config) + i32(-1)))
            agreed(3, txn(3, -1, i32(0), session=0, cxid=2))
            agreed(4, create(4, "/after"))
            link.send(PING, zxid(4))
            c.equal(link.take(), (PING, zxid(4)), f"the {name} has taken everything before the ping")
            c.eventually(lambda: "Zxid: 0x100000004\n" in four_letter_word(ensemble.client, "srvr"), "all is applied")
            c.true(f"Mode: {name}" in four_letter_word(ensemble.client, "srvr"), f"it is still a {name}")
        finally:
            ensemble.stop()
        said = ensemble.words()
        c.equal(len(re.findall("Unknown packet type", said)), 1, "it says that it does not know MOVED")
        c.equal(len(re.findall("Ignoring proposal", said)), int(observes), "an observer says that it passes over a proposal")
        c.true("ERROR" not in said, "it complains of nothing else")
        for kind in ("java", "oxkeeper", "java"):
            with Server(kind, pathlib.Path(home), {"initLimit": "20"}) as alone:
                session = Session(alone.port)
                children = session.call("getChildren", text("/") + b"\0")[2]
                c.equal(children, ["after", "before", "zookeeper"], f"{kind} reads what the {name} has left")
                session.close()


def main():
    c = Checks("learners")
    for observes in (False, True):
        as_learner(c, observes)
    c.report()


if __name__ == "__main__":
    sys.exit(main())
