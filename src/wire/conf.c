/* SPDX-License-Identifier: Apache-2.0 */
/* Table-driven configuration: one table gives parser, defaults, messages and help. */
#include "wire/conf.h"

#include "wire/toml.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"

#include <stdarg.h>

enum { KEYS_MAX = 128, PARTS_MAX = 4 };

struct reader {
    const struct mt_conf_key *keys;
    size_t n_keys;
    char *conf;
    const char *name;
    FILE *problems;
    size_t n_problems;
    struct mt_err *err;
    bool nomem;
    bool seen[KEYS_MAX];
};

static void *field(const struct reader *r, const struct mt_conf_key *key)
{
    return r->conf + key->offset;
}

__attribute__((format(printf, 3, 4))) static void complain(struct reader *r, struct mt_toml_pos pos, const char *fmt, ...)
{
    char msg[200];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    if (r->problems)
        (void)fprintf(r->problems, "%s:%u:%u: %s\n", r->name, (unsigned)pos.line, (unsigned)pos.column, msg);
    if (r->n_problems++ == 0)
        (void)MT_FAIL(r->err, MT_E_INVALID, "%s:%u:%u: %s", r->name, (unsigned)pos.line, (unsigned)pos.column, msg);
}

static void wrong_type(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v, const char *want)
{
    complain(r, v->pos, "'%s' must be %s, not %s", key->key, want, mt_toml_type_name(v->type));
}

static char *text_copy(struct reader *r, const char *s, size_t len)
{
    char *copy = mt_strndup(s, len);

    if (!copy)
        r->nomem = true;
    return copy;
}

/* A text value without NUL and within min..max bytes; NULL and a complaint otherwise. */
static char *text_value(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v, uint64_t min,
                        uint64_t max)
{
    if (v->type != MT_TOML_STRING) {
        wrong_type(r, key, v, "a string in double quotes");
        return NULL;
    }
    if (memchr(v->string.s, '\0', v->string.len)) {
        complain(r, v->pos, "'%s' must not hold a NUL", key->key);
        return NULL;
    }
    if (v->string.len < min || v->string.len > max) {
        complain(r, v->pos, "'%s' must have %llu to %llu bytes, not %zu", key->key, (unsigned long long)min,
                 (unsigned long long)max, v->string.len);
        return NULL;
    }
    return text_copy(r, v->string.s, v->string.len);
}

static bool number_value(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v, uint64_t min,
                         uint64_t max, uint64_t *ret)
{
    if (v->type != MT_TOML_INTEGER) {
        wrong_type(r, key, v, "an integer");
        return false;
    }
    if (v->integer < 0 || (uint64_t)v->integer < min || (uint64_t)v->integer > max) {
        complain(r, v->pos, "'%s' must be %llu to %llu%s%s, not %lld", key->key, (unsigned long long)min,
                 (unsigned long long)max, *key->unit ? " " : "", key->unit, (long long)v->integer);
        return false;
    }
    *ret = (uint64_t)v->integer;
    return true;
}

static void count_check(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v, size_t n)
{
    if (n < key->min || n > key->max)
        complain(r, v->pos, "'%s' must have %llu to %llu entries, not %zu", key->key, (unsigned long long)key->min,
                 (unsigned long long)key->max, n);
}

static void read_list(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v)
{
    struct mt_conf_list *list = field(r, key);

    if (v->type != MT_TOML_ARRAY) {
        wrong_type(r, key, v, "an array of strings");
        return;
    }
    count_check(r, key, v, v->array.n);
    list->v = calloc(v->array.n + 1, sizeof *list->v);
    if (!list->v) {
        r->nomem = true;
        return;
    }
    for (size_t i = 0; i < v->array.n; i++) {
        list->v[list->n] = text_value(r, key, v->array.v[i], 1, 4096);
        if (list->v[list->n])
            list->n++;
    }
}

static void read_map(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v)
{
    struct mt_conf_map *map = field(r, key);

    if (v->type != MT_TOML_TABLE) {
        wrong_type(r, key, v, "a table");
        return;
    }
    count_check(r, key, v, v->table.n);
    map->v = calloc(v->table.n + 1, sizeof *map->v);
    if (!map->v) {
        r->nomem = true;
        return;
    }
    for (size_t i = 0; i < v->table.n; i++) {
        const struct mt_toml_entry *e = &v->table.v[i];
        struct mt_conf_pair *pair = &map->v[map->n];
        if (memchr(e->key, '\0', e->key_len)) {
            complain(r, e->pos, "a key of '%s' must not hold a NUL", key->key);
            continue;
        }
        if (key->type == MT_CONF_MAP_STRING)
            pair->text = text_value(r, key, e->value, 0, 4096);
        else if (!number_value(r, key, e->value, 0, INT64_MAX, &pair->number))
            continue;
        if (key->type == MT_CONF_MAP_STRING && !pair->text)
            continue;
        pair->key = text_copy(r, e->key, e->key_len);
        map->n++;
    }
}

static void read_value(struct reader *r, const struct mt_conf_key *key, const struct mt_toml_value *v)
{
    switch (key->type) {
    case MT_CONF_STRING: {
        char *text = text_value(r, key, v, key->min, key->max);
        memcpy(field(r, key), &text, sizeof text);
        break;
    }
    case MT_CONF_U64:
        (void)number_value(r, key, v, key->min, key->max, field(r, key));
        break;
    case MT_CONF_BOOL:
        if (v->type == MT_TOML_BOOL)
            memcpy(field(r, key), &v->boolean, sizeof v->boolean);
        else
            wrong_type(r, key, v, "true or false");
        break;
    case MT_CONF_STRINGS:
        read_list(r, key, v);
        break;
    case MT_CONF_MAP_STRING:
    case MT_CONF_MAP_U64:
        read_map(r, key, v);
        break;
    case MT_CONF_TYPE_MAX:
    default:
        MT_ASSERT(!"type of a configuration key");
    }
}

static void unknown_key(struct reader *r, const struct mt_toml_entry *e, const char *path)
{
    const char *known[KEYS_MAX + 1];

    for (size_t i = 0; i < r->n_keys; i++)
        known[i] = r->keys[i].key;
    known[r->n_keys] = NULL;
    const char *near = mt_nearest(path, known);
    for (size_t i = 0; !near && i < r->n_keys; i++) /* the same without its unit */
        near = mt_starts_with(known[i], path) && known[i][strlen(path)] == '_' ? known[i] : NULL;
    char shown[96];
    mt_printable(path, strlen(path), shown, sizeof shown);
    if (near)
        complain(r, e->pos, "unknown key '%s'; did you mean '%s'?", shown, near);
    else
        complain(r, e->pos, "unknown key '%s'", shown);
}

static void read_table(struct reader *r, const struct mt_toml_value *table, const char *prefix, unsigned depth)
{
    for (size_t i = 0; i < table->table.n && !r->nomem; i++) {
        const struct mt_toml_entry *e = &table->table.v[i];
        char path[160];
        bool folder = false;
        size_t k;

        int len = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", e->key);
        bool whole = len > 0 && (size_t)len < sizeof path && strlen(e->key) == e->key_len;
        for (k = 0; whole && k < r->n_keys; k++) {
            if (MT_STREQ(r->keys[k].key, path))
                break;
            folder = folder || (strncmp(r->keys[k].key, path, (size_t)len) == 0 && r->keys[k].key[len] == '.');
        }
        if (whole && k < r->n_keys) {
            r->seen[k] = true;
            read_value(r, &r->keys[k], e->value);
        } else if (folder && depth < PARTS_MAX && e->value->type == MT_TOML_TABLE) {
            read_table(r, e->value, path, depth + 1);
        } else if (folder) {
            complain(r, e->value->pos, "'%s' must be a table, not %s", path, mt_toml_type_name(e->value->type));
        } else {
            unknown_key(r, e, path);
        }
    }
}

/* Defaults are written by us: one that does not parse is a broken table, not bad input. */
static void set_default(struct reader *r, const struct mt_conf_key *key)
{
    struct mt_err ignored;

    switch (key->type) {
    case MT_CONF_STRING:
        if (!MT_STREQ(key->def, MT_CONF_NONE)) {
            char *text = text_copy(r, key->def, strlen(key->def));
            memcpy(field(r, key), &text, sizeof text);
        }
        break;
    case MT_CONF_U64:
        MT_ASSERT(mt_parse_u64(key->def, 0, UINT64_MAX, field(r, key), &ignored) == 0);
        break;
    case MT_CONF_BOOL: {
        bool yes = MT_STREQ(key->def, "true");
        MT_ASSERT(yes || MT_STREQ(key->def, "false"));
        memcpy(field(r, key), &yes, sizeof yes);
        break;
    }
    case MT_CONF_STRINGS: {
        struct mt_conf_list *list = field(r, key);
        size_t n = 1;
        for (const char *s = key->def; *s; s++)
            n += *s == ' ';
        list->v = calloc(n + 1, sizeof *list->v);
        if (!list->v) {
            r->nomem = true;
            return;
        }
        for (const char *s = key->def; *s;) {
            size_t len = strcspn(s, " ");
            if (len && (list->v[list->n] = text_copy(r, s, len)) != NULL)
                list->n++;
            s += len + (s[len] == ' ');
        }
        break;
    }
    case MT_CONF_MAP_STRING:
    case MT_CONF_MAP_U64:
        MT_ASSERT(MT_STREQ(key->def, ""));
        break;
    case MT_CONF_TYPE_MAX:
    default:
        MT_ASSERT(!"type of a configuration key");
    }
}

int mt_conf_parse(const char *text, size_t len, const char *name, const struct mt_conf_key *keys, size_t n_keys,
                  void *conf, FILE *problems, struct mt_err *err)
{
    struct mt_err own = {0};
    struct reader r = {.keys = keys, .n_keys = n_keys, .conf = conf, .name = name, .problems = problems,
                       .err = err ? err : &own};
    mt_auto_toml struct mt_toml *toml = NULL;

    MT_ASSERT(n_keys <= KEYS_MAX);
    int rc = mt_toml_parse(text, len, &toml, r.err);
    if (rc < 0) {
        (void)mt_err_wrap(err, "reading %s", name);
        return rc;
    }
    for (size_t i = 0; i < toml->n_problems; i++)
        complain(&r, toml->problems[i].pos, "%s", toml->problems[i].message);
    read_table(&r, toml->root, "", 1);
    for (size_t i = 0; i < n_keys && !r.nomem; i++) {
        if (r.seen[i])
            continue;
        if (keys[i].def)
            set_default(&r, &keys[i]);
        else if (toml->n_problems == 0)
            complain(&r, (struct mt_toml_pos){1, 1}, "required key '%s' is missing (%s)", keys[i].key, keys[i].help);
    }
    if (r.nomem) {
        mt_conf_done(keys, n_keys, conf);
        return MT_FAIL(err, MT_E_NOMEM, "out of memory reading %s", name);
    }
    if (r.n_problems) {
        mt_conf_done(keys, n_keys, conf);
        if (r.n_problems > 1 && err) {
            char first[sizeof err->msg];
            memcpy(first, err->msg, sizeof first);
            return MT_FAIL(err, MT_E_INVALID, "%.190s (and %zu more)", first, r.n_problems - 1);
        }
        return -MT_E_INVALID;
    }
    return 0;
}

int mt_conf_load(const char *path, const struct mt_conf_key *keys, size_t n_keys, void *conf, FILE *problems,
                 struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t len;

    int rc = mt_file_read(path, MT_TOML_BYTES_MAX, &text, &len, err);
    if (rc < 0) {
        (void)mt_err_wrap(err, "reading configuration '%s'", path);
        return rc;
    }
    return mt_conf_parse(text, len, path, keys, n_keys, conf, problems, err);
}

static void done_map(struct mt_conf_map *map)
{
    for (size_t i = 0; i < map->n; i++) {
        free(map->v[i].key);
        free(map->v[i].text);
    }
    free(map->v);
    *map = (struct mt_conf_map){0};
}

void mt_conf_done(const struct mt_conf_key *keys, size_t n_keys, void *conf)
{
    for (size_t i = 0; i < n_keys; i++) {
        void *at = (char *)conf + keys[i].offset;
        switch (keys[i].type) {
        case MT_CONF_STRING: {
            char *text, *none = NULL;
            memcpy(&text, at, sizeof text);
            free(text);
            memcpy(at, &none, sizeof none);
            break;
        }
        case MT_CONF_U64:
            memset(at, 0, sizeof(uint64_t));
            break;
        case MT_CONF_BOOL:
            memset(at, 0, sizeof(bool));
            break;
        case MT_CONF_STRINGS: {
            struct mt_conf_list *list = at;
            for (size_t k = 0; k < list->n; k++)
                free(list->v[k]);
            free(list->v);
            *list = (struct mt_conf_list){0};
            break;
        }
        case MT_CONF_MAP_STRING:
        case MT_CONF_MAP_U64:
            done_map(at);
            break;
        case MT_CONF_TYPE_MAX:
        default:
            MT_ASSERT(!"type of a configuration key");
        }
    }
}

static void help_default(const struct mt_conf_key *key, const char *leaf, FILE *out)
{
    /* required keys stand uncommented with an empty value, so that a file made from the help says what is missing */
    if (!key->def || MT_STREQ(key->def, MT_CONF_NONE)) {
        (void)fprintf(out, "%s%s = %s\n\n", key->def ? "# " : "", leaf, key->type == MT_CONF_U64 ? "0" : "\"\"");
        return;
    }
    switch (key->type) {
    case MT_CONF_STRING:
        (void)fprintf(out, "# %s = \"%s\"\n\n", leaf, key->def);
        break;
    case MT_CONF_STRINGS: {
        (void)fprintf(out, "# %s = [", leaf);
        for (const char *s = key->def; *s;) {
            size_t len = strcspn(s, " ");
            (void)fprintf(out, "%s\"%.*s\"", s == key->def ? "" : ", ", (int)len, s);
            s += len + (s[len] == ' ');
        }
        (void)fprintf(out, "]\n\n");
        break;
    }
    case MT_CONF_MAP_STRING:
    case MT_CONF_MAP_U64:
        (void)fprintf(out, "# %s = {}\n\n", leaf);
        break;
    case MT_CONF_U64:
    case MT_CONF_BOOL:
    case MT_CONF_TYPE_MAX:
    default:
        (void)fprintf(out, "# %s = %s\n\n", leaf, key->def);
    }
}

static size_t folder_of(const struct mt_conf_key *key)
{
    const char *dot = strrchr(key->key, '.');
    return dot ? (size_t)(dot - key->key) : 0;
}

static bool same_folder(const struct mt_conf_key *a, const struct mt_conf_key *b)
{
    size_t n = folder_of(a);
    return n == folder_of(b) && strncmp(a->key, b->key, n) == 0;
}

static void help_key(const struct mt_conf_key *key, FILE *out)
{
    static const char *const types[MT_CONF_TYPE_MAX] = {
        [MT_CONF_STRING] = "string",      [MT_CONF_U64] = "integer",
        [MT_CONF_BOOL] = "boolean",       [MT_CONF_STRINGS] = "array of strings",
        [MT_CONF_MAP_STRING] = "table of strings", [MT_CONF_MAP_U64] = "table of integers",
    };
    size_t folder = folder_of(key);

    (void)fprintf(out, "# %s\n# %s", key->help, types[key->type]);
    if (key->type == MT_CONF_U64)
        (void)fprintf(out, ", %llu..%llu", (unsigned long long)key->min, (unsigned long long)key->max);
    if (*key->unit)
        (void)fprintf(out, ", %s", key->unit);
    (void)fprintf(out, key->def ? "\n" : ", required\n");
    help_default(key, folder ? key->key + folder + 1 : key->key, out);
}

void mt_conf_help(const struct mt_conf_key *keys, size_t n_keys, FILE *out)
{
    for (size_t i = 0; i < n_keys; i++) /* keys of the root must stand before the first table header */
        if (folder_of(&keys[i]) == 0)
            help_key(&keys[i], out);
    for (size_t i = 0; i < n_keys; i++) {
        bool first = folder_of(&keys[i]) > 0; /* a table is opened once, wherever its keys stand in ours */
        for (size_t k = 0; first && k < i; k++)
            first = !same_folder(&keys[k], &keys[i]);
        if (!first)
            continue;
        (void)fprintf(out, "[%.*s]\n", (int)folder_of(&keys[i]), keys[i].key);
        for (size_t k = i; k < n_keys; k++)
            if (same_folder(&keys[k], &keys[i]))
                help_key(&keys[k], out);
    }
}

uint64_t mt_conf_map_u64(const struct mt_conf_map *map, const char *key, uint64_t absent)
{
    for (size_t i = 0; i < map->n; i++)
        if (MT_STREQ(map->v[i].key, key))
            return map->v[i].number;
    return absent;
}

const char *mt_conf_map_text(const struct mt_conf_map *map, const char *key)
{
    for (size_t i = 0; i < map->n; i++)
        if (MT_STREQ(map->v[i].key, key))
            return map->v[i].text;
    return NULL;
}
