/* SPDX-License-Identifier: Apache-2.0 */
/* Objects are compared member by member. Arrays whose items have a key (ports by number, mounts by path, volumes by name,
 * routes by environment, port and host) are compared item by item; others, such as commands, as a whole. */
#include "model/manifest_diff.h"

#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_BYTES 700

static void put(json_t *out, const char *path, const char *op, const json_t *from, const json_t *to)
{
    json_t *e = json_pack("{s:s,s:s}", "path", path, "op", op);
    if (e && from)
        json_object_set_new(e, "from", json_deep_copy(from));
    if (e && to)
        json_object_set_new(e, "to", json_deep_copy(to));
    json_array_append_new(out, e);
}

static void differ(json_t *out, const char *path, const json_t *a, const json_t *b);

/* What tells an item of an array from the others; false: items have no key. */
static bool key_of(const json_t *item, char ret[400])
{
    const json_t *v;
    if (!json_is_object(item))
        return false;
    if ((v = json_object_get(item, "internal")))
        (void)snprintf(ret, 400, "%lld", (long long)json_integer_value(v));
    else if (json_object_get(item, "listen_port"))
        (void)snprintf(ret, 400, "%.40s:%lld%s%.260s", json_string_value(json_object_get(item, "env")),
                       (long long)json_integer_value(json_object_get(item, "listen_port")),
                       json_object_get(item, "hostname") ? ":" : "",
                       json_object_get(item, "hostname") ? json_string_value(json_object_get(item, "hostname")) : "");
    else if ((v = json_object_get(item, "path")) && json_object_get(item, "volume"))
        (void)snprintf(ret, 400, "%.255s", json_string_value(v));
    else if ((v = json_object_get(item, "name")))
        (void)snprintf(ret, 400, "%.63s", json_string_value(v));
    else
        return false;
    return true;
}

static const json_t *item_with(const json_t *array, const char *key)
{
    size_t i;
    json_t *v;
    char k[400];
    json_array_foreach ((json_t *)(uintptr_t)array, i, v)
        if (key_of(v, k) && MT_STREQ(k, key))
            return v;
    return NULL;
}

static bool keyed(const json_t *array)
{
    size_t i;
    json_t *v;
    char k[400];
    json_array_foreach ((json_t *)(uintptr_t)array, i, v)
        if (!key_of(v, k))
            return false;
    return true;
}

static void arrays(json_t *out, const char *path, const json_t *a, const json_t *b)
{
    size_t i;
    json_t *v;
    char k[400], p[PATH_MAX_BYTES];
    if (!keyed(a) || !keyed(b) || json_array_size(a) + json_array_size(b) == 0) {
        if (!json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b))
            put(out, path, "replace", a, b);
        return;
    }
    json_array_foreach ((json_t *)(uintptr_t)a, i, v) {
        (void)key_of(v, k);
        (void)snprintf(p, sizeof p, "%s[%s]", path, k);
        differ(out, p, v, item_with(b, k));
    }
    json_array_foreach ((json_t *)(uintptr_t)b, i, v) {
        (void)key_of(v, k);
        (void)snprintf(p, sizeof p, "%s[%s]", path, k);
        if (!item_with(a, k))
            differ(out, p, NULL, v);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Members of both in byte order of their names. */
static void objects(json_t *out, const char *path, const json_t *a, const json_t *b)
{
    size_t n = 0;
    const char *k;
    json_t *v;
    char p[PATH_MAX_BYTES];
    const char **names = calloc(json_object_size(a) + json_object_size(b) + 1, sizeof *names);
    if (!names)
        return;
    json_object_foreach ((json_t *)(uintptr_t)a, k, v)
        names[n++] = k;
    json_object_foreach ((json_t *)(uintptr_t)b, k, v)
        if (!json_object_get(a, k))
            names[n++] = k;
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(p, sizeof p, "%s%s%s", path, *path ? "." : "", names[i]);
        differ(out, p, json_object_get(a, names[i]), json_object_get(b, names[i]));
    }
    free(names);
}

static void differ(json_t *out, const char *path, const json_t *a, const json_t *b)
{
    if (!a && !b)
        return;
    if (!a || !b)
        put(out, path, a ? "remove" : "add", a, b);
    else if (json_is_object(a) && json_is_object(b))
        objects(out, path, a, b);
    else if (json_is_array(a) && json_is_array(b))
        arrays(out, path, a, b);
    else if (!json_equal((json_t *)(uintptr_t)a, (json_t *)(uintptr_t)b))
        put(out, path, "replace", a, b);
}

json_t *mt_manifest_diff(const json_t *from, const json_t *to)
{
    json_t *out = json_array();
    if (out)
        differ(out, "", from, to);
    return out;
}
