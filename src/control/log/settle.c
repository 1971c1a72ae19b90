/* SPDX-License-Identifier: Apache-2.0 */
/* What became of a batch whose COMMIT was on its way when the connection went. The server may not have read it yet, and would
 * carry it out after a look that finds nothing: the session is ended first, and only when it is gone the log is asked. */
#include "control/log/batch.h"

#include "base/clock.h"

#include <poll.h>
#include <string.h>

#define LOOK_MS 5

static const struct mt_pg_stmt st_who = {"log_who", "SELECT pg_backend_pid(), clock_timestamp()"};
/* Process numbers come again: a session that began after ours was seen is another one. */
static const struct mt_pg_stmt st_end = {
    "log_end_session", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start <= $2"};
static const struct mt_pg_stmt st_settle = {"log_settle", "SELECT chain_hash FROM events WHERE event_id = $1"};

int batch_who(struct mt_pg *pg, struct session *ret, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int r = mt_pg_query_one(pg, &st_who, NULL, &res, err);
    if (r < 0)
        return r;
    *ret = (struct session){.pid = (int32_t)mt_pg_i64(res, 0, 0), .seen_us = mt_pg_time(res, 0, 1)};
    return 0;
}

int batch_end_session(const struct mt_pg_conf *conf, const struct session *s, int64_t until_ns, struct mt_err *err)
{
    struct mt_pg_conf own = *conf;
    mt_auto_pg struct mt_pg *pg = NULL;
    own.role = NULL; /* a session is seen and ended by the user that opened it, whatever role it took on */
    own.application_name = "moat appender settling";
    int r = mt_pg_connect(&own, &pg, err);
    while (r == 0) {
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        struct mt_pg_params p;
        mt_pg_p_init(&p);
        mt_pg_p_i32(&p, s->pid);
        mt_pg_p_time(&p, s->seen_us);
        if ((r = mt_pg_query(pg, &st_end, &p, &res, err)) < 0 || mt_pg_rows(res) == 0)
            return r; /* gone: its transaction was decided before it left the list */
        if (mt_clock_mono() >= until_ns)
            return MT_FAIL(err, MT_E_TIMEOUT, "the database session %d does not end", (int)s->pid);
        (void)poll(NULL, 0, LOOK_MS);
    }
    return r;
}

int batch_settle_at(struct batch *b, int64_t head, const uint8_t hash[32], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, head);
    int r = mt_pg_query(b->pg, &st_settle, &p, &res, err);
    if (r < 0)
        return r;
    size_t len = 0;
    const void *there = mt_pg_rows(res) == 1 ? mt_pg_bytes(res, 0, 0, &len) : NULL;
    return there && len == 32 && memcmp(there, hash, 32) == 0; /* the chain hash names the batch */
}
