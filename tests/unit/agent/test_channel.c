/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of agent/channel: what a hostile guest does to its own control channel. */
#include "agent/channel.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/loop.h"
#include "os/sock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    struct mt_loop *loop;
    struct mt_channel *chan;
    char path[64];
    unsigned messages, closed, breaches[MT_BREACH_MAX];
    bool free_at_message;
};

static void on_message(void *arg, const struct mt_guest_msg *msg)
{
    struct fixture *f = arg;
    (void)msg;
    f->messages++;
    if (f->free_at_message) { /* as the end of a VM does that was decided by what its guest said */
        mt_channel_free(f->chan);
        f->chan = NULL;
    }
}

static void on_closed(void *arg, const char *why)
{
    struct fixture *f = arg;
    (void)why;
    f->closed++;
}

static void on_breach(void *arg, enum mt_breach kind)
{
    struct fixture *f = arg;
    f->breaches[kind]++;
}

static int setup(void **s)
{
    static const struct mt_channel_events events = {.message = on_message, .closed = on_closed, .breach = on_breach};
    struct mt_err err = {0};
    struct fixture *f = calloc(1, sizeof *f);
    int fd = -1;
    assert_non_null(f);
    (void)snprintf(f->path, sizeof f->path, "/tmp/mtchan.%d", (int)getpid());
    f->loop = mt_loop_new(&err);
    assert_non_null(f->loop);
    assert_int_equal(mt_sock_unix_listen(f->path, 0600, (uid_t)-1, (gid_t)-1, &fd, &err), 0);
    f->chan = mt_channel_new(f->loop, fd, getuid(), &events, f, &err);
    assert_non_null(f->chan);
    *s = f;
    return 0;
}

static int teardown(void **s)
{
    struct fixture *f = *s;
    mt_channel_free(f->chan);
    mt_loop_free(f->loop);
    (void)unlink(f->path);
    free(f);
    return 0;
}

static void turns(struct fixture *f)
{
    for (int i = 0; i < 20; i++)
        (void)mt_loop_turn(f->loop, 0);
}

static void send_pongs(int fd, unsigned n)
{
    char line[128];
    for (unsigned i = 1; i <= n; i++) {
        int len = snprintf(line, sizeof line, "{\"v\":1,\"type\":\"pong\",\"seq\":%u,\"ts_ns\":1}\n", i);
        if (send(fd, line, (size_t)len, MSG_NOSIGNAL) < 0)
            return; /* dropped already */
    }
}

static void a_receiver_may_free_the_channel(void **s)
{
    struct fixture *f = *s;
    mt_auto_fd int fd = -1;
    f->free_at_message = true;
    assert_int_equal(mt_sock_unix_connect(f->path, &fd, NULL), 0);
    turns(f);
    send_pongs(fd, 3);
    turns(f);
    assert_int_equal(f->messages, 1); /* the other two are in a buffer that is gone */
}

static void new_connections_bring_no_new_burst(void **s)
{
    struct fixture *f = *s;
    int64_t began = mt_clock_mono();
    for (int i = 0; i < 10; i++) {
        mt_auto_fd int fd = -1;
        assert_int_equal(mt_sock_unix_connect(f->path, &fd, NULL), 0);
        turns(f);
        send_pongs(fd, 40);
        turns(f);
    }
    int64_t ms = (mt_clock_mono() - began) / MT_NS_PER_MS;
    assert_true(f->messages >= 40);
    assert_true((int64_t)f->messages <= 50 + 20 * (ms + 1000) / 1000);
    assert_true(mt_channel_breaches(f->chan) > 0);
    assert_int_equal(f->breaches[MT_BREACH_RATE], mt_channel_breaches(f->chan));
}

static void a_connection_is_greeted_by_its_own_first_message(void **s)
{
    struct fixture *f = *s;
    mt_auto_fd int one = -1;
    mt_auto_fd int two = -1;
    assert_int_equal(mt_sock_unix_connect(f->path, &one, NULL), 0);
    turns(f);
    assert_true(mt_channel_connected(f->chan) && !mt_channel_greeted(f->chan));
    send_pongs(one, 1);
    turns(f);
    assert_true(mt_channel_greeted(f->chan));
    assert_int_equal(mt_sock_unix_connect(f->path, &two, NULL), 0); /* takes the place of the first */
    turns(f);
    assert_true(mt_channel_connected(f->chan) && !mt_channel_greeted(f->chan));
}

/* Time may only come too late, never too early: a connection after a breach is not let in before its second is over, and is then. */
static void a_breach_closes_the_door_for_a_second(void **s)
{
    struct fixture *f = *s;
    mt_auto_fd int one = -1;
    mt_auto_fd int two = -1;
    assert_int_equal(mt_sock_unix_connect(f->path, &one, NULL), 0);
    turns(f);
    int64_t began = mt_clock_mono();
    assert_int_equal(send(one, "{}\n", 3, MSG_NOSIGNAL), 3);
    turns(f);
    assert_int_equal(f->breaches[MT_BREACH_MESSAGE], 1);
    assert_false(mt_channel_connected(f->chan));
    assert_int_equal(mt_sock_unix_connect(f->path, &two, NULL), 0);
    send_pongs(two, 1);
    while (!f->messages && mt_clock_mono() - began < 40 * MT_NS_PER_S)
        (void)mt_loop_turn(f->loop, 100);
    assert_int_equal(f->messages, 1);
    assert_true(mt_clock_mono() - began >= MT_NS_PER_S * 99 / 100);
    assert_int_equal(mt_channel_breaches(f->chan), 1); /* a queue of one is no crowd */
}

static void knock(const char *path)
{
    for (;;) {
        mt_auto_fd int fd = -1;
        if (mt_sock_unix_connect(path, &fd, NULL) < 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL); /* the queue is full */
    }
}

static int64_t cpu_ns(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
    return (int64_t)t.tv_sec * MT_NS_PER_S + t.tv_nsec;
}

/* A guest that connects and hangs up as fast as it can: what it costs is bounded by the second, and who comes afterwards comes in. */
static void a_crowd_at_the_door_costs_little(void **s)
{
    struct fixture *f = *s;
    mt_auto_fd int fd = -1;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        knock(f->path);
    int64_t began = mt_clock_mono(), cpu = cpu_ns(), took;
    while ((took = mt_clock_mono() - began) < 3 * MT_NS_PER_S)
        (void)mt_loop_turn(f->loop, 50);
    cpu = cpu_ns() - cpu;
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    print_message("%.1f %% of a core, %u let in, %u times too many\n", 100.0 * (double)cpu / (double)took, f->closed, f->breaches[MT_BREACH_CONNECTS]);
    assert_true(f->breaches[MT_BREACH_CONNECTS] >= 1);
    assert_true((int64_t)f->breaches[MT_BREACH_CONNECTS] <= 1 + took / MT_NS_PER_S);
    assert_true(f->closed <= 2 * (20 + 2 * (unsigned)(took / MT_NS_PER_S + 1))); /* each is told twice at most: by its end, and by the next one's coming */
    assert_true(cpu < took / 20);
    while (mt_sock_unix_connect(f->path, &fd, NULL) < 0 && mt_clock_mono() - began < 40 * MT_NS_PER_S)
        (void)mt_loop_turn(f->loop, 100); /* the queue is full until the door opens */
    send_pongs(fd, 1);
    while (!f->messages && mt_clock_mono() - began < 60 * MT_NS_PER_S)
        (void)mt_loop_turn(f->loop, 100);
    assert_int_equal(f->messages, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_receiver_may_free_the_channel, setup, teardown),
        cmocka_unit_test_setup_teardown(new_connections_bring_no_new_burst, setup, teardown),
        cmocka_unit_test_setup_teardown(a_breach_closes_the_door_for_a_second, setup, teardown),
        cmocka_unit_test_setup_teardown(a_crowd_at_the_door_costs_little, setup, teardown),
        cmocka_unit_test_setup_teardown(a_connection_is_greeted_by_its_own_first_message, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
