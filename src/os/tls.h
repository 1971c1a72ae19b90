/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.2 and 1.3 over a connected stream socket, for both sides: contexts (certificate, trust, policy) and connections. OpenSSL behind it;
 * only tls.c includes its headers. Connections are not tied to a loop: each call does what it can and says what to wait for, so that the
 * same code serves a blocking client with deadlines (wire/http_client.c) and a loop (os/tls_relay.c). Nothing raises SIGPIPE.
 *
 * A context never changes once made: to reload a certificate make a new one and let new connections use it; the old one goes with the last
 * connection that uses it. Session tickets, renegotiation and compression are off.
 */
#pragma once

#include "base/err.h"

#include <sys/types.h>

struct mt_tls_ctx;
struct mt_tls;

enum mt_tls_version { MT_TLS_1_2 = 0, MT_TLS_1_3 };

/** Who is at the other end, from its certificate. Texts are printable; "" when the certificate says nothing of the kind. */
struct mt_tls_peer {
    char cn[65];          /* subject's common name */
    char uri[256];        /* first URI among the alternative names */
    char serial[65];      /* lower-case hex without leading zeros */
    char spki_sha256[65]; /* of the public key (SubjectPublicKeyInfo), lower-case hex */
    int64_t not_after_s;  /* Unix seconds */
    bool expired;         /* only with expired_grace_s */
};

/** Asked about a certificate whose chain holds: 0 to accept, -code to end the handshake (the peer gets an alert, @err is the handshake's
 *  error). Runs inside the handshake, so on whatever thread does that: it must not block. */
typedef int (*mt_tls_verify_fn)(const struct mt_tls_peer *peer, void *arg, struct mt_err *err);

struct mt_tls_conf {
    bool server;
    enum mt_tls_version min;  /* lowest version spoken; the highest is always 1.3 */
    const char *cert_file;    /* PEM, own certificate first, then what leads to the root; a server needs one */
    const char *key_file;     /* PEM without passphrase */
    const char *ca_file;      /* PEM; peers must lead to one of these. Client without it (and without @pin): the system's store. Server
                                 without it: no certificate is asked of clients */
    const char *pin;          /* client: SHA-256 of the server's public key, 64 hex digits. Without @ca_file it is trusted for that key alone,
                                 whatever name and issuer the certificate has; NULL: none */
    const char *root_pin;     /* client: SHA-256 of the public key of the self-signed root that the server sends at the end of its chain: trusted
                                 for that, instead of @ca_file; NULL: none */
    bool peer_required;       /* server with @ca_file: a client without certificate is refused */
    int64_t expired_grace_s;  /* a peer's certificate expired for less than this is accepted and marked; 0: never */
    mt_tls_verify_fn verify;  /* NULL: the chain (and a client's server name) decides */
    void *verify_arg;
};

/**
 * Read the files, make a context. @conf is copied where it is needed later.
 * Returns 0; -MT_E_INVALID a file that is not what it should be, a key that does not belong to the certificate (the message names the
 * file); -MT_E_NOT_FOUND a file is not there; -MT_E_IO cannot be read; -MT_E_NOMEM.
 */
int mt_tls_ctx_new(const struct mt_tls_conf *conf, struct mt_tls_ctx **ret, struct mt_err *err);
/** References may be taken and given back by any thread; NULL is fine for unref. */
struct mt_tls_ctx *mt_tls_ctx_ref(struct mt_tls_ctx *c);
void mt_tls_ctx_unref(struct mt_tls_ctx *c);
/** When the context's own certificate ends, Unix seconds; 0 without one. */
int64_t mt_tls_ctx_not_after(const struct mt_tls_ctx *c);
/** SHA-256 of the context's own public key, as a peer would pin it; "" without one. */
const char *mt_tls_ctx_spki(const struct mt_tls_ctx *c);

/**
 * A connection over @fd (borrowed, non-blocking; the caller closes it after mt_tls_free).
 * @server_name  client: the name or IP literal that the server's certificate must hold, also sent as SNI when it is a name; NULL: any
 *               (then @conf.verify or @conf.pin must tell). Server: NULL.
 */
int mt_tls_new(struct mt_tls_ctx *ctx, int fd, const char *server_name, struct mt_tls **ret, struct mt_err *err);
void mt_tls_free(struct mt_tls *t);

/* What a call says: done, or call again when the socket is readable or writable. A read may wait for writable and the other way round. */
enum mt_tls_step { MT_TLS_DONE = 0, MT_TLS_WANT_READ = 1, MT_TLS_WANT_WRITE = 2 };

/** One step of the handshake: enum mt_tls_step; -MT_E_DENIED the peer's certificate is not accepted, or it did not accept ours;
 *  -MT_E_INVALID it does not speak TLS, or no version of ours; -MT_E_UNAVAILABLE it went away. */
int mt_tls_handshake(struct mt_tls *t, struct mt_err *err);
/** Bytes received. MT_TLS_DONE with *ret_n = 0: the peer has said that it sends no more. -MT_E_UNAVAILABLE: the connection ended without
 *  that, so what came may be cut. */
int mt_tls_read(struct mt_tls *t, void *buf, size_t len, size_t *ret_n, struct mt_err *err);
/** Bytes sent, *ret_n of @len (at least one when MT_TLS_DONE). After MT_TLS_WANT_* the next call must offer the same bytes (they may lie
 *  elsewhere). @len > 0. */
int mt_tls_write(struct mt_tls *t, const void *buf, size_t len, size_t *ret_n, struct mt_err *err);
/** Say that no more will be sent (close_notify). One try suffices; errors do not matter any more. */
void mt_tls_goodbye(struct mt_tls *t);
/** Bytes that were received and decrypted and wait for mt_tls_read: a loop must not wait for the socket then. */
bool mt_tls_pending(const struct mt_tls *t);
/** True and @ret filled when the peer showed a certificate (after the handshake). */
bool mt_tls_peer(const struct mt_tls *t, struct mt_tls_peer *ret);
/** "TLSv1.3" or "TLSv1.2" after the handshake. */
const char *mt_tls_version_name(const struct mt_tls *t);
/** "1.2" or "1.3"; -MT_E_INVALID. */
int mt_tls_version_parse(const char *text, enum mt_tls_version *ret, struct mt_err *err);
