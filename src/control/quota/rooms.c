/* SPDX-License-Identifier: Apache-2.0 */
/* What instances take and may take, by organisation: for the scheduler and for GET quotas. */
#include "control/quota/claims.h"

#include "base/str.h"

#include <stdlib.h>

/* $1 organisation or NULL, $2..$4 limits of the tier */
static const struct mt_pg_stmt rooms = {
    "quota_rooms",
    "WITH u AS (SELECT org_id, count(*) AS n, sum(memory_bytes + 67108864)::int8 AS memory, sum(cpu_millis)::int8 AS cpu"
    " FROM instances_view WHERE released_at IS NULL AND desired_state <> 'stopped' AND status <> 'stopped'"
    " AND ($1::text IS NULL OR org_id = $1) GROUP BY org_id),"
    " q AS (SELECT org_id, max(limit_value) FILTER (WHERE dimension = 'max_instances') AS n,"
    " max(limit_value) FILTER (WHERE dimension = 'max_total_memory_bytes') AS memory,"
    " max(limit_value) FILTER (WHERE dimension = 'max_total_cpu_millis') AS cpu FROM org_quotas_view"
    " WHERE ($1::text IS NULL OR org_id = $1) GROUP BY org_id)"
    " SELECT o.org_id, COALESCE(u.n, 0)::int8, COALESCE(u.memory, 0)::int8, COALESCE(u.cpu, 0)::int8, COALESCE(q.n, $2)::int8,"
    " COALESCE(q.memory, $3)::int8, COALESCE(q.cpu, $4)::int8 FROM orgs_view o LEFT JOIN u USING (org_id)"
    " LEFT JOIN q USING (org_id) WHERE ($1::text IS NULL OR o.org_id = $1) AND (NOT o.deleted OR u.n > 0)"
    " ORDER BY o.org_id COLLATE \"C\""};

int mt_quota_rooms(struct mt_pg *pg, enum mt_quota_tier tier, const char *org_id, struct mt_quota_room **ret, size_t *ret_n,
                   struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org_id);
    mt_pg_p_i64(&p, mt_quota_default(MT_QUOTA_INSTANCES, tier));
    mt_pg_p_i64(&p, mt_quota_default(MT_QUOTA_TOTAL_MEMORY, tier));
    mt_pg_p_i64(&p, mt_quota_default(MT_QUOTA_TOTAL_CPU, tier));
    int rc = mt_pg_query(pg, &rooms, &p, &r, err), n = rc < 0 ? 0 : mt_pg_rows(r);
    if (rc < 0)
        return rc;
    struct mt_quota_room *out = calloc((size_t)n + 1, sizeof *out);
    if (!out)
        return MT_FAIL(err, MT_E_NOMEM, "quotas of %d organisations", n);
    for (int i = 0; i < n; i++) {
        snprintf(out[i].org_id, sizeof out[i].org_id, "%s", mt_pg_text(r, i, 0));
        for (int k = 0; k < 3; k++) {
            out[i].used[k] = mt_pg_i64(r, i, 1 + k);
            out[i].limit[k] = mt_pg_i64(r, i, 4 + k);
        }
    }
    *ret = out;
    *ret_n = (size_t)n;
    return 0;
}

struct mt_place_quota mt_quota_left(const struct mt_quota_room *r)
{
    int64_t left[3];
    for (int k = 0; k < 3; k++)
        left[k] = r->limit[k] < 0 ? INT64_MAX : r->limit[k] - r->used[k];
    return (struct mt_place_quota){.instances = left[0], .memory_bytes = left[1], .cpu_millis = left[2]};
}
