/* SPDX-License-Identifier: Apache-2.0 */
/* JSON as the same tree as TOML, with the line and column of every key and value, so that one check serves both. The library decides
 * what is JSON and decodes texts; this walks the text beside its value for the places and for numbers as they are written. */
#include "wire/toml_parse.h"

#include "base/err.h"
#include "base/str.h"
#include "wire/json.h"

#include <string.h>

static void blanks(struct mt_tp *t)
{
    for (; t->p < t->end && strchr(" \t\r\n", *t->p); ) {
        bool line = *t->p++ == '\n';
        if (line)
            mt_tp_newline(t);
    }
}

/* Over one mark that is there: the library has read this text. */
static void eat(struct mt_tp *t)
{
    if (t->p < t->end)
        t->p++;
    blanks(t);
}

static const char *string_end(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *keep(struct mt_tp *t, const char *s, size_t n)
{
    char *copy = mt_arena_strndup(&t->mem->arena, s, n);
    if (!copy)
        (void)mt_tp_nomem(t);
    return copy;
}

static struct mt_toml_value *scalar(struct mt_tp *t, const json_t *j, struct mt_toml_pos pos)
{
    const char *from = t->p;
    struct mt_toml_value *v = mt_tp_new(t, json_is_string(j) ? MT_TOML_STRING : json_is_integer(j) ? MT_TOML_INTEGER
                                           : json_is_real(j) ? MT_TOML_FLOAT : MT_TOML_BOOL, pos);
    if (*from == '"')
        t->p = string_end(t->p, t->end);
    else
        t->p += strcspn(t->p, " \t\r\n,]}");
    size_t n = (size_t)(t->p - from);
    blanks(t);
    if (!v)
        return NULL;
    if (json_is_string(j)) {
        v->string.len = json_string_length(j);
        v->string.s = keep(t, json_string_value(j), v->string.len);
        return v->string.s ? v : NULL;
    }
    if (json_is_boolean(j)) {
        v->boolean = json_is_true(j);
        return v;
    }
    if (json_is_integer(j))
        v->integer = json_integer_value(j);
    else
        v->number = json_real_value(j);
    v->text = keep(t, from, n);
    return v->text ? v : NULL;
}

static struct mt_toml_value *value(struct mt_tp *t, json_t *j);

static struct mt_toml_value *object(struct mt_tp *t, json_t *j, struct mt_toml_pos pos)
{
    struct mt_toml_value *table = mt_tp_new(t, MT_TOML_TABLE, pos);
    const char *key;
    json_t *member;
    if (!table)
        return NULL;
    table->state = MT_TP_EXPLICIT;
    eat(t); /* the brace */
    json_object_foreach (j, key, member) { /* in the order of the text */
        struct mt_tp_part part = {.len = strlen(key), .pos = mt_tp_pos(t, t->p)};
        part.s = keep(t, key, part.len);
        t->p = string_end(t->p, t->end);
        blanks(t);
        eat(t); /* the colon */
        struct mt_toml_value *v = part.s ? value(t, member) : NULL;
        if (v && mt_tp_add(t, table, &part, v) < 0)
            return NULL;
        if (t->nomem)
            return NULL;
        eat(t); /* the comma, or the brace */
    }
    if (json_object_size(j) == 0)
        eat(t);
    return table;
}

static struct mt_toml_value *array(struct mt_tp *t, json_t *j, struct mt_toml_pos pos)
{
    struct mt_toml_value *list = mt_tp_new(t, MT_TOML_ARRAY, pos);
    size_t i;
    json_t *item;
    if (!list)
        return NULL;
    eat(t);
    json_array_foreach (j, i, item) {
        struct mt_toml_value *v = value(t, item);
        if (v && mt_tp_append(t, list, v) < 0)
            return NULL;
        if (t->nomem)
            return NULL;
        eat(t);
    }
    if (json_array_size(j) == 0)
        eat(t);
    return list;
}

/* NULL: memory is out, or it is a null, which is a problem that is recorded. */
static struct mt_toml_value *value(struct mt_tp *t, json_t *j)
{
    struct mt_toml_pos pos = mt_tp_pos(t, t->p);
    if (json_is_object(j))
        return object(t, j, pos);
    if (json_is_array(j))
        return array(t, j, pos);
    if (!json_is_null(j))
        return scalar(t, j, pos);
    (void)mt_tp_fail_pos(t, pos, "null is no value here: leave the member out");
    t->p += strcspn(t->p, " \t\r\n,]}");
    blanks(t);
    return NULL;
}

static int read_text(struct mt_tp *t, size_t len, struct mt_err *err)
{
    mt_auto_json json_t *j = NULL;
    struct mt_err why = {0};
    if (mt_json_parse(t->p, len, MT_TOML_BYTES_MAX, MT_TOML_DEPTH_MAX, &j, &why) < 0)
        return mt_tp_fail_pos(t, (struct mt_toml_pos){1, 1}, "not JSON: %s", why.msg);
    blanks(t);
    if (!json_is_object(j))
        return mt_tp_fail(t, t->p, "a manifest in JSON is one object");
    t->doc->root = object(t, j, mt_tp_pos(t, t->p));
    return t->doc->root ? 0 : MT_FAIL(err, MT_E_NOMEM, "out of memory");
}

int mt_toml_from_json(const char *text, size_t len, struct mt_toml **ret, struct mt_err *err)
{
    mt_auto_toml struct mt_toml *doc = NULL;
    mt_auto_free char *copy = NULL; /* ends in NUL, whatever comes */
    struct mt_tp t;
    if (len > MT_TOML_BYTES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "text of %zu bytes is above the limit of %u", len, MT_TOML_BYTES_MAX);
    copy = malloc(len + 1);
    if (!copy)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    memcpy(copy, text, len);
    copy[len] = 0;
    int r = mt_tp_begin(&t, copy, len, &doc, err);
    if (r < 0)
        return r;
    (void)read_text(&t, len, err);
    free(t.slots);
    if (t.nomem || !doc->root)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    *ret = MT_TAKE(doc);
    return 0;
}
