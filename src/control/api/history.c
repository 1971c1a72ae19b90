/* SPDX-License-Identifier: Apache-2.0 */
/* The state at a moment of the past, and what changed between two: from the log, by a replay into tables of a connection of its
 * own (views/past.h). One set of handlers for organisation, app and environment: the path says which. */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/api/changes.h"
#include "control/api/moment.h"
#include "control/api/sql.h"
#include "control/api/state.h"
#include "control/limits/request.h"
#include "control/views/past.h"
#include "model/json_patch.h"
#include "wire/json.h"

#define BUSY_RETRY_S 1

static enum mt_state_of of_path(const struct mt_api_call *c)
{
    return c->env.id[0] ? MT_STATE_ENV : c->app.id[0] ? MT_STATE_APP : MT_STATE_ORG;
}

static const char *noun(const struct mt_api_call *c)
{
    static const char *const nouns[] = {[MT_STATE_ORG] = "organisation", [MT_STATE_APP] = "app", [MT_STATE_ENV] = "environment"};
    return nouns[of_path(c)];
}

static int no_memory(struct mt_api_call *c)
{
    (void)MT_FAIL(&c->err, MT_E_NOMEM, "no memory for a look into the past");
    return mt_api_fail_err(c);
}

/* A look costs a replay: fewer of them than of other reads. */
static int limited(struct mt_api_call *c)
{
    return mt_limits_subject(c, MT_LIMIT_HISTORY, c->org.id);
}

static int fail_past(struct mt_api_call *c)
{
    if (c->err.code == MT_E_CONFLICT) {
        c->problem.retry_after = BUSY_RETRY_S;
        return mt_api_fail(c, 503, "unavailable", "%s; this one comes after them: try again in %d s", c->err.msg, BUSY_RETRY_S);
    }
    if (c->err.code == MT_E_LIMIT)
        return mt_api_fail(c, 400, "not_supported", "%s: ask for an earlier moment, or for one %s", c->err.msg,
                           of_path(c) == MT_STATE_ORG ? "app or environment" : "environment");
    if (c->err.code == MT_E_TIMEOUT)
        return mt_api_fail(c, 504, "projection_timeout", "the past was not reached in time (%s): ask for an earlier moment, or for one environment",
                           c->err.msg);
    return mt_api_fail_err(c);
}

static int open_past(struct mt_api_call *c, struct mt_past **ret)
{
    struct mt_replay_scope s = {{0}};
    snprintf(s.org_id, sizeof s.org_id, "%s", c->org.id);
    snprintf(s.app_id, sizeof s.app_id, "%s", c->app.id);
    snprintf(s.env_id, sizeof s.env_id, "%s", c->env.id);
    return mt_past_open(&c->ctl->pg_conf, &s, ret, &c->err) < 0 ? fail_past(c) : 0;
}

/* On to @m, and the state there. */
static int state_at(struct mt_api_call *c, struct mt_past *past, const struct mt_moment *m, json_t **ret)
{
    struct mt_pg *live = c->pg;
    if (mt_past_to(past, m->event_id, &c->err) < 0)
        return fail_past(c);
    c->pg = mt_past_pg(past);
    c->past = m->event_id;
    int rc = mt_api_state(c, of_path(c), ret);
    c->pg = live;
    c->past = 0;
    if (rc == 0 && json_is_object(*ret))
        json_object_set_new(*ret, "as_of_event_id", json_integer(m->event_id));
    return rc;
}

static json_t *moment_json(const char *asked, const struct mt_moment *m)
{
    char when[MT_RFC3339_LEN];
    return json_pack("{s:s,s:I,s:s}", "asked", asked, "event_id", (json_int_t)m->event_id, "last_event_at", mt_rfc3339(m->own_us, when));
}

/* ---- status ---- */

static const struct mt_pg_stmt born = {
    "history_born", "SELECT event_id, occurred_at FROM moat.events WHERE aggregate_id = $1 AND aggregate_seq = 1"
                    " AND aggregate_type IN ('org', 'app', 'env') AND org_id = $2"};
static const struct mt_pg_stmt died = {
    "history_died", "SELECT event_id, occurred_at FROM moat.events WHERE aggregate_id = $1 AND org_id = $2 AND event_id <= $3"
                    " AND event_type IN ('org.deleted', 'app.deleted', 'env.deleted') ORDER BY aggregate_seq DESC LIMIT 1"};

/* It is not there at @m: was it not yet, or no more? */
static int absent(struct mt_api_call *c, const char *asked, const struct mt_moment *m)
{
    const struct mt_api_owner *o = of_path(c) == MT_STATE_ENV ? &c->env : of_path(c) == MT_STATE_APP ? &c->app : &c->org;
    mt_auto_pg_res struct mt_pg_res *b = NULL, *d = NULL;
    struct mt_pg_params p;
    char when[MT_RFC3339_LEN], safe[80];
    const char *at = mt_printable(asked, strlen(asked), safe, sizeof safe);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, o->id);
    mt_pg_p_text(&p, c->org.id);
    if (mt_pg_query(c->pg, &born, &p, &b, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_pg_p_i64(&p, m->event_id);
    if (mt_pg_query(c->pg, &died, &p, &d, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(d))
        return mt_api_fail(c, 404, "not_found", "the %s '%s' was gone at %s: event @%lld of %s deleted it; ask for a moment before", noun(c), o->name, at,
                           (long long)mt_pg_i64(d, 0, 0), mt_rfc3339(mt_pg_time(d, 0, 1), when));
    if (mt_pg_rows(b))
        return mt_api_fail(c, 404, "not_found", "the %s '%s' was not there yet at %s: event @%lld of %s made it; ask for that or a later moment", noun(c),
                           o->name, at, (long long)mt_pg_i64(b, 0, 0), mt_rfc3339(mt_pg_time(b, 0, 1), when));
    return mt_api_not_found(c, noun(c));
}

/* The present, from the live views as one snapshot shows them. */
static int present(struct mt_api_call *c, json_t **ret)
{
    struct mt_err ignored;
    int64_t head = 0;
    int rc = 0;
    if (mt_pg_exec(c->pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE moat.views_state IN ACCESS SHARE MODE", &c->err) < 0 ||
        mt_log_position(c->pg, &head, NULL, &c->err) < 0)
        rc = mt_api_fail_err(c);
    if (rc == 0)
        rc = mt_api_state(c, of_path(c), ret);
    if (mt_pg_alive(c->pg))
        (void)mt_pg_exec(c->pg, "ROLLBACK", &ignored);
    if (rc == 0 && json_is_null(*ret))
        return mt_api_not_found(c, noun(c));
    if (rc == 0)
        json_object_set_new(*ret, "as_of_event_id", json_integer(head));
    return rc;
}

int mt_api_history_status(struct mt_api_call *c)
{
    const char *at = mt_api_query(c, "at");
    struct mt_moment m = {0};
    struct mt_past *past = NULL;
    json_t *state = NULL;
    if (mt_api_query_done(c) < 0 || limited(c) < 0)
        return -1;
    if (!at)
        return present(c, &state) < 0 ? (json_decref(state), -1) : mt_api_send(c, 200, state);
    if (mt_api_moment(c, "at", at, &m) < 0 || open_past(c, &past) < 0)
        return -1;
    int rc = state_at(c, past, &m, &state);
    mt_past_close(past);
    if (rc == 0 && json_is_null(state))
        rc = absent(c, at, &m);
    if (rc < 0) {
        json_decref(state);
        return -1;
    }
    json_object_set_new(state, "at", moment_json(at, &m));
    return mt_api_send(c, 200, state);
}

/* ---- diff ---- */

/* Instances with events after $1, in the past's views. $2 the moment's end, $3 whether one environment was asked for, $4 one app. */
static const struct mt_pg_stmt touched = {
    "history_touched",
    "SELECT json_strip_nulls(json_build_object('id',i.instance_id,'env_id',i.env_id,'where',CASE WHEN $3 THEN '' WHEN $4 THEN e.name"
    " ELSE a.name || '/' || e.name END,'process_type',i.process_type,'release_number',r.number,'born',b.event_id > $1,'born_at'," MT_SQL_TS("i.created_at")
    ",'status',i.status,'released',i.released_at IS NOT NULL,'at'," MT_SQL_TS("i.last_transition_at") ",'reason',i.desired_reason,"
    "'reason_code',x.p->>'reason_code','reason_detail',x.p->>'reason_detail','exit_code',(x.p->>'exit_code')::int))::text"
    " FROM instances_view i JOIN envs_view e ON e.env_id = i.env_id JOIN apps_view a ON a.app_id = i.app_id"
    " LEFT JOIN releases_view r ON r.release_id = i.release_id"
    " JOIN moat.events b ON b.aggregate_id = i.instance_id AND b.aggregate_seq = 1 AND b.aggregate_type = 'instance'"
    " LEFT JOIN LATERAL (SELECT s.payload AS p FROM moat.events s WHERE s.aggregate_id = i.instance_id AND s.aggregate_type = 'instance'"
    "  AND s.event_type = 'instance.status_changed' AND s.event_id <= $2 AND s.payload->>'reason_code' IS NOT NULL"
    "  ORDER BY s.aggregate_seq DESC LIMIT 1) x ON true"
    " WHERE i.last_event_id > $1 ORDER BY i.instance_id COLLATE \"C\""};

static int instances(struct mt_api_call *c, struct mt_past *past, const struct mt_moment m[2], const json_t *before, json_t *changes)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    json_error_t je;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, m[0].event_id);
    mt_pg_p_i64(&p, m[1].event_id);
    mt_pg_p_bool(&p, of_path(c) == MT_STATE_ENV);
    mt_pg_p_bool(&p, of_path(c) == MT_STATE_APP);
    if (mt_pg_query(mt_past_pg(past), &touched, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_auto_json json_t *rows = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++)
        json_array_append_new(rows, json_loads(mt_pg_text(r, i, 0), 0, &je));
    return mt_changes_instances(changes, before, rows) < 0 ? no_memory(c) : 0;
}

/* Both states, and what lies between them in words. */
static int compare(struct mt_api_call *c, const struct mt_moment m[2], json_t *state[2], json_t *changes)
{
    struct mt_past *past = NULL;
    if (open_past(c, &past) < 0)
        return -1;
    int rc = state_at(c, past, &m[0], &state[0]);
    if (rc == 0)
        rc = state_at(c, past, &m[1], &state[1]);
    if (rc == 0 && (json_is_object(state[0]) || json_is_object(state[1])) && mt_changes(changes, state[0], state[1]) < 0)
        rc = no_memory(c);
    if (rc == 0)
        rc = instances(c, past, m, state[0], changes);
    mt_past_close(past);
    return rc;
}

static int send_diff(struct mt_api_call *c, const char *asked[2], const struct mt_moment m[2], json_t *state[2], json_t *changes)
{
    json_t *patch = mt_json_patch(state[0], state[1]);
    if (!patch)
        return no_memory(c);
    size_t noise = m[0].event_id == m[1].event_id ? 0 : json_is_object(state[0]) && json_is_object(state[1]); /* as_of_event_id */
    return mt_api_send(c, 200, json_pack("{s:s,s:o,s:o,s:b,s:O,s:o}", "of", noun(c), "from", moment_json(asked[0], &m[0]), "to",
                                         moment_json(asked[1], &m[1]), "same", json_array_size(patch) <= noise, "changes", changes, "patch", patch));
}

int mt_api_history_diff(struct mt_api_call *c)
{
    const char *asked[2] = {mt_api_query(c, "from"), mt_api_query(c, "to")};
    struct mt_moment m[2] = {{0}};
    json_t *state[2] = {NULL, NULL};
    if (mt_api_query_done(c) < 0)
        return -1;
    if (!asked[0])
        return mt_api_fail(c, 400, "invalid_argument", "the query parameter 'from' is missing: the moment to compare with, as -2h");
    if (!asked[1])
        asked[1] = "now";
    if (limited(c) < 0 || mt_api_moment(c, "from", asked[0], &m[0]) < 0 || mt_api_moment(c, "to", asked[1], &m[1]) < 0)
        return -1;
    if (m[0].event_id > m[1].event_id)
        return mt_api_fail(c, 400, "invalid_argument", "'from' (event @%lld) lies after 'to' (event @%lld): swap them", (long long)m[0].event_id,
                           (long long)m[1].event_id);
    mt_auto_json json_t *changes = json_array();
    int rc = compare(c, m, state, changes);
    if (rc == 0 && json_is_null(state[0]) && json_is_null(state[1]))
        rc = absent(c, asked[1], &m[1]);
    if (rc == 0)
        rc = send_diff(c, asked, m, state, changes);
    json_decref(state[0]);
    json_decref(state[1]);
    return rc;
}
