/* SPDX-License-Identifier: Apache-2.0 */
/* Counting of health results (runtime.md §12, ruling R23), and the probe against real listeners on loopback. */
#include "agent/health.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#define SEC MT_NS_PER_S

static const struct mt_health_conf conf = {.check = {.type = MT_HEALTH_TCP, .port = 80, .interval_seconds = 10, .timeout_seconds = 2,
                                                     .grace_period_seconds = 20, .success_threshold = 2, .failure_threshold = 3}};

static void probes_are_quick_at_first_then_each_second_then_at_the_interval(void **s)
{
    (void)s;
    struct mt_health_count c = {.started_ns = 100 * SEC};
    assert_int_equal(mt_health_next_ns(&c, &conf, 101 * SEC), 101 * SEC + 25 * MT_NS_PER_MS);
    assert_int_equal(mt_health_next_ns(&c, &conf, 106 * SEC), 107 * SEC);
    assert_int_equal(mt_health_next_ns(&c, &conf, 121 * SEC), 131 * SEC);
    c.was_ready = true;
    assert_int_equal(mt_health_next_ns(&c, &conf, 101 * SEC), 111 * SEC);
}

static void readiness_needs_its_successes(void **s)
{
    (void)s;
    struct mt_health_count c = {.started_ns = 100 * SEC};
    assert_int_equal(mt_health_count_result(&c, &conf, true, 101 * SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, false, 101 * SEC), MT_HEALTH_SAME); /* starts over */
    assert_int_equal(mt_health_count_result(&c, &conf, true, 102 * SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, true, 102 * SEC), MT_HEALTH_READY);
    assert_int_equal(mt_health_count_result(&c, &conf, true, 103 * SEC), MT_HEALTH_SAME);
}

static void failures_in_grace_do_not_count(void **s)
{
    (void)s;
    struct mt_health_count c = {.started_ns = 100 * SEC};
    for (int i = 0; i < 500; i++)
        assert_int_equal(mt_health_count_result(&c, &conf, false, 119 * SEC), MT_HEALTH_SAME);
    for (int i = 0; i < 8; i++)
        assert_int_equal(mt_health_count_result(&c, &conf, false, 121 * SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, false, 121 * SEC), MT_HEALTH_GIVE_UP);
}

static void lost_health_makes_unready_then_ends(void **s)
{
    (void)s;
    struct mt_health_count c = {.started_ns = 0, .ready = true, .was_ready = true};
    assert_int_equal(mt_health_count_result(&c, &conf, false, SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, false, SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, false, SEC), MT_HEALTH_UNREADY);
    for (int i = 4; i < 9; i++)
        assert_int_equal(mt_health_count_result(&c, &conf, false, SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, false, SEC), MT_HEALTH_GIVE_UP);
    struct mt_health_conf stay = conf;
    stay.stay_unready = true;
    assert_int_equal(mt_health_count_result(&c, &stay, false, SEC), MT_HEALTH_SAME); /* policy never: stays unready */
    assert_int_equal(mt_health_count_result(&c, &conf, true, SEC), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &conf, true, SEC), MT_HEALTH_READY);
}

static void never_ready_ends_at_the_startup_timeout(void **s)
{
    (void)s;
    struct mt_health_count c = {.started_ns = 0};
    int64_t limit = (int64_t)mt_health_startup_timeout(&conf.check) * SEC;
    struct mt_health_conf slow = conf;
    slow.check.failure_threshold = 20;
    assert_int_equal(mt_health_count_result(&c, &slow, false, limit - 1), MT_HEALTH_SAME);
    assert_int_equal(mt_health_count_result(&c, &slow, false, limit), MT_HEALTH_TOO_LATE);
}

/* ---- the probe --------------------------------------------------------------------------- */

struct seen {
    struct mt_loop *loop;
    int calls;
    bool ok;
    char why[64];
    struct mt_probe *probe;
    int status;
    char body[MT_PROBE_BODY_MAX + 1];
    size_t body_len;
};

static void on_result(void *arg, bool ok, const char *why)
{
    struct seen *v = arg;
    v->calls++;
    v->ok = ok;
    (void)snprintf(v->why, sizeof v->why, "%s", why ? why : "");
    const char *body;
    v->status = mt_probe_answer(v->probe, &body, &v->body_len);
    memcpy(v->body, body, v->body_len);
    mt_loop_stop(v->loop, 0);
}

struct server {
    int fd;
    uint16_t port;
};

static struct server listener(void)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    socklen_t n = sizeof a;
    struct server v = {.fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (v.fd < 0 || bind(v.fd, (struct sockaddr *)&a, n) < 0 || listen(v.fd, 4) < 0 || getsockname(v.fd, (struct sockaddr *)&a, &n) < 0)
        fail_msg("no listener");
    v.port = ntohs(a.sin6_port);
    return v;
}

static struct seen probe(const struct server *srv, enum mt_health_type type, const char *answer, int64_t ms)
{
    struct mt_err err = {0};
    struct seen v = {.loop = mt_loop_new(&err)};
    struct mt_health h = {.type = type, .port = srv->port, .path = "/health"};
    struct mt_probe *p = mt_probe_start(v.loop, &h, &in6addr_loopback, &in6addr_loopback, ms, on_result, &v, &err);
    mt_auto_fd int client = -1;
    v.probe = p;
    assert_non_null(p);
    assert_int_equal(v.calls, 0); /* never from inside the start */
    if (answer) {
        char got[512] = "";
        (void)mt_loop_turn(v.loop, 100);
        client = accept(srv->fd, NULL, NULL);
        if (recv(client, got, sizeof got - 1, 0) < 0 || send(client, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            fail_msg("no talk");
        assert_non_null(strstr(got, "GET /health HTTP/1.1\r\nHost: [::1]"));
    }
    (void)mt_loop_run(v.loop);
    assert_int_equal(v.calls, 1);
    mt_probe_free(p);
    mt_loop_free(v.loop);
    return v;
}

static void tcp_and_http_probes_tell_what_they_saw(void **s)
{
    (void)s;
    struct server srv = listener();
    assert_true(probe(&srv, MT_HEALTH_TCP, NULL, 1000).ok);
    (void)close(accept(srv.fd, NULL, NULL));
    assert_true(probe(&srv, MT_HEALTH_HTTP, "HTTP/1.1 204 No Content\r\n\r\n", 1000).ok);
    struct seen v = probe(&srv, MT_HEALTH_HTTP, "HTTP/1.1 503 Busy\r\n\r\n", 1000);
    assert_false(v.ok);
    assert_string_equal(v.why, "http_503");
    assert_string_equal(probe(&srv, MT_HEALTH_HTTP, "SSH-2.0-OpenSSH\r\n", 1000).why, "not HTTP");
    assert_string_equal(probe(&srv, MT_HEALTH_HTTP, NULL, 50).why, "no answer in time");
    (void)close(srv.fd);
    assert_string_equal(probe(&srv, MT_HEALTH_TCP, NULL, 1000).why, "connection refused");
}

/* The server keeps the connection open: what it said so far counts, after a short wait. */
static void a_failing_answer_is_kept_for_its_autopsy(void **s)
{
    (void)s;
    static char text[3000], many[2500];
    struct server srv = listener();
    struct seen v = probe(&srv, MT_HEALTH_HTTP, "HTTP/1.1 503 Busy\r\nX: y\r\n\r\nno database", 1000);
    assert_int_equal(v.status, 503);
    assert_string_equal(v.body, "no database");
    assert_string_equal(v.why, "http_503");
    memset(many, 'b', sizeof many - 1);
    (void)snprintf(text, sizeof text, "HTTP/1.1 500 Oops\r\n\r\n%s", many);
    v = probe(&srv, MT_HEALTH_HTTP, text, 1000);
    assert_int_equal(v.body_len, MT_PROBE_BODY_MAX);
    assert_int_equal(probe(&srv, MT_HEALTH_HTTP, "HTTP/1.1 200 OK\r\n\r\nfine", 1000).status, 0);
    v = probe(&srv, MT_HEALTH_HTTP, "HTTP/1.1 404 No\r\nno end of the headers", 50);
    assert_int_equal(v.status, 404);
    assert_int_equal(v.body_len, 0);
    (void)close(srv.fd);
}

/* Where a route puts PROXY v2 before each connection, the check speaks it too: LOCAL, which names nobody (proxy-protocol.txt §2.2). */
static void behind_proxy_v2_a_local_header_comes_first(void **s)
{
    static const char local[16] = "\r\n\r\n\0\r\nQUIT\n\x20\0\0"; /* version 2, LOCAL; unspecified; no bytes follow */
    (void)s;
    for (int http = 0; http < 2; http++) {
        struct server srv = listener();
        struct mt_err err = {0};
        struct seen v = {.loop = mt_loop_new(&err)};
        struct mt_health h = {.type = http ? MT_HEALTH_HTTP : MT_HEALTH_TCP, .port = srv.port, .path = "/health", .proxy_protocol = true};
        struct mt_probe *p = mt_probe_start(v.loop, &h, &in6addr_loopback, &in6addr_loopback, 1000, on_result, &v, &err);
        char got[512] = "";
        v.probe = p;
        assert_non_null(p);
        (void)mt_loop_turn(v.loop, 100);
        mt_auto_fd int client = accept(srv.fd, NULL, NULL);
        ssize_t n = recv(client, got, sizeof got - 1, 0);
        assert_true(n >= (ssize_t)sizeof local);
        assert_memory_equal(got, local, sizeof local);
        if (http) {
            assert_memory_equal(got + sizeof local, "GET /health HTTP/1.1\r\n", 22);
            assert_non_null(strstr(got + sizeof local, "\r\nUser-Agent: moat-health\r\n"));
            assert_true(send(client, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL) == 19);
        } else {
            assert_int_equal(n, sizeof local);
            assert_int_equal(recv(client, got, sizeof got, 0), 0); /* an end, not a reset */
        }
        if (v.calls == 0)
            (void)mt_loop_run(v.loop);
        assert_true(v.calls == 1 && v.ok);
        mt_probe_free(p);
        mt_loop_free(v.loop);
        (void)close(srv.fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probes_are_quick_at_first_then_each_second_then_at_the_interval),
        cmocka_unit_test(readiness_needs_its_successes),
        cmocka_unit_test(failures_in_grace_do_not_count),
        cmocka_unit_test(lost_health_makes_unready_then_ends),
        cmocka_unit_test(never_ready_ends_at_the_startup_timeout),
        cmocka_unit_test(tcp_and_http_probes_tell_what_they_saw),
        cmocka_unit_test(a_failing_answer_is_kept_for_its_autopsy),
        cmocka_unit_test(behind_proxy_v2_a_local_header_comes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
