/* SPDX-License-Identifier: Apache-2.0 */
/* Decisions into events: one command for each environment, relying on every row that was read for it and on the lease of
 * this scheduler, so that a former leader or a stale look can change nothing. */
#include "control/pass.h"
#include "control/trace.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/commands/deploy.h"
#include "control/plans/address.h"
#include "control/plans/edge_acks.h"
#include "control/plans/sent.h"
#include "control/volumes/volume_sql.h"
#include "pg/array.h"

#define EVENTS_MAX 200 /* per command; the rest waits for the next pass, which follows at once */
#define APPEND_TIMEOUT_MS 10000
#define QUOTA_RETRY_MS 5000
#define IPAM_BYTES 65536 /* of one column; a command has EVENTS_MAX rows at most */

/* For all nodes of a command at once: it may touch many more of them than a command may have statements. One row for each counter that was as it was
 * read; 0: there was none. */
static const struct mt_pg_stmt take_addresses = {
    "ipam_take",
    "WITH t AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS t(node_id, next_address, was)),"
    " later AS (UPDATE moat.ipam_counters c SET next_address = t.next_address FROM t WHERE c.node_id = t.node_id AND c.next_address = t.was"
    "  RETURNING c.node_id),"
    " first AS (INSERT INTO moat.ipam_counters (node_id, next_address) SELECT node_id, next_address FROM t WHERE was = 0"
    "  ON CONFLICT (node_id) DO NOTHING RETURNING node_id)"
    " SELECT node_id FROM later UNION ALL SELECT node_id FROM first"};

static const struct mt_cmd_actor scheduler = {.actor_type = "system", .actor_id = "scheduler", .request_id = "scheduler"};

/* ---------------------------------------------------------------- instances */

/* Asked under the append lock: what a pass decided before a migration told the process to stop is not to be started after its last snapshot. */
static const struct mt_pg_stmt not_migrating = {
    "pass_not_migrating", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM volume_migrations_view m WHERE m.env_id = $1 AND m.process_type = $2 AND " MT_SQL_MIGRATION_HOLDS("m") ")"};

static int rely_not_migrating(struct mt_cmd *cmd, const struct mt_pass_env *e, const struct mt_pass_group *g, struct mt_err *err)
{
    struct mt_pg_params pp;
    mt_pg_p_init(&pp);
    mt_pg_p_text(&pp, e->env_id);
    mt_pg_p_text(&pp, g->process_type);
    return mt_cmd_side(cmd, &not_migrating, &pp, 1, err);
}

static int allocate(struct mt_pass *p, const struct mt_pass_env *e, struct mt_pass_group *g, const struct mt_roll_action *a,
                    struct mt_cmd *cmd, const struct mt_cmd_ids *ids, struct mt_err *err)
{
    struct mt_place_node *node = &p->nodes[a->node];
    struct mt_pass_node *more = &p->node_more[a->node];
    struct mt_release_row *rel = g->release;
    const char *spec = g->target_spec, *secret = g->secret_version_id;
    struct mt_place_size size = g->group.request.size;
    char id[MT_ID_SIZE], address[MT_ADDR_SIZE];
    int rc;
    if (a->copy_of) { /* while held: the same release as the one it stands for */
        size_t k = (size_t)(a->copy_of - g->group.instances);
        rel = mt_pass_release(p, g->more[k].release_id, err);
        if (!rel)
            return -(int)err->code;
        spec = a->copy_of->spec_hash;
        secret = g->more[k].secret_version_id;
        size = a->copy_of->size;
    }
    const char *digest = mt_release_row_digest(rel, node->arch);
    if (!digest)
        return MT_FAIL(err, MT_E_CORRUPT, "release %s was placed on %s without a digest for %s", rel->release_id,
                       node->node_id, node->arch);
    if ((rc = mt_addr_instance(more->instance_prefix, more->next_address, address, err)) < 0)
        return rc;
    more->next_address++;
    more->touched = true;
    mt_id_new(MT_ID_INSTANCE, id);
    json_t *payload = json_pack("{s:s,s:s,s:s,s:s*,s:s,s:{s:I,s:I,s:I},s:s,s:s,s:s,s:i,s:s*,s:s*}", "process_type", g->process_type,
                                "node_id", node->node_id, "release_id", rel->release_id, "deploy_id", g->deploy_id,
                                "overlay_ipv6", address, "resources", "cpu_millis", (json_int_t)size.cpu_millis, "memory_bytes",
                                (json_int_t)size.memory_bytes, "disk_bytes", (json_int_t)size.disk_bytes, "arch", node->arch,
                                "image_digest", digest, "spec_hash", spec, "generation", 1, "replaces",
                                a->instance ? a->instance->instance_id : NULL, "secret_version_id", secret);
    if ((rc = mt_cmd_event(cmd, MT_EV_INSTANCE_ALLOCATED, id, ids, payload, err)) < 0)
        return rc;
    mt_log(MT_INFO, "scheduler.allocated", KV("instance_id", id), KV("env_id", e->env_id), KV("process_type", g->process_type),
           KV("node_id", node->node_id));
    return 0;
}

static int stop(struct mt_pass *p, struct mt_pass_group *g, const struct mt_roll_action *a, struct mt_cmd *cmd,
                const struct mt_cmd_ids *ids, struct mt_err *err)
{
    bool drain = a->type == MT_ROLL_DRAIN;
    uint32_t grace = g->stop_grace_seconds ? g->stop_grace_seconds : a->instance->stop_grace_seconds;
    json_t *payload = json_pack("{s:s,s:I,s:I,s:s}", "desired_state", drain ? "draining" : "stopped", "grace_seconds",
                                (json_int_t)grace, "drain_delay_seconds",
                                (json_int_t)(drain ? p->ctl->conf.drain_delay_seconds : 0), "reason",
                                mt_reason_code(a->reason));
    /* An instance reports while we decide: what we decided stays right, so its version is not relied on. */
    return mt_cmd_event(cmd, MT_EV_INSTANCE_DESIRED_STATE_CHANGED, a->instance->instance_id, ids, payload, err);
}

static int scheduling_changed(const struct mt_pass_env *e, struct mt_pass_group *g, struct mt_cmd *cmd,
                              const struct mt_cmd_ids *ids, struct mt_err *err)
{
    const struct mt_roll_result *r = &g->result;
    char ts[MT_RFC3339_LEN];
    return mt_cmd_event(cmd, MT_EV_ENV_SCHEDULING_CHANGED, e->env_id, ids,
                        json_pack("{s:s,s:s,s:s*,s:s*,s:s*,s:s*,s:s*}", "process_type", g->process_type, "condition",
                                  mt_roll_condition_name(r->condition), "reason",
                                  r->reason == MT_REASON_NONE ? NULL : mt_reason_code(r->reason), "detail",
                                  r->detail[0] ? r->detail : NULL, "stable_spec", r->stable_spec, "target_spec",
                                  g->group.target_spec, "next_try_at", r->retry_at_ms > 0 ? mt_rfc3339(r->retry_at_ms * 1000, ts) : NULL),
                        err);
}

/* Events of one group. Returns how many, or -code. */
static int group_events(struct mt_pass *p, const struct mt_pass_env *e, struct mt_pass_group *g, int budget, struct mt_cmd *cmd,
                        const struct mt_cmd_ids *ids, struct mt_err *err)
{
    const struct mt_roll_result *r = &g->result;
    int n = 0, rc;
    if (r->n_actions == 0 && !r->scheduling_changed)
        return 0;
    if ((rc = mt_cmd_cause(cmd, g->deploy_id, 0, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_DESIRED, e->env_id, g->process_type, g->desired_version, err)) < 0)
        return rc;
    for (size_t i = 0; i < r->n_actions && n < budget; i++, n++) {
        const struct mt_roll_action *a = &r->actions[i];
        rc = a->type == MT_ROLL_ALLOCATE ? allocate(p, e, g, a, cmd, ids, err) : stop(p, g, a, cmd, ids, err);
        if (rc == 0 && a->type == MT_ROLL_ALLOCATE && g->group.stateful)
            rc = rely_not_migrating(cmd, e, g, err);
        if (rc < 0)
            return rc;
        g->acted = i + 1;
    }
    if (r->scheduling_changed && (rc = scheduling_changed(e, g, cmd, ids, err)) < 0)
        return rc;
    return n + (r->scheduling_changed ? 1 : 0);
}

static int take_ipam(struct mt_pass *p, struct mt_cmd *cmd, struct mt_err *err)
{
    struct mt_pg_arr ids, next, was;
    struct mt_pg_params pp;
    int64_t n = 0;
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, IPAM_BYTES);
    mt_pg_arr_init(&next, MT_PG_ELEM_I64, IPAM_BYTES);
    mt_pg_arr_init(&was, MT_PG_ELEM_I64, IPAM_BYTES);
    for (size_t i = 0; i < p->n_nodes; i++) {
        const struct mt_pass_node *m = &p->node_more[i];
        if (!m->touched)
            continue;
        mt_pg_arr_text_add(&ids, p->nodes[i].node_id);
        mt_pg_arr_i64(&next, (int64_t)m->next_address);
        mt_pg_arr_i64(&was, (int64_t)m->stored_address);
        n++;
    }
    mt_pg_p_init(&pp);
    mt_pg_p_arr(&pp, &ids);
    mt_pg_p_arr(&pp, &next);
    mt_pg_p_arr(&pp, &was);
    int rc = n == 0 ? 0 : mt_cmd_side(cmd, &take_addresses, &pp, n, err);
    mt_pg_arr_done(&ids);
    mt_pg_arr_done(&next);
    mt_pg_arr_done(&was);
    return rc;
}

/* ---------------------------------------------------------------- deploys */

static int roll_back(struct mt_pass_env *e, const struct mt_pass_deploy *d, struct mt_cmd *cmd, const struct mt_cmd_ids *ids,
                     struct mt_err *err)
{
    char id[MT_ID_SIZE];
    struct mt_deploy_plan plan = {.deploy_id = id, .kind = "rollback", .on_failure = "hold",
                                  .timeout_seconds = d->deploy.timeout_seconds, .note = "automatic: the deploy failed"};
    bool one = true;
    mt_id_new(MT_ID_DEPLOY, id);
    for (size_t i = 0; i < d->n_types && plan.n_items < MT_DEPLOY_TYPES_MAX; i++) {
        const char *rel = json_string_value(json_object_get(d->previous, d->types[i]));
        for (size_t k = 0; rel && k < e->n_groups; k++) {
            struct mt_pass_group *g = &e->groups[k];
            if (!MT_STREQ(g->process_type, d->types[i]))
                continue;
            if (plan.n_items && !MT_STREQ(plan.items[0].release_id, rel))
                one = false;
            plan.items[plan.n_items++] =
                (struct mt_deploy_item){.process_type = g->process_type, .release_id = rel,
                                        .previous_release_id = g->release ? g->release->release_id : NULL,
                                        .desired_version = g->desired_version};
        }
    }
    if (plan.n_items == 0)
        return 0;
    plan.release_id = one ? plan.items[0].release_id : NULL;
    int rc = mt_deploy_events(cmd, ids, &plan, err);
    return rc < 0 ? rc : (int)(1 + plan.n_items);
}

static int deploy_events(struct mt_pass *p, struct mt_pass_env *e, struct mt_pass_deploy *d, struct mt_cmd *cmd,
                         const struct mt_cmd_ids *ids, int64_t *wake, struct mt_err *err)
{
    struct mt_deploy_decision dec = {0};
    struct mt_deploy_group *gs = mt_arena_alloc(&p->arena, (d->n_types + 1) * sizeof *gs);
    int rc, n = 0;
    if (!gs)
        return MT_FAIL(err, MT_E_NOMEM, "deploy step");
    for (size_t i = 0; i < d->n_types; i++)
        for (size_t k = 0; k < e->n_groups; k++)
            if (MT_STREQ(e->groups[k].process_type, d->types[i]))
                gs[d->deploy.n_groups++] = (struct mt_deploy_group){d->types[i], &e->groups[k].result};
    d->deploy.groups = gs;
    mt_deploy_step(&d->deploy, p->now_ms, &dec);
    if (dec.wake_at_ms < *wake)
        *wake = dec.wake_at_ms;
    if (!dec.changed)
        return 0;
    if ((rc = mt_cmd_cause(cmd, d->deploy_id, 0, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_DEPLOY, d->deploy_id, NULL, d->version, err)) < 0 ||
        (rc = mt_cmd_event(cmd, MT_EV_DEPLOY_STATUS_CHANGED, d->deploy_id, ids,
                           json_pack("{s:s,s:s*,s:s*}", "status", mt_deploy_status_name(dec.status), "message",
                                     dec.message[0] ? dec.message : NULL, "failed_reason",
                                     dec.failed_reason[0] ? dec.failed_reason : NULL),
                           err)) < 0)
        return rc;
    d->became = mt_deploy_status_name(dec.status);
    mt_log(MT_INFO, "deploy.status", KV("deploy_id", d->deploy_id), KV("status", mt_deploy_status_name(dec.status)),
           KV("failed_reason", dec.failed_reason));
    n = 1;
    if (dec.append_rollback) {
        if ((rc = roll_back(e, d, cmd, ids, err)) < 0)
            return rc;
        n += rc;
    }
    return n;
}

/* ---------------------------------------------------------------- an environment */

struct mt_place_quota *mt_pass_quota(struct mt_pass *p, const char *org_id)
{
    for (size_t i = 0; i < p->n_orgs; i++)
        if (MT_STREQ(p->orgs[i].org_id, org_id))
            return &p->orgs[i].quota;
    return NULL;
}

static int step_groups(struct mt_pass *p, struct mt_pass_env *e, int64_t *wake, struct mt_err *err)
{
    struct mt_place_quota none = {0, 0, 0}, *known = mt_pass_quota(p, e->org_id), *quota = known ? known : &none; /* one that is not there may nothing */
    for (size_t i = 0; i < e->n_groups; i++) {
        struct mt_pass_group *g = &e->groups[i];
        int rc = mt_roll_step_indexed(&g->group, p->nodes, p->n_nodes, p->index, quota, p->now_ms, &p->arena, &g->result, err);
        if (rc < 0)
            return rc;
        e->waits_for_others = e->waits_for_others || g->result.waits_for_others;
        /* Others of the organisation make room without a word to this environment. */
        if (g->result.condition == MT_ROLL_BLOCKED && g->result.reason == MT_REASON_ORG_QUOTA_EXCEEDED &&
            p->now_ms + QUOTA_RETRY_MS < g->result.wake_at_ms)
            g->result.wake_at_ms = p->now_ms + QUOTA_RETRY_MS;
        if (g->result.wake_at_ms < *wake)
            *wake = g->result.wake_at_ms;
    }
    return 0;
}

static int append(struct mt_pass *p, struct mt_cmd *cmd, const char *what, struct mt_err *err)
{
    struct mt_cmd_done done = {0};
    int rc = mt_append(p->ctl->appender, cmd, APPEND_TIMEOUT_MS, &done, err);
    if (rc < 0 && (done.end == MT_END_STALE || done.end == MT_END_TAKEN)) {
        mt_log(MT_DEBUG, "scheduler.stale", KV("what", what), KV("key", done.rely_key), KV("constraint", done.constraint));
        rc = -MT_E_CONFLICT;
    }
    mt_cmd_done_free(&done);
    return rc;
}

/* Once it is in the log. */
static void measure(struct mt_measure *m, const struct mt_pass_env *e)
{
    static const enum mt_sched_action kind[MT_ROLL_ACTION_MAX] = {[MT_ROLL_ALLOCATE] = MT_SCHED_ALLOCATE, [MT_ROLL_DRAIN] = MT_SCHED_DRAIN,
                                                                  [MT_ROLL_STOP] = MT_SCHED_STOP};
    for (size_t i = 0; i < e->n_groups; i++)
        for (size_t k = 0; k < e->groups[i].acted; k++) {
            const struct mt_roll_action *a = &e->groups[i].result.actions[k];
            mt_measure_one(&m->actions[kind[a->type]][a->type == MT_ROLL_ALLOCATE ? MT_REASON_NONE : a->reason]);
        }
    for (size_t i = 0; i < e->n_deploys; i++)
        if (e->deploys[i].became)
            mt_measure_deploy(m, e->deploys[i].became);
}

int mt_pass_env_step(struct mt_pass *p, struct mt_pass_env *e, int *ret_events, int64_t *ret_wake_ms, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_ids ids = {.org_id = e->org_id, .app_id = e->app_id, .env_id = e->env_id};
    int rc, events = 0;
    *ret_wake_ms = INT64_MAX;
    *ret_events = 0;
    if ((rc = step_groups(p, e, ret_wake_ms, err)) < 0 || (rc = mt_cmd_new(&scheduler, &cmd, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, p->lease_epoch, err)) < 0)
        return rc;
    for (size_t i = 0; i < p->n_nodes; i++)
        p->node_more[i].touched = false;
    for (size_t i = 0; i < e->n_groups; i++) {
        if ((rc = group_events(p, e, &e->groups[i], EVENTS_MAX - events, cmd, &ids, err)) < 0)
            return rc;
        events += rc;
    }
    for (size_t i = 0; i < e->n_deploys && events < EVENTS_MAX; i++) {
        if ((rc = deploy_events(p, e, &e->deploys[i], cmd, &ids, ret_wake_ms, err)) < 0)
            return rc;
        events += rc;
    }
    if (events == 0)
        return 0;
    if ((rc = take_ipam(p, cmd, err)) < 0 || (rc = append(p, MT_TAKE(cmd), e->env_id, err)) < 0)
        return rc;
    for (size_t i = 0; i < p->n_nodes; i++)
        if (p->node_more[i].touched)
            p->node_more[i].stored_address = p->node_more[i].next_address;
    measure(&p->ctl->measure, e);
    for (size_t i = 0; i < e->n_deploys; i++)
        if (e->deploys[i].became)
            mt_trace_deploy(p->pg, e->deploys[i].deploy_id, e->deploys[i].became);
    *ret_events = events;
    return 0;
}

/* ---------------------------------------------------------------- after the end of instances */

static const struct mt_pg_stmt to_release = {
    "settle_release",
    "SELECT instance_id, org_id, app_id, env_id, deploy_id, overlay_ipv6, resource_version FROM instances_view"
    " WHERE released_at IS NULL AND status = 'stopped' AND desired_state <> 'running' ORDER BY instance_id LIMIT 100"};

static const struct mt_pg_stmt to_cut = {
    "settle_cut",
    "SELECT i.instance_id, i.org_id, i.app_id, i.env_id, i.deploy_id, i.desired_reason, i.resource_version,"
    " (SELECT max(e.event_id) FROM moat.events e WHERE e.aggregate_type = 'instance' AND e.aggregate_id = i.instance_id"
    "  AND e.event_type = 'instance.desired_state_changed') AS since, i.grace_seconds"
    " FROM instances_view i WHERE i.released_at IS NULL AND i.desired_state = 'draining'"
    " AND coalesce(i.drain_delay_seconds, 1) > 0 AND i.status NOT IN ('stopped', 'failed') ORDER BY i.instance_id LIMIT 100"};

/* What was told to stop on a machine that is powered off has stopped: no agent will say so. */
static const struct mt_pg_stmt to_end = {
    "settle_lost",
    "SELECT i.instance_id, i.org_id, i.app_id, i.env_id, i.deploy_id, i.node_id, i.restart_count FROM instances_view i JOIN nodes_view n USING (node_id)"
    " WHERE n.health = 'lost' AND i.released_at IS NULL AND i.desired_state = 'stopped' AND i.status <> 'stopped'"
    " ORDER BY i.instance_id LIMIT 100"};

static int end_lost(struct mt_pass *p, struct mt_cmd *cmd, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    char ts[MT_RFC3339_LEN];
    int rc = mt_pg_query(p->pg, &to_end, NULL, &r, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_cmd_ids ids = {mt_pg_text(r, i, 1), mt_pg_text(r, i, 2), mt_pg_text(r, i, 3)};
        /* Without a reason code: it is no attempt that failed. */
        if ((rc = mt_cmd_cause(cmd, mt_pg_text_or_null(r, i, 4), 0, err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_INSTANCE_STATUS_CHANGED, mt_pg_text(r, i, 0), &ids,
                               json_pack("{s:s,s:s,s:s,s:I,s:s}", "node_id", mt_pg_text(r, i, 5), "status", "stopped", "reason_detail",
                                         "its node was declared lost", "restart_count", (json_int_t)mt_pg_i64_or(r, i, 6, 0), "reported_at",
                                         mt_rfc3339(mt_clock_wall_us(), ts)),
                               err)) < 0)
            return rc;
    }
    return mt_pg_rows(r);
}

static int release_all(struct mt_pass *p, struct mt_cmd *cmd, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(p->pg, &to_release, NULL, &r, err);
    if (rc < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_cmd_ids ids = {mt_pg_text(r, i, 1), mt_pg_text(r, i, 2), mt_pg_text(r, i, 3)};
        const char *id = mt_pg_text(r, i, 0);
        if ((rc = mt_cmd_cause(cmd, mt_pg_text_or_null(r, i, 4), 0, err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_INSTANCE_RELEASED, id, &ids,
                               json_pack("{s:s}", "overlay_ipv6", mt_pg_text(r, i, 5)), err)) < 0)
            return rc;
        mt_plans_seq_forget(p->ctl->plans, id);
    }
    return mt_pg_rows(r);
}

static int cut_drains(struct mt_pass *p, struct mt_cmd *cmd, bool *ret_more, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int n = 0, rc;
    if (p->n_edges == 0 || (rc = mt_pg_query(p->pg, &to_cut, NULL, &r, err)) < 0)
        return p->n_edges == 0 ? 0 : rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_cmd_ids ids = {mt_pg_text(r, i, 1), mt_pg_text(r, i, 2), mt_pg_text(r, i, 3)};
        const char *reason = mt_pg_text_or_null(r, i, 5);
        if (mt_pg_null(r, i, 7) || !mt_edges_all_at(p->ctl->edges, p->edges, p->n_edges, mt_pg_i64(r, i, 7))) {
            *ret_more = true;
            continue;
        }
        json_t *payload = json_pack("{s:s,s:i,s:s}", "desired_state", "draining", "drain_delay_seconds", 0, "reason",
                                    reason ? reason : "replaced");
        if (payload && !mt_pg_null(r, i, 8))
            json_object_set_new(payload, "grace_seconds", json_integer(mt_pg_i64(r, i, 8)));
        if ((rc = mt_cmd_cause(cmd, mt_pg_text_or_null(r, i, 4), mt_pg_i64(r, i, 7), err)) < 0) {
            json_decref(payload);
            return rc;
        }
        if ((rc = mt_cmd_event(cmd, MT_EV_INSTANCE_DESIRED_STATE_CHANGED, mt_pg_text(r, i, 0), &ids, payload, err)) < 0)
            return rc;
        n++;
    }
    return n;
}

int mt_pass_settle(struct mt_pass *p, bool *ret_more, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    int ended, released, cut, rc = mt_cmd_new(&scheduler, &cmd, err);
    *ret_more = false;
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "scheduler", NULL, p->lease_epoch, err)) < 0)
        return rc;
    if ((ended = end_lost(p, cmd, err)) < 0)
        return ended;
    if ((released = release_all(p, cmd, err)) < 0)
        return released;
    if ((cut = cut_drains(p, cmd, ret_more, err)) < 0)
        return cut;
    if (ended + released + cut == 0)
        return 0;
    rc = append(p, MT_TAKE(cmd), "settle", err);
    return rc < 0 ? rc : ended + released + cut;
}
