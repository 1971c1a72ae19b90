/* SPDX-License-Identifier: Apache-2.0 */
/* Which platform: the configuration file, the environment, the token (control-plane.md §15.2). */
#include "cli/config.h"

#include "cli/creds.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/file.h"

#include <sys/stat.h>

static char *take_token(const char *file, struct mt_err *err)
{
    char *text = NULL;
    size_t n;
    /* the file of a local platform lies in control's folder: control must not be able to point root at another file's first word */
    if (geteuid() == 0 ? mt_file_read_plain(file, (uid_t)-1, 4096, &text, &n, err) < 0 : mt_file_read(file, 4096, &text, &n, err) < 0)
        return NULL;
    text[strcspn(text, "\r\n \t")] = '\0';
    return text;
}

static const char *first_of(const char *a, const char *b, const char *d)
{
    return a && *a ? a : b && *b ? b : d;
}

/* A login or client credentials when there are any, else the file that the configuration names. */
static int stored_credential(struct cli *c, const char *token_file)
{
    struct mt_err err;
    bool found;
    int code = cli_credential(c, &found);
    if (code != CLI_OK || found || !token_file)
        return code;
    char *token = take_token(token_file, &err);
    if (!token)
        return cli_error(c, CLI_AUTH, err.msg, "run as the user that owns the token file (root for a local platform), set MOAT_TOKEN, or `moat auth login`");
    free(c->token);
    c->token = token;
    c->token_from = 4;
    return CLI_OK;
}

int cli_connect(struct cli *c)
{
    if (c->http)
        return CLI_OK;
    struct cli_conf conf = {0};
    int code = cli_conf_load(c, &conf);
    if (code != CLI_OK)
        return code;
    c->config_org = MT_TAKE(conf.org);
    c->config_project = MT_TAKE(conf.project);
    c->config_app = MT_TAKE(conf.app);
    c->config_env = MT_TAKE(conf.env);
    c->config_data_dir = MT_TAKE(conf.data_dir);
    c->tls_port = conf.tls_port;
    c->org = first_of(cli_opt(c, "org"), getenv("MOAT_ORG"), c->config_org);
    c->project = first_of(cli_opt(c, "project"), getenv("MOAT_PROJECT"), c->config_project);
    c->app = first_of(cli_opt(c, "app"), getenv("MOAT_APP"), NULL);
    c->env = first_of(cli_opt(c, "env"), getenv("MOAT_ENV"), c->config_env);
    const char *api = first_of(cli_opt(c, "api"), getenv("MOAT_API"), conf.api);
    const char *token = first_of(cli_opt(c, "token"), getenv("MOAT_TOKEN"), NULL);
    if (!api)
        code = cli_error(c, CLI_USAGE, "no platform is known", "run `moat up` here, or give --api unix:/path/to/api.sock");
    else if (!mt_starts_with(api, "unix:/"))
        code = cli_error(c, CLI_USAGE, "this version reaches the control plane over its Unix socket only", "--api unix:/path/to/api.sock");
    if (code == CLI_OK) {
        c->api = strdup(api + 5);
        c->token = strdup(token ? token : "");
        c->token_from = token ? 1 : 0;
        if (!c->token || !c->api || !(c->http = mt_http_client_new(c->api)))
            code = cli_error(c, CLI_FAILURE, "out of memory", NULL);
        struct stat st;
        if (code == CLI_OK && !token && conf.token_file && stat(conf.token_file, &st) == 0)
            mt_http_client_trust(c->http, (const uid_t[]){0, geteuid(), st.st_uid}, 3); /* who could read the token anyway */
        if (code == CLI_OK && !token && !c->anonymous)
            code = stored_credential(c, conf.token_file);
    }
    cli_conf_done(&conf);
    return code;
}

void cli_done(struct cli *c)
{
    mt_http_client_free(c->http);
    free(c->api);
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    free(c->config_org);
    free(c->config_project);
    free(c->config_app);
    free(c->config_env);
    free(c->config_data_dir);
}
