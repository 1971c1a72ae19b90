/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over a real Unix socket: what clients see, what handlers are promised. */
#include "wire/http_server.h"

#include "base/clock.h"
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[64], path[96];
static struct mt_http_server *server;
enum { LONG_MS = 30000 }; /* until what comes at once on a quiet machine */
static atomic_int destroyed, rounds, park_ms = LONG_MS;
static struct mt_http_req *feed; /* a stream kept by the test */
static unsigned workers = 3;
static atomic_int gate_open, order_n;
static char order[32]; /* of the handlers that ran, one letter each; written by one worker */

static void count_destroy(void *state)
{
    (void)state;
    atomic_fetch_add(&destroyed, 1);
}

static void reply_text(struct mt_http_req *r, unsigned status, const char *text)
{
    char *b = strdup(text);
    mt_http_reply(r, status, "text/plain", b, strlen(text));
}

static void handle(struct mt_http_req *r, void *worker, void *arg)
{
    (void)worker;
    (void)arg;
    const char *p = mt_http_req_path(r);
    if (strcmp(p, "/echo") == 0) {
        size_t n;
        const char *body = mt_http_req_body(r, &n);
        char *copy = malloc(n + 1);
        memcpy(copy, body, n + 1);
        mt_http_add_header(r, "X-Seen", mt_http_req_header(r, "x-tOken") ? "yes\r\nEvil: 1" : "no");
        mt_http_reply(r, 200, "text/plain", copy, n);
    } else if (strcmp(p, "/peer") == 0) {
        uid_t uid = 12345;
        pid_t pid = 0;
        char t[64];
        int rc = mt_http_req_peer(r, &uid, &pid);
        snprintf(t, sizeof t, "%d %u %d", rc, uid, pid == getpid());
        reply_text(r, 200, t);
    } else if (strcmp(p, "/query") == 0) {
        char t[512] = "";
        const char *k, *v;
        for (size_t i = 0; mt_http_req_query_at(r, i, &k, &v); i++) {
            size_t l = strlen(t);
            snprintf(t + l, sizeof t - l, "[%s=%s]", k, v);
        }
        reply_text(r, 200, t);
    } else if (strcmp(p, "/park") == 0) {
        if (mt_http_req_round(r) == 0) {
            mt_http_req_set_state(r, &destroyed, count_destroy);
            mt_http_park(r, 1u << 2, mt_clock_mono() + atomic_load(&park_ms) * MT_NS_PER_MS);
            atomic_fetch_add(&rounds, 1);
            return;
        }
        reply_text(r, 200, mt_http_req_stopping(r) ? "stopping" : "woken");
    } else if (strcmp(p, "/race") == 0) { /* a wake between the handler's start and its park must count */
        if (mt_http_req_round(r) == 0) {
            mt_http_server_wake(server, 1u << 3);
            mt_http_park(r, 1u << 3, mt_clock_mono() + 60 * MT_NS_PER_S);
            return;
        }
        reply_text(r, 200, "not lost");
    } else if (strcmp(p, "/late") == 0) { /* parks when the server has ended meanwhile */
        atomic_fetch_add(&rounds, 1);
        (void)poll(NULL, 0, 300);
        mt_http_park(r, 1u << 4, mt_clock_mono() + 60 * MT_NS_PER_S);
    } else if (strcmp(p, "/gate") == 0) { /* keeps the worker */
        atomic_fetch_add(&rounds, 1);
        for (int i = 0; i < LONG_MS && !atomic_load(&gate_open); i++)
            (void)poll(NULL, 0, 1);
        reply_text(r, 200, "open");
    } else if (strcmp(p, "/lot") == 0 || strcmp(p, "/fresh") == 0) {
        if (p[1] == 'l' && mt_http_req_round(r) == 0) {
            mt_http_park(r, 1u << 5, mt_clock_mono() + 60 * MT_NS_PER_S);
            atomic_fetch_add(&rounds, 1);
            return;
        }
        order[atomic_load(&order_n)] = p[1];
        atomic_fetch_add(&order_n, 1);
        reply_text(r, 200, "done");
    } else if (strcmp(p, "/stream") == 0) {
        feed = mt_http_req_ref(r);
        mt_http_stream_start(r, "application/x-ndjson", 64 * 1024);
        mt_http_stream_write(r, "one\n", 4);
        atomic_fetch_add(&rounds, 1);
    } /* anything else: no outcome */
}

static int setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/mt-http-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/s", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64))
        return -1;
    struct mt_http_listener l = {.fd = fd, .tag = 7};
    struct mt_http_conf c = {.listeners = &l, .listeners_n = 1, .workers = workers, .max_conns = 64, .max_queue = 64,
                             .max_body = 100 * 1024, .idle_seconds = 30, .handle = handle};
    struct mt_err err = {0};
    destroyed = rounds = 0;
    return mt_http_server_start(&c, &server, &err);
}

static int teardown(void **state)
{
    (void)state;
    mt_http_server_free(server);
    server = NULL;
    unlink(path);
    rmdir(dir);
    return 0;
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Send and read until close or @ms without bytes. */
static char *talk(const char *head, const char *body, size_t body_len, int ms)
{
    static char out[256 * 1024];
    size_t n = 0;
    int fd = dial();
    if (fd < 0)
        return NULL;
    (void)!write(fd, head, strlen(head));
    for (size_t off = 0; off < body_len;) {
        ssize_t w = send(fd, body + off, body_len - off, MSG_NOSIGNAL);
        if (w <= 0)
            break;
        off += (size_t)w;
    }
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, ms) > 0) {
        ssize_t r = read(fd, out + n, sizeof out - 1 - n);
        if (r <= 0)
            break;
        n += (size_t)r;
    }
    out[n] = 0;
    close(fd);
    return out;
}

#define GET(p) "GET " p " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static bool wait_for(atomic_int *v, int want)
{
    for (int i = 0; i < 15000 && atomic_load(v) < want; i++)
        usleep(2000);
    return atomic_load(v) >= want;
}

static void a_body_comes_whole_and_header_values_cannot_split_the_answer(void **state)
{
    (void)state;
    size_t n = 90 * 1024;
    char *b = malloc(n);
    memset(b, 'z', n);
    char head[200];
    snprintf(head, sizeof head,
             "POST /echo HTTP/1.1\r\nHost: x\r\nX-Token: 1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", n);
    char *out = talk(head, b, n, LONG_MS);
    char *body = strstr(out, "\r\n\r\n");
    size_t got = body ? strlen(body + 4) : 0;
    bool ok = strncmp(out, "HTTP/1.1 200", 12) == 0, evil = strstr(out, "\r\nEvil") != NULL;
    free(b);
    assert_true(ok);
    assert_int_equal(got, n);
    assert_false(evil);
}

static void a_declared_and_an_undeclared_oversize_body_are_413(void **state)
{
    (void)state;
    char *out = talk("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", NULL, 0, LONG_MS);
    assert_non_null(strstr(out, " 413 "));
    size_t n = 220 * 1024;
    char *b = malloc(n + 16);
    int h = snprintf(b, 16, "%zx\r\n", n);
    memset(b + h, 'q', n);
    memcpy(b + h + n, "\r\n0\r\n\r\n", 7);
    out = talk("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n", b,
               (size_t)h + n + 7, LONG_MS);
    free(b);
    assert_non_null(strstr(out, " 413 "));
}

static void paths_and_queries_are_strict(void **state)
{
    (void)state;
    assert_non_null(strstr(talk(GET("/query?a=b%20c&d=%C3%A9&e"), NULL, 0, LONG_MS), "[a=b c][d=\xC3\xA9][e=]"));
    assert_non_null(strstr(talk(GET("/query?a=%00"), NULL, 0, LONG_MS), " 400 "));
    assert_non_null(strstr(talk(GET("/query?a=%zz"), NULL, 0, LONG_MS), " 400 "));
    assert_non_null(strstr(talk(GET("/que%72y"), NULL, 0, LONG_MS), " 400 "));
}

static void the_peer_of_a_unix_socket_is_known(void **state)
{
    (void)state;
    char want[32];
    snprintf(want, sizeof want, "0 %u 1", getuid());
    assert_non_null(strstr(talk(GET("/peer"), NULL, 0, LONG_MS), want));
}

static void a_parked_request_wakes_by_topic_long_before_its_deadline(void **state)
{
    (void)state;
    int fd = dial();
    const char *q = GET("/park");
    (void)!write(fd, q, strlen(q));
    bool parked = wait_for(&rounds, 1);
    usleep(10000);
    mt_http_server_wake(server, 1u << 1); /* another topic */
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int early = poll(&p, 1, 50);
    mt_http_server_wake(server, 1u << 2);
    int woken = poll(&p, 1, LONG_MS / 2);
    char b[512] = "";
    (void)!read(fd, b, sizeof b - 1);
    close(fd);
    assert_true(parked);
    assert_int_equal(early, 0);
    assert_int_equal(woken, 1);
    assert_non_null(strstr(b, "woken"));
    assert_true(wait_for(&destroyed, 1));
}

/* A move of the log wakes hundreds of parked polls at once: who asks now is not behind all of them, and they are not behind everybody. */
static void woken_requests_and_new_ones_take_turns(void **state)
{
    (void)state;
    int fds[13];
    for (int i = 0; i < 6; i++) {
        fds[i] = dial();
        (void)!write(fds[i], GET("/lot"), strlen(GET("/lot")));
    }
    assert_true(wait_for(&rounds, 6));
    for (struct mt_http_stats st = {0}; st.parked < 6;) { /* the last one is on its way into the lot */
        (void)poll(NULL, 0, 1);
        mt_http_server_stats(server, &st);
    }
    fds[6] = dial();
    (void)!write(fds[6], GET("/gate"), strlen(GET("/gate")));
    assert_true(wait_for(&rounds, 7));
    mt_http_server_wake(server, 1u << 5);
    for (int i = 7; i < 13; i++) {
        fds[i] = dial();
        (void)!write(fds[i], GET("/fresh"), strlen(GET("/fresh")));
    }
    struct mt_http_stats st = {0};
    for (int i = 0; i < LONG_MS && st.queued < 12; i++) {
        (void)poll(NULL, 0, 1);
        mt_http_server_stats(server, &st);
    }
    assert_int_equal(st.queued, 12);
    atomic_store(&gate_open, 1);
    assert_true(wait_for(&order_n, 12));
    for (int i = 0; i < 13; i++)
        close(fds[i]);
    assert_string_equal(order, "lfffflffllll");
}

static int setup_one_worker(void **state)
{
    workers = 1;
    gate_open = order_n = 0;
    memset(order, 0, sizeof order);
    int rc = setup(state);
    workers = 3;
    return rc;
}

static void a_parked_request_runs_again_at_its_deadline(void **state)
{
    (void)state;
    int64_t took = INT64_MAX;
    atomic_store(&park_ms, 300);
    for (int i = 0; i < 20 && took >= 1500 * MT_NS_PER_MS; i++) { /* again when others had the processor */
        atomic_store(&rounds, 0);
        int64_t t0 = mt_clock_mono();
        char *out = talk(GET("/park"), NULL, 0, LONG_MS);
        took = mt_clock_mono() - t0;
        assert_non_null(strstr(out, "woken"));
        assert_true(took >= 295 * MT_NS_PER_MS);
    }
    atomic_store(&park_ms, LONG_MS);
    assert_true(took < 1500 * MT_NS_PER_MS);
}

static void a_wake_between_check_and_park_is_not_lost(void **state)
{
    (void)state;
    assert_non_null(strstr(talk(GET("/race"), NULL, 0, LONG_MS), "not lost"));
}

static void a_handler_without_an_outcome_answers_500(void **state)
{
    (void)state;
    assert_non_null(strstr(talk(GET("/nothing"), NULL, 0, LONG_MS), " 500 "));
}

static void a_stream_flows_bounds_a_slow_client_and_ends(void **state)
{
    (void)state;
    int fd = dial();
    const char *q = GET("/stream");
    (void)!write(fd, q, strlen(q));
    bool started = wait_for(&rounds, 1);
    char b[8192] = "";
    size_t n = 0;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (!strstr(b, "one\n") && poll(&p, 1, LONG_MS) > 0)
        n += (size_t)read(fd, b + n, sizeof b - 1 - n);
    int ok = mt_http_stream_write(feed, "two\n", 4);
    while (!strstr(b, "two\n") && poll(&p, 1, LONG_MS) > 0)
        n += (size_t)read(fd, b + n, sizeof b - 1 - n);
    bool two = strstr(b, "two\n") != NULL;
    char block[16 * 1024];
    memset(block, 'x', sizeof block);
    int rc = 0;
    for (int i = 0; i < 200 && rc == 0; i++)
        rc = mt_http_stream_write(feed, block, sizeof block); /* the client does not read */
    mt_http_stream_end(feed);
    int after = mt_http_stream_write(feed, "late\n", 5);
    mt_http_req_unref(feed);
    size_t total = 0;
    while (poll(&p, 1, LONG_MS) > 0) {
        ssize_t r = read(fd, b, sizeof b);
        if (r <= 0)
            break;
        total += (size_t)r;
    }
    close(fd);
    assert_true(started);
    assert_int_equal(ok, 0);
    assert_true(two);
    assert_int_equal(rc, -MT_E_LIMIT);
    assert_int_equal(after, -MT_E_UNAVAILABLE);
    assert_true(total > 64 * 1024);
}

static void a_client_that_leaves_a_stream_is_noticed(void **state)
{
    (void)state;
    int fd = dial();
    const char *q = GET("/stream");
    (void)!write(fd, q, strlen(q));
    bool started = wait_for(&rounds, 1);
    usleep(20000);
    close(fd);
    bool gone = false;
    for (int i = 0; i < 500 && !gone; i++) {
        (void)mt_http_stream_write(feed, "tick\n", 5);
        usleep(2000);
        gone = mt_http_stream_gone(feed);
    }
    mt_http_req_unref(feed);
    assert_true(started);
    assert_true(gone);
}

static void draining_runs_parked_requests_once_more(void **state)
{
    (void)state;
    int fd = dial();
    const char *q = GET("/park");
    (void)!write(fd, q, strlen(q));
    bool parked = wait_for(&rounds, 1);
    usleep(10000);
    mt_http_server_drain(server, 1000);
    char b[512] = "";
    (void)!read(fd, b, sizeof b - 1);
    close(fd);
    assert_true(parked);
    assert_non_null(strstr(b, "stopping"));
}

static void freeing_with_parked_requests_and_streams_answers_them(void **state)
{
    (void)state;
    int a = dial(), b = dial();
    (void)!write(a, GET("/park"), strlen(GET("/park")));
    (void)!write(b, GET("/stream"), strlen(GET("/stream")));
    bool both = wait_for(&rounds, 2);
    usleep(10000);
    mt_http_req_unref(feed);
    mt_http_server_free(server);
    server = NULL;
    char buf[512] = "";
    (void)!read(a, buf, sizeof buf - 1);
    close(a);
    close(b);
    assert_true(both);
    assert_true(strstr(buf, " 503 ") || buf[0] == 0 || strstr(buf, " 200 "));
    assert_int_equal(destroyed, 1);
}

static void a_request_parked_after_the_end_is_answered(void **state)
{
    (void)state;
    static const char ask[] = "GET /late HTTP/1.1\r\nHost: x\r\n\r\n";
    char answer[200] = "";
    int fd = dial();
    assert_true(fd >= 0);
    assert_int_equal(send(fd, ask, sizeof ask - 1, 0), (ssize_t)sizeof ask - 1);
    for (int i = 0; i < 3000 && atomic_load(&rounds) == 0; i++)
        (void)poll(NULL, 0, 10);
    assert_int_equal(atomic_load(&rounds), 1);
    mt_http_server_free(server); /* the library would end the process over a connection left suspended */
    server = NULL;
    ssize_t n = recv(fd, answer, sizeof answer - 1, 0);
    (void)close(fd);
    assert_true(n > 0);
    assert_memory_equal(answer, "HTTP/1.1 503", 12);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_body_comes_whole_and_header_values_cannot_split_the_answer),
        T(a_request_parked_after_the_end_is_answered),
        T(a_declared_and_an_undeclared_oversize_body_are_413),
        T(paths_and_queries_are_strict),
        T(the_peer_of_a_unix_socket_is_known),
        T(a_parked_request_wakes_by_topic_long_before_its_deadline),
        cmocka_unit_test_setup_teardown(woken_requests_and_new_ones_take_turns, setup_one_worker, teardown),
        T(a_parked_request_runs_again_at_its_deadline),
        T(a_wake_between_check_and_park_is_not_lost),
        T(a_handler_without_an_outcome_answers_500),
        T(a_stream_flows_bounds_a_slow_client_and_ends),
        T(a_client_that_leaves_a_stream_is_noticed),
        T(draining_runs_parked_requests_once_more),
        T(freeing_with_parked_requests_and_streams_answers_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
