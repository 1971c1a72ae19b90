/* SPDX-License-Identifier: Apache-2.0 */
#include "control/ipv4/ipv4.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/log/append.h"
#include "control/log/history.h"
#include "control/nodes/node.h"
#include "model/plan.h"

#define LEASE "scheduler"

/* What an agent told of an address in its newest heartbeat; nothing in it is sure to be of the type that it should be. */
#define TOLD "(SELECT x FROM moat.node_heartbeats h, jsonb_array_elements(h.body->'ipv4') x" \
             " WHERE h.node_id = a.edge_node_id AND x->>'address' = a.ipv4_address LIMIT 1)"

/* An edge that posted within $1 seconds. */
#define HEARD(id) "EXISTS (SELECT 1 FROM moat.edge_heartbeats b WHERE b.node_id = " id " AND b.received_at > now() - make_interval(secs => $1::bigint))"

/* Allocations that need a carrier, each with the edge that has fewest: nobody carries it, its edge is gone or out of service, it or its node has
 * been silent ($2: we have listened long enough to say so), or the node cannot get the address after three tries. One that nobody else could
 * carry stays where it is. */
static const struct mt_pg_stmt homeless = {
    "ipv4_homeless",
    "SELECT a.allocation_id, a.ipv4_address, a.org_id, a.app_id, a.env_id, a.resource_version, a.edge_node_id, c.node_id,"
    " CASE WHEN a.edge_node_id IS NULL THEN 'enabled' WHEN n.node_id IS NULL OR n.admin_state NOT IN ('active', 'cordoned') OR " MT_SQL_EDGE_DRAINS("n") " THEN '" MT_IPV4_GONE "'"
    "  WHEN n.health IN ('suspect', 'offline', 'lost') OR NOT " HEARD("n.node_id") " THEN '" MT_IPV4_SILENT "' ELSE 'the edge cannot get the address' END"
    " FROM ipv4_allocations_view a LEFT JOIN nodes_view n ON n.node_id = a.edge_node_id AND NOT n.deleted"
    " CROSS JOIN LATERAL (SELECT e.node_id FROM nodes_view e WHERE NOT e.deleted AND 'edge' = ANY (e.roles) AND e.admin_state IN ('active', 'cordoned') AND NOT " MT_SQL_EDGE_DRAINS("e")
    "  AND e.health IN ('ready', 'degraded') AND e.node_id IS DISTINCT FROM a.edge_node_id AND " HEARD("e.node_id")
    "  ORDER BY (SELECT count(*) FROM ipv4_allocations_view o WHERE o.ended_at IS NULL AND o.edge_node_id = e.node_id), e.node_id COLLATE \"C\" LIMIT 1) c"
    " WHERE a.ended_at IS NULL AND (a.edge_node_id IS NULL OR n.node_id IS NULL OR n.admin_state NOT IN ('active', 'cordoned') OR " MT_SQL_EDGE_DRAINS("n")
    "  OR ($2 AND NOT " HEARD("n.node_id") ") OR (n.health IN ('suspect', 'offline', 'lost') AND NOT EXISTS (SELECT 1 FROM moat.node_heartbeats h"
    "   WHERE h.node_id = n.node_id AND h.received_at > now() - make_interval(secs => $1::bigint)))"
    "  OR (a.carrier_at < now() - interval '2 minutes' AND jsonb_typeof((" TOLD ")->'tries') = 'number' AND (" TOLD ")->'tries' >= '3'))"
    " ORDER BY a.allocation_id LIMIT 1"};

/* Hours that are over, and the last part of an allocation that ended, which were not cut yet. */
static const struct mt_pg_stmt uncut = {
    "ipv4_uncut",
    "SELECT a.allocation_id || '.' || to_char(t.h AT TIME ZONE 'UTC', 'YYYYMMDDHH24'), a.allocation_id, a.ipv4_address, a.org_id, a.app_id, a.env_id,"
    " " MT_SQL_TS("greatest(s.since, t.h)") ", " MT_SQL_TS("least(a.ended_at, t.h + interval '1 hour')") ","
    " (SELECT count(DISTINCT r.listen_port) FROM routes_view r WHERE r.env_id = a.env_id AND NOT r.deleted AND r.ipv4_required AND r.listen_port NOT IN (80, 443))"
    " FROM ipv4_allocations_view a CROSS JOIN LATERAL (SELECT coalesce((SELECT max(u.until) FROM usage_view u WHERE u.allocation_id = a.allocation_id),"
    "  a.created_at) AS since) s"
    " CROSS JOIN LATERAL generate_series(date_trunc('hour', s.since, 'UTC'), coalesce(a.ended_at, now()), interval '1 hour') t(h)"
    " WHERE s.since < coalesce(a.ended_at, now()) AND t.h < coalesce(a.ended_at, now()) AND (a.ended_at IS NOT NULL OR t.h + interval '1 hour' <= now())"
    " AND (a.ended_at IS NULL OR a.ended_at > now() - interval '31 days') ORDER BY a.allocation_id, t.h LIMIT 64"};

static const struct mt_pg_stmt of_env = {
    "ipv4_of_env",
    "SELECT a.ipv4_address, a.allocation_id, a.edge_node_id, a.last_event_id, extract(epoch FROM now() - a.carrier_at)::bigint, (" TOLD ")->>'state',"
    " (" TOLD ")->>'detail', " MT_SQL_TS("a.created_at") ", coalesce(b.revision >= a.last_event_id AND b.epoch = $2"
    "  AND b.received_at > now() - make_interval(secs => $3::bigint), false),"
    " (SELECT x->>'error' FROM jsonb_array_elements(b.ipv4_errors) x WHERE x->>'address' = a.ipv4_address LIMIT 1)"
    " FROM ipv4_allocations_view a LEFT JOIN moat.edge_heartbeats b ON b.node_id = a.edge_node_id WHERE a.env_id = $1 AND a.ended_at IS NULL"};

/* 1: it is in the log; 0: something changed meanwhile. @rely_env: the allocation as it was. @payload passes. */
static int append(struct mt_control *ctl, enum mt_ev ev, const char *id, const struct mt_cmd_ids *ids, json_t *payload, int64_t version, int64_t lease,
                  struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "ipv4", .request_id = "ipv4"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(cmd, ev, id, ids, payload, err)) < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, LEASE, NULL, lease, err)) < 0 ||
        (version && (rc = mt_cmd_rely(cmd, MT_RELY_ENV_IPV4, ids->env_id, NULL, version, err)) < 0))
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool stale = rc < 0 && done.end == MT_END_STALE;
    mt_cmd_done_free(&done);
    return rc == 0 ? 1 : stale ? 0 : rc;
}

/* One at a time: each choice counts for the next. */
static int carriers(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, bool settled, struct mt_err *err)
{
    int n = 0;
    for (int most = 0; most < 256; most++) {
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_i64(&p, MT_IPV4_CARRIER_LOST_S);
        mt_pg_p_bool(&p, settled);
        int rc = mt_pg_query(pg, &homeless, &p, &r, err);
        if (rc < 0 || mt_pg_rows(r) == 0)
            return rc < 0 ? rc : n;
        const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, 2), .app_id = mt_pg_text(r, 0, 3), .env_id = mt_pg_text(r, 0, 4)};
        rc = append(ctl, MT_EV_ENV_IPV4_CARRIER_CHANGED, ids.env_id, &ids,
                    json_pack("{s:s,s:s,s:s,s:s}", "allocation_id", mt_pg_text(r, 0, 0), "ipv4_address", mt_pg_text(r, 0, 1), "edge_node_id",
                              mt_pg_text(r, 0, 7), "reason", mt_pg_text(r, 0, 8)),
                    mt_pg_i64(r, 0, 5), lease, err);
        if (rc <= 0)
            return rc < 0 ? rc : n;
        mt_log(MT_INFO, "ipv4.carrier", KV("address", mt_pg_text(r, 0, 1)), KV("node_id", mt_pg_text(r, 0, 7)), KV("reason", mt_pg_text(r, 0, 8)));
        n++;
    }
    return n;
}

static int cut_hours(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int n = 0, rc = mt_pg_query(pg, &uncut, NULL, &r, err);
    for (int i = 0; rc >= 0 && i < mt_pg_rows(r); i++) {
        const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, i, 3), .app_id = mt_pg_text(r, i, 4), .env_id = mt_pg_text(r, i, 5)};
        rc = append(ctl, MT_EV_USAGE_RECORDED, mt_pg_text(r, i, 0), &ids,
                    json_pack("{s:s,s:s,s:s,s:s,s:s,s:I}", "kind", "ipv4", "allocation_id", mt_pg_text(r, i, 1), "ipv4_address", mt_pg_text(r, i, 2), "from",
                              mt_pg_text(r, i, 6), "to", mt_pg_text(r, i, 7), "extra_ports", (json_int_t)mt_pg_i64(r, i, 8)),
                    0, lease, err);
        n += rc > 0;
    }
    return rc < 0 ? rc : n;
}

int mt_ipv4_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, int64_t leader_ns, struct mt_err *err)
{
    /* Before that, silence may have been ours. */
    int moved = carriers(ctl, pg, lease, mt_clock_mono() - leader_ns > MT_IPV4_CARRIER_LOST_S * MT_NS_PER_S, err);
    int cut = moved < 0 ? moved : cut_hours(ctl, pg, lease, err);
    return cut < 0 ? cut : moved + cut;
}

/* Those that this node carries are among them: no other machine may answer for one. */
static const struct mt_pg_stmt to_look_for = {
    "ipv4_to_look_for", "SELECT coalesce(json_agg(d.address), '[]')::text FROM (SELECT p.address FROM ipv4_pool_view p WHERE NOT p.deleted AND NOT EXISTS"
                        " (SELECT 1 FROM ipv4_allocations_view a WHERE a.ipv4_address = p.address AND a.edge_node_id IS DISTINCT FROM $1"
                        "  AND (a.ended_at IS NULL OR a.ended_at > now() - interval '2 minutes')) ORDER BY random() LIMIT $2) d"};

int mt_ipv4_pool_to_look_for(struct mt_pg *pg, const char *node_id, json_t **ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_i64(&p, MT_IPV4_POOL_ASKED);
    int rc = mt_pg_query_one(pg, &to_look_for, &p, &r, err);
    if (rc < 0)
        return rc;
    *ret = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory");
}

int mt_ipv4_show(struct mt_control *ctl, struct mt_pg *pg, const char *env_id, json_t **ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    char why[160] = "";
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env_id);
    mt_pg_p_i64(&p, mt_history_epoch(ctl->history));
    mt_pg_p_i64(&p, MT_IPV4_CARRIER_LOST_S);
    int rc = mt_pg_query(pg, &of_env, &p, &r, err);
    *ret = NULL;
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    const char *address = mt_pg_text(r, 0, 0), *edge = mt_pg_text_or_null(r, 0, 2), *state = mt_pg_text_or_null(r, 0, 5);
    const char *error = mt_pg_text_or_null(r, 0, 9);
    bool late = mt_pg_i64(r, 0, 4) >= MT_IPV4_BIND_S, node = state && MT_STREQ(state, "up"), serves = mt_pg_bool(r, 0, 8) && !error;
    if (!edge)
        (void)snprintf(why, sizeof why, "no edge is there to carry it");
    else if (error)
        (void)snprintf(why, sizeof why, "the edge: %.140s", error);
    else if (!node)
        (void)snprintf(why, sizeof why, "%.150s", mt_pg_text_or_null(r, 0, 6) ? mt_pg_text(r, 0, 6) : "the node of the edge does not have the address yet");
    else
        (void)snprintf(why, sizeof why, "the edge has not applied it yet");
    *ret = json_pack("{s:s,s:s,s:s,s:s*,s:s*,s:s}", "ipv4_address", address, "allocation_id", mt_pg_text(r, 0, 1), "status",
                     serves && node ? "active" : late || !edge ? "degraded" : "pending", "edge_node_id", edge, "detail",
                     serves && node ? NULL : why, "enabled_at", mt_pg_text(r, 0, 7));
    return *ret ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory");
}
