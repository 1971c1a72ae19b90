/* SPDX-License-Identifier: Apache-2.0 */
/* Output: tables, JSON documents, errors (control-plane.md §15.5). */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <stdarg.h>

static const char *const category[] = {[CLI_OK] = "ok", [CLI_FAILURE] = "failure", [CLI_USAGE] = "usage", [CLI_AUTH] = "auth",
                                       [CLI_NOT_FOUND] = "not_found", [CLI_CONFLICT] = "conflict", [CLI_TRANSIENT] = "transient",
                                       [CLI_INTERNAL] = "internal", [CLI_NOT_CONVERGED] = "not_converged"};

const char *cli_color(const struct cli *c, const char *name)
{
    static const struct { const char *name, *seq; } seqs[] = {{"bold", "\033[1m"}, {"dim", "\033[2m"}, {"red", "\033[31m"},
                                                              {"green", "\033[32m"}, {"yellow", "\033[33m"}, {"reset", "\033[0m"}};
    for (size_t i = 0; c->color && i < MT_ARRAY_LEN(seqs); i++)
        if (MT_STREQ(seqs[i].name, name))
            return seqs[i].seq;
    return "";
}

static int put_json(struct cli *c, const json_t *j)
{
    if (json_dumpf(j, stdout, JSON_COMPACT | JSON_ENCODE_ANY) < 0 || putc('\n', stdout) == EOF || fflush(stdout) == EOF) {
        (void)fprintf(stderr, "error: cannot write to stdout: %s\n", strerror(errno));
        return CLI_FAILURE;
    }
    c->json_done = true;
    return CLI_OK;
}

/* Without what drives a terminal; line ends and tabs stay. malloc'ed, NULL when memory is out. */
static char *tamed(const char *s)
{
    char *out = strdup(s), *w = out;
    while (out) {
        size_t n = strcspn(s, "\n\t");
        memcpy(w, s, n);
        w[n] = '\0';
        mt_make_printable(w);
        w += strlen(w);
        s += n;
        if (!*s)
            break;
        *w++ = *s++;
    }
    return out;
}

void cli_tame(json_t *j)
{
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_object(j)) {
        json_object_foreach(j, key, v) cli_tame(v);
    } else if (json_is_array(j)) {
        json_array_foreach(j, i, v) cli_tame(v);
    } else if (json_is_string(j)) {
        mt_auto_free char *t = tamed(json_string_value(j));
        if (!t || strcmp(t, json_string_value(j)) != 0)
            (void)json_string_set(j, t ? t : "");
    }
}

int cli_error(struct cli *c, int code, const char *text, const char *hint)
{
    mt_auto_free char *safe = tamed(text);
    const char *what = safe ? safe : "out of memory";
    if (c->json && !c->json_done) {
        mt_auto_json json_t *e = json_pack("{s:{s:s,s:s,s:s,s:s?,s:b}}", "error", "category",
                                           (size_t)code < MT_ARRAY_LEN(category) && category[code] ? category[code] : "failure", "code",
                                           (size_t)code < MT_ARRAY_LEN(category) && category[code] ? category[code] : "failure", "message", what,
                                           "hint", hint, "retryable", code == CLI_TRANSIENT);
        (void)put_json(c, e);
    } else {
        (void)fprintf(stderr, "%serror:%s %s\n", cli_color(c, "red"), cli_color(c, "reset"), what);
        if (hint)
            (void)fprintf(stderr, "hint: %s\n", hint);
    }
    return code;
}

int cli_fail(struct cli *c, const struct mt_err *err, const char *hint)
{
    return cli_error(c, mt_code_exit(err->code), err->msg, hint);
}

int cli_usage(struct cli *c, const char *fmt, ...)
{
    char text[300], hint[100];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    (void)snprintf(hint, sizeof hint, "moat help%s%s", c->command ? " " : "", c->command ? c->command->name : "");
    return cli_error(c, CLI_USAGE, text, hint);
}

int cli_print_object(struct cli *c, const char *kind, const json_t *data)
{
    mt_auto_json json_t *j = json_pack("{s:s,s:s,s:O}", "api", "v1", "kind", kind, "data", data);
    return put_json(c, j);
}

int cli_print_list(struct cli *c, const json_t *items)
{
    mt_auto_json json_t *j = json_pack("{s:s,s:s,s:O,s:n}", "api", "v1", "kind", "List", "items", items, "next_cursor");
    return put_json(c, j);
}

int cli_print_line(struct cli *c, const json_t *obj)
{
    return put_json(c, obj);
}

void cli_say(struct cli *c, const char *fmt, ...)
{
    if (c->quiet || c->json)
        return;
    va_list ap;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)putc('\n', stderr);
}

const json_t *cli_member(const json_t *obj, const char *path)
{
    char part[64];
    while (obj && *path) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof part)
            return NULL;
        memcpy(part, path, n);
        part[n] = '\0';
        obj = json_object_get(obj, part);
        path += n + (path[n] == '.');
    }
    return json_is_null(obj) ? NULL : obj;
}

const char *cli_str(const json_t *obj, const char *path)
{
    const char *s = json_string_value(cli_member(obj, path));
    return s ? s : "";
}

int64_t cli_int(const json_t *obj, const char *path)
{
    return json_integer_value(cli_member(obj, path));
}

const char *cli_text(const json_t *obj, const char *path, char *scratch, size_t size)
{
    const json_t *v = cli_member(obj, path);
    if (json_is_string(v))
        return json_string_value(v);
    if (json_is_integer(v))
        (void)snprintf(scratch, size, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_boolean(v))
        (void)snprintf(scratch, size, "%s", json_is_true(v) ? "yes" : "no");
    else if (json_is_array(v) && json_array_size(v) > 0) {
        size_t used = 0, i;
        json_t *item;
        json_array_foreach(v, i, item)
        {
            int n = snprintf(scratch + used, size - used, "%s%s", i ? "," : "", json_is_string(item) ? json_string_value(item) : "?");
            if (n < 0 || (size_t)n >= size - used)
                break;
            used += (size_t)n;
        }
    } else
        (void)snprintf(scratch, size, "-");
    return scratch;
}

/* Columns on the screen: one per UTF-8 character. Untrusted text never reaches the terminal raw. */
static size_t shown_width(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

int cli_print_table(struct cli *c, const json_t *items, const struct cli_column *cols, size_t n, const char *plural)
{
    size_t i, width[16] = {0};
    const json_t *item;
    char scratch[256], safe[512];
    MT_ASSERT(n <= MT_ARRAY_LEN(width));
    if (json_array_size(items) == 0) {
        if (!c->quiet)
            (void)fprintf(stderr, "no %s\n", plural);
        return CLI_OK;
    }
    if (c->quiet) {
        json_array_foreach(items, i, item) (void)printf("%s\n", cli_str(item, "id"));
        return CLI_OK;
    }
    for (size_t k = 0; k < n; k++) {
        width[k] = strlen(cols[k].title);
        json_array_foreach(items, i, item)
        {
            const char *t = cli_text(item, cols[k].key, scratch, sizeof scratch);
            size_t w = shown_width(mt_printable(t, strlen(t), safe, sizeof safe));
            width[k] = w > width[k] ? w : width[k];
        }
    }
    (void)printf("%s", cli_color(c, "dim"));
    for (size_t k = 0; k < n; k++)
        (void)printf("%-*s", k + 1 < n ? (int)width[k] + 2 : 0, cols[k].title);
    (void)printf("%s\n", cli_color(c, "reset"));
    json_array_foreach(items, i, item)
    {
        for (size_t k = 0; k < n; k++) {
            const char *t = cli_text(item, cols[k].key, scratch, sizeof scratch);
            mt_printable(t, strlen(t), safe, sizeof safe);
            (void)printf("%s", safe);
            for (size_t pad = shown_width(safe); k + 1 < n && pad < width[k] + 2; pad++)
                (void)putchar(' ');
        }
        (void)putchar('\n');
    }
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
