/*
 * Records what a process does to the files below one folder: every change, every flush, in their order.
 *
 * It is loaded with LD_PRELOAD. A change (write, rename, unlink, ...) is made and recorded under one lock, so that the
 * record has the order of the disk's cache. A flush is recorded when it begins and when it has returned: what counts as
 * flushed is what was recorded before it began, and it counts from its end on. A change that was made and not recorded,
 * since the process was killed in between, counts as never made: nobody had been told of it.
 *
 * Environment:
 *   POWERCUT_ROOT     the folder, as an absolute path without links
 *   POWERCUT_LOG      the file of the record, outside the folder; it is appended to
 *   POWERCUT_KILL     "operation/class:number", up to eight of them with commas between: when the last of them has been counted to its
 *                     number, each from when the one before it was, the process kills itself right after that record; * is any class;
 *                     "said/TEXT:number" is a write of this text to the standard error
 *   POWERCUT_PORT     answers that leave on connections to this port are recorded too, before they leave
 *   POWERCUT_SWALLOW  a fault for tests of the tests: flushes that are not recorded: all, directory, watermark, journal
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
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
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define FDS 65536
#define ANSWER 200

enum op { OPEN = 1, CLOSE, WRITE, SIZE, RENAME, UNLINK, RMDIR, MKDIR, LINK, BEGIN, END, DUP, MODE, SENT, STRANGE, START };
static const char *const NAMES[] = {"", "open", "close", "write", "size", "rename", "unlink", "rmdir", "mkdir", "link",
                                    "flush", "flushed", "dup", "mode", "sent", "strange", "start"};

/* What a file is, by its name. */
enum class { NONE, DIRECTORY, JOURNAL, WATERMARK, TABLE, LIST, ASIDE, SECRET, OTHER };
static const char *const CLASSES[] = {"", "directory", "journal", "watermark", "table", "list", "aside", "secret", "other"};

struct record {
    uint32_t magic, length;
    uint64_t number, nanoseconds;
    uint32_t thread;
    uint16_t op, class;
    int64_t a, b;
    uint32_t first, second;
} __attribute__((packed));

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1, port = 0;
static uint64_t number = 0;
static unsigned char class_of[FDS];
static unsigned char answers[FDS];
static struct { char op[32], class[64]; long left; } stages[8];
static int stage = 0, last_stage = 0;
static const char *swallow = NULL;

#define REAL(name) ((__typeof__(&name))real_##name())
#define FIND(name)                                            \
    static void *real_##name(void) {                          \
        static void *found;                                   \
        if (!found) found = dlsym(RTLD_NEXT, #name);          \
        return found;                                         \
    }

static void give_up(const char *why) {
    dprintf(2, "powercut shim: %s\n", why);
    _exit(99);
}

/* One more of what is waited for; the lock is held. */
static void reached(void) {
    if (--stages[stage].left <= 0 && ++stage == last_stage) {
        syscall(SYS_kill, getpid(), SIGKILL);
        for (;;) pause();
    }
}

/* The process has said something. */
static void said(const struct iovec *parts, int count) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < count; i++)
        if (stage < last_stage && !strcmp(stages[stage].op, "said") &&
            memmem(parts[i].iov_base, parts[i].iov_len, stages[stage].class, strlen(stages[stage].class)))
            reached();
    pthread_mutex_unlock(&lock);
}

/* Writes one record; the lock is held. */
static void record(enum op op, enum class class, int64_t a, int64_t b, const struct iovec *first, int parts, const char *second) {
    size_t length = 0, more = second ? strlen(second) : 0;
    for (int i = 0; i < parts; i++) length += first[i].iov_len;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct record head = {.magic = 0x54554350,
                          .length = (uint32_t)(sizeof head + length + more),
                          .number = ++number,
                          .nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
                          .thread = (uint32_t)syscall(SYS_gettid),
                          .op = op,
                          .class = class,
                          .a = a,
                          .b = b,
                          .first = (uint32_t)length,
                          .second = (uint32_t)more};
    struct iovec all[IOV_MAX];
    int count = 0;
    if (parts + 2 > IOV_MAX) give_up("a write of too many parts");
    all[count++] = (struct iovec){&head, sizeof head};
    for (int i = 0; i < parts; i++) all[count++] = first[i];
    if (more) all[count++] = (struct iovec){(void *)second, more};
    if (syscall(SYS_writev, log_fd, all, count) != (long)head.length) give_up("the record does not take it");
    if (stage < last_stage && !strcmp(stages[stage].op, NAMES[op]) &&
        (!strcmp(stages[stage].class, "*") || !strcmp(stages[stage].class, CLASSES[class])))
        reached();
}

static void note(enum op op, enum class class, int64_t a, int64_t b, const char *first, const char *second) {
    struct iovec part = {(void *)first, first ? strlen(first) : 0};
    record(op, class, a, b, &part, first ? 1 : 0, second);
}

static void catch_renames(void);

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("POWERCUT_ROOT"), *file = getenv("POWERCUT_LOG"), *at = getenv("POWERCUT_KILL");
    if (!folder || !file) return;
    root_length = strlen(folder);
    if (root_length + 1 >= sizeof root) give_up("the folder has too long a name");
    strcpy(root, folder);
    int opened = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = (int)syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, 700);
    if (log_fd < 0) give_up("the record cannot be opened");
    syscall(SYS_close, opened);
    for (; at && last_stage < 8; last_stage++, at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        char *text = stages[last_stage].class, *colon;
        if (sscanf(at, "%31[^/]/%63[^,]", stages[last_stage].op, text) != 2 || !(colon = strrchr(text, ':')))
            give_up("POWERCUT_KILL does not read");
        stages[last_stage].left = atol(colon + 1);
        *colon = 0;
    }
    if (getenv("POWERCUT_PORT")) port = atoi(getenv("POWERCUT_PORT"));
    swallow = getenv("POWERCUT_SWALLOW");
    catch_renames();
    pthread_mutex_lock(&lock);
    note(START, NONE, getpid(), 0, root, NULL);
    pthread_mutex_unlock(&lock);
}

/* The absolute path of a name that is below the folder, or NULL. */
static const char *below(int at, const char *path, char *whole) {
    if (log_fd < 0 || !path) return NULL;
    if (path[0] != '/') {
        char link[64];
        ssize_t length;
        if (at == AT_FDCWD) {
            if (!getcwd(whole, PATH_MAX)) return NULL;
            length = (ssize_t)strlen(whole);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            length = readlink(link, whole, PATH_MAX - 1);
            if (length < 0) return NULL;
            whole[length] = 0;
        }
        if ((size_t)length + strlen(path) + 2 > PATH_MAX) return NULL;
        whole[length] = '/';
        strcpy(whole + length + 1, path);
    } else {
        if (strlen(path) >= PATH_MAX) return NULL;
        strcpy(whole, path);
    }
    if (strncmp(whole, root, root_length) || (whole[root_length] != '/' && whole[root_length] != 0)) return NULL;
    return whole;
}

static enum class classify(const char *path, int fd) {
    struct stat about;
    const char *own = path + root_length, *name = strrchr(path, '/');
    size_t length = strlen(path);
    name = name ? name + 1 : path;
    if (fd >= 0 && !fstat(fd, &about) && S_ISDIR(about.st_mode)) return DIRECTORY;
    if (strstr(own, "/aside")) return ASIDE;
    if (strstr(own, "/secrets/")) return SECRET;
    if (length > 4 && !strcmp(path + length - 4, ".jnl")) return JOURNAL;
    if (!strcmp(name, "watermark")) return WATERMARK;
    if (strstr(own, "/tables/")) return TABLE;
    if (strstr(own, "/keyspaces/")) return LIST;
    return OTHER;
}

static int tracked(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && class_of[fd]; }

/* Opening. */

static int opened(int fd, int at, const char *path, int flags) {
    /* Called with the lock held; the descriptor is open. */
    char whole[PATH_MAX];
    int kept = errno;
    if (fd >= 0 && fd < FDS) {
        class_of[fd] = NONE;
        answers[fd] = 0;
    }
    if (fd >= 0 && below(at, path, whole)) {
        if (fd >= FDS) give_up("too many descriptors");
        struct stat about;
        class_of[fd] = classify(whole, fd);
        if (fstat(fd, &about)) give_up("an open file cannot be looked at");
        if ((flags & O_TMPFILE) == O_TMPFILE) note(STRANGE, NONE, fd, 0, "O_TMPFILE", whole);
        record(OPEN, class_of[fd], fd, ((int64_t)about.st_mode << 32) | (uint32_t)flags, &(struct iovec){whole, strlen(whole)}, 1, NULL);
    }
    errno = kept;
    return fd;
}

#define MODE_OF(flags)                                                        \
    mode_t mode = 0;                                                          \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                    \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        mode = va_arg(rest, mode_t);                                          \
        va_end(rest);                                                         \
    }

#define OPENER(name, at, parameters, arguments)                               \
    FIND(name)                                                                \
    int name parameters {                                                     \
        MODE_OF(flags)                                                        \
        if (log_fd < 0) return REAL(name) arguments;                          \
        pthread_mutex_lock(&lock);                                            \
        int fd = opened(REAL(name) arguments, at, path, flags);               \
        pthread_mutex_unlock(&lock);                                          \
        return fd;                                                            \
    }

OPENER(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENER(openat, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENER(openat64, at, (int at, const char *path, int flags, ...), (at, path, flags, mode))

int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static void closing(int fd) {
    if (fd < 0 || fd >= FDS) return;
    answers[fd] = 0;
    if (class_of[fd]) {
        record(CLOSE, class_of[fd], fd, 0, NULL, 0, NULL);
        class_of[fd] = NONE;
    }
}

FIND(close)
int close(int fd) {
    if (!tracked(fd) && !(fd >= 0 && fd < FDS && answers[fd])) return REAL(close)(fd);
    pthread_mutex_lock(&lock);
    closing(fd);
    int done = REAL(close)(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

FIND(closedir)
int closedir(DIR *folder) {
    if (log_fd < 0 || !tracked(dirfd(folder))) return REAL(closedir)(folder);
    pthread_mutex_lock(&lock);
    closing(dirfd(folder));
    int done = REAL(closedir)(folder);
    pthread_mutex_unlock(&lock);
    return done;
}

FIND(fclose)
int fclose(FILE *file) {
    if (log_fd < 0 || !tracked(fileno(file))) return REAL(fclose)(file);
    pthread_mutex_lock(&lock);
    note(STRANGE, NONE, fileno(file), 0, "a stream of stdio", NULL);
    closing(fileno(file));
    int done = REAL(fclose)(file);
    pthread_mutex_unlock(&lock);
    return done;
}

static int duplicated(int from, int to) {
    if (to >= 0 && to < FDS) {
        class_of[to] = class_of[from];
        answers[to] = answers[from];
        if (class_of[to]) record(DUP, class_of[to], from, to, NULL, 0, NULL);
    }
    return to;
}

FIND(dup)
int dup(int from) {
    if (!tracked(from)) return REAL(dup)(from);
    pthread_mutex_lock(&lock);
    int to = duplicated(from, REAL(dup)(from));
    pthread_mutex_unlock(&lock);
    return to;
}

FIND(dup2)
int dup2(int from, int to) {
    if (!tracked(from) && !tracked(to)) return REAL(dup2)(from, to);
    pthread_mutex_lock(&lock);
    if (from != to) closing(to);
    int done = duplicated(from, REAL(dup2)(from, to));
    pthread_mutex_unlock(&lock);
    return done;
}

FIND(dup3)
int dup3(int from, int to, int flags) {
    if (!tracked(from) && !tracked(to)) return REAL(dup3)(from, to, flags);
    pthread_mutex_lock(&lock);
    closing(to);
    int done = duplicated(from, REAL(dup3)(from, to, flags));
    pthread_mutex_unlock(&lock);
    return done;
}

#define CONTROL(name)                                                                      \
    FIND(name)                                                                             \
    int name(int fd, int what, ...) {                                                      \
        va_list rest;                                                                      \
        va_start(rest, what);                                                              \
        void *more = va_arg(rest, void *);                                                 \
        va_end(rest);                                                                      \
        if ((what != F_DUPFD && what != F_DUPFD_CLOEXEC) || !tracked(fd)) return REAL(name)(fd, what, more); \
        pthread_mutex_lock(&lock);                                                         \
        int to = duplicated(fd, REAL(name)(fd, what, more));                               \
        pthread_mutex_unlock(&lock);                                                       \
        return to;                                                                         \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

/* Writing. */

static void written(int fd, int64_t offset, const struct iovec *parts, int count, size_t length) {
    struct iovec kept[IOV_MAX];
    int number_of = 0;
    for (int i = 0; i < count && length > 0; i++) {
        size_t part = parts[i].iov_len < length ? parts[i].iov_len : length;
        kept[number_of++] = (struct iovec){parts[i].iov_base, part};
        length -= part;
    }
    record(WRITE, class_of[fd], fd, offset, kept, number_of, NULL);
}

static void leaving(int fd, const struct iovec *parts, int count) {
    pthread_mutex_lock(&lock);
    record(SENT, NONE, fd, 0, parts, count, NULL);
    pthread_mutex_unlock(&lock);
}

static int answering(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && answers[fd]; }

#define WRITER(name, parameters, arguments, parts, count, at)                              \
    FIND(name)                                                                             \
    ssize_t name parameters {                                                              \
        if (answering(fd)) leaving(fd, parts, count);                                      \
        if (!tracked(fd)) {                                                                \
            ssize_t spoken = REAL(name) arguments;                                         \
            if (fd == 2 && spoken > 0 && stage < last_stage) said(parts, count);           \
            return spoken;                                                                 \
        }                                                                                  \
        pthread_mutex_lock(&lock);                                                         \
        ssize_t done = REAL(name) arguments;                                               \
        int kept = errno;                                                                  \
        if (done > 0) written(fd, at, parts, count, (size_t)done);                         \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
#define ONE (&(struct iovec){(void *)data, length})
#define HERE (lseek(fd, 0, SEEK_CUR) - done)

WRITER(write, (int fd, const void *data, size_t length), (fd, data, length), ONE, 1, HERE)
WRITER(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), parts, count, HERE)
WRITER(pwrite, (int fd, const void *data, size_t length, off_t at), (fd, data, length, at), ONE, 1, at)
WRITER(pwrite64, (int fd, const void *data, size_t length, off64_t at), (fd, data, length, at), ONE, 1, at)
WRITER(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), parts, count, at)
WRITER(pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at), parts, count, at)
WRITER(send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags), ONE, 1, 0)
WRITER(sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), message->msg_iov, (int)message->msg_iovlen, 0)
WRITER(sendto, (int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size),
       (fd, data, length, flags, to, size), ONE, 1, 0)

/* What is copied from file to file in the kernel is read from where it came from. */
static void copied(int to, int64_t at, int from, int64_t offset, size_t length) {
    char *data = malloc(length);
    if (!data) give_up("no memory");
    size_t have = 0;
    while (have < length) {
        ssize_t more = pread(from, data + have, length - have, offset + (int64_t)have);
        if (more <= 0) give_up("what was copied cannot be read again");
        have += (size_t)more;
    }
    record(WRITE, class_of[to], to, at, &(struct iovec){data, length}, 1, NULL);
    free(data);
}

FIND(copy_file_range)
ssize_t copy_file_range(int from, off64_t *offset, int to, off64_t *at, size_t length, unsigned flags) {
    if (!tracked(to)) return REAL(copy_file_range)(from, offset, to, at, length, flags);
    pthread_mutex_lock(&lock);
    ssize_t done = REAL(copy_file_range)(from, offset, to, at, length, flags);
    int kept = errno;
    if (done > 0) copied(to, (at ? *at : lseek(to, 0, SEEK_CUR)) - done, from, (offset ? *offset : lseek(from, 0, SEEK_CUR)) - done, (size_t)done);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

#define SENDFILE(name, offset_type)                                                        \
    FIND(name)                                                                             \
    ssize_t name(int to, int from, offset_type *offset, size_t length) {                   \
        if (!tracked(to)) return REAL(name)(to, from, offset, length);                     \
        pthread_mutex_lock(&lock);                                                         \
        ssize_t done = REAL(name)(to, from, offset, length);                               \
        int kept = errno;                                                                  \
        if (done > 0) copied(to, lseek(to, 0, SEEK_CUR) - done, from, (offset ? *offset : lseek(from, 0, SEEK_CUR)) - done, (size_t)done); \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

FIND(splice)
ssize_t splice(int from, off64_t *offset, int to, off64_t *at, size_t length, unsigned flags) {
    if (tracked(to)) {
        pthread_mutex_lock(&lock);
        note(STRANGE, class_of[to], to, 0, "splice", NULL);
        pthread_mutex_unlock(&lock);
    }
    return REAL(splice)(from, offset, to, at, length, flags);
}

#define MAPPER(name, offset_type)                                                          \
    FIND(name)                                                                             \
    void *name(void *at, size_t length, int protection, int flags, int fd, offset_type offset) { \
        if (tracked(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {            \
            pthread_mutex_lock(&lock);                                                     \
            note(STRANGE, class_of[fd], fd, 0, "a writable mapping", NULL);                \
            pthread_mutex_unlock(&lock);                                                   \
        }                                                                                  \
        return REAL(name)(at, length, protection, flags, fd, offset);                      \
    }
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)

/* A change of size, under the lock. */
#define SIZER(name, parameters, arguments, returns_error)                                  \
    FIND(name)                                                                             \
    int name parameters {                                                                  \
        if (!tracked(fd)) return REAL(name) arguments;                                     \
        pthread_mutex_lock(&lock);                                                         \
        int done = REAL(name) arguments;                                                   \
        int kept = errno;                                                                  \
        struct stat about;                                                                 \
        if (done == 0 && !fstat(fd, &about)) record(SIZE, class_of[fd], fd, about.st_size, NULL, 0, NULL); \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
SIZER(ftruncate, (int fd, off_t size), (fd, size), 0)
SIZER(ftruncate64, (int fd, off64_t size), (fd, size), 0)
SIZER(posix_fallocate, (int fd, off_t offset, off_t length), (fd, offset, length), 1)
SIZER(posix_fallocate64, (int fd, off64_t offset, off64_t length), (fd, offset, length), 1)

#define ALLOCATOR(name, offset_type)                                                       \
    FIND(name)                                                                             \
    int name(int fd, int how, offset_type offset, offset_type length) {                    \
        if (!tracked(fd)) return REAL(name)(fd, how, offset, length);                      \
        pthread_mutex_lock(&lock);                                                         \
        int done = REAL(name)(fd, how, offset, length);                                    \
        int kept = errno;                                                                  \
        struct stat about;                                                                 \
        if (how) note(STRANGE, class_of[fd], fd, how, "fallocate", NULL);                  \
        if (done == 0 && !fstat(fd, &about)) record(SIZE, class_of[fd], fd, about.st_size, NULL, 0, NULL); \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
ALLOCATOR(fallocate, off_t)
ALLOCATOR(fallocate64, off64_t)

#define TRUNCATER(name, offset_type)                                                       \
    FIND(name)                                                                             \
    int name(const char *path, offset_type size) {                                         \
        char whole[PATH_MAX];                                                              \
        if (below(AT_FDCWD, path, whole)) {                                                \
            pthread_mutex_lock(&lock);                                                     \
            note(STRANGE, NONE, 0, size, "truncate", whole);                               \
            pthread_mutex_unlock(&lock);                                                   \
        }                                                                                  \
        return REAL(name)(path, size);                                                     \
    }
TRUNCATER(truncate, off_t)
TRUNCATER(truncate64, off64_t)

FIND(fchmod)
int fchmod(int fd, mode_t mode) {
    if (!tracked(fd)) return REAL(fchmod)(fd, mode);
    pthread_mutex_lock(&lock);
    int done = REAL(fchmod)(fd, mode);
    if (done == 0) record(MODE, class_of[fd], fd, mode, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

FIND(chmod)
int chmod(const char *path, mode_t mode) {
    char whole[PATH_MAX];
    if (!below(AT_FDCWD, path, whole)) return REAL(chmod)(path, mode);
    pthread_mutex_lock(&lock);
    int done = REAL(chmod)(path, mode);
    if (done == 0) note(MODE, NONE, -1, mode, whole, NULL);
    pthread_mutex_unlock(&lock);
    return done;
}

/* Names. */

#define NAMER(name, parameters, arguments, op, at, path, mode)                             \
    FIND(name)                                                                             \
    int name parameters {                                                                  \
        char whole[PATH_MAX];                                                              \
        if (!below(at, path, whole)) return REAL(name) arguments;                          \
        pthread_mutex_lock(&lock);                                                         \
        int done = REAL(name) arguments;                                                   \
        int kept = errno;                                                                  \
        if (done == 0) note(op, classify(whole, -1), 0, mode, whole, NULL);                \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
NAMER(unlink, (const char *path), (path), UNLINK, AT_FDCWD, path, 0)
NAMER(rmdir, (const char *path), (path), RMDIR, AT_FDCWD, path, 0)
NAMER(unlinkat, (int at, const char *path, int flags), (at, path, flags), (flags & AT_REMOVEDIR) ? RMDIR : UNLINK, at, path, 0)
NAMER(mkdir, (const char *path, mode_t mode), (path, mode), MKDIR, AT_FDCWD, path, mode)
NAMER(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), MKDIR, at, path, mode)
NAMER(remove, (const char *path), (path), STRANGE, AT_FDCWD, path, 0)
NAMER(symlink, (const char *to, const char *path), (to, path), STRANGE, AT_FDCWD, path, 0)
NAMER(symlinkat, (const char *to, int at, const char *path), (to, at, path), STRANGE, at, path, 0)

#define PAIRER(name, parameters, arguments, op, from_at, to_at, flags)                     \
    FIND(name)                                                                             \
    int name parameters {                                                                  \
        char one[PATH_MAX], two[PATH_MAX];                                                 \
        const char *inside = below(from_at, from, one), *target = below(to_at, to, two);   \
        if (!inside && !target) return REAL(name) arguments;                               \
        pthread_mutex_lock(&lock);                                                         \
        int done = REAL(name) arguments;                                                   \
        int kept = errno;                                                                  \
        if (done == 0) note(inside && target ? op : STRANGE, target ? classify(two, -1) : OTHER, 0, flags, inside ? one : from, target ? two : to); \
        pthread_mutex_unlock(&lock);                                                       \
        errno = kept;                                                                      \
        return done;                                                                       \
    }
PAIRER(link, (const char *from, const char *to), (from, to), LINK, AT_FDCWD, AT_FDCWD, 0)
PAIRER(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags), LINK, a, b, flags)

/*
 * Renames are system calls that some libraries make without libc, so they are caught in the kernel: a filter sends SIGSYS to the thread, and
 * the handler makes the call, with a mark by which the filter lets it pass.
 */

#define PASS 0x50435554u

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define ARGUMENT(n) ((long)context->uc_mcontext.gregs[(const int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[n]])
#define RESULT context->uc_mcontext.gregs[REG_RAX]
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define ARGUMENT(n) ((long)context->uc_mcontext.regs[n])
#define RESULT context->uc_mcontext.regs[0]
#else
#error "the power-cut shim knows x86-64 and AArch64"
#endif

static void renamed(int signal_number, siginfo_t *about, void *where) {
    (void)signal_number;
    ucontext_t *context = where;
    char one[PATH_MAX], two[PATH_MAX];
    int kept = errno, from_at = AT_FDCWD, to_at = AT_FDCWD;
    unsigned flags = 0;
    const char *from, *to;
#ifdef SYS_rename
    if (about->si_syscall == SYS_rename) {
        from = (const char *)ARGUMENT(0);
        to = (const char *)ARGUMENT(1);
    } else
#endif
    {
        from_at = (int)ARGUMENT(0);
        from = (const char *)ARGUMENT(1);
        to_at = (int)ARGUMENT(2);
        to = (const char *)ARGUMENT(3);
        flags = about->si_syscall == SYS_renameat2 ? (unsigned)ARGUMENT(4) : 0;
    }
    const char *inside = below(from_at, from, one), *target = below(to_at, to, two);
    pthread_mutex_lock(&lock);
    long done = syscall(SYS_renameat2, from_at, from, to_at, to, flags, PASS);
    RESULT = done == 0 ? 0 : -errno;
    if (done == 0 && (inside || target))
        note(inside && target && !(flags & RENAME_EXCHANGE) ? RENAME : STRANGE, target ? classify(two, -1) : OTHER, 0, flags,
             inside ? one : from, target ? two : to);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

static void catch_renames(void) {
    struct sigaction action = {.sa_sigaction = renamed, .sa_flags = SA_SIGINFO | SA_NODEFER};
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_rename
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rename, 3, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 1, 0),
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

/* Flushes. */

static int swallowed(int fd) {
    if (!swallow) return 0;
    return !strcmp(swallow, "all") || !strcmp(swallow, CLASSES[class_of[fd]]);
}

static int flush(int fd, int (*real)(int)) {
    pthread_mutex_lock(&lock);
    enum class class = class_of[fd];
    int hidden = swallowed(fd);
    if (!hidden) record(BEGIN, class, fd, 0, NULL, 0, NULL);
    uint64_t began = number;
    pthread_mutex_unlock(&lock);
    int done = real(fd), kept = errno;
    pthread_mutex_lock(&lock);
    if (!hidden && done == 0) record(END, class, fd, (int64_t)began, NULL, 0, NULL);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

FIND(fsync)
int fsync(int fd) { return tracked(fd) ? flush(fd, REAL(fsync)) : REAL(fsync)(fd); }
FIND(fdatasync)
int fdatasync(int fd) { return tracked(fd) ? flush(fd, REAL(fdatasync)) : REAL(fdatasync)(fd); }

/* sync_file_range promises nothing about a power cut; sync and syncfs are not counted, which errs on the safe side. */

/* Connections. */

static int accepted(int fd) {
    if (fd < 0 || fd >= FDS || !port) return fd;
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    answers[fd] = 0;
    class_of[fd] = NONE;
    if (getsockname(fd, (struct sockaddr *)&own, &size)) return fd;
    int at = own.ss_family == AF_INET ? ntohs(((struct sockaddr_in *)&own)->sin_port)
             : own.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&own)->sin6_port) : 0;
    answers[fd] = at == port;
    return fd;
}

FIND(accept)
int accept(int fd, struct sockaddr *from, socklen_t *size) { return accepted(REAL(accept)(fd, from, size)); }
FIND(accept4)
int accept4(int fd, struct sockaddr *from, socklen_t *size, int flags) { return accepted(REAL(accept4)(fd, from, size, flags)); }
