/* SPDX-License-Identifier: Apache-2.0 */
/* Seccomp filter of moat-vsock: see sandbox.h. */
#include "vsock/sandbox.h"

#include "base/assert.h"
#include "os/confine.h"

#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static const int allowed[] = {
    SCMP_SYS(read),         SCMP_SYS(readv),         SCMP_SYS(write),        SCMP_SYS(writev),
    SCMP_SYS(pwrite64),     SCMP_SYS(recvmsg),       SCMP_SYS(recvfrom),     SCMP_SYS(sendmsg),
    SCMP_SYS(sendto),       SCMP_SYS(accept4),       SCMP_SYS(connect),      SCMP_SYS(shutdown),
    SCMP_SYS(close),        SCMP_SYS(epoll_ctl),     SCMP_SYS(epoll_wait),   SCMP_SYS(epoll_pwait),
    SCMP_SYS(fstat),        SCMP_SYS(newfstatat),    SCMP_SYS(munmap),       SCMP_SYS(mremap),
    SCMP_SYS(madvise),      SCMP_SYS(brk),           SCMP_SYS(getrandom),    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday), SCMP_SYS(futex),         SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),         SCMP_SYS(exit_group),
#if defined(__SANITIZE_ADDRESS__)
    /* the sanitizer's own needs when it reports; never in a release build */
    SCMP_SYS(mprotect),     SCMP_SYS(sigaltstack),   SCMP_SYS(getpid),       SCMP_SYS(gettid),
    SCMP_SYS(tgkill),       SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigaction), SCMP_SYS(openat),
    SCMP_SYS(readlink),     SCMP_SYS(getrlimit),     SCMP_SYS(prlimit64),    SCMP_SYS(sched_yield),
#endif
};

static const struct mt_confine_rule rules[] = {
    {SCMP_SYS(socket), 0, UINT64_MAX, AF_UNIX},
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},         /* guest memory and malloc; never executable */
    {SCMP_SYS(fcntl), 1, UINT32_MAX & ~7U, 0}, /* F_GETFL, F_SETFL for eventfds */
};

int mt_vs_sandbox_enter(struct mt_err *err)
{
    const struct mt_confine_calls calls = {.allowed = allowed, .n_allowed = MT_ARRAY_LEN(allowed), .rules = rules,
                                           .n_rules = MT_ARRAY_LEN(rules), .otherwise_kill = true};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "no_new_privs");
    return mt_confine_calls(&calls, err);
}
