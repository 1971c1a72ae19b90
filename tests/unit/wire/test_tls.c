/* SPDX-License-Identifier: Apache-2.0 */
/* TLS on both sides: contexts and relays of os, the HTTP client and the HTTP server over it. Certificates are made here. */
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"
#include "os/loop.h"
#include "os/sock.h"
#include "os/tls.h"
#include "os/tls_relay.h"
#include "wire/http_client.h"
#include "wire/http_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* ---------------------------------------------------------------- certificates */

struct identity {
    EVP_PKEY *key;
    X509 *cert;
    char cert_file[64], key_file[64];
};

static char dir[] = "/tmp/moat-test-tls-XXXXXX";
static struct identity ca, other_ca, server_id, second_id, client_id, foreign_id, expired_id;

static void add_ext(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    MT_ASSERT(e);
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
}

static void issue(struct identity *id, const char *name, const struct identity *by, const char *san, long from_s, long to_s)
{
    static long serial = 0xab00;
    id->key = EVP_EC_gen("P-256");
    id->cert = X509_new();
    MT_ASSERT(id->key && id->cert);
    X509_set_version(id->cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id->cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(id->cert), from_s);
    X509_gmtime_adj(X509_getm_notAfter(id->cert), to_s);
    X509_set_pubkey(id->cert, id->key);
    X509_NAME *n = X509_get_subject_name(id->cert);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509 *issuer = by ? by->cert : id->cert;
    X509_set_issuer_name(id->cert, X509_get_subject_name(issuer));
    add_ext(id->cert, issuer, NID_basic_constraints, by ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (san)
        add_ext(id->cert, issuer, NID_subject_alt_name, san);
    MT_ASSERT(X509_sign(id->cert, by ? by->key : id->key, EVP_sha256()) > 0);
    (void)snprintf(id->cert_file, sizeof id->cert_file, "%s/%s.pem", dir, name);
    (void)snprintf(id->key_file, sizeof id->key_file, "%s/%s.key", dir, name);
    FILE *f = fopen(id->cert_file, "we"), *k = fopen(id->key_file, "we");
    MT_ASSERT(f && k && PEM_write_X509(f, id->cert) == 1 && PEM_write_PrivateKey(k, id->key, NULL, NULL, 0, NULL, NULL) == 1);
    (void)fclose(f);
    (void)fclose(k);
}

static int setup(void **state)
{
    (void)state;
    MT_ASSERT(mkdtemp(dir));
    issue(&ca, "ca", NULL, NULL, -3600, 86400);
    issue(&other_ca, "otherca", NULL, NULL, -3600, 86400);
    issue(&server_id, "server", &ca, "DNS:api.example.net,IP:::1", -3600, 86400);
    issue(&second_id, "second", &ca, "DNS:api.example.net,IP:::1", -3600, 86400);
    issue(&client_id, "client", &ca, "URI:moat://c1/node/node_1,URI:moat://c1/node/node_2", -3600, 86400);
    issue(&foreign_id, "foreign", &other_ca, "URI:moat://c1/node/node_1", -3600, 86400);
    issue(&expired_id, "expired", &ca, "URI:moat://c1/node/node_9", -7200, -600);
    return 0;
}

static int teardown(void **state)
{
    struct identity *all[] = {&ca, &other_ca, &server_id, &second_id, &client_id, &foreign_id, &expired_id};
    (void)state;
    for (size_t i = 0; i < MT_ARRAY_LEN(all); i++) {
        EVP_PKEY_free(all[i]->key);
        X509_free(all[i]->cert);
    }
    return mt_file_remove_tree(AT_FDCWD, dir, NULL);
}

static struct mt_tls_ctx *context(const struct mt_tls_conf *conf)
{
    struct mt_err err = {0};
    struct mt_tls_ctx *c = NULL;
    if (mt_tls_ctx_new(conf, &c, &err) < 0)
        (void)fprintf(stderr, "context: %s\n", err.msg);
    return c;
}

/* ---------------------------------------------------------------- a server */

struct fixture {
    struct mt_http_server *s;
    uint16_t port;
    _Atomic unsigned refused;
};

static char *text_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text_of(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    MT_ASSERT(vasprintf(&s, fmt, ap) >= 0);
    va_end(ap);
    return s;
}

/* Echoes until the client ends. */
static void *echo_main(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char part[4096];
    ssize_t n;
    (void)mt_sock_nonblock(fd, false, NULL);
    while ((n = recv(fd, part, sizeof part, 0)) > 0)
        for (ssize_t at = 0; at < n;) {
            ssize_t k = send(fd, part + at, (size_t)(n - at), MSG_NOSIGNAL);
            if (k <= 0)
                break;
            at += k;
        }
    close(fd);
    return NULL;
}

static void upgraded(void *state, int fd, const void *early, size_t early_len)
{
    pthread_t t;
    (void)state;
    (void)early;
    MT_ASSERT(early_len == 0);
    MT_ASSERT(pthread_create(&t, NULL, echo_main, (void *)(intptr_t)fd) == 0);
    pthread_detach(t);
}

static void handle(struct mt_http_req *req, void *worker, void *arg)
{
    const char *path = mt_http_req_path(req);
    char address[64] = "none";
    uid_t uid;
    pid_t pid;
    size_t n = 0;
    (void)worker;
    (void)arg;
    if (MT_STREQ(path, "/who")) {
        const struct mt_tls_peer *p = mt_http_req_tls_peer(req);
        (void)mt_http_req_address(req, address, sizeof address);
        char *t = text_of("tls=%d address=%s local=%d cn=%s uri=%s expired=%d", mt_http_req_tls(req), address,
                          mt_http_req_peer(req, &uid, &pid) == 0, p ? p->cn : "-", p ? p->uri : "-", p ? p->expired : 0);
        mt_http_reply(req, 200, "text/plain", t, strlen(t));
    } else if (MT_STREQ(path, "/echo")) {
        const char *b = mt_http_req_body(req, &n);
        char *copy = malloc(n + 1);
        MT_ASSERT(copy);
        memcpy(copy, b, n);
        mt_http_reply(req, 200, "application/octet-stream", copy, n);
    } else if (MT_STREQ(path, "/stream")) {
        char line[64];
        mt_http_stream_start(req, "application/x-ndjson", 1024 * 1024);
        for (int i = 0; i < 1000; i++) {
            int k = snprintf(line, sizeof line, "{\"line\":%d}\n", i);
            (void)mt_http_stream_write(req, line, (size_t)k);
        }
        mt_http_stream_end(req);
    } else if (MT_STREQ(path, "/upgrade")) {
        mt_http_upgrade(req, "echo", upgraded);
    } else {
        mt_http_reply(req, 404, NULL, NULL, 0);
    }
}

static void serve(struct fixture *f, struct mt_tls_ctx *ctx, unsigned per_source)
{
    struct mt_err err = {0};
    struct mt_http_listener l = {.tag = 7, .tls = ctx, .max_per_source = per_source};
    struct sockaddr_in6 a;
    socklen_t n = sizeof a;
    MT_ASSERT(mt_sock_tcp_listen("[::1]:0", &l.fd, &err) == 0);
    MT_ASSERT(getsockname(l.fd, (struct sockaddr *)&a, &n) == 0);
    f->port = ntohs(a.sin6_port);
    struct mt_http_conf conf = {.listeners = &l, .listeners_n = 1, .workers = 2, .max_conns = 64, .max_queue = 64, .max_body = 4 << 20,
                                .idle_seconds = 30, .handle = handle, .arg = f};
    MT_ASSERT(mt_http_server_start(&conf, &f->s, &err) == 0);
}

static void begin(struct fixture *f, const struct mt_tls_conf *conf)
{
    struct mt_tls_ctx *ctx = context(conf);
    MT_ASSERT(ctx);
    serve(f, ctx, 0);
    mt_tls_ctx_unref(ctx);
}

static const struct mt_tls_conf *plain_server(void)
{
    static struct mt_tls_conf conf;
    conf = (struct mt_tls_conf){.server = true, .cert_file = server_id.cert_file, .key_file = server_id.key_file};
    return &conf;
}

/* One GET by a new client: the status, or -code with the message in @msg. */
static int ask(const struct fixture *f, const struct mt_tls_conf *conf, const char *name, const char *path, char *body, size_t size)
{
    struct mt_err err = {0};
    struct mt_tls_ctx *ctx = context(conf);
    MT_ASSERT(ctx);
    struct mt_http_client *c = mt_http_client_new_tls("::1", f->port, ctx, name);
    struct mt_http_request req = {.method = "GET", .target = path, .timeout_ms = 5000};
    mt_auto_http_reply struct mt_http_reply r = {0};
    mt_tls_ctx_unref(ctx);
    int rc = mt_http_do(c, &req, 1 << 20, &r, &err);
    (void)snprintf(body, size, "%s", rc < 0 ? err.msg : mt_buf_cstr(&r.body));
    mt_http_client_free(c);
    return rc < 0 ? rc : r.status;
}

/* ---------------------------------------------------------------- tests */

static void a_client_that_trusts_the_authority_is_served(void **state)
{
    struct fixture f = {0};
    struct mt_err err = {0};
    (void)state;
    begin(&f, plain_server());
    struct mt_tls_ctx *ctx = context(&(struct mt_tls_conf){.ca_file = ca.cert_file});
    struct mt_http_client *c = mt_http_client_new_tls("::1", f.port, ctx, NULL);
    mt_auto_free char *big = malloc(2 << 20);
    memset(big, 'x', 2 << 20);
    for (int i = 0; i < 3; i++) {
        struct mt_http_request req = {.method = "POST", .target = "/echo", .body = big, .body_len = 2 << 20, .timeout_ms = 10000};
        mt_auto_http_reply struct mt_http_reply r = {0};
        int rc = mt_http_do(c, &req, 4 << 20, &r, &err);
        if (rc < 0)
            fail_msg("%s", err.msg);
        assert_int_equal(r.status, 200);
        assert_int_equal(r.body.len, 2 << 20);
        assert_memory_equal(r.body.p, big, 2 << 20);
    }
    struct mt_http_request req = {.method = "GET", .target = "/who", .timeout_ms = 5000};
    mt_auto_http_reply struct mt_http_reply r = {0};
    assert_int_equal(mt_http_do(c, &req, 4096, &r, &err), 0);
    /* the socket behind it is the server's own: its credentials must not be taken for the client's */
    assert_string_equal(mt_buf_cstr(&r.body), "tls=1 address=::1 local=0 cn=- uri=- expired=0");
    mt_http_client_free(c);
    mt_tls_ctx_unref(ctx);
    mt_http_server_free(f.s);
}

static void a_stream_arrives_whole(void **state)
{
    struct fixture f = {0};
    char body[20000];
    (void)state;
    begin(&f, plain_server());
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file}, "api.example.net", "/stream", body, sizeof body), 200);
    assert_non_null(strstr(body, "{\"line\":999}\n"));
    mt_http_server_free(f.s);
}

static void who_the_server_is_decides(void **state)
{
    struct fixture f = {0};
    char body[512], pin[65];
    (void)state;
    struct mt_tls_ctx *own = context(plain_server());
    (void)snprintf(pin, sizeof pin, "%s", mt_tls_ctx_spki(own));
    assert_true(mt_tls_ctx_not_after(own) > mt_clock_wall_us() / 1000000);
    mt_tls_ctx_unref(own);
    begin(&f, plain_server());
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = other_ca.cert_file}, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_non_null(strstr(body, "certificate is not accepted"));
    assert_int_equal(ask(&f, &(struct mt_tls_conf){0}, NULL, "/who", body, sizeof body), -MT_E_DENIED); /* the system's store */
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file}, "other.example.net", "/who", body, sizeof body), -MT_E_DENIED);
    assert_non_null(strstr(body, "mismatch"));
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file}, "", "/who", body, sizeof body), 200); /* any name */
    /* a pinned key needs no authority and no name; another key is told */
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.pin = pin}, "whatever.example", "/who", body, sizeof body), 200);
    pin[0] = pin[0] == '0' ? '1' : '0';
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.pin = pin}, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_non_null(strstr(body, "not the pinned one"));
    /* a pin beside an authority: both must hold */
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file, .pin = pin}, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    mt_http_server_free(f.s);
}

static int refuse_node_1(const struct mt_tls_peer *peer, void *arg, struct mt_err *err)
{
    unsigned *asked = arg;
    ++*asked;
    return MT_STREQ(peer->uri, "moat://c1/node/node_1") ? MT_FAIL(err, MT_E_DENIED, "node_1 is disabled") : 0;
}

static void clients_show_certificates_of_the_authority(void **state)
{
    struct fixture f = {0};
    char body[512];
    (void)state;
    struct mt_tls_conf conf = *plain_server();
    conf.ca_file = ca.cert_file;
    conf.peer_required = true;
    conf.min = MT_TLS_1_3;
    begin(&f, &conf);
    struct mt_tls_conf good = {.ca_file = ca.cert_file, .cert_file = client_id.cert_file, .key_file = client_id.key_file};
    struct mt_tls_conf none = {.ca_file = ca.cert_file};
    struct mt_tls_conf foreign = {.ca_file = ca.cert_file, .cert_file = foreign_id.cert_file, .key_file = foreign_id.key_file};
    struct mt_tls_conf expired = {.ca_file = ca.cert_file, .cert_file = expired_id.cert_file, .key_file = expired_id.key_file};
    assert_int_equal(ask(&f, &good, NULL, "/who", body, sizeof body), 200);
    assert_string_equal(body, "tls=1 address=::1 local=0 cn=client uri=moat://c1/node/node_1 expired=0");
    assert_int_equal(ask(&f, &none, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_int_equal(ask(&f, &foreign, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_int_equal(ask(&f, &expired, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    mt_http_server_free(f.s);

    /* with grace the expired one comes through, marked; longer ago than that it does not */
    conf.expired_grace_s = 3600;
    begin(&f, &conf);
    assert_int_equal(ask(&f, &expired, NULL, "/who", body, sizeof body), 200);
    assert_string_equal(body, "tls=1 address=::1 local=0 cn=expired uri=moat://c1/node/node_9 expired=1");
    assert_int_equal(ask(&f, &foreign, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    mt_http_server_free(f.s);
    conf.expired_grace_s = 300;
    begin(&f, &conf);
    assert_int_equal(ask(&f, &expired, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    mt_http_server_free(f.s);

    /* the callback has the last word, and is not asked about certificates that the chain refuses */
    unsigned asked = 0;
    conf.verify = refuse_node_1;
    conf.verify_arg = &asked;
    begin(&f, &conf);
    assert_int_equal(ask(&f, &foreign, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_int_equal(asked, 0);
    assert_int_equal(ask(&f, &good, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_true(asked > 0);
    mt_http_server_free(f.s);

    /* not required: who shows none is served as nobody */
    conf.verify = NULL;
    conf.peer_required = false;
    begin(&f, &conf);
    assert_int_equal(ask(&f, &none, NULL, "/who", body, sizeof body), 200);
    assert_string_equal(body, "tls=1 address=::1 local=0 cn=- uri=- expired=0");
    mt_http_server_free(f.s);
}

/* A client of the library itself, with what ours does not offer. Returns 1 when the handshake succeeds. */
static int raw_handshake(uint16_t port, int max_version, const char *alpn)
{
    int fd = -1, one;
    struct mt_err err = {0};
    MT_ASSERT(mt_sock_tcp_connect("::1", port, mt_clock_mono() + 5 * MT_NS_PER_S, -1, &fd, &err) == 0);
    (void)mt_sock_nonblock(fd, false, NULL);
    (void)mt_sock_timeout(fd, 5000, NULL);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(ctx, max_version);
    SSL *ssl = SSL_new(ctx);
    if (alpn)
        SSL_set_alpn_protos(ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn));
    SSL_set_fd(ssl, fd);
    one = SSL_connect(ssl);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return one;
}

static void old_versions_and_other_protocols_are_refused(void **state)
{
    struct fixture f = {0};
    (void)state;
    begin(&f, plain_server());
    assert_int_equal(raw_handshake(f.port, TLS1_3_VERSION, NULL), 1);
    assert_int_equal(raw_handshake(f.port, TLS1_2_VERSION, NULL), 1);
    assert_int_not_equal(raw_handshake(f.port, TLS1_1_VERSION, NULL), 1);
    assert_int_equal(raw_handshake(f.port, TLS1_3_VERSION, "\x02h2\x08http/1.1"), 1);
    assert_int_not_equal(raw_handshake(f.port, TLS1_3_VERSION, "\x02h2"), 1);
    mt_http_server_free(f.s);
    struct mt_tls_conf conf = *plain_server();
    conf.min = MT_TLS_1_3;
    begin(&f, &conf);
    assert_int_equal(raw_handshake(f.port, TLS1_3_VERSION, NULL), 1);
    assert_int_not_equal(raw_handshake(f.port, TLS1_2_VERSION, NULL), 1);
    struct mt_http_stats st = {0};
    for (int i = 0; i < 500 && !st.tls_failed; i++) { /* counted when the goodbye is over */
        (void)poll(NULL, 0, 10);
        mt_http_server_stats(f.s, &st);
    }
    assert_true(st.tls_failed >= 1);
    mt_http_server_free(f.s);
}

static void a_reload_counts_for_new_connections(void **state)
{
    struct fixture f = {0};
    struct mt_err err = {0};
    char body[512];
    (void)state;
    begin(&f, plain_server());
    struct mt_tls_ctx *first = context(plain_server());
    struct mt_tls_ctx *second = context(&(struct mt_tls_conf){.server = true, .cert_file = second_id.cert_file, .key_file = second_id.key_file});
    struct mt_tls_conf pin1 = {.pin = mt_tls_ctx_spki(first)}, pin2 = {.pin = mt_tls_ctx_spki(second)};
    struct mt_tls_ctx *kept_ctx = context(&pin1);
    struct mt_http_client *kept = mt_http_client_new_tls("::1", f.port, kept_ctx, NULL);
    struct mt_http_request req = {.method = "GET", .target = "/who", .timeout_ms = 5000};
    struct mt_http_reply r = {0};
    assert_int_equal(mt_http_do(kept, &req, 4096, &r, &err), 0);
    mt_http_reply_done(&r);
    mt_http_server_set_tls(f.s, 7, second);
    assert_int_equal(ask(&f, &pin1, NULL, "/who", body, sizeof body), -MT_E_DENIED);
    assert_int_equal(ask(&f, &pin2, NULL, "/who", body, sizeof body), 200);
    assert_int_equal(mt_http_do(kept, &req, 4096, &r, &err), 0); /* the same connection: a new one would meet another key */
    mt_http_reply_done(&r);
    /* a client with renewed trust leaves its kept connection */
    struct mt_tls_ctx *renewed = context(&pin2);
    mt_http_client_set_tls(kept, renewed);
    assert_int_equal(mt_http_do(kept, &req, 4096, &r, &err), 0);
    mt_http_reply_done(&r);
    mt_http_client_free(kept);
    mt_tls_ctx_unref(kept_ctx);
    mt_tls_ctx_unref(renewed);
    mt_tls_ctx_unref(first);
    mt_tls_ctx_unref(second);
    mt_http_server_free(f.s);
}

static int connect_tcp(uint16_t port)
{
    int fd = -1;
    MT_ASSERT(mt_sock_tcp_connect("::1", port, mt_clock_mono() + 5 * MT_NS_PER_S, -1, &fd, NULL) == 0);
    (void)mt_sock_nonblock(fd, false, NULL);
    (void)mt_sock_timeout(fd, 5000, NULL);
    return fd;
}

static void bytes_that_are_no_tls_end_the_connection_and_nothing_else(void **state)
{
    static const char *const bad[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\x00",
                                      "\x15\x03\x03\x00\x02\x02\x28", "SSH-2.0-x\r\n"};
    static const size_t len[] = {27, 5, 11, 7, 11};
    struct fixture f = {0};
    char body[512], part[512];
    (void)state;
    begin(&f, plain_server());
    for (size_t i = 0; i < MT_ARRAY_LEN(bad); i++) {
        int fd = connect_tcp(f.port);
        (void)send(fd, bad[i], len[i], MSG_NOSIGNAL);
        (void)shutdown(fd, SHUT_WR);
        ssize_t n;
        while ((n = recv(fd, part, sizeof part, 0)) > 0)
            assert_null(memmem(part, (size_t)n, "HTTP", 4));
        close(fd);
    }
    /* a client that goes away in the middle of everything */
    for (int i = 0; i < 20; i++)
        close(connect_tcp(f.port));
    assert_int_equal(ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file}, NULL, "/who", body, sizeof body), 200);
    mt_http_server_free(f.s);
}

static void one_source_cannot_take_all_connections(void **state)
{
    struct fixture f = {0};
    char body[512], byte;
    int fd[3];
    (void)state;
    struct mt_tls_ctx *ctx = context(plain_server());
    serve(&f, ctx, 3);
    mt_tls_ctx_unref(ctx);
    for (int i = 0; i < 3; i++)
        fd[i] = connect_tcp(f.port); /* silent: each holds its place for a handshake's time */
    int over = connect_tcp(f.port);
    assert_true(recv(over, &byte, 1, 0) <= 0);
    close(over);
    struct mt_http_stats st;
    mt_http_server_stats(f.s, &st);
    assert_int_equal(st.tls_refused, 1);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
    int status = -1;
    for (int i = 0; i < 200 && status != 200; i++) { /* until their ends are seen */
        status = ask(&f, &(struct mt_tls_conf){.ca_file = ca.cert_file}, NULL, "/who", body, sizeof body);
        if (status != 200)
            (void)poll(NULL, 0, 10);
    }
    assert_int_equal(status, 200);
    mt_http_server_free(f.s);
}

struct ended {
    struct mt_loop *loop;
    int code;
};

static int never(struct mt_tls_relay *r, int fd, const struct mt_tls_peer *peer, void *arg)
{
    (void)r;
    (void)peer;
    (void)arg;
    close(fd);
    return -MT_E_INVALID;
}

static void note_end(struct mt_tls_relay *r, const struct mt_err *err, void *arg)
{
    struct ended *e = arg;
    (void)r;
    e->code = err ? (int)err->code : 0;
    mt_loop_stop(e->loop, 0);
}

static void a_handshake_has_a_deadline(void **state)
{
    static const struct mt_tls_relay_ops ops = {.ready = never, .closed = note_end};
    struct mt_err err = {0};
    struct ended e = {.code = -1};
    struct mt_tls_relay *r;
    int pair[2];
    (void)state;
    e.loop = mt_loop_new(&err);
    struct mt_tls_ctx *ctx = context(plain_server());
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(send(pair[1], "\x16\x03\x01", 3, 0), 3); /* begun, never finished */
    assert_int_equal(mt_tls_relay_new(e.loop, ctx, pair[0], 50, &ops, &e, &r, &err), 0);
    assert_int_equal(mt_loop_run(e.loop), 0);
    assert_int_equal(e.code, MT_E_TIMEOUT);
    close(pair[1]);
    mt_tls_ctx_unref(ctx);
    mt_loop_free(e.loop);
}

/* 8 MiB through an upgraded connection, written and read at different paces: all arrive, in order. */
static void an_upgraded_connection_carries_bytes_both_ways(void **state)
{
    enum { TOTAL = 8 << 20 };
    struct fixture f = {0};
    struct mt_err err = {0};
    int fd = -1;
    (void)state;
    begin(&f, plain_server());
    struct mt_tls_ctx *ctx = context(&(struct mt_tls_conf){.ca_file = ca.cert_file});
    struct mt_http_client *c = mt_http_client_new_tls("::1", f.port, ctx, NULL);
    assert_int_equal(mt_http_client_dial(c, &fd, &err), 0);
    static const char ask_for[] = "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    assert_int_equal(send(fd, ask_for, sizeof ask_for - 1, MSG_NOSIGNAL), sizeof ask_for - 1);
    mt_auto_free char *head = calloc(1, 4096);
    size_t got = 0;
    while (!strstr(head, "\r\n\r\n")) {
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&pf, 1, 5000), 1);
        ssize_t n = recv(fd, head + got, 1, 0);
        assert_true(n == 1);
        got++;
        assert_true(got < 4000);
    }
    assert_non_null(strstr(head, "101"));
    size_t sent = 0, back = 0;
    mt_auto_free unsigned char *part = malloc(65536);
    while (back < TOTAL) {
        struct pollfd pf = {.fd = fd, .events = (short)(POLLIN | (sent < TOTAL ? POLLOUT : 0))};
        assert_int_equal(poll(&pf, 1, 10000), 1);
        if (sent < TOTAL && (pf.revents & POLLOUT)) {
            for (size_t i = 0; i < 65536; i++)
                part[i] = (unsigned char)((sent + i) * 131 >> 7);
            size_t want = TOTAL - sent < 65536 ? TOTAL - sent : 65536;
            ssize_t n = send(fd, part, want, MSG_NOSIGNAL | MSG_DONTWAIT);
            sent += n > 0 ? (size_t)n : 0;
        }
        if (pf.revents & POLLIN) {
            ssize_t n = recv(fd, part, 5000, MSG_DONTWAIT);
            if (n < 0 && errno == EAGAIN)
                continue;
            assert_true(n > 0);
            for (ssize_t i = 0; i < n; i++)
                if (part[i] != (unsigned char)((back + (size_t)i) * 131 >> 7))
                    fail_msg("byte %zu differs", back + (size_t)i);
            back += (size_t)n;
        }
    }
    close(fd);
    mt_http_client_free(c);
    mt_tls_ctx_unref(ctx);
    mt_http_server_free(f.s);
}

static void files_that_do_not_fit_are_named(void **state)
{
    struct mt_err err = {0};
    struct mt_tls_ctx *c = NULL;
    char junk[80];
    (void)state;
    (void)snprintf(junk, sizeof junk, "%s/junk.pem", dir);
    assert_int_equal(mt_file_write(junk, "junk\n", 5, 0600, &err), 0);
    struct mt_tls_conf conf = {.server = true};
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID);
    conf.cert_file = "/nonexistent.pem";
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID); /* no key */
    conf.key_file = server_id.key_file;
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_NOT_FOUND);
    assert_non_null(strstr(err.msg, "/nonexistent.pem"));
    conf.cert_file = junk;
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID);
    assert_non_null(strstr(err.msg, "junk.pem"));
    conf.cert_file = server_id.cert_file;
    conf.key_file = client_id.key_file;
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID);
    assert_non_null(strstr(err.msg, "client.key"));
    conf = (struct mt_tls_conf){.ca_file = junk};
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID);
    conf = (struct mt_tls_conf){.pin = "abc"};
    assert_int_equal(mt_tls_ctx_new(&conf, &c, &err), -MT_E_INVALID);
    enum mt_tls_version v;
    assert_int_equal(mt_tls_version_parse("1.3", &v, &err), 0);
    assert_int_equal(v, MT_TLS_1_3);
    assert_int_equal(mt_tls_version_parse("1.1", &v, &err), -MT_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_do_not_fit_are_named),
        cmocka_unit_test(a_client_that_trusts_the_authority_is_served),
        cmocka_unit_test(a_stream_arrives_whole),
        cmocka_unit_test(who_the_server_is_decides),
        cmocka_unit_test(clients_show_certificates_of_the_authority),
        cmocka_unit_test(old_versions_and_other_protocols_are_refused),
        cmocka_unit_test(a_reload_counts_for_new_connections),
        cmocka_unit_test(bytes_that_are_no_tls_end_the_connection_and_nothing_else),
        cmocka_unit_test(one_source_cannot_take_all_connections),
        cmocka_unit_test(a_handshake_has_a_deadline),
        cmocka_unit_test(an_upgraded_connection_carries_bytes_both_ways),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
