/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public toml-test corpus (TOML 1.0.0 list): every valid document must give the tree its JSON names, every invalid one a
 * problem. No case is refused or accepted against the corpus.
 */
#include "wire/json.h"
#include "wire/toml.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <math.h>

/* jansson takes no key that holds a NUL: the one in the corpus is renamed to a private-use character on the way in. */
#define NUL_KEY "\xEF\xA3\xBF"

static bool same(const struct mt_toml_value *v, const json_t *want, const char *path);

static const char *tag_of(enum mt_toml_type type)
{
    switch (type) {
    case MT_TOML_STRING:
        return "string";
    case MT_TOML_INTEGER:
        return "integer";
    case MT_TOML_FLOAT:
        return "float";
    case MT_TOML_BOOL:
        return "bool";
    case MT_TOML_OFFSET_DATETIME:
        return "datetime";
    case MT_TOML_LOCAL_DATETIME:
        return "datetime-local";
    case MT_TOML_LOCAL_DATE:
        return "date-local";
    case MT_TOML_LOCAL_TIME:
        return "time-local";
    case MT_TOML_ARRAY:
    case MT_TOML_TABLE:
    case MT_TOML_TYPE_MAX:
    default:
        return "";
    }
}

/* Digits of a fraction, trailing zeros dropped, so that .6 and .600 are one. */
static void put_fraction(char *out, size_t size, uint32_t ns)
{
    char digits[12];

    out[0] = '\0';
    if (ns == 0)
        return;
    (void)snprintf(digits, sizeof digits, "%09u", ns);
    for (size_t i = 8; i > 0 && digits[i] == '0'; i--)
        digits[i] = '\0';
    (void)snprintf(out, size, ".%s", digits);
}

static void print_date(const struct mt_toml_value *v, char *out, size_t size)
{
    const struct mt_toml_date *d = &v->date;
    char day[16] = "", clock[32] = "", offset[16] = "", fraction[16];
    bool has_day = v->type != MT_TOML_LOCAL_TIME, has_clock = v->type != MT_TOML_LOCAL_DATE;

    put_fraction(fraction, sizeof fraction, d->nanosecond);
    if (has_day)
        (void)snprintf(day, sizeof day, "%04u-%02u-%02u", d->year % 10000U, d->month % 100U, d->day % 100U);
    if (has_clock)
        (void)snprintf(clock, sizeof clock, "%02u:%02u:%02u%s", d->hour % 100U, d->minute % 100U, d->second % 100U, fraction);
    if (v->type == MT_TOML_OFFSET_DATETIME) {
        int o = d->offset_minutes, a = o < 0 ? -o : o;
        if (o == 0)
            (void)snprintf(offset, sizeof offset, "Z");
        else
            (void)snprintf(offset, sizeof offset, "%c%02d:%02d", o < 0 ? '-' : '+', a / 60 % 100, a % 60);
    }
    (void)snprintf(out, size, "%s%s%s%s", day, has_day && has_clock ? "T" : "", clock, offset);
}

/* The corpus writes fractions with the zeros of the source: cut them from its text too. */
static void trim_fraction(char *text)
{
    char *dot = strchr(text, '.');

    if (!dot)
        return;
    char *end = dot + 1 + strspn(dot + 1, "0123456789"), *keep = end;
    while (keep[-1] == '0')
        keep--;
    if (keep - 1 == dot)
        keep = dot;
    memmove(keep, end, strlen(end) + 1);
}

static bool same_scalar(const struct mt_toml_value *v, const char *type, const char *text, size_t len, const char *path)
{
    char got[64] = "", want[64];

    if (!MT_STREQ(tag_of(v->type), type)) {
        printf("#   %s: type %s, expected %s\n", path, tag_of(v->type), type);
        return false;
    }
    if (v->type == MT_TOML_STRING) {
        if (v->string.len == len && memcmp(v->string.s, text, len) == 0)
            return true;
        printf("#   %s: text '%s', expected '%s'\n", path, v->string.s, text);
        return false;
    }
    if (v->type == MT_TOML_FLOAT) {
        double d = MT_STREQ(text, "nan") || MT_STREQ(text, "-nan") || MT_STREQ(text, "+nan") ? (double)NAN : strtod(text, NULL);
        bool equal = (isnan(d) && isnan(v->number)) || !(d < v->number || d > v->number);
        if (!equal)
            printf("#   %s: number %.17g, expected %s\n", path, v->number, text);
        return equal;
    }
    if (len >= sizeof want)
        return false;
    memcpy(want, text, len + 1);
    if (v->type == MT_TOML_INTEGER) {
        (void)snprintf(got, sizeof got, "%lld", (long long)v->integer);
    } else if (v->type == MT_TOML_BOOL) {
        (void)snprintf(got, sizeof got, "%s", v->boolean ? "true" : "false");
    } else {
        print_date(v, got, sizeof got);
        trim_fraction(want);
        char *sep = strpbrk(want, " t");
        if (sep)
            *sep = 'T';
        size_t n = strlen(want);
        if (n > 6 && (MT_STREQ(want + n - 6, "+00:00") || MT_STREQ(want + n - 6, "-00:00")))
            (void)snprintf(want + n - 6, 7, "Z");
    }
    if (!MT_STREQ(got, want))
        printf("#   %s: '%s', expected '%s'\n", path, got, want);
    return MT_STREQ(got, want);
}

static bool same_table(const struct mt_toml_value *v, const json_t *want, const char *path)
{
    if (v->table.n != json_object_size(want)) {
        printf("#   %s: %zu keys, expected %zu\n", path, v->table.n, json_object_size(want));
        return false;
    }
    for (size_t i = 0; i < v->table.n; i++) {
        const struct mt_toml_entry *e = &v->table.v[i];
        char sub[256];
        bool nul = e->key_len == 1 && e->key[0] == '\0';
        const json_t *w = nul ? json_object_get(want, NUL_KEY) : json_object_getn(want, e->key, e->key_len);
        (void)snprintf(sub, sizeof sub, "%.120s.%.120s", path, e->key);
        if (!w) {
            printf("#   %s: unexpected key\n", sub);
            return false;
        }
        if (!same(e->value, w, sub))
            return false;
    }
    return true;
}

static bool same(const struct mt_toml_value *v, const json_t *want, const char *path)
{
    if (json_is_array(want)) {
        if (v->type != MT_TOML_ARRAY || v->array.n != json_array_size(want)) {
            printf("#   %s: not an array of %zu\n", path, json_array_size(want));
            return false;
        }
        for (size_t i = 0; i < v->array.n; i++)
            if (!same(v->array.v[i], json_array_get(want, i), path))
                return false;
        return true;
    }
    const json_t *type = json_object_get(want, "type"), *value = json_object_get(want, "value");
    if (json_object_size(want) == 2 && json_is_string(type) && json_is_string(value))
        return same_scalar(v, json_string_value(type), json_string_value(value), json_string_length(value), path);
    if (v->type != MT_TOML_TABLE) {
        printf("#   %s: not a table\n", path);
        return false;
    }
    return same_table(v, want, path);
}

/* True when the parser does what the corpus says. */
static bool run_case(const char *root, const char *file)
{
    char path[2048];
    struct mt_err err = {0};
    mt_auto_free char *text = NULL;
    size_t len = 0;
    mt_auto_toml struct mt_toml *toml = NULL;
    bool valid = mt_starts_with(file, "valid/");

    (void)snprintf(path, sizeof path, "%s/%s", root, file);
    if (mt_file_read(path, MT_TOML_BYTES_MAX, &text, &len, &err) < 0 || mt_toml_parse(text, len, &toml, &err) < 0) {
        printf("#   %s: %s\n", file, err.msg);
        return false;
    }
    if (!valid) {
        if (toml->n_problems == 0)
            printf("#   %s: accepted\n", file);
        for (size_t i = 0; i < toml->n_problems; i++)
            if (toml->problems[i].pos.line == 0 || toml->problems[i].pos.column == 0 || !toml->problems[i].message[0])
                return false;
        return toml->n_problems > 0;
    }
    if (toml->n_problems) {
        printf("#   %s:%u:%u: %s\n", file, toml->problems[0].pos.line, toml->problems[0].pos.column,
               toml->problems[0].message);
        return false;
    }
    size_t n = strlen(path);
    (void)snprintf(path + n - 4, sizeof path - n + 4, "json");
    mt_auto_free char *json_text = NULL;
    size_t json_len = 0;
    json_error_t je;
    if (mt_file_read(path, MT_TOML_BYTES_MAX, &json_text, &json_len, &err) < 0)
        return false;
    char *nul_key = strstr(json_text, "\"\\u0000\":");
    if (nul_key)
        memcpy(nul_key + 1, "\\uF8FF", 6);
    mt_auto_json json_t *want = json_loadb(json_text, json_len, JSON_ALLOW_NUL, &je);
    return want && same(toml->root, want, file);
}

int main(void)
{
    char root[1024], path[1100];
    struct mt_err err;
    mt_auto_free char *list = NULL;
    size_t len, n_run = 0, n_bad = 0;
    const char *shared = getenv("MOAT_SHARED"), *source = getenv("MOAT_SOURCE_ROOT");

    if (shared)
        (void)snprintf(root, sizeof root, "%s/data/toml-test/tests", shared);
    else
        (void)snprintf(root, sizeof root, "%s/../shared/data/toml-test/tests", source ? source : ".");
    (void)snprintf(path, sizeof path, "%s/files-toml-1.0.0", root);
    if (mt_file_read(path, 1U << 20, &list, &len, &err) < 0) {
        printf("SKIP the toml-test corpus is not here: %s (set MOAT_SHARED)\n", err.msg);
        return 77;
    }
    int64_t start = mt_clock_mono();
    for (char *line = list, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        size_t n = strlen(line);
        if (n < 5 || !MT_STREQ(line + n - 5, ".toml"))
            continue;
        n_run++;
        if (!run_case(root, line)) {
            n_bad++;
            printf("# failed: %s\n", line);
        }
    }
    printf("%zu cases, %zu failed, %lld ms\n", n_run, n_bad, (long long)((mt_clock_mono() - start) / MT_NS_PER_MS));
    if (n_run < 600) {
        printf("# the list of the corpus is cut short\n");
        return 1;
    }
    return n_bad ? 1 : 0;
}
