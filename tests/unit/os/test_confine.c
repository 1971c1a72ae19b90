/* SPDX-License-Identifier: Apache-2.0 */
/* Filters are put on children, whose end or answer tells what was allowed. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "os/confine.h"

#include <pthread.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* What the C library and a sanitizer's runtime need to end a child. */
static const int allowed[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(futex), SCMP_SYS(exit), SCMP_SYS(exit_group),
                              SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(madvise), SCMP_SYS(munmap), SCMP_SYS(mmap),
                              SCMP_SYS(mprotect), SCMP_SYS(sigaltstack), SCMP_SYS(clone), SCMP_SYS(clone3), SCMP_SYS(set_robust_list), SCMP_SYS(rseq)};
static const int deadly[] = {SCMP_SYS(ptrace)};
static const struct mt_confine_rule rules[] = {{SCMP_SYS(socket), 0, UINT64_MAX, AF_UNIX}, {SCMP_SYS(socket), 0, UINT64_MAX, AF_INET6}};

static const struct mt_confine_calls calls = {.allowed = allowed, .n_allowed = MT_ARRAY_LEN(allowed), .deadly = deadly,
                                              .n_deadly = MT_ARRAY_LEN(deadly), .rules = rules, .n_rules = MT_ARRAY_LEN(rules)};

/* Status of wait(2) of a child that confines itself to @c and calls @then; its exit code is what that returns. */
static int in_child_with(const struct mt_confine_calls *c, int (*then)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit none = {0};
        if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || mt_confine_calls(c, NULL) < 0)
            _exit(100);
        _exit(then());
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int in_child(bool otherwise_kill, int (*then)(void))
{
    struct mt_confine_calls c = calls;
    c.otherwise_kill = otherwise_kill;
    return in_child_with(&c, then);
}

static int nothing(void)
{
    return 0;
}

static int unnamed(void)
{
    return syscall(SYS_sethostname, "x", 1) == -1 && errno == ENOSYS ? 0 : 1;
}

static int traced(void)
{
    return syscall(SYS_ptrace, 0, 0, 0, 0) == -1 ? 1 : 2;
}

static int sockets(void)
{
    if (socket(AF_UNIX, SOCK_STREAM, 0) < 0 || socket(AF_INET6, SOCK_STREAM, 0) < 0)
        return 1;
    return socket(AF_INET, SOCK_STREAM, 0) == -1 && errno == ENOSYS ? 0 : 2;
}

static void what_is_named_works_and_the_rest_is_unknown(void **state)
{
    (void)state;
    assert_int_equal(in_child(false, nothing), 0);
    assert_int_equal(in_child(false, unnamed), 0);
    assert_int_equal(in_child(false, sockets), 0);
}

static void the_deadly_ends_the_process_and_so_does_the_rest_when_asked(void **state)
{
    (void)state;
    int status = in_child(false, traced);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    assert_int_equal(in_child(true, nothing), 0);
    status = in_child(true, unnamed);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static int group(void)
{
    return getpgid(0) > 0 ? 0 : 1;
}

static int listens(void)
{
    return syscall(SYS_listen, -1, 1) == -1 ? 1 : 2;
}

static void what_one_program_adds_counts_beside_the_common_lists(void **state)
{
    const int more[] = {SCMP_SYS(getpgid)}, worse[] = {SCMP_SYS(listen)};
    const struct mt_confine_rule inet[] = {{SCMP_SYS(socket), 0, UINT64_MAX, AF_INET}};
    const struct mt_confine_calls own = {.allowed = more, .n_allowed = 1, .deadly = worse, .n_deadly = 1, .rules = inet, .n_rules = 1};
    struct mt_confine_calls c = calls;
    (void)state;
    assert_int_not_equal(in_child_with(&c, group), 0);
    c.also = &own;
    assert_int_equal(in_child_with(&c, group), 0);
    assert_int_equal(in_child_with(&c, unnamed), 0);
    assert_int_equal(WEXITSTATUS(in_child_with(&c, sockets)), 2); /* AF_INET is one of its own */
    int status = in_child_with(&c, listens);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
    status = in_child_with(&c, traced);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

static int gate[2];

static void *waits(void *arg)
{
    char c;
    (void)arg;
    while (read(gate[0], &c, 1) != 1)
        ;
    return syscall(SYS_sethostname, "x", 1) == -1 && errno == ENOSYS ? gate : NULL;
}

static void threads_that_run_already_are_confined_too(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t t;
        void *said = NULL;
        if (pipe(gate) < 0 || pthread_create(&t, NULL, waits, NULL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
            mt_confine_calls(&calls, NULL) < 0 || write(gate[1], "g", 1) != 1 || pthread_join(t, &said) != 0)
            _exit(100);
        _exit(said ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_filter_for_a_child_is_the_same_filter(void **state)
{
    (void)state;
    mt_auto_free struct mt_confine_filter *f = NULL;
    assert_int_equal(mt_confine_export(&calls, &f, NULL), 0);
    assert_true(f->prog.len > 0 && f->prog.filter == f->code);
    pid_t pid = fork();
    if (pid == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0U, &f->prog) < 0)
            _exit(100);
        _exit(unnamed() + sockets());
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void the_user_changes_and_does_not_come_back(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit core;
        if (mt_confine_user(65534, 65533, NULL) < 0)
            _exit(100);
        bool left = getuid() == 65534 && getgid() == 65533 && getgroups(0, NULL) == 0 && setuid(0) == -1;
        bool bare = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0;
        int death = 0;
        _exit(left && bare && prctl(PR_GET_PDEATHSIG, &death) == 0 && death == SIGKILL ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_parent_that_is_gone_is_an_error(void **state)
{
    struct mt_err err = {0};
    (void)state;
    pid_t pid = fork(); /* the request must not stay with this process */
    if (pid == 0)
        _exit(mt_confine_die_with_parent(getpid(), &err) == -MT_E_CANCELLED ? 0 : 1);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_named_works_and_the_rest_is_unknown),
        cmocka_unit_test(the_deadly_ends_the_process_and_so_does_the_rest_when_asked),
        cmocka_unit_test(what_one_program_adds_counts_beside_the_common_lists),
        cmocka_unit_test(threads_that_run_already_are_confined_too),
        cmocka_unit_test(a_filter_for_a_child_is_the_same_filter),
        cmocka_unit_test(the_user_changes_and_does_not_come_back),
        cmocka_unit_test(a_parent_that_is_gone_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
