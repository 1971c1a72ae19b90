/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of volumes, which are their backups: made, listed, deleted; and how every volume stands with them. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

/* To the second: a table is wide enough without its fraction. */
static void put_time(json_t *obj, const char *as, const char *time, const char *unless)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%.19sZ", time);
    (void)json_object_set_new(obj, as, json_string(*time ? text : unless));
}

void cli_put_backup(json_t *volume)
{
    char lag[40] = "unknown";
    bool on = !json_is_false(json_object_get(volume, "backup_enabled"));
    const char *last = cli_str(volume, "last_backup_at"), *proven = cli_str(volume, "last_proven_restore_at");
    if (cli_member(volume, "backup_lag_seconds")) {
        int64_t s = cli_int(volume, "backup_lag_seconds");
        const char *stale = json_is_true(json_object_get(volume, "backup_stale")) ? ", stale" : "";
        if (s < 3600)
            (void)snprintf(lag, sizeof lag, "%" PRId64 "m%s", s / 60, stale);
        else if (s < 48 * 3600)
            (void)snprintf(lag, sizeof lag, "%" PRId64 "h%" PRId64 "m%s", s / 3600, s / 60 % 60, stale);
        else
            (void)snprintf(lag, sizeof lag, "%" PRId64 "d%" PRId64 "h%s", s / 86400, s / 3600 % 24, stale);
    }
    put_time(volume, "last", last, on ? "never" : "off");
    (void)json_object_set_new(volume, "lag", json_string(lag));
    put_time(volume, "proven", proven, "unknown");
    const json_t *proof = json_object_get(volume, "last_proof");
    bool bad = proof && !MT_STREQ(cli_str(proof, "result"), "ok"), stale = json_is_true(json_object_get(volume, "proof_stale"));
    if (stale || bad) {
        char text[160];
        const char *why = cli_str(proof, "failed_reason");
        (void)snprintf(text, sizeof text, "%.60s%s%s%.70s", cli_str(volume, "proven"), stale ? ", stale" : "", bad ? ", last one: " : "", bad ? why : "");
        (void)json_object_set_new(volume, "proven", json_string(text));
    }
}

/* What the newest job is at, in one word or two. */
static void put_job(json_t *volume)
{
    const json_t *s = json_object_get(volume, "latest_snapshot");
    const char *status = cli_str(s, "status"), *more = MT_STREQ(status, "failed") ? cli_str(s, "failed_reason") : cli_str(s, "phase");
    char text[120];
    (void)snprintf(text, sizeof text, "%.40s%s%.70s", *status ? status : "none", *more ? ": " : "", more);
    (void)json_object_set_new(volume, "job", json_string(text));
}

/* When what nobody keeps was last taken out of the store, or why that fails. */
static void put_collected(json_t *volume)
{
    char text[100];
    put_time(volume, "collected", cli_str(volume, "collected_at"), "not yet");
    if (!*cli_str(volume, "collect_failed"))
        return;
    (void)snprintf(text, sizeof text, "failed: %.80s", cli_str(volume, "collect_failed"));
    (void)json_object_set_new(volume, "collected", json_string(text));
}

static void put_size(json_t *obj, const char *member, const char *as)
{
    char text[40] = "";
    if (cli_member(obj, member))
        (void)snprintf(text, sizeof text, "%.1f MiB", (double)cli_int(obj, member) / (1 << 20));
    (void)json_object_set_new(obj, as, json_string(text));
}

int cmd_backups_status(struct cli *c)
{
    bool all = cli_has(c, "all");
    int code = all ? cli_need_org(c) : cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = all ? mt_asprintf("/v1/orgs/%s/volumes", c->org_id) : cli_env_path(c, "/volumes");
    mt_auto_json json_t *items = NULL;
    code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    for (size_t i = json_array_size(items); cli_has(c, "stale") && i-- > 0;)
        if (!json_is_true(json_object_get(json_array_get(items, i), "backup_stale")))
            (void)json_array_remove(items, i);
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *v;
    json_array_foreach(items, i, v)
    {
        cli_put_backup(v);
        put_job(v);
        put_collected(v);
    }
    static const struct cli_column cols[] = {{"ID", "id"},           {"NAME", "name"},   {"LAST BACKUP", "last"}, {"LAG", "lag"},
                                             {"NEWEST JOB", "job"}, {"PROVEN", "proven"}, {"COLLECTED", "collected"}, {"NODE", "home_node_id"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), cli_has(c, "stale") ? "volumes with a stale backup" : "volumes");
}

int cmd_snapshots_list(struct cli *c)
{
    const json_t *volume = NULL;
    mt_auto_json json_t *volumes = NULL, *items = NULL;
    int code = c->argc ? cli_volume(c, c->argv[0], &volumes, &volume) : cli_need_env(c);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = volume ? cli_env_path(c, "/volumes/%s/snapshots", cli_str(volume, "id")) : cli_env_path(c, "/snapshots");
    code = path ? cli_list(c, path, &items) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
    if (code != CLI_OK)
        return code;
    if (c->json)
        return cli_print_list(c, items);
    size_t i;
    json_t *s;
    json_array_foreach(items, i, s)
    {
        put_size(s, "uploaded_bytes", "uploaded");
        put_time(s, "captured", cli_str(s, "captured_at"), "");
    }
    static const struct cli_column cols[] = {{"ID", "id"},           {"VOLUME", "volume_id"},      {"ORIGIN", "origin"}, {"STATUS", "status"},
                                             {"PHASE", "phase"},    {"REASON", "failed_reason"},  {"CAPTURED", "captured"},
                                             {"UPLOADED", "uploaded"}, {"NOTE", "note"}};
    return cli_print_table(c, items, cols, MT_ARRAY_LEN(cols), "snapshots");
}

int cmd_snapshots_create(struct cli *c)
{
    const json_t *v = NULL;
    mt_auto_json json_t *items = NULL, *r = NULL;
    int code = cli_volume(c, c->argv[0], &items, &v);
    if (code != CLI_OK)
        return code;
    mt_auto_json json_t *body = json_pack("{s:s*}", "note", cli_opt(c, "note"));
    if (!body)
        return cli_usage(c, "--note is not UTF-8");
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/snapshots", cli_str(v, "id"));
    code = cli_call(c, "POST", path, body, &r);
    if (code != CLI_OK)
        return code;
    return cli_wants_wait(c) ? cli_wait_kind(c, cli_kind_of("snapshot"), cli_str(r, "id"), "succeeded") : cli_receipt(c, "snapshot", r);
}

int cmd_snapshots_get(struct cli *c)
{
    int code = cli_check_id(c, c->argv[0], "snap_", "moat snapshots");
    if (code == CLI_OK)
        code = cli_need_env(c);
    return code == CLI_OK ? cli_show_object(c, cli_env_path(c, "/snapshots/%s", c->argv[0]), "Snapshot") : code;
}

int cmd_snapshots_delete(struct cli *c)
{
    const char *id = c->argv[0];
    mt_auto_json json_t *s = NULL, *r = NULL;
    int code = cli_get_kind(c, cli_kind_of("snapshot"), id, &s);
    if (code == CLI_OK)
        code = cli_confirm(c, "snapshot", id);
    if (code != CLI_OK)
        return code;
    mt_auto_free char *path = cli_env_path(c, "/volumes/%s/snapshots/%s", cli_str(s, "volume_id"), id);
    code = cli_call(c, "DELETE", path, NULL, &r);
    if (code != CLI_OK)
        return code;
    if (c->json) {
        mt_auto_json json_t *about = json_copy(s);
        (void)json_object_update(about, r);
        mt_auto_json json_t *doc = cli_receipt_json(c, "snapshot", "snapshot.delete", about);
        return cli_print_line(c, doc);
    }
    cli_say(c, "snapshot %s is deleted%s", id, MT_STREQ(cli_str(s, "status"), "queued") || MT_STREQ(cli_str(s, "status"), "running") ? "; its job is cancelled" : "");
    return CLI_OK;
}
