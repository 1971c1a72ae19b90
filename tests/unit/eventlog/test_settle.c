/* SPDX-License-Identifier: Apache-2.0 */
/* A connection is lost with COMMIT on its way, and the server reads that COMMIT only after the appender has looked whether it took
 * effect. A command without an idempotency key must have run once all the same. Between appender and server stands a proxy that
 * keeps what was sent back, cuts the connection, and delivers it at the worst moment. */
#include "lab.h"

#include "base/buf.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static struct lab lab;

struct proxy {
    char path[108], upstream[108];
    int listen_fd;
    pthread_t thread;
    atomic_int armed;     /* the next batch is kept back */
    atomic_int cut;       /* it was, and its connection is gone for the appender */
    atomic_int delivered; /* 1 it was delivered late, 2 nobody took it any more */
    atomic_int settled;   /* the log was asked about it */
    int late_fd;
    struct mt_buf late;
};
static struct proxy px;

static int dial(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
    return fd;
}

static bool all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        if (w <= 0)
            return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

static bool holds(const struct mt_buf *b, const char *word)
{
    return memmem(b->p, b->len, word, strlen(word)) != NULL;
}

/* What was kept back reaches the server now, and its answer is waited for. */
static void deliver(void)
{
    char answer[4096];
    ssize_t n = -1;
    if (all(px.late_fd, (const char *)px.late.p, px.late.len)) {
        struct pollfd p = {.fd = px.late_fd, .events = POLLIN};
        struct mt_buf got = MT_BUF_INIT(1u << 20);
        while (poll(&p, 1, 3000) > 0 && (n = recv(px.late_fd, answer, sizeof answer, 0)) > 0) {
            mt_buf_put(&got, answer, (size_t)n);
            if (holds(&got, "COMMIT")) /* the tag of the answer */
                break;
        }
        mt_buf_done(&got);
    }
    (void)close(px.late_fd);
    atomic_store(&px.delivered, n > 0 ? 1 : 2);
}

static void *relay(void *arg)
{
    int client = (int)(intptr_t)arg, server = dial(px.upstream);
    bool keeping = false, asked = false;
    char buf[8192];
    for (;;) {
        struct pollfd p[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};
        if (poll(p, 2, -1) < 0)
            break;
        if (p[1].revents) {
            ssize_t n = recv(server, buf, sizeof buf, 0);
            if (n <= 0 || !all(client, buf, (size_t)n))
                break;
        }
        if (!p[0].revents)
            continue;
        ssize_t n = recv(client, buf, sizeof buf, 0);
        if (n <= 0)
            break;
        if (atomic_load(&px.armed)) {
            atomic_store(&px.armed, 0);
            keeping = true;
        }
        if (keeping) {
            mt_buf_put(&px.late, buf, (size_t)n);
            if (holds(&px.late, "log_commit")) { /* the whole batch, its end included */
                px.late_fd = server;
                (void)close(client);
                atomic_store(&px.cut, 1);
                return NULL;
            }
            continue;
        }
        bool asks = memmem(buf, (size_t)n, "log_settle", 10) != NULL; /* prepared, then run */
        if (asked && !asks && atomic_load(&px.delivered) == 0)
            deliver(); /* the log was asked, the next thing sent is what follows from the answer */
        if (atomic_load(&px.cut) && asks) {
            atomic_store(&px.settled, 1);
            asked = true;
        }
        if (!all(server, buf, (size_t)n))
            break;
    }
    (void)close(client);
    (void)close(server);
    return NULL;
}

static void *accept_main(void *arg)
{
    (void)arg;
    for (;;) {
        int fd = accept(px.listen_fd, NULL, NULL);
        pthread_t t;
        if (fd < 0)
            return NULL;
        if (pthread_create(&t, NULL, relay, (void *)(intptr_t)fd) != 0)
            abort();
        (void)pthread_detach(t);
    }
}

static int up(void **state)
{
    (void)state;
    struct mt_err err = {0};
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char dir[100];
    int r = lab_up(&lab, &err);
    if (r < 0) {
        print_error("%s\n", err.msg);
        return r;
    }
    (void)snprintf(dir, sizeof dir, "%s/px", lab.sc.dir);
    (void)snprintf(px.path, sizeof px.path, "%.90s/.s.PGSQL.5432", dir);
    (void)snprintf(px.upstream, sizeof px.upstream, "%.90s/.s.PGSQL.5432", lab.sc.sock);
    (void)snprintf(a.sun_path, sizeof a.sun_path, "%s", px.path);
    mt_buf_init(&px.late, 1u << 20);
    px.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (mkdir(dir, 0755) < 0 || px.listen_fd < 0 || bind(px.listen_fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(px.listen_fd, 16) < 0 ||
        pthread_create(&px.thread, NULL, accept_main, NULL) != 0) {
        print_error("proxy: %s\n", strerror(errno));
        return -1;
    }
    return 0;
}

static int down(void **state)
{
    (void)state;
    (void)shutdown(px.listen_fd, SHUT_RDWR);
    (void)pthread_join(px.thread, NULL);
    (void)close(px.listen_fd);
    mt_buf_done(&px.late);
    lab_down(&lab);
    return 0;
}

static int set(struct mt_appender *ap, int value, struct mt_err *err)
{
    struct mt_cmd *c = lab_cmd();
    struct mt_cmd_done done;
    lab_event(c, MT_EV_CLUSTER_CONFIG_SET, "cluster", NULL, NULL, NULL,
              json_pack("{s:s,s:i,s:s}", "key", "settle", "value", value, "reason", "r"));
    int r = mt_append(ap, c, 20000, &done, err);
    mt_cmd_done_free(&done);
    return r;
}

static void a_commit_that_lands_late_does_not_land_twice(void **s)
{
    (void)s;
    struct mt_err err = {0};
    struct mt_appender *ap = NULL;
    char info[300], dir[100];
    const char *rest = strstr(lab.sc.control, "host=");
    assert_non_null(rest);
    rest += strcspn(rest, " ");
    (void)snprintf(dir, sizeof dir, "%s/px", lab.sc.dir);
    (void)snprintf(info, sizeof info, "host=%s%.180s", dir, rest);
    const struct mt_appender_conf conf = {.pg = {.conninfo = info, .role = "moat_projector"}, .lane_events = 1};
    assert_int_equal(mt_appender_new(&conf, &ap, &err), 0);
    for (int i = 1; i <= 12; i++) /* until batches go in one trip */
        assert_int_equal(set(ap, i, &err), 0);
    atomic_store(&px.armed, 1);
    assert_int_equal(set(ap, 99, &err), 0);
    assert_int_equal(atomic_load(&px.cut), 1);
    assert_int_equal(atomic_load(&px.settled), 1);
    assert_int_equal(set(ap, 100, &err), 0); /* and whatever was late has come by now */
    assert_int_not_equal(atomic_load(&px.delivered), 0);
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM moat.events WHERE payload->>'key' = 'settle' AND payload->>'value' = '99'"), "1");
    assert_string_equal(lab_text(&lab, "SELECT count(*)::text FROM moat.events WHERE payload->>'key' = 'settle'"), "14");
    mt_appender_free(ap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_commit_that_lands_late_does_not_land_twice)};
    return cmocka_run_group_tests(tests, up, down);
}
