/* SPDX-License-Identifier: Apache-2.0 */
/* Why an environment or an instance is as it is, for operators (control-plane.md §9.5): what its own people are told, and beside it what
 * they are not: each node's answer to each of its groups, by the filters that place. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/cluster_switch.h"
#include "control/api/state.h"
#include "control/api/why.h"
#include "control/pass.h"

#define PASS_BYTES (64U * 1024U * 1024U)
#define NODES_SHOWN 200

/* $1 env, or $2 an instance of it. */
static const struct mt_pg_stmt where = {
    "explain_where",
    "SELECT e.env_id, e.name, a.app_id, a.name, o.org_id, o.name, o.suspended FROM envs_view e JOIN apps_view a ON a.app_id = e.app_id"
    " JOIN orgs_view o ON o.org_id = e.org_id WHERE e.env_id = $1 OR e.env_id = (SELECT i.env_id FROM instances_view i WHERE i.instance_id = $2)"};

static void owner(struct mt_api_owner *o, const struct mt_pg_res *r, int col)
{
    snprintf(o->id, sizeof o->id, "%s", mt_pg_text(r, 0, col));
    snprintf(o->name, sizeof o->name, "%s", mt_pg_text(r, 0, col + 1));
}

/* From here on the call is about that environment. */
static int find(struct mt_api_call *c, const char *env, const char *instance)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, env);
    mt_pg_p_text(&p, instance);
    if (mt_pg_query(c->pg, &where, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, env ? "environment" : "instance");
    owner(&c->env, r, 0);
    owner(&c->app, r, 2);
    owner(&c->org, r, 4);
    c->org_suspended = mt_pg_bool(r, 0, 6);
    return 0;
}

static json_t *nodes_of(const struct mt_pass *p, const struct mt_pass_group *g)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_nodes && i < NODES_SHOWN; i++) {
        const struct mt_place_node *n = &p->nodes[i];
        const char *why = g->group.target_spec ? mt_place_refusal(n, &g->group.request) : NULL;
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:b,s:s*}", "node_id", n->node_id, "admin_state", mt_node_admin_name(n->admin), "health",
                                              mt_node_health_name(n->health), "takes_one_more", g->group.target_spec && !why, "refuses_for", why));
    }
    return list;
}

/* What a pass of the scheduler sees of the environment right now. */
static int add_placement(struct mt_api_call *c, json_t *o)
{
    struct mt_pass p = {.ctl = c->ctl, .pg = c->pg};
    const char *ids[] = {c->env.id};
    mt_arena_init(&p.arena, PASS_BYTES);
    if (mt_pass_load(&p, ids, 1, &c->err) < 0) {
        mt_pass_done(&p);
        return mt_api_fail_err(c);
    }
    json_t *list = json_array();
    for (size_t i = 0; i < p.n_envs; i++)
        for (size_t k = 0; k < p.envs[i].n_groups; k++) {
            const struct mt_pass_group *g = &p.envs[i].groups[k];
            json_array_append_new(list, json_pack("{s:s,s:I,s:s*,s:s*,s:o}", "process_type", g->process_type, "desired", (json_int_t)g->group.desired,
                                                  "target_spec", g->group.target_spec, "stable_spec", g->group.stable_spec, "nodes", nodes_of(&p, g)));
        }
    mt_pass_done(&p);
    json_object_set_new(o, "placement", list);
    return 0;
}

static int add_why(struct mt_api_call *c, const char *instance, json_t *o)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u * 1024u);
    json_error_t je;
    if (mt_api_why_put(c, instance, c->env.id, c->app.id, MT_SEE_OPERATOR, &b) < 0)
        return -1;
    json_t *why = json_loads(mt_buf_cstr(&b), 0, &je);
    if (!why) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "the chain of causes");
        return mt_api_fail_err(c);
    }
    json_object_set_new(o, "why", why);
    return 0;
}

int mt_api_explain_get(struct mt_api_call *c)
{
    const char *env = mt_api_query(c, "env_id"), *instance = mt_api_query(c, "instance_id");
    if (mt_api_query_done(c) < 0)
        return -1;
    if (!env == !instance)
        return mt_api_fail(c, 400, "invalid_argument", "ask with one of env_id and instance_id");
    if (find(c, env, instance) < 0)
        return -1;
    json_t *scheduler = mt_api_cluster_switch_get(c, MT_PASS_PAUSED_KEY, "paused"), *status = scheduler ? mt_api_status(c) : NULL;
    if (!status) {
        json_decref(scheduler);
        return -1;
    }
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s*,s:o,s:o}", "org_id", c->org.id, "org", c->org.name, "app_id", c->app.id, "app", c->app.name,
                          "env_id", c->env.id, "instance_id", instance, "scheduler", scheduler, "status", status);
    if (add_placement(c, o) < 0 || (instance && add_why(c, instance, o) < 0)) {
        json_decref(o);
        return -1;
    }
    return mt_api_send(c, 200, o);
}
