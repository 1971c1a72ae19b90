/* SPDX-License-Identifier: Apache-2.0 */
/* Checking a payload against its registered schema and writing its canonical form. */
#include "control/log/canon.h"
#include "control/log/types.h"

#include "base/str.h"

#include <string.h>

#define TEXT_MAX 4096

static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; n > 0; p++) {
        if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == 0))
            return true;
        p = strchr(p, '|');
        if (!p)
            return false;
    }
    return false;
}

static int texts_ok(enum mt_ev ev, const struct mt_pf *f, const json_t *v, struct mt_err *err)
{
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        if (!json_is_string(e) || json_string_length(e) > TEXT_MAX)
            return MT_FAIL(err, MT_E_INVALID, "%s: field '%s[%zu]' is not a text of at most %d bytes", mt_ev_info(ev)->type,
                           f->name, i, TEXT_MAX);
        for (size_t k = 0; k < i; k++)
            if (json_equal(json_array_get(v, k), e))
                return MT_FAIL(err, MT_E_INVALID, "%s: field '%s' names '%.60s' twice", mt_ev_info(ev)->type, f->name,
                               json_string_value(e));
    }
    return 0;
}

static int field_ok(enum mt_ev ev, const struct mt_pf *f, const json_t *v, struct mt_err *err)
{
    static const char *const want[] = {
        [MT_PF_TEXT] = "a text of at most 4096 bytes", [MT_PF_INT] = "an integer", [MT_PF_BOOL] = "true or false",
        [MT_PF_OBJECT] = "an object", [MT_PF_TEXTS] = "an array of texts", [MT_PF_OBJECTS] = "an array of objects",
        [MT_PF_ENUM] = "one of", [MT_PF_ANY] = "",
    };
    bool ok = false;
    switch (f->kind) {
    case MT_PF_TEXT:
        ok = json_is_string(v) && json_string_length(v) <= TEXT_MAX;
        break;
    case MT_PF_INT:
        ok = json_is_integer(v);
        break;
    case MT_PF_BOOL:
        ok = json_is_boolean(v);
        break;
    case MT_PF_OBJECT:
        ok = json_is_object(v);
        break;
    case MT_PF_TEXTS:
        if (json_is_array(v))
            return texts_ok(ev, f, v, err);
        break;
    case MT_PF_OBJECTS:
        ok = json_is_array(v);
        for (size_t i = 0; ok && i < json_array_size(v); i++)
            ok = json_is_object(json_array_get(v, i));
        break;
    case MT_PF_ENUM:
        ok = json_is_string(v) && in_list(f->values, json_string_value(v));
        break;
    case MT_PF_ANY:
        ok = true;
        break;
    }
    if (ok)
        return 0;
    return MT_FAIL(err, MT_E_INVALID, "%s: field '%s' is not %s%s%s", mt_ev_info(ev)->type, f->name, want[f->kind],
                   f->values ? " " : "", f->values ? f->values : "");
}

/* The texts that name an element of these two arrays must differ: one statement touches each row once. */
static int scales_ok(const json_t *scales, struct mt_err *err)
{
    for (size_t i = 0; i < json_array_size(scales); i++) {
        const json_t *s = json_array_get(scales, i), *d = json_object_get(s, "desired");
        const char *pt = json_string_value(json_object_get(s, "process_type"));
        if (!pt || json_object_size(s) != 2 || !(json_is_null(d) || (json_is_integer(d) && json_integer_value(d) >= 0)))
            return MT_FAIL(err, MT_E_INVALID, "env.scale_set: field 'scales[%zu]' is not {process_type, desired}", i);
        for (size_t k = 0; k < i; k++)
            if (MT_STREQ(pt, json_string_value(json_object_get(json_array_get(scales, k), "process_type"))))
                return MT_FAIL(err, MT_E_INVALID, "env.scale_set: field 'scales' names '%.60s' twice", pt);
    }
    return 0;
}

static int resources_ok(const json_t *r, struct mt_err *err)
{
    static const char *const need[] = {"cpu_millis", "memory_bytes", "disk_bytes"};
    for (size_t i = 0; i < sizeof need / sizeof *need; i++)
        if (!json_is_integer(json_object_get(r, need[i])))
            return MT_FAIL(err, MT_E_INVALID, "instance.allocated: field 'resources.%s' is not an integer", need[i]);
    return 0;
}

static int schema_ok(enum mt_ev ev, const json_t *payload, struct mt_err *err)
{
    const struct mt_pf *fields = mt_ev_fields(ev);
    size_t known = 0;
    for (const struct mt_pf *f = fields; f->name; f++) {
        const json_t *v = json_object_get(payload, f->name);
        if (!v && f->required)
            return MT_FAIL(err, MT_E_INVALID, "%s: field '%s' is missing", mt_ev_info(ev)->type, f->name);
        if (!v)
            continue;
        known++;
        int r = field_ok(ev, f, v, err);
        if (r < 0)
            return r;
    }
    if (known == json_object_size(payload))
        return 0;
    const char *names[40] = {NULL};
    size_t n = 0;
    for (const struct mt_pf *f = fields; f->name && n < 39; f++)
        names[n++] = f->name;
    json_t *tree;
    memcpy(&tree, &payload, sizeof tree);
    for (void *it = json_object_iter(tree); it; it = json_object_iter_next(tree, it)) {
        const char *key = json_object_iter_key(it);
        bool found = false;
        for (size_t i = 0; i < n && !found; i++)
            found = MT_STREQ(names[i], key);
        if (found)
            continue;
        char shown[64];
        const char *near = mt_nearest(key, names);
        return MT_FAIL(err, MT_E_INVALID, "%s: there is no field '%s'%s%s%s", mt_ev_info(ev)->type,
                       mt_printable(key, strlen(key), shown, sizeof shown), near ? "; did you mean '" : "", near ? near : "",
                       near ? "'?" : "");
    }
    return 0;
}

int mt_ev_payload(enum mt_ev ev, const json_t *payload, struct mt_buf *ret, struct mt_err *err)
{
    if (!json_is_object(payload))
        return MT_FAIL(err, MT_E_INVALID, "%s: the payload is not an object", mt_ev_info(ev)->type);
    int r = schema_ok(ev, payload, err);
    if (r == 0 && ev == MT_EV_ENV_SCALE_SET)
        r = scales_ok(json_object_get(payload, "scales"), err);
    if (r == 0 && ev == MT_EV_INSTANCE_ALLOCATED)
        r = resources_ok(json_object_get(payload, "resources"), err);
    if (r < 0)
        return r;
    size_t from = ret->len;
    if ((r = mt_canon_json(payload, ret, err)) < 0)
        return mt_err_wrap(err, "%s", mt_ev_info(ev)->type);
    size_t n = ret->len - from;
    if (n > MT_EV_PAYLOAD_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "%s: the payload has %zu bytes, %d are allowed", mt_ev_info(ev)->type, n, MT_EV_PAYLOAD_MAX);
    /* verify-log reads with the other writer; what it could not read again never gets in */
    mt_auto_buf struct mt_buf again = MT_BUF_INIT(MT_EV_PAYLOAD_MAX + 64);
    r = mt_canon_text((const char *)ret->p + from, n, &again, err);
    if (r < 0 || again.len != n || memcmp(again.p, ret->p + from, n) != 0)
        return MT_FAIL(err, MT_E_INVALID, "%s: the payload has no stable canonical form", mt_ev_info(ev)->type);
    return 0;
}
