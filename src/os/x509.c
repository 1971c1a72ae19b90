/* SPDX-License-Identifier: Apache-2.0 */
#include "os/x509.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define FREER(type, fn)                  \
    static void type##_drop(type **p)    \
    {                                    \
        fn(*p);                          \
    }
FREER(EVP_PKEY, EVP_PKEY_free)
FREER(EVP_PKEY_CTX, EVP_PKEY_CTX_free)
FREER(X509, X509_free)
FREER(X509_REQ, X509_REQ_free)
FREER(BIO, BIO_free)
#define AUTO(type) mt_cleanup(type##_drop) type *

/* ---------------------------------------------------------------- PEM */

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return 0; /* never ask on a terminal */
}

static BIO *text_in(const char *pem)
{
    size_t n = strnlen(pem, MT_X509_PEM_MAX + 1);
    return n == 0 || n > MT_X509_PEM_MAX ? NULL : BIO_new_mem_buf(pem, (int)n);
}

/* What was written to @b as malloc'ed text; the library's copy of it is wiped. */
static char *text_out(BIO *b)
{
    char *data = NULL;
    long n = BIO_get_mem_data(b, &data);
    char *text = n > 0 ? mt_strndup(data, (size_t)n) : NULL;
    if (n > 0)
        explicit_bzero(data, (size_t)n);
    return text;
}

static EVP_PKEY *key_of(const char *pem, struct mt_err *err)
{
    AUTO(BIO) b = text_in(pem);
    EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_passphrase, NULL) : NULL;
    if (!key)
        (void)MT_FAIL(err, MT_E_INVALID, "that is no private key in PEM form");
    ERR_clear_error();
    return key;
}

static X509 *cert_of(const char *pem, struct mt_err *err)
{
    AUTO(BIO) b = text_in(pem);
    X509 *x = b ? PEM_read_bio_X509(b, NULL, no_passphrase, NULL) : NULL;
    if (!x)
        (void)MT_FAIL(err, MT_E_INVALID, "that is no certificate in PEM form");
    ERR_clear_error();
    return x;
}

static int fault(struct mt_err *err, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;
    int rc = MT_FAIL(err, MT_E_IO, "%s: %s", what, why ? why : "no memory");
    ERR_clear_error();
    return rc;
}

static int key_out(EVP_PKEY *key, char **ret, struct mt_err *err)
{
    AUTO(BIO) b = BIO_new(BIO_s_mem());
    if (!b || PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) != 1 || !(*ret = text_out(b)))
        return fault(err, "writing a key");
    return 0;
}

static int cert_out(X509 *x, char **ret, struct mt_err *err)
{
    AUTO(BIO) b = BIO_new(BIO_s_mem());
    if (!b || PEM_write_bio_X509(b, x) != 1 || !(*ret = text_out(b)))
        return fault(err, "writing a certificate");
    return 0;
}

/* ---------------------------------------------------------------- keys and requests */

static EVP_PKEY *new_key(void)
{
    AUTO(EVP_PKEY_CTX) c = EVP_PKEY_CTX_new_id(EVP_PKEY_ED25519, NULL);
    EVP_PKEY *key = NULL;
    if (!c || EVP_PKEY_keygen_init(c) != 1 || EVP_PKEY_keygen(c, &key) != 1)
        return NULL;
    return key;
}

int mt_x509_key_new(char **ret_pem, struct mt_err *err)
{
    AUTO(EVP_PKEY) key = new_key();
    return key ? key_out(key, ret_pem, err) : fault(err, "making a key");
}

static int set_cn(X509_NAME *name, const char *cn)
{
    return X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0);
}

int mt_x509_csr_new(const char *key_pem, const char *cn, char **ret_pem, struct mt_err *err)
{
    AUTO(EVP_PKEY) key = key_of(key_pem, err);
    AUTO(X509_REQ) req = X509_REQ_new();
    AUTO(BIO) b = BIO_new(BIO_s_mem());
    if (!key)
        return -MT_E_INVALID;
    if (!req || !b || X509_REQ_set_version(req, 0) != 1 || set_cn(X509_REQ_get_subject_name(req), cn) != 1 ||
        X509_REQ_set_pubkey(req, key) != 1 || X509_REQ_sign(req, key, NULL) <= 0 || PEM_write_bio_X509_REQ(b, req) != 1 ||
        !(*ret_pem = text_out(b)))
        return fault(err, "making a certificate request");
    return 0;
}

static void spki_hex(X509_PUBKEY *p, char ret[65])
{
    unsigned char *der = NULL;
    uint8_t digest[MT_SHA256_LEN] = {0};
    int n = i2d_X509_PUBKEY(p, &der);
    if (n > 0)
        mt_sha256_of(der, (size_t)n, digest);
    OPENSSL_free(der);
    mt_hex_encode(digest, sizeof digest, ret);
}

/* The only entry of a name, which is its common name; "" for an empty name. False for anything else. */
static bool only_cn(const X509_NAME *name, char ret[65])
{
    unsigned char *text = NULL;
    int entries = X509_NAME_entry_count(name);
    ret[0] = '\0';
    if (entries == 0)
        return true;
    if (entries != 1 || X509_NAME_get_index_by_NID(name, NID_commonName, -1) != 0)
        return false;
    int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, 0)));
    bool ok = n > 0 && n < 65;
    for (int i = 0; ok && i < n; i++)
        ok = text[i] > 0x20 && text[i] < 0x7f;
    if (ok) {
        memcpy(ret, text, (size_t)n);
        ret[n] = '\0';
    }
    if (n >= 0)
        OPENSSL_free(text);
    return ok;
}

static bool key_allowed(EVP_PKEY *key)
{
    char group[32];
    size_t n = 0;
    if (EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519)
        return true;
    return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC && EVP_PKEY_get_group_name(key, group, sizeof group, &n) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

static X509_REQ *csr_of(const char *pem, struct mt_x509_csr *ret, struct mt_err *err)
{
    AUTO(BIO) b = text_in(pem);
    AUTO(X509_REQ) req = b ? PEM_read_bio_X509_REQ(b, NULL, no_passphrase, NULL) : NULL;
    EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;
    if (!key) {
        (void)MT_FAIL(err, MT_E_INVALID, "the certificate request is not one in PEM form");
    } else if (!key_allowed(key)) {
        (void)MT_FAIL(err, MT_E_INVALID, "the key of the certificate request is neither Ed25519 nor P-256");
    } else if (X509_REQ_verify(req, key) != 1) {
        (void)MT_FAIL(err, MT_E_INVALID, "the certificate request is not signed by its own key");
    } else if (!only_cn(X509_REQ_get_subject_name(req), ret->cn)) {
        (void)MT_FAIL(err, MT_E_INVALID, "the subject of the certificate request is more than one printable common name");
    } else if (X509_REQ_get_attr_count(req) != 0) {
        (void)MT_FAIL(err, MT_E_INVALID, "the certificate request asks for extensions; names are for the control plane to give");
    } else {
        spki_hex(X509_REQ_get_X509_PUBKEY(req), ret->spki_sha256);
        ERR_clear_error();
        return MT_TAKE(req);
    }
    ERR_clear_error();
    return NULL;
}

int mt_x509_csr_read(const char *pem, struct mt_x509_csr *ret, struct mt_err *err)
{
    struct mt_x509_csr csr = {0};
    AUTO(X509_REQ) req = csr_of(pem, &csr, err);
    if (!req)
        return -MT_E_INVALID;
    *ret = csr;
    return 0;
}

/* ---------------------------------------------------------------- certificates */

static int64_t seconds(const ASN1_TIME *t)
{
    struct tm tm = {0};
    return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void key_id(const ASN1_OCTET_STRING *s, char ret[41])
{
    int n = s ? ASN1_STRING_length(s) : 0;
    if (n > 0 && n <= 20)
        mt_hex_encode(ASN1_STRING_get0_data(s), (size_t)n, ret);
}

static void describe(X509 *x, struct mt_x509_cert *ret)
{
    *ret = (struct mt_x509_cert){.not_before_s = seconds(X509_get0_notBefore(x)), .not_after_s = seconds(X509_get0_notAfter(x))};
    (void)only_cn(X509_get_subject_name(x), ret->cn);
    key_id(X509_get0_subject_key_id(x), ret->key_id);
    key_id(X509_get0_authority_key_id(x), ret->issuer_key_id);
    spki_hex(X509_get_X509_PUBKEY(x), ret->spki_sha256);
    BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    char *hex = n ? BN_bn2hex(n) : NULL;
    const char *p = hex ? hex : "";
    while (*p == '0' && p[1])
        p++;
    for (size_t i = 0; i < sizeof ret->serial - 1 && p[i]; i++)
        ret->serial[i] = (char)(p[i] >= 'A' && p[i] <= 'F' ? p[i] + 32 : p[i]);
    OPENSSL_free(hex);
    BN_free(n);
}

static bool random_serial(X509 *x)
{
    uint8_t raw[16];
    mt_random(raw, sizeof raw);
    raw[0] = (uint8_t)((raw[0] & 0x7f) | 0x40); /* positive, and always of one length */
    BIGNUM *n = BN_bin2bn(raw, sizeof raw, NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static bool add(X509 *x, X509V3_CTX *v3, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, v3, nid, value);
    bool ok = e && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

static bool push_name(GENERAL_NAMES *names, int type, void *value)
{
    GENERAL_NAME *g = GENERAL_NAME_new();
    if (!g || !value) {
        GENERAL_NAME_free(g);
        ASN1_STRING_free(value);
        return false;
    }
    GENERAL_NAME_set0_value(g, type, value);
    if (sk_GENERAL_NAME_push(names, g) > 0)
        return true;
    GENERAL_NAME_free(g);
    return false;
}

static ASN1_STRING *ascii(const char *s)
{
    ASN1_IA5STRING *a = ASN1_IA5STRING_new();
    if (a && ASN1_STRING_set(a, s, -1) != 1) {
        ASN1_STRING_free(a);
        a = NULL;
    }
    return a;
}

static ASN1_STRING *address(const char *ip)
{
    uint8_t raw[16];
    int n = inet_pton(AF_INET6, ip, raw) == 1 ? 16 : inet_pton(AF_INET, ip, raw) == 1 ? 4 : 0;
    ASN1_OCTET_STRING *a = n ? ASN1_OCTET_STRING_new() : NULL;
    if (a && ASN1_OCTET_STRING_set(a, raw, n) != 1) {
        ASN1_STRING_free(a);
        a = NULL;
    }
    return a;
}

static bool add_names(X509 *x, const struct mt_x509_spec *spec)
{
    if (!spec->uri && !spec->ip && !spec->dns)
        return true;
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool ok = names && (!spec->uri || push_name(names, GEN_URI, ascii(spec->uri))) && (!spec->dns || push_name(names, GEN_DNS, ascii(spec->dns))) &&
              (!spec->ip || push_name(names, GEN_IPADD, address(spec->ip))) && X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, 0) == 1;
    GENERAL_NAMES_free(names);
    return ok;
}

static bool begin(X509 *x, EVP_PKEY *key, const char *cn, int64_t from_s, int64_t to_s)
{
    return x && X509_set_version(x, 2) == 1 && random_serial(x) && ASN1_TIME_set(X509_getm_notBefore(x), (time_t)from_s) &&
           ASN1_TIME_set(X509_getm_notAfter(x), (time_t)to_s) && set_cn(X509_get_subject_name(x), cn) == 1 && X509_set_pubkey(x, key) == 1;
}

int mt_x509_ca_new(const char *cn, int64_t not_before_s, int64_t not_after_s, char **ret_key_pem, char **ret_cert_pem, struct mt_err *err)
{
    AUTO(EVP_PKEY) key = new_key();
    AUTO(X509) x = X509_new();
    mt_auto_free char *key_pem = NULL;
    X509V3_CTX v3;
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    if (!key || !begin(x, key, cn, not_before_s, not_after_s) || X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
        !add(x, &v3, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") || !add(x, &v3, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add(x, &v3, NID_subject_key_identifier, "hash") || X509_sign(x, key, NULL) <= 0)
        return fault(err, "making a certificate authority");
    int rc = key_out(key, &key_pem, err);
    if (rc == 0 && (rc = cert_out(x, ret_cert_pem, err)) == 0)
        *ret_key_pem = MT_TAKE(key_pem);
    else if (key_pem)
        explicit_bzero(key_pem, strlen(key_pem));
    return rc;
}

int mt_x509_sign(const char *ca_key_pem, const char *ca_cert_pem, const char *csr_pem, const struct mt_x509_spec *spec, char **ret_pem,
                 struct mt_x509_cert *ret, struct mt_err *err)
{
    struct mt_x509_csr csr;
    AUTO(X509_REQ) req = csr_of(csr_pem, &csr, err);
    if (!req)
        return -MT_E_INVALID;
    AUTO(EVP_PKEY) ca_key = key_of(ca_key_pem, err);
    AUTO(X509) ca = ca_key ? cert_of(ca_cert_pem, err) : NULL;
    if (!ca)
        return -MT_E_INVALID;
    AUTO(X509) x = X509_new();
    X509V3_CTX v3;
    X509V3_set_ctx(&v3, ca, x, NULL, NULL, 0);
    const char *use = spec->client && spec->server ? "clientAuth,serverAuth" : spec->server ? "serverAuth" : "clientAuth";
    if (!begin(x, X509_REQ_get0_pubkey(req), spec->cn, spec->not_before_s, spec->not_after_s) ||
        X509_set_issuer_name(x, X509_get_subject_name(ca)) != 1 || !add(x, &v3, NID_basic_constraints, "critical,CA:FALSE") ||
        !add(x, &v3, NID_key_usage, "critical,digitalSignature") || !add(x, &v3, NID_ext_key_usage, use) ||
        !add(x, &v3, NID_subject_key_identifier, "hash") || !add(x, &v3, NID_authority_key_identifier, "keyid") || !add_names(x, spec) ||
        X509_sign(x, ca_key, NULL) <= 0)
        return fault(err, "signing a certificate");
    int rc = cert_out(x, ret_pem, err);
    if (rc == 0 && ret)
        describe(x, ret);
    return rc;
}

int mt_x509_read(const char *pem, struct mt_x509_cert *ret, struct mt_err *err)
{
    AUTO(X509) x = cert_of(pem, err);
    if (!x)
        return -MT_E_INVALID;
    describe(x, ret);
    return 0;
}

int mt_x509_read_all(const char *pem, struct mt_x509_cert *ret, int max, struct mt_err *err)
{
    AUTO(BIO) b = text_in(pem);
    int n = 0, rc = 0;
    for (X509 *x; rc == 0 && b && (x = PEM_read_bio_X509(b, NULL, no_passphrase, NULL)); X509_free(x)) {
        if (n == max)
            rc = MT_FAIL(err, MT_E_LIMIT, "more than %d certificates in one text", max);
        else
            describe(x, &ret[n++]);
    }
    ERR_clear_error();
    return rc < 0 ? rc : n ? n : MT_FAIL(err, MT_E_INVALID, "that is no certificate in PEM form");
}

bool mt_x509_belongs(const char *key_pem, const char *cert_pem)
{
    AUTO(EVP_PKEY) key = key_of(key_pem, NULL);
    AUTO(X509) x = cert_of(cert_pem, NULL);
    bool yes = key && x && X509_check_private_key(x, key) == 1;
    ERR_clear_error();
    return yes;
}

/* ---------------------------------------------------------------- X25519 */

int mt_x25519_public(const uint8_t private_key[32], uint8_t ret_public[32], struct mt_err *err)
{
    size_t n = 32;
    AUTO(EVP_PKEY) key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private_key, 32);
    if (!key || EVP_PKEY_get_raw_public_key(key, ret_public, &n) != 1 || n != 32)
        return fault(err, "X25519");
    return 0;
}

int mt_x25519_new(uint8_t ret_private[32], uint8_t ret_public[32], struct mt_err *err)
{
    mt_random(ret_private, 32);
    ret_private[0] &= 0xf8; /* RFC 7748 5: as `wg genkey` writes it */
    ret_private[31] = (uint8_t)((ret_private[31] & 0x7f) | 0x40);
    return mt_x25519_public(ret_private, ret_public, err);
}
