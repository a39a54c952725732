/* A disk that fails on demand, put between a server and the system by LD_PRELOAD.
 *
 * FAULTDISK names a file of rules, read again at every call, one rule a line:
 *
 *     <call> <part of the path> error <errno>    the call fails
 *     <call> <part of the path> wait <ms>        the call takes that much longer
 *     <call> <part of the path> eintr            every other call fails with EINTR
 *     <call> <part of the path> short            a write takes half of what it is given
 *
 * where <call> is open, write, sync (fsync and fdatasync), truncate or rename (the path is the new one). A part that
 * ends with $ is the end of the path.
 *
 * With FAULTDISK_LAZY=1 what is written stays in this process until the file is synced, and the names log.* and
 * snapshot.* are given only when their directory is synced: a SIGKILL then loses what a loss of power would. What the
 * process writes elsewhere (write, writev: its messages) and what it leaves behind when it ends by itself is kept.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum verdict { PASS, FAIL, SHORT };

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
}

static int fits(const char *path, char *part) {
    size_t len = strlen(part), whole = strlen(path);
    if (len == 0 || part[len - 1] != '$') return strstr(path, part) != NULL;
    return whole >= len - 1 && strncmp(path + whole - (len - 1), part, len - 1) == 0;
}

static enum verdict judge(const char *call, const char *path) {
    static atomic_uint calls;
    const char *rules = getenv("FAULTDISK");
    int fd = rules ? REAL(open64)(rules, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return PASS;
    char text[4096], *rest = text, *line;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n < 0 ? 0 : n] = 0;
    while ((line = strsep(&rest, "\n"))) {
        char of[32], part[256], action[32];
        int number = 0;
        if (sscanf(line, "%31s %255s %31s %d", of, part, action, &number) < 3) continue;
        if (strcmp(of, call) != 0 || !fits(path, part)) continue;
        if (!strcmp(action, "error")) { errno = number; return FAIL; }
        if (!strcmp(action, "eintr") && atomic_fetch_add(&calls, 1) % 2 == 0) { errno = EINTR; return FAIL; }
        if (!strcmp(action, "short")) return SHORT;
        if (!strcmp(action, "wait")) {
            struct timespec time = { number / 1000, (long)(number % 1000) * 1000000 };
            nanosleep(&time, NULL);
        }
    }
    return PASS;
}

static enum verdict judge_fd(const char *call, int fd) {
    char path[PATH_MAX];
    path_of(fd, path);
    return judge(call, path);
}

/* What is not synced yet, oldest first. */
struct pending {
    struct pending *next;
    dev_t dev;
    ino_t ino;
    int fd;              /* a duplicate; -1 for a name */
    off64_t at;
    size_t len;
    char from[PATH_MAX], to[PATH_MAX];
    char bytes[];
};
static struct pending *oldest, **newest = &oldest;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is_lazy(void) { return getenv("FAULTDISK_LAZY") != NULL; }

static struct pending *keep(size_t len) {
    struct pending *one = calloc(1, sizeof *one + len);
    if (!one) abort();
    one->len = len;
    one->fd = -1;
    *newest = one;
    newest = &one->next;
    return one;
}

static void discard(struct pending *one) {
    if (one->fd >= 0) close(one->fd);
    free(one);
}

static void carry_out(struct pending *one) {
    if (one->fd < 0) {
        REAL(rename)(one->from, one->to);
    } else {
        size_t done = 0;
        while (done < one->len) {
            ssize_t n = REAL(pwrite64)(one->fd, one->bytes + done, one->len - done, one->at + (off64_t)done);
            if (n <= 0) break;
            done += (size_t)n;
        }
    }
    discard(one);
}

/* Carries out, or forgets, what waits for one file or directory, or for everything. */
static void settle(const struct stat *of, int forget) {
    pthread_mutex_lock(&lock);
    for (struct pending **at = &oldest; *at;) {
        struct pending *one = *at;
        if (!of || (one->dev == of->st_dev && one->ino == of->st_ino)) {
            *at = one->next;
            if (forget) discard(one); else carry_out(one);
        } else {
            at = &one->next;
        }
    }
    for (newest = &oldest; *newest; newest = &(*newest)->next) {}
    pthread_mutex_unlock(&lock);
}

static void settle_fd(int fd, int forget) {
    struct stat of;
    if (is_lazy() && fstat(fd, &of) == 0) settle(&of, forget);
}

__attribute__((destructor)) static void at_the_end(void) { settle(NULL, 0); }

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    switch (judge_fd("write", fd)) {
    case FAIL: return -1;
    case SHORT: len = len > 1 ? len / 2 : len; break;
    case PASS: break;
    }
    struct stat of;
    if (!is_lazy() || fstat(fd, &of) != 0) return REAL(pwrite64)(fd, bytes, len, at);
    pthread_mutex_lock(&lock);
    struct pending *one = keep(len);
    one->dev = of.st_dev;
    one->ino = of.st_ino;
    one->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    one->at = at;
    memcpy(one->bytes, bytes, len);
    pthread_mutex_unlock(&lock);
    return (ssize_t)len;
}

ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) {
    settle_fd(fd, 0);
    return REAL(pread64)(fd, bytes, len, at);
}

/* Linux forgets what it could not write: a second sync succeeds, and what was written before is not there. */
static int synced(int fd) {
    int passes = judge_fd("sync", fd) != FAIL;
    int why = errno;
    settle_fd(fd, !passes && why != EINTR);
    errno = why;
    return passes;
}

int fdatasync(int fd) {
    return synced(fd) ? REAL(fdatasync)(fd) : -1;
}

int fsync(int fd) {
    return synced(fd) ? REAL(fsync)(fd) : -1;
}

int ftruncate64(int fd, off64_t len) {
    if (judge_fd("truncate", fd) == FAIL) return -1;
    settle_fd(fd, 0);
    return REAL(ftruncate64)(fd, len);
}

int rename(const char *from, const char *to) {
    if (judge("rename", to) == FAIL) return -1;
    const char *name = strrchr(to, '/');
    name = name ? name + 1 : to;
    struct stat of;
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%.*s", (int)(name - to), to);
    if (!is_lazy() || (strncmp(name, "log.", 4) && strncmp(name, "snapshot.", 9)) || stat(dir, &of) != 0)
        return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    struct pending *one = keep(0);
    one->dev = of.st_dev;
    one->ino = of.st_ino;
    snprintf(one->from, sizeof one->from, "%s", from);
    snprintf(one->to, sizeof one->to, "%s", to);
    pthread_mutex_unlock(&lock);
    return 0;
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & O_CREAT) ? (mode_t)va_arg(more, int) : 0;
    va_end(more);
    if (judge("open", path) == FAIL) return -1;
    return REAL(open64)(path, flags, mode);
}
