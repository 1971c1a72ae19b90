/* SPDX-License-Identifier: Apache-2.0 */
/* Output: JSON documents, errors, words for people (control-plane.md §15.5). */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <stdarg.h>
#include <unistd.h>

static const char *const categories[] = {[CLI_OK] = "ok", [CLI_FAILURE] = "failure", [CLI_USAGE] = "usage", [CLI_AUTH] = "auth",
                                       [CLI_NOT_FOUND] = "not_found", [CLI_CONFLICT] = "conflict", [CLI_TRANSIENT] = "transient",
                                       [CLI_INTERNAL] = "internal", [CLI_NOT_CONVERGED] = "not_converged"};

const char *cli_category(int code)
{
    return code >= 0 && (size_t)code < MT_ARRAY_LEN(categories) && categories[code] ? categories[code] : "failure";
}

const char *cli_color(const struct cli *c, const char *name)
{
    static const struct { const char *name, *seq; } seqs[] = {{"bold", "\033[1m"}, {"dim", "\033[2m"}, {"red", "\033[31m"},
                                                              {"green", "\033[32m"}, {"yellow", "\033[33m"}, {"reset", "\033[0m"}};
    for (size_t i = 0; c->color && i < MT_ARRAY_LEN(seqs); i++)
        if (MT_STREQ(seqs[i].name, name))
            return seqs[i].seq;
    return "";
}

static int put_json(const json_t *j)
{
    if (json_dumpf(j, stdout, JSON_COMPACT | JSON_ENCODE_ANY) < 0 || putc('\n', stdout) == EOF || fflush(stdout) == EOF) {
        (void)fprintf(stderr, "error: cannot write to stdout: %s\n", strerror(errno));
        return CLI_FAILURE;
    }
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

int cli_error_reason(struct cli *c, int code, const char *reason, const char *text, const char *hint)
{
    if (c->hush)
        return code;
    mt_auto_free char *safe = tamed(text);
    const char *what = safe ? safe : "out of memory";
    if (c->json) {
        mt_auto_json json_t *e = json_pack("{s:{s:s,s:s,s:s,s:s?,s:b}}", "error", "category", cli_category(code), "code",
                                           reason ? reason : cli_category(code), "message", what, "hint", hint, "retryable", code == CLI_TRANSIENT);
        if (reason)
            (void)json_object_set_new(json_object_get(e, "error"), "details", json_pack("{s:s}", "reason", reason));
        (void)put_json(e);
        return code;
    }
    (void)fflush(stdout);
    (void)fprintf(stderr, "%serror:%s %s\n", cli_color(c, "red"), cli_color(c, "reset"), what);
    if (hint)
        (void)fprintf(stderr, "hint: %s\n", hint);
    return code;
}

int cli_error(struct cli *c, int code, const char *what, const char *hint)
{
    return cli_error_reason(c, code, NULL, what, hint);
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
    (void)c;
    mt_auto_json json_t *j = json_pack("{s:s,s:s,s:O}", "api", "v1", "kind", kind, "data", data);
    return put_json(j);
}

int cli_print_list(struct cli *c, const json_t *items)
{
    for (size_t i = 0; c->ndjson && i < json_array_size(items); i++) {
        mt_auto_json json_t *line = json_copy(json_array_get(items, i));
        if (!json_object_get(line, "type"))
            (void)json_object_set_new(line, "type", json_string("item"));
        if (put_json(line) != CLI_OK)
            return CLI_FAILURE;
    }
    if (c->ndjson)
        return CLI_OK;
    mt_auto_json json_t *j = json_pack("{s:s,s:s,s:O,s:n}", "api", "v1", "kind", "List", "items", items, "next_cursor");
    return put_json(j);
}

int cli_print_line(struct cli *c, const json_t *obj)
{
    (void)c;
    return put_json(obj);
}

void cli_say_target(struct cli *c, const char *doing)
{
    if (!c->said && c->org)
        cli_say(c, "%s %s%s%s%s%s%s%s", doing, cli_color(c, "bold"), c->org, c->app && *c->app_id ? "/" : "", c->app && *c->app_id ? c->app : "",
                c->env && *c->env_id ? "@" : "", c->env && *c->env_id ? c->env : "", cli_color(c, "reset"));
    c->said = true;
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

bool cli_no_input(const struct cli *c)
{
    const char *v = getenv("MOAT_NO_INPUT");
    return cli_has(c, "no-input") || (v && *v);
}

int cli_confirm_text(struct cli *c, const char *text, const char *name)
{
    char answer[300] = "";
    if (c->json || cli_has(c, "yes") || cli_no_input(c) || !isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return CLI_OK;
    (void)fprintf(stderr, "%s. Type its name to go on: ", text);
    if (fgets(answer, sizeof answer, stdin))
        answer[strcspn(answer, "\n")] = '\0';
    return MT_STREQ(answer, name) ? CLI_OK : cli_error(c, CLI_USAGE, "not confirmed, nothing is changed", "--yes does not ask");
}

int cli_confirm(struct cli *c, const char *noun, const char *name)
{
    char text[400];
    (void)snprintf(text, sizeof text, "this removes %s %s", noun, name);
    return cli_confirm_text(c, text, name);
}
