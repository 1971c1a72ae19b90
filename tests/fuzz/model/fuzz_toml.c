/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as TOML. Properties: no crash, positions inside the text, strings are UTF-8, parsing twice gives the same. */
#include "wire/toml.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void walk(const struct mt_toml_value *v, unsigned depth, size_t lines)
{
    /* depth: MT_TOML_DEPTH_MAX of brackets, each level of which may add the parts of a dotted key, below a header's parts */
    MT_ASSERT(depth <= (MT_TOML_DEPTH_MAX + 2) * (MT_TOML_KEY_PARTS_MAX + 1));
    MT_ASSERT(v->pos.line >= 1 && v->pos.line <= lines && v->pos.column >= 1);
    if (v->type == MT_TOML_STRING) {
        MT_ASSERT(v->string.s[v->string.len] == '\0');
        for (size_t i = 0; i < v->string.len;) {
            size_t n = v->string.s[i] ? mt_utf8_len(v->string.s + i, v->string.len - i) : 1;
            MT_ASSERT(n > 0);
            i += n;
        }
    } else if (v->type == MT_TOML_ARRAY) {
        for (size_t i = 0; i < v->array.n; i++)
            walk(v->array.v[i], depth + 1, lines);
    } else if (v->type == MT_TOML_TABLE) {
        for (size_t i = 0; i < v->table.n; i++) {
            MT_ASSERT(v->table.v[i].key[v->table.v[i].key_len] == '\0');
            walk(v->table.v[i].value, depth + 1, lines);
        }
    } else if (v->type == MT_TOML_INTEGER || v->type == MT_TOML_FLOAT) {
        MT_ASSERT(v->text && *v->text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct mt_toml *a = NULL, *b = NULL;
    struct mt_err err;
    size_t lines = 2;

    for (size_t i = 0; i < len; i++)
        lines += data[i] == '\n';
    if (mt_toml_parse((const char *)data, len, &a, &err) < 0)
        return 0;
    MT_ASSERT(mt_toml_parse((const char *)data, len, &b, &err) == 0);
    walk(a->root, 0, lines);
    MT_ASSERT(a->n_problems == b->n_problems && a->n_problems <= MT_TOML_PROBLEMS_MAX);
    for (size_t i = 0; i < a->n_problems; i++) {
        MT_ASSERT(a->problems[i].pos.line >= 1 && a->problems[i].pos.line <= lines && a->problems[i].message[0]);
        MT_ASSERT(MT_STREQ(a->problems[i].message, b->problems[i].message));
    }
    mt_toml_free(a);
    mt_toml_free(b);
    return 0;
}
