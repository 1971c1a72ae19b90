/* SPDX-License-Identifier: Apache-2.0 */
/* deploy, run, init, rollback, restart: what changes which release runs. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "model/manifest.h"
#include "os/file.h"

#include <unistd.h>

enum { MANIFEST_MAX = 64 * 1024 };

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

/* "v3" or an id to a release id. */
static int release_id_of(struct cli *c, const char *word, char ret[40])
{
    if (mt_starts_with(word, "rel_")) {
        (void)snprintf(ret, 40, "%s", word);
        return CLI_OK;
    }
    uint64_t number;
    struct mt_err err;
    if (*word != 'v' || mt_parse_u64(word + 1, 1, 1000000000, &number, &err) < 0)
        return cli_usage(c, "'%.40s' is not a release: give v3 or an id", word);
    mt_auto_json json_t *items = NULL;
    mt_auto_free char *path = cli_app_path(c, "/releases");
    int code = cli_list(c, path, &items);
    size_t i;
    json_t *item;
    if (code != CLI_OK)
        return code;
    json_array_foreach(items, i, item)
    {
        if ((uint64_t)cli_int(item, "number") == number) {
            (void)snprintf(ret, 40, "%s", cli_str(item, "id"));
            return CLI_OK;
        }
    }
    char what[80];
    (void)snprintf(what, sizeof what, "there is no release v%llu", (unsigned long long)number);
    return cli_error(c, CLI_NOT_FOUND, what, "moat releases");
}

static int deploy_release(struct cli *c, const char *release_id)
{
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
        (void)json_dumpf(plan, stdout, JSON_INDENT(2));
        (void)putchar('\n');
        return CLI_OK;
    }
    return submit_deploy(c, cli_env_path(c, "/deploys"), body);
}

/* Manifest text to release to deploy; text is borrowed. */
static int deploy_manifest(struct cli *c, const char *text, size_t len, const char *name)
{
    int code = cli_check_manifest(c, text, len, name);
    if (code == CLI_OK)
        code = cli_ensure_env(c);
    if (code != CLI_OK)
        return code;
    cli_say(c, "deploying %s%s/%s@%s%s", cli_color(c, "bold"), c->org, c->app, c->env, cli_color(c, "reset"));
    mt_auto_json json_t *body = json_pack("{s:s%,s:s}", "manifest", text, len, "manifest_format", "toml");
    if (cli_has(c, "image") && body)
        (void)mt_json_set_str(body, "image_ref", cli_opt(c, "image"));
    mt_auto_json json_t *rel = NULL;
    mt_auto_free char *path = cli_app_path(c, "/releases");
    code = body && path ? cli_call(c, "POST", path, body, &rel) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
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
            code = release_id_of(c, cli_opt(c, "release"), id);
        return code == CLI_OK ? deploy_release(c, id) : code;
    }
    const char *file = cli_opt(c, "manifest");
    size_t len = 0;
    mt_auto_free char *text = cli_read_manifest(c, file ? file : "moat.toml", &len, &code);
    return text ? deploy_manifest(c, text, len, file ? file : "moat.toml") : code;
}

/* App name out of an image reference: the last path part, made a slug. */
static void name_of_image(const char *ref, char ret[64])
{
    const char *end = ref + strcspn(ref, "@"), *slash = ref;
    for (const char *p = ref; p < end; p++)
        if (*p == '/')
            slash = p + 1;
    size_t n = 0;
    for (const char *p = slash; p < end && *p != ':' && n < 40; p++) {
        char ch = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
        bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');
        if (n == 0 && !(ch >= 'a' && ch <= 'z'))
            continue;
        ret[n++] = alnum ? ch : '-';
    }
    while (n > 0 && ret[n - 1] == '-')
        n--;
    ret[n] = '\0';
    if (n == 0)
        (void)snprintf(ret, 64, "app");
}

/* The generated manifest of init and run, malloc'ed; NULL with the error printed. */
static char *generate(struct cli *c, const char *image, int *ret_code)
{
    char name[64];
    struct mt_err err;
    uint64_t port = 0;
    if (cli_has(c, "name"))
        (void)snprintf(name, sizeof name, "%s", cli_opt(c, "name"));
    else
        name_of_image(image, name);
    if (cli_has(c, "port") && mt_parse_u64(cli_opt(c, "port"), 1, 65535, &port, &err) < 0) {
        *ret_code = cli_usage(c, "--port: %s", err.msg);
        return NULL;
    }
    if (cli_has(c, "hostname") && port == 0) {
        *ret_code = cli_usage(c, "--hostname needs --port: the port that the process listens on");
        return NULL;
    }
    const char *env = c->env ? c->env : cli_opt(c, "env") ? cli_opt(c, "env") : "prod";
    struct mt_manifest_minimal in = {.app = name, .image = image, .env = env, .port = (uint16_t)port,
                                     .hostname = cli_opt(c, "hostname"), .memory = cli_opt(c, "memory")};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MANIFEST_MAX);
    if (mt_manifest_minimal(&in, &b, &err) < 0) {
        *ret_code = cli_fail(c, &err, NULL);
        return NULL;
    }
    *ret_code = CLI_OK;
    return mt_buf_take(&b);
}

int cmd_run(struct cli *c)
{
    int code = cli_connect(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *text = generate(c, c->argv[0], &code);
    if (!text)
        return code;
    if (!c->json && !c->quiet)
        (void)fprintf(stderr, "%s%s%s\n", cli_color(c, "dim"), text, cli_color(c, "reset"));
    code = deploy_manifest(c, text, strlen(text), "generated manifest");
    if (code == CLI_OK)
        cli_say(c, "\nkeep it: moat init --image %s > moat.toml", c->argv[0]);
    return code;
}

int cmd_init(struct cli *c)
{
    const char *file = cli_opt(c, "manifest") ? cli_opt(c, "manifest") : "moat.toml";
    const char *image = cli_opt(c, "image");
    int code;
    struct mt_err err;
    if (!image)
        return cli_usage(c, "--image REF is missing");
    mt_auto_free char *text = generate(c, image, &code);
    if (!text)
        return code;
    if (MT_STREQ(file, "-") || (!cli_has(c, "manifest") && !isatty(STDOUT_FILENO) && !c->json)) {
        (void)fputs(text, stdout);
        return CLI_OK;
    }
    if (access(file, F_OK) == 0 && !cli_has(c, "force")) {
        char what[300];
        (void)snprintf(what, sizeof what, "'%.200s' is there already", file);
        return cli_error(c, CLI_CONFLICT, what, "--force replaces it, -f PATH writes another file");
    }
    if (mt_file_write(file, text, strlen(text), 0644, &err) < 0)
        return cli_fail(c, &err, NULL);
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:s}", "path", file, "manifest", text);
        return cli_print_object(c, "Manifest", j);
    }
    (void)printf("%s\n", text);
    cli_say(c, "wrote %s; next: moat deploy", file);
    return CLI_OK;
}

int cmd_rollback(struct cli *c)
{
    int code = cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_object();
    if (cli_has(c, "to")) {
        char id[40];
        code = release_id_of(c, cli_opt(c, "to"), id);
        if (code != CLI_OK)
            return code;
        (void)mt_json_set_str(body, "release_id", id);
    }
    cli_say(c, "rolling back %s/%s@%s", c->org, c->app, c->env);
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
    cli_say(c, "restarting %s/%s@%s", c->org, c->app, c->env);
    return submit_deploy(c, cli_env_path(c, "/restarts"), body);
}

int cmd_deploys_wait(struct cli *c)
{
    int code = cli_need_env(c);
    return code == CLI_OK ? cli_wait_deploy(c, c->argv[0], 0) : code;
}
