/* SPDX-License-Identifier: Apache-2.0 */
/* The first operator's setup link. Whoever may run this on the host may read the database anyway. */
#include "control/first_operator.h"

#include "control/auth/session.h"
#include "control/log/schema.h"

static const struct mt_pg_stmt can_sign_in = {
    "init_operators", "SELECT 1 FROM users_view u JOIN moat.user_credentials x ON x.user_id = u.user_id"
                      " WHERE u.is_operator AND u.state = 'active' LIMIT 1"};

int mt_first_operator(const struct mt_control_conf *conf, const uint8_t mac_key[32], bool again, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const struct mt_pg_conf pc = {.conninfo = conf->database_url, .application_name = "moat-control init", .role = conf->database_role,
                                  .options = MT_LOG_SEES_ALL};
    char code[MT_TOKEN_SIZE];
    int rc = mt_pg_connect(&pc, &pg, err);
    if (rc < 0 || (rc = mt_pg_query(pg, &can_sign_in, NULL, &r, err)) < 0)
        return rc;
    if (mt_pg_rows(r) && !again)
        return MT_FAIL(err, MT_E_CONFLICT, "an operator can sign in already; operators make setup links by `moat admin users create`;"
                                           " --force makes one here for a further operator");
    if ((rc = mt_setup_first(pg, mac_key, code, err)) < 0)
        return rc;
    printf("Open this link within 24 hours; it works once and makes an operator:\n\n  %s/setup?code=%s\n\n", conf->public_url, code);
    explicit_bzero(code, sizeof code);
    return 0;
}
