/* SPDX-License-Identifier: Apache-2.0 */
/* Privileges only ever shrink here. */
#include "unpack/sandbox.h"

#include "base/assert.h"
#include "os/confine.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

int mt_sandbox_leave_root(uid_t uid, gid_t gid, struct mt_err *err)
{
    if (geteuid() == 0) {
        if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "enter namespaces of its own");
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "part from the host's mounts");
    }
    return mt_confine_user(uid, gid, err);
}

#if defined(__SANITIZE_ADDRESS__)
/* The sanitizer's runtime maps terabytes and makes calls of its own: such builds test the logic, not the sandbox. */
int mt_sandbox_lock(uint64_t cpu_seconds, uint64_t file_bytes, struct mt_err *err)
{
    (void)cpu_seconds;
    (void)file_bytes;
    (void)err;
    return 0;
}
#else
static const int allowed[] = {
    SCMP_SYS(read),          SCMP_SYS(write),         SCMP_SYS(pread64),      SCMP_SYS(pwrite64),     SCMP_SYS(lseek),
    SCMP_SYS(fstat),         SCMP_SYS(close),         SCMP_SYS(ftruncate),    SCMP_SYS(fsync),        SCMP_SYS(fdatasync),
    SCMP_SYS(fallocate),     SCMP_SYS(fcntl),         SCMP_SYS(mmap),         SCMP_SYS(munmap),       SCMP_SYS(mremap),
    SCMP_SYS(mprotect),      SCMP_SYS(madvise),       SCMP_SYS(brk),          SCMP_SYS(futex),        SCMP_SYS(exit),
    SCMP_SYS(exit_group),    SCMP_SYS(rt_sigreturn),  SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),
    SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday),  SCMP_SYS(getrandom),    SCMP_SYS(getpid),       SCMP_SYS(gettid),
    SCMP_SYS(tgkill),        SCMP_SYS(sched_yield),   SCMP_SYS(restart_syscall), SCMP_SYS(uname),     SCMP_SYS(getrlimit),
    SCMP_SYS(rseq),          SCMP_SYS(set_robust_list), SCMP_SYS(newfstatat),
};

static const int deadly[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork),   SCMP_SYS(vfork),  SCMP_SYS(clone),    SCMP_SYS(open),
    SCMP_SYS(openat), SCMP_SYS(openat2),  SCMP_SYS(creat),  SCMP_SYS(socket), SCMP_SYS(mount),    SCMP_SYS(umount2),
    SCMP_SYS(ptrace), SCMP_SYS(bpf),      SCMP_SYS(keyctl), SCMP_SYS(unshare), SCMP_SYS(setns),   SCMP_SYS(process_vm_writev),
};

int mt_sandbox_lock(uint64_t cpu_seconds, uint64_t file_bytes, struct mt_err *err)
{
    struct rlimit as = {(rlim_t)2 << 30, (rlim_t)2 << 30}, cpu = {cpu_seconds, cpu_seconds + 1}, file = {file_bytes, file_bytes};
    if (setrlimit(RLIMIT_AS, &as) < 0 || setrlimit(RLIMIT_CPU, &cpu) < 0 || setrlimit(RLIMIT_FSIZE, &file) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "set limits");
    const struct mt_confine_calls calls = {.allowed = allowed, .n_allowed = MT_ARRAY_LEN(allowed), .deadly = deadly,
                                           .n_deadly = MT_ARRAY_LEN(deadly)};
    return mt_confine_calls(&calls, err);
}
#endif
