/* SPDX-License-Identifier: Apache-2.0 */
/* moat admin status: the platform in one look, one line for each thing that an operator answers for. */
#include "cli/cli.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/str.h"

#include <inttypes.h>

#define GIB (1024.0 * 1024.0 * 1024.0)
#define SUMMARY_MAX 400

/* Says of @j, the answer of an area's route, what there is to know; true when nothing has to be done. */
typedef bool judge_fn(const json_t *j, char *summary, size_t size);

static bool judge_version(const json_t *j, char *summary, size_t size)
{
    (void)snprintf(summary, size, "version %s", cli_str(j, "server_version"));
    return true;
}

static bool judge_maintenance(const json_t *j, char *summary, size_t size)
{
    bool on = json_is_true(json_object_get(j, "on"));
    (void)snprintf(summary, size, "%s%s%s%s", on ? "on since " : "off", on ? cli_str(j, "changed_at") : "", on ? ": " : "", on ? cli_str(j, "reason") : "");
    return !on;
}

static bool judge_recovery(const json_t *j, char *summary, size_t size)
{
    const char *state = cli_str(j, "state");
    bool none = MT_STREQ(state, "none");
    if (none)
        (void)snprintf(summary, size, "none; the log's epoch is %" PRId64, cli_int(j, "epoch"));
    else
        (void)snprintf(summary, size, "%s: %s; moat admin recovery plan", state, cli_str(j, "reason"));
    return none;
}

static bool judge_views(const json_t *items, char *summary, size_t size)
{
    int64_t head = 0, behind = 0;
    size_t i, live = 0, asked = 0, failed = 0;
    const json_t *v;
    json_array_foreach(items, i, v)
    {
        int64_t lag = cli_int(v, "head_event_id") - cli_int(v, "last_applied_event_id");
        head = cli_int(v, "head_event_id");
        live += MT_STREQ(cli_str(v, "state"), "live");
        failed += MT_STREQ(cli_str(v, "state"), "failed") || *cli_str(v, "rebuild.failed");
        asked += json_is_object(cli_member(v, "rebuild"));
        behind = lag > behind && !MT_STREQ(cli_str(v, "state"), "live") ? lag : behind;
    }
    (void)snprintf(summary, size, "%zu of %zu live, %zu being rebuilt, %zu failed; the log ends with event %" PRId64, live, json_array_size(items), asked, failed, head);
    return failed == 0 && live == json_array_size(items) && behind == 0;
}

static bool judge_nodes(const json_t *items, char *summary, size_t size)
{
    size_t i, active = 0, ready = 0, conditions = 0, gone = 0, waiting = 0;
    const json_t *n;
    json_array_foreach(items, i, n)
    {
        const char *state = cli_str(n, "admin_state");
        gone += MT_STREQ(state, "disabled") || MT_STREQ(state, "removed");
        waiting += MT_STREQ(state, "pending_approval") || MT_STREQ(state, "enrolled");
        active += MT_STREQ(state, "active");
        ready += MT_STREQ(state, "active") && MT_STREQ(cli_str(n, "health"), "ready");
        conditions += json_array_size(json_object_get(n, "conditions")) > 0;
    }
    (void)snprintf(summary, size, "%zu of %zu active, %zu of these ready, %zu with a condition, %zu waiting to be let in", active, json_array_size(items) - gone, ready,
                   conditions, waiting);
    return active > 0 && ready == active && conditions == 0 && waiting == 0;
}

static bool judge_capacity(const json_t *j, char *summary, size_t size)
{
    int64_t left = cli_int(j, "headroom_memory_bytes");
    bool alone = !*cli_str(j, "worst_node_id");
    int n = snprintf(summary, size, "%.1f of %.1f GiB of memory promised", (double)cli_int(j, "used.memory_bytes") / GIB, (double)cli_int(j, "allocatable.memory_bytes") / GIB);
    if (!alone && n > 0 && (size_t)n < size)
        (void)snprintf(summary + n, size - (size_t)n, left >= 0 ? "; %.1f GiB left after the loss of the worst node" : "; %.1f GiB missing after the loss of the worst node",
                       (double)(left < 0 ? -left : left) / GIB);
    return alone || left >= 0;
}

static bool judge_scheduler(const json_t *j, char *summary, size_t size)
{
    bool paused = json_is_true(json_object_get(j, "paused"));
    const char *leader = cli_str(j, "leader.holder");
    int64_t blocked = cli_int(j, "groups.blocked"), held = cli_int(j, "groups.held");
    (void)snprintf(summary, size, "%s%s; leader %s; groups: %" PRId64 " ok, %" PRId64 " blocked, %" PRId64 " held", paused ? "paused: " : "runs", paused ? cli_str(j, "reason") : "",
                   *leader ? leader : "none", cli_int(j, "groups.ok"), blocked, held);
    return !paused && *leader && blocked == 0 && held == 0;
}

static bool judge_backups(const json_t *items, char *summary, size_t size)
{
    size_t i, on = 0, stale = 0, away = 0;
    const json_t *v;
    json_array_foreach(items, i, v)
    {
        on += json_is_true(json_object_get(v, "backup_enabled"));
        stale += json_is_true(json_object_get(v, "backup_stale"));
        away += json_is_false(json_object_get(v, "reachable"));
    }
    (void)snprintf(summary, size, "%zu, %zu with backups, %zu of these stale, %zu not reachable", json_array_size(items), on, stale, away);
    return stale == 0 && away == 0;
}

static bool judge_keys(const json_t *j, char *summary, size_t size)
{
    const json_t *keys = json_object_get(j, "keys"), *k;
    const char *problem = cli_str(j, "problem");
    size_t i, missing = 0;
    json_array_foreach(keys, i, k)
        missing += MT_STREQ(cli_str(k, "state"), "missing");
    (void)snprintf(summary, size, "%zu, %zu missing%s%s", json_array_size(keys), missing, *problem ? "; " : "", problem);
    return missing == 0 && !*problem;
}

static const struct {
    const char *name, *path;
    bool list;
    judge_fn *judge;
} areas[] = {
    {"server", "/v1/capabilities", false, judge_version},
    {"maintenance", "/v1/admin/maintenance", false, judge_maintenance},
    {"recovery", "/v1/admin/recovery", false, judge_recovery},
    {"views", "/v1/admin/projections", true, judge_views},
    {"nodes", "/v1/nodes", true, judge_nodes},
    {"capacity", "/v1/admin/capacity", false, judge_capacity},
    {"scheduler", "/v1/admin/scheduler", false, judge_scheduler},
    {"volumes", "/v1/admin/volumes", true, judge_backups},
    {"master keys", "/v1/admin/keys", false, judge_keys},
};

int cmd_admin_status(struct cli *c)
{
    static const struct cli_column cols[] = {{"AREA", "area"}, {"STATE", "state"}, {"WHAT", "summary"}};
    mt_auto_json json_t *rows = json_array();
    bool all = true;
    for (size_t i = 0; i < MT_ARRAY_LEN(areas); i++) {
        mt_auto_json json_t *j = NULL;
        char summary[SUMMARY_MAX], tame[SUMMARY_MAX];
        int code = areas[i].list ? cli_list(c, areas[i].path, &j) : cli_call(c, "GET", areas[i].path, NULL, &j);
        if (code != CLI_OK)
            return code;
        bool ok = areas[i].judge(j, summary, sizeof summary);
        const char *text = mt_printable(summary, strlen(summary), tame, sizeof tame); /* a reason may have been cut within a letter */
        all = all && ok;
        if (json_array_append_new(rows, json_pack("{s:s,s:s,s:b,s:s}", "area", areas[i].name, "state", ok ? "ok" : "look", "ok", ok, "summary", text)) < 0)
            return cli_error(c, CLI_FAILURE, "out of memory", NULL);
    }
    if (!c->json)
        return cli_print_table(c, rows, cols, MT_ARRAY_LEN(cols), "areas");
    mt_auto_json json_t *data = json_pack("{s:b,s:O}", "ok", all, "areas", rows);
    return data ? cli_print_object(c, "PlatformStatus", data) : cli_error(c, CLI_FAILURE, "out of memory", NULL);
}
