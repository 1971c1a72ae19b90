/* SPDX-License-Identifier: Apache-2.0 */
/* Manifests, offline: reading, checking with places, showing the canonical form. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "model/manifest.h"
#include "os/file.h"

#include <unistd.h>

const char *cli_manifest_file(const struct cli *c)
{
    return cli_has(c, "manifest") ? cli_opt(c, "manifest") : "moat.toml";
}

const char *cli_file_name(const char *path)
{
    return MT_STREQ(path, "-") ? "stdin" : path;
}

char *cli_read_manifest(struct cli *c, const char *path, size_t *ret_len, int *ret_code)
{
    struct mt_err err;
    char *text = NULL;
    bool is_stdin = MT_STREQ(path, "-");
    /* one byte over the limit is enough to know; the check says it with a place */
    if (mt_file_read(is_stdin ? "/dev/stdin" : path, MT_MANIFEST_BYTES_MAX + 4096, &text, ret_len, &err) < 0) {
        *ret_code = cli_error(c, CLI_USAGE, err.msg, err.code == MT_E_NOT_FOUND ? "moat init --image REF writes one; moat run IMAGE needs none" : NULL);
        return NULL;
    }
    *ret_code = CLI_OK;
    return text;
}

static void print_problems(struct cli *c, const struct mt_manifest *m, const char *name)
{
    for (size_t i = 0; i < m->n_problems; i++) {
        const struct mt_manifest_problem *p = &m->problems[i];
        bool warning = mt_manifest_code_is_warning(p->code);
        char message[400], hint[400];
        (void)mt_printable(p->message, strlen(p->message), message, sizeof message);
        (void)mt_printable(p->hint, strlen(p->hint), hint, sizeof hint);
        (void)fprintf(stderr, "%s%s:%u:%u:%s %s%s%s %s: %s%s%s%s\n", cli_color(c, "bold"), name, p->line, p->column, cli_color(c, "reset"),
                      cli_color(c, warning ? "yellow" : "red"), warning ? "warning" : "error", cli_color(c, "reset"), mt_manifest_code_name(p->code),
                      message, *hint ? " (" : "", hint, *hint ? ")" : "");
    }
}

static int refuse(struct cli *c, const struct mt_manifest *m, const char *name)
{
    char what[200];
    (void)snprintf(what, sizeof what, "%s has %zu problem%s", name, m->n_errors, m->n_errors == 1 ? "" : "s");
    if (c->json) {
        mt_auto_json json_t *problems = mt_manifest_problems_json(m, true);
        mt_auto_json json_t *e = json_pack("{s:{s:s,s:s,s:s,s:b,s:O}}", "error", "category", "usage", "code", "manifest_invalid", "message", what,
                                           "retryable", 0, "errors", problems);
        (void)cli_print_line(c, e);
        return CLI_USAGE;
    }
    print_problems(c, m, name);
    return cli_error(c, CLI_USAGE, what, NULL);
}

static struct mt_manifest *parse(struct cli *c, const char *text, size_t len, int *ret_code)
{
    struct mt_manifest *m = NULL;
    struct mt_err err;
    struct mt_manifest_options options = {.image_given = cli_has(c, "image")};
    *ret_code = mt_manifest_parse(text, len, &options, &m, &err) < 0 ? cli_fail(c, &err, NULL) : CLI_OK;
    return m;
}

int cli_check_manifest(struct cli *c, const char *text, size_t len, const char *name)
{
    int code;
    mt_auto_manifest struct mt_manifest *m = parse(c, text, len, &code);
    if (!m)
        return code;
    if (m->n_errors)
        return refuse(c, m, name);
    if (m->n_problems && !c->json)
        print_problems(c, m, name);
    const char *flag = cli_opt(c, "app"), *variable = getenv("MOAT_APP"), *given = flag ? flag : variable && *variable ? variable : NULL;
    bool differ = given && m->app_name && !MT_STREQ(given, m->app_name);
    if (differ && !cli_has(c, "app-override"))
        return cli_usage(c, "%s says '%s' but app.name in %s says '%s': add --app-override to deploy it there all the same", flag ? "--app" : "MOAT_APP", given,
                         name, m->app_name);
    if (m->app_name && !differ) {
        free(c->config_app);
        c->config_app = MT_TAKE(m->app_name);
        c->app = c->config_app;
    }
    return CLI_OK;
}

void cli_app_of_manifest(struct cli *c)
{
    mt_auto_free char *text = NULL;
    size_t len;
    mt_auto_manifest struct mt_manifest *m = NULL;
    struct mt_manifest_options options = {.image_given = true};
    if (mt_file_read("moat.toml", MT_MANIFEST_BYTES_MAX, &text, &len, NULL) < 0 || mt_manifest_parse(text, len, &options, &m, NULL) < 0 || !m->app_name)
        return;
    free(c->config_app);
    c->app = c->config_app = MT_TAKE(m->app_name);
}

/* Read and parse the manifest of an offline command; NULL with the error printed. */
static struct mt_manifest *valid(struct cli *c, const char *file, int *ret_code)
{
    size_t len;
    mt_auto_free char *text = cli_read_manifest(c, file, &len, ret_code);
    mt_auto_manifest struct mt_manifest *m = text ? parse(c, text, len, ret_code) : NULL;
    if (m && m->n_errors) {
        *ret_code = refuse(c, m, cli_file_name(file));
        return NULL;
    }
    return MT_TAKE(m);
}

int cmd_manifest_validate(struct cli *c)
{
    const char *file = cli_manifest_file(c);
    int code;
    mt_auto_manifest struct mt_manifest *m = valid(c, file, &code);
    if (!m)
        return code;
    if (c->json) {
        mt_auto_json json_t *warnings = mt_manifest_problems_json(m, true);
        mt_auto_json json_t *j = json_pack("{s:b,s:s,s:O}", "ok", 1, "manifest_hash", m->hash, "warnings", warnings);
        return cli_print_object(c, "ManifestCheck", j);
    }
    print_problems(c, m, cli_file_name(file));
    (void)printf("%s is valid  %s\n", cli_file_name(file), m->hash);
    return CLI_OK;
}

int cmd_manifest_show(struct cli *c)
{
    const char *file = cli_manifest_file(c);
    int code;
    mt_auto_manifest struct mt_manifest *m = valid(c, file, &code);
    if (!m)
        return code;
    if (c->json)
        return cli_print_object(c, "Manifest", m->canonical);
    (void)json_dumpf(m->canonical, stdout, JSON_INDENT(2) | JSON_SORT_KEYS);
    (void)putchar('\n');
    return CLI_OK;
}

/* Read all of it before anything is written: the file may be its own result. */
static int format(struct cli *c, const char *file, const char *text, size_t len, struct mt_buf *out)
{
    int code;
    struct mt_err err;
    struct mt_manifest_options options = {.image_given = true}; /* how it looks does not depend on where the image comes from */
    mt_auto_manifest struct mt_manifest *m = NULL;
    if (mt_manifest_parse(text, len, &options, &m, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (m->n_errors)
        return refuse(c, m, cli_file_name(file));
    code = mt_manifest_format(text, len, out, &err) < 0 ? cli_fail(c, &err, "nothing is changed") : CLI_OK;
    return code;
}

int cmd_manifest_fmt(struct cli *c)
{
    const char *file = cli_manifest_file(c);
    bool is_stdin = MT_STREQ(file, "-"), check = cli_has(c, "check");
    int code;
    size_t len;
    struct mt_err err;
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(4 * MT_MANIFEST_BYTES_MAX);
    mt_auto_free char *text = cli_read_manifest(c, file, &len, &code);
    if (!text || (code = format(c, file, text, len, &out)) != CLI_OK)
        return code;
    bool changed = out.len != len || memcmp(out.p, text, len) != 0;
    if (check && changed) {
        char what[200];
        (void)snprintf(what, sizeof what, "%.150s is not in canonical form", cli_file_name(file));
        return cli_error_reason(c, CLI_FAILURE, "not_formatted", what, is_stdin ? "moat manifest fmt" : "moat manifest fmt writes it");
    }
    if (!check && changed && !is_stdin && mt_file_write(file, mt_buf_cstr(&out), out.len, 0644, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:b,s:s%}", "path", cli_file_name(file), "changed", changed, "manifest", mt_buf_cstr(&out), out.len);
        return cli_print_object(c, "ManifestText", j);
    }
    if (is_stdin && !check)
        (void)fwrite(out.p, 1, out.len, stdout);
    else
        cli_say(c, changed ? "%s is formatted" : "%s is in canonical form", cli_file_name(file));
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}

int cmd_manifest_schema(struct cli *c)
{
    struct mt_err err;
    mt_auto_buf struct mt_buf table = MT_BUF_INIT(128U * 1024U);
    if (cli_has(c, "markdown")) {
        if (c->json)
            return cli_usage(c, "--markdown is a table for people; without it the schema is JSON");
        if (mt_manifest_fields_markdown(&table, &err) < 0)
            return cli_fail(c, &err, NULL);
        (void)fputs(mt_buf_cstr(&table), stdout);
        return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
    }
    mt_auto_json json_t *schema = mt_manifest_schema();
    if (!schema)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (c->json)
        return cli_print_object(c, "ManifestSchema", schema);
    (void)json_dumpf(schema, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    (void)putchar('\n');
    return fflush(stdout) == EOF ? CLI_FAILURE : CLI_OK;
}
