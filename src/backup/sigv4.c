/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/sigv4.h"

#include "base/str.h"
#include "os/digest.h"

#include <string.h>
#include <time.h>

void mt_bk_query_encode(struct mt_buf *ret, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || strchr("-._~", c))
            mt_buf_putc(ret, (char)c);
        else
            mt_buf_printf(ret, "%%%02X", c);
    }
}

int mt_bk_sign(const struct mt_bk_sign *s, struct mt_buf *ret, char ret_date[MT_BK_AMZ_DATE], struct mt_err *err)
{
    time_t t = (time_t)s->unix_s;
    struct tm tm;
    char hash[MT_SHA256_HEX], signature[65];
    uint8_t k[32];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(16384);
    if (!gmtime_r(&t, &tm) || strftime(ret_date, MT_BK_AMZ_DATE, "%Y%m%dT%H%M%SZ", &tm) != MT_BK_AMZ_DATE - 1)
        return MT_FAIL(err, MT_E_INVALID, "the clock stands outside the years that can be signed");
    const char *names = s->session_token ? "host;x-amz-content-sha256;x-amz-date;x-amz-security-token" : "host;x-amz-content-sha256;x-amz-date";
    mt_buf_printf(&b, "%s\n%s\n%s\nhost:%s\nx-amz-content-sha256:%s\nx-amz-date:%s\n", s->method, s->path, s->query, s->host, s->payload_sha256,
                  ret_date);
    if (s->session_token)
        mt_buf_printf(&b, "x-amz-security-token:%s\n", s->session_token);
    mt_buf_printf(&b, "\n%s\n%s", names, s->payload_sha256);
    int r = mt_buf_check(&b, err);
    if (r < 0)
        return r;
    mt_sha256_hex(b.p, b.len, hash);
    mt_buf_reset(&b);
    mt_buf_printf(&b, "AWS4-HMAC-SHA256\n%s\n%.8s/%s/s3/aws4_request\n%s", ret_date, ret_date, s->region, hash);
    mt_auto_buf struct mt_buf secret = MT_BUF_INIT(4096);
    mt_buf_printf(&secret, "AWS4%s", s->secret_key);
    if ((r = mt_buf_check(&secret, err)) == 0 && (r = mt_buf_check(&b, err)) == 0) {
        mt_hmac_sha256(secret.p, secret.len, ret_date, 8, k);
        mt_hmac_sha256(k, sizeof k, s->region, strlen(s->region), k);
        mt_hmac_sha256(k, sizeof k, "s3", 2, k);
        mt_hmac_sha256(k, sizeof k, "aws4_request", 12, k);
        mt_hmac_sha256(k, sizeof k, b.p, b.len, k);
        mt_hex_encode(k, sizeof k, signature);
        mt_buf_printf(ret, "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/s3/aws4_request,SignedHeaders=%s,Signature=%s", s->access_key, ret_date, s->region,
                      names, signature);
        r = mt_buf_check(ret, err);
    }
    explicit_bzero(k, sizeof k);
    if (secret.p)
        explicit_bzero(secret.p, secret.cap);
    return r;
}
