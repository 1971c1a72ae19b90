/* SPDX-License-Identifier: Apache-2.0 */
/* What the loss or the drain of a node would lead to (scheduling-and-operations.md 5): the snapshot of a pass of the scheduler, its groups stepped
 * to their end (rollout/ahead.h), the node changed, and stepped again. Nothing is written. What was under way before is taken as finished first, so
 * that the answer tells what the change itself does. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/nodes/node.h"
#include "control/pass.h"
#include "control/rollout/ahead.h"
#include "control/volumes/migrate.h"
#include "wire/json.h"

#define MOVES_MAX 200 /* volumes of which it is told where they would go */
#define SNAPSHOT_BYTES (512U * 1024U * 1024U)

static const struct mt_pg_stmt names = {"simulate_names", "SELECT node_id, name FROM nodes_view WHERE NOT deleted"};

/* Volumes that live on node $1, with the newest backup: what was written after it goes with the machine. NULL: there is none. */
static const struct mt_pg_stmt volumes = {
    "simulate_volumes",
    "SELECT json_build_object('id',v.volume_id,'name',v.name,'org_id',v.org_id,'app_id',v.app_id,'env_id',v.env_id,'app',a.name,'env',e.name,"
    "'size_bytes',v.size_bytes,'state',v.state,'last_backup_at'," MT_SQL_TS("b.captured_at") ",'loses_seconds',CASE WHEN b.captured_at"
    " IS NOT NULL THEN extract(epoch FROM greatest(now() - b.captured_at, interval '0'))::bigint END)::text FROM volumes_view v JOIN apps_view a USING (app_id)"
    " JOIN envs_view e USING (env_id) LEFT JOIN LATERAL (" MT_SQL_LAST_BACKUP("v", "s.captured_at") ") b ON true"
    " LEFT JOIN volume_attachments_view t ON t.volume_id = v.volume_id AND NOT t.deleted"
    " WHERE v.home_node_id = $1 AND NOT v.deleted ORDER BY a.name, e.name, v.env_id, coalesce(t.process_type, v.name), v.name, v.volume_id"};

/* A group with an instance on the node, and how it stood before the change. */
struct touched {
    const struct mt_pass_env *env;
    struct mt_ahead_group *group;
    const char *process_type;
    uint32_t there, ready_elsewhere;
};

struct look {
    struct mt_api_call *c;
    struct mt_pass p;
    struct mt_ahead a;
    struct mt_place_quota none; /* an organisation that is not there may nothing */
    struct touched *touched;
    size_t n_touched;
    size_t node;
    bool drain;
};

static int load(struct look *l)
{
    struct mt_api_call *c = l->c;
    struct mt_err ignored;
    int rc = mt_pg_exec(c->pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE moat.views_state IN ACCESS SHARE MODE", &c->err);
    if (rc == 0)
        rc = mt_pass_load(&l->p, NULL, 0, &c->err);
    if (mt_pg_alive(c->pg))
        (void)mt_pg_exec(c->pg, "ROLLBACK", &ignored);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

/* The groups of the pass as one list, each with its organisation's quota. */
static int gather(struct look *l)
{
    size_t n = 0;
    for (size_t i = 0; i < l->p.n_envs; i++)
        n += l->p.envs[i].n_groups;
    l->a = (struct mt_ahead){.nodes = l->p.nodes, .n_nodes = l->p.n_nodes, .index = l->p.index, .now_ms = l->p.now_ms, .arena = &l->p.arena};
    l->a.groups = mt_arena_alloc(&l->p.arena, (n + 1) * sizeof *l->a.groups);
    l->touched = mt_arena_alloc(&l->p.arena, (n + 1) * sizeof *l->touched);
    if (!l->a.groups || !l->touched)
        return MT_FAIL(&l->c->err, MT_E_NOMEM, "simulation of %zu groups", n);
    for (size_t i = 0; i < l->p.n_envs; i++) {
        struct mt_place_quota *quota = mt_pass_quota(&l->p, l->p.envs[i].org_id);
        for (size_t k = 0; k < l->p.envs[i].n_groups; k++)
            l->a.groups[l->a.n_groups++] = (struct mt_ahead_group){.group = l->p.envs[i].groups[k].group, .quota = quota ? quota : &l->none};
    }
    return 0;
}

static bool runs(const struct mt_roll_instance *in)
{
    return in->desired == MT_DESIRED_RUNNING && in->status != MT_STATUS_STOPPED;
}

/* Who has something on the node, before it changes. */
static void note_touched(struct look *l)
{
    size_t at = 0;
    for (size_t i = 0; i < l->p.n_envs; i++)
        for (size_t k = 0; k < l->p.envs[i].n_groups; k++) {
            struct mt_ahead_group *g = &l->a.groups[at++];
            struct touched t = {&l->p.envs[i], g, l->p.envs[i].groups[k].process_type, 0, 0};
            for (size_t j = 0; j < g->group.n_instances; j++) {
                const struct mt_roll_instance *in = &g->group.instances[j];
                t.there += runs(in) && in->node == l->node;
                t.ready_elsewhere += runs(in) && in->node != l->node && in->status == MT_STATUS_READY;
            }
            if (t.there)
                l->touched[l->n_touched++] = t;
        }
}

static int simulate(struct look *l)
{
    struct mt_err *err = &l->c->err;
    struct mt_place_node *node = &l->p.nodes[l->node];
    if (gather(l) < 0)
        return mt_api_fail_err(l->c);
    /* A drain that runs already is told from where it is. */
    if (!(l->drain && node->admin == MT_NODE_DRAINING) && mt_ahead_run(&l->a, err) < 0)
        return mt_api_fail_err(l->c);
    note_touched(l);
    l->a.made = 0;
    if (l->drain)
        node->admin = MT_NODE_DRAINING;
    else
        node->health = MT_NODE_OFFLINE;
    mt_place_index_changed(l->p.index, l->node);
    return mt_ahead_run(&l->a, err) < 0 ? mt_api_fail_err(l->c) : 0;
}

/* ---- the answer ---- */

static json_t *places(const struct look *l, const struct mt_ahead_group *g, const char *const *name, uint32_t *ret_placed)
{
    json_t *out = json_array();
    for (size_t n = 0; n < l->p.n_nodes; n++) {
        uint32_t here = 0;
        for (size_t j = 0; j < g->group.n_instances; j++)
            here += g->group.instances[j].node == n && runs(&g->group.instances[j]) && mt_ahead_made(&g->group.instances[j]) > 0;
        if (here)
            json_array_append_new(out, json_pack("{s:s,s:s,s:i}", "node_id", l->p.nodes[n].node_id, "name", name[n] ? name[n] : "", "instances", (int)here));
        *ret_placed += here;
    }
    return out;
}

/* {"restart": placed elsewhere, "missing": wanted and without a place, "stay": with a volume that is there} of one group. */
static json_t *group_json(const struct look *l, const struct touched *t, const char *const *name, uint32_t sum[3])
{
    const struct mt_ahead_group *g = t->group;
    const struct mt_roll_result *r = &g->result;
    uint32_t placed = 0;
    json_t *to = places(l, g, name, &placed);
    uint32_t stay = g->group.stateful ? t->there : 0, missing = g->group.stateful || placed >= t->there ? 0 : t->there - placed;
    const char *reason = r->reason != MT_REASON_NONE ? mt_reason_code(r->reason) : r->condition == MT_ROLL_HELD ? "held" : NULL;
    sum[0] += placed;
    sum[1] += missing;
    sum[2] += stay;
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:o,s:i,s:i}", "org_id", t->env->org_id, "app_id", t->env->app_id, "env_id", t->env->env_id,
                          "app", t->env->app_name, "env", t->env->env_name, "process_type", t->process_type, "instances", (int)t->there,
                          "ready_elsewhere", (int)t->ready_elsewhere, "restart_on", to, "missing", (int)missing, "stay", (int)stay);
    if (o && (missing || stay) && reason)
        json_object_set_new(o, "reason", json_string(reason));
    if (o && (missing || stay) && r->detail[0])
        json_object_set_new(o, "detail", json_string(r->detail));
    return o;
}

static int node_names(struct look *l, const char ***ret)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char **out = mt_arena_alloc(&l->p.arena, (l->p.n_nodes + 1) * sizeof *out);
    if (mt_pg_query(l->c->pg, &names, NULL, &r, &l->c->err) < 0)
        return mt_api_fail_err(l->c);
    for (int i = 0; out && i < mt_pg_rows(r); i++)
        for (size_t k = 0; k < l->p.n_nodes; k++)
            if (MT_STREQ(l->p.nodes[k].node_id, mt_pg_text(r, i, 0)))
                out[k] = mt_arena_strdup(&l->p.arena, mt_pg_text(r, i, 1));
    *ret = out;
    return out ? 0 : mt_api_fail(l->c, 503, "unavailable", "out of memory");
}

/* Where the volume of row @i would go if the drain were one with `migrate`; what went before it is taken as gone there. */
static int put_move(struct look *l, json_t *o, struct mt_migration_new *last, struct mt_migration_booking *booked, size_t *n)
{
    const char *id = json_string_value(json_object_get(o, "id"));
    bool same = false; /* one of the process that was looked at before */
    for (size_t i = 0; i < last->n && !same; i++)
        same = MT_STREQ(last->volumes[i].volume_id, id);
    if (!same) {
        *last = (struct mt_migration_new){.reason = "drain", .booked = booked, .n_booked = *n};
        int rc = mt_migration_plan(l->c->ctl, l->c->pg, json_string_value(json_object_get(o, "env_id")), id, NULL, last, &l->c->err);
        if (rc < 0)
            return mt_api_fail_err(l->c);
        if (rc == 1)
            booked[(*n)++] = last->booking;
    }
    if (last->code)
        json_object_set_new(o, "not_moved", json_string(last->why));
    else
        json_object_set_new(o, "moves_to", json_string(last->target_node_id));
    return 0;
}

static int volumes_json(struct look *l, const char *node_id, json_t **ret)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_json json_t *out = json_array();
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    if (mt_pg_query(l->c->pg, &volumes, &p, &r, &l->c->err) < 0)
        return mt_api_fail_err(l->c);
    struct mt_migration_new last = {0};
    size_t n = 0;
    mt_auto_free struct mt_migration_booking *booked = calloc((size_t)mt_pg_rows(r) + 1, sizeof *booked);
    if (!booked)
        return mt_api_fail(l->c, 503, "unavailable", "out of memory");
    for (int i = 0; i < mt_pg_rows(r); i++) {
        json_t *o = json_loads(mt_pg_text(r, i, 0), 0, &je);
        json_array_append_new(out, o);
        if (l->drain && o && i < MOVES_MAX && put_move(l, o, &last, booked, &n) < 0)
            return -1;
    }
    *ret = MT_TAKE(out);
    return 0;
}

static int answer(struct look *l, const struct mt_node *n)
{
    const char **name = NULL;
    json_t *vols = NULL, *groups = json_array();
    uint32_t sum[3] = {0}, there = 0;
    if (node_names(l, &name) < 0 || volumes_json(l, n->node_id, &vols) < 0) {
        json_decref(groups);
        return -1;
    }
    for (size_t i = 0; i < l->n_touched; i++) {
        there += l->touched[i].there;
        json_array_append_new(groups, group_json(l, &l->touched[i], name, sum));
    }
    return mt_api_send(l->c, 200, json_pack("{s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:o,s:o}", "event", l->drain ? "drain" : "loss", "node_id", n->node_id, "name",
                                            n->name, "instances", (int)there, "restart", (int)sum[0], "missing", (int)sum[1], "stay", (int)sum[2],
                                            "groups", groups, "volumes", vols));
}

static int look(struct mt_api_call *c, bool drain)
{
    struct look l = {.c = c, .p = {.ctl = c->ctl, .pg = c->pg}, .node = MT_PLACE_NONE, .drain = drain};
    struct mt_node n;
    int rc;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_node_find(c->pg, mt_api_param(c, "node_id"), &n, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "node") : mt_api_fail_err(c);
    mt_arena_init(&l.p.arena, SNAPSHOT_BYTES);
    if ((rc = load(&l)) == 0) {
        for (size_t i = 0; i < l.p.n_nodes; i++)
            if (MT_STREQ(l.p.nodes[i].node_id, n.node_id))
                l.node = i;
        if (l.node == MT_PLACE_NONE)
            rc = mt_api_not_found(c, "node");
        else if (mt_node_gone(&l.p.nodes[l.node]))
            rc = mt_api_fail(c, 409, "conflict", "node %s is %s and %s: what ran there is replaced already, as far as it can be", n.name, n.admin_state, n.health);
    }
    if (rc == 0 && (rc = simulate(&l)) == 0)
        rc = answer(&l, &n);
    mt_pass_done(&l.p);
    return rc;
}

int mt_api_simulate_loss(struct mt_api_call *c)
{
    return look(c, false);
}

int mt_api_simulate_drain(struct mt_api_call *c)
{
    return look(c, true);
}
