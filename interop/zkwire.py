"""A raw ZooKeeper client: its own codec over a plain socket, so that nothing of a client library hides a byte.

Standard library only. Used by the differential test and by suites that need frames no library would send.
"""
import socket
import struct

OPS = {
    "create": 1, "delete": 2, "exists": 3, "getData": 4, "setData": 5, "getACL": 6, "setACL": 7,
    "getChildren": 8, "sync": 9, "ping": 11, "getChildren2": 12, "check": 13, "multi": 14, "create2": 15,
    "reconfig": 16, "checkWatches": 17, "removeWatches": 18, "createContainer": 19, "createTTL": 21,
    "multiRead": 22, "auth": 100, "setWatches": 101, "sasl": 102, "getEphemerals": 103,
    "getAllChildrenNumber": 104, "setWatches2": 105, "addWatch": 106, "whoAmI": 107, "closeSession": -11,
}
OPEN = [(31, "world", "anyone")]
STAT = ("czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion", "owner", "length", "children", "pzxid")


def i32(n):
    return struct.pack(">i", n)


def i64(n):
    return struct.pack(">q", n)


def buf(data):
    return i32(-1) if data is None else i32(len(data)) + data


def text(value):
    return buf(None if value is None else value.encode("utf-8", "surrogatepass"))


def vec(items):
    return i32(-1) if items is None else i32(len(items)) + b"".join(items)


def acl(entries):
    return vec(None if entries is None else [i32(p) + text(s) + text(i) for p, s, i in entries])


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise EOFError(f"{n} bytes wanted, {len(self.data) - self.at} left")
        self.at += n
        return self.data[self.at - n:self.at]

    def i32(self):
        return struct.unpack(">i", self.take(4))[0]

    def i64(self):
        return struct.unpack(">q", self.take(8))[0]

    def flag(self):
        return self.take(1) != b"\0"

    def buf(self):
        n = self.i32()
        return None if n < 0 else self.take(n)

    def text(self):
        data = self.buf()
        return None if data is None else data.decode("utf-8", "replace")

    def vec(self, item):
        n = self.i32()
        return None if n < 0 else [item() for _ in range(n)]

    def stat(self):
        fields = struct.unpack(">qqqqiiiqiiq", self.take(68))
        return dict(zip(STAT, fields))

    def acl(self):
        return self.vec(lambda: (self.i32(), self.text(), self.text()))

    def results(self):
        out = []
        while True:
            kind, done, err = self.i32(), self.flag(), self.i32()
            if done:
                return out
            body = {
                1: self.text, 15: lambda: (self.text(), self.stat()), 5: self.stat, -1: self.i32,
                4: lambda: (self.buf(), self.stat()), 8: lambda: sorted(self.vec(self.text)),
            }.get(kind, lambda: None)()
            out.append((kind, err, body))


def read_body(op, r):
    """The fields of a reply's body; children in order of their names, for servers give them in any."""
    if op in ("create", "sync"):
        return r.text()
    if op in ("create2", "createContainer", "createTTL"):
        return r.text(), r.stat()
    if op in ("exists", "setData", "setACL"):
        return r.stat()
    if op in ("getData", "reconfig"):
        return r.buf(), r.stat()
    if op in ("getChildren", "getEphemerals"):
        return sorted(r.vec(r.text))
    if op == "getChildren2":
        return sorted(r.vec(r.text)), r.stat()
    if op == "getACL":
        return r.acl(), r.stat()
    if op in ("getAllChildrenNumber", "addWatch"):
        return r.i32()
    if op == "whoAmI":
        return r.vec(lambda: (r.text(), r.text()))
    if op in ("multi", "multiRead"):
        return r.results()
    if op == "sasl":
        return r.buf()
    return None


class Closed(Exception):
    pass


class Session:
    """One connection with a session."""

    def __init__(self, port, timeout=30000, sid=0, passwd=b"\0" * 16, last_zxid=0, read_only=b"\0", wait=10):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=wait)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""
        self.xid = 0
        self.events = []
        self.send_frame(i32(0) + i64(last_zxid) + i32(timeout) + i64(sid) + buf(passwd) + read_only)
        frame = self.read_frame()
        r = Reader(frame)
        self.response_len = len(frame)
        r.i32()
        self.timeout, self.sid, self.passwd = r.i32(), r.i64(), r.buf()

    def send_frame(self, payload):
        self.sock.sendall(i32(len(payload)) + payload)

    def read_frame(self):
        while True:
            if len(self.pending) >= 4:
                n = struct.unpack(">i", self.pending[:4])[0]
                if len(self.pending) >= 4 + n:
                    frame, self.pending = self.pending[4:4 + n], self.pending[4 + n:]
                    return frame
            try:
                more = self.sock.recv(1 << 16)
            except ConnectionError as error:
                raise Closed() from error
            if not more:
                raise Closed()
            self.pending += more

    def send(self, op, body=b"", xid=None):
        number = OPS[op] if isinstance(op, str) else op
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.send_frame(i32(xid) + i32(number) + body)
        return xid

    def receive(self, op, xid):
        """The reply to `xid`; events that come before it are kept in order."""
        while True:
            r = Reader(self.read_frame())
            got, zxid, err = r.i32(), r.i64(), r.i32()
            if got == -1 and xid != -1:
                kind, state, path = r.i32(), r.i32(), r.text()
                self.events.append((zxid, kind, state, path))
                continue
            if got != xid:
                raise AssertionError(f"reply to xid {got} where {xid} was due")
            rest = len(r.data) - r.at
            body = read_body(op, r) if err == 0 or (op == "multiRead" and rest) else None
            if r.at != len(r.data):
                raise AssertionError(f"{len(r.data) - r.at} bytes left behind the reply to {op}")
            return zxid, err, body

    def call(self, op, body=b"", xid=None):
        return self.receive(op, self.send(op, body, xid))

    def auth(self, scheme, data):
        return self.call("auth", i32(0) + text(scheme) + buf(data), xid=-4)

    def ping(self):
        return self.call("ping", xid=-2)

    def take_events(self):
        events, self.events = self.events, []
        return events

    def close(self):
        try:
            self.call("closeSession")
        finally:
            self.sock.close()


def create_body(path, data=b"", entries=OPEN, flags=0, ttl=None):
    return text(path) + buf(data) + acl(entries) + i32(flags) + (b"" if ttl is None else i64(ttl))


def multi_body(ops):
    out = b"".join(i32(OPS[op]) + b"\0" + i32(-1) + body for op, body in ops)
    return out + i32(-1) + b"\1" + i32(-1)


def four_letter_word(port, word):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(word.encode())
        out = b""
        while chunk := sock.recv(1 << 16):
            out += chunk
        return out.decode()
