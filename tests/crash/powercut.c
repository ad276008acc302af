/* LD_PRELOAD recorder for power cuts: what a process does to the files of one folder, in order.
 *
 * POWERCUT_FOLDER: absolute path; only names below it are recorded. POWERCUT_TRACE: file to write.
 * tests/crash/powercut.py builds it, reads the trace and makes the disks that a cut could leave.
 *
 * A record is {u32 kind, u32 file, u64 offset, u32 size} and `size` bytes:
 *   N  a name is opened: file = number of its inode here, offset = 1 when it was created; the name
 *   W  bytes written     B, S  a sync begins and has returned (S: offset = number of its B)
 *   D  the last write at this offset, through O_DSYNC, has returned: it is durable
 *   T  truncated to offset     R  renamed, "old\0new"     U  unlinked     K  folder made
 *   E  the sync that began with B has failed (POWERCUT_FAIL: numbers of those that are to): what it
 *      should have written may be on the disk or not, and no later sync writes it
 *   F  a folder was synced     A  bytes on standard output: receipts     M  mapped for writing
 * Writes of O_DSYNC are recorded before they are made, others after: what may be on the disk at the
 * moment of the cut is what the trace holds so far. Errors are not recorded: nothing was promised.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FDS = 4096, INODES = 4096 };

static struct { uint32_t file; int is_dsync, is_folder; char *name; } fds[FDS];
static struct { dev_t dev; ino_t ino; } inodes[INODES];
static uint32_t inode_count;
static uint64_t sync_count;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static char folder[PATH_MAX];
static size_t folder_size;

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("POWERCUT_TRACE"), *root = getenv("POWERCUT_FOLDER");
    if (!path || !root || !realpath(root, folder)) return;
    folder_size = strlen(folder);
    int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    trace = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
}

static void emit(char kind, uint32_t file, uint64_t offset, const struct iovec *parts, int count) {
    struct { uint32_t kind, file; uint64_t offset; uint32_t size; } __attribute__((packed)) head;
    head.kind = (unsigned char)kind, head.file = file, head.offset = offset, head.size = 0;
    struct iovec all[1 + 1024];
    if (count > 1024) abort();
    for (int i = 0; i < count; i++) head.size += (uint32_t)parts[i].iov_len, all[1 + i] = parts[i];
    all[0] = (struct iovec){&head, sizeof head};
    ssize_t want = (ssize_t)(sizeof head + head.size);
    pthread_mutex_lock(&gate);
    if (syscall(SYS_writev, trace, all, 1 + count) != want) abort();
    pthread_mutex_unlock(&gate);
}

static void emit_text(char kind, uint32_t file, uint64_t offset, const char *text, size_t size) {
    struct iovec part = {(void *)text, size};
    emit(kind, file, offset, &part, 1);
}

/* The name below the folder, NULL for one that is elsewhere. */
static const char *inside(int at, const char *path, char *full) {
    if (trace < 0 || !path) return NULL;
    if (path[0] == '/') snprintf(full, PATH_MAX, "%s", path);
    else {
        char base[PATH_MAX], link[64];
        if (at == AT_FDCWD) { if (!getcwd(base, sizeof base)) return NULL; }
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return NULL;
            base[n] = 0;
        }
        if (snprintf(full, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return NULL;
    }
    if (strncmp(full, folder, folder_size)) return NULL;
    if (full[folder_size] != '/' && full[folder_size]) return NULL;
    return full[folder_size] ? full + folder_size + 1 : full + folder_size;
}

static uint32_t inode_of(const struct stat *status, int is_new) {
    pthread_mutex_lock(&gate);
    uint32_t found = 0;
    /* A number may be used again after an unlink: the newest one counts. */
    for (uint32_t i = inode_count; i > 0 && !is_new && !found; i--)
        if (inodes[i - 1].dev == status->st_dev && inodes[i - 1].ino == status->st_ino) found = i;
    if (!found) {
        if (inode_count == INODES) abort();
        inodes[inode_count].dev = status->st_dev, inodes[inode_count].ino = status->st_ino;
        found = ++inode_count;
    }
    pthread_mutex_unlock(&gate);
    return found;
}

static int opened(int fd, const char *name, int flags, int existed) {
    int kept = errno;
    struct stat status;
    if (fd < 0 || fd >= FDS || !name || fstat(fd, &status)) { errno = kept; return fd; }
    free(fds[fd].name);
    fds[fd].name = strdup(name);
    fds[fd].is_folder = S_ISDIR(status.st_mode);
    fds[fd].is_dsync = (flags & (O_DSYNC | O_SYNC)) != 0;
    fds[fd].file = 0;
    if (S_ISREG(status.st_mode)) {
        fds[fd].file = inode_of(&status, !existed);
        emit_text('N', fds[fd].file, !existed, name, strlen(name));
        if (existed && flags & O_TRUNC) emit('T', fds[fd].file, 0, NULL, 0);
    }
    errno = kept;
    return fd;
}

static int exists(const char *full) { return syscall(SYS_faccessat, AT_FDCWD, full, F_OK) == 0; }

typedef int (*openat_t)(int, const char *, int, ...);
static int open_any(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const char *name = inside(at, path, full);
    int existed = name ? exists(full) : 1;
    return opened(NEXT(openat_t, "openat")(at, path, flags, mode), name, flags, existed);
}
#define WITH_MODE(at) { \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags), mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    return open_any(at, path, flags, mode); }
int open(const char *path, int flags, ...) WITH_MODE(AT_FDCWD)
int open64(const char *path, int flags, ...) WITH_MODE(AT_FDCWD)
int openat(int at, const char *path, int flags, ...) WITH_MODE(at)
int openat64(int at, const char *path, int flags, ...) WITH_MODE(at)
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int creat(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int close(int fd) {
    if (fd >= 0 && fd < FDS && fds[fd].name) {
        free(fds[fd].name);
        memset(&fds[fd], 0, sizeof fds[fd]);
    }
    return NEXT(int (*)(int), "close")(fd);
}

#define FILE_OF(fd) ((fd) >= 0 && (fd) < FDS ? fds[fd].file : 0)

static void written(int fd, ssize_t n, const struct iovec *parts, int count, uint64_t offset) {
    struct iovec some[1024];
    int used = 0;
    for (size_t left = n > 0 ? (size_t)n : 0; left && used < count; used++) {
        some[used] = parts[used];
        if (some[used].iov_len > left) some[used].iov_len = left;
        left -= some[used].iov_len;
    }
    if (used) emit('W', fds[fd].file, offset, some, used);
}

/* Two threads may write to one file: the trace has their writes in the order they were made in. */
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define WRITE(fd, parts, count, at, call) \
    int is_locked = FILE_OF(fd) != 0; \
    if (is_locked) pthread_mutex_lock(&order); \
    int kept_dsync = FILE_OF(fd) && fds[fd].is_dsync; \
    uint64_t offset = FILE_OF(fd) ? (uint64_t)(at) : 0; \
    if (kept_dsync) emit('W', fds[fd].file, offset, parts, count); \
    ssize_t n = call; \
    if (FILE_OF(fd)) { int kept = errno; \
        if (!kept_dsync) written(fd, n, parts, count, offset); \
        else if (n >= 0) emit('D', fds[fd].file, offset, NULL, 0); \
        errno = kept; } \
    if (is_locked) pthread_mutex_unlock(&order); \
    return n;

static uint64_t position(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return (uint64_t)lseek(fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
}

ssize_t write(int fd, const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    if (fd == STDOUT_FILENO && trace >= 0) emit('A', 0, 0, &part, 1);
    WRITE(fd, &part, 1, position(fd), syscall(SYS_write, fd, data, size))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    WRITE(fd, parts, count, position(fd), syscall(SYS_writev, fd, parts, count))
}
#define PWRITE(function) ssize_t function(int fd, const void *data, size_t size, off_t at) { \
    struct iovec part = {(void *)data, size}; \
    WRITE(fd, &part, 1, at, syscall(SYS_pwrite64, fd, data, size, at)) }
PWRITE(pwrite)
PWRITE(pwrite64)
typedef ssize_t (*pwritev_t)(int, const struct iovec *, int, off_t);
#define PWRITEV(function, text) \
ssize_t function(int fd, const struct iovec *parts, int count, off_t at) { \
    WRITE(fd, parts, count, at, NEXT(pwritev_t, text)(fd, parts, count, at)) }
PWRITEV(pwritev, "pwritev")
PWRITEV(pwritev64, "pwritev64")

typedef ssize_t (*pwritev2_t)(int, const struct iovec *, int, off_t, int);
#define PWRITEV2(function, text) \
ssize_t function(int fd, const struct iovec *parts, int count, off_t at, int how) { \
    WRITE(fd, parts, count, at, NEXT(pwritev2_t, text)(fd, parts, count, at, how)) }
PWRITEV2(pwritev2, "pwritev2")
PWRITEV2(pwritev64v2, "pwritev64v2")

/* Whether the sync of this number is to fail. */
static int is_to_fail(uint64_t number) {
    for (const char *at = getenv("POWERCUT_FAIL"); at && *at;) {
        char *end;
        if (strtoull(at, &end, 10) == number) return 1;
        if (end == at) return 0;
        at = end;
    }
    return 0;
}

static int synced(int fd, const char *call) {
    if (fd < 0 || fd >= FDS || !fds[fd].name) return NEXT(int (*)(int), call)(fd);
    pthread_mutex_lock(&gate);
    uint64_t number = ++sync_count;
    pthread_mutex_unlock(&gate);
    if (!fds[fd].is_folder) emit('B', fds[fd].file, number, NULL, 0);
    if (!fds[fd].is_folder && is_to_fail(number)) {
        emit('E', fds[fd].file, number, NULL, 0);
        errno = EIO;
        return -1;
    }
    int done = NEXT(int (*)(int), call)(fd), kept = errno;
    if (!done && fds[fd].is_folder) emit_text('F', 0, 0, fds[fd].name, strlen(fds[fd].name));
    if (!done && !fds[fd].is_folder) emit('S', fds[fd].file, number, NULL, 0);
    errno = kept;
    return done;
}
int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

#define TRUNCATE(function) int function(int fd, off_t size) { \
    int done = (int)syscall(SYS_ftruncate, fd, size), kept = errno; \
    if (!done && FILE_OF(fd)) emit('T', fds[fd].file, (uint64_t)size, NULL, 0); \
    errno = kept; return done; }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Room made ahead reads as zeros, as a file that was made longer does. */
static void grown(int fd, int done, uint64_t before, uint64_t size) {
    if (!done && FILE_OF(fd) && size > before) emit('T', fds[fd].file, size, NULL, 0);
}
static uint64_t size_of(int fd) {
    struct stat status;
    return FILE_OF(fd) && !fstat(fd, &status) ? (uint64_t)status.st_size : 0;
}
#define ALLOCATE(function) int function(int fd, off_t at, off_t size) { \
    uint64_t before = size_of(fd); \
    int done = NEXT(int (*)(int, off_t, off_t), "posix_fallocate")(fd, at, size); \
    grown(fd, done, before, (uint64_t)(at + size)); return done; }
ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

int rename(const char *from, const char *to) {
    char full_from[PATH_MAX], full_to[PATH_MAX], text[2 * PATH_MAX];
    const char *a = inside(AT_FDCWD, from, full_from), *b = inside(AT_FDCWD, to, full_to);
    int done = NEXT(int (*)(const char *, const char *), "rename")(from, to), kept = errno;
    if (!done && a && b) {
        size_t size = strlen(a) + 1 + strlen(b);
        memcpy(text, a, strlen(a) + 1), memcpy(text + strlen(a) + 1, b, strlen(b));
        emit_text('R', 0, 0, text, size);
    }
    errno = kept;
    return done;
}
int unlink(const char *path) {
    char full[PATH_MAX];
    const char *name = inside(AT_FDCWD, path, full);
    int done = NEXT(int (*)(const char *), "unlink")(path), kept = errno;
    if (!done && name) emit_text('U', 0, 0, name, strlen(name));
    errno = kept;
    return done;
}
int mkdir(const char *path, mode_t mode) {
    char full[PATH_MAX];
    const char *name = inside(AT_FDCWD, path, full);
    int done = NEXT(int (*)(const char *, mode_t), "mkdir")(path, mode), kept = errno;
    if (!done && name) emit_text('K', 0, 0, name, strlen(name));
    errno = kept;
    return done;
}

typedef void *(*mmap_t)(void *, size_t, int, int, int, off_t);
#define MMAP(function, text) \
void *function(void *at, size_t size, int prot, int flags, int fd, off_t offset) { \
    void *place = NEXT(mmap_t, text)(at, size, prot, flags, fd, offset); \
    if (place != MAP_FAILED && prot & PROT_WRITE && flags & MAP_SHARED && FILE_OF(fd)) \
        emit_text('M', fds[fd].file, 0, fds[fd].name, strlen(fds[fd].name)); \
    return place; }
MMAP(mmap, "mmap")
MMAP(mmap64, "mmap64")
