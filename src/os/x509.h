/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys, certificate requests and certificates as PEM text: what a node needs to get an identity and what a certificate authority needs to
 * give one. OpenSSL behind it; no TLS here (os/tls.h). Everything read is untrusted: bounded, refused by a message that
 * names what is wrong. Source: RFC 2986 (requests), RFC 5280 (certificates), networking.md §1.4.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define MT_X509_PEM_MAX 16384 /* bytes of one PEM text that is read */
#define MT_X509_SERIAL_SIZE 41

/** A new Ed25519 key as PKCS #8 PEM without passphrase, malloc'ed; wipe it before freeing. -MT_E_NOMEM. */
int mt_x509_key_new(char **ret_pem, struct mt_err *err);

/** A request for a certificate with the common name @cn, signed by @key_pem. malloc'ed. */
int mt_x509_csr_new(const char *key_pem, const char *cn, char **ret_pem, struct mt_err *err);

/** What a request says. */
struct mt_x509_csr {
    char cn[65];          /* "" when the subject is empty */
    char spki_sha256[65]; /* of the key asked for, lower-case hex */
};

/**
 * Check the first request of a PEM text: a good signature by its own key, a key of Ed25519 or P-256, a subject that is empty or one common name,
 * and no wishes: names beyond the subject are the authority's to give. -MT_E_INVALID otherwise.
 */
int mt_x509_csr_read(const char *pem, struct mt_x509_csr *ret, struct mt_err *err);

/** What the authority puts into a certificate. */
struct mt_x509_spec {
    const char *cn;
    const char *uri;      /* alternative name, NULL: none */
    const char *ip;       /* the same as an address, NULL: none */
    const char *dns;      /* the same as a host name, NULL: none */
    int64_t not_before_s, not_after_s; /* Unix seconds */
    bool client, server;  /* what it may be used for */
};

/** A certificate, described. */
struct mt_x509_cert {
    char cn[65];
    char key_id[41], issuer_key_id[41]; /* subject and authority key identifiers, hex; "" when it has none (RFC 5280 4.2.1) */
    char serial[MT_X509_SERIAL_SIZE]; /* lower-case hex without leading zeros, as os/tls.h gives it */
    char spki_sha256[65];
    int64_t not_before_s, not_after_s;
};

/** A self-signed authority: key and certificate. Both malloc'ed; wipe the key. */
int mt_x509_ca_new(const char *cn, int64_t not_before_s, int64_t not_after_s, char **ret_key_pem, char **ret_cert_pem, struct mt_err *err);

/**
 * Sign the key of @csr_pem (checked as by mt_x509_csr_read; its subject is not taken over). The serial is 128 random bits.
 * @ret_pem malloc'ed, the certificate alone; @ret may be NULL.
 */
int mt_x509_sign(const char *ca_key_pem, const char *ca_cert_pem, const char *csr_pem, const struct mt_x509_spec *spec, char **ret_pem,
                 struct mt_x509_cert *ret, struct mt_err *err);

/** Describe the first certificate of a PEM text. */
int mt_x509_read(const char *pem, struct mt_x509_cert *ret, struct mt_err *err);

/** Describe every certificate of a PEM text, at most @max. Returns their number, at least one; -MT_E_INVALID; -MT_E_LIMIT more than @max. */
int mt_x509_read_all(const char *pem, struct mt_x509_cert *ret, int max, struct mt_err *err);

/** True when @key_pem is the private key of the first certificate of @cert_pem. */
bool mt_x509_belongs(const char *key_pem, const char *cert_pem);

/** A new X25519 private key for WireGuard, clamped, and its public half; both as 32 bytes. -MT_E_IO when the library cannot. */
int mt_x25519_new(uint8_t ret_private[32], uint8_t ret_public[32], struct mt_err *err);
/** The public half of a private key. */
int mt_x25519_public(const uint8_t private_key[32], uint8_t ret_public[32], struct mt_err *err);
