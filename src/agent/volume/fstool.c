/* SPDX-License-Identifier: Apache-2.0 */
/* Filesystem tools in their sandbox. See fstool.h. */
#include "agent/volume/fstool.h"

#include "agent/volume/backend.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/confine.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ADDRESS_SPACE ((uint64_t)2 << 30)
#define CPU_SECONDS 600
#define TIMEOUT_MS 60000
#define CHECK_TIMEOUT_MS 660000 /* a check may take its whole share of processor */
#define ZERO_BYTES (1U << 20)

/* What the three tools and their loader use; anything else fails with ENOSYS, and what could reach out kills. */
static const int allowed[] = {
    SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(lseek), SCMP_SYS(open),
    SCMP_SYS(openat), SCMP_SYS(close), SCMP_SYS(stat), SCMP_SYS(fstat), SCMP_SYS(lstat), SCMP_SYS(newfstatat), SCMP_SYS(access), SCMP_SYS(faccessat),
    SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(ioctl), SCMP_SYS(fcntl), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(ftruncate),
    SCMP_SYS(fallocate), SCMP_SYS(fadvise64), SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(getdents64), SCMP_SYS(getcwd), SCMP_SYS(dup), SCMP_SYS(mmap),
    SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(arch_prctl), SCMP_SYS(set_tid_address),
    SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(futex), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack), SCMP_SYS(getrlimit), SCMP_SYS(setrlimit), SCMP_SYS(prlimit64), SCMP_SYS(getrusage), SCMP_SYS(sysinfo), SCMP_SYS(uname),
    SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getppid), SCMP_SYS(tgkill),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(times), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep), SCMP_SYS(getrandom),
    SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_yield), SCMP_SYS(execve), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(restart_syscall),
};
static const int deadly[] = {
    SCMP_SYS(socket), SCMP_SYS(connect), SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(ptrace), SCMP_SYS(bpf), SCMP_SYS(keyctl), SCMP_SYS(unshare),
    SCMP_SYS(setns), SCMP_SYS(process_vm_writev), SCMP_SYS(execveat), SCMP_SYS(fork), SCMP_SYS(vfork), SCMP_SYS(kexec_load), SCMP_SYS(init_module),
};

static const struct mt_confine_rule rules[] = {
    {SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD}, /* threads of its own, no other process; clone3 cannot be looked into and falls back to clone */
};

int mt_fstool_init(struct mt_fstool *t, struct mt_err *err)
{
    const struct mt_confine_calls calls = {.allowed = allowed, .n_allowed = MT_ARRAY_LEN(allowed), .deadly = deadly,
                                           .n_deadly = MT_ARRAY_LEN(deadly), .rules = rules, .n_rules = MT_ARRAY_LEN(rules)};
    return mt_confine_export(&calls, &t->filter, err);
}

void mt_fstool_done(struct mt_fstool *t)
{
    free(t->filter);
    t->filter = NULL;
}

/* The file is the tool's while it runs: it opens it again by /proc, as its own user. */
static int run_with(const struct mt_fstool *t, int fd, const char *const *argv, const char *path, int64_t timeout_ms, struct mt_buf *out, struct mt_run_result *ret,
                    struct mt_err *err)
{
    struct stat st;
    uint64_t bytes;
    if (fstat(fd, &st) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "size of the volume");
    int rc = mt_backend_fd_size(fd, &bytes, err);
    if (rc < 0)
        return rc;
    const struct mt_spawn_sandbox box = {.as_bytes = ADDRESS_SPACE, .cpu_seconds = CPU_SECONDS, .file_bytes = bytes,
                                         .filter = &t->filter->prog};
    const struct mt_spawn s = {.path = path, .argv = argv, .keep_fds = &fd, .keep_count = 1, .set_ids = true, .uid = t->uid, .gid = t->gid,
                               .new_session = true, .sandbox = &box};
    mt_auto_buf struct mt_buf said = MT_BUF_INIT(4096);
    bool lend = (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) && t->uid != st.st_uid;
    if (lend && fchown(fd, t->uid, t->gid) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "lend the volume to '%s'", argv[0]);
    rc = mt_run(&s, NULL, 0, out, &said, timeout_ms, ret, err);
    if (lend && fchown(fd, st.st_uid, st.st_gid) < 0 && rc == 0)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "take the volume back from '%s'", argv[0]);
    if (rc == 0 && !(ret->exited && ret->status == 0)) {
        char text[160];
        (void)mt_printable(said.len ? (const char *)said.p : "", said.len, text, sizeof text);
        (void)MT_FAIL(err, MT_E_IO, "%s: %s %d: %s", argv[0], ret->exited ? "exit" : "signal", ret->status, text);
    }
    return rc;
}

static int run(const struct mt_fstool *t, int fd, const char *const *argv, const char *path, int64_t timeout_ms, struct mt_run_result *ret, struct mt_err *err)
{
    return run_with(t, fd, argv, path, timeout_ms, NULL, ret, err);
}

static int fd_path(int fd, char ret[40], struct mt_err *err)
{
    return mt_fmt(ret, 40, err, "/proc/self/fd/%d", fd);
}

static int reads_zero(int fd, struct mt_err *err)
{
    char buf[16384];
    for (off_t at = 0; at < ZERO_BYTES;) {
        ssize_t n = pread(fd, buf, sizeof buf, at);
        if (n <= 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read the new volume");
        for (ssize_t i = 0; i < n; i++)
            if (buf[i])
                return MT_FAIL(err, MT_E_CONFLICT, "what is to be formatted is not empty");
        at += n;
    }
    return 0;
}

int mt_fstool_format(const struct mt_fstool *t, int fd, const char *uuid, const char *label, struct mt_err *err)
{
    char path[40], name[17];
    struct mt_run_result ended;
    (void)snprintf(name, sizeof name, "%s", label);
    int rc = reads_zero(fd, err);
    if (rc == 0)
        rc = fd_path(fd, path, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"mkfs.ext4", "-q", "-F", "-m", "1", "-U", uuid, "-L", name, "-E", "nodiscard", path, NULL};
    rc = run(t, fd, argv, t->mkfs, TIMEOUT_MS, &ended, err);
    return rc < 0 ? rc : ended.exited && ended.status == 0 ? 0 : -MT_E_IO;
}

static int check(const struct mt_fstool *t, int fd, const char *how, int fine, struct mt_err *err)
{
    char path[40];
    struct mt_run_result ended;
    int rc = fd_path(fd, path, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"e2fsck", how, "-f", path, NULL};
    rc = run(t, fd, argv, t->e2fsck, CHECK_TIMEOUT_MS, &ended, err);
    if (rc < 0)
        return rc;
    if (ended.exited && (ended.status & ~fine) == 0)
        return 0;
    err->code = MT_E_CORRUPT;
    return -MT_E_CORRUPT;
}

int mt_fstool_check(const struct mt_fstool *t, int fd, struct mt_err *err)
{
    return check(t, fd, "-p", 3, err); /* 1: errors were corrected; 2: and a reboot would be due if it were mounted */
}

int mt_fstool_verify(const struct mt_fstool *t, int fd, struct mt_err *err)
{
    return check(t, fd, "-n", 0, err);
}

static bool begins(const char *p, size_t n, const char *word)
{
    return n >= strlen(word) && memcmp(p, word, strlen(word)) == 0;
}

/* Of what e2fsck says the first line that is about this filesystem: the first thing found, or how much is on it. */
static void told(const struct mt_buf *out, const char *path, char ret[MT_CHECK_DETAIL_MAX + 1])
{
    const char *p = (const char *)out->p, *end = p ? p + out->len : p;
    ret[0] = '\0';
    while (p < end) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p), head = strlen(path) + 2;
        if (n > 0 && !begins(p, n, "Pass ") && !begins(p, n, "e2fsck ")) {
            if (n > head && begins(p, n, path)) {
                p += head;
                n -= head;
            }
            (void)mt_printable(p, n, ret, MT_CHECK_DETAIL_MAX + 1);
            return;
        }
        p += nl ? n + 1 : n;
    }
}

/* One run of e2fsck; -1 in @ret_status: a signal ended it. */
static int fsck(const struct mt_fstool *t, int fd, const char *const *how, int *ret_status, char ret_detail[MT_CHECK_DETAIL_MAX + 1], struct mt_err *err)
{
    char path[40];
    struct mt_run_result ended;
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(16384);
    int rc = fd_path(fd, path, err);
    if (rc < 0)
        return rc;
    const char *argv[6] = {"e2fsck"};
    size_t n = 1;
    while (*how)
        argv[n++] = *how++;
    argv[n] = path;
    rc = run_with(t, fd, argv, t->e2fsck, CHECK_TIMEOUT_MS, &out, &ended, err);
    if (rc < 0)
        return rc;
    told(&out, path, ret_detail);
    *ret_status = ended.exited ? ended.status : -1;
    bool judged = ended.exited && (ended.status < 8 || (ended.status & 4)); /* 4: errors are left, also when it stopped for them */
    return judged ? 0 : -(int)(err && err->code ? err->code : MT_E_IO);
}

int mt_fstool_judge(const struct mt_fstool *t, int fd, bool repair, enum mt_volume_verdict *ret, char ret_detail[MT_CHECK_DETAIL_MAX + 1], struct mt_err *err)
{
    static const char *const journal[] = {"-p", "-E", "journal_only", NULL}, *const look[] = {"-f", "-n", NULL}, *const mend[] = {"-f", "-y", NULL};
    char found[MT_CHECK_DETAIL_MAX + 1] = "";
    int status = 0, mended = 0;
    /* without its journal put back what a power cut left would pass for damage; one that cannot be put back is damage, which the next run names */
    int rc = 0;
    (void)fsck(t, fd, journal, &status, ret_detail, NULL);
    if (repair && (rc = fsck(t, fd, mend, &mended, found, err)) < 0)
        return rc;
    if ((rc = fsck(t, fd, look, &status, ret_detail, err)) < 0)
        return rc;
    *ret = status ? MT_VOLUME_DAMAGED : mended & 3 ? MT_VOLUME_REPAIRED : MT_VOLUME_CLEAN;
    if (*ret == MT_VOLUME_REPAIRED)
        memcpy(ret_detail, found, sizeof found); /* what it was, not that it is well now */
    return 0;
}

int mt_fstool_grow(const struct mt_fstool *t, int fd, struct mt_err *err)
{
    char path[40];
    struct mt_run_result ended;
    int rc = mt_fstool_check(t, fd, err);
    if (rc == 0)
        rc = fd_path(fd, path, err);
    if (rc < 0)
        return rc;
    const char *const argv[] = {"resize2fs", path, NULL};
    rc = run(t, fd, argv, t->resize2fs, CHECK_TIMEOUT_MS, &ended, err);
    return rc < 0 ? rc : ended.exited && ended.status == 0 ? 0 : -MT_E_IO;
}

int mt_fstool_uuid(int fd, char ret[37], struct mt_err *err)
{
    enum { SUPERBLOCK = 1024, MAGIC_AT = 0x38, UUID_AT = 0x68 };
    uint8_t sb[UUID_AT + 16];
    char hex[33];
    ssize_t n = pread(fd, sb, sizeof sb, SUPERBLOCK);
    if (n < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "read the superblock");
    if (n != (ssize_t)sizeof sb || sb[MAGIC_AT] != 0x53 || sb[MAGIC_AT + 1] != 0xef)
        return MT_FAIL(err, MT_E_INVALID, "no ext4 filesystem there");
    mt_hex_encode(sb + UUID_AT, 16, hex);
    return mt_fmt(ret, 37, err, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}
