/* SPDX-License-Identifier: Apache-2.0 */
#include "os/digest.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>

struct mt_sha256 {
    EVP_MD_CTX *ctx;
};

struct mt_sha256 *mt_sha256_new(void)
{
    struct mt_sha256 *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1) {
        mt_sha256_free(s);
        return NULL;
    }
    return s;
}

void mt_sha256_update(struct mt_sha256 *s, const void *data, size_t n)
{
    MT_ASSERT(EVP_DigestUpdate(s->ctx, data, n) == 1);
}

void mt_sha256_final(struct mt_sha256 *s, uint8_t ret[MT_SHA256_LEN])
{
    unsigned len = 0;
    MT_ASSERT(EVP_DigestFinal_ex(s->ctx, ret, &len) == 1 && len == MT_SHA256_LEN);
    mt_sha256_free(s);
}

void mt_sha256_free(struct mt_sha256 *s)
{
    if (!s)
        return;
    EVP_MD_CTX_free(s->ctx);
    free(s);
}

/* One digest context per thread, given back with it: fetching the algorithm costs more than hashing some hundred bytes. */
static pthread_key_t ctx_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static EVP_MD *sha256;

static void ctx_free(void *ctx)
{
    EVP_MD_CTX_free(ctx);
}

static void set_up(void)
{
    MT_ASSERT(pthread_key_create(&ctx_key, ctx_free) == 0);
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

int mt_sha256_two(const void *a, size_t na, const void *b, size_t nb, uint8_t ret[MT_SHA256_LEN], struct mt_err *err)
{
    (void)pthread_once(&once, set_up);
    EVP_MD_CTX *ctx = pthread_getspecific(ctx_key);
    if (!ctx && (!(ctx = EVP_MD_CTX_new()) || pthread_setspecific(ctx_key, ctx) != 0)) {
        EVP_MD_CTX_free(ctx);
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a digest");
    }
    if (!sha256 || EVP_DigestInit_ex2(ctx, sha256, NULL) != 1 || EVP_DigestUpdate(ctx, a, na) != 1 ||
        EVP_DigestUpdate(ctx, b, nb) != 1 || EVP_DigestFinal_ex(ctx, ret, NULL) != 1)
        return MT_FAIL(err, MT_E_NOMEM, "digest failed");
    return 0;
}

void mt_sha256_of(const void *data, size_t n, uint8_t ret[MT_SHA256_LEN])
{
    MT_ASSERT(mt_sha256_two(data, n, NULL, 0, ret, NULL) == 0);
}

void mt_sha1_of(const void *data, size_t n, uint8_t ret[MT_SHA1_LEN])
{
    MT_ASSERT(EVP_Digest(data, n, ret, NULL, EVP_sha1(), NULL) == 1);
}

void mt_sha256_hex(const void *data, size_t n, char ret[MT_SHA256_HEX])
{
    uint8_t d[MT_SHA256_LEN];
    mt_sha256_of(data, n, d);
    mt_hex_encode(d, sizeof d, ret);
}

int mt_sha256_file(const char *path, char ret[MT_SHA256_HEX], struct mt_err *err)
{
    mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MT_FAIL_ERRNO(err, errno == ENOENT ? MT_E_NOT_FOUND : MT_E_IO, "open '%s'", path);
    struct mt_sha256 *s = mt_sha256_new();
    mt_auto_free char *part = malloc(1 << 16);
    if (!s || !part) {
        mt_sha256_free(s);
        return MT_FAIL(err, MT_E_NOMEM, "no memory to hash '%s'", path);
    }
    ssize_t n;
    while ((n = read(fd, part, 1 << 16)) != 0) {
        if (n > 0) {
            mt_sha256_update(s, part, (size_t)n);
        } else if (errno != EINTR) {
            mt_sha256_free(s);
            return MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", path);
        }
    }
    uint8_t d[MT_SHA256_LEN];
    mt_sha256_final(s, d);
    mt_hex_encode(d, sizeof d, ret);
    return 0;
}

void mt_hmac_sha256(const void *key, size_t key_len, const void *data, size_t n, uint8_t ret[MT_SHA256_LEN])
{
    unsigned len = 0;
    MT_ASSERT(key_len <= INT32_MAX && HMAC(EVP_sha256(), key, (int)key_len, data, n, ret, &len) && len == MT_SHA256_LEN);
}

bool mt_digest_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}
