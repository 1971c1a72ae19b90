/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A volume whose node is lost: its last backup becomes a new volume elsewhere and takes its place (storage-and-secrets.md §5.3). What was written since that
 * backup is gone, so the moment has to be named by whoever decides; the fence is the operator's word that the machine is off (moat node mark-lost),
 * which the control plane asks for again when the place changes hands. And proofs that somebody asks for.
 */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/str.h"

/* Seconds as "2 d 3 h", "3 h 12 min", "5 min", "40 s". */
static void span(int64_t s, char ret[48])
{
    if (s >= 86400)
        (void)snprintf(ret, 48, "%lld d %lld h", (long long)(s / 86400), (long long)(s % 86400 / 3600));
    else if (s >= 3600)
        (void)snprintf(ret, 48, "%lld h %lld min", (long long)(s / 3600), (long long)(s % 3600 / 60));
    else
        (void)snprintf(ret, 48, s >= 60 ? "%lld min" : "%lld s", (long long)(s >= 60 ? s / 60 : s));
}

/* The node is known to be off, and there is something to go back to. */
static int check_lost(struct cli *c, const json_t *v)
{
    char what[240], mend[120];
    const char *node = cli_str(v, "home_node_id"), *name = cli_str(v, "name");
    if (json_is_true(json_object_get(v, "node_lost"))) {
        if (*cli_str(v, "last_backup_snapshot_id"))
            return CLI_OK;
        (void)snprintf(what, sizeof what, "volume '%.40s' has no backup: its data are on node %.40s alone", name, node);
        return cli_error(c, CLI_CONFLICT, what, "when that machine comes back, moat node approve takes it in again, its volumes too");
    }
    if (json_is_true(json_object_get(v, "reachable"))) {
        (void)snprintf(what, sizeof what, "node %.40s is there, nothing of volume '%.40s' is lost", node, name);
        (void)snprintf(mend, sizeof mend, "moat volumes restore %.40s goes back to a backup", name);
        return cli_error(c, CLI_CONFLICT, what, mend);
    }
    (void)snprintf(what, sizeof what, "node %.40s is silent and may run the process on volume '%.40s' still; an operator makes sure that it is powered off", node, name);
    (void)snprintf(mend, sizeof mend, "moat node mark-lost %.40s --reason TEXT", node);
    return cli_error(c, CLI_CONFLICT, what, mend);
}

/* Nobody gives up data that were not told to him. */
static int check_accepted(struct cli *c, const json_t *v)
{
    const char *since = cli_str(v, "last_backup_at"), *said = cli_opt(c, "accept-loss-since");
    char what[240], again[160], age[48];
    if (said && MT_STREQ(said, since))
        return CLI_OK;
    span(cli_int(v, "backup_lag_seconds"), age);
    (void)snprintf(what, sizeof what, "%swhat was written to volume '%.40s' since its last backup is lost: since %.40s, %s ago", said ? "that is not its moment; " : "",
                   cli_str(v, "name"), since, age);
    (void)snprintf(again, sizeof again, "moat volumes recover %.40s --accept-loss-since %.40s", cli_str(v, "name"), since);
    return cli_error(c, CLI_CONFLICT, what, again);
}

int cmd_volumes_recover(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    const char *node = cli_opt(c, "to-node");
    int code = node ? cli_check_id(c, node, "node_", "moat nodes") : CLI_OK;
    if (code == CLI_OK)
        code = cli_volume(c, c->argv[0], &items, &v);
    if (code == CLI_OK)
        code = check_lost(c, v);
    if (code == CLI_OK)
        code = check_accepted(c, v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s,s:s*}", "accept_loss_since", cli_opt(c, "accept-loss-since"), "node_id", node);
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/recover", cli_str(v, "id"));
    code = body ? cli_call(c, "POST", path, body, &r) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (!c->json && !c->quiet)
        cli_say(c, "into the new volume %s on node %s", cli_str(r, "new_volume_id"), cli_str(r, "target_node_id"));
    if (json_object_get(v, "attachment"))
        return cli_restored_replace(c, cli_str(v, "id"), r);
    /* no process had it: there is no place to change hands */
    return cli_wait_kind(c, cli_kind_of("restore"), cli_str(r, "id"), "succeeded");
}

int cmd_volumes_verify(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s*}", "snapshot_id", cli_opt(c, "snapshot"));
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/verify", cli_str(v, "id"));
    code = body ? cli_call(c, "POST", path, body, &r) : cli_usage(c, "--snapshot is not UTF-8");
    if (code != CLI_OK)
        return code;
    return cli_wants_wait(c) ? cli_wait_kind(c, cli_kind_of("restore"), cli_str(r, "id"), "succeeded") : cli_receipt(c, "restore", r);
}
