/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers from outside: whole-string decimal parsing with the range in the message, overflow-checked sizes. */
#pragma once

#include "base/err.h"

/** Parse all of @s (NUL terminated) as decimal, no sign, no blanks; @min..@max inclusive. -MT_E_INVALID otherwise. */
int mt_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret, struct mt_err *err);
/** As mt_parse_u64 with an optional leading '-'. */
int mt_parse_i64(const char *s, int64_t min, int64_t max, int64_t *ret, struct mt_err *err);

static inline bool mt_size_add(size_t a, size_t b, size_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

static inline bool mt_size_mul(size_t a, size_t b, size_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

static inline uint64_t mt_min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t mt_max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
