"""A data directory goes from Java to Oxkeeper and back, with everything in it and with a session that lives on."""
import pathlib
import shutil
import signal
import sys
import tempfile

from servers import ROOT, Checks, Server
from zkwire import OPEN, Session, acl, buf, create_body, i32, multi_body, text

KINDS = [("/h", 0, None), ("/h/p", 0, None), ("/h/seq-", 2, None), ("/h/c", 4, None), ("/h/t", 5, 10**9)]


def fill(port, tag):
    s = Session(port, timeout=60000)
    for path, flags, ttl in KINDS:
        op = {4: "createContainer", 5: "createTTL"}.get(flags, "create2")
        s.call(op, create_body(path, f"{path} {tag}".encode(), OPEN, flags, ttl))
    s.call("create", create_body(f"/h/null-{tag}", None))
    s.call("create", create_body(f"/h/acl-{tag}", b"x", [(31, "digest", "u:h"), (1, "world", "anyone")]))
    s.call("setACL", text("/h/p") + acl([(31, "world", "anyone"), (1, "ip", "127.0.0.1")]) + i32(-1))
    s.call("setData", text("/h/p") + buf(tag.encode()) + i32(-1))
    s.call("create", create_body(f"/h/e-{tag}", b"mine", OPEN, 1))
    s.call("multi", multi_body([("create", create_body(f"/h/m-{tag}")), ("setData", text("/h") + buf(b"m") + i32(-1))]))
    s.call("multi", multi_body([("delete", text("/nope") + i32(-1)), ("setData", text("/h") + buf(b"n") + i32(-1))]))
    s.call("delete", text("/nope") + i32(-1))
    for n in range(300):
        s.call("create", create_body(f"/h/p/{tag}{n:03}", b"n" * (n % 7)))
        if n % 5 == 0:
            s.call("delete", text(f"/h/p/{tag}{n:03}") + i32(-1))
    for path in ("/zookeeper/quota/h", "/zookeeper/quota/h/zookeeper_limits", "/zookeeper/quota/h/zookeeper_stats"):
        s.call("create", create_body(path, b"count=100000,bytes=-1" if path.endswith("limits") else b""))
    return s


def tree(port):
    """All there is: data, stats and lists by path."""
    s = Session(port)
    s.auth("digest", b"super:test")
    nodes, waiting = {}, ["/"]
    while waiting:
        path = waiting.pop()
        _, err, body = s.call("getData", text(path) + b"\0")
        assert err == 0, (path, err)
        nodes[path] = (body, s.call("getACL", text(path))[2][0])
        for name in s.call("getChildren", text(path) + b"\0")[2]:
            waiting.append(path.rstrip("/") + "/" + name)
    s.close()
    return nodes


def recorded(c, binary):
    """Directories recorded from real servers: Oxkeeper starts there and writes, then Java starts there."""
    fixtures = ROOT / "crates/server/tests/fixtures"
    for name in ("datadir-3.8.0", "datadir-3.8.0-fuzzy", "datadir-3.8.0-fuzzy-acl-hole", "datadir-independent-writer"):
        with tempfile.TemporaryDirectory() as home:
            shutil.copytree(fixtures / name / "version-2", pathlib.Path(home) / "data/version-2")
            # Sessions of the recording are long over; their expiry would change the tree between the two looks.
            options = {"tickTime": "30000"}
            server = Server("oxkeeper", pathlib.Path(home), options, binary, reap_ms=600_000).start()
            writer = Session(server.port, timeout=60000)
            for n in range(50):
                writer.call("create", create_body(f"/from-oxkeeper{n}", b"x"))
            before = tree(server.port)
            server.stop()
            java = Server("java", pathlib.Path(home), options, reap_ms=600_000).start()
            after = tree(java.port)
            c.equal({p for p in after.keys() | before.keys() if after.get(p) != before.get(p)}, set(), f"{name} in Java")
            java.stop()
            log = (pathlib.Path(home) / "java.log").read_text(errors="replace")
            c.equal("igest mismatch" in log or "Digests are not" in log, False, f"Java finds every digest of {name} right")


def main(binary=None):
    c = Checks("handover")
    recorded(c, binary)
    for how in (signal.SIGTERM, signal.SIGKILL):
        with tempfile.TemporaryDirectory() as home:
            chain, sessions, before = ["java", "oxkeeper", "java", "oxkeeper"], [], None
            for step, kind in enumerate(chain):
                server = Server(kind, pathlib.Path(home), binary=binary).start()
                if before is not None:
                    after = tree(server.port)
                    c.equal(set(after) ^ set(before), set(), f"the same znodes from {chain[step - 1]} to {kind}")
                    c.equal({p: (after[p], before[p]) for p in after if after[p] != before[p]}, {}, "the same content")
                    old = sessions[-1]
                    again = Session(server.port, sid=old.sid, passwd=old.passwd, timeout=60000)
                    c.equal(again.sid, old.sid, "the session goes on")
                    c.equal(len(again.call("getEphemerals", text("/"))[2]), 1, "with its ephemeral")
                sessions.append(fill(server.port, f"{kind}{step}"))
                before = tree(server.port)
                code = server.stop(how)
                if kind == "oxkeeper" and how == signal.SIGTERM:
                    c.equal(code, 0, "a clean stop")
                log = (pathlib.Path(home) / f"{kind}.log").read_text(errors="replace")
                odd = [line for line in log.splitlines() if "igest mismatch" in line or "Digests are not" in line]
                c.equal(odd, [], f"digests as {kind} computes them")
    c.report()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
