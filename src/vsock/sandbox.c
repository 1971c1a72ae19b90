/* SPDX-License-Identifier: Apache-2.0 */
/* Seccomp filter of moat-vsock: see sandbox.h. */
#include "vsock/sandbox.h"

#include "base/assert.h"
#include "base/cleanup.h"

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

static void release(scmp_filter_ctx *ctx)
{
    if (*ctx)
        seccomp_release(*ctx);
}

int mt_vs_sandbox_enter(struct mt_err *err)
{
    mt_cleanup(release) scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int r = 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1)
        return MT_FAIL_ERRNO(err, MT_E_IO, "no_new_privs");
    if (!ctx)
        return MT_FAIL(err, MT_E_NOMEM, "seccomp filter");
    for (size_t i = 0; i < MT_ARRAY_LEN(allowed) && r == 0; i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_UNIX));
    if (r == 0) /* guest memory and malloc; never executable */
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0) /* F_GETFL, F_SETFL for eventfds */
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, (uint64_t)~7, 0));
    if (r == 0)
        r = seccomp_load(ctx);
    if (r < 0) {
        errno = -r;
        return MT_FAIL_ERRNO(err, MT_E_IO, "seccomp filter");
    }
    return 0;
}
