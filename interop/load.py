"""Writers whose every call is written to a file before it is sent, and every result after it has come; and a judge
who reads those files and says whether what a server holds after its death can be what it has acknowledged.

Every writer has a directory of its own and one session, whose requests take effect in the order in which they were
sent. So the directory must be what the first so many calls make of it, with at least all acknowledged ones among them.
"""
import json
import os
import random
import threading

from zkwire import OPEN, Closed, Session, buf, create_body, i32, multi_body, text

SLOTS = 48
WINDOW = 48
NODE_EXISTS, NO_NODE = -110, -101


class CallLog:
    """A file of calls (`>`) and results (`<`), each written before the next step is taken."""

    def __init__(self, path):
        self.path = path
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.mark = os.fstat(self.file).st_size

    def note(self, sign, *what):
        os.write(self.file, (sign + json.dumps(what) + "\n").encode())

    def since_mark(self):
        """Calls and results since the last time this was asked."""
        with open(self.path, "rb") as file:
            file.seek(self.mark)
            lines = file.read().decode().splitlines()
            self.mark = file.tell()
        calls = [json.loads(line[1:]) for line in lines if line[0] == ">"]
        results = [json.loads(line[1:]) for line in lines if line[0] == "<"]
        return calls, results


class Writer:
    """One client that goes on from life to life of its server: the same session, the same directory."""

    def __init__(self, home, number, seed, data_bytes=60, timeout=60000):
        self.root = f"/k/{number}"
        self.calls = CallLog(os.path.join(home, f"calls-{number}.log"))
        self.chance = random.Random(seed * 1000 + number)
        self.data_bytes, self.timeout = data_bytes, timeout
        self.count = 0
        self.session = None
        self.state = {}
        self.newest = 0
        self.acknowledged = 0
        self.thread = None
        self.stopped = threading.Event()
        self.ended_by = None

    def attach(self, port):
        """Takes its session up, or opens one at first; false if the server does not know it any more."""
        before = self.session
        again = {} if before is None else {"sid": before.sid, "passwd": before.passwd}
        self.session = Session(port, timeout=self.timeout, **again)
        if before is not None:
            before.sock.close()
            return self.session.sid == before.sid
        for path in ("/k", self.root, f"{self.root}/d"):
            self.session.call("create", create_body(path))
        self.state = self.found()
        return True

    def go(self):
        self.stopped.clear()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def wait(self):
        self.stopped.set()
        self.thread.join(60)
        if self.thread.is_alive():
            raise AssertionError(f"the writer of {self.root} hangs")

    def run(self):
        waiting = []
        try:
            while not self.stopped.is_set():
                waiting.append(self.send())
                while len(waiting) >= WINDOW:
                    self.take(waiting)
        except (Closed, OSError) as error:
            self.ended_by = error
        try:
            # What was answered before the end is an answer.
            while waiting:
                self.take(waiting)
        except (Closed, OSError) as error:
            self.ended_by = error

    def send(self):
        self.count += 1
        slot = f"{self.root}/{self.chance.randrange(SLOTS)}"
        value = f"{self.count}." + "x" * self.chance.randrange(self.data_bytes)
        kinds = {"create": 30, "ephemeral": 10, "set": 25, "delete": 20, "pair": 10, "unpair": 5}
        kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
        data = value.encode()
        op, body = {
            "create": lambda: ("create", create_body(slot, data)),
            "ephemeral": lambda: ("create", create_body(slot, data, OPEN, 1)),
            "set": lambda: ("setData", text(slot) + buf(data) + i32(-1)),
            "delete": lambda: ("delete", text(slot) + i32(-1)),
            "pair": lambda: ("multi", multi_body([
                ("create", create_body(f"{slot}a", data)), ("create", create_body(f"{slot}b", data)),
                ("setData", text(f"{self.root}/d") + buf(data) + i32(-1))])),
            "unpair": lambda: ("multi", multi_body([
                ("delete", text(f"{slot}a") + i32(-1)), ("delete", text(f"{slot}b") + i32(-1))])),
        }[kind]()
        self.calls.note(">", self.count, kind, slot, value)
        return self.count, op, self.session.send(op, body)

    def take(self, waiting):
        number, op, xid = waiting[0]
        zxid, err, results = self.session.receive(op, xid)
        if op == "multi" and err == 0:
            err = next((error for kind, error, _ in results if kind == -1 and error != 0), 0)
        self.calls.note("<", number, zxid, err)
        waiting.pop(0)
        self.acknowledged += 1

    def found(self):
        """What the server holds in the directory: data, owner and last change by path."""
        names = self.session.call("getChildren", text(self.root) + b"\0")[2]
        paths = [f"{self.root}/{name}" for name in names]
        body = multi_body([("getData", text(path) + b"\0") for path in paths])
        answers = self.session.call("multiRead", body)[2] if paths else []
        return {path: (body[0].decode(), body[1]["owner"], body[1]["mzxid"])
                for path, (_, err, body) in zip(paths, answers) if err == 0}

    def judge(self):
        """Compares what is there with what was sent and acknowledged since the last time."""
        calls, results = self.calls.since_mark()
        if [call[0] for call in calls[:len(results)]] != [result[0] for result in results]:
            raise AssertionError(f"{self.root}: results are not those of the first calls")
        state, found = dict(self.state), self.found()
        for call, (_, zxid, err) in zip(calls, results):
            expected = apply(state, call, self.session.sid, zxid)
            if err != expected:
                raise AssertionError(f"{self.root}: {call} came to {err} where {expected} is right")
            if zxid <= self.newest:
                raise AssertionError(f"{self.root}: zxid {zxid:x} after {self.newest:x}")
            self.newest = zxid
        tried = [dict(state)]
        for call in [None, *calls[len(results):]]:
            if call is not None:
                apply(state, call, self.session.sid, None)
            if matches(state, found):
                self.state = found
                self.newest = max(self.newest, *(entry[2] for entry in found.values()))
                return
        wrong = {path: (tried[0].get(path), found.get(path)) for path in {*tried[0], *found}
                 if tried[0].get(path) != found.get(path)}
        raise AssertionError(f"{self.root}: not what any {len(results)} to {len(calls)} calls since the last look make; "
                             f"after the acknowledged ones and found: {dict(sorted(wrong.items())[:6])}")


def apply(state, call, sid, zxid):
    """What a call makes of the state, and its error; `zxid` is that of its acknowledgement, or None."""
    _, kind, slot, value = call
    if kind in ("create", "ephemeral"):
        if slot in state:
            return NODE_EXISTS
        state[slot] = (value, sid if kind == "ephemeral" else 0, zxid)
    elif kind == "set":
        if slot not in state:
            return NO_NODE
        state[slot] = (value, state[slot][1], zxid)
    elif kind == "delete":
        if slot not in state:
            return NO_NODE
        del state[slot]
    elif kind == "pair":
        if f"{slot}a" in state or f"{slot}b" in state:
            return NODE_EXISTS
        directory = slot.rsplit("/", 1)[0]
        state[f"{slot}a"] = state[f"{slot}b"] = (value, 0, zxid)
        state[f"{directory}/d"] = (value, 0, zxid)
    elif kind == "unpair":
        if f"{slot}a" not in state or f"{slot}b" not in state:
            return NO_NODE
        del state[f"{slot}a"], state[f"{slot}b"]
    return 0


def matches(state, found):
    """The zxid of what was never acknowledged is not known beforehand."""
    return state.keys() == found.keys() and all(
        entry[:2] == found[path][:2] and entry[2] in (None, found[path][2]) for path, entry in state.items())
