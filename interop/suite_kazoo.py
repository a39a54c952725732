"""What kazoo does against a ZooKeeper: every operation, watches, sessions, and its recipes."""
import logging
import sys
import threading

from kazoo.client import KazooClient
from kazoo.exceptions import (BadVersionError, InvalidACLError, NoAuthError, NodeExistsError, NoNodeError,
                              NoChildrenForEphemeralsError, NotEmptyError, RolledBackError, RuntimeInconsistency)
from kazoo.protocol.states import EventType, KazooState
from kazoo.recipe.cache import TreeCache
from kazoo.security import make_digest_acl

from servers import Checks


def client(port, **more):
    zk = KazooClient(hosts=f"127.0.0.1:{port}", timeout=10, **more)
    zk.start(timeout=15)
    return zk


def operations(zk, c):
    c.equal(zk.create("/a", b"1"), "/a", "create")
    c.raises(NodeExistsError, lambda: zk.create("/a"), "create again")
    c.equal(zk.create("/a/s-", b"", sequence=True), "/a/s-0000000000", "first sequence")
    c.equal(zk.create("/a/s-", b"", sequence=True), "/a/s-0000000001", "second sequence")
    path, stat = zk.create("/a/t", b"xy", include_data=True)
    c.equal((path, stat.dataLength, stat.version), ("/a/t", 2, 0), "create2")
    data, stat = zk.get("/a")
    c.equal((data, stat.numChildren, stat.cversion, stat.version), (b"1", 3, 3, 0), "get")
    c.equal(zk.set("/a", b"2", version=0).version, 1, "set")
    c.raises(BadVersionError, lambda: zk.set("/a", b"3", version=0), "set an old version")
    c.equal(zk.exists("/nope"), None, "exists on nothing")
    c.equal(sorted(zk.get_children("/a")), ["s-0000000000", "s-0000000001", "t"], "children")
    c.equal(zk.get_children("/a", include_data=True)[1].numChildren, 3, "children with stat")
    c.raises(NotEmptyError, lambda: zk.delete("/a"), "delete a parent")
    c.raises(NoNodeError, lambda: zk.delete("/nope"), "delete nothing")
    c.raises(NoNodeError, lambda: zk.create("/nope/x"), "create under nothing")
    zk.delete("/a", recursive=True)
    c.equal(zk.exists("/a"), None, "deleted with children")
    zk.ensure_path("/deep/er/est")
    c.true(zk.exists("/deep/er/est"), "ensure_path")
    c.equal(zk.sync("/deep"), "/deep", "sync")
    zk.create("/eph", ephemeral=True)
    c.equal(zk.get("/eph")[1].ephemeralOwner, zk.client_id[0], "owner of an ephemeral")
    c.raises(NoChildrenForEphemeralsError, lambda: zk.create("/eph/x"), "child of an ephemeral")
    zk.create("/big", b"z" * 900_000)
    c.equal(len(zk.get("/big")[0]), 900_000, "a large znode")
    c.equal(zk.command(b"ruok"), "imok", "ruok")
    c.true("Mode: standalone" in zk.command(b"srvr"), "srvr")
    c.true(zk.server_version()[0] == 3, "version as kazoo parses it")


def transactions(zk, c):
    t = zk.transaction()
    t.create("/tx", b"1")
    t.check("/tx", 0)
    t.set_data("/tx", b"2")
    t.create("/tx/s", b"", sequence=True)
    results = t.commit()
    c.equal((results[0], results[1], results[2].version, results[3]), ("/tx", True, 1, "/tx/s0000000000"), "commit")
    t = zk.transaction()
    t.set_data("/tx", b"3")
    t.check("/tx", 99)
    t.delete("/tx")
    results = t.commit()
    c.equal([type(r) for r in results], [RolledBackError, BadVersionError, RuntimeInconsistency], "a failed one")
    c.equal(zk.get("/tx")[0], b"2", "nothing of it happened")


def acls(port, zk, c):
    mine = client(port)
    mine.add_auth("digest", "bob:secret")
    acl = make_digest_acl("bob", "secret", all=True)
    mine.create("/acl", b"x", acl=[acl])
    c.raises(NoAuthError, lambda: zk.get("/acl"), "read without rights")
    c.equal(mine.get("/acl")[0], b"x", "read with rights")
    c.equal(mine.get_acls("/acl")[0], [acl], "list as set")
    c.raises(InvalidACLError, lambda: zk.set_acls("/tx", []), "an empty list")
    boss = client(port)
    boss.add_auth("digest", "super:test")
    c.equal(boss.get("/acl")[0], b"x", "read as super")
    for one in (mine, boss):
        one.stop()
        one.close()


def watches(port, zk, c):
    seen = []
    zk.exists("/w", watch=seen.append)
    zk.create("/w")
    c.eventually(lambda: len(seen) == 1, "exists watch")
    c.equal((seen[0].type, seen[0].path), (EventType.CREATED, "/w"), "its event")
    zk.get("/w", watch=seen.append)
    zk.get_children("/w", watch=seen.append)
    zk.set("/w", b"1")
    zk.create("/w/c")
    c.eventually(lambda: len(seen) == 3, "data and child watch")
    c.equal([e.type for e in seen[1:]], [EventType.CHANGED, EventType.CHILD], "their events")
    values, children = [], []
    zk.DataWatch("/w", lambda data, stat: values.append(data))
    zk.ChildrenWatch("/w", lambda names: children.append(sorted(names)))
    zk.set("/w", b"2")
    zk.create("/w/d")
    c.eventually(lambda: values[-1:] == [b"2"] and children[-1:] == [["c", "d"]], "DataWatch and ChildrenWatch")
    cache, events = TreeCache(zk, "/w"), []
    cache.listen(events.append)
    cache.start()
    c.eventually(lambda: cache.get_data("/w/d") is not None, "TreeCache")
    other = client(port)
    other.create("/w/e", b"late")
    c.eventually(lambda: cache.get_data("/w/e") is not None and cache.get_data("/w/e").data == b"late", "TreeCache follows")
    cache.close()
    other.stop()
    other.close()


def sessions(port, c):
    first = client(port)
    first.create("/mine", ephemeral=True)
    # When the second one takes its session over the first must not come back, where nobody listens, and take it back.
    first.set_hosts("127.0.0.1:1")
    states = []
    identity = first.client_id
    second = client(port, client_id=identity)
    c.equal(second.client_id, identity, "the same session")
    second.set("/mine", b"still here")
    c.eventually(lambda: first.state == KazooState.SUSPENDED, "the first client is cut off")
    first.stop()
    watcher = client(port)
    gone = threading.Event()
    watcher.exists("/mine", watch=lambda event: gone.set())
    second.add_listener(states.append)
    second.stop()
    second.close()
    c.true(gone.wait(10), "closing takes ephemerals along")
    silent = KazooClient(hosts=f"127.0.0.1:{port}", timeout=1.5)
    silent.start(timeout=15)
    silent.create("/silent", ephemeral=True)
    expired = threading.Event()
    watcher.exists("/silent", watch=lambda event: expired.set())
    silent._connection._socket.close()  # Not another byte from it.
    silent._stopped.set()
    c.true(expired.wait(15), "a silent session expires")
    bad = client(port, client_id=(0x123456789, b"x" * 16))
    c.true(bad.client_id[0] != 0x123456789, "an unknown session gets a new one")
    for one in (first, watcher, bad):
        one.stop()
        one.close()
    c.equal(KazooState.LOST in states, True, "stopped client is lost")


def recipes(port, c):
    a, b = client(port), client(port)
    lock_a, lock_b = a.Lock("/r/lock", "a"), b.Lock("/r/lock", "b")
    c.true(lock_a.acquire(timeout=10), "lock")
    c.equal(lock_b.acquire(blocking=False), False, "held by another")
    c.equal(lock_b.contenders(), ["a"], "contenders")
    lock_a.release()
    c.true(lock_b.acquire(timeout=10), "lock passes on")
    lock_b.release()
    read1, read2, write = a.ReadLock("/r/rw", "1"), b.ReadLock("/r/rw", "2"), b.WriteLock("/r/rw", "3")
    c.true(read1.acquire(timeout=10) and read2.acquire(timeout=10), "two readers")
    c.equal(write.acquire(blocking=False), False, "no writer beside them")
    read1.release()
    read2.release()
    c.true(write.acquire(timeout=10), "a writer alone")
    write.release()
    semaphore = a.Semaphore("/r/sem", max_leases=1)
    c.true(semaphore.acquire(timeout=10), "semaphore")
    semaphore.release()
    led = threading.Event()
    threading.Thread(target=a.Election("/r/election", "a").run, args=(led.set,), daemon=True).start()
    c.true(led.wait(10), "election")
    barrier = a.Barrier("/r/barrier")
    barrier.create()
    passed = threading.Event()
    threading.Thread(target=lambda: (b.Barrier("/r/barrier").wait(10), passed.set()), daemon=True).start()
    barrier.remove()
    c.true(passed.wait(10), "barrier")
    double = [zk.DoubleBarrier("/r/double", 2) for zk in (a, b)]
    threads = [threading.Thread(target=d.enter, daemon=True) for d in double]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    c.true(all(d.participating for d in double), "double barrier")
    threads = [threading.Thread(target=d.leave, daemon=True) for d in double]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    c.equal([t.is_alive() for t in threads], [False, False], "both leave")
    counter = a.Counter("/r/counter")
    counter += 2
    counter -= 5
    c.equal(b.Counter("/r/counter").value, -3, "counter")
    queue = a.Queue("/r/queue")
    for n, priority in ((1, 100), (2, 50)):
        queue.put(b"%d" % n, priority)
    c.equal([b.Queue("/r/queue").get(), b.Queue("/r/queue").get()], [b"2", b"1"], "queue by priority")
    locking = a.LockingQueue("/r/lqueue")
    locking.put_all([b"x", b"y"])
    c.equal(locking.get(5), b"x", "locking queue")
    c.true(locking.consume(), "consumed")
    party = a.Party("/r/party", "a")
    party.join()
    c.equal(list(b.Party("/r/party")), ["a"], "party")
    party.leave()
    part = a.SetPartitioner("/r/part", set=range(4), time_boundary=0.2)
    c.eventually(lambda: part.wait_for_acquire(0.1) or part.acquired, "partitioner", 20)
    part.finish()
    for one in (a, b):
        one.stop()
        one.close()


def main(port):
    logging.disable(logging.CRITICAL)  # One client is cut off from its socket, and complains.
    c = Checks("kazoo")
    zk = client(port)
    operations(zk, c)
    transactions(zk, c)
    acls(port, zk, c)
    watches(port, zk, c)
    sessions(port, c)
    recipes(port, c)
    chrooted = KazooClient(hosts=f"127.0.0.1:{port}/deep")
    chrooted.start(timeout=15)
    c.true(chrooted.exists("/er/est"), "chroot")
    asynchronous = [zk.create_async(f"/async{n}") for n in range(300)]
    c.equal([r.get(10) for r in asynchronous], [f"/async{n}" for n in range(300)], "300 creates at once")
    for one in (zk, chrooted):
        one.stop()
        one.close()
    c.report()


if __name__ == "__main__":
    main(int(sys.argv[1]))
