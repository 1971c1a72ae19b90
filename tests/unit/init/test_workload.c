/* SPDX-License-Identifier: Apache-2.0 */
/* Starting programs as moat-init does; runs as any user (ids are kept when not root). */
#include "init/workload.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct mt_workload_env env;

static struct mt_user me(void)
{
    return (struct mt_user){.uid = getuid(), .gid = getgid(), .home = "/home/me"};
}

static void make_env(const struct mt_guest_env *list, size_t count)
{
    struct mt_user u = me();
    struct mt_guest_env *own = count ? malloc(count * sizeof *own) : NULL;
    if (count)
        memcpy(own, list, count * sizeof *own);
    struct mt_guest_process p = {.env = own, .env_count = count};
    assert_int_equal(mt_workload_env(&p, &u, &env, NULL), 0);
    free(own);
}

/* runs and gives what it wrote to stdout and stderr, and its status */
static int run(const char *const *argv, const char *cwd, char *text, size_t cap, const char **ret_reason, int *ret_status)
{
    int fds[2];
    struct mt_user u = me();
    struct mt_err err = {0};
    pid_t pid;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    const struct mt_workload_spec spec = {.argv = argv, .envp = env.vars, .cwd = cwd, .user = &u, .stdout_fd = fds[1],
                                          .stderr_fd = fds[1], .nofile = 64};
    int res = mt_workload_spawn(&spec, &pid, ret_reason, &err);
    (void)close(fds[1]);
    size_t len = 0;
    ssize_t n;
    while (res == 0 && len < cap - 1 && (n = read(fds[0], text + len, cap - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    (void)close(fds[0]);
    if (res == 0)
        assert_int_equal(waitpid(pid, ret_status, 0), pid);
    return res;
}

static void the_program_is_searched_by_its_own_path(void **state)
{
    (void)state;
    const struct mt_guest_env good[] = {{"PATH", "/nowhere:/dev/null:/usr/bin:/bin"}, {"X", "y z"}};
    const struct mt_guest_env bad[] = {{"PATH", "/nowhere"}};
    const char *const argv[] = {"sh", "-c", "echo $X; pwd; ulimit -n; ulimit -c; readlink /proc/self/fd/0; ls /proc/self/fd | wc -l; "
                                "test $(ps -o sid= -p $$) -eq $$ && echo leader; exit 3", NULL};
    char text[512];
    const char *reason;
    int status;
    make_env(good, 2);
    int before = open("/dev/null", O_RDONLY); /* without CLOEXEC: must not leak into the program */
    assert_int_equal(run(argv, "/tmp", text, sizeof text, &reason, &status), 0);
    assert_string_equal(text, "y z\n/tmp\n64\n0\n/dev/null\n4\nleader\n");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    (void)close(before);
    make_env(bad, 1);
    assert_int_equal(run(argv, "/tmp", text, sizeof text, &reason, &status), -MT_E_NOT_FOUND);
    assert_string_equal(reason, "exec_not_found");
}

static void failures_have_their_reason(void **state)
{
    (void)state;
    char text[64], path[] = "/tmp/moat-noexec-XXXXXX";
    const char *reason;
    int status;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    make_env(NULL, 0);
    const char *const missing[] = {"/no/such/program", NULL}, *const denied[] = {path, NULL}, *const fine[] = {"/bin/true", NULL};
    assert_int_equal(run(missing, "/", text, sizeof text, &reason, &status), -MT_E_NOT_FOUND);
    assert_string_equal(reason, "exec_not_found");
    assert_int_equal(run(denied, "/", text, sizeof text, &reason, &status), -MT_E_DENIED);
    assert_string_equal(reason, "exec_denied");
    assert_int_equal(run(fine, "/no/such/folder", text, sizeof text, &reason, &status), -MT_E_NOT_FOUND);
    assert_string_equal(reason, "workdir_missing");
    assert_int_equal(chmod(path, 0755), 0); /* executable but empty: no format the kernel knows */
    assert_int_equal(run(denied, "/", text, sizeof text, &reason, &status), -MT_E_DENIED);
    assert_string_equal(reason, "exec_denied");
    assert_int_equal(run(fine, "/", text, sizeof text, &reason, &status), 0);
    assert_int_equal(status, 0);
    (void)unlink(path);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* failed children were reaped */
}

static void signals_start_fresh(void **state)
{
    (void)state;
    char text[64];
    const char *reason;
    int status;
    sigset_t block, old;
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    struct sigaction keep;
    (void)sigemptyset(&block);
    (void)sigaddset(&block, SIGTERM);
    assert_int_equal(sigprocmask(SIG_BLOCK, &block, &old), 0);
    assert_int_equal(sigaction(SIGPIPE, &ignore, &keep), 0);
    make_env(NULL, 0);
    const char *const argv[] = {"sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\t\\n'; kill -TERM $$; echo alive", NULL};
    assert_int_equal(run(argv, "/", text, sizeof text, &reason, &status), 0);
    (void)sigprocmask(SIG_SETMASK, &old, NULL);
    (void)sigaction(SIGPIPE, &keep, NULL);
    assert_string_equal(text, "SigBlk:0000000000000000SigIgn:0000000000000000");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void environment_gets_path_and_home_only_when_unset(void **state)
{
    (void)state;
    const struct mt_guest_env own[] = {{"HOME", "/x"}, {"PATH", "/y"}, {"A", ""}};
    make_env(own, 3);
    assert_string_equal(env.vars[0], "HOME=/x");
    assert_string_equal(env.vars[1], "PATH=/y");
    assert_string_equal(env.vars[2], "A=");
    assert_null(env.vars[3]);
    make_env(NULL, 0);
    assert_memory_equal(env.vars[0], "PATH=/usr/local/sbin:", 21);
    assert_string_equal(env.vars[1], "HOME=/home/me");
    assert_null(env.vars[2]);
}

static void signal_names_are_the_short_ones(void **state)
{
    (void)state;
    static const char *const stops[] = {"TERM", "INT", "QUIT", "HUP", "USR1", "USR2"};
    assert_string_equal(mt_workload_signal_name(SIGSEGV), "SEGV");
    assert_string_equal(mt_workload_signal_name(SIGKILL), "KILL");
    assert_string_equal(mt_workload_signal_name(SIGRTMIN + 3), "37");
    for (size_t i = 0; i < 6; i++)
        assert_string_equal(mt_workload_signal_name(mt_workload_signal_number(stops[i])), stops[i]);
    assert_int_equal(mt_workload_signal_number("NOPE"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_program_is_searched_by_its_own_path),
        cmocka_unit_test(failures_have_their_reason),
        cmocka_unit_test(signals_start_fresh),
        cmocka_unit_test(environment_gets_path_and_home_only_when_unset),
        cmocka_unit_test(signal_names_are_the_short_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
