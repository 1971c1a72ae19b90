/* SPDX-License-Identifier: Apache-2.0 */
/* TOML 1.0: values. Recursion is bounded by MT_TOML_DEPTH_MAX, counted through arrays and inline tables alike. */
#include "wire/toml_parse.h"

#include "base/str.h"

/* White space, comments and line ends between the items of an array. */
static int array_gap(struct mt_tp *t)
{
    for (;;) {
        mt_tp_blanks(t);
        if (mt_tp_comment(t) < 0)
            return -1;
        if (t->p == t->end || !mt_tp_at_eol(t))
            return 0;
        mt_tp_eat_eol(t);
    }
}

static int array(struct mt_tp *t, unsigned depth, struct mt_toml_value *ret)
{
    struct mt_toml_value *outer = t->array;

    t->p++;
    t->in_value++;
    t->array = ret;
    for (;;) {
        if (array_gap(t) < 0)
            return -1;
        if (t->p == t->end)
            return mt_tp_fail_pos(t, ret->pos, "array is not closed: ']' is missing");
        if (*t->p == ']')
            break;
        struct mt_toml_value *item;
        if (mt_tp_value(t, depth + 1, &item) < 0 || mt_tp_append(t, ret, item) < 0)
            return -1;
        if (array_gap(t) < 0)
            return -1;
        if (t->p == t->end)
            return mt_tp_fail_pos(t, ret->pos, "array is not closed: ']' is missing");
        if (*t->p == ',')
            t->p++;
        else if (*t->p != ']')
            return mt_tp_fail(t, t->p, "expected ',' or ']' in the array");
    }
    t->p++;
    t->in_value--;
    t->array = outer;
    return 0;
}

static int inline_table(struct mt_tp *t, unsigned depth, struct mt_toml_value *ret)
{
    struct mt_tp_part parts[MT_TOML_KEY_PARTS_MAX];
    size_t n;

    t->p++;
    t->in_value++;
    mt_tp_blanks(t);
    if (t->p < t->end && *t->p == '}')
        goto closed;
    for (;;) {
        struct mt_toml_value *value;
        mt_tp_blanks(t);
        if (mt_tp_at_eol(t))
            return mt_tp_fail(t, t->p, "an inline table ends on the line it starts: '}' is missing");
        if (mt_tp_key(t, parts, &n) < 0)
            return -1;
        if (t->p == t->end || *t->p != '=')
            return mt_tp_fail(t, t->p, "expected '=' in the inline table");
        t->p++;
        mt_tp_blanks(t);
        if (mt_tp_value(t, depth + 1, &value) < 0 || mt_tp_put(t, ret, parts, n, value) < 0)
            return -1;
        mt_tp_blanks(t);
        if (t->p < t->end && *t->p == '}')
            break;
        if (t->p == t->end || *t->p != ',')
            return mt_tp_fail(t, t->p, "expected ',' or '}' in the inline table");
        t->p++;
        mt_tp_blanks(t);
        if (t->p < t->end && *t->p == '}')
            return mt_tp_fail(t, t->p, "an inline table has no comma before its '}'");
    }
closed:
    t->p++;
    t->in_value--;
    ret->state |= MT_TP_INLINE;
    /* Tables made by dotted keys inside are closed with it. */
    for (size_t i = 0; i < ret->table.n; i++)
        if (ret->table.v[i].value->type == MT_TOML_TABLE)
            ret->table.v[i].value->state |= MT_TP_INLINE;
    return 0;
}

static bool word(struct mt_tp *t, const char *text, size_t len)
{
    if ((size_t)(t->end - t->p) < len || memcmp(t->p, text, len) != 0)
        return false;
    t->p += len;
    return true;
}

int mt_tp_value(struct mt_tp *t, unsigned depth, struct mt_toml_value **ret)
{
    if (mt_tp_at_eol(t) || *t->p == '#')
        return mt_tp_fail(t, t->p, "a value is missing");
    if (depth > MT_TOML_DEPTH_MAX)
        return mt_tp_fail(t, t->p, "nested deeper than %d levels", MT_TOML_DEPTH_MAX);

    struct mt_toml_value *v = mt_tp_new(t, MT_TOML_STRING, mt_tp_pos(t, t->p));
    if (!v)
        return -1;
    *ret = v;
    switch (*t->p) {
    case '"':
    case '\'':
        return mt_tp_string(t, &v->string.s, &v->string.len);
    case '[':
        v->type = MT_TOML_ARRAY;
        return array(t, depth, v);
    case '{':
        v->type = MT_TOML_TABLE;
        return inline_table(t, depth, v);
    case 't':
    case 'f':
        v->type = MT_TOML_BOOL;
        v->boolean = *t->p == 't';
        if (word(t, "true", 4) || word(t, "false", 5))
            return 0;
        break;
    default:
        return mt_tp_number_or_date(t, v);
    }
    return mt_tp_fail(t, t->p, "not a value; text goes in double quotes");
}
