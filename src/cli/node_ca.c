/* SPDX-License-Identifier: Apache-2.0 */
/* The authority that signs nodes' certificates, for operators: how far its rotation is, and the next step. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

static int show(struct cli *c, json_t *r)
{
    static const struct cli_column authorities[] = {{"AUTHORITY", "role"}, {"ENDS", "ends_at"}, {"PIN", "pin"}};
    static const struct cli_column nodes[] = {{"NODE", "name"}, {"ID", "node_id"}, {"TRUSTS", "trusts"}, {"RENEWED", "renewed"}, {"HEARD", "last_heartbeat_at"}};
    if (c->json)
        return cli_print_object(c, "NodeCa", r);
    cli_tame(r);
    const char *phase = cli_str(r, "phase");
    long long waiting = (long long)cli_int(r, "waiting");
    if (MT_STREQ(phase, "steady"))
        cli_say(c, "one authority, nothing under way");
    else if (waiting)
        cli_say(c, "%s since %s: %lld node%s", phase, cli_str(r, "since"), waiting,
                MT_STREQ(phase, "prepared") ? waiting == 1 ? " does not trust the new one yet" : "s do not trust the new one yet"
                                            : waiting == 1 ? " has no certificate of the new one yet" : "s have no certificate of the new one yet");
    else
        cli_say(c, "%s since %s: every node is there; next: moat admin node-ca %s", phase, cli_str(r, "since"), MT_STREQ(phase, "prepared") ? "switch" : "retire");
    int code = cli_print_table(c, json_object_get(r, "authorities"), authorities, MT_ARRAY_LEN(authorities), "authorities");
    return code != CLI_OK ? code : cli_print_table(c, json_object_get(r, "nodes"), nodes, MT_ARRAY_LEN(nodes), "nodes of other machines");
}

int cmd_admin_node_ca_show(struct cli *c)
{
    mt_auto_json json_t *r = NULL;
    int code = cli_call(c, "GET", "/v1/admin/node-ca", NULL, &r);
    return code != CLI_OK ? code : show(c, r);
}

static int step(struct cli *c, const char *word, const char *ask)
{
    mt_auto_json json_t *r = NULL;
    const char *reason = cli_opt(c, "reason");
    if (!reason || !*reason)
        return cli_usage(c, "--reason is needed: it is kept in the audit log");
    int code = cli_connect(c);
    if (code == CLI_OK && ask)
        code = cli_confirm(c, "trust in the", ask);
    mt_auto_json json_t *body = json_pack("{s:s,s:s,s:b}", "step", word, "reason", reason, "force", cli_has(c, "force"));
    if (code == CLI_OK)
        code = body ? cli_call(c, "POST", "/v1/admin/node-ca", body, &r) : cli_usage(c, "--reason is not UTF-8");
    return code != CLI_OK ? code : show(c, r);
}

int cmd_admin_node_ca_prepare(struct cli *c)
{
    return step(c, "prepare", NULL);
}

int cmd_admin_node_ca_switch(struct cli *c)
{
    return step(c, "switch", NULL);
}

int cmd_admin_node_ca_retire(struct cli *c)
{
    return step(c, "retire", "replaced authority");
}

int cmd_admin_node_ca_abort(struct cli *c)
{
    return step(c, "abort", NULL);
}
