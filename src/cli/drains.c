/* SPDX-License-Identifier: Apache-2.0 */
/* Log drains: where the log lines of an organisation go besides. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "model/names.h"
#include "os/file.h"
#include "os/lockmem.h"

#define TOKEN_MAX 4096
#define PEM_MAX 16384

static int need_name(struct cli *c)
{
    struct mt_err err = {0};
    return mt_name_check(MT_NAME_ORG, c->argv[0], &err) == 0 ? CLI_OK : cli_usage(c, "'%.80s' is no name of a drain: %s", c->argv[0], err.msg);
}

static int drain_path(struct cli *c, const char *tail, char *ret, size_t size)
{
    int code = cli_need_org(c);
    (void)snprintf(ret, size, "/v1/orgs/%s/log-drains%s%s", c->org_id, *tail ? "/" : "", tail);
    return code;
}

int cmd_drains_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"NAME", "name"}, {"KIND", "kind"}, {"TARGET", "target"}, {"TOKEN", "has_token"}, {"SET", "updated_at"}, {"BY", "updated_by"}};
    char path[120];
    int code = drain_path(c, "", path, sizeof path);
    return code == CLI_OK ? cli_show_list(c, strdup(path), cols, MT_ARRAY_LEN(cols), "log drains") : code;
}

/* One line at most; its end is not part of the token. */
static int read_token(struct cli *c, struct mt_lockmem *ret)
{
    int code = cli_read_hidden(c, true, "token", "--token-stdin", TOKEN_MAX + 2, ret);
    if (code != CLI_OK)
        return code;
    if (ret->len && ret->p[ret->len - 1] == '\n')
        ret->len--;
    if (ret->len && ret->p[ret->len - 1] == '\r')
        ret->len--;
    if (ret->len < 1 || ret->len > TOKEN_MAX || memchr(ret->p, '\n', ret->len) || memchr(ret->p, 0, ret->len))
        return cli_usage(c, "the token is one line of 1 to %d bytes", TOKEN_MAX);
    return CLI_OK;
}

static json_t *body_of(struct cli *c, const struct mt_lockmem *token, const char *ca, const json_t *now)
{
    const char *syslog = cli_opt(c, "syslog");
    json_t *b = json_pack("{s:s,s:s}", "kind", syslog ? "syslog" : "otlp", "target", syslog ? syslog : cli_opt(c, "otlp"));
    if (b && token->len)
        (void)json_object_set_new(b, "token", json_stringn((const char *)token->p, token->len));
    if (b && cli_has(c, "header"))
        (void)json_object_set_new(b, "header", json_string(cli_opt(c, "header")));
    if (b && ca)
        (void)json_object_set_new(b, "ca_pem", json_string(ca));
    if (b && now)
        (void)json_object_set_new(b, "expected_version", json_integer((json_int_t)cli_int(now, "resource_version")));
    return b;
}

int cmd_drains_set(struct cli *c)
{
    char path[400];
    size_t n;
    struct mt_err err = {0};
    mt_auto_lockmem struct mt_lockmem token = {0};
    mt_auto_json json_t *items = NULL, *made = NULL;
    mt_auto_free char *ca = NULL;
    int code = need_name(c);
    if (code != CLI_OK)
        return code;
    if (cli_has(c, "syslog") == cli_has(c, "otlp"))
        return cli_usage(c, "one of --syslog HOST:PORT and --otlp URL is needed");
    if (cli_has(c, "token-stdin") && cli_has(c, "syslog"))
        return cli_usage(c, "syslog has no token");
    if (cli_has(c, "receiver-ca") && mt_file_read(cli_opt(c, "receiver-ca"), PEM_MAX, &ca, &n, &err) < 0)
        return cli_usage(c, "--receiver-ca: %s", err.msg);
    if ((code = drain_path(c, c->argv[0], path, sizeof path)) != CLI_OK || (cli_has(c, "token-stdin") && (code = read_token(c, &token)) != CLI_OK))
        return code;
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(400);
    mt_buf_printf(&t, "/v1/orgs/%s/log-drains?name=", c->org_id);
    mt_http_put_query(&t, c->argv[0]);
    if ((code = cli_list(c, mt_buf_cstr(&t), &items)) != CLI_OK)
        return code;
    mt_auto_json json_t *body = body_of(c, &token, ca, json_array_get(items, 0));
    code = body ? cli_call(c, "PUT", path, body, &made) : cli_usage(c, "target and token are UTF-8");
    const char *sent = body ? json_string_value(json_object_get(body, "token")) : NULL;
    if (sent)
        explicit_bzero((char *)(uintptr_t)sent, strlen(sent));
    return code == CLI_OK ? cli_receipt(c, "log drain", made) : code;
}

int cmd_drains_delete(struct cli *c)
{
    char path[400];
    mt_auto_json json_t *gone = NULL;
    int code = need_name(c);
    if (code != CLI_OK || (code = drain_path(c, c->argv[0], path, sizeof path)) != CLI_OK ||
        (code = cli_confirm(c, "log drain", c->argv[0])) != CLI_OK || (code = cli_call(c, "DELETE", path, NULL, &gone)) != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, "log drain", gone);
    cli_say(c, "removed %s", c->argv[0]);
    return CLI_OK;
}
