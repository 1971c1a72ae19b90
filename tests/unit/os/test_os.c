/* SPDX-License-Identifier: Apache-2.0 */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "os/landlock.h"
#include "os/loop.h"
#include "os/pool.h"
#include "os/sock.h"
#include "os/spawn.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[] = "/tmp/moat-test-os-XXXXXX";

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int drop_dir(void **state)
{
    (void)state;
    return mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

static const char *in_dir(const char *name)
{
    static char p[4][128];
    static int i;
    char *s = p[i++ % 4];
    (void)snprintf(s, sizeof p[0], "%s/%s", dir, name);
    return s;
}

struct seen {
    char order[64];
    struct mt_source *victim;
    struct mt_loop *loop;
    int code, status;
};

static void note_timer(struct mt_source *s, void *arg)
{
    (void)s;
    struct seen *w = arg;
    w->order[strlen(w->order)] = 't';
}

static void stop_timer(struct mt_source *s, void *arg)
{
    struct seen *w = arg;
    w->order[strlen(w->order)] = 's';
    mt_loop_stop(mt_loop_of(s), 7);
}

static void timers_fire_in_order_and_can_be_disarmed(void **state)
{
    (void)state;
    struct seen w = {0};
    struct mt_loop *l = mt_loop_new(NULL);
    struct mt_source *a = mt_loop_timer(l, "a", note_timer, &w, NULL);
    struct mt_source *b = mt_loop_timer(l, "b", stop_timer, &w, NULL);
    struct mt_source *c = mt_loop_timer(l, "c", note_timer, &w, NULL);
    mt_loop_timer_after(b, 30);
    mt_loop_timer_after(a, 5);
    mt_loop_timer_after(c, 1);
    mt_loop_timer_set(c, -1);
    assert_false(mt_loop_timer_armed(c));
    assert_int_equal(mt_loop_run(l), 7);
    assert_string_equal(w.order, "ts");
    mt_loop_free(l);
}

static void kill_the_other(struct mt_source *s, int fd, uint32_t ev, void *arg)
{
    (void)s;
    (void)fd;
    (void)ev;
    struct seen *w = arg;
    w->order[strlen(w->order)] = 'f';
    if (w->victim) {
        mt_loop_del(MT_TAKE(w->victim));
    }
    mt_loop_stop(w->loop, 0);
}

static void an_event_of_a_source_deleted_in_the_same_batch_is_dropped(void **state)
{
    (void)state;
    int p[2], q[2];
    assert_int_equal(pipe2(p, O_CLOEXEC) | pipe2(q, O_CLOEXEC), 0);
    assert_int_equal(write(p[1], "x", 1) + write(q[1], "x", 1), 2);
    struct mt_loop *l = mt_loop_new(NULL);
    struct seen first = {.loop = l}, second = {.loop = l};
    struct mt_source *s1 = mt_loop_fd(l, "one", p[0], EPOLLIN, kill_the_other, &first, NULL);
    struct mt_source *s2 = mt_loop_fd(l, "two", q[0], EPOLLIN, kill_the_other, &second, NULL);
    first.victim = s2;
    second.victim = s1;
    assert_int_equal(mt_loop_turn(l, 1000), 0);
    assert_int_equal(strlen(first.order) + strlen(second.order), 1);
    mt_loop_free(l);
    for (int i = 0; i < 2; i++) {
        (void)close(p[i]);
        (void)close(q[i]);
    }
}

static void child_done(struct mt_source *s, pid_t pid, int code, int status, void *arg)
{
    (void)pid;
    struct seen *w = arg;
    w->code = code;
    w->status = status;
    mt_loop_stop(mt_loop_of(s), 0);
}

static void a_child_is_reaped_with_its_status(void **state)
{
    (void)state;
    struct mt_loop *l = mt_loop_new(NULL);
    struct seen w = {0};
    const char *argv[] = {"sh", "-c", "exit 37", NULL};
    pid_t pid;
    int pidfd;
    assert_int_equal(mt_spawn(&(struct mt_spawn){.path = "/bin/sh", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1}, &pid,
                              &pidfd, NULL), 0);
    assert_non_null(mt_loop_child(l, "child", pid, pidfd, child_done, &w, NULL));
    assert_int_equal(mt_loop_run(l), 0);
    assert_int_equal(w.code, CLD_EXITED);
    assert_int_equal(w.status, 37);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), -1);
    (void)close(pidfd);
    mt_loop_free(l);
}

struct work {
    struct mt_loop *loop;
    int *left;
    pthread_t ran_on;
};

static void do_work(void *arg)
{
    ((struct work *)arg)->ran_on = pthread_self();
}

static void work_done(void *arg)
{
    struct work *w = arg;
    assert_false(pthread_equal(w->ran_on, pthread_self()));
    if (--*w->left == 0)
        mt_loop_stop(w->loop, 0);
}

static void a_pool_runs_jobs_elsewhere_and_answers_on_the_loop(void **state)
{
    (void)state;
    struct mt_loop *l = mt_loop_new(NULL);
    struct mt_pool *p = mt_pool_new(l, 3, 8, 0, NULL);
    struct work w[8];
    int left = 8;
    for (int i = 0; i < 8; i++) {
        w[i] = (struct work){.loop = l, .left = &left};
        assert_int_equal(mt_pool_submit(p, do_work, work_done, &w[i], NULL), 0);
    }
    assert_int_equal(mt_loop_run(l), 0);
    mt_pool_free(p);
    mt_loop_free(l);
}

static void a_missing_program_is_reported_by_name(void **state)
{
    (void)state;
    const char *argv[] = {"nothing", NULL};
    pid_t pid;
    struct mt_err e;
    assert_int_equal(mt_spawn(&(struct mt_spawn){.path = "/no/such/program", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1},
                              &pid, NULL, &e), -MT_E_NOT_FOUND);
    assert_string_equal(e.msg, "run '/no/such/program': No such file or directory");
}

static void a_run_returns_output_input_and_status(void **state)
{
    (void)state;
    const char *argv[] = {"sh", "-c", "cat; echo oops >&2; exit 3", NULL};
    struct mt_spawn s = {.path = "/bin/sh", .argv = argv};
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(8);
    mt_auto_buf struct mt_buf errs = MT_BUF_INIT(100);
    struct mt_run_result r;
    assert_int_equal(mt_run(&s, "hello world", 11, &out, &errs, 5000, &r, NULL), 0);
    assert_true(r.exited && r.status == 3);
    assert_string_equal(mt_buf_cstr(&out), "hello wo"); /* capped, the rest dropped, no hang */
    assert_string_equal(mt_buf_cstr(&errs), "oops\n");
    struct mt_err e;
    mt_auto_buf struct mt_buf o2 = MT_BUF_INIT(8);
    assert_int_equal(mt_run_ok(&s, NULL, 0, &o2, 5000, &e), -MT_E_IO);
    assert_string_equal(e.msg, "'/bin/sh' ended with status 3: oops");
}

static void a_run_ends_at_its_deadline(void **state)
{
    (void)state;
    const char *argv[] = {"sh", "-c", "trap '' TERM; sleep 30 & wait; wait", NULL};
    struct mt_spawn s = {.path = "/bin/sh", .argv = argv};
    struct mt_run_result r;
    int64_t t = mt_clock_mono();
    assert_int_equal(mt_run(&s, NULL, 0, NULL, NULL, 100, &r, NULL), -MT_E_TIMEOUT);
    assert_true(mt_clock_mono() - t < 5 * MT_NS_PER_S);
}

/* A word on the descriptor ends it and what it has started, one that ignores TERM too, one that holds no pipe of ours too. */
static void a_run_ends_when_it_is_cancelled(void **state)
{
    (void)state;
    static const struct {
        const char *first, *then;
    } how[] = {{":", "sleep 60"}, {"sleep 60 &", "wait"}, {"trap '' TERM; sleep 60 &", "wait; wait"}, {"exec 0<&- 1>&- 2>&-", "sleep 60"}};
    for (size_t i = 0; i < sizeof how / sizeof how[0]; i++) {
        char cmd[128], marked[64];
        int word[2];
        struct mt_run_result r;
        struct mt_err e;
        assert_int_equal(pipe(word), 0);
        (void)snprintf(marked, sizeof marked, "/proc/self/fd/%d", word[1]);
        (void)snprintf(cmd, sizeof cmd, "%s%s echo x > %s; %s", how[i].first, how[i].first[strlen(how[i].first) - 1] == '&' ? "" : ";", marked, how[i].then); /* it says the word itself, once it runs */
        const char *argv[] = {"sh", "-c", cmd, NULL};
        struct mt_spawn s = {.path = "/bin/sh", .argv = argv, .new_session = true, .cancel_fd = word[0], .keep_fds = &word[1], .keep_count = 1};
        int64_t t = mt_clock_mono();
        assert_int_equal(mt_run(&s, NULL, 0, NULL, NULL, 50000, &r, &e), -MT_E_CANCELLED);
        assert_non_null(strstr(e.msg, "was ended"));
        (void)close(word[1]);
        char rest[8];
        assert_int_equal(read(word[0], rest, sizeof rest), 2);
        assert_int_equal(read(word[0], rest, sizeof rest), 0); /* nobody that it started has the other end any more */
        assert_true(mt_clock_mono() - t < 20 * MT_NS_PER_S);
        (void)close(word[0]);
    }
}

static void descriptors_do_not_leak_into_children(void **state)
{
    (void)state;
    int leak = open("/dev/null", O_RDONLY); /* not CLOEXEC on purpose */
    char cmd[64];
    (void)snprintf(cmd, sizeof cmd, "test ! -e /proc/self/fd/%d", leak);
    const char *argv[] = {"sh", "-c", cmd, NULL};
    struct mt_spawn s = {.path = "/bin/sh", .argv = argv};
    assert_int_equal(mt_run_ok(&s, NULL, 0, NULL, 5000, NULL), 0);
    (void)close(leak);
}

static void a_written_file_is_whole_and_has_its_mode(void **state)
{
    (void)state;
    const char *p = in_dir("file");
    assert_true(mt_file_is_part("high-water.b3410cb4.tmp"));
    assert_false(mt_file_is_part("high-water") || mt_file_is_part("a.tmp") || mt_file_is_part("x.b3410cbg.tmp") || mt_file_is_part(".b3410cb4.tmp"));
    assert_int_equal(mt_file_write(p, "one", 3, 0600, NULL), 0);
    assert_int_equal(mt_file_write(p, "second", 6, 0640, NULL), 0);
    mt_auto_free char *text = NULL;
    size_t n;
    assert_int_equal(mt_file_read(p, 100, &text, &n, NULL), 0);
    assert_string_equal(text, "second");
    struct stat st;
    assert_int_equal(stat(p, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    char *small = NULL;
    assert_int_equal(mt_file_read(p, 5, &small, NULL, NULL), -MT_E_LIMIT);
    assert_int_equal(mt_file_read(in_dir("none"), 5, &small, NULL, NULL), -MT_E_NOT_FOUND);
}

static void a_tree_is_removed_without_following_links(void **state)
{
    (void)state;
    assert_int_equal(mt_file_mkdirs(in_dir("t/a/b"), 0755, NULL), 0);
    assert_int_equal(mt_file_write(in_dir("keep"), "k", 1, 0600, NULL), 0);
    assert_int_equal(symlink("../keep", in_dir("t/link")), 0);
    assert_int_equal(symlink("..", in_dir("t/a/up")), 0);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, in_dir("t"), NULL), 0);
    assert_int_equal(access(in_dir("t"), F_OK), -1);
    assert_int_equal(access(in_dir("keep"), F_OK), 0);
    assert_int_equal(mt_file_remove_tree(AT_FDCWD, in_dir("t"), NULL), 0);
}

static void a_file_put_there_by_others_is_not_read(void **state)
{
    (void)state;
    char *text = NULL;
    struct mt_err e;
    assert_int_equal(mt_file_write(in_dir("plain"), "42", 2, 0600, NULL), 0);
    assert_int_equal(mt_file_read_plain(in_dir("plain"), geteuid(), 10, &text, NULL, NULL), 0);
    assert_string_equal(text, "42");
    free(text);
    assert_int_equal(mt_file_read_plain(in_dir("plain"), geteuid(), 1, &text, NULL, NULL), -MT_E_LIMIT);
    assert_int_equal(symlink("plain", in_dir("link")), 0);
    assert_int_equal(mt_file_read_plain(in_dir("link"), (uid_t)-1, 10, &text, NULL, &e), -MT_E_DENIED);
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    assert_int_equal(mt_file_read_plain(in_dir("fifo"), (uid_t)-1, 10, &text, NULL, &e), -MT_E_DENIED);
    assert_int_equal(mt_file_read_plain(in_dir("none"), (uid_t)-1, 10, &text, NULL, &e), -MT_E_NOT_FOUND);
    if (geteuid() == 0) {
        assert_int_equal(chown(in_dir("plain"), 12345, 12345), 0);
        assert_int_equal(mt_file_read_plain(in_dir("plain"), 0, 10, &text, NULL, &e), -MT_E_DENIED);
        assert_int_equal(mt_file_read_plain(in_dir("plain"), 12345, 10, &text, NULL, &e), 0);
        free(text);
    }
}

static void a_listener_replaces_only_sockets(void **state)
{
    (void)state;
    int fd = -1;
    struct mt_err e;
    assert_int_equal(mt_file_write(in_dir("precious"), "x", 1, 0600, NULL), 0);
    assert_int_equal(mt_sock_unix_listen(in_dir("precious"), 0600, (uid_t)-1, (gid_t)-1, &fd, &e), -MT_E_CONFLICT);
    assert_int_equal(access(in_dir("precious"), F_OK), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(mt_sock_unix_listen(in_dir("sock"), 0600, (uid_t)-1, (gid_t)-1, &fd, &e), 0);
        (void)close(fd);
    }
}

static void root_takes_its_name_back_from_a_squatter(void **state)
{
    (void)state;
    int fd = -1;
    char path[256];
    struct mt_err e = {0};
    if (geteuid() != 0)
        skip();
    (void)snprintf(path, sizeof path, "%s", in_dir("squatted"));
    for (int how = 0; how < 3; how++) {
        if (how == 0)
            assert_int_equal(mkdir(path, 0700) | mt_file_write(in_dir("squatted/x"), "x", 1, 0600, NULL), 0);
        else if (how == 1)
            assert_int_equal(symlink("/etc/passwd", path), 0);
        else
            assert_int_equal(mt_file_write(path, "x", 1, 0600, NULL), 0);
        assert_int_equal(lchown(path, 12345, 12345), 0);
        assert_int_equal(mt_sock_unix_listen(path, 0600, (uid_t)-1, (gid_t)-1, &fd, &e), 0);
        (void)close(fd);
        assert_int_not_equal(access(in_dir("squatted.taken-by-12345"), F_OK), 0);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(access("/etc/passwd", R_OK), 0);
}

/* In a child: what is taken away is gone for good. */
static void what_is_not_its_own_is_not_written(void **state)
{
    (void)state;
    char own[160], kept[176], sock[176];
    const char *other = in_dir("other"), *moved = in_dir("moved");
    struct mt_err e = {0};
    (void)snprintf(own, sizeof own, "%s/own", dir);
    (void)snprintf(kept, sizeof kept, "%s/kept", own);
    (void)snprintf(sock, sizeof sock, "%s/sock", own);
    assert_int_equal(mkdir(own, 0700), 0);
    assert_int_equal(mt_file_write(other, "before", 6, 0600, &e), 0);
    pid_t pid = fork();
    if (pid == 0) {
        const char *const dirs[] = {own, NULL, "/nowhere/at/all"};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
            _exit(100);
        int rc = mt_landlock_writes(dirs, 3, &e), fd = -1;
        if (rc == -MT_E_UNAVAILABLE)
            _exit(77);
        if (rc < 0)
            _exit(101);
        if (mt_file_write(kept, "a", 1, 0600, &e) < 0 || mt_file_write(kept, "b", 1, 0600, &e) < 0 || mt_sock_unix_listen(sock, 0600, (uid_t)-1, (gid_t)-1, &fd, &e) < 0 || unlink(sock) < 0)
            _exit(1);
        if (open(other, O_RDONLY) < 0) /* reading is as it was */
            _exit(2);
        if (open(other, O_WRONLY) >= 0 || open(other, O_RDWR) >= 0 || truncate(other, 0) == 0 || unlink(other) == 0)
            _exit(3);
        if (open(moved, O_WRONLY | O_CREAT, 0600) >= 0 || mkdir(moved, 0700) == 0 || symlink("x", moved) == 0 || rename(kept, moved) == 0 || rename(other, kept) == 0)
            _exit(4);
        (void)execl("/bin/true", "true", (char *)NULL);
        _exit(errno == EACCES ? 0 : 5);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("SKIP this kernel has no Landlock\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    char *text;
    size_t len;
    assert_int_equal(mt_file_read(other, 100, &text, &len, &e), 0);
    assert_string_equal(text, "before");
    free(text);
}

static void a_parent_without_stdio_hears_of_a_failed_exec(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        const char *argv[] = {"such", NULL};
        pid_t child;
        struct mt_err e;
        for (int i = 0; i < 3; i++)
            (void)close(i);
        /* the pipe that reports a failed exec gets number 1 here, which the child replaces */
        bool ok = mt_spawn(&(struct mt_spawn){.path = "/no/such", .argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1}, &child, NULL,
                           &e) == -MT_E_NOT_FOUND;
        _exit(ok ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_lock_is_exclusive(void **state)
{
    (void)state;
    int a, b;
    assert_int_equal(mt_file_lock(in_dir("lock"), &a, NULL), 0);
    assert_int_equal(mt_file_lock(in_dir("lock"), &b, NULL), -MT_E_CONFLICT);
    (void)close(a);
    assert_int_equal(mt_file_lock(in_dir("lock"), &b, NULL), 0);
    (void)close(b);
}

static void a_unix_socket_knows_its_peer(void **state)
{
    (void)state;
    int l, c, s;
    uid_t uid = 1;
    pid_t pid = 0;
    assert_int_equal(mt_sock_unix_listen(in_dir("sock"), 0600, (uid_t)-1, (gid_t)-1, &l, NULL), 0);
    assert_int_equal(mt_sock_accept(l, &s, NULL), 0);
    assert_int_equal(mt_sock_unix_connect(in_dir("sock"), &c, NULL), 0);
    assert_int_equal(mt_sock_accept(l, &s, NULL), 1);
    assert_int_equal(mt_sock_peercred(s, &uid, NULL, &pid, NULL), 0);
    assert_int_equal(uid, geteuid());
    assert_int_equal(pid, getpid());
    (void)close(l);
    (void)close(c);
    (void)close(s);
    struct mt_err e;
    assert_int_equal(mt_sock_unix_connect(in_dir("nobody"), &c, &e), -MT_E_UNAVAILABLE);
    char path[200];
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    assert_int_equal(mt_sock_unix_connect(path, &c, &e), -MT_E_INVALID);
}

static void digests_match_published_vectors(void **state)
{
    (void)state;
    char hex[MT_SHA256_HEX];
    mt_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    uint8_t mac[MT_SHA256_LEN];
    mt_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac); /* RFC 4231 case 2 */
    mt_hex_encode(mac, sizeof mac, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

static void a_process_is_named_by_its_start_time(void **state)
{
    (void)state;
    uint64_t a, b;
    assert_int_equal(mt_proc_start_time(getpid(), &a, NULL), 0);
    assert_int_equal(mt_proc_start_time(getpid(), &b, NULL), 0);
    assert_true(a == b && a > 0);
    assert_int_equal(mt_proc_start_time(1 << 22, &a, NULL), -MT_E_NOT_FOUND);
    char id[37];
    assert_int_equal(mt_host_boot_id(id, NULL), 0);
    assert_int_equal(strlen(id), 36);
}

static void host_and_port_are_taken_apart_or_refused(void **state)
{
    static const struct {
        const char *text, *host;
        unsigned port; /* 0: refused */
    } rows[] = {{"control.example.net:7443", "control.example.net", 7443}, {"[fd00::1]:1", "fd00::1", 1}, {"192.0.2.1:65535", "192.0.2.1", 65535},
                {"fd00::1:7443", NULL, 0}, {"[fd00::1]", NULL, 0}, {"[fd00::1]7443", NULL, 0}, {"[]:1", NULL, 0}, {"host", NULL, 0}, {"host:", NULL, 0},
                {":1", NULL, 0}, {"host:0", NULL, 0}, {"host:65536", NULL, 0}, {"host:1x", NULL, 0}, {"", NULL, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char host[256];
        uint16_t port = 0;
        struct mt_err e = {0};
        int rc = mt_sock_split(rows[i].text, host, &port, &e);
        assert_int_equal(rc, rows[i].port ? 0 : -MT_E_INVALID);
        if (rc == 0) {
            assert_string_equal(host, rows[i].host);
            assert_int_equal(port, rows[i].port);
        }
    }
}

static void an_address_that_is_not_here_yet_can_be_listened_at(void **state)
{
    struct in6_addr at = {.s6_addr = {0xfd, 0, 0x12, 0x34, 0x56, [15] = 1}};
    int fd = -1, again = -1;
    struct mt_err e = {0};
    (void)state;
    assert_int_equal(mt_sock_freebind_listen(&at, 15180, &fd, &e), 0);
    assert_int_equal(mt_sock_freebind_listen(&at, 15180, &again, &e), -MT_E_CONFLICT);
    assert_int_equal(mt_sock_accept(fd, &again, NULL), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_and_can_be_disarmed),
        cmocka_unit_test(an_event_of_a_source_deleted_in_the_same_batch_is_dropped),
        cmocka_unit_test(host_and_port_are_taken_apart_or_refused),
        cmocka_unit_test(an_address_that_is_not_here_yet_can_be_listened_at),
        cmocka_unit_test(a_child_is_reaped_with_its_status),
        cmocka_unit_test(a_pool_runs_jobs_elsewhere_and_answers_on_the_loop),
        cmocka_unit_test(a_missing_program_is_reported_by_name),
        cmocka_unit_test(a_run_returns_output_input_and_status),
        cmocka_unit_test(a_run_ends_at_its_deadline), cmocka_unit_test(a_run_ends_when_it_is_cancelled),
        cmocka_unit_test(descriptors_do_not_leak_into_children),
        cmocka_unit_test(a_written_file_is_whole_and_has_its_mode),
        cmocka_unit_test(a_tree_is_removed_without_following_links),
        cmocka_unit_test(a_file_put_there_by_others_is_not_read),
        cmocka_unit_test(a_listener_replaces_only_sockets),
        cmocka_unit_test(root_takes_its_name_back_from_a_squatter),
        cmocka_unit_test(a_parent_without_stdio_hears_of_a_failed_exec),
        cmocka_unit_test(a_lock_is_exclusive), cmocka_unit_test(what_is_not_its_own_is_not_written),
        cmocka_unit_test(a_unix_socket_knows_its_peer),
        cmocka_unit_test(digests_match_published_vectors),
        cmocka_unit_test(a_process_is_named_by_its_start_time),
    };
    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
