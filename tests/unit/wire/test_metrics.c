/* SPDX-License-Identifier: Apache-2.0 */
/* The list of metrics and the writer of the page; the small server that answers with it. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/sock.h"
#include "wire/metrics.h"
#include "wire/metrics_http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <cmocka.h>

static bool word(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz_0123456789", s[i]))
            return false;
    return n > 0;
}

/* scheduling-and-operations.md §8: prefix, units, labels that must never be. */
static void every_metric_of_the_list_keeps_the_rules(void **state)
{
    static const char *const forbidden[] = {"instance", "user", "email", "hostname", "path", "org", "env", "volume", "error", "node", "app", "route"};
    (void)state;
    for (int i = 0; i < MT_M_MAX; i++) {
        const struct mt_metric_info *x = mt_metric_info((enum mt_metric)i);
        size_t len = strlen(x->name), labels = x->labels[0] != '\0';
        assert_true(mt_starts_with(x->name, "moat_") && word(x->name, len));
        assert_true((len > 6 && strcmp(x->name + len - 6, "_total") == 0) == (x->kind == MT_METRIC_COUNTER));
        if (x->kind >= MT_METRIC_HISTOGRAM)
            assert_string_equal(x->name + len - 8, "_seconds");
        assert_true(x->who != 0 && strlen(x->help) > 10 && x->help[strlen(x->help) - 1] == '.' && !strpbrk(x->help, "\\\n\t"));
        for (const char *l = x->labels; *l;) {
            size_t n = strcspn(l, ",");
            assert_true(word(l, n) && !(n == 2 && memcmp(l, "le", 2) == 0));
            for (size_t k = 0; k < MT_ARRAY_LEN(forbidden); k++)
                assert_false(n == strlen(forbidden[k]) && memcmp(l, forbidden[k], n) == 0);
            l += n + (l[n] == ',');
            labels += *l != '\0';
        }
        assert_in_range(labels, 0, MT_METRICS_LABELS_MAX);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(mt_metric_info((enum mt_metric)k)->name, x->name);
    }
}

static void a_page_is_written_as_the_format_says(void **state)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_METRICS_PAGE_MAX);
    struct mt_metrics m;
    struct mt_hist h = {0};
    struct mt_err err = {0};
    (void)state;
    mt_hist_observe(&h, -5);
    mt_hist_observe(&h, 5000);          /* the bound itself belongs to its bucket */
    mt_hist_observe(&h, 5001);
    mt_hist_observe_ns(&h, INT64_C(301) * 1000000000); /* past the last bound */
    mt_metrics_begin(&m, &b, MT_METRICS_EDGE);
    mt_metrics_u64(&m, MT_M_E_BYTES, UINT64_MAX, "in");
    mt_metrics_u64(&m, MT_M_E_BYTES, 0, "out");
    mt_metrics_us(&m, MT_M_E_AGE, -1500000);
    mt_metrics_u64(&m, MT_M_E_CONNECTIONS, 7, "443", "a\"b\\c\nd\x01\xff");
    assert_int_equal(mt_metrics_end(&m, &err), 0);
    const char *t = mt_buf_cstr(&b);
    assert_true(mt_starts_with(t, "# HELP moat_build_info Always 1; what runs here.\n# TYPE moat_build_info gauge\n"
                                  "moat_build_info{component=\"edge\",version=\"" MOAT_VERSION "\",revision=\""));
    assert_non_null(strstr(t, "# TYPE moat_edge_bytes_total counter\nmoat_edge_bytes_total{direction=\"in\"} 18446744073709551615\n"
                              "moat_edge_bytes_total{direction=\"out\"} 0\n# HELP moat_edge_config_age_seconds "));
    assert_non_null(strstr(t, "moat_edge_config_age_seconds -1.500000\n"));
    assert_non_null(strstr(t, "moat_edge_connections_total{listener_port=\"443\",result=\"a\\\"b\\\\c\\nd\?\?\"} 7\n"));

    mt_buf_reset(&b);
    mt_metrics_begin(&m, &b, MT_METRICS_CONTROL);
    mt_metrics_hist(&m, MT_M_SCHED_PASS_SECONDS, &h, "full");
    mt_metrics_hist(&m, MT_M_SECRETS_SECONDS, &h);
    assert_int_equal(mt_metrics_end(&m, &err), 0);
    t = mt_buf_cstr(&b);
    assert_non_null(strstr(t, "moat_scheduler_pass_duration_seconds_bucket{kind=\"full\",le=\"0.005\"} 2\n"
                              "moat_scheduler_pass_duration_seconds_bucket{kind=\"full\",le=\"0.01\"} 3\n"));
    assert_non_null(strstr(t, "{kind=\"full\",le=\"300\"} 3\nmoat_scheduler_pass_duration_seconds_bucket{kind=\"full\",le=\"+Inf\"} 4\n"
                              "moat_scheduler_pass_duration_seconds_sum{kind=\"full\"} 301.010001\n"
                              "moat_scheduler_pass_duration_seconds_count{kind=\"full\"} 4\n"));
    assert_non_null(strstr(t, "moat_secrets_delivery_seconds_bucket{le=\"+Inf\"} 4\nmoat_secrets_delivery_seconds_sum 301.010001\n"
                              "moat_secrets_delivery_seconds_count 4\n"));
}

static void a_process_exports_no_more_than_its_bound(void **state)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_METRICS_PAGE_MAX);
    struct mt_metrics m;
    struct mt_hist h = {0};
    struct mt_err err = {0};
    char name[16];
    size_t lines = 0;
    (void)state;
    mt_metrics_begin(&m, &b, MT_METRICS_CONTROL);
    for (unsigned i = 0; i < 150; i++) { /* 18 series each: some hundred do not fit */
        (void)snprintf(name, sizeof name, "/%u", i);
        mt_metrics_hist(&m, MT_M_HTTP_SECONDS, &h, "GET", name);
    }
    assert_int_equal(mt_metrics_end(&m, &err), 0);
    for (const char *l = mt_buf_cstr(&b); *l; l = strchr(l, '\n') + 1)
        lines += *l != '#';
    assert_in_range(lines, MT_METRICS_SERIES_MAX - 18, MT_METRICS_SERIES_MAX);
    (void)snprintf(name, sizeof name, "# %u ", 150 * 18 + 4 - (unsigned)lines);
    const char *end = strstr(mt_buf_cstr(&b), name);
    assert_non_null(end);
    assert_string_equal(end + strlen(name), "series are left out: a process exports 2000 at most\n");
    mt_auto_buf struct mt_buf small = MT_BUF_INIT(64);
    mt_metrics_begin(&m, &small, MT_METRICS_CONTROL);
    assert_int_equal(mt_metrics_end(&m, &err), -MT_E_LIMIT);
}

/* ---- the server ---- */

static int page(void *arg, struct mt_buf *b, struct mt_err *err)
{
    bool *bad = arg;
    if (*bad)
        return MT_FAIL(err, MT_E_IO, "no page today");
    mt_buf_puts(b, "moat_test 1\n");
    return 0;
}

static bool is_ready(void *arg, const char **ret_why)
{
    (void)arg;
    *ret_why = "not yet\n";
    return false;
}

static int dial(uint16_t port)
{
    int fd = -1;
    struct mt_err err = {0};
    assert_int_equal(mt_sock_tcp_connect("127.0.0.1", port, mt_clock_mono() + 5 * MT_NS_PER_S, -1, &fd, &err), 0);
    assert_int_equal(mt_sock_nonblock(fd, true, &err), 0);
    return fd;
}

/* What comes until the server closes, into @ret. */
static void hear(struct mt_loop *l, int fd, char *ret, size_t size)
{
    size_t have = 0;
    int64_t end = mt_clock_mono() + 20 * MT_NS_PER_S;
    while (mt_clock_mono() < end) {
        ssize_t n = recv(fd, ret + have, size - 1 - have, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN))
            break;
        have += n > 0 ? (size_t)n : 0;
        if (n < 0)
            (void)mt_loop_turn(l, 5);
    }
    ret[have] = '\0';
    assert_true(mt_clock_mono() < end);
}

static void ask(struct mt_loop *l, uint16_t port, const char *request, char *ret, size_t size)
{
    mt_auto_fd int fd = dial(port);
    for (const char *p = request; *p; p++) { /* byte by byte: its end may be cut anywhere */
        assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
        (void)mt_loop_turn(l, 0);
    }
    hear(l, fd, ret, size);
}

static uint16_t free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    mt_auto_fd int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    return ntohs(at.sin_port);
}

static struct mt_metrics_http *serve_at(struct mt_loop *l, uint16_t port, bool *bad)
{
    char at[32];
    struct mt_err err = {0};
    (void)snprintf(at, sizeof at, "127.0.0.1:%u", port);
    struct mt_metrics_http_conf conf = {.address = at, .page = page, .ready = is_ready, .arg = bad};
    struct mt_metrics_http *m = mt_metrics_http_new(l, &conf, &err);
    assert_non_null(m);
    return m;
}

static void the_server_answers_its_three_pages(void **state)
{
    struct mt_err err = {0};
    struct mt_loop *l = mt_loop_new(&err);
    bool bad = false;
    char t[4096];
    uint16_t port = free_port();
    (void)state;
    struct mt_metrics_http *m = serve_at(l, port, &bad);
    ask(l, port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: 12\r\n"));
    assert_non_null(strstr(t, "\r\n\r\nmoat_test 1\n"));
    ask(l, port, "GET /livez HTTP/1.0\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 200 "));
    ask(l, port, "GET /readyz HTTP/1.1\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 503 ") && strstr(t, "\r\n\r\nnot yet\n"));
    ask(l, port, "POST /metrics HTTP/1.1\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 404 "));
    bad = true;
    ask(l, port, "GET /metrics HTTP/1.1\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 500 ") && strstr(t, "no page today"));
    mt_metrics_http_free(m);
    mt_loop_free(l);
}

static void nobody_who_connects_can_hold_it_up(void **state)
{
    struct mt_err err = {0};
    struct mt_loop *l = mt_loop_new(&err);
    bool bad = false;
    char t[4096];
    int held[16];
    uint16_t port = free_port();
    (void)state;
    struct mt_metrics_http *m = serve_at(l, port, &bad);
    mt_auto_fd int big = dial(port); /* a head without an end is cut at its bound */
    for (int i = 0; i < 40; i++) {
        char junk[100];
        memset(junk, 'x', sizeof junk);
        (void)!send(big, junk, sizeof junk, MSG_NOSIGNAL);
        (void)mt_loop_turn(l, 0);
    }
    hear(l, big, t, sizeof t);
    assert_string_equal(t, "");
    for (size_t i = 0; i < 16; i++) {
        held[i] = dial(port);
        (void)mt_loop_turn(l, 100);
    }
    mt_auto_fd int late = dial(port); /* the seventeenth is closed at once */
    hear(l, late, t, sizeof t);
    assert_string_equal(t, "");
    for (size_t i = 0; i < 16; i++)
        mt_closep(&held[i]);
    for (int i = 0; i < 32; i++)
        (void)mt_loop_turn(l, 1);
    ask(l, port, "GET /livez HTTP/1.1\r\n\r\n", t, sizeof t);
    assert_true(mt_starts_with(t, "HTTP/1.1 200 "));
    held[0] = dial(port); /* freeing it with somebody there */
    (void)mt_loop_turn(l, 100);
    mt_metrics_http_free(m);
    mt_closep(&held[0]);
    mt_loop_free(l);
}

static void it_listens_at_inner_addresses_only(void **state)
{
    static const char *const refused[] = {"0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "8.8.8.8:9464", "[::ffff:127.0.0.1]:9464",
                                          "[ff02::1]:9464", "localhost:9464", "9464", "::1:9464", "[::1]:0", "[::1]:65536"};
    struct mt_err err = {0};
    int fd = -1;
    char at[64];
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(refused); i++)
        assert_int_equal(mt_sock_private_listen(refused[i], &fd, &err), -MT_E_INVALID);
    (void)snprintf(at, sizeof at, "[fd00:6d6f:6174::1]:%u", free_port()); /* not on this host yet */
    assert_int_equal(mt_sock_private_listen(at, &fd, &err), 0);
    mt_closep(&fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_metric_of_the_list_keeps_the_rules),  cmocka_unit_test(a_page_is_written_as_the_format_says),
        cmocka_unit_test(a_process_exports_no_more_than_its_bound),  cmocka_unit_test(the_server_answers_its_three_pages),
        cmocka_unit_test(nobody_who_connects_can_hold_it_up),        cmocka_unit_test(it_listens_at_inner_addresses_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
