#!/usr/bin/env python3
"""Sends the same random operations to two servers and compares every reply, field by field.

    differential.py --a HOST_PORT_A --b HOST_PORT_B [--ops 20000] [--seed 1]

Both servers must be fresh and take extendedTypesEnabled=true. Replies are compared with times taken out and
session ids numbered; zxids are compared as they are, since both servers must spend them alike. Events are
compared in their order, before and after each reply. The first difference ends the run with status 1 and the
command that repeats it.
"""
import argparse
import random
import sys

from zkwire import (OPEN, OPS, Closed, Session, acl, buf, create_body, i32, i64, multi_body, text, vec)

SESSIONS = 3
NAMES = ["/a", "/b", "/a/x", "/a/y", "/a/x/deep", "/b/z", "/c", "/q", "/q/in", "/a/x/deep/er"]
# These are always open to all. For setWatches: Java tells even those who may not read a node, Oxkeeper does not.
OPENS = ["/w", "/w/one", "/w/two", "/never"]
ODD = ["", "/", "//", "/a/", "a", "/a/../b", "/a/.", "/zookeeper", "/zookeeper/quota", "/zookeeper/config",
       "/nul\0", "/ctl\x01", "/uml\u00e4ut", "/priv\ue000", "/sur\ufff0", "/zookeeper/new", "relative/x"]
READ_ALL = [(1, "world", "anyone")]
ACLS = [OPEN, OPEN, OPEN, READ_ALL, [(31, "auth", "")], [(31, "digest", "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=")],
        [(31, "ip", "127.0.0.1")], [(31, "ip", "10.0.0.0/8"), (1, "world", "anyone")], [(3, "world", "anyone")],
        [(7, "world", "anyone")], [(31, "world", "anyone"), (31, "world", "anyone")], []]
BAD_ACLS = [None, [(1, "world", "me")], [(1, "nope", "x")], [(1, "digest", "a:b:c")], [(1, "ip", "300.1.1.1")],
            [(1, None, "x")], [(99, "world", "anyone")], [(0, "world", "anyone")], [(1, "ip", "fe80::/10")]]


class Script:
    """Draws operations. Equal seeds draw equal scripts."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def path(self):
        return self.random.choice(ODD) if self.random.random() < 0.06 else self.random.choice(NAMES + OPENS)

    def data(self):
        return self.random.choice([None, b"", b"x", b"some data", b"y" * 200])

    def version(self):
        return self.random.choice([-1, -1, -1, 0, 1, 2, -2])

    def acls(self):
        return self.random.choice(BAD_ACLS if self.random.random() < 0.05 else ACLS)

    def create(self):
        op = self.random.choice(["create", "create", "create2", "create2", "createContainer", "createTTL"])
        flags = self.random.choice({"createContainer": [4, 4, 0, 1, 2], "createTTL": [5, 6, 5, 0, 2]}.get(
            op, [0, 0, 0, 0, 1, 2, 3, 4, 5, 9, -1]))
        ttl = self.random.choice([10**9, 10**9, 0, -1, 1 << 41]) if op == "createTTL" else None
        if op == "createTTL" and flags not in (5, 6):
            ttl = 10**9  # With -1 Java passes its own checks, and its process ends when the request is applied.
        path = self.path()
        return op, create_body(path, self.data(), OPEN if path in OPENS else self.acls(), flags, ttl)

    def write(self):
        kind = self.random.choice(["create", "create", "delete", "setData", "setData", "check"])
        if kind == "create":
            return self.create()
        if kind == "setData":
            return kind, text(self.path()) + buf(self.data()) + i32(self.version())
        return kind, text(self.path()) + i32(self.version())

    def watches(self, second):
        lists = [[text(self.random.choice(OPENS)) for _ in range(self.random.randrange(3))] for _ in range(5 if second else 3)]
        return i64(self.random.choice([0, 1 << 40, self.random.randrange(3000)])) + b"".join(map(vec, lists))

    def quota(self):
        sub = self.random.choice(["/q", "/a"])
        base = "/zookeeper/quota" + sub
        steps = [("create", create_body(base)), ("create", create_body(base + "/zookeeper_limits", self.random.choice(
            [b"count=3,bytes=50", b"count=-1,bytes=-1=;byteHardLimit=300;countHardLimit=4", b"count=1"]))),
            ("create", create_body(base + "/zookeeper_stats", b"count=0,bytes=0"))]
        if self.random.random() < 0.5:
            steps = [("delete", text(base + "/zookeeper_limits") + i32(-1)),
                     ("delete", text(base + "/zookeeper_stats") + i32(-1))]
        if self.random.random() < 0.5:
            steps.append(("getData", text(base + "/zookeeper_stats") + b"\0"))
        return self.random.choice(steps)

    def operation(self):
        r = self.random.random()
        if r < 0.28:
            op, body = self.write()
            return ("setData", text(self.path()) + buf(b"v") + i32(-1)) if op == "check" else (op, body)
        if r < 0.36:
            return "multi", multi_body([self.write() for _ in range(self.random.randrange(5))])
        if r < 0.38:
            reads = [(self.random.choice(["getData", "getChildren"]), text(self.path()) + b"\0") for _ in range(3)]
            return "multiRead", multi_body(reads)
        if r < 0.66:
            op = self.random.choice(["exists", "getData", "getChildren", "getChildren2"])
            return op, text(self.path()) + self.random.choice([b"\0", b"\1"])
        if r < 0.70:
            return "setACL", text(self.random.choice(NAMES + ODD[1:])) + acl(self.acls()) + i32(self.random.choice([-1, -1, 0, 1]))
        if r < 0.74:
            return "getACL", text(self.path())
        if r < 0.78:
            return "addWatch", text(self.path()) + i32(self.random.choice([0, 1, 1, 7]))
        if r < 0.83:
            op = self.random.choice(["checkWatches", "removeWatches"])
            return op, text(self.path()) + i32(self.random.choice([1, 2, 3, 4, 5, 6]))
        if r < 0.85:
            second = self.random.random() < 0.5
            return ("setWatches2" if second else "setWatches"), self.watches(second)
        if r < 0.87:
            return "getEphemerals", text(self.random.choice([None, "", "/", "/a", "/a/x"]))
        if r < 0.89:
            return "getAllChildrenNumber", text(self.path())
        if r < 0.91:
            return "sync", text(self.path())
        if r < 0.92:
            return "whoAmI", b""
        if r < 0.96:
            return self.quota()
        if r < 0.97:
            return "reconfig", text(None) + text("1") + text(None) + i64(-1)
        if r < 0.98:
            return "multi", multi_body([("getData", text("/a") + b"\0")] + [("delete", text("/b") + i32(-1))] * (
                self.random.random() < 0.5))
        if r < 0.985:
            return "multiRead", multi_body([("delete", text("/b") + i32(-1))])
        return self.random.choice(["create", "getData", "setData", "delete", "setACL", "multi", "exists"]), \
            self.random.choice([b"", b"\0\0\0\x05/a", b"\xff\xff\xff\xff" * 2, b"\x7f\xff\xff\xff"])


class Side:
    """One server and its sessions."""

    def __init__(self, port):
        self.port = port
        self.sessions = [Session(port, timeout=3_600_000) for _ in range(SESSIONS)]
        self.ids = {session.sid: n for n, session in enumerate(self.sessions)}

    def clean(self, value):
        if isinstance(value, dict):
            owner = value["owner"]
            return {k: v for k, v in value.items() if k not in ("ctime", "mtime")} | {
                "owner": self.ids.get(owner, owner), "same_time": value["ctime"] == value["mtime"]
                or value["czxid"] != value["mzxid"]}
        if isinstance(value, (list, tuple)):
            return type(value)(self.clean(item) for item in value)
        return value

    def reopen(self, index, extra=0):
        session = Session(self.port, timeout=3_600_000)
        self.ids[session.sid] = index + 100 * (1 + extra)
        self.sessions[index] = session

    def run(self, index, op, body):
        session = self.sessions[index]
        try:
            reply = self.clean(session.call(op, body))
        except Closed:
            reply = "closed"
        # A closed session's ephemerals go in no fixed order.
        order = sorted if op == "closeSession" else list
        events = order(session.take_events())
        others = []
        for other in self.sessions:
            if other is not session or reply == "closed":
                try:
                    other.ping()
                except Closed:
                    others.append("closed")
                others.append(order(other.take_events()))
        return reply, events, others


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", type=int, required=True)
    parser.add_argument("--b", type=int, required=True)
    parser.add_argument("--ops", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-going", type=int, default=1, help="differences to print before giving up")
    args = parser.parse_args()
    script, sides = Script(args.seed), [Side(args.a), Side(args.b)]
    differences = reopened = 0
    kinds = {}
    for n in range(args.ops):
        index = script.random.randrange(SESSIONS)
        r = script.random.random()
        if r < 0.004:
            op, body = "closeSession", b""
        elif r < 0.006:
            op, body = script.random.choice([13, 0, -1, 10, 99, 1000]), b"\0\0\0\x01/\0\0\0\0"
        elif r < 0.010:
            op, body = "auth", i32(0) + text(script.random.choice(["digest", "ip"])) + buf(b"u:p")
        elif r < 0.0105:
            op, body = "auth", i32(0) + text("world") + buf(b"x")
        else:
            op, body = script.operation()
        kinds[op] = kinds.get(op, 0) + 1
        a, b = (side.run(index, op, body) for side in sides)
        if a != b:
            differences += 1
            print(f"difference at operation {n}: session {index} {op} {body!r}\n  a: {a}\n  b: {b}")
            if differences >= args.keep_going:
                print(f"repeat with: differential.py --a PORT --b PORT --ops {n + 1} --seed {args.seed}")
                break
        if op == "closeSession" or a[0] == "closed" or isinstance(op, int) or (op == "auth" and a[0] != "closed" and a[0][1]):
            reopened += 1
            for side in sides:
                side.sessions[index].sock.close()
                side.reopen(index, reopened)
    missing = set(OPS) - {"ping", "sasl", "check"} - set(kinds)
    if missing and args.ops >= 10000 and not differences:
        sys.exit(f"never drawn: {missing}")
    print(f"differential: {n + 1} operations of {len(kinds)} kinds, {differences} differences (seed {args.seed})")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
