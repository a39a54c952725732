import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.api.transaction.CuratorOp;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.curator.retry.RetryNTimes;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/** What Java's own client and Curator do against a ZooKeeper. */
public final class Suite {
    private static int passed;

    private static void check(boolean fact, String what) {
        if (!fact) {
            throw new AssertionError("java: " + what);
        }
        passed++;
    }

    private static void eventually(BooleanSupplier fact, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(15);
        while (!fact.getAsBoolean()) {
            if (System.nanoTime() > deadline) {
                throw new AssertionError("java: " + what + ": not within 15 s");
            }
            Thread.sleep(20);
        }
        passed++;
    }

    interface Call {
        void run() throws Exception;
    }

    private static void fails(KeeperException.Code code, String what, Call call) throws Exception {
        try {
            call.run();
        } catch (KeeperException e) {
            check(e.code() == code, what + ": " + e.code());
            return;
        }
        throw new AssertionError("java: " + what + " should have failed");
    }

    private static ZooKeeper open(String at) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        ZooKeeper zk = new ZooKeeper(at, 10_000, e -> {
            if (e.getState() == Watcher.Event.KeeperState.SyncConnected) {
                connected.countDown();
            }
        });
        check(connected.await(15, TimeUnit.SECONDS), "connect");
        return zk;
    }

    private static void client(String at) throws Exception {
        ZooKeeper zk = open(at);
        Stat stat = new Stat();
        check(zk.create("/j", "1".getBytes(), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT, stat).equals("/j"), "create2");
        check(stat.getCzxid() == stat.getMzxid() && stat.getVersion() == 0, "its stat");
        fails(KeeperException.Code.NODEEXISTS, "create again",
            () -> zk.create("/j", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        check(zk.create("/j/c", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER).equals("/j/c"), "container");
        check(zk.create("/j/t", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, null, 4000).equals("/j/t"), "ttl");
        check(zk.create("/j/c/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL).equals("/j/c/x0000000000"),
            "ephemeral sequential");
        check(zk.getEphemerals("/j").equals(List.of("/j/c/x0000000000")), "getEphemerals");
        check(zk.getAllChildrenNumber("/j") == 3, "getAllChildrenNumber");
        check(zk.whoAmI().stream().anyMatch(i -> i.getAuthScheme().equals("ip")), "whoAmI");
        zk.delete("/j/c/x0000000000", -1);
        eventually(() -> exists(zk, "/j/c") == null, "an empty container goes");
        eventually(() -> exists(zk, "/j/t") == null, "a TTL znode goes");
        List<OpResult> multi = zk.multi(List.of(Op.check("/j", 0), Op.setData("/j", "2".getBytes(), 0),
            Op.create("/j/m", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT), Op.delete("/j/m", -1)));
        check(multi.size() == 4 && multi.get(2) instanceof OpResult.CreateResult, "multi");
        fails(KeeperException.Code.BADVERSION, "a multi that fails",
            () -> zk.multi(List.of(Op.setData("/j", null, -1), Op.check("/j", 77))));
        List<OpResult> reads = zk.multi(List.of(Op.getData("/j"), Op.getChildren("/"), Op.getData("/nope")));
        check(reads.get(0) instanceof OpResult.GetDataResult && reads.get(2) instanceof OpResult.ErrorResult, "multiRead");

        ConcurrentLinkedQueue<WatchedEvent> events = new ConcurrentLinkedQueue<>();
        Watcher watcher = events::add;
        zk.addWatch("/j", watcher, AddWatchMode.PERSISTENT_RECURSIVE);
        zk.create("/j/w", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        zk.setData("/j/w", "x".getBytes(), -1);
        zk.delete("/j/w", -1);
        eventually(() -> events.size() == 3, "three events of a recursive watch");
        check(events.peek().getZxid() > 0, "events carry their zxid");
        zk.removeWatches("/j", watcher, Watcher.WatcherType.PersistentRecursive, false);
        eventually(() -> events.size() == 4, "removal is told");
        fails(KeeperException.Code.NOWATCHER, "removing it again",
            () -> zk.removeWatches("/j", watcher, Watcher.WatcherType.Any, false));
        check(new String(zk.getConfig(false, null)).isEmpty(), "an empty configuration");
        zk.addAuthInfo("digest", "a:b".getBytes());
        zk.create("/j/acl", null, Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
        check(zk.getACL("/j/acl", null).get(0).getId().getScheme().equals("digest"), "auth becomes digest");
        ZooKeeper other = open(at);
        fails(KeeperException.Code.NOAUTH, "no rights", () -> other.getData("/j/acl", false, null));
        // The first handle goes where nobody listens: it must not come back and take its session from the second.
        zk.updateServerList("127.0.0.1:1");
        ZooKeeper again = new ZooKeeper(at, 10_000, e -> { }, zk.getSessionId(), zk.getSessionPasswd());
        check(again.exists("/j", false) != null && again.getSessionId() == zk.getSessionId(), "session taken up");
        again.close();
        other.close();
    }

    private static Stat exists(ZooKeeper zk, String path) {
        try {
            return zk.exists(path, false);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    private static void change(CuratorFramework c, String path) {
        try {
            c.setData().forPath(path);
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    private static CuratorFramework curator(String at) throws Exception {
        CuratorFramework c = CuratorFrameworkFactory.newClient(at, 10_000, 10_000, new RetryNTimes(3, 200));
        c.start();
        check(c.blockUntilConnected(15, TimeUnit.SECONDS), "curator connects");
        return c;
    }

    private static void recipes(String at) throws Exception {
        CuratorFramework a = curator(at);
        CuratorFramework b = curator(at);
        InterProcessMutex ma = new InterProcessMutex(a, "/cur/mutex");
        InterProcessMutex mb = new InterProcessMutex(b, "/cur/mutex");
        check(ma.acquire(5, TimeUnit.SECONDS) && !mb.acquire(200, TimeUnit.MILLISECONDS), "mutex");
        ma.release();
        check(mb.acquire(5, TimeUnit.SECONDS), "mutex passes on");
        mb.release();
        InterProcessReadWriteLock rw = new InterProcessReadWriteLock(a, "/cur/rw");
        InterProcessReadWriteLock rwb = new InterProcessReadWriteLock(b, "/cur/rw");
        check(rw.readLock().acquire(5, TimeUnit.SECONDS) && rwb.readLock().acquire(5, TimeUnit.SECONDS), "two readers");
        check(!rwb.writeLock().acquire(200, TimeUnit.MILLISECONDS), "no writer beside");
        rw.readLock().release();
        rwb.readLock().release();
        check(rwb.writeLock().acquire(5, TimeUnit.SECONDS), "a writer alone");
        rwb.writeLock().release();
        InterProcessSemaphoreV2 sem = new InterProcessSemaphoreV2(a, "/cur/sem", 1);
        check(sem.acquire(5, TimeUnit.SECONDS) != null, "semaphore");

        LeaderLatch la = new LeaderLatch(a, "/cur/latch", "a");
        LeaderLatch lb = new LeaderLatch(b, "/cur/latch", "b");
        la.start();
        check(la.await(10, TimeUnit.SECONDS), "leader latch");
        lb.start();
        la.close();
        check(lb.await(10, TimeUnit.SECONDS), "leadership passes on");
        lb.close();

        CuratorCache cache = CuratorCache.build(a, "/cur/cache");
        ConcurrentLinkedQueue<String> seen = new ConcurrentLinkedQueue<>();
        cache.listenable().addListener(CuratorCacheListener.builder().forAll((t, old, now) ->
            seen.add(t + " " + (now == null ? old : now).getPath())).forInitialized(() -> seen.add("ready")).build());
        cache.start();
        eventually(() -> seen.contains("ready"), "CuratorCache starts");
        b.create().creatingParentsIfNeeded().forPath("/cur/cache/x/y", "1".getBytes());
        eventually(() -> seen.contains("NODE_CREATED /cur/cache/x/y"), "CuratorCache sees a znode come");
        b.setData().forPath("/cur/cache/x/y", "2".getBytes());
        eventually(() -> seen.contains("NODE_CHANGED /cur/cache/x/y"), "CuratorCache sees it change");
        b.delete().forPath("/cur/cache/x/y");
        eventually(() -> seen.contains("NODE_DELETED /cur/cache/x/y"), "CuratorCache sees it go");
        cache.close();

        PersistentWatcher pw = new PersistentWatcher(a, "/cur/pw", true);
        ConcurrentLinkedQueue<WatchedEvent> events = new ConcurrentLinkedQueue<>();
        pw.getListenable().addListener(events::add);
        pw.start();
        b.create().creatingParentsIfNeeded().forPath("/cur/pw/deep");
        // The watch is set in the background; from some change on it tells.
        eventually(() -> {
            change(b, "/cur/pw/deep");
            return events.stream().anyMatch(e -> "/cur/pw/deep".equals(e.getPath()));
        }, "PersistentWatcher");
        pw.close();

        DistributedBarrier barrier = new DistributedBarrier(a, "/cur/barrier");
        barrier.setBarrier();
        Thread waiter = new Thread(() -> {
            try {
                new DistributedBarrier(b, "/cur/barrier").waitOnBarrier(10, TimeUnit.SECONDS);
            } catch (Exception e) {
                throw new IllegalStateException(e);
            }
        });
        waiter.start();
        barrier.removeBarrier();
        waiter.join(10_000);
        check(!waiter.isAlive(), "barrier");
        List<Thread> members = new ArrayList<>();
        for (CuratorFramework one : List.of(a, b)) {
            Thread t = new Thread(() -> {
                try {
                    DistributedDoubleBarrier d = new DistributedDoubleBarrier(one, "/cur/double", 2);
                    d.enter(10, TimeUnit.SECONDS);
                    d.leave(10, TimeUnit.SECONDS);
                } catch (Exception e) {
                    throw new IllegalStateException(e);
                }
            });
            t.start();
            members.add(t);
        }
        for (Thread t : members) {
            t.join(15_000);
            check(!t.isAlive(), "double barrier");
        }
        DistributedAtomicLong counter = new DistributedAtomicLong(a, "/cur/counter", new RetryNTimes(5, 50));
        check(counter.add(5L).succeeded() && counter.increment().postValue() == 6L, "counter");
        SharedCount shared = new SharedCount(a, "/cur/shared", 3);
        shared.start();
        check(shared.trySetCount(shared.getVersionedValue(), 4), "shared count");
        shared.close();
        SimpleDistributedQueue queue = new SimpleDistributedQueue(a, "/cur/queue");
        queue.offer("1".getBytes());
        queue.offer("2".getBytes());
        check(new String(new SimpleDistributedQueue(b, "/cur/queue").take()).equals("1"), "queue");
        GroupMember ga = new GroupMember(a, "/cur/group", "a");
        GroupMember gb = new GroupMember(b, "/cur/group", "b");
        ga.start();
        gb.start();
        eventually(() -> ga.getCurrentMembers().size() == 2, "group members");
        gb.close();
        eventually(() -> ga.getCurrentMembers().size() == 1, "a member leaves");
        ga.close();
        PersistentTtlNode ttl = new PersistentTtlNode(a, "/cur/ttl", 5000, new byte[0]);
        ttl.start();
        check(ttl.waitForInitialCreate(10, TimeUnit.SECONDS), "persistent TTL node");
        ttl.close();
        CuratorOp one = a.transactionOp().create().forPath("/cur/tx", "x".getBytes());
        CuratorOp two = a.transactionOp().setData().forPath("/cur/tx", "y".getBytes());
        check(a.transaction().forOperations(one, two).size() == 2, "transaction");
        a.delete().deletingChildrenIfNeeded().forPath("/cur");
        check(a.checkExists().forPath("/cur") == null, "deleting with children");
        a.close();
        b.close();
    }

    public static void main(String[] args) throws Exception {
        client(args[0]);
        recipes(args[0]);
        System.out.println("java and curator: " + passed + " checks passed");
        System.exit(0);
    }
}
