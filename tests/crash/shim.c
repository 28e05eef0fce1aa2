/* Harms one file operation of a process, for tests of what is left behind.

   Loaded before libc (LD_PRELOAD). The operations below one folder are counted; at a given number
   the process is killed before or after it, loses what it has not synced, or gets an error for it:
   instead of the operation, after it (a lost reply), or after half of a write. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_BEFORE, KILL_AFTER, LOSE_UNSYNCED, FAIL_ONCE, FAIL_ALWAYS, LOST_REPLY, SHORT_WRITE };
enum { GO_ON, FAIL, DIE_AFTER, ANSWER_AFTER, HALF };

#define FDS 65536
#define UNSYNCED 4096
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static pid_t armed; /* the process that is harmed; 0: none */
static int mode, code, journal = -1;
static long at, count, fired;
static char *open_path[FDS];         /* by descriptor, of files opened for writing below the root */
static char *unsynced[UNSYNCED];     /* paths with content that a power cut would lose */

void harm_arm(int how, long number, int error, const char *folder, int log_to) {
  mode = how, at = number, code = error, journal = log_to, count = fired = 0;
  snprintf(root, sizeof root, "%s", folder);
  root_length = strlen(root);
  armed = getpid();
}
void harm_disarm(void) { armed = 0; }
long harm_fired(void) { return fired; }
long harm_count(void) { return count; }

static int active(void) { return armed && armed == getpid(); }

static int inside(int folder, const char *path, char *full) {
  char base[PATH_MAX] = "", link[64];
  if (!path) return 0;
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (!getcwd(base, sizeof base)) return 0;
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t length = readlink(link, base, sizeof base - 1);
      if (length < 0) return 0;
      base[length] = 0;
    }
    strncat(base, "/", sizeof base - strlen(base) - 1);
  }
  snprintf(full, PATH_MAX, "%s%s", base, path);
  return !strncmp(full, root, root_length) && (full[root_length] == '/' || !full[root_length]);
}

static void set_unsynced(const char *path, int is) {
  int free_place = -1;
  for (int i = 0; i < UNSYNCED; i++) {
    if (!unsynced[i]) {
      if (free_place < 0) free_place = i;
    } else if (!strcmp(unsynced[i], path)) {
      if (!is) free(unsynced[i]), unsynced[i] = NULL;
      return;
    }
  }
  if (is && free_place >= 0) unsynced[free_place] = strdup(path);
}

static void moved(const char *from, const char *to) {
  set_unsynced(to, 0);
  for (int i = 0; i < UNSYNCED; i++)
    if (unsynced[i] && !strcmp(unsynced[i], from)) free(unsynced[i]), unsynced[i] = strdup(to);
}

static void die(void) {
  if (mode == LOSE_UNSYNCED)
    for (int i = 0; i < UNSYNCED; i++)
      if (unsynced[i]) syscall(SYS_truncate, unsynced[i], 0L);
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

/* The error that a repeated request gets if the reply to the first one was lost; 0: none. */
static int answer_to_a_repeated(const char *name) {
  if (!strcmp(name, "rename") || !strcmp(name, "remove")) return ENOENT;
  if (!strcmp(name, "link") || !strcmp(name, "make folder") || !strcmp(name, "create")) return EEXIST;
  return 0;
}

/* Counts an operation and says what becomes of it; `errors`: it can fail, `halves`: it can be cut. */
static int visit(const char *name, const char *path, int errors, int halves) {
  int answer = GO_ON;
  pthread_mutex_lock(&lock);
  long number = ++count;
  int here = number == at, failing = mode == FAIL_ALWAYS && at && number >= at && errors;
  if (journal >= 0 && (mode == COUNT || here)) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s\t%s\n", name, path + root_length);
    syscall(SYS_write, journal, line, length);
  }
  if (mode == FAIL_ALWAYS ? failing : here) {
    fired = number;
    if (mode == KILL_BEFORE || mode == LOSE_UNSYNCED) die();
    if (mode == KILL_AFTER) answer = DIE_AFTER;
    if (mode == FAIL_ONCE || mode == FAIL_ALWAYS) answer = errors ? FAIL : GO_ON;
    if (mode == LOST_REPLY && (code = answer_to_a_repeated(name))) answer = ANSWER_AFTER;
    if (mode == SHORT_WRITE) answer = halves ? HALF : GO_ON;
    if (answer == GO_ON) fired = 0;
  }
  pthread_mutex_unlock(&lock);
  return answer;
}

static long finish(int answer, long result) {
  if (answer == DIE_AFTER) die();
  if (answer == ANSWER_AFTER && result >= 0) {
    errno = code;
    return -1;
  }
  return result;
}
#define REFUSED(answer) if (answer == FAIL) { errno = code; return -1; }

/* A full disk lets files be read, removed and touched. */
static int can_fail(void) { return code != ENOSPC && code != EDQUOT; }

static int opened(int folder, const char *path, int flags, mode_t rights) {
  char full[PATH_MAX];
  int in = active() && inside(folder, path, full);
  int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT;
  int answer = GO_ON;
  if (in && !(flags & (O_PATH | O_DIRECTORY))) {
    answer = visit(flags & O_EXCL ? "create" : writes ? "open to write" : "open to read", full,
                   writes || can_fail(), 0);
    REFUSED(answer)
  }
  int handle = syscall(SYS_openat, folder, path, flags, rights);
  if (handle >= 0 && handle < FDS) {
    free(open_path[handle]);
    open_path[handle] = in && writes ? strdup(full) : NULL;
    if (in && flags & O_TRUNC) set_unsynced(full, 1);
  }
  if (answer == ANSWER_AFTER && handle >= 0) syscall(SYS_close, handle);
  return finish(answer, handle);
}
#define RIGHTS(flags) \
  mode_t rights = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); rights = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { RIGHTS(flags) return opened(AT_FDCWD, path, flags, rights); }
int open64(const char *path, int flags, ...) { RIGHTS(flags) return opened(AT_FDCWD, path, flags, rights); }
int openat(int folder, const char *path, int flags, ...) { RIGHTS(flags) return opened(folder, path, flags, rights); }
int openat64(int folder, const char *path, int flags, ...) { RIGHTS(flags) return opened(folder, path, flags, rights); }

static const char *written(int handle) {
  return active() && handle >= 0 && handle < FDS ? open_path[handle] : NULL;
}

ssize_t write(int handle, const void *content, size_t length) {
  const char *path = written(handle);
  if (!path) return syscall(SYS_write, handle, content, length);
  set_unsynced(path, 1);
  int answer = visit("write", path, 1, length > 1);
  REFUSED(answer)
  if (answer == HALF) {
    /* Half of it is there, then the process dies. */
    syscall(SYS_write, handle, content, length / 2);
    die();
  }
  return finish(answer, syscall(SYS_write, handle, content, length));
}
ssize_t pwrite64(int handle, const void *content, size_t length, off64_t place) {
  const char *path = written(handle);
  if (!path) return syscall(SYS_pwrite64, handle, content, length, place);
  set_unsynced(path, 1);
  int answer = visit("write", path, 1, 0);
  REFUSED(answer)
  return finish(answer, syscall(SYS_pwrite64, handle, content, length, place));
}
ssize_t pwrite(int handle, const void *content, size_t length, off_t place) { return pwrite64(handle, content, length, place); }

static int synced(int handle, long call, const char *name) {
  const char *path = written(handle);
  if (!path) return syscall(call, handle);
  int answer = visit(name, path, 1, 0);
  REFUSED(answer)
  int result = syscall(call, handle);
  set_unsynced(path, 0);
  return finish(answer, result);
}
int fsync(int handle) { return synced(handle, SYS_fsync, "sync"); }
int fdatasync(int handle) { return synced(handle, SYS_fdatasync, "sync"); }

int close(int handle) {
  const char *path = written(handle);
  int answer = path ? visit("close", path, 1, 0) : GO_ON;
  if (handle >= 0 && handle < FDS) free(open_path[handle]), open_path[handle] = NULL;
  int result = syscall(SYS_close, handle);
  if (answer == FAIL) answer = ANSWER_AFTER; /* A descriptor is closed even if close answers with an error. */
  return finish(answer, result);
}

static int renamed(int folder, const char *from, int other, const char *to, unsigned flags) {
  char source[PATH_MAX], target[PATH_MAX];
  int in = active() && inside(folder, from, source) && inside(other, to, target);
  int answer = in ? visit("rename", target, 1, 0) : GO_ON;
  REFUSED(answer)
  int result = syscall(SYS_renameat2, folder, from, other, to, flags);
  if (in && !result) moved(source, target);
  return finish(answer, result);
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int folder, const char *from, int other, const char *to) { return renamed(folder, from, other, to, 0); }
int renameat2(int folder, const char *from, int other, const char *to, unsigned flags) { return renamed(folder, from, other, to, flags); }

static int linked(int folder, const char *from, int other, const char *to, int flags) {
  char full[PATH_MAX];
  int answer = active() && inside(other, to, full) ? visit("link", full, 1, 0) : GO_ON;
  REFUSED(answer)
  return finish(answer, syscall(SYS_linkat, folder, from, other, to, flags));
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int folder, const char *from, int other, const char *to, int flags) { return linked(folder, from, other, to, flags); }
int symlink(const char *content, const char *path) {
  char full[PATH_MAX];
  int answer = active() && inside(AT_FDCWD, path, full) ? visit("symlink", full, 1, 0) : GO_ON;
  REFUSED(answer)
  return finish(answer, syscall(SYS_symlinkat, content, AT_FDCWD, path));
}

static int unlinked(int folder, const char *path, int flags) {
  char full[PATH_MAX];
  int in = active() && inside(folder, path, full);
  int answer = in ? visit(flags ? "remove folder" : "remove", full, can_fail(), 0) : GO_ON;
  REFUSED(answer)
  int result = syscall(SYS_unlinkat, folder, path, flags);
  if (in && !result) set_unsynced(full, 0);
  return finish(answer, result);
}
int unlink(const char *path) { return unlinked(AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) { return unlinked(folder, path, flags); }
int rmdir(const char *path) { return unlinked(AT_FDCWD, path, AT_REMOVEDIR); }

static int made(int folder, const char *path, mode_t rights) {
  char full[PATH_MAX];
  int answer = active() && inside(folder, path, full) ? visit("make folder", full, 1, 0) : GO_ON;
  REFUSED(answer)
  return finish(answer, syscall(SYS_mkdirat, folder, path, rights));
}
int mkdir(const char *path, mode_t rights) { return made(AT_FDCWD, path, rights); }
int mkdirat(int folder, const char *path, mode_t rights) { return made(folder, path, rights); }

int utimensat(int folder, const char *path, const struct timespec times[2], int flags) {
  char full[PATH_MAX];
  int answer = active() && inside(folder, path, full) ? visit("touch", full, can_fail(), 0) : GO_ON;
  REFUSED(answer)
  return finish(answer, syscall(SYS_utimensat, folder, path, times, flags));
}
