"""Frames that no client library sends: handshakes, limits, order of replies, closing, sessions, four-letter words."""
import socket
import struct
import sys
import time

from servers import SUPER, Checks
from zkwire import Closed, Reader, Session, buf, create_body, four_letter_word, i32, i64, multi_body, text


def closes(session_or_sock):
    sock = getattr(session_or_sock, "sock", session_or_sock)
    sock.settimeout(10)
    try:
        while sock.recv(65536):
            pass
        return True
    except ConnectionError:
        return True


def raw(port, payload):
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(payload)
    return sock


def handshakes(port, c):
    new = Session(port, timeout=5000)
    c.equal((new.timeout, new.response_len, len(new.passwd)), (5000, 37, 16), "a session")
    c.equal(new.sid >> 56, 1, "a standalone server's id is 1")
    c.equal(Session(port, read_only=b"").response_len, 36, "an old client gets no read-only byte")
    c.equal(Session(port, timeout=1).timeout, 1000, "raised to the minimum")
    c.equal(Session(port, timeout=10**9).timeout, 60000, "cut to the maximum")
    wrong = Session(port, sid=new.sid, passwd=b"x" * 16)
    c.equal((wrong.timeout, wrong.sid, wrong.passwd), (0, 0, b"\0" * 16), "a wrong password")
    c.true(closes(wrong), "and then it closes")
    unknown = Session(port, sid=0x77, passwd=b"x" * 16)
    c.equal((unknown.timeout, unknown.sid), (0, 0), "an unknown session")
    c.raises(Closed, lambda: Session(port, last_zxid=1 << 50), "a client that has seen the future")
    again = Session(port, sid=new.sid, passwd=new.passwd, timeout=7000)
    c.equal((again.sid, again.timeout), (new.sid, 7000), "taken up with another timeout")
    c.true(closes(new), "the old connection is closed")
    state = (new.sid ^ 0xB3415C00 ^ 0x5DEECE66D) & ((1 << 48) - 1)
    expected = b""
    for _ in range(4):
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        expected += struct.pack("<I", (state >> 16) & 0xFFFFFFFF)
    c.equal(again.passwd, expected, "password as every server derives it")
    again.close()
    gone = Session(port, sid=again.sid, passwd=again.passwd)
    c.equal(gone.timeout, 0, "a closed session is over")


def frames(port, c):
    c.true(closes(raw(port, i32(-1))), "a negative length")
    c.true(closes(raw(port, i32(0x100000))), "a length above jute.maxbuffer")
    c.true(closes(raw(port, i32(0))), "an empty handshake")
    c.true(closes(raw(port, b"GET / HTTP/1.1\r\n\r\n")), "another protocol")
    s = Session(port)
    s.send_frame(b"\0\0\0\1")
    c.true(closes(s), "a header that is cut short")
    s = Session(port)
    zxid, err, body = s.call(77)
    c.equal((zxid, err, body), (-1, -6, None), "an unknown operation")
    c.true(closes(s), "and then it closes")
    s = Session(port)
    c.equal(s.call("getData", b"\0\0\0\x09/x")[1], -5, "a body that is cut short")
    c.equal(s.ping()[1], 0, "and the connection stays")
    c.equal(s.call("exists", text("/") + b"\0" + b"trailing bytes")[1], 0, "bytes behind a record")
    frame = i32(14) + i32(99) + i32(4) + i32(1) + b"/" + b"\0"
    for byte in frame:
        s.sock.sendall(bytes([byte]))
    c.equal(s.receive("getData", 99)[1], 0, "a frame byte by byte")
    s.close()


def order(port, c):
    s = Session(port)
    s.call("create", create_body("/order"))
    xids = []
    for n in range(300):
        xids.append(("setData", s.send("setData", text("/order") + buf(b"%d" % n) + i32(-1))))
        xids.append(("getData", s.send("getData", text("/order") + b"\0")))
        xids.append(("exists", s.send("exists", text("/none") + b"\0")))
    for index, (op, xid) in enumerate(xids):
        _, err, body = s.receive(op, xid)
        if op == "getData" and body[0] != b"%d" % (index // 3):
            raise AssertionError(f"wire: read {body[0]} after write {index // 3}")
    c.true(True, "900 requests at once are answered in order, and reads see earlier writes only")
    s.call("getData", text("/order") + b"\1")
    s.call("setData", text("/order") + buf(b"x") + i32(-1))
    c.equal([(kind, path) for _, kind, _, path in s.take_events()], [(3, "/order")], "event before its reply")
    other = Session(port)
    other.call("exists", text("/order/e") + b"\1")
    s.call("create", create_body("/order/e", flags=1))
    s.close()
    other.ping()
    c.equal([kind for _, kind, _, _ in other.take_events()], [1], "an ephemeral comes")
    other.close()
    first = raw(port, b"")
    hello = i32(0) + i64(0) + i32(9000) + i64(0) + buf(b"\0" * 16) + b"\0"
    request = i32(1) + i32(3) + text("/") + b"\0"
    first.sendall(i32(len(hello)) + hello + i32(len(request)) + request)
    first.settimeout(10)
    got = b""
    while len(got) < 4 + 37 + 4 + 16 + 68:
        got += first.recv(4096)
    c.equal(struct.unpack(">i", got[41:45])[0], 16 + 68, "a request in the same segment as the handshake")


def expiry(port, c):
    s = Session(port, timeout=2000)
    s.call("create", create_body("/expires", flags=1))
    watcher = Session(port)
    watcher.call("exists", text("/expires") + b"\1")
    for _ in range(12):
        time.sleep(0.3)
        c.equal(s.ping()[1], 0, "pings keep it alive")
    c.true(closes(s), "a silent session's connection is closed")
    deadline = time.monotonic() + 10
    while not watcher.events and time.monotonic() < deadline:
        watcher.ping()
        time.sleep(0.05)
    c.equal([kind for _, kind, _, _ in watcher.take_events()], [2], "and its ephemeral goes")
    c.equal(Session(port, sid=s.sid, passwd=s.passwd).timeout, 0, "and the session is over")


def identities(port, c):
    s = Session(port)
    c.equal(s.auth("digest", b"super:test")[:2], (0, 0), "auth")
    who = s.call("whoAmI")[2]
    c.true(("super", "") in who and ("digest", "super") in who, "super has both identities")
    c.true(SUPER.startswith("super:"), "as configured")
    nobody = Session(port)
    c.equal(nobody.auth("nonsense", b"x")[1], -115, "an unknown scheme")
    c.true(closes(nobody), "and then it closes")
    s.call("create", create_body("/guarded", entries=[(1, "digest", "u:h"), (31, "ip", "10.0.0.0/8")]))
    s2 = Session(port)
    c.equal(s2.call("getACL", text("/guarded"))[1], -102, "a list that one may not read")
    c.equal(s2.call("exists", text("/guarded") + b"\0")[1], -102, "nor the stat")


def words(port, c):
    for word, start in (("ruok", "imok"), ("srvr", "Zookeeper version: 3.9.5"), ("isro", "rw"), ("conf", "clientPort="),
                        ("envi", "Environment:"), ("wchs", "0 connections watching 0 paths"), ("gtmk", "306"),
                        ("dirs", "datadir_size: "), ("dump", "SessionTracker dump:"), ("crst", "Connection stats reset."),
                        ("srst", "Server stats reset."), ("mntr", "zk_version\t3.9.5"), ("stat", "Zookeeper version: 3.9.5")):
        c.true(four_letter_word(port, word).startswith(start), f"{word}: {four_letter_word(port, word)[:80]}")
    c.true("zk_server_state\tstandalone" in four_letter_word(port, "mntr"), "mntr tells the state")
    s = Session(port)
    s.call("addWatch", text("/watched") + i32(0))
    c.true("/watched\n\t0x" in four_letter_word(port, "wchp"), "wchp")
    c.true(f"0x{s.sid:x}\n\t/watched" in four_letter_word(port, "wchc"), "wchc")
    c.true(f"sid=0x{s.sid:x},lop=ADDW" in four_letter_word(port, "cons"), "cons")
    s.send_frame(b"ruok")
    c.true(closes(s), "after the handshake a word is a length")


def main(port):
    c = Checks("wire")
    words(port, c)
    handshakes(port, c)
    frames(port, c)
    order(port, c)
    expiry(port, c)
    identities(port, c)
    s = Session(port)
    c.equal(s.call("multi", multi_body([]))[1:], (0, []), "an empty multi")
    c.equal(Reader(b"\0\0\0\1").i32(), 1, "the codec of this test")
    c.report()


if __name__ == "__main__":
    main(int(sys.argv[1]))
