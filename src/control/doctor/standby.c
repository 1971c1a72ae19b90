/* SPDX-License-Identifier: Apache-2.0 */
/* See standby.h. */
#include "control/doctor/standby.h"

/* It is shown to members of pg_read_all_stats only. The role inherits from none, so it has to become that one, for a transaction. */
static const struct mt_pg_stmt st_may = {
    "standby_may_see", "SELECT CASE WHEN pg_has_role(session_user, 'pg_read_all_stats', 'MEMBER') THEN set_config('role', 'pg_read_all_stats', true) ELSE '' END"};
static const struct mt_pg_stmt st_lag = {
    "standby_lag", "SELECT coalesce(max(CASE WHEN state IS NULL THEN -1 ELSE extract(epoch FROM coalesce(replay_lag, interval '0')) * 1000 END), 0)::bigint,"
                   " coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), -1)::bigint FROM pg_stat_replication"};

int mt_standby_lag(struct mt_pg *pg, int64_t *ret_ms, int64_t *ret_bytes, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *may = NULL, *r = NULL;
    struct mt_err ignored;
    int rc = mt_pg_exec(pg, "BEGIN READ ONLY", err);
    if (rc == 0 && (rc = mt_pg_query_one(pg, &st_may, NULL, &may, err)) == 0 && mt_pg_text(may, 0, 0)[0] &&
        (rc = mt_pg_query_one(pg, &st_lag, NULL, &r, err)) == 0) {
        *ret_ms = mt_pg_i64(r, 0, 0);
        if (ret_bytes)
            *ret_bytes = mt_pg_i64(r, 0, 1);
    }
    int end = mt_pg_alive(pg) ? mt_pg_exec(pg, "ROLLBACK", rc < 0 ? &ignored : err) : 0;
    return rc < 0 ? rc : end;
}
