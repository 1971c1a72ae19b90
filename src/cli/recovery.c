/* SPDX-License-Identifier: Apache-2.0 */
/* After the database was restored to an older point: what runs beside what the log knows, apply, finish (docs/recovery.md). */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

static const char *text(const json_t *o, const char *key)
{
    const char *v = json_string_value(json_object_get(o, key));
    return v ? v : "";
}

static int64_t number(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

int cmd_admin_recovery_plan(struct cli *c)
{
    static const struct cli_column cols[] = {{"ACTION", "action"}, {"INSTANCE", "instance_id"}, {"NODE", "node_id"},
                                             {"REPORTED", "reported"}, {"WANTED", "wanted"}, {"ADDRESS", "address"}};
    mt_auto_json json_t *j = NULL;
    int code = cli_call(c, "GET", "/v1/admin/recovery", NULL, &j);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_object(c, "Recovery", j);
    const json_t *n = json_object_get(j, "counts");
    bool none = MT_STREQ(text(j, "state"), "none");
    printf("state   %s, epoch %" PRId64 ", the log ends with event %" PRId64 "\n", text(j, "state"), number(j, "epoch"), number(j, "head_event_id"));
    if (none)
        return CLI_OK;
    printf("why     %s\n", text(j, "reason"));
    printf("adopt   %" PRId64 " run and are known\nstart   %" PRId64 " shall run and do not\nstop    %" PRId64 " run and shall not\n"
           "ignore  %" PRId64 " run and are not known: they go on until finish\nunknown %" PRId64 " shall run, their node has not told yet\n",
           number(n, "adopt"), number(n, "start"), number(n, "stop"), number(n, "ignore"), number(n, "unknown"));
    code = cli_print_table(c, json_object_get(j, "items"), cols, sizeof cols / sizeof cols[0], "instances");
    if (code == CLI_OK)
        cli_say(c, "next: moat admin recovery %s --reason TEXT", MT_STREQ(text(j, "state"), "frozen") ? "apply" : "finish");
    return code;
}

static int decide(struct cli *c, const char *path)
{
    mt_auto_json json_t *j = NULL;
    const char *reason = cli_opt(c, "reason");
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the log and in the audit log");
    mt_auto_json json_t *body = json_pack("{s:s}", "reason", reason);
    int code = cli_call(c, "POST", path, body, &j);
    if (code != CLI_OK)
        return code;
    return c->json ? cli_print_object(c, "RecoveryDecision", j) : cli_print_fields(c, j);
}

int cmd_admin_recovery_apply(struct cli *c)
{
    return decide(c, "/v1/admin/recovery/apply");
}

int cmd_admin_recovery_finish(struct cli *c)
{
    return decide(c, "/v1/admin/recovery/finish");
}
