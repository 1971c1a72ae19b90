/* SPDX-License-Identifier: Apache-2.0 */
/* context: the saved target. Local only; what it says is looked at after flags, MOAT_* and the manifest. */
#include "cli/config.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

static int show_saved(struct cli *c)
{
    struct cli_conf conf;
    int code = cli_conf_load(c, &conf);
    if (code != CLI_OK)
        return code;
    const char *profile = cli_opt(c, "profile") ? cli_opt(c, "profile") : getenv("MOAT_PROFILE");
    mt_auto_free char *path = cli_conf_path();
    mt_auto_json json_t *j = json_pack("{s:s?,s:s?,s:s?,s:s?,s:s?,s:s?,s:s?,s:s?,s:s?}", "profile", profile && *profile ? profile : NULL, "api", conf.api,
                                       "ca_file", conf.ca_file, "pin", conf.pin, "org", conf.org,
                                       "project", conf.project, "app", conf.app, "env", conf.env, "file", path);
    cli_conf_done(&conf);
    if (!j)
        return cli_error(c, CLI_FAILURE, "the configuration is not UTF-8", NULL);
    if (c->json)
        return cli_print_object(c, "Context", j);
    cli_tame(j);
    if (c->quiet && !*cli_str(j, "org"))
        return CLI_OK;
    if (c->quiet) {
        (void)printf("%s%s%s%s%s\n", cli_str(j, "org"), *cli_str(j, "app") ? "/" : "", cli_str(j, "app"), *cli_str(j, "env") ? "@" : "", cli_str(j, "env"));
        return CLI_OK;
    }
    return cli_print_fields(c, j);
}

int cmd_context_show(struct cli *c)
{
    return show_saved(c);
}

static int change(struct cli *c, const struct cli_conf_change *changes, size_t n)
{
    mt_auto_free char *path = NULL;
    int code = cli_conf_change(c, changes, n, &path);
    if (code != CLI_OK)
        return code;
    cli_say(c, "saved in %s", path);
    return show_saved(c);
}

int cmd_context_set(struct cli *c)
{
    static const char *const keys[] = {"org", "project", "app", "env", "api", "ca-file", "pin"};
    struct cli_conf_change changes[MT_ARRAY_LEN(keys)];
    size_t n = 0;
    for (size_t i = 0; i < MT_ARRAY_LEN(keys); i++)
        if (cli_has(c, keys[i]))
            changes[n++] = (struct cli_conf_change){MT_STREQ(keys[i], "ca-file") ? "ca_file" : keys[i], *cli_opt(c, keys[i]) ? cli_opt(c, keys[i]) : NULL};
    if (n == 0)
        return cli_usage(c, "nothing to set: add --org, --project, --app, --env, --api, --ca-file or --pin");
    return change(c, changes, n);
}

int cmd_context_clear(struct cli *c)
{
    static const struct cli_conf_change all[] = {{"org", NULL}, {"project", NULL}, {"app", NULL}, {"env", NULL}};
    return change(c, all, MT_ARRAY_LEN(all));
}

/* ORG[/PROJECT]/APP@ENV */
int cmd_context_use(struct cli *c)
{
    mt_auto_free char *word = strdup(c->argv[0]);
    if (!word)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    char *env = strchr(word, '@'), *part[4] = {NULL};
    size_t n = 0;
    if (env)
        *env++ = '\0';
    for (char *p = word; p && n < 4;) {
        part[n++] = p;
        p = strchr(p, '/');
        if (p)
            *p++ = '\0';
    }
    bool good = env && *env && !strpbrk(env, "/@") && (n == 2 || n == 3);
    for (size_t i = 0; i < n; i++)
        good = good && *part[i];
    if (!good)
        return cli_usage(c, "'%.80s' is not ORG[/PROJECT]/APP@ENV", c->argv[0]);
    const struct cli_conf_change changes[] = {{"org", part[0]}, {"project", n == 3 ? part[1] : NULL}, {"app", part[n - 1]}, {"env", env}};
    return change(c, changes, MT_ARRAY_LEN(changes));
}
