/* SPDX-License-Identifier: Apache-2.0 */
/* Members of an organisation (control-plane.md §9.4). An address is invited; it becomes active when its user signs in, so
 * that nobody learns from an invitation who has an account here. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/api/sql.h"
#include "model/names.h"

#define MEMBER_OBJECT                                                                                            \
    "json_strip_nulls(json_build_object('id',member_id,'org_id',org_id,'email',email,'user_id',user_id,'role',role," \
    "'state',state,'resource_version',resource_version," MT_SQL_TIMES "))::text"

MT_SQL_LIST(members, MEMBER_OBJECT, "org_members_view", "member_id",
            "NOT deleted AND org_id = $1 AND ($2::text IS NULL OR email = $2)", "3", "4");

static const struct mt_pg_stmt member_row = {
    "member_row", "SELECT email, role, resource_version, deleted, " MEMBER_OBJECT " FROM org_members_view"
                  " WHERE org_id = $1 AND member_id = $2"};
/* Another owner that stays one: its row is the witness that the organisation keeps an owner. */
static const struct mt_pg_stmt other_owner = {
    "member_other_owner", "SELECT m.member_id, m.resource_version FROM org_members_view m JOIN users_view u ON u.user_id = m.user_id"
                          " WHERE m.org_id = $1 AND m.member_id <> $2 AND NOT m.deleted AND m.role = 'owner' AND m.state = 'active'"
                          " AND u.state = 'active' ORDER BY m.member_id LIMIT 1"};

int mt_api_members_list(struct mt_api_call *c)
{
    struct mt_api_list l = {.asc = &members_asc, .desc = &members_desc};
    const char *email = mt_api_query(c, "email");
    mt_pg_p_init(&l.params);
    mt_pg_p_text(&l.params, c->org.id);
    mt_pg_p_text(&l.params, email);
    return mt_api_send_list(c, &l);
}

/* Owners are touched by owners only: by those whose token carries what only owners have. */
static bool owner(const struct mt_api_call *c)
{
    return mt_api_may(c, "orgs:admin");
}

static int body_role(struct mt_api_call *c, const char **ret)
{
    if (mt_api_text(c, "role", true, 16, ret) < 0)
        return -1;
    if (mt_role_parse(*ret) == MT_ROLE_NONE)
        return mt_api_fail(c, 400, "invalid_argument", "'role' is owner, admin, developer or readonly");
    if (MT_STREQ(*ret, "owner") && !owner(c))
        return mt_api_fail(c, 403, "forbidden", "only owners make owners");
    return 0;
}

static int prepare_add(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"email", "role", NULL};
    const char *given, *role;
    char id[MT_ID_SIZE], email[321];
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || mt_api_text(c, "email", true, 320, &given) < 0 ||
        body_role(c, &role) < 0)
        return -1;
    if (!mt_email_valid(given, strlen(given)))
        return mt_api_fail(c, 400, "invalid_argument", "'email' is not an address");
    mt_email_fold(given, email, sizeof email);
    mt_id_new(MT_ID_MEMBER, id);
    if (mt_cmd_rely(cmd, MT_RELY_ORG, c->org.id, NULL, c->org.version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_ORG_MEMBER_ADDED, id,
                     json_pack("{s:s,s:s,s:s}", "email", email, "role", role, "state", "invited")) < 0)
        return -1;
    made->status = 201;
    made->operation = "member.add";
    made->ids = json_pack("{s:s}", "member_id", id);
    made->object = json_pack("{s:s,s:s,s:s,s:s,s:s,s:i,s:n,s:n}", "id", id, "org_id", c->org.id, "email", email, "role", role, "state",
                             "invited", "resource_version", 1, "created_at", "updated_at");
    snprintf(made->location, sizeof made->location, "/v1/orgs/%s/members/%s", c->org.id, id);
    return 0;
}

int mt_api_members_create(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_add);
}

static int load(struct mt_api_call *c, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, mt_api_param(c, "member_id"));
    if (mt_pg_query_one(c->pg, &member_row, &p, ret, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, "member") : mt_api_fail_err(c);
    return 0;
}

/* Before an owner stops being one: who else is? The command holds only while that one stays as it is. */
static int keep_an_owner(struct mt_api_call *c, struct mt_cmd *cmd)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->org.id);
    mt_pg_p_text(&p, mt_api_param(c, "member_id"));
    if (mt_pg_query(c->pg, &other_owner, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_fail(c, 409, "last_owner", "the organisation would be left without an active owner; make somebody else an owner first");
    if (mt_cmd_rely(cmd, MT_RELY_MEMBER, mt_pg_text(r, 0, 0), NULL, mt_pg_i64(r, 0, 1), &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

static int prepare_role(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"role", "expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const char *role;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || body_role(c, &role) < 0 || load(c, &r) < 0)
        return -1;
    const char *id = mt_api_param(c, "member_id"), *old = mt_pg_text(r, 0, 1);
    int64_t version = mt_pg_i64(r, 0, 2);
    if (mt_pg_bool(r, 0, 3))
        return mt_api_not_found(c, "member");
    if (MT_STREQ(old, "owner") && !owner(c))
        return mt_api_fail(c, 403, "forbidden", "only owners change owners");
    if (mt_api_check_version(c, true, version, "member") < 0)
        return -1;
    if (MT_STREQ(old, role))
        return mt_api_fail(c, 400, "no_changes", "the member has the role %s already", role);
    if (MT_STREQ(old, "owner") && keep_an_owner(c, cmd) < 0)
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_MEMBER, id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_api_event(c, cmd, MT_EV_ORG_MEMBER_ROLE_UPDATED, id, json_pack("{s:s,s:s}", "old_role", old, "new_role", role)) < 0)
        return -1;
    json_error_t je;
    made->operation = "member.set_role";
    made->ids = json_pack("{s:s}", "member_id", id);
    made->object = json_loads(mt_pg_text(r, 0, 4), 0, &je);
    json_object_set_new(made->object, "role", json_string(role));
    json_object_set_new(made->object, "resource_version", json_integer(version + 1));
    json_object_set_new(made->object, "updated_at", json_null());
    return 0;
}

int mt_api_members_update(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_role);
}

static int prepare_remove(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made)
{
    static const char *const known[] = {"expected_version", NULL};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, known) < 0 || load(c, &r) < 0)
        return -1;
    const char *id = mt_api_param(c, "member_id");
    int64_t version = mt_pg_i64(r, 0, 2);
    bool gone = mt_pg_bool(r, 0, 3), was_owner = MT_STREQ(mt_pg_text(r, 0, 1), "owner");
    made->operation = "member.remove";
    made->ids = json_pack("{s:s}", "member_id", id);
    made->object = json_pack("{s:b,s:b}", "ok", true, "already_deleted", gone);
    made->nothing = gone;
    if (gone)
        return 0;
    if (was_owner && !owner(c))
        return mt_api_fail(c, 403, "forbidden", "only owners remove owners");
    if (mt_api_check_version(c, false, version, "member") < 0 || (was_owner && keep_an_owner(c, cmd) < 0))
        return -1;
    if (mt_cmd_rely(cmd, MT_RELY_MEMBER, id, NULL, version, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_event(c, cmd, MT_EV_ORG_MEMBER_REMOVED, id, json_pack("{s:s}", "email", mt_pg_text(r, 0, 0)));
}

int mt_api_members_delete(struct mt_api_call *c)
{
    return mt_api_mutate(c, prepare_remove);
}
