/* SPDX-License-Identifier: Apache-2.0 */
/* support-bundle: what somebody who helps needs to see, in a folder, without secrets. Every file is JSON or plain text that a person can read
 * before sending it. */
#include "cli/config.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/file.h"

#include <sys/stat.h>
#include <sys/utsname.h>

struct bundle {
    struct cli *c;
    const char *dir;
    json_t *files;
};

/* Names of members whose values are kept out, wherever they stand. */
static bool secret_name(const char *key)
{
    static const char *const parts[] = {"secret", "token", "password", "private_key", "credential", "authorization", "api_key"};
    char low[64];
    size_t n = 0;
    for (; key[n] && n + 1 < sizeof low; n++)
        low[n] = key[n] >= 'A' && key[n] <= 'Z' ? (char)(key[n] + 32) : key[n];
    low[n] = '\0';
    for (size_t i = 0; i < MT_ARRAY_LEN(parts); i++)
        if (strstr(low, parts[i]))
            return true;
    return false;
}

/* In place: texts under secret names, and every value of environment variables, become "[redacted]". Flags and numbers say no secret. */
static void redact(json_t *j, bool all)
{
    const char *key;
    json_t *v;
    size_t i;
    if (json_is_array(j)) {
        json_array_foreach(j, i, v)
        {
            if (json_is_string(v) && all)
                (void)json_string_set(v, "[redacted]");
            else
                redact(v, all);
        }
    } else if (json_is_object(j)) {
        json_object_foreach(j, key, v)
        {
            bool hide = all || secret_name(key) || MT_STREQ(key, "vars") || MT_STREQ(key, "env_vars") || MT_STREQ(key, "values");
            if (json_is_string(v) && hide)
                (void)json_string_set(v, "[redacted]");
            else
                redact(v, hide);
        }
    }
}

static int put(struct bundle *b, const char *name, json_t *j)
{
    char path[4200];
    struct mt_err err;
    redact(j, false);
    mt_auto_free char *text = json_dumps(j, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (!text || mt_fmt(path, sizeof path, &err, "%s/%s.json", b->dir, name) < 0)
        return cli_error(b->c, CLI_FAILURE, "out of memory", NULL);
    if (mt_file_write(path, text, strlen(text), 0600, &err) < 0)
        return cli_fail(b->c, &err, NULL);
    (void)json_array_append_new(b->files, json_sprintf("%s.json", name));
    cli_say(b->c, "  %s.json", name);
    return CLI_OK;
}

/* An answer of the API, or why there is none: a bundle from a broken platform is the one that matters. */
static int put_answer(struct bundle *b, const char *name, const char *target, bool list)
{
    struct cli *c = b->c;
    mt_auto_json json_t *j = NULL;
    c->hush = true;
    int code = !target ? CLI_USAGE : list ? cli_list(c, target, &j) : cli_call(c, "GET", target, NULL, &j);
    c->hush = false;
    if (code != CLI_OK) {
        json_decref(j);
        j = json_pack("{s:s}", "unavailable", cli_category(code));
    }
    return put(b, name, j);
}

static json_t *about(struct cli *c)
{
    struct utsname u;
    char ts[MT_RFC3339_LEN];
    struct cli_conf conf = {0};
    (void)uname(&u);
    c->hush = true;
    bool known = cli_conf_load(c, &conf) == CLI_OK;
    c->hush = false;
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:{s:b,s:s?,s:s?,s:s?,s:s?,s:s?,s:s?,s:I}}", "made_at", mt_rfc3339(mt_clock_wall_us(), ts), "client_version",
                          MOAT_VERSION, "system", u.sysname, "kernel", u.release, "machine", u.machine, "config", "readable", known, "api", conf.api, "org",
                          conf.org, "project", conf.project, "app", conf.app, "env", conf.env, "data_dir", conf.data_dir, "tls_port", (json_int_t)conf.tls_port);
    cli_conf_done(&conf);
    return j;
}

int cmd_support_bundle(struct cli *c)
{
    struct mt_err err;
    struct stat st;
    struct bundle b = {.c = c, .dir = c->argv[0]};
    char target[400], what[300];
    if (strlen(b.dir) > 4000)
        return cli_usage(c, "the path is too long");
    if (stat(b.dir, &st) == 0) {
        (void)snprintf(what, sizeof what, "'%.200s' is there already", b.dir);
        return cli_error(c, CLI_CONFLICT, what, "give a folder that does not exist");
    }
    if (mt_file_mkdirs(b.dir, 0700, &err) < 0)
        return cli_fail(c, &err, NULL);
    mt_auto_json json_t *files = b.files = json_array();
    mt_auto_json json_t *version = about(c);
    int code = put(&b, "about", version);
    c->hush = true;
    int org = cli_need_org(c), app = org == CLI_OK ? cli_need_app(c) : org, env = app == CLI_OK ? cli_need_env(c) : app;
    c->hush = false;
    struct {
        const char *name, *path;
        bool list, known;
    } const asks[] = {
        {"server", "/v1/capabilities", false, true}, {"whoami", "/v1/auth/whoami", false, true}, {"nodes", "/v1/nodes", true, true},
        {"events", "/v1/orgs/%s/events?limit=500&order=desc", false, org == CLI_OK},
    };
    for (size_t i = 0; i < MT_ARRAY_LEN(asks) && code == CLI_OK; i++) {
        const char *at = strstr(asks[i].path, "%s");
        (void)snprintf(target, sizeof target, "%.*s%s%s", at ? (int)(at - asks[i].path) : (int)strlen(asks[i].path), asks[i].path, at ? c->org_id : "",
                       at ? at + 2 : "");
        code = put_answer(&b, asks[i].name, asks[i].known ? target : NULL, asks[i].list);
    }
    mt_auto_free char *releases = app == CLI_OK ? cli_app_path(c, "/releases") : NULL;
    if (code == CLI_OK)
        code = put_answer(&b, "releases", releases, true);
    static const char *const of_env[] = {"status", "instances", "deploys", "routes"};
    for (size_t i = 0; i < MT_ARRAY_LEN(of_env) && code == CLI_OK; i++) {
        mt_auto_free char *path = env == CLI_OK ? cli_env_path(c, "/%s", of_env[i]) : NULL;
        code = put_answer(&b, of_env[i], path, i > 0);
    }
    if (code != CLI_OK)
        return code;
    if (c->json) {
        mt_auto_json json_t *j = json_pack("{s:s,s:O}", "path", b.dir, "files", b.files);
        return cli_print_object(c, "SupportBundle", j);
    }
    (void)printf("%s\n", b.dir);
    cli_say(c, "values of variables, tokens and passwords are left out; log lines are not in it. Look it through before you send it");
    return CLI_OK;
}
