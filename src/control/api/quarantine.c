/* SPDX-License-Identifier: Apache-2.0 */
/* Quarantine (control-plane.md §9.5, networking.md §6): an instance, or all of an environment or an organisation, may send nothing of
 * its own accord any more; what it serves goes on. Plans carry the addresses (plans/node_plan.c), the agents' firewalls hold them.
 * The events are in no envelope of the organisation: operators only read them. */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"

#define QUARANTINE_OBJECT \
    "json_build_object('target_type',target_type,'target_id',target_id,'reason',reason,'updated_by',set_by," \
    "'resource_version',resource_version," MT_SQL_TIMES ")::text"

MT_SQL_LIST(quarantine, QUARANTINE_OBJECT, "quarantines_view", "target_id", "NOT deleted", "1", "2");
static const struct mt_pg_stmt quarantine_row = {
    "quarantine_row", "SELECT resource_version, deleted, reason, " MT_SQL_TS("created_at") ", " QUARANTINE_OBJECT
                      ", target_type FROM quarantines_view WHERE target_id = $1"};
/* One row when the target is there. */
static const struct mt_pg_stmt target_live = {
    "quarantine_target", "SELECT 1 FROM instances_view WHERE $1 = 'instance' AND instance_id = $2 AND released_at IS NULL"
                         " UNION ALL SELECT 1 FROM envs_view WHERE $1 = 'env' AND env_id = $2 AND NOT deleted"
                         " UNION ALL SELECT 1 FROM orgs_view WHERE $1 = 'org' AND org_id = $2 AND NOT deleted"};

static const struct {
    const char *type;
    enum mt_id_kind kind;
} kinds[] = {{"instance", MT_ID_INSTANCE}, {"env", MT_ID_ENV}, {"org", MT_ID_ORG}};

int mt_api_quarantine_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &quarantine_asc, .desc = &quarantine_desc};
    mt_pg_p_init(&l.params);
    return mt_api_send_list(c, &l);
}

/* The type that an id is of; NULL: none that can be in quarantine. */
static const char *type_of(const char *id)
{
    for (size_t i = 0; i < MT_ARRAY_LEN(kinds); i++)
        if (mt_id_check(kinds[i].kind, id, NULL) == 0)
            return kinds[i].type;
    return NULL;
}

static int load(struct mt_api_call *c, const char *id, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, id);
    return mt_pg_query(c->pg, &quarantine_row, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static int read_target(struct mt_api_call *c, const char **ret_type, const char **ret_id)
{
    static const char *const known[] = {"target_type", "target_id", "reason", NULL};
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "target_type", true, 20, ret_type) < 0 ||
        mt_api_text(c, "target_id", true, MT_ID_SIZE, ret_id) < 0)
        return -1;
    const char *type = type_of(*ret_id);
    bool known_type = false;
    for (size_t i = 0; i < MT_ARRAY_LEN(kinds); i++)
        known_type = known_type || MT_STREQ(kinds[i].type, *ret_type);
    if (!known_type)
        return mt_api_fail(c, 400, "invalid_argument", "'target_type': is instance, env or org");
    if (!type || !MT_STREQ(type, *ret_type))
        return mt_api_fail(c, 400, "invalid_id", "'target_id': is not the id of an %s", *ret_type);
    return 0;
}

static int prepare_create(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL, *live = NULL;
    const char *type, *id, *reason;
    struct mt_pg_params p;
    if (read_target(c, &type, &id) < 0 || mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, type);
    mt_pg_p_text(&p, id);
    if (mt_pg_query(c->pg, &target_live, &p, &live, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(live) == 0)
        return mt_api_not_found(c, type);
    if (load(c, id, &r) < 0)
        return -1;
    bool row = mt_pg_rows(r) > 0, set = row && !mt_pg_bool(r, 0, 1);
    int64_t version = row ? mt_pg_i64(r, 0, 0) : 0;
    made->operation = "quarantine.set";
    made->ids = json_pack("{s:s}", "target_id", id);
    if (set && MT_STREQ(mt_pg_text(r, 0, 2), reason)) {
        json_error_t je;
        made->object = json_loads(mt_pg_text(r, 0, 4), 0, &je);
        made->nothing = true;
        return 0;
    }
    made->status = 201;
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:I,s:o,s:n}", "target_type", type, "target_id", id, "reason", reason, "updated_by",
                             c->who.subject_id, "resource_version", (json_int_t)version + 1, "created_at",
                             row ? json_string(mt_pg_text(r, 0, 3)) : json_null(), "updated_at");
    if (mt_cmd_rely(cmd, MT_RELY_QUARANTINE, id, NULL, set ? version : 0, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_QUARANTINE_SET, id, json_pack("{s:s,s:s,s:s}", "target_type", type, "target_id", id, "reason", reason));
}

int mt_api_quarantine_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_create);
}

static int prepare_delete(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"reason", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *reason, *id = mt_api_param(c, "target_id");
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0)
        return -1;
    if (load(c, id, &r) < 0)
        return -1;
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "quarantine");
    if (mt_api_text(c, "reason", true, 500, &reason) < 0)
        return -1;
    bool gone = mt_pg_bool(r, 0, 1);
    mt_api_deleted(made, "quarantine.clear", "target_id", id, gone);
    if (gone)
        return 0;
    if (mt_cmd_rely(cmd, MT_RELY_QUARANTINE, id, NULL, mt_pg_i64(r, 0, 0), &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_QUARANTINE_CLEARED, id,
                        json_pack("{s:s,s:s,s:s}", "target_type", mt_pg_text(r, 0, 5), "target_id", id, "reason", reason));
}

int mt_api_quarantine_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_delete);
}
