#!/usr/bin/env python3
"""Records the bytes of every operation from Apache ZooKeeper 3.9.5 into crates/proto/tests/golden/client.txt.

Each line: what, the operation, the hex of the payload without its length. Requests are those that a real server
understood, replies those that it gave. Run it after interop/setup.sh; the times and ids in it differ every time.
"""
import struct

from servers import ROOT, Server
from zkwire import OPEN, Session, acl, buf, create_body, i32, i64, multi_body, text, vec


class Recorder(Session):
    lines = []
    names = {}

    def send_frame(self, payload):
        if not hasattr(self, "timeout"):
            Recorder.lines.append(f"handshake connect {payload.hex()}")
        super().send_frame(payload)

    def send(self, op, body=b"", xid=None):
        xid = super().send(op, body, xid)
        Recorder.lines.append(f"request {op} {body.hex() or '-'}")
        return xid

    def read_frame(self):
        frame = super().read_frame()
        if not hasattr(self, "timeout"):
            Recorder.lines.append(f"handshake response {frame.hex()}")
        else:
            self.last = frame
            if struct.unpack(">i", frame[:4])[0] == -1:
                Recorder.lines.append(f"event - {frame.hex()}")
        return frame

    def receive(self, op, xid):
        got = super().receive(op, xid)
        Recorder.lines.append(f"reply {op} {self.last.hex()}")
        return got


def main():
    with Server("java") as server:
        s = Recorder(server.port)
        old = Recorder(server.port, read_only=b"")
        Recorder(server.port, sid=77, passwd=b"x" * 16)
        ops = [
            ("create", create_body("/g", b"data")), ("create", create_body("/g/null", None)),
            ("create", create_body("/g", b"")), ("create2", create_body("/g/two", b"", OPEN, 2)),
            ("createContainer", create_body("/g/c", b"", OPEN, 4)), ("createTTL", create_body("/g/t", b"", OPEN, 5, 10**6)),
            ("exists", text("/g") + b"\1"), ("exists", text("/none") + b"\1"), ("getData", text("/g") + b"\1"),
            ("getData", text("/g/null") + b"\0"), ("getChildren", text("/g") + b"\1"), ("getChildren2", text("/g/c") + b"\0"),
            ("setData", text("/g") + buf(b"more") + i32(0)), ("setData", text("/g") + buf(None) + i32(-1)),
            ("getACL", text("/g")), ("setACL", text("/g") + acl([(31, "ip", "127.0.0.1"), (1, "world", "anyone")]) + i32(0)),
            ("addWatch", text("/g") + i32(1)), ("checkWatches", text("/g") + i32(5)), ("removeWatches", text("/g") + i32(1)),
            ("setWatches", i64(0) + vec([text("/g")]) + vec([text("/g")]) + vec([text("/none")])),
            ("setWatches2", i64(1 << 40) + vec([]) + vec([]) + vec([]) + vec([text("/g")]) + vec([text("/")])),
            ("sync", text("/g")), ("ping", b""), ("whoAmI", b""), ("getEphemerals", text(None)),
            ("getAllChildrenNumber", text("/")), ("reconfig", text(None) + text("1") + text(None) + i64(-1)),
            ("multi", multi_body([("create", create_body("/g/m")), ("create2", create_body("/g/m2")),
                                  ("check", text("/g") + i32(-1)), ("setData", text("/g/m") + buf(b"x") + i32(0)),
                                  ("delete", text("/g/m") + i32(-1))])),
            ("multi", multi_body([("check", text("/g") + i32(99)), ("delete", text("/g/m2") + i32(-1))])),
            ("multi", multi_body([])),
            ("multiRead", multi_body([("getData", text("/g") + b"\0"), ("getChildren", text("/g") + b"\0"),
                                      ("getData", text("/none") + b"\0")])),
            ("delete", text("/g/m2") + i32(-1)), ("delete", text("/g") + i32(-1)), ("sasl", buf(b"")),
        ]
        for op, body in ops:
            s.call(op, body, xid=-2 if op == "ping" else None)
        s.auth("digest", b"u:p")
        s.call("closeSession")
        old.call("closeSession")
    out = ROOT / "crates/proto/tests/golden/client.txt"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("# Apache ZooKeeper 3.9.5, recorded by interop/record_golden.py\n" + "\n".join(Recorder.lines) + "\n")
    print(f"{len(Recorder.lines)} payloads")


if __name__ == "__main__":
    main()
