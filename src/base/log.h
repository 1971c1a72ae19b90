/* SPDX-License-Identifier: Apache-2.0 */
/* One line, one event, on stderr: JSON (daemons) or plain key=value text (terminals). Thread-safe: one write per line.
 * Record: {"ts","level","component","msg", fields...}, scheduling-and-operations.md §7.1. Event names are dotted constants.
 * The same line again and again from one place is written ten times a second; the next one that is written there says how many were left out ("suppressed").
 * Never secrets, tokens, environment values, request bodies. */
#pragma once

#include "base/err.h"

#include <stdatomic.h>

enum mt_level { MT_DEBUG = 0, MT_INFO, MT_WARN, MT_ERROR, MT_LEVEL_MAX };

enum mt_kv_kind { MT_KV_STR = 0, MT_KV_I64, MT_KV_U64, MT_KV_BOOL };

struct mt_kv {
    const char *key;
    enum mt_kv_kind kind;
    union {
        const char *s;
        int64_t i;
        uint64_t u;
    } v;
};

static inline struct mt_kv mt_kv_str(const char *k, const char *s)
{
    return (struct mt_kv){.key = k, .kind = MT_KV_STR, .v.s = s ? s : ""};
}
static inline struct mt_kv mt_kv_i64(const char *k, int64_t i)
{
    return (struct mt_kv){.key = k, .kind = MT_KV_I64, .v.i = i};
}
static inline struct mt_kv mt_kv_u64(const char *k, uint64_t u)
{
    return (struct mt_kv){.key = k, .kind = MT_KV_U64, .v.u = u};
}
static inline struct mt_kv mt_kv_bool(const char *k, bool b)
{
    return (struct mt_kv){.key = k, .kind = MT_KV_BOOL, .v.u = b};
}

static inline struct mt_kv mt_kv_opt(const char *k, const char *s)
{
    return (struct mt_kv){.key = s && *s ? k : NULL, .kind = MT_KV_STR, .v.s = s};
}

/** Text that may not be known: no field when it is NULL or empty. */
#define KV_OPT(k, s) mt_kv_opt((k), (s))
/** A typed field: text, bool, signed or unsigned integer by the type of @v. */
#define KV(k, v) \
    _Generic((v), char *: mt_kv_str, const char *: mt_kv_str, bool: mt_kv_bool, unsigned char: mt_kv_u64, \
             unsigned short: mt_kv_u64, unsigned: mt_kv_u64, unsigned long: mt_kv_u64, unsigned long long: mt_kv_u64, \
             default: mt_kv_i64)((k), (v))
/** The error as fields: KV_ERR(&err). */
#define KV_ERR(e) mt_kv_str("error", (e)->msg), mt_kv_str("error_code", mt_code_name((e)->code))

/** Set once at start: component name (borrowed for ever), lowest level written, JSON or text. */
void mt_log_init(const char *component, enum mt_level min, bool json);
/** Also settable later, e.g. on SIGHUP. */
void mt_log_level(enum mt_level min);
/** Parse "debug", "info", "warn", "error"; -MT_E_INVALID. */
int mt_level_parse(const char *s, enum mt_level *ret, struct mt_err *err);
/* Where a line is written from: what came last, how often in this second. All zero at first. */
struct mt_log_site {
    _Atomic uint64_t line;
    _Atomic int64_t second;
    _Atomic uint32_t times, suppressed;
};
void mt_log_write(struct mt_log_site *site, enum mt_level level, const char *msg, const struct mt_kv *kv, size_t n);
/** Would a line of this level be written? Asked by mt_log before it gathers the fields. */
bool mt_log_on(enum mt_level level);

#define mt_log(level, msg, ...) \
    do { \
        if (!mt_log_on(level)) \
            break; \
        static struct mt_log_site log_site_; \
        const struct mt_kv log_kv_[] = {{.key = NULL}, ##__VA_ARGS__}; \
        mt_log_write(&log_site_, (level), (msg), log_kv_ + 1, sizeof log_kv_ / sizeof log_kv_[0] - 1); \
    } while (0)
