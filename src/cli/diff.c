/* SPDX-License-Identifier: Apache-2.0 */
/* releases diff and plan: what changes, field by field. The comparison is the same code as the server's. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/manifest_diff.h"

/* A value on one line, cut. */
static json_t *short_text(const json_t *v)
{
    if (!v)
        return json_string("");
    if (json_is_string(v))
        return json_copy((json_t *)(uintptr_t)v);
    mt_auto_free char *t = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    return json_sprintf("%.60s%s", t ? t : "", t && strlen(t) > 60 ? "..." : "");
}

static int print_changes(struct cli *c, const json_t *changes)
{
    static const struct cli_column cols[] = {{"OP", "op"}, {"FIELD", "path"}, {"FROM", "from"}, {"TO", "to"}};
    mt_auto_json json_t *rows = json_array();
    size_t i;
    json_t *v;
    json_array_foreach((json_t *)(uintptr_t)changes, i, v)
    {
        json_t *row = json_pack("{s:O,s:O,s:o,s:o}", "op", json_object_get(v, "op"), "path", json_object_get(v, "path"), "from",
                                short_text(json_object_get(v, "from")), "to", short_text(json_object_get(v, "to")));
        (void)json_array_append_new(rows, row);
    }
    return cli_print_table(c, rows, cols, MT_ARRAY_LEN(cols), "differences in the manifest");
}

int cmd_releases_diff(struct cli *c)
{
    char to[40], from[40] = "";
    mt_auto_json json_t *r = NULL;
    int code = cli_need_app(c);
    if (code == CLI_OK)
        code = cli_release_id(c, c->argv[c->argc - 1], to);
    if (code == CLI_OK && c->argc > 1)
        code = cli_release_id(c, c->argv[0], from);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = cli_app_path(c, "/releases/%s/diff%s%s", to, *from ? "?against=" : "", from);
    code = path ? cli_call(c, "GET", path, NULL, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "ReleaseDiff", r);
    cli_tame(r);
    cli_say(c, "v%lld to v%lld", (long long)cli_int(r, "from.number"), (long long)cli_int(r, "to.number"));
    if (json_is_true(json_object_get(r, "image_changed")))
        (void)printf("image  %s\n    -> %s\n", cli_str(r, "from.image_digest"), cli_str(r, "to.image_digest"));
    return print_changes(c, json_object_get(r, "changes"));
}

/* The release that runs now, NULL when nothing is deployed. */
static int current_release(struct cli *c, json_t **ret)
{
    mt_auto_json json_t *st = NULL;
    mt_auto_free char *path = cli_env_path(c, "/status");
    size_t i;
    json_t *p;
    const char *id = NULL;
    int code = cli_call(c, "GET", path, NULL, &st);
    json_array_foreach(json_object_get(st, "processes"), i, p)
    {
        const char *this = cli_str(p, "release_id");
        if (*this && (!id || strcmp(this, id) > 0))
            id = this; /* the newest, when processes differ */
    }
    if (code != CLI_OK || !id)
        return code;
    mt_auto_free char *rel = cli_app_path(c, "/releases/%s", id);
    return cli_call(c, "GET", rel, NULL, ret);
}

/* The release that would be deployed: an existing one, or the answer of a dry run. */
static int wanted_release(struct cli *c, json_t **ret)
{
    int code;
    if (cli_has(c, "release")) {
        char id[40];
        code = cli_need_env(c);
        if (code == CLI_OK)
            code = cli_release_id(c, cli_opt(c, "release"), id);
        mt_auto_free char *path = code == CLI_OK ? cli_app_path(c, "/releases/%s", id) : NULL;
        return code == CLI_OK ? cli_call(c, "GET", path, NULL, ret) : code;
    }
    const char *file = cli_manifest_file(c);
    size_t len = 0;
    mt_auto_free char *text = cli_read_manifest(c, file, &len, &code);
    if (!text)
        return code;
    code = cli_check_manifest(c, text, len, cli_file_name(file));
    if (code == CLI_OK)
        code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s%,s:s}", "manifest", text, len, "manifest_format", "toml");
    if (cli_has(c, "image") && body)
        (void)mt_json_set_str(body, "image_ref", cli_opt(c, "image"));
    mt_auto_free char *path = cli_app_path(c, "/releases?dry_run=true");
    return body && path ? cli_call(c, "POST", path, body, ret) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
}

int cmd_plan(struct cli *c)
{
    mt_auto_json json_t *to = NULL, *from = NULL, *changes = NULL, *deploy = NULL;
    int code = wanted_release(c, &to);
    if (code == CLI_OK)
        code = current_release(c, &from);
    if (code != CLI_OK)
        return code;
    bool exists = !json_is_true(json_object_get(to, "dry_run"));
    if (exists) { /* a release that is there can have the whole deploy checked */
        mt_auto_json json_t *body = json_pack("{s:s}", "release_id", cli_str(to, "id"));
        mt_auto_free char *path = cli_env_path(c, "/deploys?dry_run=true");
        code = cli_call(c, "POST", path, body, &deploy);
        if (code != CLI_OK)
            return code;
    }
    mt_auto_json json_t *none = json_object();
    changes = mt_manifest_diff(from ? json_object_get(from, "manifest") : none, json_object_get(to, "manifest"));
    bool image = !from || !MT_STREQ(cli_str(from, "image_digest"), cli_str(to, "image_digest"));
    if (c->json) {
        mt_auto_json json_t *plan = json_pack("{s:O,s:O?,s:b,s:O,s:O?}", "to", to, "from", from, "image_changed", image, "changes", changes, "deploy", deploy);
        return cli_print_object(c, "Plan", plan);
    }
    cli_tame(changes);
    if (from)
        cli_say(c, "from v%lld to %s%lld; nothing is changed by this command", (long long)cli_int(from, "number"), exists ? "v" : "a new release v", (long long)cli_int(to, "number"));
    else
        cli_say(c, "nothing is deployed yet; this would be the first release");
    if (image)
        (void)printf("image  %s\n    -> %s\n", from ? cli_str(from, "image_digest") : "none", cli_str(to, "image_digest"));
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(deploy, "routes"), i, v)
        (void)printf("route  %s %s:%lld\n", cli_str(v, "action"), cli_str(v, "hostname"), (long long)cli_int(v, "listen_port"));
    json_array_foreach(json_object_get(deploy, "warnings"), i, v)
        (void)printf("warning  %s %s\n", cli_str(v, "code"), cli_str(v, "process_type"));
    return print_changes(c, changes);
}
