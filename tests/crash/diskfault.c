/* LD_PRELOAD: a disk that fails when it is told to, for the files of one folder.
 *
 * DISKFAULT_FOLDER: absolute path. DISKFAULT_SWITCH: a path; while one of these files exists, calls
 * on files below the folder fail:
 *   SWITCH.sync    fsync and fdatasync: EIO, nothing was synced
 *   SWITCH.dsync   writes of O_DSYNC: EIO, though the bytes were written: a sync that came late
 *   SWITCH.write   every write: EIO, nothing was written
 *   SWITCH.full    every write: ENOSPC, nothing was written
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

static int is_on(const char *kind) {
    char path[PATH_MAX];
    const char *base = getenv("DISKFAULT_SWITCH");
    int kept = errno;
    if (!base) return 0;
    snprintf(path, sizeof path, "%s.%s", base, kind);
    int found = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    errno = kept;
    return found;
}

static int is_ours(int fd) {
    char link[64], path[PATH_MAX];
    const char *folder = getenv("DISKFAULT_FOLDER");
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = kept;
    return folder && size > 0 && !strncmp(path, folder, strlen(folder));
}

static int fails(int fd, const char *kind) {
    if (!is_on(kind) || !is_ours(fd)) return 0;
    errno = EIO;
    return 1;
}

static ssize_t after(int fd, ssize_t done) {
    if (done < 0 || !is_on("dsync") || !(fcntl(fd, F_GETFL) & O_DSYNC) || !is_ours(fd)) return done;
    errno = EIO;
    return -1;
}

int fsync(int fd) { return fails(fd, "sync") ? -1 : NEXT(int (*)(int), "fsync")(fd); }
int fdatasync(int fd) { return fails(fd, "sync") ? -1 : NEXT(int (*)(int), "fdatasync")(fd); }

static int refused(int fd) {
    if (fails(fd, "write")) return 1;
    if (!is_on("full") || !is_ours(fd)) return 0;
    errno = ENOSPC;
    return 1;
}

#define WRITE(call) (refused(fd) ? -1 : after(fd, call))
ssize_t write(int fd, const void *data, size_t size) {
    return WRITE(syscall(SYS_write, fd, data, size));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return WRITE(syscall(SYS_writev, fd, parts, count));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return WRITE(syscall(SYS_pwrite64, fd, data, size, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    return WRITE(syscall(SYS_pwrite64, fd, data, size, at));
}
typedef ssize_t (*pwritev_t)(int, const struct iovec *, int, off_t);
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    return WRITE(NEXT(pwritev_t, "pwritev")(fd, parts, count, at));
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    return WRITE(NEXT(pwritev_t, "pwritev64")(fd, parts, count, at));
}
