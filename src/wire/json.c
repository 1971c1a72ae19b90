/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/json.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

/* jansson bounds nesting only at 2048; ours is far lower, and counted before it builds anything. */
static int depth_check(const char *text, size_t len, unsigned max_depth, struct mt_err *err)
{
    unsigned depth = 0;
    bool in_str = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_str) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_str = false;
        } else if (c == '"') {
            in_str = true;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth)
                return MT_FAIL(err, MT_E_INVALID, "JSON is nested deeper than %u", max_depth);
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return 0;
}

int mt_json_parse(const char *text, size_t len, size_t max_len, unsigned max_depth, json_t **ret, struct mt_err *err)
{
    if (len > max_len)
        return MT_FAIL(err, MT_E_LIMIT, "JSON text has %zu bytes, at most %zu are allowed", len, max_len);
    int r = depth_check(text, len, max_depth, err);
    if (r < 0)
        return r;
    json_error_t je;
    json_t *j = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!j) {
        char why[128];
        mt_printable(je.text, strlen(je.text), why, sizeof why);
        return MT_FAIL(err, MT_E_INVALID, "line %d column %d: %s", je.line, je.column, why);
    }
    *ret = j;
    return 0;
}

static int put(const char *data, size_t n, void *arg)
{
    struct mt_buf *b = arg;
    mt_buf_put(b, data, n);
    return b->failed ? -1 : 0;
}

static int dump(const json_t *j, size_t flags, struct mt_buf *b, struct mt_err *err)
{
    if (json_dump_callback(j, put, b, flags | JSON_COMPACT) < 0)
        return MT_FAIL(err, MT_E_LIMIT, "JSON text does not fit in %zu bytes", b->max);
    return 0;
}

int mt_json_dump(const json_t *j, struct mt_buf *b, struct mt_err *err)
{
    return dump(j, JSON_ENCODE_ANY, b, err);
}

int mt_json_dump_canonical(const json_t *j, struct mt_buf *b, struct mt_err *err)
{
    return dump(j, JSON_ENCODE_ANY | JSON_SORT_KEYS, b, err);
}

static const json_t *find(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return json_is_null(v) ? NULL : v;
}

static int missing(const char *key, struct mt_err *err)
{
    return MT_FAIL(err, MT_E_INVALID, "'%s' is missing", key);
}

static int wrong_type(const char *key, const char *want, struct mt_err *err)
{
    return MT_FAIL(err, MT_E_INVALID, "'%s' must be %s", key, want);
}

int mt_json_opt_str(const json_t *obj, const char *key, size_t max_len, const char *fallback, const char **ret, struct mt_err *err)
{
    const json_t *v = find(obj, key);
    if (!v) {
        *ret = fallback;
        return 0;
    }
    if (!json_is_string(v))
        return wrong_type(key, "a string", err);
    if (json_string_length(v) > max_len)
        return MT_FAIL(err, MT_E_INVALID, "'%s' has %zu bytes, at most %zu are allowed", key, json_string_length(v), max_len);
    if (strlen(json_string_value(v)) != json_string_length(v))
        return MT_FAIL(err, MT_E_INVALID, "'%s' holds a NUL byte", key);
    *ret = json_string_value(v);
    return 0;
}

int mt_json_get_str(const json_t *obj, const char *key, size_t max_len, const char **ret, struct mt_err *err)
{
    return find(obj, key) ? mt_json_opt_str(obj, key, max_len, NULL, ret, err) : missing(key, err);
}

int mt_json_opt_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t fallback, uint64_t *ret, struct mt_err *err)
{
    const json_t *v = find(obj, key);
    if (!v) {
        *ret = fallback;
        return 0;
    }
    if (!json_is_integer(v))
        return wrong_type(key, "an integer", err);
    json_int_t i = json_integer_value(v);
    if (i < 0 || (uint64_t)i < min || (uint64_t)i > max)
        return MT_FAIL(err, MT_E_INVALID, "'%s' is %" JSON_INTEGER_FORMAT ", outside %" PRIu64 "..%" PRIu64, key, i, min, max);
    *ret = (uint64_t)i;
    return 0;
}

int mt_json_get_u64(const json_t *obj, const char *key, uint64_t min, uint64_t max, uint64_t *ret, struct mt_err *err)
{
    return find(obj, key) ? mt_json_opt_u64(obj, key, min, max, 0, ret, err) : missing(key, err);
}

int mt_json_opt_bool(const json_t *obj, const char *key, bool fallback, bool *ret, struct mt_err *err)
{
    const json_t *v = find(obj, key);
    if (v && !json_is_boolean(v))
        return wrong_type(key, "true or false", err);
    *ret = v ? json_is_true(v) : fallback;
    return 0;
}

int mt_json_get_bool(const json_t *obj, const char *key, bool *ret, struct mt_err *err)
{
    return find(obj, key) ? mt_json_opt_bool(obj, key, false, ret, err) : missing(key, err);
}

int mt_json_opt_object(const json_t *obj, const char *key, json_t **ret, struct mt_err *err)
{
    json_t *v = json_object_get(obj, key);
    if (v && !json_is_null(v) && !json_is_object(v))
        return wrong_type(key, "an object", err);
    *ret = json_is_object(v) ? v : NULL;
    return 0;
}

int mt_json_get_object(const json_t *obj, const char *key, json_t **ret, struct mt_err *err)
{
    return find(obj, key) ? mt_json_opt_object(obj, key, ret, err) : missing(key, err);
}

int mt_json_opt_array(const json_t *obj, const char *key, size_t max_items, json_t **ret, struct mt_err *err)
{
    json_t *v = json_object_get(obj, key);
    if (v && !json_is_null(v) && !json_is_array(v))
        return wrong_type(key, "an array", err);
    if (json_array_size(v) > max_items)
        return MT_FAIL(err, MT_E_INVALID, "'%s' has %zu items, at most %zu are allowed", key, json_array_size(v), max_items);
    *ret = json_is_array(v) ? v : NULL;
    return 0;
}

int mt_json_get_array(const json_t *obj, const char *key, size_t max_items, json_t **ret, struct mt_err *err)
{
    return find(obj, key) ? mt_json_opt_array(obj, key, max_items, ret, err) : missing(key, err);
}

int mt_json_only(const json_t *obj, const char *const *known, struct mt_err *err)
{
    if (!json_is_object(obj))
        return MT_FAIL(err, MT_E_INVALID, "expected a JSON object");
    for (void *it = json_object_iter((json_t *)(uintptr_t)obj); it; it = json_object_iter_next((json_t *)(uintptr_t)obj, it)) {
        const char *key = json_object_iter_key(it);
        const char *const *k = known;
        while (*k && strcmp(*k, key) != 0)
            k++;
        if (*k)
            continue;
        char shown[48];
        mt_printable(key, strlen(key), shown, sizeof shown);
        const char *near = mt_nearest(key, known);
        return near ? MT_FAIL(err, MT_E_INVALID, "unknown field '%s', did you mean '%s'?", shown, near)
                    : MT_FAIL(err, MT_E_INVALID, "unknown field '%s'", shown);
    }
    return 0;
}

int mt_json_set_strn(json_t *obj, const char *key, const char *s, size_t n)
{
    if (!s)
        return 0;
    json_t *v = json_stringn(s, n);
    if (!v) { /* not UTF-8: keep what is, mark what is not */
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(n * 3 + 1);
        for (size_t i = 0; i < n;) {
            size_t k = mt_utf8_len(s + i, n - i);
            if (k)
                mt_buf_put(&b, s + i, k);
            else
                mt_buf_put(&b, "\xef\xbf\xbd", 3);
            i += k ? k : 1;
        }
        v = json_stringn(mt_buf_cstr(&b), b.len);
    }
    return v && json_object_set_new(obj, key, v) == 0 ? 0 : -MT_E_NOMEM;
}

int mt_json_set_str(json_t *obj, const char *key, const char *s)
{
    return s ? mt_json_set_strn(obj, key, s, strlen(s)) : 0;
}

int mt_json_set_u64(json_t *obj, const char *key, uint64_t v)
{
    return json_object_set_new(obj, key, json_integer((json_int_t)v)) == 0 ? 0 : -MT_E_NOMEM;
}

int mt_json_set_bool(json_t *obj, const char *key, bool v)
{
    return json_object_set_new(obj, key, json_boolean(v)) == 0 ? 0 : -MT_E_NOMEM;
}
