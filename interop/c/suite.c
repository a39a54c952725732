/* What the C client does against a ZooKeeper. Prints how many checks passed; the first wrong one ends it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

static int passed;
static volatile int connected, events, async_done;
static volatile int last_type;

static void check(int fact, const char *what) {
    if (!fact) {
        fprintf(stderr, "c: %s\n", what);
        exit(1);
    }
    passed++;
}

static void watcher(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT) {
        if (state == ZOO_CONNECTED_STATE) connected = 1;
    } else {
        last_type = type;
        events++;
    }
}

static void wait_for(volatile int *value, int target, const char *what) {
    for (int i = 0; i < 1500 && *value < target; i++) usleep(10000);
    check(*value >= target, what);
}

static void created(int rc, const char *value, const void *data) {
    (void)value, (void)data;
    if (rc == ZOK) async_done++;
}

/* All but the last checks. The handle is left as it is: the process ends without closing the session. */
static clientid_t first_life(const char *servers) {
    zhandle_t *zh = zookeeper_init(servers, watcher, 10000, NULL, NULL, 0);
    wait_for(&connected, 1, "connect");
    char path[256], data[256];
    int len = sizeof data;
    struct Stat stat;
    check(zoo_create(zh, "/c", "one", 3, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path) == ZOK, "create");
    check(zoo_create(zh, "/c", "one", 3, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path) == ZNODEEXISTS, "create again");
    check(zoo_create2(zh, "/c/s", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, path, sizeof path, &stat) == ZOK, "create2");
    check(strcmp(path, "/c/s0000000000") == 0 && stat.version == 0, "sequence");
    check(zoo_wget(zh, "/c", watcher, NULL, data, &len, &stat) == ZOK && len == 3 && !memcmp(data, "one", 3), "get");
    check(stat.numChildren == 1 && stat.cversion == 1, "stat");
    check(zoo_set2(zh, "/c", "two", 3, 0, &stat) == ZOK && stat.version == 1, "set");
    wait_for(&events, 1, "data watch");
    check(last_type == ZOO_CHANGED_EVENT, "its type");
    check(zoo_set(zh, "/c", "x", 1, 0) == ZBADVERSION, "set an old version");
    check(zoo_exists(zh, "/nope", 0, &stat) == ZNONODE, "exists on nothing");
    struct String_vector names;
    check(zoo_wget_children2(zh, "/c", watcher, NULL, &names, &stat) == ZOK && names.count == 1, "children");
    deallocate_String_vector(&names);
    check(zoo_delete(zh, "/c", -1) == ZNOTEMPTY, "delete a parent");
    check(zoo_delete(zh, "/c/s0000000000", -1) == ZOK, "delete");
    wait_for(&events, 2, "child watch");
    check(last_type == ZOO_CHILD_EVENT, "its type");
    check(zoo_create(zh, "/c/e", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, path, sizeof path) == ZOK, "ephemeral");
    check(zoo_exists(zh, "/c/e", 0, &stat) == ZOK && stat.ephemeralOwner == zoo_client_id(zh)->client_id, "its owner");

    zoo_op_t ops[3];
    zoo_op_result_t results[3];
    zoo_create_op_init(&ops[0], "/c/m", "m", 1, &ZOO_OPEN_ACL_UNSAFE, 0, path, sizeof path);
    zoo_set_op_init(&ops[1], "/c/m", "n", 1, 0, &stat);
    zoo_delete_op_init(&ops[2], "/c/m", 1);
    check(zoo_multi(zh, 3, ops, results) == ZOK, "multi");
    zoo_check_op_init(&ops[1], "/c", 99);
    check(zoo_multi(zh, 3, ops, results) == ZBADVERSION, "a multi that fails");
    check(results[0].err == ZOK && results[1].err == ZBADVERSION && results[2].err == ZRUNTIMEINCONSISTENCY, "its results");
    check(zoo_exists(zh, "/c/m", 0, &stat) == ZNONODE, "nothing of it happened");

    for (int i = 0; i < 500; i++) {
        char name[32];
        snprintf(name, sizeof name, "/c/a%d", i);
        check(zoo_acreate(zh, name, "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, created, NULL) == ZOK, "asynchronous create");
    }
    wait_for(&async_done, 500, "500 creates at once");

    check(zoo_add_auth(zh, "digest", "u:p", 3, NULL, NULL) == ZOK, "add_auth");
    check(zoo_create(zh, "/c/acl", "", 0, &ZOO_CREATOR_ALL_ACL, 0, path, sizeof path) == ZOK, "a list of the creator");
    struct ACL_vector acl;
    check(zoo_get_acl(zh, "/c/acl", &acl, &stat) == ZOK && acl.count == 1, "get_acl");
    check(!strcmp(acl.data[0].id.id, "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ="), "its digest");
    deallocate_ACL_vector(&acl);

    return *zoo_client_id(zh);
}

int main(int argc, char **argv) {
    struct { clientid_t id; int passed; } first;
    int pipes[2], status;
    if (argc != 2 || pipe(pipes) != 0) return 2;
    /* A client of its own process dies without a word; another one takes its session up. */
    pid_t child = fork();
    if (child < 0) return 2;
    zoo_set_log_stream(fopen("/dev/null", "w"));
    if (child == 0) {
        first.id = first_life(argv[1]);
        first.passed = passed;
        _exit(write(pipes[1], &first, sizeof first) == sizeof first ? 0 : 1);
    }
    if (waitpid(child, &status, 0) != child || status != 0) return 1;
    check(read(pipes[0], &first, sizeof first) == sizeof first, "the first life's session");
    passed += first.passed;
    struct Stat stat;
    zhandle_t *again = zookeeper_init(argv[1], watcher, 10000, &first.id, NULL, 0);
    wait_for(&connected, 1, "take the session up again");
    check(zoo_client_id(again)->client_id == first.id.client_id, "the same session");
    check(zoo_exists(again, "/c/e", 0, &stat) == ZOK, "its ephemeral");
    check(zookeeper_close(again) == ZOK, "close");
    printf("c: %d checks passed\n", passed);
    return 0;
}
