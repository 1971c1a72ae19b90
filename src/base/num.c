/* SPDX-License-Identifier: Apache-2.0 */
#include "base/num.h"

#include <inttypes.h>

int mt_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret, struct mt_err *err)
{
    uint64_t v = 0;
    if (!s || !*s)
        return MT_FAIL(err, MT_E_INVALID, "expected a number, got nothing");
    for (const char *p = s; *p; p++) {
        if (*p < '0' || *p > '9')
            return MT_FAIL(err, MT_E_INVALID, "'%.40s' is not a decimal number", s);
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return MT_FAIL(err, MT_E_INVALID, "'%.40s' is too large", s);
    }
    if (v < min || v > max)
        return MT_FAIL(err, MT_E_INVALID, "%" PRIu64 " is outside %" PRIu64 "..%" PRIu64, v, min, max);
    *ret = v;
    return 0;
}

int mt_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret, struct mt_err *err)
{
    bool neg = s && *s == '-';
    uint64_t mag;
    int r = mt_parse_u64(neg ? s + 1 : s, 0, neg ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX, &mag, err);
    if (r < 0)
        return r;
    int64_t v = neg ? (mag == (uint64_t)INT64_MAX + 1 ? INT64_MIN : -(int64_t)mag) : (int64_t)mag;
    if (v < min || v > max)
        return MT_FAIL(err, MT_E_INVALID, "%" PRId64 " is outside %" PRId64 "..%" PRId64, v, min, max);
    *ret = v;
    return 0;
}
