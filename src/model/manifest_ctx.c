/* SPDX-License-Identifier: Apache-2.0 */
/* Typed reading of the manifest's TOML: every fault becomes a problem with code, path, line, column and hint. */
#include "model/manifest_ctx.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/str.h"

#include <stdarg.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static bool later(const struct mt_manifest_problem *p, uint32_t line, uint32_t column)
{
    return p->line != line ? p->line > line : p->column > column;
}

void mt_mf_problem(struct mt_mf *c, enum mt_manifest_code code, struct mt_toml_pos pos, const char *path, const char *hint,
                   const char *fmt, ...)
{
    va_list ap;

    bool warning = mt_manifest_code_is_warning(code);
    if (!warning)
        c->out->n_errors++;
    struct mt_manifest_problem *p = c->out->problems;
    if (c->out->n_problems < MT_MANIFEST_PROBLEMS_MAX) {
        p += c->out->n_problems++;
    } else { /* full: the list keeps the places nearest to the start, in whatever order they were found */
        for (size_t i = 1; i < MT_MANIFEST_PROBLEMS_MAX; i++)
            if (later(&c->out->problems[i], p->line, p->column))
                p = &c->out->problems[i];
        if (!later(p, pos.line, pos.column))
            return;
    }
    *p = (struct mt_manifest_problem){.code = code, .line = pos.line, .column = pos.column};
    mt_printable(path, strlen(path), p->path, sizeof p->path);
    (void)snprintf(p->hint, sizeof p->hint, "%s", hint ? hint : "");
    va_start(ap, fmt);
    (void)vsnprintf(p->message, sizeof p->message, fmt, ap);
    va_end(ap);
}

void mt_mf_path(char ret[MT_MF_PATH], const char *parent, const char *key)
{
    char copy[MT_MF_PATH];

    (void)snprintf(copy, sizeof copy, "%s", parent); /* ret may be the parent's own */
    (void)snprintf(ret, MT_MF_PATH, "%.100s%s%.80s", copy, *copy ? "." : "", key);
}

void mt_mf_path_index(char ret[MT_MF_PATH], const char *parent, const char *key, size_t index)
{
    char base[MT_MF_PATH];

    mt_mf_path(base, parent, key);
    (void)snprintf(ret, MT_MF_PATH, "%.160s[%zu]", base, index);
}

struct mt_toml_pos mt_mf_pos(const struct mt_mf_at *at, const char *key)
{
    const struct mt_toml_entry *e = at->table ? mt_toml_find(at->table, key) : NULL;

    if (e)
        return e->value->pos;
    return at->table ? at->table->pos : (struct mt_toml_pos){1, 1};
}

const struct mt_toml_value *mt_mf_value(struct mt_mf *c, const struct mt_mf_at *at, const char *key, enum mt_toml_type type,
                                        bool required)
{
    const struct mt_toml_entry *e = at->table ? mt_toml_find(at->table, key) : NULL;
    char path[MT_MF_PATH];

    if (e && e->value->type == type)
        return e->value;
    mt_mf_path(path, at->path, key);
    if (e)
        mt_mf_problem(c, MT_E_TYPE, e->value->pos, path, "", "'%s' must be %s %s, not %s", key,
                      strchr("aio", mt_toml_type_name(type)[0]) ? "an" : "a", mt_toml_type_name(type),
                      mt_toml_type_name(e->value->type));
    else if (required && !c->partial)
        mt_mf_problem(c, MT_E_REQUIRED, mt_mf_pos(at, key), path, "", "'%s' is missing", key);
    return NULL;
}

static const struct mt_mf_field *field_of(const struct mt_mf_at *at, const char *key)
{
    const struct mt_mf_field *f = mt_mf_field(at->fields, key);

    MT_ASSERT(f); /* the reader asks for what the table does not have */
    return f;
}

struct mt_mf_at mt_mf_table(struct mt_mf *c, const struct mt_mf_at *parent, const char *key)
{
    struct mt_mf_at at = {.table = mt_mf_value(c, parent, key, MT_TOML_TABLE, false), .fields = field_of(parent, key)->sub};

    mt_mf_path(at.path, parent->path, key);
    return at;
}

/* Words that ask for the host, wherever they stand. */
static const char *const host_keys[] = {"privileged", "host_network", "host_pid", "host_ipc", "host_path", "host_mount",
                                        "host_mounts", "hostpath", "capabilities", "cap_add", "devices", "security_opt",
                                        "network_mode", NULL};

static bool in_list(const char *const *list, const char *word)
{
    for (; *list; list++)
        if (MT_STREQ(*list, word))
            return true;
    return false;
}

void mt_mf_known(struct mt_mf *c, const struct mt_mf_at *at, const struct mt_mf_hint *hints)
{
    const char *known[20];
    size_t n = 0;

    for (const struct mt_mf_field *f = at->fields; f->key; f++) {
        MT_ASSERT(n + 1 < MT_ARRAY_LEN(known));
        known[n++] = f->key;
    }
    known[n] = NULL;
    for (size_t i = 0; at->table && i < at->table->table.n; i++) {
        const struct mt_toml_entry *e = &at->table->table.v[i];
        char path[MT_MF_PATH], hint[100], shown[80];
        bool whole = strlen(e->key) == e->key_len;
        if (whole && in_list(known, e->key))
            continue;
        mt_printable(e->key, e->key_len, shown, sizeof shown);
        mt_mf_path(path, at->path, shown);
        const struct mt_mf_hint *h = hints;
        while (h && h->key && !(whole && MT_STREQ(h->key, e->key)))
            h++;
        if (h && h->key) {
            mt_mf_problem(c, h->code, e->pos, path, h->hint, "'%s' is not accepted here", shown);
        } else if (whole && in_list(host_keys, e->key)) {
            mt_mf_problem(c, MT_E_HOST_ACCESS, e->pos, path, "every instance is a microVM of its own; remove the key",
                          "'%s' asks for access to the host", shown);
        } else {
            const char *near = whole ? mt_nearest(e->key, known) : NULL;
            hint[0] = '\0';
            if (near)
                (void)snprintf(hint, sizeof hint, "did you mean '%s'?", near);
            mt_mf_problem(c, MT_E_UNKNOWN_FIELD, e->pos, path, hint, "unknown field '%s'", shown);
        }
    }
}

const char *mt_mf_text_if(struct mt_mf *c, const struct mt_mf_at *at, const char *key, bool required, struct mt_toml_pos *ret_pos)
{
    const struct mt_toml_value *v = mt_mf_value(c, at, key, MT_TOML_STRING, required);
    const struct mt_mf_field *f = field_of(at, key);
    size_t max = f->kind == MT_MF_TEXT ? (size_t)f->max : 256; /* words and sizes have rules of their own */
    char path[MT_MF_PATH];

    if (!v)
        return NULL;
    if (ret_pos)
        *ret_pos = v->pos;
    mt_mf_path(path, at->path, key);
    if (strlen(v->string.s) != v->string.len) {
        mt_mf_problem(c, MT_E_PATTERN, v->pos, path, "", "'%s' must not hold a NUL", key);
        return NULL;
    }
    if (v->string.len > max) {
        mt_mf_problem(c, MT_E_RANGE, v->pos, path, "", "'%s' has %zu bytes, at most %zu are allowed", key, v->string.len, max);
        return NULL;
    }
    return v->string.s;
}

const char *mt_mf_text(struct mt_mf *c, const struct mt_mf_at *at, const char *key, struct mt_toml_pos *ret_pos)
{
    return mt_mf_text_if(c, at, key, field_of(at, key)->required, ret_pos);
}

uint64_t mt_mf_int_or(struct mt_mf *c, const struct mt_mf_at *at, const char *key, uint64_t fallback)
{
    const struct mt_mf_field *f = field_of(at, key);
    const struct mt_toml_value *v = mt_mf_value(c, at, key, MT_TOML_INTEGER, f->required);
    char path[MT_MF_PATH];

    if (!v)
        return fallback;
    if (v->integer >= 0 && (uint64_t)v->integer >= f->min && (uint64_t)v->integer <= f->max)
        return (uint64_t)v->integer;
    mt_mf_path(path, at->path, key);
    mt_mf_problem(c, MT_E_RANGE, v->pos, path, "", "'%s' must be %llu to %llu, not %lld", key, (unsigned long long)f->min,
                  (unsigned long long)f->max, (long long)v->integer);
    return fallback;
}

uint64_t mt_mf_int(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_mf_field *f = field_of(at, key);
    uint64_t fallback = 0;

    MT_ASSERT(f->kind == MT_MF_INT && (!f->fallback || mt_parse_u64(f->fallback, f->min, f->max, &fallback, NULL) == 0));
    return mt_mf_int_or(c, at, key, fallback);
}

bool mt_mf_bool(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_toml_value *v = mt_mf_value(c, at, key, MT_TOML_BOOL, false);

    return v ? v->boolean : MT_STREQ(field_of(at, key)->fallback, "true");
}

/* The word of @words that stands quoted as the default. */
static const char *default_word(const struct mt_mf_field *f)
{
    for (size_t i = 0; f->words[i]; i++)
        if (!f->fallback || strncmp(f->fallback + 1, f->words[i], strlen(f->fallback) - 2) == 0)
            return f->words[i];
    MT_ASSERT(false);
    return NULL;
}

const char *mt_mf_word(struct mt_mf *c, const struct mt_mf_at *at, const char *key, enum mt_manifest_code code)
{
    const struct mt_mf_field *f = field_of(at, key);
    struct mt_toml_pos pos;
    const char *s = mt_mf_text(c, at, key, &pos);
    char path[MT_MF_PATH], list[128] = "", shown[64];
    size_t n = 0;

    if (!s)
        return default_word(f);
    for (unsigned i = 0; f->words[i]; i++) {
        if (MT_STREQ(f->words[i], s))
            return f->words[i];
        n += (size_t)snprintf(list + n, n < sizeof list ? sizeof list - n : 0, "%s%s", i ? ", " : "", f->words[i]);
    }
    mt_mf_path(path, at->path, key);
    const char *near = mt_nearest(s, f->words);
    char hint[80] = "";
    if (near)
        (void)snprintf(hint, sizeof hint, "did you mean \"%s\"?", near);
    mt_mf_problem(c, code, pos, path, hint, f->words[1] ? "'%s' must be one of %s; not '%s'" : "'%s' must be %s, not '%s'", key,
                  list, mt_printable(s, strlen(s), shown, sizeof shown));
    return default_word(f);
}

json_t *mt_mf_argv(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_toml_value *v = mt_mf_value(c, at, key, MT_TOML_ARRAY, false);
    const struct mt_mf_field *f = field_of(at, key);
    char path[MT_MF_PATH];

    if (!v)
        return NULL;
    mt_mf_path(path, at->path, key);
    if (v->array.n < f->min || v->array.n > f->max) {
        mt_mf_problem(c, MT_E_RANGE, v->pos, path, "", "'%s' must have %u to %u items, not %zu", key, (unsigned)f->min, (unsigned)f->max,
                      v->array.n);
        return NULL;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < v->array.n; i++) {
        const struct mt_toml_value *item = v->array.v[i];
        mt_mf_path_index(path, at->path, key, i);
        if (item->type != MT_TOML_STRING) {
            mt_mf_problem(c, MT_E_TYPE, item->pos, path, "", "an item of '%s' must be a string, not %s", key,
                          mt_toml_type_name(item->type));
        } else if (strlen(item->string.s) != item->string.len) {
            mt_mf_problem(c, MT_E_PATTERN, item->pos, path, "", "an item of '%s' must not hold a NUL", key);
        } else if (item->string.len > 4096) {
            mt_mf_problem(c, MT_E_RANGE, item->pos, path, "", "an item of '%s' has %zu bytes, at most 4096 are allowed", key,
                          item->string.len);
        } else if (i == 0 && item->string.len == 0) {
            mt_mf_problem(c, MT_E_PATTERN, item->pos, path, "", "the first item of '%s' names the program and is empty", key);
        } else if (!list || json_array_append_new(list, json_stringn(item->string.s, item->string.len)) != 0) {
            c->nomem = true;
        }
    }
    return list;
}

/* Why a size is refused, or NULL. Units of ten and of other spellings get a hint of their own. */
static const char *size_hint(const char *unit, bool mebi, char *out, size_t size, const char *digits, size_t n_digits)
{
    static const struct {
        const char *spelling, *means;
    } old[] = {{"mb", "Mi"}, {"MB", "Mi"}, {"m", "Mi"}, {"M", "Mi"}, {"MiB", "Mi"}, {"mi", "Mi"}, {"mib", "Mi"}, {"gb", "Gi"},
               {"GB", "Gi"}, {"g", "Gi"}, {"G", "Gi"}, {"GiB", "Gi"}, {"gi", "Gi"}, {"gib", "Gi"}};

    for (size_t i = 0; i < sizeof old / sizeof old[0]; i++)
        if (MT_STREQ(old[i].spelling, unit) && (mebi || old[i].means[0] == 'G')) {
            (void)snprintf(out, size, "write \"%.*s%s\"", (int)n_digits, digits, old[i].means);
            return out;
        }
    return mebi ? "write a whole number and Mi or Gi, for example \"256Mi\"" : "write a whole number and Gi, for example \"4Gi\"";
}

/* Digits and unit to bytes; false when it is no size. Far above every bound, but never over it, for too many digits. */
static bool size_bytes(const char *s, bool mebi, uint64_t *ret)
{
    size_t digits = strspn(s, "0123456789");
    const char *unit = s + digits;
    bool gibi = MT_STREQ(unit, "Gi");
    uint64_t n = 0;

    if (digits == 0 || (digits > 1 && s[0] == '0') || !(gibi || (mebi && MT_STREQ(unit, "Mi"))))
        return false;
    for (size_t i = 0; i < digits; i++)
        n = n > 1000000000 ? n : n * 10 + (uint64_t)(s[i] - '0');
    *ret = n * (gibi ? GIB : MIB);
    return true;
}

uint64_t mt_mf_size(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_mf_field *f = field_of(at, key);
    struct mt_toml_pos pos;
    const char *s = mt_mf_text_if(c, at, key, f->required && at->table, &pos);
    uint64_t n = 0, fallback = f->min, max = f->max;
    bool mebi = f->min < GIB;
    char path[MT_MF_PATH], hint[64], shown[64];

    if (f->fallback) {
        (void)snprintf(hint, sizeof hint, "%.*s", (int)strlen(f->fallback) - 2, f->fallback + 1); /* without its quotes */
        MT_ASSERT(size_bytes(hint, mebi, &fallback));
    }
    if (!s)
        return fallback;
    if (mebi && c->max_memory_bytes && c->max_memory_bytes < max)
        max = c->max_memory_bytes; /* the operator's */
    mt_mf_path(path, at->path, key);
    mt_printable(s, strlen(s), shown, sizeof shown);
    if (!size_bytes(s, mebi, &n)) {
        size_t digits = strspn(s, "0123456789");
        mt_mf_problem(c, MT_E_PATTERN, pos, path, size_hint(s + digits, mebi, hint, sizeof hint, s, digits),
                      "'%s' is not a size: '%s'", key, shown);
        return fallback;
    }
    if (n < f->min || n > max) {
        uint64_t step = mebi ? MIB : GIB;
        bool even = max % GIB == 0;
        mt_mf_problem(c, MT_E_RANGE, pos, path, "", "'%s' must be %llu%s to %llu%s, not %s", key,
                      (unsigned long long)(f->min / step), step == GIB ? "Gi" : "Mi",
                      (unsigned long long)(even ? max / GIB : max / MIB), even ? "Gi" : "Mi", shown);
        return fallback;
    }
    return n;
}

uint32_t mt_mf_cpu_millis(const char *text)
{
    uint64_t v = 0;
    const char *p = *text == '+' ? text + 1 : text;
    size_t whole = strspn(p, "0123456789");

    if (whole < 1 || whole > 5)
        return 0;
    for (size_t i = 0; i < whole; i++)
        v = v * 10 + (uint64_t)(p[i] - '0');
    p += whole;
    v *= 1000;
    if (*p == '.') {
        uint64_t scale = 100;
        for (p++; *p >= '0' && *p <= '9'; p++) {
            if (scale == 0 && *p != '0')
                return 0;
            v += (uint64_t)(*p - '0') * scale;
            scale /= 10;
        }
    }
    return *p || v > 1000000 ? 0 : (uint32_t)v;
}

uint32_t mt_mf_cpu(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_mf_field *f = field_of(at, key);
    const struct mt_toml_entry *e = at->table ? mt_toml_find(at->table, key) : NULL;
    uint32_t fallback = mt_mf_cpu_millis(f->fallback);
    char path[MT_MF_PATH];

    if (!e)
        return fallback;
    mt_mf_path(path, at->path, key);
    if (e->value->type != MT_TOML_INTEGER && e->value->type != MT_TOML_FLOAT) {
        mt_mf_problem(c, MT_E_TYPE, e->value->pos, path, "write a number, for example 0.5", "'%s' must be a number, not %s", key,
                      mt_toml_type_name(e->value->type));
        return fallback;
    }
    uint32_t v = mt_mf_cpu_millis(e->value->text);
    if (v >= f->min && v <= f->max)
        return v;
    mt_mf_problem(c, MT_E_RANGE, e->value->pos, path, "", "'%s' must be 0.05 to 32 with at most three decimals, not %.32s", key,
                  e->value->text);
    return fallback;
}

const struct mt_toml_value *mt_mf_list(struct mt_mf *c, const struct mt_mf_at *at, const char *key)
{
    const struct mt_toml_value *v = mt_mf_value(c, at, key, MT_TOML_ARRAY, false);
    size_t max = (size_t)field_of(at, key)->max;
    char path[MT_MF_PATH];

    if (!v || v->array.n <= max)
        return v;
    mt_mf_path(path, at->path, key);
    mt_mf_problem(c, MT_E_TOO_LARGE, v->pos, path, "", "'%s' has %zu entries, at most %zu are allowed", key, v->array.n, max);
    return NULL;
}

bool mt_mf_item(struct mt_mf *c, const struct mt_mf_at *at, const char *key, const struct mt_toml_value *list, size_t i,
                struct mt_mf_at *ret)
{
    mt_mf_path_index(ret->path, at->path, key, i);
    ret->fields = field_of(at, key)->sub;
    ret->table = list->array.v[i];
    if (ret->table->type == MT_TOML_TABLE)
        return true;
    mt_mf_problem(c, MT_E_TYPE, ret->table->pos, ret->path, "", "an entry of '%s' must be a table, not %s", key,
                  mt_toml_type_name(ret->table->type));
    ret->table = NULL;
    return false;
}
