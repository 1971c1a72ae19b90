/* SPDX-License-Identifier: Apache-2.0 */
#include "os/tls.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TLS_MAGIC 0x7d15ac42u

struct mt_tls_ctx {
    atomic_uint refs;
    SSL_CTX *ssl;
    bool server, has_ca, has_pin, has_root_pin;
    uint8_t pin[MT_SHA256_LEN], root_pin[MT_SHA256_LEN];
    int64_t expired_grace_s, not_after_s;
    char spki[65];
    mt_tls_verify_fn verify;
    void *verify_arg;
};

struct mt_tls {
    uint32_t magic;
    struct mt_tls_ctx *ctx;
    SSL *ssl;
    struct mt_err refusal; /* of the verify callback */
    bool expired;          /* excused by expired_grace_s */
    bool rooted;           /* the chain ends in the pinned root */
    bool dead;             /* a fatal error came: nothing may be asked of the library any more */
};

/* ---------------------------------------------------------------- errors */

static const char *library_reason(void)
{
    unsigned long e = ERR_peek_last_error();
    const char *s = e ? ERR_reason_error_string(e) : NULL;
    return s ? s : "no reason given";
}

/* ---------------------------------------------------------------- the socket: send without SIGPIPE, no ownership */

static int sock_write(BIO *b, const char *data, int len)
{
    int fd = (int)BIO_get_fd(b, NULL);
    ssize_t n = send(fd, data, (size_t)len, MSG_NOSIGNAL);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(b);
    return (int)n;
}

static int sock_read(BIO *b, char *data, int len)
{
    int fd = (int)BIO_get_fd(b, NULL);
    ssize_t n = recv(fd, data, (size_t)len, 0);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(b);
    if (n == 0)
        BIO_set_flags(b, BIO_FLAGS_IN_EOF);
    return (int)n;
}

static long sock_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    switch (cmd) {
    case BIO_C_SET_FD:
        BIO_set_data(b, (void *)(intptr_t)*(int *)ptr);
        BIO_set_init(b, 1);
        return 1;
    case BIO_C_GET_FD:
        return (long)(intptr_t)BIO_get_data(b);
    case BIO_CTRL_EOF:
        return BIO_test_flags(b, BIO_FLAGS_IN_EOF) != 0;
    case BIO_CTRL_FLUSH:
        return 1;
    default:
        (void)num;
        return 0;
    }
}

static BIO_METHOD *sock_method(void)
{
    static _Atomic(BIO_METHOD *) made;
    BIO_METHOD *m = atomic_load(&made);
    if (m)
        return m;
    m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "socket");
    if (!m || BIO_meth_set_write(m, sock_write) != 1 || BIO_meth_set_read(m, sock_read) != 1 || BIO_meth_set_ctrl(m, sock_ctrl) != 1) {
        BIO_meth_free(m);
        return NULL;
    }
    BIO_METHOD *first = NULL;
    if (!atomic_compare_exchange_strong(&made, &first, m)) { /* another thread was faster */
        BIO_meth_free(m);
        return first;
    }
    return m;
}

/* ---------------------------------------------------------------- certificates */

static void spki_of(X509 *x, uint8_t ret[MT_SHA256_LEN])
{
    unsigned char *der = NULL;
    int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der);
    memset(ret, 0, MT_SHA256_LEN);
    if (n > 0)
        mt_sha256_of(der, (size_t)n, ret);
    OPENSSL_free(der);
}

static int64_t not_after(X509 *x)
{
    struct tm tm = {0};
    return ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void first_uri(X509 *x, char *ret, size_t size)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
        if (g->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *s = g->d.uniformResourceIdentifier;
        int n = ASN1_STRING_length(s);
        const unsigned char *p = ASN1_STRING_get0_data(s);
        bool plain = n > 0 && (size_t)n < size; /* a name cut or cleaned would be another name */
        for (int k = 0; plain && k < n; k++)
            plain = p[k] > 0x20 && p[k] < 0x7f;
        if (plain) {
            memcpy(ret, p, (size_t)n);
            ret[n] = '\0';
        }
        break;
    }
    GENERAL_NAMES_free(names);
}

static void describe(X509 *x, struct mt_tls_peer *ret)
{
    *ret = (struct mt_tls_peer){.not_after_s = not_after(x)};
    X509_NAME *subject = X509_get_subject_name(x);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at >= 0) {
        unsigned char *text = NULL;
        int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
        if (n > 0 && (size_t)n < sizeof ret->cn)
            (void)mt_printable((const char *)text, (size_t)n, ret->cn, sizeof ret->cn);
        if (n >= 0)
            OPENSSL_free(text);
    }
    first_uri(x, ret->uri, sizeof ret->uri);
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    char *hex = serial ? BN_bn2hex(serial) : NULL;
    if (hex && strlen(hex) < sizeof ret->serial) {
        const char *p = hex;
        size_t n = 0;
        while (*p == '0' && p[1])
            p++;
        for (; *p; p++)
            ret->serial[n++] = (char)(*p >= 'A' && *p <= 'F' ? *p + 32 : *p);
    }
    OPENSSL_free(hex);
    BN_free(serial);
    uint8_t digest[MT_SHA256_LEN];
    spki_of(x, digest);
    mt_hex_encode(digest, sizeof digest, ret->spki_sha256);
}

/* Called by the library for each certificate of the chain, the peer's own (depth 0) last. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct mt_tls *t = SSL_get_app_data(ssl);
    MT_ASSERT(t && t->magic == TLS_MAGIC);
    const struct mt_tls_ctx *c = t->ctx;
    X509 *x = X509_STORE_CTX_get_current_cert(store);
    int depth = X509_STORE_CTX_get_error_depth(store), why = X509_STORE_CTX_get_error(store);
    bool pin_alone = c->has_pin && !c->has_ca;
    if (!ok && pin_alone)
        ok = 1; /* the key decides, below */
    if (!ok && c->has_root_pin && why == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN && x) {
        uint8_t digest[MT_SHA256_LEN];
        spki_of(x, digest);
        t->rooted = mt_digest_equal(digest, c->root_pin, sizeof digest);
        if (!t->rooted)
            return MT_FAIL(&t->refusal, MT_E_DENIED, "the server's authority is not the pinned one: it belongs to another cluster") == 0;
        ok = 1; /* the library goes on and checks every signature below it */
    }
    if (!ok && depth == 0 && why == X509_V_ERR_CERT_HAS_EXPIRED && c->expired_grace_s > 0 && x &&
        (int64_t)time(NULL) - not_after(x) < c->expired_grace_s) {
        t->expired = true;
        ok = 1;
    }
    if (!ok) {
        (void)MT_FAIL(&t->refusal, MT_E_DENIED, "the peer's certificate is not accepted: %s", X509_verify_cert_error_string(why));
        return 0;
    }
    if (depth > 0 || !x)
        return ok;
    /* the library calls for a depth once with each fault and once without any; what follows may run more than once */
    struct mt_tls_peer peer;
    describe(x, &peer);
    peer.expired = t->expired;
    if (c->has_root_pin && !t->rooted) {
        (void)MT_FAIL(&t->refusal, MT_E_DENIED, "the server's chain does not end in the pinned authority");
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
        return 0;
    }
    if (c->has_pin) {
        uint8_t digest[MT_SHA256_LEN];
        spki_of(x, digest);
        if (!mt_digest_equal(digest, c->pin, sizeof digest)) {
            (void)MT_FAIL(&t->refusal, MT_E_DENIED, "the server's key is not the pinned one: it has %s", peer.spki_sha256);
            X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
            return 0;
        }
    }
    if (c->verify && c->verify(&peer, c->verify_arg, &t->refusal) < 0) {
        if (t->refusal.code == MT_OK)
            (void)MT_FAIL(&t->refusal, MT_E_DENIED, "the peer's certificate is not accepted");
        X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
        return 0;
    }
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

/* ---------------------------------------------------------------- contexts */

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return 0; /* never ask on a terminal */
}

static int readable(const char *path, const char *what, struct mt_err *err)
{
    if (access(path, R_OK) == 0)
        return 0;
    return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "%s '%s'", what, path);
}

static int load_own(struct mt_tls_ctx *c, const struct mt_tls_conf *conf, struct mt_err *err)
{
    int r;
    if (!conf->cert_file)
        return conf->server ? MT_FAIL(err, MT_E_INVALID, "a TLS server needs a certificate file and a key file") : 0;
    if (!conf->key_file)
        return MT_FAIL(err, MT_E_INVALID, "certificate '%s' needs its key file", conf->cert_file);
    if ((r = readable(conf->cert_file, "certificate file", err)) < 0 || (r = readable(conf->key_file, "key file", err)) < 0)
        return r;
    if (SSL_CTX_use_certificate_chain_file(c->ssl, conf->cert_file) != 1)
        return MT_FAIL(err, MT_E_INVALID, "certificate file '%s' holds no usable PEM certificate: %s", conf->cert_file, library_reason());
    if (SSL_CTX_use_PrivateKey_file(c->ssl, conf->key_file, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(c->ssl) != 1)
        return MT_FAIL(err, MT_E_INVALID, "key file '%s' holds no key that belongs to the certificate: %s", conf->key_file, library_reason());
    X509 *own = SSL_CTX_get0_certificate(c->ssl);
    uint8_t digest[MT_SHA256_LEN];
    c->not_after_s = not_after(own);
    spki_of(own, digest);
    mt_hex_encode(digest, sizeof digest, c->spki);
    return 0;
}

static int load_trust(struct mt_tls_ctx *c, const struct mt_tls_conf *conf, struct mt_err *err)
{
    int r;
    c->has_ca = conf->ca_file != NULL;
    if (conf->pin) {
        if (strlen(conf->pin) != 2 * MT_SHA256_LEN || mt_hex_decode(conf->pin, MT_SHA256_LEN, c->pin) < 0)
            return MT_FAIL(err, MT_E_INVALID, "'%.80s' is not a pin: 64 hex digits, the SHA-256 of the server's public key", conf->pin);
        c->has_pin = true;
    }
    if (conf->root_pin) {
        if (strlen(conf->root_pin) != 2 * MT_SHA256_LEN || mt_hex_decode(conf->root_pin, MT_SHA256_LEN, c->root_pin) < 0)
            return MT_FAIL(err, MT_E_INVALID, "'%.80s' is not a pin: 64 hex digits, the SHA-256 of the authority's public key", conf->root_pin);
        c->has_root_pin = true;
    }
    if (conf->ca_file) {
        if ((r = readable(conf->ca_file, "CA file", err)) < 0)
            return r;
        if (SSL_CTX_load_verify_file(c->ssl, conf->ca_file) != 1)
            return MT_FAIL(err, MT_E_INVALID, "CA file '%s' holds no usable PEM certificate: %s", conf->ca_file, library_reason());
        STACK_OF(X509_NAME) *names = conf->server ? SSL_load_client_CA_file(conf->ca_file) : NULL;
        if (names)
            SSL_CTX_set_client_CA_list(c->ssl, names);
    } else if (!conf->server && !conf->pin && !conf->root_pin) {
        (void)SSL_CTX_set_default_verify_paths(c->ssl); /* without it nothing is trusted: that is said at the handshake */
    }
    if (!conf->server)
        SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER, on_verify);
    else if (conf->ca_file)
        SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER | (conf->peer_required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0), on_verify);
    SSL_CTX_set_verify_depth(c->ssl, 8);
    return 0;
}

static const unsigned char http11[] = "\x08http/1.1";

/* A client that offers protocols without ours gets an alert (RFC 7301 3.2); one that offers none is served. */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg)
{
    unsigned char *chosen = NULL;
    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, http11, sizeof http11 - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

int mt_tls_ctx_new(const struct mt_tls_conf *conf, struct mt_tls_ctx **ret, struct mt_err *err)
{
    struct mt_tls_ctx *c = calloc(1, sizeof *c);
    int r = 0;
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "TLS context");
    ERR_clear_error();
    atomic_init(&c->refs, 1);
    c->server = conf->server;
    c->expired_grace_s = conf->expired_grace_s;
    c->verify = conf->verify;
    c->verify_arg = conf->verify_arg;
    c->ssl = SSL_CTX_new(conf->server ? TLS_server_method() : TLS_client_method());
    if (!c->ssl) {
        r = MT_FAIL(err, MT_E_NOMEM, "TLS context: %s", library_reason());
        goto fail;
    }
    SSL_CTX_set_default_passwd_cb(c->ssl, no_passphrase);
    (void)SSL_CTX_set_min_proto_version(c->ssl, conf->min == MT_TLS_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION);
    (void)SSL_CTX_set_options(c->ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE);
    (void)SSL_CTX_set_num_tickets(c->ssl, 0);
    (void)SSL_CTX_set_session_cache_mode(c->ssl, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    (void)SSL_CTX_set_max_cert_list(c->ssl, 32L * 1024); /* of a peer's chain, before any of it is verified */
    /* 1.2: forward secrecy and AEAD only */
    if (SSL_CTX_set_cipher_list(c->ssl, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1) {
        r = MT_FAIL(err, MT_E_INVALID, "TLS ciphers: %s", library_reason());
        goto fail;
    }
    if (conf->server)
        SSL_CTX_set_alpn_select_cb(c->ssl, on_alpn, NULL);
    else
        (void)SSL_CTX_set_alpn_protos(c->ssl, http11, sizeof http11 - 1);
    if ((r = load_own(c, conf, err)) < 0 || (r = load_trust(c, conf, err)) < 0)
        goto fail;
    ERR_clear_error();
    *ret = c;
    return 0;
fail:
    ERR_clear_error();
    mt_tls_ctx_unref(c);
    return r;
}

struct mt_tls_ctx *mt_tls_ctx_ref(struct mt_tls_ctx *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

void mt_tls_ctx_unref(struct mt_tls_ctx *c)
{
    if (!c || atomic_fetch_sub(&c->refs, 1) != 1)
        return;
    SSL_CTX_free(c->ssl);
    free(c);
}

int64_t mt_tls_ctx_not_after(const struct mt_tls_ctx *c)
{
    return c->not_after_s;
}

const char *mt_tls_ctx_spki(const struct mt_tls_ctx *c)
{
    return c->spki;
}

/* ---------------------------------------------------------------- connections */

static int expect_name(struct mt_tls *t, const char *name, struct mt_err *err)
{
    struct in6_addr six;
    struct in_addr four;
    bool literal = inet_pton(AF_INET6, name, &six) == 1 || inet_pton(AF_INET, name, &four) == 1;
    bool check = !(t->ctx->has_pin && !t->ctx->has_ca);
    int ok = 1;
    if (literal) /* no SNI for those (RFC 6066 3) */
        ok = !check || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), name);
    else
        ok = SSL_set_tlsext_host_name(t->ssl, (void *)(uintptr_t)name) == 1 && (!check || SSL_set1_host(t->ssl, name) == 1);
    return ok ? 0 : MT_FAIL(err, MT_E_INVALID, "'%.100s' cannot be the name of a server", name);
}

int mt_tls_new(struct mt_tls_ctx *ctx, int fd, const char *server_name, struct mt_tls **ret, struct mt_err *err)
{
    struct mt_tls *t = calloc(1, sizeof *t);
    BIO_METHOD *method = sock_method();
    BIO *bio = method ? BIO_new(method) : NULL;
    int r = 0;
    if (!t || !bio || !(t->ssl = SSL_new(ctx->ssl))) {
        BIO_free(bio);
        free(t);
        ERR_clear_error();
        return MT_FAIL(err, MT_E_NOMEM, "TLS connection");
    }
    t->magic = TLS_MAGIC;
    t->ctx = mt_tls_ctx_ref(ctx);
    (void)BIO_set_fd(bio, fd, BIO_NOCLOSE);
    SSL_set_bio(t->ssl, bio, bio);
    SSL_set_app_data(t->ssl, t);
    if (ctx->server)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    if (!ctx->server && server_name && (r = expect_name(t, server_name, err)) < 0) {
        mt_tls_free(t);
        return r;
    }
    *ret = t;
    return 0;
}

void mt_tls_free(struct mt_tls *t)
{
    if (!t)
        return;
    MT_ASSERT(t->magic == TLS_MAGIC);
    t->magic = 0;
    SSL_free(t->ssl);
    mt_tls_ctx_unref(t->ctx);
    free(t);
}

/* What the library's answer @rc to a call means. @eof: the peer ended the connection in good order. */
static int step_of(struct mt_tls *t, int rc, bool *eof, struct mt_err *err)
{
    int sys = errno, why = SSL_get_error(t->ssl, rc), r;
    switch (why) {
    case SSL_ERROR_WANT_READ:
        return MT_TLS_WANT_READ;
    case SSL_ERROR_WANT_WRITE:
        return MT_TLS_WANT_WRITE;
    case SSL_ERROR_ZERO_RETURN:
        *eof = true;
        return MT_TLS_DONE;
    default:
        break;
    }
    t->dead = true;
    errno = sys;
    unsigned long e = ERR_peek_error();
    if (t->refusal.code != MT_OK && err) {
        *err = t->refusal;
        r = -(int)err->code;
    } else if (t->refusal.code != MT_OK) {
        r = -(int)t->refusal.code;
    } else if (why == SSL_ERROR_SYSCALL && e == 0) {
        r = errno ? MT_FAIL_ERRNO(err, MT_E_UNAVAILABLE, "the TLS connection broke")
                  : MT_FAIL(err, MT_E_UNAVAILABLE, "the peer closed the TLS connection without a word");
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        r = MT_FAIL(err, MT_E_UNAVAILABLE, "the peer closed the TLS connection without a word");
    } else if (ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) >= SSL_AD_REASON_OFFSET) { /* an alert of the peer */
        int alert = ERR_GET_REASON(e) - SSL_AD_REASON_OFFSET;
        bool ours = alert == SSL_AD_BAD_CERTIFICATE || alert == SSL_AD_UNSUPPORTED_CERTIFICATE || alert == SSL_AD_CERTIFICATE_REVOKED ||
                    alert == SSL_AD_CERTIFICATE_EXPIRED || alert == SSL_AD_CERTIFICATE_UNKNOWN || alert == SSL_AD_UNKNOWN_CA ||
                    alert == SSL_AD_ACCESS_DENIED || alert == TLS13_AD_CERTIFICATE_REQUIRED;
        r = MT_FAIL(err, ours ? MT_E_DENIED : MT_E_INVALID, "the peer ended the TLS connection: %s", SSL_alert_desc_string_long(alert));
    } else {
        const char *s = e ? ERR_reason_error_string(e) : NULL;
        r = MT_FAIL(err, MT_E_INVALID, "TLS: %s", s ? s : "the connection failed");
    }
    ERR_clear_error();
    return r;
}

static int dead(struct mt_err *err)
{
    return MT_FAIL(err, MT_E_UNAVAILABLE, "the TLS connection has ended");
}

int mt_tls_handshake(struct mt_tls *t, struct mt_err *err)
{
    bool eof = false;
    if (t->dead)
        return dead(err);
    ERR_clear_error();
    errno = 0;
    int rc = SSL_do_handshake(t->ssl);
    if (rc == 1)
        return MT_TLS_DONE;
    int r = step_of(t, rc, &eof, err);
    return eof ? MT_FAIL(err, MT_E_UNAVAILABLE, "the peer ended the TLS connection while it was made") : r;
}

int mt_tls_read(struct mt_tls *t, void *buf, size_t len, size_t *ret_n, struct mt_err *err)
{
    bool eof = false;
    size_t n = 0;
    if (t->dead)
        return dead(err);
    ERR_clear_error();
    errno = 0;
    int rc = SSL_read_ex(t->ssl, buf, len, &n), r = rc == 1 ? MT_TLS_DONE : step_of(t, rc, &eof, err);
    if (r == MT_TLS_DONE)
        *ret_n = n;
    return r;
}

int mt_tls_write(struct mt_tls *t, const void *buf, size_t len, size_t *ret_n, struct mt_err *err)
{
    bool eof = false;
    size_t n = 0;
    if (t->dead)
        return dead(err);
    ERR_clear_error();
    errno = 0;
    int rc = SSL_write_ex(t->ssl, buf, len, &n), r = rc == 1 ? MT_TLS_DONE : step_of(t, rc, &eof, err);
    if (eof)
        return MT_FAIL(err, MT_E_UNAVAILABLE, "the TLS connection has ended");
    if (r == MT_TLS_DONE)
        *ret_n = n;
    return r;
}

void mt_tls_goodbye(struct mt_tls *t)
{
    if (t->dead || SSL_in_init(t->ssl))
        return;
    ERR_clear_error();
    (void)SSL_shutdown(t->ssl);
    ERR_clear_error();
}

bool mt_tls_pending(const struct mt_tls *t)
{
    return !t->dead && SSL_pending(t->ssl) > 0;
}

bool mt_tls_peer(const struct mt_tls *t, struct mt_tls_peer *ret)
{
    X509 *x = SSL_get0_peer_certificate(t->ssl);
    if (!x)
        return false;
    describe(x, ret);
    ret->expired = t->expired;
    return true;
}

const char *mt_tls_version_name(const struct mt_tls *t)
{
    return SSL_get_version(t->ssl);
}

int mt_tls_version_parse(const char *text, enum mt_tls_version *ret, struct mt_err *err)
{
    if (MT_STREQ(text, "1.2"))
        *ret = MT_TLS_1_2;
    else if (MT_STREQ(text, "1.3"))
        *ret = MT_TLS_1_3;
    else
        return MT_FAIL(err, MT_E_INVALID, "'%.40s' is not a TLS version: 1.2 or 1.3", text);
    return 0;
}
