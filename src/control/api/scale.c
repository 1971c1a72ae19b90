/* SPDX-License-Identifier: Apache-2.0 */
/* How many replicas are wanted (control-plane.md §5.4). The version of the scale state is the sum over its groups' rows. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/volumes/volume_sql.h"
#include "wire/json.h"

static const struct mt_pg_stmt rows = {
    "scale_rows",
    "SELECT d.process_type, d.desired_user, (r.manifest->'processes'->d.process_type->'scaling'->>'min')::int AS min,"
    " (r.manifest->'processes'->d.process_type->'scaling'->>'max')::int AS max, d.resource_version, d.release_id IS NULL,"
    " coalesce((SELECT max(e.event_id) FROM moat.events e WHERE e.aggregate_type = 'env' AND e.aggregate_id = d.env_id"
    "  AND e.event_type = 'env.scale_set'), 0),"
    " coalesce(jsonb_array_length(r.manifest->'processes'->d.process_type->'mounts'), 0) > 0 OR EXISTS (SELECT 1 FROM " MT_SQL_BY_HAND("d") ")"
    " FROM env_desired_view d LEFT JOIN releases_view r ON r.release_id = d.release_id WHERE d.env_id = $1"
    " ORDER BY d.process_type COLLATE \"C\""};

enum { TYPE = 0, USER, MIN, MAX, VERSION, CLEARED, SCALED, STATEFUL };

static int load(struct mt_api_call *c, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    return mt_pg_query(c->pg, &rows, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

/* The version callers name: the event that set the scale last; it moves by scaling only, not by what the scheduler notes. */
static int64_t version_of(const struct mt_pg_res *r)
{
    return mt_pg_rows(r) ? mt_pg_i64(r, 0, SCALED) : 0;
}

/* The state, with @scales ([{process_type, desired|null}]) laid over it. NULL: as it is. */
static json_t *state(struct mt_api_call *c, const struct mt_pg_res *r, const json_t *scales)
{
    json_t *list = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const char *type = mt_pg_text(r, i, TYPE);
        int64_t min = mt_pg_i64_or(r, i, MIN, 1), max = mt_pg_i64_or(r, i, MAX, 100), user = mt_pg_i64_or(r, i, USER, -1);
        size_t k;
        json_t *s;
        if (mt_pg_bool(r, i, CLEARED))
            continue;
        json_array_foreach (scales, k, s)
            if (MT_STREQ(json_string_value(json_object_get(s, "process_type")), type)) {
                json_t *d = json_object_get(s, "desired");
                user = json_is_integer(d) ? json_integer_value(d) : -1;
            }
        int64_t desired = user >= 0 ? (user > max ? max : user) : min;
        json_array_append_new(list, json_pack("{s:s,s:I,s:s,s:I}", "process_type", type, "desired", (json_int_t)desired,
                                              "source", user >= 0 ? "user" : "manifest", "max", (json_int_t)max));
    }
    return json_pack("{s:s,s:o,s:I}", "env_id", c->env.id, "processes", list, "resource_version", (json_int_t)version_of(r));
}

int mt_api_scale_get(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || load(c, &r) < 0)
        return -1;
    return mt_api_send(c, 200, state(c, r, NULL));
}

/* One entry of the request: known process, in range; relied on, and copied to @out. */
static int take_one(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const json_t *in, json_t *out)
{
    const char *type = json_string_value(json_object_get(in, "process_type")), *key;
    json_t *desired = json_object_get(in, "desired"), *v;
    char shown[48];
    json_object_foreach ((json_t *)(uintptr_t)in, key, v)
        if (!MT_STREQ(key, "process_type") && !MT_STREQ(key, "desired"))
            return mt_api_fail(c, 400, "unknown_field", "an entry of 'processes' has process_type and desired only");
    if (!type || !desired || (!json_is_integer(desired) && !json_is_null(desired)))
        return mt_api_fail(c, 400, "invalid_argument", "an entry of 'processes' is {process_type, desired}, desired a number or null");
    for (int i = 0; i < mt_pg_rows(r); i++) {
        if (!MT_STREQ(mt_pg_text(r, i, TYPE), type) || mt_pg_bool(r, i, CLEARED))
            continue;
        int64_t max = mt_pg_i64_or(r, i, MAX, 100), n = json_integer_value(desired);
        if (json_is_null(desired))
            n = mt_pg_i64_or(r, i, MIN, 1);
        if (n > 1 && mt_pg_bool(r, i, STATEFUL))
            return mt_api_fail(c, 409, "volume_replica_limit", "'%s' mounts volumes, and a volume belongs to one instance: it can have 0 or 1 replicas", type);
        if (json_is_integer(desired) && (n < 0 || n > max))
            return mt_api_fail(c, 400, "invalid_argument", "'%s' can have 0 to %lld replicas", type, (long long)max);
        if (mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, type, mt_pg_i64(r, i, VERSION), &c->err) < 0)
            return mt_api_fail_err(c);
        json_array_append_new(out, json_pack("{s:s,s:O}", "process_type", type, "desired", desired));
        return 0;
    }
    return mt_api_fail(c, 400, "unknown_process_type", "nothing called '%s' is deployed in this environment",
                       mt_printable(type, strlen(type), shown, sizeof shown));
}

static int prepare(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"processes", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_t *list = json_object_get(c->body, "processes"), *in, *scales;
    size_t i;
    bool dry_run;
    if (mt_api_dry_run(c, &dry_run) < 0 || mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 ||
        load(c, &r) < 0)
        return -1;
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > 16)
        return mt_api_fail(c, 400, "invalid_argument", "'processes': is a list of 1 to 16 entries");
    if (mt_api_check_version(c, true, version_of(r), "scale") < 0)
        return -1;
    scales = json_array();
    json_array_foreach (list, i, in)
        if (take_one(c, cmd, r, in, scales) < 0) {
            json_decref(scales);
            return -1;
        }
    made->operation = "scale.set";
    made->ids = json_pack("{s:s}", "env_id", c->env.id);
    made->object = state(c, r, scales);
    made->version_is_event = true;
    made->dry_run = dry_run;
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0) {
        json_decref(scales);
        return mt_api_fail_err(c);
    }
    return mt_api_event(c, cmd, MT_EV_ENV_SCALE_SET, c->env.id, json_pack("{s:o}", "scales", scales));
}

int mt_api_scale_put(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare);
}

/* ---------------------------------------------------------------- rebalance */

/* 1 asked for, 0 left out. */
static int asked_for(const json_t *list, const char *type)
{
    size_t i;
    json_t *v;
    if (!list)
        return 1;
    json_array_foreach ((json_t *)(uintptr_t)list, i, v)
        if (json_is_string(v) && MT_STREQ(json_string_value(v), type))
            return 1;
    return 0;
}

static int check_names(struct mt_api_call *c, const struct mt_pg_res *r, const json_t *list)
{
    size_t i;
    json_t *v;
    if (list && (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > 16))
        return mt_api_fail(c, 400, "invalid_argument", "'process_types': is a list of 1 to 16 names");
    json_array_foreach ((json_t *)(uintptr_t)list, i, v) {
        char shown[48];
        const char *t = json_string_value(v);
        int row = -1;
        for (int k = 0; t && k < mt_pg_rows(r); k++)
            if (MT_STREQ(mt_pg_text(r, k, TYPE), t) && !mt_pg_bool(r, k, CLEARED))
                row = k;
        if (!t)
            return mt_api_fail(c, 400, "invalid_argument", "'process_types': is a list of names");
        if (row < 0)
            return mt_api_fail(c, 400, "unknown_process_type", "nothing called '%s' is deployed in this environment",
                               mt_printable(t, strlen(t), shown, sizeof shown));
        if (mt_pg_bool(r, row, STATEFUL))
            return mt_api_fail(c, 400, "not_supported", "'%s' has volumes and stays where they are", t);
    }
    return 0;
}

static int prepare_rebalance(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"process_types", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_t *list = json_object_get(c->body, "process_types");
    list = json_is_null(list) ? NULL : list;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, &r) < 0 || check_names(c, r, list) < 0)
        return -1;
    mt_auto_json json_t *types = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const char *type = mt_pg_text(r, i, TYPE);
        if (mt_pg_bool(r, i, CLEARED) || mt_pg_bool(r, i, STATEFUL) || !asked_for(list, type))
            continue;
        if (mt_cmd_rely(cmd, MT_RELY_DESIRED, c->env.id, type, mt_pg_i64(r, i, VERSION), &c->err) < 0)
            return mt_api_fail_err(c);
        json_array_append_new(types, json_string(type));
    }
    if (json_array_size(types) == 0)
        return mt_api_fail(c, 409, "conflict", "nothing that could move is deployed in this environment");
    made->operation = "rebalance.create";
    made->ids = json_pack("{s:s}", "env_id", c->env.id);
    made->object = state(c, r, NULL);
    if (mt_cmd_rely(cmd, MT_RELY_ENV_LIVE, c->env.id, NULL, 1, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ENV_REBALANCE_REQUESTED, c->env.id, json_pack("{s:O}", "process_types", types));
}

int mt_api_rebalance_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_rebalance);
}
