/*
 * Makes operations of a process on the files below one folder fail as a disk fails.
 *
 * It is loaded with LD_PRELOAD. What fails is said in a page of memory that the controller shares with the process and changes while it
 * runs. What was made to fail is written to a log, and so is what the process then does with a handle whose flush has failed.
 *
 * A flush that fails also takes with it what was written since the last good one, as a system does that has marked the pages clean: whoever
 * counts on them finds them gone at the next start.
 *
 * Environment:
 *   DISKERRORS_ROOT  the folder, as an absolute path without links
 *   DISKERRORS_PLAN  the file of the page: a number that changes with each plan, eight bytes, then one line:
 *                    OPERATION CLASS ERROR SKIP TIMES MODE
 *                    operation: write flush read create rename, or room: so many bytes (SKIP) are said to be free;
 *                    class: as below, or any; error: a number of errno.h;
 *                    skip: so many of them pass first; times: so many fail then, -1 for all;
 *                    mode: plain, half (a write that fails has written half), full (from the first on whatever needs room fails),
 *                    quiet (nothing is said: the write or what the flush should keep is gone)
 *   DISKERRORS_LOG   the file of the log: nanoseconds of the monotonic clock, fired or again, operation, class, path
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define FDS 65536
#define PAGE 4096

enum class { NONE, FOLDER, JOURNAL, WATERMARK, TABLE, LIST, INSTANCE, ASIDE, OTHER };
static const char *const CLASSES[] = {"", "folder", "journal", "watermark", "table", "list", "instance", "aside", "other"};

/* What was there before a write that no flush has confirmed. */
struct undo {
    struct undo *next;
    dev_t device;
    ino_t inode;
    off_t size, at;
    size_t length;
    unsigned char old[];
};

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static volatile uint64_t *page = NULL;
static uint64_t generation = 0;
static struct { char op[16], class[16], mode[16]; int error; long skip, times; } plan;
static int full = 0;
static unsigned char class_of[FDS], broken[FDS];
static struct undo *undone = NULL;

#define REAL(name) ((__typeof__(&name))real_##name())
#define FIND(name)                                            \
    static void *real_##name(void) {                          \
        static void *found;                                   \
        if (!found) found = dlsym(RTLD_NEXT, #name);          \
        return found;                                         \
    }

static void give_up(const char *why) {
    dprintf(2, "disk-error shim: %s\n", why);
    _exit(99);
}

static void tell(const char *what, const char *op, enum class class, const char *path) {
    struct timespec now;
    char line[PATH_MAX + 128];
    clock_gettime(CLOCK_MONOTONIC, &now);
    int length = snprintf(line, sizeof line, "%lld%09ld %s %s %s %s\n", (long long)now.tv_sec, now.tv_nsec, what, op, CLASSES[class], path);
    if (syscall(SYS_write, log_fd, line, length) != length) give_up("the log does not take it");
}

static void tell_fd(const char *what, const char *op, int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    tell(what, op, class_of[fd], path + (strncmp(path, root, root_length) ? 0 : root_length));
}

/* The plan as it is now; the lock is held. */
static void look(void) {
    if (!page || page[0] == generation) return;
    generation = page[0];
    full = 0;
    memset(&plan, 0, sizeof plan);
    if (sscanf((const char *)(page + 1), "%15s %15s %d %ld %ld %15s", plan.op, plan.class, &plan.error, &plan.skip, &plan.times, plan.mode) != 6)
        plan.op[0] = 0;
}

/* Whether this one fails; the lock is held. */
static int due(const char *op, enum class class) {
    look();
    if (!plan.op[0] || strcmp(plan.op, op) || (strcmp(plan.class, "any") && strcmp(plan.class, CLASSES[class]))) return 0;
    if (plan.skip > 0) return plan.skip--, 0;
    if (!plan.times) return 0;
    if (plan.times > 0) plan.times--;
    if (!strcmp(plan.mode, "full")) full = 1;
    return 1;
}

/* Whether there is no room for what this one needs; the lock is held. A mark is written over itself and needs none. */
static int crowded(enum class class) {
    look();
    return full && class != WATERMARK;
}

static const char *below(int at, const char *path, char *whole) {
    if (log_fd < 0 || !path) return NULL;
    size_t length = 0;
    if (path[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        ssize_t found = readlink(link, whole, PATH_MAX - 1);
        if (found < 0) return NULL;
        whole[length = (size_t)found] = '/';
        length++;
    }
    if (length + strlen(path) >= PATH_MAX) return NULL;
    strcpy(whole + length, path);
    if (strncmp(whole, root, root_length) || (whole[root_length] != '/' && whole[root_length] != 0)) return NULL;
    return whole;
}

static enum class classify(const char *path, int fd) {
    struct stat about;
    const char *own = path + root_length, *name = strrchr(path, '/') + 1;
    size_t length = strlen(path);
    if (fd >= 0 && !fstat(fd, &about) && S_ISDIR(about.st_mode)) return FOLDER;
    if (strstr(own, "/aside")) return ASIDE;
    if (length > 4 && !strcmp(path + length - 4, ".jnl")) return JOURNAL;
    if (!strcmp(name, "watermark")) return WATERMARK;
    if (!strncmp(name, "instance", 8)) return INSTANCE;
    if (strstr(own, "/tables/")) return TABLE;
    if (strstr(own, "/keyspaces/")) return LIST;
    return OTHER;
}

static int tracked(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && class_of[fd]; }

/* Opening. */

static void forget(int fd, int lost);

static int opening(int at, const char *path, int flags, int *error) {
    char whole[PATH_MAX];
    struct stat about;
    if (!(flags & O_CREAT) || !below(at, path, whole) || !stat(whole, &about)) return 0;
    enum class class = classify(whole, -1);
    pthread_mutex_lock(&lock);
    int fails = due("create", class);
    *error = fails ? plan.error : ENOSPC;
    if (fails) tell("fired", "create", class, whole + root_length);
    fails |= crowded(class);
    pthread_mutex_unlock(&lock);
    return fails;
}

static int opened(int fd, int at, const char *path, int flags) {
    char whole[PATH_MAX];
    struct stat about;
    int kept = errno;
    if (log_fd >= 0 && fd >= 0 && fd < FDS) {
        pthread_mutex_lock(&lock);
        class_of[fd] = below(at, path, whole) ? classify(whole, fd) : NONE;
        broken[fd] = 0;
        /* What is known of a file with this number is of one that is gone. */
        if (class_of[fd] && (flags & (O_CREAT | O_TRUNC)) && !fstat(fd, &about) && about.st_size == 0) forget(fd, 0);
        pthread_mutex_unlock(&lock);
    }
    errno = kept;
    return fd;
}

#define OPENER(name, at, parameters, arguments)                               \
    FIND(name)                                                                \
    int name parameters {                                                     \
        mode_t mode = 0;                                                      \
        int error;                                                            \
        if (flags & (O_CREAT | O_TMPFILE)) {                                  \
            va_list rest;                                                     \
            va_start(rest, flags);                                            \
            mode = va_arg(rest, mode_t);                                      \
            va_end(rest);                                                     \
        }                                                                     \
        if (opening(at, path, flags, &error)) return errno = error, -1;       \
        return opened(REAL(name) arguments, at, path, flags);                        \
    }

OPENER(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(openat, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENER(openat64, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))

FIND(close)
int close(int fd) {
    if (tracked(fd)) class_of[fd] = NONE;
    return REAL(close)(fd);
}

#define CONTROL(name)                                                         \
    FIND(name)                                                                \
    int name(int fd, int what, ...) {                                         \
        va_list rest;                                                         \
        va_start(rest, what);                                                 \
        void *more = va_arg(rest, void *);                                    \
        va_end(rest);                                                         \
        int to = REAL(name)(fd, what, more);                                  \
        if ((what == F_DUPFD || what == F_DUPFD_CLOEXEC) && tracked(fd) && to >= 0 && to < FDS) {              \
            class_of[to] = class_of[fd];                                      \
            broken[to] = broken[fd];                                          \
        }                                                                     \
        return to;                                                            \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

/* What is not confirmed yet; the lock is held. */

static void remember(int fd, off_t at, size_t length) {
    struct stat about;
    char link[64];
    if (fstat(fd, &about) || !S_ISREG(about.st_mode)) return;
    struct undo *one = malloc(sizeof *one + length);
    if (!one) give_up("no memory");
    *one = (struct undo){undone, about.st_dev, about.st_ino, about.st_size, at, 0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int again = (int)syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
    ssize_t had = again < 0 ? 0 : syscall(SYS_pread64, again, one->old, length, at);
    if (again >= 0) syscall(SYS_close, again);
    one->length = had > 0 ? (size_t)had : 0;
    undone = one;
}

static void forget(int fd, int lost) {
    struct stat about;
    char link[64];
    if (fstat(fd, &about)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int again = lost && S_ISREG(about.st_mode) ? (int)syscall(SYS_openat, AT_FDCWD, link, O_WRONLY | O_CLOEXEC) : -1;
    for (struct undo **from = &undone, *one; (one = *from);) {
        if (one->device != about.st_dev || one->inode != about.st_ino) {
            from = &one->next;
            continue;
        }
        if (again >= 0) {
            if (one->length) syscall(SYS_pwrite64, again, one->old, one->length, one->at);
            syscall(SYS_ftruncate, again, one->size);
        }
        *from = one->next;
        free(one);
    }
    if (again >= 0) syscall(SYS_close, again);
}

/* Writing: ours is nothing here, so that the real one is made; else what it returns. */

static ssize_t writing(int fd, const struct iovec *parts, int count, off_t at, int *ours) {
    ssize_t length = 0, done = -1;
    for (int i = 0; i < count; i++) length += (ssize_t)parts[i].iov_len;
    off_t here = at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
    int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
    struct stat about;
    if (at < 0 && (flags & O_APPEND) && !fstat(fd, &about)) here = about.st_size;
    int fails = due("write", class_of[fd]), error = fails ? plan.error : ENOSPC;
    if (fails) tell_fd("fired", "write", fd);
    *ours = fails || crowded(class_of[fd]);
    if (!*ours) {
        remember(fd, here, (size_t)length);
        return 0;
    }
    if (fails && !strcmp(plan.mode, "quiet")) {
        if (at < 0) lseek(fd, length, SEEK_CUR);
        return length;
    }
    if (fails && !strcmp(plan.mode, "half") && length > 1 && count == 1) {
        /* The first half is taken; what is left fails as it comes. */
        remember(fd, here, (size_t)length);
        done = at >= 0 ? syscall(SYS_pwrite64, fd, parts->iov_base, length / 2, at) : syscall(SYS_write, fd, parts->iov_base, length / 2);
        strcpy(plan.mode, "plain");
        plan.times += plan.times >= 0;
        return done;
    }
    errno = error;
    return -1;
}

#define WRITER(name, parameters, arguments, parts, count, at)                 \
    FIND(name)                                                                \
    ssize_t name parameters {                                                 \
        if (!tracked(fd)) return REAL(name) arguments;                        \
        int ours;                                                             \
        pthread_mutex_lock(&lock);                                            \
        ssize_t done = writing(fd, parts, count, at, &ours);                  \
        if (!ours) done = REAL(name) arguments;                               \
        int kept = errno;                                                     \
        pthread_mutex_unlock(&lock);                                          \
        errno = kept;                                                         \
        return done;                                                          \
    }
#define ONE (&(struct iovec){(void *)data, length})

WRITER(write, (int fd, const void *data, size_t length), (fd, data, length), ONE, 1, -1)
WRITER(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), parts, count, -1)
WRITER(pwrite, (int fd, const void *data, size_t length, off_t at), (fd, data, length, at), ONE, 1, at)
WRITER(pwrite64, (int fd, const void *data, size_t length, off64_t at), (fd, data, length, at), ONE, 1, at)
WRITER(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), parts, count, at)
WRITER(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at), parts, count, at)

/* What is copied in the kernel has room as a write has. */
FIND(copy_file_range)
ssize_t copy_file_range(int from, off64_t *offset, int to, off64_t *at, size_t length, unsigned flags) {
    if (tracked(to)) return errno = EXDEV, -1; /* whoever copies then reads and writes */
    return REAL(copy_file_range)(from, offset, to, at, length, flags);
}
FIND(sendfile)
ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
    if (tracked(to)) return errno = EINVAL, -1;
    return REAL(sendfile)(to, from, offset, length);
}
FIND(sendfile64)
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    if (tracked(to)) return errno = EINVAL, -1;
    return REAL(sendfile64)(to, from, offset, length);
}

/* Reading. */

static int reading(int fd) {
    pthread_mutex_lock(&lock);
    int fails = due("read", class_of[fd]);
    if (fails) tell_fd("fired", "read", fd);
    int error = plan.error;
    pthread_mutex_unlock(&lock);
    errno = fails ? error : errno;
    return fails;
}

#define READER(name, parameters, arguments)                                   \
    FIND(name)                                                                \
    ssize_t name parameters {                                                 \
        if (tracked(fd) && reading(fd)) return -1;                            \
        return REAL(name) arguments;                                          \
    }
READER(read, (int fd, void *data, size_t length), (fd, data, length))
READER(readv, (int fd, const struct iovec *parts, int count), (fd, parts, count))
READER(pread, (int fd, void *data, size_t length, off_t at), (fd, data, length, at))
READER(pread64, (int fd, void *data, size_t length, off64_t at), (fd, data, length, at))

/* Flushes: under the lock, so that what is written meanwhile counts as written after it. */

static int flush(int fd, int (*real)(int)) {
    pthread_mutex_lock(&lock);
    int done = 0, kept = errno;
    if (broken[fd]) tell_fd("again", "flush", fd);
    if (due("flush", class_of[fd])) {
        tell_fd("fired", "flush", fd);
        forget(fd, 1);
        if (strcmp(plan.mode, "quiet")) {
            broken[fd] = 1;
            done = -1;
            kept = plan.error;
        }
    } else {
        done = real(fd);
        kept = errno;
        if (!done) forget(fd, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

FIND(fsync)
int fsync(int fd) { return tracked(fd) ? flush(fd, REAL(fsync)) : REAL(fsync)(fd); }
FIND(fdatasync)
int fdatasync(int fd) { return tracked(fd) ? flush(fd, REAL(fdatasync)) : REAL(fdatasync)(fd); }
FIND(sync_file_range)
static int range_fd_whole(int fd) { return REAL(sync_file_range)(fd, 0, 0, 0); }
int sync_file_range(int fd, off64_t at, off64_t length, unsigned flags) {
    return tracked(fd) ? flush(fd, range_fd_whole) : REAL(sync_file_range)(fd, at, length, flags);
}

/* Folders that are made. */
#define MAKER(name, at, parameters, arguments)                                \
    FIND(name)                                                                \
    int name parameters {                                                     \
        char whole[PATH_MAX];                                                 \
        if (below(at, path, whole)) {                                         \
            pthread_mutex_lock(&lock);                                        \
            int fails = crowded(OTHER);                                       \
            pthread_mutex_unlock(&lock);                                      \
            if (fails) return errno = ENOSPC, -1;                             \
        }                                                                     \
        return REAL(name) arguments;                                          \
    }
MAKER(mkdir, AT_FDCWD, (const char *path, mode_t mode), (path, mode))
MAKER(mkdirat, at, (int at, const char *path, mode_t mode), (at, path, mode))

/*
 * Renames and the question for free room are system calls that some libraries make without libc, so they are caught in the kernel: a filter
 * sends SIGSYS to the thread, and the handler makes the call, with a mark by which the filter lets it pass.
 */

#define PASS 0x44455252u

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define ARGUMENT(n) ((long)context->uc_mcontext.gregs[(const int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[n]])
#define RESULT context->uc_mcontext.gregs[REG_RAX]
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define ARGUMENT(n) ((long)context->uc_mcontext.regs[n])
#define RESULT context->uc_mcontext.regs[0]
#else
#error "the disk-error shim knows x86-64 and AArch64"
#endif

static long renamed(long from_at, const char *from, long to_at, const char *to, long flags) {
    char whole[PATH_MAX];
    if (below((int)to_at, to, whole)) {
        enum class class = classify(whole, -1);
        pthread_mutex_lock(&lock);
        int fails = due("rename", class), error = plan.error;
        if (fails) tell("fired", "rename", class, whole + root_length);
        pthread_mutex_unlock(&lock);
        if (fails) return -error;
    }
    long done = syscall(SYS_renameat2, from_at, from, to_at, to, flags, PASS);
    return done < 0 ? -errno : done;
}

static void caught(int signal_number, siginfo_t *about, void *where) {
    (void)signal_number;
    ucontext_t *context = where;
    int kept = errno;
    long done;
    switch (about->si_syscall) {
#ifdef SYS_rename
    case SYS_rename: done = renamed(AT_FDCWD, (const char *)ARGUMENT(0), AT_FDCWD, (const char *)ARGUMENT(1), 0); break;
#endif
    case SYS_renameat:
    case SYS_renameat2:
        done = renamed(ARGUMENT(0), (const char *)ARGUMENT(1), ARGUMENT(2), (const char *)ARGUMENT(3),
                       about->si_syscall == SYS_renameat2 ? ARGUMENT(4) : 0);
        break;
    default: {
        char whole[PATH_MAX];
        struct statfs *found = (struct statfs *)ARGUMENT(1);
        done = syscall(SYS_statfs, ARGUMENT(0), found, 0, 0, 0, PASS);
        done = done < 0 ? -errno : done;
        if (done == 0 && below(AT_FDCWD, (const char *)ARGUMENT(0), whole)) {
            pthread_mutex_lock(&lock);
            if (crowded(OTHER)) found->f_bavail = found->f_bfree = 0;
            if (!strcmp(plan.op, "room")) {
                found->f_bavail = found->f_bfree = (fsblkcnt_t)plan.skip / (fsblkcnt_t)found->f_bsize;
                if (plan.times) plan.times = 0, tell("fired", "room", FOLDER, "");
            }
            pthread_mutex_unlock(&lock);
        }
    }
    }
    RESULT = done;
    errno = kept;
}

static void catch_calls(void) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_rename
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rename, 4, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_statfs, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PASS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        give_up("renames cannot be caught: seccomp filters must be allowed");
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("DISKERRORS_ROOT"), *file = getenv("DISKERRORS_LOG"), *control = getenv("DISKERRORS_PLAN");
    if (!folder || !file || !control) return;
    root_length = strlen(folder);
    if (root_length + 1 >= sizeof root) give_up("the folder has too long a name");
    strcpy(root, folder);
    int shared = (int)syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    void *seen = shared < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ, MAP_SHARED, shared, 0);
    if (seen == MAP_FAILED) give_up("the plan cannot be opened");
    page = seen;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 700);
    if (log_fd < 0) give_up("the log cannot be opened");
    catch_calls();
}
