/* SPDX-License-Identifier: Apache-2.0 */
/* What operators do with nodes (networking.md §1.3): the admin state, each change with its reason. The scheduler acts on it: a draining node's
 * instances are replaced before they are drained, a disabled one's are replaced as those of a lost machine. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/gate.h"
#include "control/api/mutate.h"
#include "control/nodes/node.h"

#define ASK_TRIES 4 /* of a request whose row moved between look and append */

static const struct mt_pg_stmt in_use = {
    "node_in_use", "SELECT count(*) FROM instances_view WHERE node_id = $1 AND released_at IS NULL AND desired_state <> 'stopped'"};
static const struct mt_pg_stmt volumes_on = {"node_volumes", "SELECT count(*) FROM volumes_view v WHERE v.home_node_id = $1 AND NOT v.deleted"};

struct verb {
    const char *operation, *to;
    const char *from; /* states it is allowed in, with blanks around */
};

static const struct verb approve = {"node.approve", "active", " pending_approval "};
static const struct verb cordon = {"node.cordon", "cordoned", " active draining "};
static const struct verb uncordon = {"node.uncordon", "active", " cordoned draining "};
static const struct verb drain = {"node.drain", "draining", " active cordoned draining "};
static const struct verb disable = {"node.disable", "disabled", " enrolled pending_approval active cordoned draining "};

static int load_with(struct mt_api_call *c, const char *const *known, struct mt_node *ret, bool need_reason, const char **ret_reason)
{
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", need_reason, 500, ret_reason) < 0)
        return -1;
    if (mt_node_find(c->pg, mt_api_param(c, "node_id"), ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "node") : mt_api_fail_err(c);
    return 0;
}

static int load(struct mt_api_call *c, struct mt_node *ret, bool need_reason, const char **ret_reason)
{
    static const char *const known[] = {"reason", NULL};
    return load_with(c, known, ret, need_reason, ret_reason);
}

static const struct mt_pg_stmt how_stateful = {
    "node_how_stateful", "SELECT CASE WHEN drain_stops_stateful THEN 'stop' WHEN drain_migrates THEN 'migrate' ELSE 'stay' END FROM nodes_view WHERE node_id = $1"};

/* Environments whose secrets were on the node, as an instance there had a version of them: who trusts the machine no more will want others (networking.md §11).
 * An old version counts as the present one, which may hold the same words. */
static const struct mt_pg_stmt secrets_held = {
    "node_secrets_held",
    "SELECT coalesce(json_agg(json_build_object('org', o.name, 'app', a.name, 'env', e.name, 'env_id', x.env_id) ORDER BY o.name, a.name, e.name), '[]')::text FROM"
    " (SELECT DISTINCT env_id FROM instances_view WHERE node_id = $1 AND secret_version_id IS NOT NULL) x"
    " JOIN envs_view e ON e.env_id = x.env_id AND NOT e.deleted JOIN apps_view a ON a.app_id = e.app_id JOIN orgs_view o ON o.org_id = e.org_id"};

static int show_secrets_held(struct mt_api_call *c, const struct mt_node *n, json_t *object)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->node_id);
    if (mt_pg_query_one(c->pg, &secrets_held, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *list = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    return json_object_set_new(object, "secrets_to_rotate", list ? list : json_array()) < 0 ? mt_api_fail_err(c) : 0;
}

/* `stateful` of a drain: do instances with volumes stay, which is the default, stop, or move with them? @ret_same: the node does that already. */
static int load_stateful(struct mt_api_call *c, const struct mt_node *n, const char **ret, bool *ret_same)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_text(c, "stateful", false, 20, ret) < 0)
        return -1;
    if (!*ret)
        *ret = "stay";
    if (!MT_STREQ(*ret, "stay") && !MT_STREQ(*ret, "stop") && !MT_STREQ(*ret, "migrate"))
        return mt_api_fail(c, 400, "invalid_argument", "stateful is stay, stop or migrate");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->node_id);
    if (mt_pg_query_one(c->pg, &how_stateful, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    *ret_same = MT_STREQ(mt_pg_text(r, 0, 0), *ret);
    return 0;
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const struct verb *v)
{
    static const char *const plain[] = {"reason", NULL}, *const draining[] = {"reason", "stateful", NULL};
    struct mt_node n;
    const char *reason, *stateful = NULL;
    bool same = true;
    char state[32];
    if (load_with(c, v == &drain ? draining : plain, &n, true, &reason) < 0 || (v == &drain && load_stateful(c, &n, &stateful, &same) < 0))
        return -1;
    snprintf(state, sizeof state, " %s ", n.admin_state);
    made->operation = v->operation;
    made->ids = json_pack("{s:s}", "node_id", n.node_id);
    made->nothing = MT_STREQ(n.admin_state, v->to) && same;
    made->object = json_pack("{s:s,s:s,s:s,s:I}", "id", n.node_id, "name", n.name, "admin_state", v->to, "resource_version",
                             (json_int_t)n.version + !made->nothing);
    if (made->nothing)
        return 0;
    if (!strstr(v->from, state))
        return mt_api_fail(c, 409, "conflict", "node %s is %s, from which it cannot become %s%s", n.name, n.admin_state, v->to,
                           MT_STREQ(n.admin_state, "disabled") ? ": remove it, and enrol the machine again with new keys" : "");
    if (n.local && v == &disable)
        return mt_api_fail(c, 409, "conflict", "node %s is the machine of the control plane itself: it is stopped there (moat down), or drained", n.name);
    if (v == &disable && show_secrets_held(c, &n, made->object) < 0)
        return -1;
    if (v == &disable && mt_node_cmd_certs_end(cmd, n.node_id, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_rely(cmd, MT_RELY_NODE, n.node_id, NULL, n.version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_NODE_ADMIN_STATE_CHANGED, n.node_id,
                        json_pack("{s:s,s:s,s:s,s:s*}", "old", n.admin_state, "new", v->to, "reason", reason, "stateful", stateful));
}

#define HANDLER(verb)                                                                                         \
    static int prepare_##verb(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)            \
    {                                                                                                         \
        return prepare(c, cmd, made, &verb);                                                                  \
    }                                                                                                         \
    int mt_api_nodes_##verb(struct mt_api_call *c)                                                            \
    {                                                                                                         \
        return mt_api_mutate(c, prepare_##verb);                                                              \
    }
HANDLER(approve)
HANDLER(cordon)
HANDLER(uncordon)
HANDLER(drain)
HANDLER(disable)

/* Root of a machine takes it out of use from there (`moat-agent ctl drain`): less than it can do to it anyway, and of no other node. What its instances
 * with volumes do stays the word of an operator. */
int mt_api_node_asks_drain(struct mt_api_call *c)
{
    static const char *const known[] = {"reason", NULL};
    const char *reason;
    struct mt_node n;
    char state[32];
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &n) < 0 || mt_api_gate(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    for (int try = 0; try < ASK_TRIES; try++) {
        if (mt_node_caller(c, MT_CERT_NODE, &n) < 0)
            return -1;
        snprintf(state, sizeof state, " %s ", n.admin_state);
        if (!strstr(drain.from, state))
            return mt_api_fail(c, 409, "conflict", "node %s is %s, from which it cannot become %s", n.name, n.admin_state, drain.to);
        bool there = MT_STREQ(n.admin_state, drain.to);
        int rc = there ? 0 : mt_node_append(c, &n, MT_EV_NODE_ADMIN_STATE_CHANGED, json_pack("{s:s,s:s,s:s,s:s}", "old", n.admin_state, "new", drain.to, "reason", reason, "stateful", "stay"));
        if (rc < 0)
            return -1;
        if (rc == 0)
            return mt_api_send(c, 200, json_pack("{s:s,s:s,s:s,s:b}", "id", n.node_id, "name", n.name, "admin_state", drain.to, "already", there));
    }
    return mt_api_fail(c, 503, "unavailable", "the node keeps changing; try again");
}

static const struct mt_pg_stmt node_conditions = {"node_conditions", "SELECT to_jsonb(conditions)::text FROM nodes_view WHERE node_id = $1"};

/* The health of @n becomes @to by an operator's word; its conditions stay as they were told last. */
static int say_health(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_node *n, const char *to, const char *reason)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n->node_id);
    if (mt_pg_query_one(c->pg, &node_conditions, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    const char *text = mt_pg_text_or_null(r, 0, 0);
    json_t *list = text ? json_loads(text, 0, &je) : NULL;
    if (mt_cmd_rely(cmd, MT_RELY_NODE, n->node_id, NULL, n->version, &c->err) < 0) {
        json_decref(list);
        return mt_api_fail_err(c);
    }
    return mt_api_event(c, cmd, MT_EV_NODE_HEALTH_CHANGED, n->node_id,
                        json_pack("{s:s,s:s,s:o,s:s}", "old", n->health, "new", to, "conditions", list ? list : json_array(), "reason", reason));
}

/* Load the node and say what the answer is when its health becomes @to. */
static int begin_health(struct mt_api_call *c, struct mt_api_made *made, const char *operation, const char *to, struct mt_node *n, const char **reason)
{
    if (load(c, n, true, reason) < 0)
        return -1;
    made->operation = operation;
    made->ids = json_pack("{s:s}", "node_id", n->node_id);
    made->nothing = MT_STREQ(n->health, to);
    made->object = json_pack("{s:s,s:s,s:s,s:I}", "id", n->node_id, "name", n->name, "admin_state", n->admin_state, "resource_version",
                             (json_int_t)n->version + !made->nothing);
    return 0;
}

/* The way past the mass-failure guard: an operator looked, and the silent machine really is gone. */
static int prepare_confirm_offline(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_node n;
    const char *reason;
    if (begin_health(c, made, "node.confirm_offline", "offline", &n, &reason) < 0)
        return -1;
    if (made->nothing)
        return 0;
    if (!MT_STREQ(n.health, "suspect"))
        return mt_api_fail(c, 409, "conflict", "node %s is %s: only one that is suspect can be confirmed as offline", n.name, n.health);
    return say_health(c, cmd, &n, "offline", reason);
}

static const struct mt_pg_stmt heard = {
    "node_heard", "SELECT count(*) FROM moat.node_heartbeats WHERE node_id = $1 AND received_at > now() - make_interval(secs => $2::bigint)"};

/* The machine is powered off, an operator says: what ran there holds nothing any more (scheduling-and-operations.md 5). While it is heard that
 * cannot be so, and two instances would have one address or one volume. */
static int prepare_mark_lost(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_node n;
    const char *reason;
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (begin_health(c, made, "node.mark_lost", "lost", &n, &reason) < 0)
        return -1;
    if (made->nothing)
        return 0;
    if (n.local)
        return mt_api_fail(c, 409, "conflict", "node %s is the machine of the control plane itself", n.name);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n.node_id);
    mt_pg_p_i64(&p, (int64_t)c->ctl->conf.suspect_seconds);
    if (mt_pg_query_one(c->pg, &heard, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_i64(r, 0, 0) > 0 || (!MT_STREQ(n.health, "suspect") && !MT_STREQ(n.health, "offline")))
        return mt_api_fail(c, 409, "conflict", "node %s is %s%s: only a machine that is powered off is lost, and such a one is suspect or offline", n.name,
                           n.health, mt_pg_i64(r, 0, 0) > 0 ? " and was heard just now" : "");
    return say_health(c, cmd, &n, "lost", reason);
}

int mt_api_nodes_mark_lost(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_mark_lost);
}

int mt_api_nodes_confirm_offline(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_confirm_offline);
}

static int prepare_remove(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    struct mt_node n;
    const char *reason;
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    bool force;
    if (mt_api_query_bool(c, "force", false, &force) < 0 || load(c, &n, false, &reason) < 0)
        return -1;
    if (!MT_STREQ(n.admin_state, "disabled"))
        return mt_api_fail(c, 409, "conflict", "node %s is %s: disable it first, so that nothing of it is trusted any more", n.name, n.admin_state);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, n.node_id);
    if (mt_pg_query_one(c->pg, &in_use, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_i64(r, 0, 0) > 0)
        return mt_api_fail(c, 409, "has_dependents", "%lld instances of node %s are not replaced yet", (long long)mt_pg_i64(r, 0, 0), n.name);
    mt_auto_pg_res struct mt_pg_res *vr = NULL;
    if (mt_pg_query_one(c->pg, &volumes_on, &p, &vr, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_i64(vr, 0, 0) > 0 && !force)
        return mt_api_fail(c, 409, "node_has_volumes", "%lld volumes live on node %s, and with it their data would go; move them (moat node drain --stateful migrate) before it is disabled, "
                           "or say that it is powered off (moat node mark-lost) and remove it with --force: their backups stay", (long long)mt_pg_i64(vr, 0, 0), n.name);
    if (mt_pg_i64(vr, 0, 0) > 0 && !MT_STREQ(n.health, "lost")) /* who recovers a volume elsewhere relies on it: the other writer is off */
        return mt_api_fail(c, 409, "node_has_volumes", "%lld volumes live on node %s, which is %s: with them only a machine that is powered off is removed (moat node mark-lost)",
                           (long long)mt_pg_i64(vr, 0, 0), n.name, n.health);
    mt_api_deleted(made, "node.remove", "node_id", n.node_id, false);
    if ((!force && mt_node_cmd_no_volumes(cmd, n.node_id, &c->err) < 0) || mt_node_cmd_certs_end(cmd, n.node_id, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_cmd_rely(cmd, MT_RELY_NODE, n.node_id, NULL, n.version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_NODE_REMOVED, n.node_id, json_pack("{s:s}", "reason", reason ? reason : "removed by an operator"));
}

int mt_api_nodes_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_remove);
}
