/* SPDX-License-Identifier: Apache-2.0 */
/* AWS Signature Version 4 for S3, in headers, with a signed payload. Pure. Source: the S3 API reference, "Authenticating requests". */
#pragma once

#include "base/buf.h"

struct mt_bk_sign {
    const char *access_key, *secret_key, *session_token; /* token may be NULL */
    const char *region;
    const char *method, *host, *path, *query; /* path already encoded; query canonical (sorted, encoded), "" for none */
    const char *payload_sha256;               /* 64 hex */
    int64_t unix_s;
};

#define MT_BK_AMZ_DATE 17 /* "20130524T000000Z" and NUL */

/** "AWS4-HMAC-SHA256 Credential=…" at the end of @ret, the time as it goes into x-amz-date into @ret_date. -MT_E_LIMIT. */
int mt_bk_sign(const struct mt_bk_sign *s, struct mt_buf *ret, char ret_date[MT_BK_AMZ_DATE], struct mt_err *err);
/** Percent-encode for a query (RFC 3986 unreserved stay) at the end of @ret. */
void mt_bk_query_encode(struct mt_buf *ret, const char *s);
