/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of organisations and what they use: quotas, and the operators' switches. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>

int cmd_orgs_quotas(struct cli *c)
{
    static const struct cli_column cols[] = {
        {"DIMENSION", "dimension"}, {"USED", "used"}, {"LIMIT", "limit"}, {"SOURCE", "source"}, {"COUNTS", "counts"}};
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/quotas", c->org_id);
    return cli_show_list(c, strdup(path), cols, sizeof cols / sizeof cols[0], "quotas");
}

static int need_reason(struct cli *c, const char **ret)
{
    *ret = cli_opt(c, "reason");
    return *ret && **ret ? CLI_OK : cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
}

/* Send @body (taken) and print what comes back. */
static int send(struct cli *c, const char *method, const char *path, json_t *body, const char *kind)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, method, path, body, &j);
    json_decref(body);
    if (code != CLI_OK)
        return code;
    return c->json ? cli_print_object(c, kind, j) : cli_print_fields(c, j);
}

int cmd_admin_quotas_set(struct cli *c)
{
    const char *dimension = c->argv[0], *value = c->argv[1], *reason;
    struct mt_err err;
    uint64_t limit = 0;
    char path[300];
    bool none = MT_STREQ(value, "default");
    if (strspn(dimension, "abcdefghijklmnopqrstuvwxyz_") != strlen(dimension) || strlen(dimension) > 60)
        return cli_usage(c, "'%.60s' is no dimension: moat orgs quotas shows them", dimension);
    if (!none && mt_parse_u64(value, 0, INT64_C(9007199254740991), &limit, &err) < 0)
        return cli_usage(c, "the limit is a number, or default: %s", err.msg);
    int code = need_reason(c, &reason);
    if (code == CLI_OK)
        code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/quotas/%s", c->org_id, dimension);
    return send(c, "PUT", path, json_pack("{s:o,s:s}", "limit", none ? json_null() : json_integer((json_int_t)limit), "reason", reason), "Quota");
}

static int switch_org(struct cli *c, const char *verb)
{
    const char *reason;
    char path[200];
    int code = need_reason(c, &reason);
    if (code == CLI_OK)
        code = cli_need_org(c);
    if (code == CLI_OK && MT_STREQ(verb, "suspend"))
        code = cli_confirm(c, "organisation", c->org);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/%s", c->org_id, verb);
    return send(c, "POST", path, json_pack("{s:s}", "reason", reason), "Org");
}

int cmd_admin_orgs_suspend(struct cli *c)
{
    return switch_org(c, "suspend");
}

int cmd_admin_orgs_resume(struct cli *c)
{
    return switch_org(c, "resume");
}

int cmd_admin_maintenance(struct cli *c)
{
    return cli_show_object(c, strdup("/v1/admin/maintenance"), "Maintenance");
}

static int maintain(struct cli *c, bool on)
{
    const char *reason;
    int code = need_reason(c, &reason);
    if (code != CLI_OK)
        return code;
    return send(c, "POST", "/v1/admin/maintenance", json_pack("{s:b,s:s}", "on", on, "reason", reason), "Maintenance");
}

int cmd_admin_maintenance_on(struct cli *c)
{
    return maintain(c, true);
}

int cmd_admin_maintenance_off(struct cli *c)
{
    return maintain(c, false);
}
