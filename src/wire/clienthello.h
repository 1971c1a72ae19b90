/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ClientHello reader: finds the server name in the first bytes of a TLS connection.
 *
 * An incremental state machine: bytes may come in any number of pieces and TLS records, split at any byte. It keeps
 * no copy of the input (the caller forwards exactly what it read), never allocates, never reads past what it is given.
 * It knows TLS framing and nothing of sockets, routes or alerts.
 *
 * Sources: RFC 8446 4.1.2 (ClientHello), 5.1 (records), RFC 6066 3 (server_name), RFC 8701 (GREASE), networking.md 8.4.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_HELLO_MAX 16384U      /* default bound on stream bytes up to the end of the hello */
#define MT_HELLO_MAX_FLOOR 2048U /* a bound below or above these two is not accepted from configuration */
#define MT_HELLO_MAX_CEIL 65536U
#define MT_HELLO_NAME_MAX 253U /* bytes of a valid name, without its trailing dot */

/* What a reader says of the bytes so far. Everything but MORE is final. */
enum mt_hello_result {
    MT_HELLO_MORE = 0,  /* fine so far, not complete */
    MT_HELLO_NAME,      /* whole and valid, a usable name is there */
    MT_HELLO_NO_NAME,   /* whole and valid, no server_name extension */
    MT_HELLO_BAD_NAME,  /* whole and well-formed, but the name is no host name */
    MT_HELLO_NOT_TLS,   /* does not begin as TLS (SSLv2 hellos too) */
    MT_HELLO_MALFORMED, /* begins as TLS and breaks its rules */
    MT_HELLO_TOO_BIG,   /* not complete within the bound */
    MT_HELLO_RESULT_MAX
};

/* State of one reader. Fields are private but for the ones marked. About 300 bytes. */
struct mt_hello {
    /* result, valid once a final result was returned */
    uint16_t legacy_version; /* public: version in the hello body */
    uint16_t best_version;   /* public: highest non-GREASE of supported_versions, else legacy_version */
    uint16_t name_len;       /* public: bytes in name, with MT_HELLO_NAME */
    bool saw_ech;            /* public: an encrypted_client_hello extension was there; name is the outer one */
    char name[256];          /* public: lower case, no trailing dot, NUL-terminated */

    uint8_t result;
    uint8_t rec_state;
    uint8_t state;
    uint8_t have; /* bytes of acc read */
    bool first_record_done;
    bool saw_name;
    uint32_t acc;
    uint32_t max_bytes;
    uint32_t used;      /* stream bytes consumed */
    uint32_t rec_left;  /* payload bytes left in this record */
    uint32_t body_left; /* bytes left in the handshake message */
    uint32_t ext_left;  /* bytes left in the extension list */
    uint32_t data_left; /* bytes left in this extension */
    uint32_t skip;      /* bytes to pass over in the SKIP states */
    uint16_t ext_type;
};

/**
 * Make a reader ready. @max_bytes bounds the stream bytes (record headers included) up to the end of the hello;
 * values outside MT_HELLO_MAX_FLOOR..MT_HELLO_MAX_CEIL are drawn to the nearer end. Cannot fail.
 */
void mt_hello_init(struct mt_hello *h, uint32_t max_bytes);

/**
 * Read the next piece of the stream.
 *
 * @data, @len   the bytes after those given before; borrowed for the call; len 0 is allowed
 * Returns the result for all bytes so far. The result of a stream does not depend on how it is cut into pieces.
 * After a final result further bytes are not looked at and the same result comes back.
 */
enum mt_hello_result mt_hello_feed(struct mt_hello *h, const uint8_t *data, size_t len);

/**
 * Bring a host name into the form in which names are compared: ASCII lower case, one trailing dot removed,
 * only [a-z0-9_.-], labels 1..63, total 1..253, no IPv4 literal. Used for names of the wire and of configuration.
 *
 * @name, @len   text, not NUL-terminated; borrowed
 * @ret_name     at least 256 bytes, may be @name itself; NUL-terminated result; written only on success
 * Returns the length of the result, or 0 if it is no valid name.
 */
size_t mt_hello_normal_name(const char *name, size_t len, char ret_name[256]);

/** Name of a result for logs and metrics: "more", "ok", "no_sni", "bad_name", "not_tls", "malformed", "too_big". */
const char *mt_hello_result_name(enum mt_hello_result r);
