/* SPDX-License-Identifier: Apache-2.0 */
/* deploy, run, rollback, restart: what changes which release runs. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

/* POST @path (freed) and go on as a deploy: receipt, then wait if wanted. */
static int submit_deploy(struct cli *c, char *path, const json_t *body)
{
    mt_auto_json json_t *dep = NULL;
    int code = path ? cli_call(c, "POST", path, body, &dep) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    free(path);
    if (code != CLI_OK)
        return code;
    if (!cli_wants_wait(c))
        return cli_receipt(c, "deploy", dep);
    cli_say(c, "%s✓%s deploy %s accepted", cli_color(c, "green"), cli_color(c, "reset"), cli_str(dep, "id"));
    return cli_wait_deploy(c, cli_str(dep, "id"), (uint64_t)cli_int(dep, "receipt.event_id"));
}

static json_t *process_list(const struct cli *c)
{
    json_t *list = NULL;
    const char *p;
    for (size_t i = 0; (p = cli_opt_n(c, "process", i)); i++) {
        list = list ? list : json_array();
        (void)json_array_append_new(list, json_string(p));
    }
    return list;
}

/* What a dry run would do: one line for each process, from which release to which. */
static int print_plan(struct cli *c, const json_t *plan)
{
    static const struct cli_column cols[] = {{"PROCESS", "process"}, {"FROM", "from"}, {"TO", "to"}};
    const char *process;
    json_t *id;
    mt_auto_json json_t *from = json_array(), *to = json_array();
    json_object_foreach(json_object_get(plan, "release_ids"), process, id)
    {
        json_t *before = json_object_get(json_object_get(plan, "previous_release_ids"), process);
        (void)json_array_append_new(from, json_pack("{s:O?}", "release_id", before));
        (void)json_array_append_new(to, json_pack("{s:s,s:O}", "process", process, "release_id", id));
    }
    cli_name_releases(c, from);
    cli_name_releases(c, to);
    for (size_t i = 0; i < json_array_size(to); i++) {
        json_t *row = json_array_get(to, i), *name = json_object_get(row, "release"), *before = json_object_get(json_array_get(from, i), "release");
        (void)json_object_set(row, "to", name ? name : json_object_get(row, "release_id"));
        if (before)
            (void)json_object_set(row, "from", before);
    }
    cli_say(c, "dry run: all checks passed, nothing is changed (strategy %s, on failure %s)", cli_str(plan, "strategy"), cli_str(plan, "on_failure"));
    return cli_print_table(c, to, cols, MT_ARRAY_LEN(cols), "processes to deploy");
}

static int deploy_release(struct cli *c, const char *release_id)
{
    cli_say_target(c, "deploying");
    mt_auto_json json_t *body = json_pack("{s:s}", "release_id", release_id);
    json_t *processes = process_list(c);
    if (processes)
        (void)json_object_set_new(body, "process_types", processes);
    if (cli_has(c, "on-failure"))
        (void)json_object_set_new(body, "on_failure", json_string(cli_opt(c, "on-failure")));
    if (cli_has(c, "note"))
        (void)mt_json_set_str(body, "note", cli_opt(c, "note"));
    if (cli_has(c, "force"))
        (void)json_object_set_new(body, "force", json_true());
    if (cli_has(c, "dry-run")) {
        mt_auto_json json_t *plan = NULL;
        mt_auto_free char *path = cli_env_path(c, "/deploys?dry_run=true");
        int code = cli_call(c, "POST", path, body, &plan);
        if (code != CLI_OK)
            return code;
        if (c->json)
            return cli_print_object(c, "Plan", plan);
        return print_plan(c, plan);
    }
    return submit_deploy(c, cli_env_path(c, "/deploys"), body);
}

/* A release of manifest text; the text is borrowed, *ret the caller's. */
static int make_release(struct cli *c, const char *text, size_t len, json_t **ret)
{
    mt_auto_json json_t *body = json_pack("{s:s%,s:s}", "manifest", text, len, "manifest_format", "toml");
    if (cli_has(c, "image") && body)
        (void)mt_json_set_str(body, "image_ref", cli_opt(c, "image"));
    if (cli_has(c, "image-digest") && body)
        (void)mt_json_set_str(body, "image_digest", cli_opt(c, "image-digest"));
    if (cli_has(c, "unverified") && body)
        (void)json_object_set_new(body, "verify_image", json_false());
    mt_auto_free char *path = cli_app_path(c, "/releases");
    return body && path ? cli_call(c, "POST", path, body, ret) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
}

int cmd_releases_create(struct cli *c)
{
    mt_auto_json json_t *rel = NULL;
    size_t len = 0;
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    const char *file = cli_manifest_file(c);
    mt_auto_free char *text = cli_read_manifest(c, file, &len, &code);
    if (!text || (code = cli_check_manifest(c, text, len, cli_file_name(file))) != CLI_OK || (code = cli_need_app(c)) != CLI_OK ||
        (code = make_release(c, text, len, &rel)) != CLI_OK)
        return code;
    if (!c->json && !c->quiet)
        cli_say(c, "%s✓%s release v%lld %s%s", cli_color(c, "green"), cli_color(c, "reset"), (long long)cli_int(rel, "number"),
                cli_str(rel, "image_digest"), json_is_true(cli_member(rel, "deduplicated")) ? " (same as before)" : "");
    return cli_receipt(c, "release", rel);
}

/* Manifest text to release to deploy; text is borrowed. @bare: it was made here of an image alone, so an environment made here too
 * needs no secrets. */
static int deploy_manifest(struct cli *c, const char *text, size_t len, const char *name, bool bare)
{
    int code = cli_check_manifest(c, text, len, name);
    if (code == CLI_OK)
        code = cli_ensure_env(c);
    if (code == CLI_OK)
        code = cli_pass_gate(c, cli_has(c, "confirm-no-secrets") || (bare && c->made));
    if (code != CLI_OK)
        return code;
    cli_say_target(c, "deploying");
    mt_auto_json json_t *rel = NULL;
    if ((code = make_release(c, text, len, &rel)) != CLI_OK)
        return code;
    cli_say(c, "%s✓%s release v%lld %s%s", cli_color(c, "green"), cli_color(c, "reset"), (long long)cli_int(rel, "number"),
            cli_str(rel, "image_digest"), json_is_true(cli_member(rel, "deduplicated")) ? " (same as before)" : "");
    *c->idempotency_key = '\0'; /* a pinned key belongs to the release call; the deploy is another request */
    return deploy_release(c, cli_str(rel, "id"));
}

int cmd_deploy(struct cli *c)
{
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    if (cli_has(c, "release")) {
        char id[40];
        code = cli_need_env(c);
        if (code == CLI_OK)
            code = cli_release_id(c, cli_opt(c, "release"), id);
        if (code == CLI_OK)
            code = cli_pass_gate(c, cli_has(c, "confirm-no-secrets"));
        return code == CLI_OK ? deploy_release(c, id) : code;
    }
    const char *file = cli_manifest_file(c);
    size_t len = 0;
    mt_auto_free char *text = cli_read_manifest(c, file, &len, &code);
    return text ? deploy_manifest(c, text, len, cli_file_name(file), false) : code;
}

int cmd_run(struct cli *c)
{
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *text = cli_generate_manifest(c, c->argv[0], &code);
    if (!text)
        return code;
    if (!c->json && !c->quiet)
        (void)fprintf(stderr, "%s%s%s\n", cli_color(c, "dim"), text, cli_color(c, "reset"));
    code = deploy_manifest(c, text, strlen(text), "generated manifest", true);
    if (code == CLI_OK) /* without a file, later commands would have to be told the app each time */
        cli_say(c, "\nmoat context use %s/%s@%s makes it the target of later commands", c->org, c->app, c->env);
    if (code == CLI_OK)
        cli_say(c, "keep it: moat init --image %s%s%s%s%s > moat.toml", c->argv[0], cli_has(c, "port") ? " --port " : "",
                cli_has(c, "port") ? cli_opt(c, "port") : "", cli_has(c, "hostname") ? " --hostname " : "", cli_has(c, "hostname") ? cli_opt(c, "hostname") : "");
    return code;
}

int cmd_rollback(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_object();
    if (cli_has(c, "to")) {
        char id[40];
        code = cli_release_id(c, cli_opt(c, "to"), id);
        if (code != CLI_OK)
            return code;
        (void)mt_json_set_str(body, "release_id", id);
    }
    cli_say_target(c, "rolling back");
    return submit_deploy(c, cli_env_path(c, "/rollbacks"), body);
}

int cmd_restart(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_object();
    json_t *processes = process_list(c);
    if (processes)
        (void)json_object_set_new(body, "process_types", processes);
    cli_say_target(c, "restarting");
    return submit_deploy(c, cli_env_path(c, "/restarts"), body);
}

int cmd_deploys_wait(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "dep_", "moat deploys");
    if (code == CLI_OK)
        code = cli_need_env(c);
    return code == CLI_OK ? cli_wait_deploy(c, c->argv[0], 0) : code;
}
