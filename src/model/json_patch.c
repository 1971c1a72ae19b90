/* SPDX-License-Identifier: Apache-2.0 */
/* See json_patch.h. Operations apply one after another, so an array is changed in a copy on the way: indexes are those of then. */
#include "model/json_patch.h"

#include "base/buf.h"
#include "base/str.h"
#include "wire/json.h"

#include <stdio.h>
#include <string.h>

#define PATH_MAX_BYTES 2000

static json_t *plain(const json_t *v)
{
    return (json_t *)(uintptr_t)v;
}

struct out {
    json_t *list;
    bool failed;
};

static void op(struct out *o, const char *name, const char *path, const char *from, const json_t *value)
{
    json_t *e = json_pack("{s:s,s:s}", "op", name, "path", path);
    if (e && from && json_object_set_new(e, "from", json_string(from)) < 0)
        o->failed = true;
    if (e && value && json_object_set_new(e, "value", json_deep_copy(value)) < 0)
        o->failed = true;
    if (json_array_append_new(o->list, e) < 0)
        o->failed = true;
}

/* @path/@token into @ret; false when it does not fit. */
static bool below(struct out *o, const char *path, const char *token, char ret[PATH_MAX_BYTES])
{
    struct mt_buf b = MT_BUF_INIT(PATH_MAX_BYTES);
    mt_buf_puts(&b, path);
    mt_buf_putc(&b, '/');
    for (const char *t = token; *t; t++) {
        if (*t == '~')
            mt_buf_puts(&b, "~0");
        else if (*t == '/')
            mt_buf_puts(&b, "~1");
        else
            mt_buf_putc(&b, *t);
    }
    bool fits = !b.failed && b.len < PATH_MAX_BYTES;
    if (fits) {
        memcpy(ret, b.p, b.len);
        ret[b.len] = 0;
    }
    mt_buf_done(&b);
    o->failed = o->failed || !fits;
    return fits;
}

static void differ(struct out *o, const char *path, const json_t *a, const json_t *b);

static void objects(struct out *o, const char *path, const json_t *a, const json_t *b)
{
    const char *k;
    json_t *v, *w;
    char p[PATH_MAX_BYTES];
    json_object_foreach (plain(a), k, v)
        if (!json_object_get(b, k) && below(o, path, k, p))
            op(o, "remove", p, NULL, NULL);
    json_object_foreach (plain(b), k, v) {
        if (!below(o, path, k, p))
            continue;
        if ((w = json_object_get(a, k)))
            differ(o, p, w, v);
        else
            op(o, "add", p, NULL, v);
    }
}

static const char *key_of(const json_t *item)
{
    static const char *const keys[] = {"id", "env_id", "app_id", "process_type", "dimension"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *k = json_string_value(json_object_get(item, keys[i]));
        if (k)
            return k;
    }
    return NULL;
}

static bool keyed(const json_t *array)
{
    mt_auto_json json_t *seen = json_object();
    size_t i;
    json_t *v;
    json_array_foreach (plain(array), i, v) {
        const char *k = key_of(v);
        if (!k || json_object_get(seen, k) || json_object_set_new(seen, k, json_true()) < 0)
            return false;
    }
    return seen != NULL;
}

static size_t index_of(const json_t *array, const char *key, size_t from)
{
    while (from < json_array_size(array) && !MT_STREQ(key_of(json_array_get(array, from)), key))
        from++;
    return from;
}

static void arrays(struct out *o, const char *path, const json_t *a, const json_t *b)
{
    if (json_array_size(a) + json_array_size(b) == 0)
        return;
    if (!keyed(a) || !keyed(b)) {
        if (!json_equal(plain(a), plain(b)))
            op(o, "replace", path, NULL, b);
        return;
    }
    mt_auto_json json_t *now = json_copy(plain(a)), *want = json_object();
    char p[PATH_MAX_BYTES], q[PATH_MAX_BYTES], n[24];
    size_t i;
    json_t *v;
    json_array_foreach (plain(b), i, v)
        o->failed = o->failed || json_object_set(want, key_of(v), v) < 0;
    for (i = json_array_size(now); i-- > 0;) {
        (void)snprintf(n, sizeof n, "%zu", i);
        if (json_object_get(want, key_of(json_array_get(now, i))) || !below(o, path, n, p))
            continue;
        op(o, "remove", p, NULL, NULL);
        (void)json_array_remove(now, i);
    }
    json_array_foreach (plain(b), i, v) {
        (void)snprintf(n, sizeof n, "%zu", i);
        if (!below(o, path, n, p))
            return;
        size_t at = index_of(now, key_of(v), i);
        if (at == json_array_size(now)) {
            op(o, "add", p, NULL, v);
            o->failed = o->failed || json_array_insert(now, i, v) < 0;
            continue;
        }
        json_t *was = json_array_get(now, at);
        if (at != i) {
            (void)snprintf(n, sizeof n, "%zu", at);
            if (!below(o, path, n, q))
                return;
            op(o, "move", p, q, NULL);
            json_incref(was);
            (void)json_array_remove(now, at);
            o->failed = o->failed || json_array_insert_new(now, i, was) < 0;
        }
        differ(o, p, was, v);
    }
}

static void differ(struct out *o, const char *path, const json_t *a, const json_t *b)
{
    if (json_is_object(a) && json_is_object(b))
        objects(o, path, a, b);
    else if (json_is_array(a) && json_is_array(b))
        arrays(o, path, a, b);
    else if (!json_equal(plain(a), plain(b)))
        op(o, "replace", path, NULL, b);
}

json_t *mt_json_patch(const json_t *from, const json_t *to)
{
    struct out o = {.list = json_array()};
    if (o.list)
        differ(&o, "", from, to);
    if (o.failed) {
        json_decref(o.list);
        return NULL;
    }
    return o.list;
}
