/* SPDX-License-Identifier: Apache-2.0 */
/* Device logins on their table. */
#include "control/auth/device.h"

#include "base/str.h"


static const struct mt_pg_stmt start = {
    "device_start",
    "INSERT INTO moat.device_codes (code_hash, user_code, client_name, client_ip, scopes, expires_at)"
    " SELECT $1, $2, $3, $4, $5, now() + make_interval(secs => 600)"
    " WHERE (SELECT count(*) FROM moat.device_codes WHERE expires_at > now() AND state = 'pending' AND client_ip = $4) < 50"
    " AND (SELECT count(*) FROM moat.device_codes WHERE expires_at > now() AND state = 'pending') < 20000"};
/* Codes whose time is over make room for their user code. */
static const struct mt_pg_stmt forget = {
    "device_forget", "DELETE FROM moat.device_codes WHERE user_code = $1 AND state = 'pending' AND expires_at <= now()"};
static const struct mt_pg_stmt find = {
    "device_find", "SELECT state, expires_at <= now(), user_id, client_name, scopes, interval_s,"
                   " COALESCE(polled_at > now() - make_interval(secs => interval_s - 0.5), false)"
                   " FROM moat.device_codes WHERE code_hash = $1 FOR UPDATE"};
static const struct mt_pg_stmt polled = {
    "device_polled", "UPDATE moat.device_codes SET polled_at = now(), interval_s = LEAST(interval_s + $2, 60) WHERE code_hash = $1"};
static const struct mt_pg_stmt consumed = {"device_consumed", "UPDATE moat.device_codes SET state = 'consumed' WHERE code_hash = $1"};
static const struct mt_pg_stmt show = {
    "device_show", "SELECT client_name, client_ip, scopes FROM moat.device_codes WHERE user_code = $1 AND state = 'pending'"
                   " AND expires_at > now()"};
static const struct mt_pg_stmt decide = {
    "device_decide", "UPDATE moat.device_codes SET state = $2, user_id = $3, scopes = $4 WHERE user_code = $1 AND state = 'pending'"
                     " AND expires_at > now()"};

int mt_device_start(struct mt_pg *pg, const char *client_name, const char *client_ip, uint64_t scopes, struct mt_device_started *ret,
                    struct mt_err *err)
{
    for (int tries = 0; tries < 5; tries++) {
        uint8_t hash[32];
        struct mt_pg_params p;
        struct mt_pg_arr names;
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        mt_token_new(MT_TOKEN_DEVICE, ret->device_code, hash);
        mt_user_code_new(ret->user_code);
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, ret->user_code);
        int rc = mt_pg_query(pg, &forget, &p, NULL, err);
        if (rc < 0)
            return rc;
        mt_scopes_arr(scopes, &names);
        mt_pg_p_init(&p);
        mt_pg_p_bytes(&p, hash, sizeof hash);
        mt_pg_p_text(&p, ret->user_code);
        mt_pg_p_text(&p, client_name);
        mt_pg_p_text(&p, client_ip);
        mt_pg_p_arr(&p, &names);
        rc = mt_pg_query(pg, &start, &p, &r, err);
        mt_pg_arr_done(&names);
        if (rc == 0 && mt_pg_affected(r) == 0)
            return MT_FAIL(err, MT_E_LIMIT, "too many logins are pending");
        if (rc != -MT_E_CONFLICT) /* that user code is out: take another */
            return rc;
    }
    return MT_FAIL(err, MT_E_LIMIT, "too many logins are pending");
}

static int hash_only(struct mt_pg *pg, const struct mt_pg_stmt *s, const uint8_t hash[32], struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, 32);
    return mt_pg_query(pg, s, &p, NULL, err);
}

static int poll_row(struct mt_pg *pg, const uint8_t hash[32], const struct mt_pg_res *r, struct mt_granted *ret, int *ret_interval,
                    enum mt_device_end *ret_end, struct mt_err *err)
{
    const char *state = mt_pg_text(r, 0, 0);
    struct mt_pg_params p;
    bool hasty = mt_pg_bool(r, 0, 6);
    *ret_interval = (int)mt_pg_i64(r, 0, 5);
    if (MT_STREQ(state, "consumed")) {
        *ret_end = MT_DEVICE_EXPIRED;
        return 0;
    }
    if (MT_STREQ(state, "denied")) {
        *ret_end = MT_DEVICE_DENIED;
        return 0;
    }
    if (mt_pg_bool(r, 0, 1)) {
        *ret_end = MT_DEVICE_EXPIRED;
        return 0;
    }
    if (MT_STREQ(state, "approved") && !hasty) {
        *ret_end = MT_DEVICE_OK;
        int rc = hash_only(pg, &consumed, hash, err);
        if (rc < 0)
            return rc;
        return mt_grant_session(pg, mt_pg_text(r, 0, 2), mt_pg_text(r, 0, 3), mt_scopes_col(r, 0, 4), ret, err);
    }
    *ret_end = hasty ? MT_DEVICE_SLOW_DOWN : MT_DEVICE_PENDING;
    *ret_interval += hasty ? MT_DEVICE_INTERVAL : 0;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, 32);
    mt_pg_p_i32(&p, hasty ? MT_DEVICE_INTERVAL : 0);
    return mt_pg_query(pg, &polled, &p, NULL, err);
}

int mt_device_poll(struct mt_pg *pg, const char *device_code, struct mt_granted *ret, int *ret_interval, enum mt_device_end *ret_end,
                   struct mt_err *err)
{
    uint8_t hash[32];
    struct mt_err ignored;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    *ret = (struct mt_granted){0};
    *ret_end = MT_DEVICE_UNKNOWN;
    *ret_interval = MT_DEVICE_INTERVAL;
    if (!mt_token_hash(MT_TOKEN_DEVICE, device_code, hash))
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_bytes(&p, hash, sizeof hash);
    int rc = mt_pg_exec(pg, "BEGIN", err);
    if (rc < 0)
        return rc;
    rc = mt_pg_query(pg, &find, &p, &r, err);
    if (rc == 0 && mt_pg_rows(r) == 1)
        rc = poll_row(pg, hash, r, ret, ret_interval, ret_end, err);
    if (rc == 0)
        return mt_pg_exec(pg, "COMMIT", err);
    if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    return rc;
}

int mt_device_show(struct mt_pg *pg, const char *user_code, struct mt_device_shown *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_code);
    int rc = mt_pg_query_one(pg, &show, &p, &r, err);
    if (rc < 0)
        return rc;
    snprintf(ret->client_name, sizeof ret->client_name, "%s", mt_pg_text(r, 0, 0));
    snprintf(ret->client_ip, sizeof ret->client_ip, "%s", mt_pg_text(r, 0, 1));
    ret->scopes = mt_scopes_col(r, 0, 2);
    return 0;
}

int mt_device_decide(struct mt_pg *pg, const char *user_code, const char *user_id, bool approve, uint64_t scopes, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct mt_pg_arr names;
    mt_scopes_arr(scopes, &names);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, user_code);
    mt_pg_p_text(&p, approve ? "approved" : "denied");
    mt_pg_p_text(&p, user_id);
    mt_pg_p_arr(&p, &names);
    int rc = mt_pg_query(pg, &decide, &p, &r, err);
    mt_pg_arr_done(&names);
    if (rc == 0 && mt_pg_affected(r) == 0)
        return MT_FAIL(err, MT_E_NOT_FOUND, "the code is not pending");
    return rc;
}
