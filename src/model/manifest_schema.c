/* SPDX-License-Identifier: Apache-2.0 */
/* The table of fields in other words: as JSON Schema for editors, as a table for people. */
#include "model/manifest.h"

#include "model/jsonout.h"
#include "model/manifest_fields.h"

#include "base/buf.h"
#include "base/num.h"
#include "base/str.h"

#define GIB (UINT64_C(1) << 30)
#define NAME "^[a-z][a-z0-9-]{0,31}$"

static json_t *object_of(const struct mt_mf_field *fields);

static json_t *texts(size_t min, size_t max, size_t bytes)
{
    struct mt_jout item = mt_jout_new(), o = mt_jout_new();

    mt_jout_str(&item, "type", "string");
    mt_jout_u64(&item, "maxLength", bytes);
    mt_jout_str(&o, "type", "array");
    mt_jout_u64(&o, "minItems", min);
    mt_jout_u64(&o, "maxItems", max);
    mt_jout_json(&o, "items", mt_jout_take(&item));
    return mt_jout_take(&o);
}

static json_t *words(const char *const *list)
{
    json_t *a = json_array();

    for (; *list; list++)
        if (json_array_append_new(a, json_string(*list)) != 0) {
            json_decref(a);
            return NULL;
        }
    return a;
}

/* An object whose members are named by @pattern. */
static json_t *by_name(const char *pattern, json_t *member, uint64_t min, uint64_t max)
{
    struct mt_jout o = mt_jout_new(), p = mt_jout_new();

    mt_jout_json(&p, pattern, member);
    mt_jout_str(&o, "type", "object");
    mt_jout_json(&o, "patternProperties", mt_jout_take(&p));
    mt_jout_bool(&o, "additionalProperties", false);
    if (min)
        mt_jout_u64(&o, "minProperties", min);
    mt_jout_u64(&o, "maxProperties", max);
    return mt_jout_take(&o);
}

static json_t *list_of(json_t *items, uint64_t max)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "type", "array");
    mt_jout_u64(&o, "maxItems", max);
    mt_jout_json(&o, "items", items);
    return mt_jout_take(&o);
}

/* Lengths are bytes in the manifest and characters in a schema: the schema refuses no good text, the reader is exact. */
static json_t *scalar(const struct mt_mf_field *f)
{
    struct mt_jout o = mt_jout_new();

    if (f->kind == MT_MF_INT) {
        mt_jout_str(&o, "type", "integer");
    } else if (f->kind == MT_MF_BOOL) {
        mt_jout_str(&o, "type", "boolean");
    } else if (f->kind == MT_MF_CPU) {
        mt_jout_str(&o, "type", "number");
        mt_jout_json(&o, "minimum", json_real((double)f->min / 1000));
        mt_jout_json(&o, "maximum", json_real((double)f->max / 1000));
    } else if (f->kind == MT_MF_SIZE) {
        mt_jout_str(&o, "type", "string");
        mt_jout_str(&o, "pattern", f->min < GIB ? "^[1-9][0-9]*(Mi|Gi)$" : "^[1-9][0-9]*Gi$");
    } else if (f->kind == MT_MF_WORD) {
        mt_jout_json(&o, "enum", words(f->words));
    } else if (f->kind == MT_MF_PORT) {
        mt_jout_json(&o, "type", json_pack("[s,s]", "string", "integer"));
        mt_jout_str(&o, "pattern", NAME);
    } else {
        mt_jout_str(&o, "type", "string");
        if (f->min)
            mt_jout_u64(&o, "minLength", f->min);
        mt_jout_u64(&o, "maxLength", f->max);
        mt_jout_str(&o, "pattern", f->pattern);
    }
    if (f->kind == MT_MF_INT || f->kind == MT_MF_PORT) {
        mt_jout_u64(&o, "minimum", f->min);
        mt_jout_u64(&o, "maximum", f->max);
    }
    return mt_jout_take(&o);
}

static json_t *schema_of(const struct mt_mf_field *f)
{
    if (f->kind == MT_MF_ARGV)
        return texts((size_t)f->min, (size_t)f->max, 4096);
    if (f->kind == MT_MF_VARS)
        return by_name("^(?!MOAT_)[A-Z_][A-Z0-9_]{0,127}$", json_pack("{s:s,s:i}", "type", "string", "maxLength", 8192), 0, f->max);
    if (f->kind == MT_MF_TABLE)
        return object_of(f->sub);
    if (f->kind == MT_MF_LIST)
        return list_of(object_of(f->sub), f->max);
    if (f->kind == MT_MF_MAP)
        return by_name(f->pattern, object_of(f->sub), f->min, f->max);
    return scalar(f);
}

/* The default as JSON: TOML and JSON write these alike. */
static json_t *default_of(const struct mt_mf_field *f)
{
    return f->fallback ? json_loads(f->fallback, JSON_DECODE_ANY, NULL) : NULL;
}

static json_t *object_of(const struct mt_mf_field *fields)
{
    struct mt_jout o = mt_jout_new(), properties = mt_jout_new();
    json_t *required = json_array();

    for (const struct mt_mf_field *f = fields; f->key; f++) {
        json_t *member = schema_of(f), *fallback = default_of(f);
        if (!member || json_object_set_new(member, "description", json_string(f->rule)) != 0)
            o.failed = true;
        if (fallback && json_object_set_new(member, "default", fallback) != 0)
            o.failed = true;
        mt_jout_json(&properties, f->key, member);
        if (f->required && json_array_append_new(required, json_string(f->key)) != 0)
            o.failed = true;
    }
    mt_jout_str(&o, "type", "object");
    mt_jout_json(&o, "properties", mt_jout_take(&properties));
    mt_jout_bool(&o, "additionalProperties", false);
    if (json_array_size(required))
        mt_jout_json(&o, "required", required);
    else
        json_decref(required);
    return mt_jout_take(&o);
}

json_t *mt_manifest_schema(void)
{
    json_t *o = object_of(mt_mf_root_fields);

    if (o && (json_object_set_new(o, "$schema", json_string("https://json-schema.org/draft/2020-12/schema")) != 0 ||
              json_object_set_new(o, "title", json_string("moat.toml, schema_version v1")) != 0)) {
        json_decref(o);
        o = NULL;
    }
    return o;
}

static const char *size_text(uint64_t bytes, char ret[24])
{
    bool gibi = bytes % GIB == 0;

    (void)snprintf(ret, 24, "%llu%s", (unsigned long long)(bytes >> (gibi ? 30 : 20)), gibi ? "Gi" : "Mi");
    return ret;
}

/* What the bounds say, before the rule. */
static void put_bounds(struct mt_buf *out, const struct mt_mf_field *f)
{
    char low[24], high[24];

    switch (f->kind) {
    case MT_MF_INT:
        mt_buf_printf(out, f->max > 1000000 ? "%llu or more; " : "%llu..%llu; ", (unsigned long long)f->min, (unsigned long long)f->max);
        break;
    case MT_MF_CPU:
        mt_buf_printf(out, "0.%02llu..%llu; ", (unsigned long long)f->min / 10, (unsigned long long)f->max / 1000);
        break;
    case MT_MF_SIZE:
        mt_buf_printf(out, "%s, %s to %s; ", f->min < GIB ? "`<int>Mi` or `<int>Gi`" : "`<int>Gi`", size_text(f->min, low),
                      size_text(f->max, high));
        break;
    case MT_MF_WORD:
        if (!f->words[1])
            break;
        for (size_t i = 0; f->words[i]; i++)
            mt_buf_printf(out, "%s`%s`", i ? ", " : "", f->words[i]);
        mt_buf_puts(out, "; ");
        break;
    case MT_MF_ARGV:
        mt_buf_printf(out, "%llu..%llu items; ", (unsigned long long)f->min, (unsigned long long)f->max);
        break;
    case MT_MF_VARS:
    case MT_MF_LIST:
    case MT_MF_MAP:
        mt_buf_printf(out, "at most %llu; ", (unsigned long long)f->max);
        break;
    case MT_MF_TEXT:
    case MT_MF_BOOL:
    case MT_MF_PORT:
    case MT_MF_TABLE:
    case MT_MF_KIND_MAX:
        break;
    }
}

static void put_fields(struct mt_buf *out, const struct mt_mf_field *fields, const char *path)
{
    char name[200];

    for (const struct mt_mf_field *f = fields; f->key; f++) {
        bool listed = f->kind == MT_MF_LIST || f->kind == MT_MF_MAP;
        (void)snprintf(name, sizeof name, "%s%s%s%s", path, *path ? "." : "", f->key,
                       f->kind == MT_MF_LIST ? "[]" : f->kind == MT_MF_MAP ? ".<name>" : "");
        if (!f->sub || listed) {
            mt_buf_printf(out, "| `%s` | %s | %s%s%s | ", name, listed ? "table" : mt_mf_kind_name(f->kind), f->fallback ? "`" : "",
                          f->fallback ? f->fallback : f->required ? "required" : "", f->fallback ? "`" : "");
            put_bounds(out, f);
            mt_buf_printf(out, "%s |\n", f->rule);
        }
        if (f->sub)
            put_fields(out, f->sub, name);
    }
}

int mt_manifest_fields_markdown(struct mt_buf *out, struct mt_err *err)
{
    mt_buf_puts(out, "| Key | Type | Default | Rule |\n|---|---|---|---|\n");
    put_fields(out, mt_mf_root_fields, "");
    return mt_buf_check(out, err);
}
