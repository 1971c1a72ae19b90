/* SPDX-License-Identifier: Apache-2.0 */
/* The audit log: who did what, who was refused, and whether the chain still holds. */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"

#include <inttypes.h>

/* "2026-01-31T00:00:00Z" as it is, "90m" as the time so long ago. */
static int put_time(struct cli *c, struct mt_buf *q, const char *option)
{
    const char *v = cli_opt(c, option);
    char ts[MT_RFC3339_LEN];
    int64_t us, ms;
    struct mt_err err;
    if (!v)
        return CLI_OK;
    if (mt_rfc3339_parse(v, &us, &err) < 0) {
        if (cli_parse_duration(v, &ms, &err) < 0)
            return cli_usage(c, "--%s: an RFC 3339 time, or a time span such as 90m", option);
        us = mt_clock_wall_us() - ms * 1000;
    }
    mt_rfc3339(us, ts);
    mt_buf_printf(q, "&%s=%s", option, ts);
    return CLI_OK;
}

static int show(struct cli *c, const char *path, const char *chain)
{
    static const struct cli_column cols[] = {{"TIME", "ts"},           {"ACTOR", "actor_id"},   {"ACTION", "action"},
                                             {"RESOURCE", "resource_id"}, {"DECISION", "decision"}, {"RESULT", "outcome"},
                                             {"EVENT", "event_id"},    {"FROM", "source_ip"}};
    uint64_t lines = 50;
    struct mt_err err;
    mt_auto_buf struct mt_buf q = MT_BUF_INIT(2000);
    if (cli_has(c, "lines") && mt_parse_u64(cli_opt(c, "lines"), 1, 200, &lines, &err) < 0)
        return cli_usage(c, "--lines: %s", err.msg);
    mt_buf_printf(&q, "%s?limit=%" PRIu64 "%s", path, lines, chain);
    int code = put_time(c, &q, "since");
    if (code == CLI_OK)
        code = put_time(c, &q, "until");
    if (code != CLI_OK)
        return code;
    cli_put_filter(c, &q, "actor", "actor");
    cli_put_filter(c, &q, "action", "action");
    cli_put_filter(c, &q, "resource", "resource");
    if (cli_has(c, "denied"))
        mt_buf_puts(&q, "&decision=deny");
    mt_auto_json json_t *j = NULL;
    if ((code = cli_call(c, "GET", mt_buf_cstr(&q), NULL, &j)) != CLI_OK)
        return code;
    json_t *items = json_object_get(j, "items"), *a;
    size_t i;
    if (c->json)
        return cli_print_list(c, items);
    json_array_foreach(items, i, a)
    {
        const char *failed = cli_str(a, "error_code");
        (void)json_object_set_new(a, "outcome", json_string(*failed ? failed : cli_str(a, "result")));
    }
    return cli_print_table(c, items, cols, sizeof cols / sizeof cols[0], "audit records");
}

static int verify(struct cli *c, const char *path)
{
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", path, NULL, &j);
    if (code != CLI_OK)
        return code;
    bool ok = json_is_true(json_object_get(j, "ok"));
    json_t *chains = json_object_get(j, "chains"), *v;
    size_t i;
    if (c->json) {
        code = cli_print_object(c, "AuditVerdict", j);
        return code != CLI_OK ? code : ok ? CLI_OK : CLI_FAILURE;
    }
    json_array_foreach(chains, i, v)
    {
        if (!cli_member(v, "bad")) {
            (void)printf("%s: %" PRId64 " records hold, the last is %" PRId64 ", hash %s\n", cli_str(v, "chain"), cli_int(v, "records"),
                         cli_int(v, "head_seq"), cli_str(v, "head_hash"));
            continue;
        }
        (void)printf("%s: record %" PRId64 " %s%s%s\n", cli_str(v, "chain"), cli_int(v, "bad.seq"), cli_str(v, "bad.audit_id"),
                     *cli_str(v, "bad.audit_id") ? ": " : "", cli_str(v, "bad.what"));
    }
    if (json_array_size(chains) == 0)
        cli_say(c, "no audit records");
    return ok ? CLI_OK
              : cli_error(c, CLI_FAILURE, "the audit log was altered",
                          "keep the database as it is and compare with a backup from before that record");
}

int cmd_audit(struct cli *c)
{
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/audit", c->org_id);
    return show(c, path, "");
}

int cmd_audit_verify(struct cli *c)
{
    char path[200];
    int code = cli_need_org(c);
    if (code != CLI_OK)
        return code;
    (void)snprintf(path, sizeof path, "/v1/orgs/%s/audit/verify", c->org_id);
    return verify(c, path);
}

int cmd_admin_audit(struct cli *c)
{
    return show(c, "/v1/admin/audit", cli_has(c, "all") ? "" : "&chain=platform");
}

int cmd_admin_audit_verify(struct cli *c)
{
    return verify(c, "/v1/admin/audit/verify");
}
