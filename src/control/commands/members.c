/* SPDX-License-Identifier: Apache-2.0 */
/* Activating invitations. */
#include "control/commands/members.h"

#include "base/cleanup.h"

#define APPEND_TIMEOUT_MS 5000

static const struct mt_pg_stmt invited = {
    "members_invited", "SELECT m.member_id, m.org_id, m.resource_version FROM users_view u JOIN org_members_view m ON m.email = u.email"
                       " AND NOT m.deleted AND m.state = 'invited' JOIN orgs_view o ON o.org_id = m.org_id AND NOT o.deleted"
                       " WHERE u.user_id = $1 AND u.state = 'active' ORDER BY m.member_id LIMIT 50"};

int mt_members_activate(struct mt_pg *pg, struct mt_appender *ap, const char *user_id, const char *request_id, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_pg_params p;
    const struct mt_cmd_actor actor = {.actor_type = "user", .actor_id = user_id, .request_id = request_id};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_id);
    int rc = mt_pg_query(pg, &invited, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    if ((rc = mt_cmd_new(&actor, &cmd, err)) < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(r); i++) {
        struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, i, 1)};
        const char *member = mt_pg_text(r, i, 0);
        if ((rc = mt_cmd_rely(cmd, MT_RELY_MEMBER, member, NULL, mt_pg_i64(r, i, 2), err)) < 0 ||
            (rc = mt_cmd_event(cmd, MT_EV_ORG_MEMBER_ACTIVATED, member, &ids, json_pack("{s:s}", "user_id", user_id), err)) < 0)
            return rc;
    }
    rc = mt_append(ap, MT_TAKE(cmd), APPEND_TIMEOUT_MS, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}
