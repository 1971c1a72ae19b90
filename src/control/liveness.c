/* SPDX-License-Identifier: Apache-2.0 */
/* The liveness monitor: silence, conditions, and the guard against taking our own outage for theirs. */
#include "control/liveness.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <stdlib.h>

struct seen {
    int64_t heartbeat_us; /* last one counted */
    unsigned clean;
};

static const struct mt_pg_stmt look = {
    "liveness_look",
    "SELECT n.node_id, n.health, n.resource_version, n.admin_state, h.received_at, h.body,"
    " (extract(epoch FROM clock_timestamp() - coalesce(h.received_at, n.created_at)) * 1000)::bigint AS silence_ms,"
    " array_to_string(n.conditions, ',') AS conditions FROM nodes_view n LEFT JOIN moat.node_heartbeats h USING (node_id)"
    " WHERE NOT n.deleted AND n.admin_state NOT IN ('disabled', 'removed') ORDER BY n.node_id"};

void mt_liveness_init(struct mt_liveness *l, int64_t now_ns)
{
    uint64_t seed;
    mt_random(&seed, sizeof seed);
    *l = (struct mt_liveness){.leader_since_ns = now_ns};
    mt_map_init(&l->nodes, seed);
}

void mt_liveness_done(struct mt_liveness *l)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&l->nodes, &pos, NULL, &v))
        free(v);
    mt_map_done(&l->nodes);
}

/* The driver as the operator's list names it: "qemu-tcg", "firecracker". */
static void driver_word(const json_t *body, char ret[32], bool *probing)
{
    const json_t *vmm = json_object_get(body, "vmm");
    const char *driver = json_string_value(json_object_get(vmm, "driver")), *accel = json_string_value(json_object_get(vmm, "accel"));
    *probing = driver && MT_STREQ(driver, "probing");
    if (driver && MT_STREQ(driver, "qemu"))
        snprintf(ret, 32, "qemu-%s", accel ? accel : "tcg");
    else
        snprintf(ret, 32, "%s", driver ? driver : "none");
}

/* All conditions of a node: its own, and those only we can tell. */
static json_t *conditions(const struct mt_control *ctl, const json_t *body)
{
    json_t *list = json_array(), *own = json_object_get(body, "conditions"), *v;
    size_t i;
    char word[32];
    bool allowed = false, probing;
    json_array_foreach (own, i, v)
        json_array_append(list, v);
    driver_word(body, word, &probing);
    for (i = 0; i < ctl->conf.vmm_allowed.n; i++)
        allowed = allowed || MT_STREQ(ctl->conf.vmm_allowed.v[i], word);
    if (probing && json_array_size(list) == 0)
        json_array_append_new(list, json_string("vmm_unavailable"));
    if (!allowed && !probing)
        json_array_append_new(list, json_string("vmm_not_allowed"));
    return list;
}

/* The recorded conditions are those of an agent that starts or stops as it was told to: no fault that could come back, so the
 * first clean heartbeat ends them. */
static bool passing(const char *have)
{
    static const char *const own[] = {"probing", "stopping"};
    while (*have) {
        size_t n = strcspn(have, ",");
        bool found = false;
        for (size_t i = 0; i < MT_ARRAY_LEN(own); i++)
            found = found || (strlen(own[i]) == n && memcmp(own[i], have, n) == 0);
        if (!found)
            return false;
        have += n + (have[n] == ',');
    }
    return true;
}

static struct seen *remember(struct mt_liveness *l, const char *id)
{
    struct seen *s = mt_map_get(&l->nodes, id);
    if (s)
        return s;
    s = calloc(1, sizeof *s);
    if (s && mt_map_put(&l->nodes, id, s) < 0) {
        free(s);
        s = NULL;
    }
    return s;
}

static void joined(const json_t *list, char *ret, size_t size)
{
    size_t i, o = 0;
    json_t *v;
    ret[0] = 0;
    json_array_foreach (list, i, v)
        if (o < size)
            o += (size_t)snprintf(ret + o, size - o, "%s%s", i ? "," : "", json_string_value(v) ? json_string_value(v) : "");
}

/* More than half of the nodes (and at least 2) silent: rather our own network than theirs. A node that was never heard says nothing. */
static int mass_failure(struct mt_liveness *l, const struct mt_control *ctl, const struct mt_pg_res *r, bool *ret, struct mt_err *err)
{
    int rows = mt_pg_rows(r), health = mt_pg_col(r, "health"), silence = mt_pg_col(r, "silence_ms"), body = mt_pg_col(r, "body");
    size_t n = 0;
    struct mt_liveness_silence *nodes = calloc((size_t)rows + 1, sizeof *nodes);
    if (!nodes)
        return MT_FAIL(err, MT_E_NOMEM, "liveness");
    for (int i = 0; i < rows; i++)
        if (mt_pg_text_or_null(r, i, body))
            nodes[n++] = (struct mt_liveness_silence){mt_pg_text(r, i, health), mt_pg_i64(r, i, silence)};
    *ret = mt_liveness_mass(nodes, n, (int64_t)ctl->conf.suspect_seconds * 1000, (int64_t)ctl->conf.offline_seconds * 1000);
    free(nodes);
    if (*ret != l->held)
        mt_log(*ret ? MT_ERROR : MT_WARN, *ret ? "liveness.mass_failure_held" : "liveness.mass_failure_over", KV("nodes", (int64_t)n));
    l->held = *ret;
    return 0;
}

/* Why a degraded node takes nothing new, when its host is what is wrong: what was found and the command that mends it. "" otherwise. */
static void host_reason(const json_t *body, char *ret, size_t size)
{
    const json_t *all = json_object_get(body, "host"), *o = json_array_get(all, 0);
    const char *finding = json_string_value(json_object_get(o, "finding")), *mend = json_string_value(json_object_get(o, "mend"));
    size_t more = json_array_size(all);
    char rest[32] = "";
    if (more > 1)
        snprintf(rest, sizeof rest, "; and %zu more", more - 1);
    if (finding && mend)
        snprintf(ret, size, "%.256s: on the node, %.512s%s", finding, mend, rest);
    else
        *ret = 0;
}

static int change(struct mt_control *ctl, const struct mt_pg_res *r, int row, const char *to, json_t *list, const json_t *body, int64_t lease,
                  struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "liveness", .request_id = "liveness"};
    const char *id = mt_pg_text(r, row, mt_pg_col(r, "node_id")), *from = mt_pg_text(r, row, mt_pg_col(r, "health"));
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids none = {0};
    struct mt_cmd_done done = {0};
    char reason[900];
    bool silent = MT_STREQ(to, "suspect") || MT_STREQ(to, "offline");
    if (silent)
        snprintf(reason, sizeof reason, "no heartbeat for %lld s", (long long)(mt_pg_i64(r, row, mt_pg_col(r, "silence_ms")) / 1000));
    else
        host_reason(MT_STREQ(to, "degraded") ? body : NULL, reason, sizeof reason);
    json_t *payload = json_pack("{s:s,s:s,s:O,s:s*}", "old", from, "new", to, "conditions", list, "reason", *reason ? reason : NULL);
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, MT_EV_NODE_HEALTH_CHANGED, id, &none, payload, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_NODE, id, NULL, mt_pg_i64(r, row, mt_pg_col(r, "resource_version")), err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    if (rc < 0 && done.end == MT_END_STALE)
        rc = 0; /* somebody changed the node meanwhile: look again in a second */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_WARN, "node.health", KV("node_id", id), KV("old", from), KV("new", to));
    return rc;
}

int mt_liveness_look(struct mt_control *ctl, struct mt_pg *pg, struct mt_liveness *l, int64_t lease, int64_t now_ns,
                     struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int moved = 0, rc = mt_pg_query(pg, &look, NULL, &r, err);
    if (rc < 0)
        return rc;
    bool grace = now_ns - l->leader_since_ns < (int64_t)ctl->conf.startup_grace_seconds * MT_NS_PER_S;
    bool mass = false;
    if ((rc = mass_failure(l, ctl, r, &mass, err)) < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const char *id = mt_pg_text(r, i, mt_pg_col(r, "node_id")), *health = mt_pg_text(r, i, mt_pg_col(r, "health"));
        const char *text = mt_pg_text_or_null(r, i, mt_pg_col(r, "body"));
        struct seen *s = remember(l, id);
        json_error_t je;
        mt_auto_json json_t *body = text ? json_loads(text, 0, &je) : NULL;
        if (!s || !body)
            continue; /* never seen: it keeps the health of its record */
        mt_auto_json json_t *list = conditions(ctl, body);
        char have[512], want[512];
        joined(list, want, sizeof want);
        snprintf(have, sizeof have, "%s", mt_pg_text(r, i, mt_pg_col(r, "conditions")));
        int64_t at = mt_pg_time_or(r, i, mt_pg_col(r, "received_at"), 0);
        if (at != s->heartbeat_us) {
            s->clean = json_array_size(list) == 0 ? s->clean + 1 : 0;
            s->heartbeat_us = at;
        }
        /* nobody listened before there was a leader: what a node missed then does not make it silent */
        int64_t silence = mt_pg_i64(r, i, mt_pg_col(r, "silence_ms")), led = (now_ns - l->leader_since_ns) / MT_NS_PER_MS;
        if ((MT_STREQ(health, "ready") || MT_STREQ(health, "degraded")) && silence > led)
            silence = led;
        struct mt_liveness_facts f = {.health = health,
                                      .silence_ms = silence,
                                      .conditions = json_array_size(list) > 0,
                                      .clean = s->clean,
                                      .was_passing = MT_STREQ(health, "degraded") && passing(have),
                                      .may_offline = !grace && !mass,
                                      .suspect_ms = (int64_t)ctl->conf.suspect_seconds * 1000,
                                      .offline_ms = (int64_t)ctl->conf.offline_seconds * 1000};
        const char *to = mt_liveness_health(&f);
        if (MT_STREQ(to, health) && (MT_STREQ(have, want) || MT_STREQ(to, "suspect") || MT_STREQ(to, "offline")))
            continue;
        if ((rc = change(ctl, r, i, to, list, body, lease, err)) < 0)
            return rc;
        moved++;
    }
    return moved;
}
