/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a scripted server: a thread that accepts, reads one request head and writes the next scripted answer. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "os/sock.h"
#include "wire/http_client.h"
#include "wire/node_call.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct script {
    const char *answer; /* NULL: never answer, wait for the peer to go */
    bool close;         /* after the answer */
};

struct server {
    int listen_fd;
    const struct script *steps;
    size_t count;
    pthread_t thread;
};

static const char *const path = "/tmp/moat-test-http-client.sock";

static void *serve(void *arg)
{
    struct server *s = arg;
    int fd = -1;
    for (size_t i = 0; i < s->count;) {
        struct pollfd pf = {.fd = fd < 0 ? s->listen_fd : fd, .events = POLLIN};
        (void)poll(&pf, 1, 3000);
        if (fd < 0) {
            if (mt_sock_accept(s->listen_fd, &fd, NULL) <= 0)
                break;
            (void)mt_sock_nonblock(fd, false, NULL);
            continue;
        }
        char head[4096];
        ssize_t n = recv(fd, head, sizeof head, 0);
        if (n <= 0) {
            mt_closep(&fd);
            continue;
        }
        const struct script *st = &s->steps[i++];
        if (!st->answer) {
            (void)recv(fd, head, sizeof head, 0);
            mt_closep(&fd);
            continue;
        }
        for (const char *p = st->answer; *p; p++) /* byte by byte: the client must not depend on packets */
            (void)send(fd, p, 1, MSG_NOSIGNAL);
        if (st->close)
            mt_closep(&fd);
    }
    mt_closep(&fd);
    return NULL;
}

static void start(struct server *s, const struct script *steps, size_t count)
{
    *s = (struct server){.steps = steps, .count = count};
    assert_int_equal(mt_sock_unix_listen(path, 0600, (uid_t)-1, (gid_t)-1, &s->listen_fd, NULL), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void finish(struct server *s)
{
    (void)pthread_join(s->thread, NULL);
    mt_closep(&s->listen_fd);
    (void)unlink(path);
}

static const struct mt_http_request get = {.method = "GET", .target = "/v1/x", .timeout_ms = 2000};

static void answers_of_every_framing_are_read(void **state)
{
    (void)state;
    static const struct script steps[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Event-Id: 42\r\nx-request-id: r1\r\n\r\nhello", false},
        {"HTTP/1.1 304 Not Modified\r\n\r\n", false},
        {"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nRetry-After: 7\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", true},
        {"HTTP/1.1 200 OK\r\n\r\nto the end", true},
    };
    struct server s;
    start(&s, steps, MT_ARRAY_LEN(steps));
    struct mt_http_client *c = mt_http_client_new(path);
    struct mt_http_reply r;
    static const struct { int status; const char *body; } want[] = {{200, "hello"}, {304, ""}, {503, "abcde"}, {200, "to the end"}};
    for (size_t i = 0; i < MT_ARRAY_LEN(want); i++) {
        struct mt_err e = {0};
        assert_int_equal(mt_http_do(c, &get, 100, &r, &e), 0);
        assert_int_equal(r.status, want[i].status);
        assert_string_equal(mt_buf_cstr(&r.body), want[i].body);
        if (i == 0) {
            assert_int_equal(r.event_id, 42);
            assert_string_equal(r.request_id, "r1");
        }
        if (i == 2)
            assert_int_equal(r.retry_after_s, 7);
        mt_http_reply_done(&r);
    }
    mt_http_client_free(c);
    finish(&s);
}

static void bad_answers_are_refused(void **state)
{
    (void)state;
    static const struct script steps[] = {
        {"SSH-2.0-nope\r\n\r\n", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", true},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", true},
    };
    static const int want[] = {-MT_E_CORRUPT, -MT_E_CORRUPT, -MT_E_CORRUPT, -MT_E_CORRUPT, -MT_E_UNAVAILABLE, -MT_E_UNAVAILABLE};
    struct server s;
    start(&s, steps, MT_ARRAY_LEN(steps));
    struct mt_http_client *c = mt_http_client_new(path);
    for (size_t i = 0; i < MT_ARRAY_LEN(steps); i++) {
        struct mt_http_reply r;
        assert_int_equal(mt_http_do(c, &get, 100, &r, NULL), want[i]);
    }
    mt_http_client_free(c);
    finish(&s);
}

static void a_kept_connection_closed_by_the_peer_is_made_anew(void **state)
{
    (void)state;
    static const struct script steps[] = {{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", true}, {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb", true}};
    struct server s;
    start(&s, steps, 2);
    struct mt_http_client *c = mt_http_client_new(path);
    for (int i = 0; i < 2; i++) {
        mt_auto_http_reply struct mt_http_reply r = {0};
        assert_int_equal(mt_http_do(c, &get, 100, &r, NULL), 0);
        assert_string_equal(mt_buf_cstr(&r.body), i ? "b" : "a");
    }
    mt_http_client_free(c);
    finish(&s);
}

static void *cancel_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    mt_http_client_cancel(arg);
    return NULL;
}

static void silence_ends_at_the_deadline_or_by_cancel(void **state)
{
    (void)state;
    static const struct script steps[] = {{NULL, true}, {NULL, true}};
    struct server s;
    start(&s, steps, 2);
    struct mt_http_client *c = mt_http_client_new(path);
    struct mt_http_reply r;
    struct mt_http_request quick = get;
    quick.timeout_ms = 50;
    assert_int_equal(mt_http_do(c, &quick, 100, &r, NULL), -MT_E_TIMEOUT);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, cancel_soon, c), 0);
    int64_t began = mt_clock_mono();
    struct mt_http_request slow = get;
    slow.timeout_ms = 120000;
    assert_int_equal(mt_http_do(c, &slow, 100, &r, NULL), -MT_E_CANCELLED);
    assert_true(mt_clock_mono() - began < 5 * MT_NS_PER_S); /* long before its deadline, also on a machine that others have */
    (void)pthread_join(t, NULL);
    mt_http_client_free(c);
    finish(&s);
}

static int collect(const char *data, size_t n, void *arg)
{
    mt_buf_put(arg, data, n);
    return ((struct mt_buf *)arg)->len >= 6 ? 99 : 0;
}

static void a_stream_hands_out_parts_and_can_be_ended(void **state)
{
    (void)state;
    static const struct script steps[] = {{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n0\r\n\r\n", false}};
    struct server s;
    start(&s, steps, 1);
    struct mt_http_client *c = mt_http_client_new(path);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(100);
    struct mt_http_reply r;
    assert_int_equal(mt_http_stream(c, &get, 100, collect, &b, &r, NULL), 99);
    assert_memory_equal(b.p, "abcdef", 6);
    mt_http_client_free(c);
    finish(&s);
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(100);
    mt_http_put_query(&q, "a b/\xc3\xa9~");
    assert_string_equal(mt_buf_cstr(&q), "a%20b%2F%C3%A9~");
}

static void what_would_split_a_request_is_refused(void **state)
{
    (void)state;
    struct mt_http_client *c = mt_http_client_new("/nonexistent");
    struct mt_http_reply r;
    struct mt_http_request q = get;
    q.target = "/v1/x HTTP/1.1";
    assert_int_equal(mt_http_do(c, &q, 100, &r, NULL), -MT_E_INVALID);
    q.target = "/v1/x\r\nX-Evil: 1";
    assert_int_equal(mt_http_do(c, &q, 100, &r, NULL), -MT_E_INVALID);
    q.target = "/v1/x";
    q.headers = &(struct mt_http_header){"Authorization", "Bearer a\nX-Evil: 1"};
    q.header_count = 1;
    assert_int_equal(mt_http_do(c, &q, 100, &r, NULL), -MT_E_INVALID);
    q.headers = &(struct mt_http_header){"Authorization", "Bearer a"};
    assert_int_equal(mt_http_do(c, &q, 100, &r, NULL), -MT_E_UNAVAILABLE);
    mt_http_client_free(c);
}

static void bytes_behind_an_answer_are_not_the_next_one(void **state)
{
    (void)state;
    static const struct script steps[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-Request-Id: \033[2Jr\r\n\r\naHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake", false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue", true},
    };
    struct server s;
    start(&s, steps, 2);
    struct mt_http_client *c = mt_http_client_new(path);
    struct mt_http_reply r;
    assert_int_equal(mt_http_do(c, &get, 100, &r, NULL), 0);
    assert_string_equal(r.request_id, "?[2Jr");
    mt_http_reply_done(&r);
    (void)poll(NULL, 0, 100); /* the rest has arrived, unread or not */
    assert_int_equal(mt_http_do(c, &get, 100, &r, NULL), 0);
    assert_string_equal(mt_buf_cstr(&r.body), "true");
    mt_http_reply_done(&r);
    mt_http_client_free(c);
    finish(&s);
}

static void a_server_of_a_stranger_gets_no_request(void **state)
{
    (void)state;
    static const struct script steps[] = {{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", true}};
    struct server s;
    start(&s, steps, 1);
    struct mt_http_client *c = mt_http_client_new(path);
    struct mt_http_reply r;
    struct mt_err e;
    mt_http_client_trust(c, (const uid_t[]){geteuid() + 1, geteuid() + 2}, 2);
    assert_int_equal(mt_http_do(c, &get, 100, &r, &e), -MT_E_DENIED);
    mt_http_client_trust(c, (const uid_t[]){geteuid() + 1, geteuid()}, 2);
    assert_int_equal(mt_http_do(c, &get, 100, &r, &e), 0); /* the script's one answer was still there */
    mt_http_reply_done(&r);
    mt_http_client_free(c);
    finish(&s);
}

struct flood {
    int listen_fd;
    atomic_bool stop;
};

/* Trailers without end, as fast as they are taken. */
static void *flood(void *arg)
{
    struct flood *f = arg;
    int fd = -1;
    struct pollfd pf = {.fd = f->listen_fd, .events = POLLIN};
    (void)poll(&pf, 1, 3000);
    if (mt_sock_accept(f->listen_fd, &fd, NULL) <= 0)
        return NULL;
    (void)mt_sock_nonblock(fd, false, NULL);
    static const char head[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
    (void)send(fd, head, sizeof head - 1, MSG_NOSIGNAL);
    while (!atomic_load(&f->stop) && send(fd, "X: y\r\nX: y\r\nX: y\r\nX: y\r\n", 24, MSG_NOSIGNAL) > 0)
        ;
    mt_closep(&fd);
    return NULL;
}

static void an_answer_without_end_stops_at_the_deadline(void **state)
{
    (void)state;
    struct flood f = {0};
    pthread_t t;
    assert_int_equal(mt_sock_unix_listen(path, 0600, (uid_t)-1, (gid_t)-1, &f.listen_fd, NULL), 0);
    assert_int_equal(pthread_create(&t, NULL, flood, &f), 0);
    struct mt_http_client *c = mt_http_client_new(path);
    struct mt_http_reply r;
    struct mt_http_request q = get;
    q.timeout_ms = 200;
    int64_t began = mt_clock_mono();
    int rc = mt_http_do(c, &q, 100, &r, NULL);
    int64_t took_ms = (mt_clock_mono() - began) / MT_NS_PER_MS;
    mt_http_client_free(c);
    atomic_store(&f.stop, true);
    (void)pthread_join(t, NULL);
    (void)close(f.listen_fd);
    (void)unlink(path);
    assert_int_equal(rc, -MT_E_TIMEOUT);
    assert_true(took_ms < 2000);
}

static void protocols_are_shared_or_not(void **state)
{
    static const struct {
        const char *said;
        bool shared;
    } cases[] = {{NULL, true}, {"", true}, {"node/1", true}, {"node/2", false}, {"node/10", false}, {"node/2, node/1", true}, {"node/2,node/3\tnode/1", true},
                 {"guest/1", true}, {"guest/1, node/2", false}, {"v1", true}, {"node/", false}, {"node", true}, {",,, ", true}, {"xnode/2", true}, {" node/2", false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(mt_node_protocol_shared(cases[i].said), cases[i].shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protocols_are_shared_or_not),
        cmocka_unit_test(answers_of_every_framing_are_read),
        cmocka_unit_test(bad_answers_are_refused),
        cmocka_unit_test(a_kept_connection_closed_by_the_peer_is_made_anew),
        cmocka_unit_test(silence_ends_at_the_deadline_or_by_cancel),
        cmocka_unit_test(a_stream_hands_out_parts_and_can_be_ended),
        cmocka_unit_test(what_would_split_a_request_is_refused),
        cmocka_unit_test(bytes_behind_an_answer_are_not_the_next_one),
        cmocka_unit_test(an_answer_without_end_stops_at_the_deadline),
        cmocka_unit_test(a_server_of_a_stranger_gets_no_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
