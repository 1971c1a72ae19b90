/* SPDX-License-Identifier: Apache-2.0 */
/* Which platform: the configuration file, the environment, the token (control-plane.md §15.2). */
#include "cli/config.h"

#include "cli/creds.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"
#include "os/tls.h"

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

/* "https://host", "https://host:port", "https://[v6]:port", with or without a last slash. */
static int parse_https(struct cli *c, const char *url)
{
    const char *host = url + strlen("https://"), *end = host + strcspn(host, "/"), *colon = NULL;
    bool brackets = *host == '[';
    if (brackets) {
        const char *close = memchr(host, ']', (size_t)(end - host));
        host++;
        colon = close && close + 1 < end && close[1] == ':' ? close + 1 : NULL;
        if (!close || (!colon && close + 1 != end))
            host = end;
        c->host = mt_strndup(host, host < end ? (size_t)(close - host) : 0);
    } else {
        colon = memchr(host, ':', (size_t)(end - host));
        c->host = mt_strndup(host, (size_t)((colon ? colon : end) - host));
    }
    if (!c->host)
        return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    uint64_t port = 443;
    char digits[8] = "";
    if (colon && (size_t)(end - colon - 1) < sizeof digits)
        memcpy(digits, colon + 1, (size_t)(end - colon - 1));
    if (!*c->host || strlen(c->host) > 253 || (*end && end[1]) || strpbrk(c->host, " \t\r\n@?#%") || (colon && mt_parse_u64(digits, 1, 65535, &port, NULL) < 0))
        return cli_error(c, CLI_USAGE, "the server's address is not https://host[:port]", "--api https://moat.example.com:7443");
    c->port = (uint16_t)port;
    return CLI_OK;
}

/* Whom to trust as the server. What the configuration says of it holds for the server that it names, not for another one given beside it. */
static int trust(struct cli *c, const struct cli_conf *conf, bool configured)
{
    struct mt_err err;
    const struct mt_tls_conf tc = {.ca_file = first_of(cli_opt(c, "ca-file"), getenv("MOAT_CA_FILE"), configured ? conf->ca_file : NULL),
                                   .pin = first_of(cli_opt(c, "pin"), getenv("MOAT_PIN"), configured ? conf->pin : NULL)};
    if (mt_tls_ctx_new(&tc, &c->tls, &err) < 0)
        return cli_error(c, CLI_USAGE, err.msg, "--ca-file FILE and --pin SHA256 say whom to trust; `moat help environment`");
    return CLI_OK;
}

struct mt_http_client *cli_client_new(const struct cli *c)
{
    return c->tls ? mt_http_client_new_tls(c->host, c->port, c->tls, NULL) : mt_http_client_new(c->api);
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
    else if (!mt_starts_with(api, "unix:/") && !mt_starts_with(api, "https://"))
        code = cli_error(c, CLI_USAGE, "a server is https://host[:port] or unix:/path", "plain http is not spoken: tokens would be readable on the way");
    bool https = api && mt_starts_with(api, "https://"), configured = api && conf.api && MT_STREQ(api, conf.api);
    if (code == CLI_OK && https && (code = parse_https(c, api)) == CLI_OK)
        code = trust(c, &conf, configured);
    if (code == CLI_OK && api) {
        size_t n = strlen(api);
        c->api = https ? mt_strndup(api, n - (api[n - 1] == '/')) : strdup(api + 5);
        c->token = strdup(token ? token : "");
        c->token_from = token ? 1 : 0;
        if (!c->token || !c->api || !(c->http = cli_client_new(c)))
            code = cli_error(c, CLI_FAILURE, "out of memory", NULL);
        struct stat st;
        /* a token in a file is for the server that the same configuration names: no other one, somewhere else, may be sent it */
        const char *token_file = https && !configured ? NULL : conf.token_file;
        if (code == CLI_OK && !https && !token && token_file && stat(token_file, &st) == 0)
            mt_http_client_trust(c->http, (const uid_t[]){0, geteuid(), st.st_uid}, 3); /* who could read the token anyway */
        if (code == CLI_OK && !token && !c->anonymous)
            code = stored_credential(c, token_file);
    }
    cli_conf_done(&conf);
    return code;
}

void cli_done(struct cli *c)
{
    mt_http_client_free(c->http);
    free(c->api);
    free(c->host);
    mt_tls_ctx_unref(c->tls);
    if (c->token)
        explicit_bzero(c->token, strlen(c->token));
    free(c->token);
    free(c->config_org);
    free(c->config_project);
    free(c->config_app);
    free(c->config_env);
    free(c->config_data_dir);
}
