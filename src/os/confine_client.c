/* SPDX-License-Identifier: Apache-2.0 */
/* One list of system calls for the helpers that speak outwards; each adds what only it does. */
#include "os/confine.h"

#include "base/assert.h"

#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* The sanitizer's runtime makes calls of its own: such builds test the logic, not the sandbox. */
int mt_confine_client(const struct mt_confine_calls *own, struct mt_err *err)
{
    (void)own;
    (void)err;
    return 0;
}
#else
static const int allowed[] = {
    SCMP_SYS(read),           SCMP_SYS(readv),        SCMP_SYS(write),           SCMP_SYS(writev),        SCMP_SYS(pread64),
    SCMP_SYS(lseek),          SCMP_SYS(fstat),        SCMP_SYS(newfstatat),      SCMP_SYS(statx),         SCMP_SYS(close),
    SCMP_SYS(access),         SCMP_SYS(faccessat),    SCMP_SYS(faccessat2),      SCMP_SYS(readlink),      SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64),     SCMP_SYS(fcntl),        SCMP_SYS(munmap),          SCMP_SYS(mremap),        SCMP_SYS(madvise),
    SCMP_SYS(brk),            SCMP_SYS(futex),        SCMP_SYS(exit),            SCMP_SYS(exit_group),    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(rt_sigaction),   SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack),   SCMP_SYS(clock_gettime), SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),      SCMP_SYS(gettimeofday), SCMP_SYS(getrandom),       SCMP_SYS(getpid),        SCMP_SYS(gettid),
    SCMP_SYS(getppid),        SCMP_SYS(tgkill),       SCMP_SYS(sched_yield),     SCMP_SYS(restart_syscall), SCMP_SYS(uname),
    SCMP_SYS(getrlimit),      SCMP_SYS(prlimit64),    SCMP_SYS(getrusage),       SCMP_SYS(rseq),          SCMP_SYS(set_robust_list),
    SCMP_SYS(connect),        SCMP_SYS(bind),         SCMP_SYS(getsockname),     SCMP_SYS(getpeername),   SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),     SCMP_SYS(sendto),       SCMP_SYS(recvfrom),        SCMP_SYS(sendmsg),       SCMP_SYS(recvmsg),
    SCMP_SYS(sendmmsg),       SCMP_SYS(shutdown),     SCMP_SYS(poll),            SCMP_SYS(ppoll),         SCMP_SYS(eventfd2),
    SCMP_SYS(pipe2),          SCMP_SYS(socketpair),   SCMP_SYS(getuid),          SCMP_SYS(geteuid),       SCMP_SYS(getgid),
    SCMP_SYS(getegid),        SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo),
};

static const int deadly[] = {
    SCMP_SYS(execve), SCMP_SYS(execveat), SCMP_SYS(fork),    SCMP_SYS(vfork), SCMP_SYS(mount),  SCMP_SYS(umount2), SCMP_SYS(ptrace),
    SCMP_SYS(bpf),    SCMP_SYS(keyctl),   SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(listen), SCMP_SYS(accept4), SCMP_SYS(kill),
    SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(io_uring_setup),
};

static const struct mt_confine_rule rules[] = {
    {SCMP_SYS(socket), 0, UINT64_MAX, AF_UNIX}, /* nscd, resolved */
    {SCMP_SYS(socket), 0, UINT64_MAX, AF_INET},
    {SCMP_SYS(socket), 0, UINT64_MAX, AF_INET6},
    {SCMP_SYS(socket), 0, UINT64_MAX, AF_NETLINK}, /* getaddrinfo asks for addresses */
    {SCMP_SYS(ioctl), 1, UINT64_MAX, FIONBIO},
    {SCMP_SYS(ioctl), 1, UINT64_MAX, FIONREAD},
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    {SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD}, /* threads, no processes; clone3 hides its flags, glibc falls back */
};

int mt_confine_client(const struct mt_confine_calls *own, struct mt_err *err)
{
    struct mt_confine_calls all = {.allowed = allowed, .n_allowed = MT_ARRAY_LEN(allowed), .deadly = deadly, .n_deadly = MT_ARRAY_LEN(deadly),
                                   .rules = rules, .n_rules = MT_ARRAY_LEN(rules), .also = own};
    return mt_confine_calls(&all, err);
}
#endif
