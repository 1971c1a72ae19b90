/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records as bytes. One table of fields makes the line, reads it, and orders the hash. */
#include "control/audit/record.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/log/canon.h"
#include "os/digest.h"

#include <string.h>

#define LINE_MAX (32u * 1024u)

static const char *const names[MT_AUDIT_T_MAX] = {
#define X(member) #member,
    MT_AUDIT_TEXTS(X)
#undef X
};

static const enum mt_audit_text always[] = {MT_AUDIT_T_action, MT_AUDIT_T_audit_id, MT_AUDIT_T_decision, MT_AUDIT_T_result};

const char *mt_audit_text_name(enum mt_audit_text t)
{
    return names[t];
}

const char *mt_audit_chain(const struct mt_audit_rec *r)
{
    return r->text[MT_AUDIT_T_org_id] ? r->text[MT_AUDIT_T_org_id] : MT_AUDIT_PLATFORM;
}

int mt_audit_genesis(const char *chain, uint8_t ret[32], struct mt_err *err)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1024);
    mt_buf_put(&b, "moat-audit-v1", sizeof "moat-audit-v1"); /* with its NUL */
    mt_buf_puts(&b, chain);
    int r = mt_buf_check(&b, err);
    if (r == 0)
        mt_sha256_of(b.p, b.len, ret);
    return r;
}

/* At most MT_AUDIT_TEXT_MAX bytes of UTF-8 without control bytes: what came from a client is shown, not trusted. */
static void put_clean(struct mt_buf *b, const char *s)
{
    char clean[MT_AUDIT_TEXT_MAX + 1] __attribute__((uninitialized)); /* seldom needed; mt_printable ends what it writes */
    size_t n = strlen(s), i = mt_plain_run(s, n);
    bool plain = n <= MT_AUDIT_TEXT_MAX && mt_utf8_valid(s + i, n - i);
    for (; i < n && plain; i++)
        plain = (unsigned char)s[i] >= 0x20 && s[i] != 0x7f;
    if (!plain) {
        s = mt_printable(s, n, clean, sizeof clean);
        n = strlen(s);
    }
    mt_canon_str(b, s, n);
}

int mt_audit_put(const struct mt_audit_rec *r, struct mt_buf *b, struct mt_err *err)
{
    char sep = '{';
    if (!b->p && b->max >= 768)
        (void)mt_buf_reserve(b, 768); /* what most take, instead of growing to it by doubling */
    for (size_t i = 0; i < MT_AUDIT_T_MAX; i++) {
        if (!r->text[i])
            continue;
        mt_buf_putc(b, sep);
        mt_buf_putc(b, '"');
        mt_buf_puts(b, names[i]);
        mt_buf_puts(b, "\":");
        put_clean(b, r->text[i]);
        sep = ',';
    }
    if (sep == '{')
        mt_buf_putc(b, sep);
    mt_buf_putc(b, '}');
    return mt_buf_check(b, err);
}

static void put_int(struct mt_buf *b, int64_t v)
{
    char digits[24];
    size_t at = sizeof digits;
    uint64_t u = v < 0 ? 0 : (uint64_t)v; /* ids, counts and times */
    do
        digits[--at] = (char)('0' + u % 10);
    while ((u /= 10) != 0);
    mt_buf_put(b, digits + at, sizeof digits - at);
}

void mt_audit_put_line(struct mt_buf *b, int64_t event_id, int n_events, int64_t ts_us, const char *json, size_t len)
{
    mt_buf_putc(b, '[');
    put_int(b, event_id);
    mt_buf_putc(b, ',');
    put_int(b, n_events);
    mt_buf_putc(b, ',');
    put_int(b, ts_us);
    mt_buf_putc(b, ',');
    mt_buf_put(b, json, len);
    mt_buf_put(b, "]\n", 2);
}

static int take_fields(const json_t *o, struct mt_audit_rec *ret, struct mt_err *err)
{
    size_t known = 0;
    for (size_t i = 0; i < MT_AUDIT_T_MAX; i++) {
        const json_t *v = json_object_get(o, names[i]);
        size_t n = json_string_length(v);
        if (!v)
            continue;
        if (!json_is_string(v) || n > MT_AUDIT_TEXT_MAX || memchr(json_string_value(v), 0, n))
            return MT_FAIL(err, MT_E_CORRUPT, "audit line: '%s' is no text of at most %d bytes", names[i], MT_AUDIT_TEXT_MAX);
        ret->text[i] = json_string_value(v);
        known++;
    }
    if (known != json_object_size(o))
        return MT_FAIL(err, MT_E_CORRUPT, "audit line: holds a field that is not known");
    for (size_t i = 0; i < sizeof always / sizeof always[0]; i++)
        if (!ret->text[always[i]])
            return MT_FAIL(err, MT_E_CORRUPT, "audit line: '%s' is missing", names[always[i]]);
    return 0;
}

int mt_audit_parse_line(const char *line, size_t len, struct mt_audit_rec *ret, json_t **ret_tree, struct mt_err *err)
{
    json_error_t je;
    if (len > LINE_MAX)
        return MT_FAIL(err, MT_E_CORRUPT, "audit line of %zu bytes", len);
    json_t *a = json_loadb(line, len, JSON_REJECT_DUPLICATES, &je);
    const json_t *id = json_array_get(a, 0), *n = json_array_get(a, 1), *ts = json_array_get(a, 2), *o = json_array_get(a, 3);
    struct mt_audit_rec rec = {0};
    int r = 0;
    if (json_array_size(a) != 4 || !json_is_integer(id) || !json_is_integer(n) || !json_is_integer(ts) || !json_is_object(o))
        r = MT_FAIL(err, MT_E_CORRUPT, "audit line is not [event_id, events, time, {record}]");
    if (r == 0) {
        rec.event_id = json_integer_value(id);
        rec.ts_us = json_integer_value(ts);
        if (rec.event_id < 0 || rec.event_id > MT_CANON_INT_MAX || rec.ts_us < 0 || rec.ts_us > INT64_C(253402300799999999))
            r = MT_FAIL(err, MT_E_CORRUPT, "audit line: a number is out of range");
    }
    if (r == 0)
        r = take_fields(o, &rec, err);
    if (r < 0) {
        json_decref(a);
        return r;
    }
    *ret = rec;
    *ret_tree = a;
    return 0;
}

static void put_member(struct mt_buf *b, char *sep, const char *name)
{
    mt_buf_putc(b, *sep);
    mt_buf_putc(b, '"');
    mt_buf_puts(b, name);
    mt_buf_puts(b, "\":");
    *sep = ',';
}

static void put_text(struct mt_buf *b, char *sep, const char *name, const char *v)
{
    put_member(b, sep, name);
    if (v)
        mt_canon_str(b, v, strlen(v));
    else
        mt_buf_puts(b, "null");
}

static void put_number(struct mt_buf *b, char *sep, const char *name, int64_t v)
{
    put_member(b, sep, name);
    put_int(b, v);
}

/* Keys in bytewise order: the four that are not text fields come where their names belong. */
int mt_audit_hash(const uint8_t prev[32], const char *chain, int64_t seq, const struct mt_audit_rec *r, struct mt_buf *b,
                  uint8_t ret[32], struct mt_err *err)
{
    char sep = '{', when[MT_RFC3339_LEN];
    mt_buf_reset(b);
    mt_buf_put(b, prev, 32);
    mt_rfc3339(r->ts_us, when);
    for (size_t i = 0; i < MT_AUDIT_T_MAX; i++) {
        if (i == MT_AUDIT_T_decision)
            put_text(b, &sep, "chain", chain);
        if (i == MT_AUDIT_T_idempotency_key_hash) {
            if (r->event_id)
                put_number(b, &sep, "event_id", r->event_id);
            else
                put_text(b, &sep, "event_id", NULL);
        }
        if (i == MT_AUDIT_T_source_ip)
            put_number(b, &sep, "seq", seq);
        if (i == MT_AUDIT_T_user_agent)
            put_text(b, &sep, "ts", when);
        put_text(b, &sep, names[i], r->text[i]);
    }
    mt_buf_putc(b, '}');
    int rc = mt_buf_check(b, err);
    if (rc == 0)
        mt_sha256_of(b->p, b->len, ret);
    return rc;
}
