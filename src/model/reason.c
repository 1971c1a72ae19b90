/* SPDX-License-Identifier: Apache-2.0 */
/* The reason table as data. */
#include "model/reason.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

static const struct mt_reason_info reasons[MT_REASON_MAX] = {
    [MT_REASON_NONE] = {"", 0, false, ""},
#define I MT_REASON_INSTANCE
#define S MT_REASON_STOP
#define P MT_REASON_PLACEMENT
#define IP (MT_REASON_INSTANCE | MT_REASON_PLACEMENT)
#define SP (MT_REASON_STOP | MT_REASON_PLACEMENT)
#define REASON_ROW(symbol, name, parts_, platform_, text_) [MT_REASON_##symbol] = {name, parts_, platform_, text_},
    MT_REASONS(REASON_ROW)
#undef REASON_ROW
#undef I
#undef S
#undef P
#undef IP
#undef SP
};

const struct mt_reason_info *mt_reason_info(enum mt_reason reason)
{
    MT_ASSERT((unsigned)reason < MT_REASON_MAX);
    return &reasons[reason];
}

const char *mt_reason_code(enum mt_reason reason)
{
    return mt_reason_info(reason)->code;
}

enum mt_reason mt_reason_from_code(const char *code)
{
    if (!code)
        return MT_REASON_NONE;
    for (unsigned i = MT_REASON_NONE + 1; i < MT_REASON_MAX; i++)
        if (MT_STREQ(reasons[i].code, code))
            return (enum mt_reason)i;
    return MT_REASON_NONE;
}

bool mt_reason_is_platform(const char *code)
{
    return reasons[mt_reason_from_code(code)].platform;
}
