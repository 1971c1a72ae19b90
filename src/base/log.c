/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/buf.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 16 * 1024, SAME_A_SECOND = 10 };

static const char *const level_name[MT_LEVEL_MAX] = {"debug", "info", "warn", "error"};
static const char *log_component = "moat";
static atomic_int log_min = MT_INFO;
static atomic_bool log_json = true;

void mt_log_init(const char *component, enum mt_level min, bool json)
{
    log_component = component;
    atomic_store(&log_min, (int)min);
    atomic_store(&log_json, json);
}

void mt_log_level(enum mt_level min)
{
    atomic_store(&log_min, (int)min);
}

int mt_level_parse(const char *s, enum mt_level *ret, struct mt_err *err)
{
    for (int i = 0; i < MT_LEVEL_MAX; i++) {
        if (strcmp(s, level_name[i]) == 0) {
            *ret = (enum mt_level)i;
            return 0;
        }
    }
    return MT_FAIL(err, MT_E_INVALID, "log level '%.20s' is not one of debug, info, warn, error", s);
}

static void put_value(struct mt_buf *b, const struct mt_kv *kv)
{
    switch (kv->kind) {
    case MT_KV_STR:
        mt_buf_put_json_str(b, kv->v.s, strnlen(kv->v.s, 4096));
        break;
    case MT_KV_I64:
        mt_buf_printf(b, "%" PRId64, kv->v.i);
        break;
    case MT_KV_U64:
        mt_buf_printf(b, "%" PRIu64, kv->v.u);
        break;
    case MT_KV_BOOL:
        mt_buf_puts(b, kv->v.u ? "true" : "false");
        break;
    }
}

bool mt_log_on(enum mt_level level)
{
    return (int)level >= atomic_load_explicit(&log_min, memory_order_relaxed);
}

static uint64_t mixed(uint64_t h, const void *data, size_t n)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return h;
}

/* What tells one line of a place from another: its fields. */
static uint64_t line_of(const struct mt_kv *kv, size_t n)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < n; i++) {
        h = mixed(h, &i, sizeof i);
        h = kv[i].key && kv[i].kind == MT_KV_STR ? mixed(h, kv[i].v.s, strnlen(kv[i].v.s, 4096)) : mixed(h, &kv[i].v.u, kv[i].key ? sizeof kv[i].v.u : 0);
    }
    return h;
}

/* May it be written? Threads that come together may let one more or less through. */
static bool admit(struct mt_log_site *site, const struct mt_kv *kv, size_t n, uint32_t *ret_suppressed)
{
    uint64_t line = line_of(kv, n);
    int64_t second = mt_clock_mono() / MT_NS_PER_S;
    bool again = atomic_load_explicit(&site->line, memory_order_relaxed) == line && atomic_load_explicit(&site->second, memory_order_relaxed) == second;
    if (!again) {
        atomic_store_explicit(&site->line, line, memory_order_relaxed);
        atomic_store_explicit(&site->second, second, memory_order_relaxed);
        atomic_store_explicit(&site->times, 0, memory_order_relaxed);
    }
    if (atomic_fetch_add_explicit(&site->times, 1, memory_order_relaxed) >= SAME_A_SECOND) {
        (void)atomic_fetch_add_explicit(&site->suppressed, 1, memory_order_relaxed);
        return false;
    }
    *ret_suppressed = atomic_exchange_explicit(&site->suppressed, 0, memory_order_relaxed);
    return true;
}

void mt_log_write(struct mt_log_site *site, enum mt_level level, const char *msg, const struct mt_kv *kv, size_t n)
{
    uint32_t suppressed;
    if ((int)level < atomic_load(&log_min) || !admit(site, kv, n, &suppressed))
        return;
    int keep = errno;
    char ts[MT_RFC3339_LEN];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(LINE_MAX_BYTES);
    mt_rfc3339(mt_clock_wall_us(), ts);
    if (atomic_load(&log_json)) {
        mt_buf_printf(&b, "{\"ts\":\"%s\",\"level\":\"%s\",\"component\":\"%s\",\"msg\":", ts, level_name[level], log_component);
        mt_buf_put_json_str(&b, msg, strlen(msg));
        for (size_t i = 0; i < n; i++) {
            if (!kv[i].key)
                continue;
            mt_buf_putc(&b, ',');
            mt_buf_put_json_str(&b, kv[i].key, strlen(kv[i].key));
            mt_buf_putc(&b, ':');
            put_value(&b, &kv[i]);
        }
        if (suppressed)
            mt_buf_printf(&b, ",\"suppressed\":%u", suppressed);
        mt_buf_puts(&b, "}\n");
    } else {
        mt_buf_printf(&b, "%.15s %-5s %s: %s", ts + 11, level_name[level], log_component, msg);
        for (size_t i = 0; i < n; i++) {
            if (!kv[i].key)
                continue;
            mt_buf_printf(&b, " %s=", kv[i].key);
            put_value(&b, &kv[i]);
        }
        if (suppressed)
            mt_buf_printf(&b, " suppressed=%u", suppressed);
        mt_buf_putc(&b, '\n');
    }
    if (b.failed) { /* too long: the event without its fields rather than half a record; hostile fields must not hide it */
        mt_buf_reset(&b);
        mt_buf_printf(&b, "{\"ts\":\"%s\",\"level\":\"%s\",\"component\":\"%s\",\"msg\":", ts, level_name[level], log_component);
        mt_buf_put_json_str(&b, msg, strnlen(msg, 1024));
        mt_buf_puts(&b, ",\"fields_dropped\":true}\n");
    }
    (void)!write(STDERR_FILENO, b.p, b.len);
    errno = keep;
}
