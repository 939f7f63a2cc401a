/* Records the changes of a process to the files below one folder, for tests/powercut/disk.py: LD_PRELOAD this library.
 *
 * POWERCUT_FOLDER: the folder (absolute, no symbolic links). POWERCUT_LOG: the recording, which grows by one entry per
 * call, in the order of the calls. An entry is a line "OPERATION OFFSET LENGTH PATH\n" and LENGTH bytes: the data,
 * or the new name. A process that maps a file for writing is not recorded: LMDB does not, without `writemap`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static int log_fd = -1;

static void lock_it(void) { pthread_mutex_lock(&lock); }
static void unlock_it(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("POWERCUT_LOG");
    folder = getenv("POWERCUT_FOLDER");
    if (!file || !folder) return;
    log_fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    /* Out of the way of programs that close or reuse low numbers. */
    int high = fcntl(log_fd, F_DUPFD_CLOEXEC, 900);
    if (high >= 0) { syscall(SYS_close, log_fd); log_fd = high; }
    pthread_atfork(lock_it, unlock_it, unlock_it);
}

static int is_below(const char *path) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int path_of(int fd, char *path) {
    char link[64];
    if (log_fd < 0 || fd < 0 || fd == log_fd) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return path[0] == '/' && is_below(path);
}

/* The absolute name of a file that may not exist; its folder must. */
static int named(int at, const char *name, char *path) {
    char base[PATH_MAX], joined[2 * PATH_MAX], real[PATH_MAX], *last;
    if (log_fd < 0 || !name) return 0;
    base[0] = 0;
    if (name[0] != '/') {
        if (at == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            ssize_t length = readlink(link, base, sizeof base - 1);
            if (length <= 0) return 0;
            base[length] = 0;
        }
        strcat(base, "/");
    }
    if (strlen(name) >= PATH_MAX) return 0;
    snprintf(joined, sizeof joined, "%s%s", base, name);
    while ((last = strrchr(joined, '/')) && last > joined && !last[1]) *last = 0;
    if (!last) return 0;
    *last = 0;
    if (!realpath(joined[0] ? joined : "/", real)) return 0;
    if (snprintf(path, PATH_MAX, "%s/%s", real, last + 1) >= PATH_MAX) return 0;
    return is_below(path);
}

static void note(const char *operation, const char *path, long long offset, const struct iovec *data, int count, size_t length) {
    char head[PATH_MAX + 80];
    struct iovec entry[count + 1];
    int kept = errno, used = 1;
    entry[0].iov_base = head;
    entry[0].iov_len = snprintf(head, sizeof head, "%s %lld %zu %s\n", operation, offset, length, path);
    for (size_t left = length; left && used <= count; used++) {
        entry[used] = data[used - 1];
        if (entry[used].iov_len > left) entry[used].iov_len = left;
        left -= entry[used].iov_len;
    }
    /* One call for an entry: those of several processes do not mix. */
    if (syscall(SYS_writev, log_fd, entry, used) < 0) abort();
    errno = kept;
}

static void note_text(const char *operation, const char *path, long long offset, const char *text) {
    struct iovec one = {(void *)text, strlen(text)};
    note(operation, path, offset, &one, 1, one.iov_len);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A write with O_DSYNC or O_SYNC is on the disk when it returns. */
static const char *kind(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && flags & O_DSYNC ? "synced_write" : "write";
}

static ssize_t written(int fd, const struct iovec *data, int count, off_t at, ssize_t (*call)(void *), void *arguments) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return call(arguments);
    pthread_mutex_lock(&lock);
    struct stat before;
    if (at < 0) {
        if (fcntl(fd, F_GETFL) & O_APPEND) at = fstat(fd, &before) ? 0 : before.st_size;
        else at = lseek(fd, 0, SEEK_CUR);
    }
    ssize_t result = call(arguments);
    if (result > 0) note(kind(fd), path, at, data, count, result);
    pthread_mutex_unlock(&lock);
    return result;
}

struct arguments { int fd; const struct iovec *data; int count; off_t at; };

static ssize_t do_writev(void *given) { struct arguments *a = given; return syscall(SYS_writev, a->fd, a->data, a->count); }
static ssize_t do_write(void *given) { struct arguments *a = given; return syscall(SYS_write, a->fd, a->data->iov_base, a->data->iov_len); }
static ssize_t do_pwrite(void *given) { struct arguments *a = given; return syscall(SYS_pwrite64, a->fd, a->data->iov_base, a->data->iov_len, a->at); }
static ssize_t do_pwritev(void *given) { struct arguments *a = given; return syscall(SYS_pwritev, a->fd, a->data, a->count, a->at, 0); }

ssize_t write(int fd, const void *data, size_t length) {
    struct iovec one = {(void *)data, length};
    struct arguments a = {fd, &one, 1, 0};
    return written(fd, &one, 1, -1, do_write, &a);
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    struct arguments a = {fd, data, count, 0};
    return written(fd, data, count, -1, do_writev, &a);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    struct iovec one = {(void *)data, length};
    struct arguments a = {fd, &one, 1, at};
    return written(fd, &one, 1, at, do_pwrite, &a);
}
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) { return pwrite(fd, data, length, at); }

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t at) {
    struct arguments a = {fd, data, count, at};
    return written(fd, data, count, at, do_pwritev, &a);
}
ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t at) { return pwritev(fd, data, count, at); }

static int after(int result, const char *operation, int fd, long long offset) {
    char path[PATH_MAX];
    if (!result && path_of(fd, path)) {
        pthread_mutex_lock(&lock);
        note(operation, path, offset, NULL, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fsync(int fd) { return after(REAL(fsync)(fd), "sync", fd, 0); }
int fdatasync(int fd) { return after(REAL(fdatasync)(fd), "sync", fd, 0); }
int ftruncate(int fd, off_t size) { return after(REAL(ftruncate)(fd, size), "truncate", fd, size); }
int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }
int posix_fallocate(int fd, off_t offset, off_t length) {
    return after(REAL(posix_fallocate)(fd, offset, length), "grow", fd, offset + length);
}
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }
int fallocate(int fd, int mode, off_t offset, off_t length) {
    int result = REAL(fallocate)(fd, mode, offset, length);
    return mode ? result : after(result, "grow", fd, offset + length);
}
int fallocate64(int fd, int mode, off64_t offset, off64_t length) { return fallocate(fd, mode, offset, length); }

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int below = (flags & (O_CREAT | O_TRUNC)) && named(at, name, path);
    if (!below) return syscall(SYS_openat, at, name, flags, mode);
    pthread_mutex_lock(&lock);
    int existed = !access(path, F_OK);
    int fd = syscall(SYS_openat, at, name, flags, mode);
    if (fd >= 0 && !existed) note("create", path, 0, NULL, 0, 0);
    else if (fd >= 0 && flags & O_TRUNC) note("truncate", path, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, mode)                                        \
    mode_t mode = 0;                                             \
    if (flags & (O_CREAT | O_TMPFILE)) {                         \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                            \
    }

int open(const char *name, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, name, flags | O_LARGEFILE, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags, mode) return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags, mode) return opened(at, name, flags | O_LARGEFILE, mode); }

int renameat(int from_at, const char *from, int to_at, const char *to) {
    char old[PATH_MAX], new[PATH_MAX];
    int below = named(from_at, from, old) && named(to_at, to, new);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_renameat2, from_at, from, to_at, to, 0);
    if (!result && below) note_text("rename", old, 0, new);
    pthread_mutex_unlock(&lock);
    return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    int below = named(at, name, path);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_unlinkat, at, name, flags);
    if (!result && below) note("remove", path, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }
int remove(const char *name) {
    int result = unlink(name);
    return result && errno == EISDIR ? rmdir(name) : result;
}

int mkdirat(int at, const char *name, mode_t mode) {
    char path[PATH_MAX];
    int below = named(at, name, path);
    pthread_mutex_lock(&lock);
    int result = syscall(SYS_mkdirat, at, name, mode);
    if (!result && below) note("mkdir", path, 0, NULL, 0, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
