/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials for registries of an organisation; images that the operator has blocked. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "os/lockmem.h"
#include "wire/imageref.h"

#define PASSWORD_MAX 4096

/* ---- registries ---- */

static int need_host(struct cli *c)
{
    return mt_imageref_host_valid(c->argv[0])
               ? CLI_OK
               : cli_usage(c, "'%.80s' is no registry: it is named as in an image reference, for example registry.example.com:5000; Docker Hub is docker.io", c->argv[0]);
}

static int registry_path(struct cli *c, const char *tail, char *ret, size_t size)
{
    int code = cli_need_org(c);
    (void)snprintf(ret, size, "/v1/orgs/%s/registry-credentials%s%s", c->org_id, *tail ? "/" : "", tail);
    return code;
}

int cmd_registries_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"HOST", "host"}, {"USER", "username"}, {"SET", "updated_at"}, {"BY", "updated_by"}};
    char path[120];
    int code = registry_path(c, "", path, sizeof path);
    return code == CLI_OK ? cli_show_list(c, strdup(path), cols, MT_ARRAY_LEN(cols), "registries") : code;
}

/* One line at most; its end is not part of the password. */
static int read_password(struct cli *c, struct mt_lockmem *ret)
{
    int code = cli_read_hidden(c, cli_has(c, "password-stdin"), "password", "--password-stdin", PASSWORD_MAX + 2, ret);
    if (code != CLI_OK)
        return code;
    if (ret->len && ret->p[ret->len - 1] == '\n')
        ret->len--;
    if (ret->len && ret->p[ret->len - 1] == '\r')
        ret->len--;
    if (ret->len < 1 || ret->len > PASSWORD_MAX || memchr(ret->p, '\n', ret->len) || memchr(ret->p, 0, ret->len))
        return cli_usage(c, "the password is one line of 1 to %d bytes", PASSWORD_MAX);
    return CLI_OK;
}

int cmd_registries_set(struct cli *c)
{
    char list[400], path[400];
    mt_auto_lockmem struct mt_lockmem password = {0};
    mt_auto_json json_t *items = NULL, *made = NULL;
    int code = need_host(c);
    if (code != CLI_OK)
        return code;
    if (!cli_has(c, "username"))
        return cli_usage(c, "--username is needed; the password comes from stdin or a prompt");
    if ((code = registry_path(c, c->argv[0], path, sizeof path)) != CLI_OK || (code = read_password(c, &password)) != CLI_OK)
        return code;
    mt_auto_buf struct mt_buf t = MT_BUF_INIT(sizeof list);
    mt_buf_printf(&t, "/v1/orgs/%s/registry-credentials?host=", c->org_id);
    mt_http_put_query(&t, c->argv[0]);
    if ((code = cli_list(c, mt_buf_cstr(&t), &items)) != CLI_OK)
        return code;
    const json_t *now = json_array_get(items, 0);
    mt_auto_json json_t *body = json_pack("{s:s,s:s#}", "username", cli_opt(c, "username"), "password", (const char *)password.p, (int)password.len);
    if (body && now)
        (void)json_object_set_new(body, "expected_version", json_integer((json_int_t)cli_int(now, "resource_version")));
    code = body ? cli_call(c, "PUT", path, body, &made) : cli_usage(c, "user name and password are UTF-8");
    const char *sent = body ? json_string_value(json_object_get(body, "password")) : NULL;
    if (sent)
        explicit_bzero((char *)(uintptr_t)sent, strlen(sent));
    return code == CLI_OK ? cli_receipt(c, "registry credential", made) : code;
}

int cmd_registries_delete(struct cli *c)
{
    char path[400];
    mt_auto_json json_t *gone = NULL;
    int code = need_host(c);
    if (code != CLI_OK || (code = registry_path(c, c->argv[0], path, sizeof path)) != CLI_OK ||
        (code = cli_confirm(c, "registry credential", c->argv[0])) != CLI_OK || (code = cli_call(c, "DELETE", path, NULL, &gone)) != CLI_OK)
        return code;
    if (c->json)
        return cli_receipt(c, "registry credential", gone);
    cli_say(c, "removed %s", c->argv[0]);
    return CLI_OK;
}

/* ---- blocked images ---- */

int cmd_images_list(struct cli *c)
{
    static const struct cli_column cols[] = {{"DIGEST", "digest"}, {"EVICT", "evict"}, {"REASON", "reason"}, {"SINCE", "created_at"}};
    int code = cli_connect(c);
    return code == CLI_OK ? cli_show_list(c, strdup("/v1/image-blocks"), cols, MT_ARRAY_LEN(cols), "blocked images") : code;
}

static int change_block(struct cli *c, const char *method, const char *path, json_t *body)
{
    mt_auto_json json_t *made = NULL;
    int code = body ? cli_call(c, method, path, body, &made) : cli_usage(c, "--reason is not UTF-8");
    json_decref(body);
    if (code != CLI_OK || c->json)
        return code == CLI_OK ? cli_receipt(c, "image block", made) : code;
    cli_say(c, "%s %s", MT_STREQ(method, "POST") ? "blocked" : "no longer blocked:", c->argv[0]);
    return CLI_OK;
}

static int need_digest(struct cli *c)
{
    if (!mt_digest_valid(c->argv[0]))
        return cli_usage(c, "'%.80s' is no digest: sha256: and 64 lower-case hex digits", c->argv[0]);
    return cli_has(c, "reason") ? CLI_OK : cli_usage(c, "--reason is needed: it is kept in the audit log");
}

int cmd_images_block(struct cli *c)
{
    int code = need_digest(c);
    if (code != CLI_OK)
        return code;
    return change_block(c, "POST", "/v1/image-blocks",
                        json_pack("{s:s,s:b,s:s}", "digest", c->argv[0], "evict", cli_has(c, "evict"), "reason", cli_opt(c, "reason")));
}

int cmd_images_unblock(struct cli *c)
{
    char path[120];
    int code = need_digest(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/image-blocks/%s", c->argv[0]);
    return change_block(c, "DELETE", path, json_pack("{s:s}", "reason", cli_opt(c, "reason")));
}
