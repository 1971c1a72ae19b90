/* SPDX-License-Identifier: Apache-2.0 */
/* Privileges only ever shrink here. */
#include "backup/sandbox.h"

#include "base/assert.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

int mt_bk_leave_root(uid_t uid, gid_t gid, struct mt_err *err)
{
    struct rlimit none = {0};
    pid_t parent = getppid();
    if (geteuid() == 0 && uid != 0) {
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "become user %u", uid);
        if (setuid(0) == 0)
            return MT_FAIL(err, MT_E_IO, "root did not go away");
    }
    if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "give up privileges");
    if (getppid() != parent) /* it died before we asked to die with it */
        return MT_FAIL(err, MT_E_CANCELLED, "the parent process is gone");
    return 0;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* The sanitizer's runtime makes calls of its own: such builds test the logic, not the sandbox. */
int mt_bk_sandbox(struct mt_err *err)
{
    (void)err;
    return 0;
}
#else
static const int allowed[] = {
    SCMP_SYS(read),            SCMP_SYS(readv),          SCMP_SYS(write),         SCMP_SYS(writev),        SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),        SCMP_SYS(lseek),          SCMP_SYS(fstat),         SCMP_SYS(newfstatat),    SCMP_SYS(statx),
    SCMP_SYS(close),           SCMP_SYS(access),         SCMP_SYS(faccessat),     SCMP_SYS(faccessat2),    SCMP_SYS(readlink),
    SCMP_SYS(readlinkat),      SCMP_SYS(getdents64),     SCMP_SYS(fcntl),         SCMP_SYS(fallocate),     SCMP_SYS(ftruncate),
    SCMP_SYS(fsync),           SCMP_SYS(fdatasync),      SCMP_SYS(munmap),        SCMP_SYS(mremap),        SCMP_SYS(madvise),
    SCMP_SYS(brk),             SCMP_SYS(futex),          SCMP_SYS(exit),          SCMP_SYS(exit_group),    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigaction),    SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),   SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),       SCMP_SYS(gettimeofday),   SCMP_SYS(getrandom),     SCMP_SYS(getpid),        SCMP_SYS(gettid),
    SCMP_SYS(getppid),         SCMP_SYS(tgkill),         SCMP_SYS(sched_yield),   SCMP_SYS(restart_syscall), SCMP_SYS(uname),
    SCMP_SYS(getrlimit),       SCMP_SYS(prlimit64),      SCMP_SYS(getrusage),     SCMP_SYS(rseq),          SCMP_SYS(set_robust_list),
    SCMP_SYS(connect),         SCMP_SYS(bind),           SCMP_SYS(getsockname),   SCMP_SYS(getpeername),   SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),      SCMP_SYS(sendto),         SCMP_SYS(recvfrom),      SCMP_SYS(sendmsg),       SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),        SCMP_SYS(shutdown),       SCMP_SYS(poll),          SCMP_SYS(ppoll),         SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),           SCMP_SYS(socketpair),     SCMP_SYS(getuid),        SCMP_SYS(geteuid),       SCMP_SYS(getgid),
    SCMP_SYS(getegid),         SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo),    SCMP_SYS(munlock),
};

static const int deadly[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork),    SCMP_SYS(vfork), SCMP_SYS(creat), SCMP_SYS(mount),
    SCMP_SYS(umount2), SCMP_SYS(ptrace),  SCMP_SYS(bpf),     SCMP_SYS(keyctl), SCMP_SYS(unshare), SCMP_SYS(setns),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(listen), SCMP_SYS(accept4), SCMP_SYS(kill),
};

static int conditional(scmp_filter_ctx ctx)
{
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}; /* Unix: nscd, resolved; netlink: getaddrinfo asks for addresses */
    static const unsigned long ioctls[] = {BLKGETSIZE64, BLKZEROOUT, FIONBIO, FIONREAD};
    int r = 0;
    for (size_t i = 0; r == 0 && i < MT_ARRAY_LEN(families); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
    for (size_t i = 0; r == 0 && i < MT_ARRAY_LEN(ioctls); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, ioctls[i]));
    if (r == 0) /* trust anchors, resolver */
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0) /* threads, no processes; clone3 hides its flags, glibc falls back */
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
    return r;
}

int mt_bk_sandbox(struct mt_err *err)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (!ctx)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a system call filter");
    int r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; r == 0 && i < MT_ARRAY_LEN(allowed); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
    for (size_t i = 0; r == 0 && i < MT_ARRAY_LEN(deadly); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, deadly[i], 0);
    if (r == 0)
        r = conditional(ctx);
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    if (r < 0) {
        errno = -r;
        return MT_FAIL_ERRNO(err, MT_E_IO, "load the system call filter");
    }
    return 0;
}
#endif
