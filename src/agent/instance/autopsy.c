/* SPDX-License-Identifier: Apache-2.0 */
/* See autopsy.h. */
#include "agent/instance/autopsy.h"

#include "agent/logstore.h"
#include "base/assert.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"

#include <string.h>

#define CONSOLE_LINE 240

void mt_autopsy_tail(const char *logs_dir, const char *instance_id, uint32_t boot, struct mt_autopsy_tail *ret)
{
    struct mt_log_reader *r = NULL;
    struct mt_log_record rec;
    uint64_t last = 0;
    struct mt_err err = {0};

    ret->n = 0;
    if (mt_log_last_seq(logs_dir, instance_id, &last, &err) < 0 || last == 0 ||
        mt_log_reader_open(logs_dir, instance_id, last > MT_AUTOPSY_LINES ? last - MT_AUTOPSY_LINES : 0, &r, &err) < 0)
        return;
    while (ret->n < MT_AUTOPSY_LINES && mt_log_reader_next(r, &rec, &err) == 1) {
        if (rec.boot != boot)
            continue;
        struct mt_autopsy_line *l = &ret->line[ret->n++];
        l->ts_us = rec.ts_us;
        l->stream = rec.stream;
        l->len = (uint16_t)(rec.len < sizeof l->text ? rec.len : sizeof l->text);
        memcpy(l->text, rec.line, l->len);
    }
    mt_log_reader_close(r);
}

/* NUL is no character of a text in the control plane's database: shown like a byte that is not UTF-8. */
static void put_text(struct mt_buf *b, const char *s, size_t n)
{
    char text[512];
    if (n > sizeof text)
        n = sizeof text;
    for (size_t i = 0; i < n; i++)
        text[i] = s[i] ? s[i] : '\xff';
    mt_buf_put_json_str(b, text, n);
}

static void put_str(struct mt_buf *b, const char *key, const char *value)
{
    if (!value || !value[0])
        return;
    mt_buf_printf(b, ",\"%s\":", key);
    mt_buf_put_json_str(b, value, strlen(value));
}

static void put_u64(struct mt_buf *b, const char *key, uint64_t value)
{
    mt_buf_printf(b, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void put_health(struct mt_buf *b, const struct mt_autopsy_health *h)
{
    if (!h->check || h->check->type == MT_HEALTH_NONE)
        return;
    bool http = h->check->type == MT_HEALTH_HTTP;
    mt_buf_printf(b, ",\"health\":{\"type\":\"%s\",\"port\":%u", http ? "http" : "tcp", h->check->port);
    if (http)
        put_str(b, "path", h->check->path);
    put_u64(b, "failures", h->failures);
    put_str(b, "error", h->error);
    if (h->status)
        put_u64(b, "status", (uint64_t)h->status);
    if (h->body_len) {
        mt_buf_puts(b, ",\"body\":");
        put_text(b, h->body, h->body_len);
    }
    mt_buf_putc(b, '}');
}

/* The last @max lines of @text, without their ends. */
static void put_console(struct mt_buf *b, const char *text, size_t len, size_t max)
{
    size_t from = len, lines = 0;
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
        len--;
    for (from = len; from > 0; from--) {
        if (text[from - 1] == '\n' && ++lines >= max)
            break;
    }
    mt_buf_puts(b, ",\"console\":[");
    for (bool first = true; max > 0 && from < len; first = false) {
        const char *end = memchr(text + from, '\n', len - from);
        size_t stop = end ? (size_t)(end - text) : len, n = stop - from;
        while (n > 0 && text[from + n - 1] == '\r')
            n--;
        if (!first)
            mt_buf_putc(b, ',');
        put_text(b, text + from, n < CONSOLE_LINE ? n : CONSOLE_LINE);
        from = stop + 1;
    }
    mt_buf_putc(b, ']');
}

static void put_log(struct mt_buf *b, const struct mt_autopsy_tail *t, size_t max)
{
    char ts[MT_RFC3339_LEN];
    mt_buf_puts(b, ",\"log\":[");
    size_t from = t && t->n > max ? t->n - max : 0;
    for (size_t i = from; t && i < t->n; i++) {
        const struct mt_autopsy_line *l = &t->line[i];
        mt_buf_printf(b, "%s{\"ts\":\"%s\",\"stream\":\"%s\",\"line\":", i > from ? "," : "", mt_rfc3339(l->ts_us, ts),
                      mt_log_stream_name(l->stream));
        put_text(b, l->text, l->len);
        mt_buf_putc(b, '}');
    }
    mt_buf_putc(b, ']');
}

static void put_all(struct mt_buf *b, const struct mt_autopsy_in *in, size_t lines)
{
    const struct mt_state *st = in->st;
    const struct mt_end *e = &st->end;
    char ts[MT_RFC3339_LEN];

    mt_buf_printf(b, "{\"boot_id\":\"%s\",\"boot_seq\":%llu,\"ended_at\":\"%s\",\"reason_code\":\"%s\"", st->boot_id,
                  (unsigned long long)st->boot_seq, mt_rfc3339(in->ended_us, ts), e->reason);
    put_str(b, "reason_detail", e->detail);
    put_str(b, "explain", in->explain);
    put_str(b, "phase", in->phase);
    put_str(b, "step", in->step);
    if (e->has_exit_code)
        put_u64(b, "exit_code", (uint64_t)e->exit_code);
    put_str(b, "signal", e->signal);
    if (st->t.launch && st->driver[0])
        mt_buf_printf(b, ",\"vmm\":\"%s/%s\"", st->driver, st->accel);
    mt_buf_printf(b, ",\"oom\":{\"guest_kills\":%llu,\"cgroup_kills\":%llu", (unsigned long long)in->oom_guest,
                  (unsigned long long)in->oom_cgroup);
    if (in->memory_bytes)
        put_u64(b, "memory_bytes", in->memory_bytes);
    if (in->memory_available_bytes)
        put_u64(b, "memory_available_bytes", in->memory_available_bytes);
    mt_buf_putc(b, '}');
    put_health(b, &in->health);
    put_console(b, in->console ? in->console : "", in->console ? in->console_len : 0, lines);
    put_log(b, in->tail, lines);
    mt_buf_putc(b, '}');
}

char *mt_autopsy_text(const struct mt_autopsy_in *in)
{
    /* Bytes that JSON must escape are six times as long; what a workload prints must not cost it its autopsy. */
    for (size_t lines = MT_AUTOPSY_LINES;; lines /= 2) {
        struct mt_buf b;
        mt_buf_init(&b, MT_AUTOPSY_MAX);
        put_all(&b, in, lines);
        if (!b.failed)
            return mt_buf_take(&b);
        mt_buf_done(&b);
        if (lines == 0)
            return NULL;
    }
}

#define CONSOLE_TAIL 6144

/* The last CONSOLE_TAIL bytes of @text. */
static char *memdup_tail(const char *text, size_t n, size_t *ret_len)
{
    size_t skip = n > CONSOLE_TAIL ? n - CONSOLE_TAIL : 0;
    char *copy = malloc(n - skip + 1);
    *ret_len = copy ? n - skip : 0;
    if (copy)
        memcpy(copy, text + skip, n - skip);
    return copy;
}

/* A panic is followed by more registers than lines are kept: what counts begins a little before it, and ends where the room does. */
static size_t panic_window(const char *text, size_t n, const char *hit, size_t *ret_len)
{
    size_t from = (size_t)(hit - text), to, lines = 0;
    for (; from > 0 && lines < 5; from--) {
        if (text[from - 1] == '\n' && ++lines == 5)
            break;
    }
    lines = 0;
    for (to = from; to < n && lines < MT_AUTOPSY_LINES; to++)
        lines += text[to] == '\n';
    *ret_len = to - from;
    return from;
}

char *mt_autopsy_console(char *text, size_t n, size_t *ret_len, char ret_line[MT_AUTOPSY_CONSOLE_LINE])
{
    static const char *const telling[] = {"Kernel panic", "Out of memory", "init: "};
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' '))
        n--;
    text[n] = '\0';
    char *tail = memdup_tail(text, n, ret_len);
    const char *line = text;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n')
            line = text + i + 1;
    }
    for (size_t i = 0; i < MT_ARRAY_LEN(telling); i++) {
        const char *hit = memmem(text, n, telling[i], strlen(telling[i]));
        if (!hit)
            continue;
        line = hit;
        if (i == 0) {
            size_t len, from = panic_window(text, n, hit, &len);
            free(tail);
            tail = memdup_tail(text + from, len, ret_len);
        }
        break;
    }
    (void)mt_printable(line, strcspn(line, "\r\n"), ret_line, MT_AUTOPSY_CONSOLE_LINE);
    return tail;
}

bool mt_autopsy_says_oom(const char *line)
{
    return strstr(line, "Kernel panic - not syncing: System is deadlocked on memory") != NULL;
}
