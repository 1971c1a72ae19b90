/* SPDX-License-Identifier: Apache-2.0 */
/* Attempts of instances that failed, newest first. What a workload printed is in them, so the right is that of its logs. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"
#include "control/api/sql.h"
#include "control/api/trail.h"
#include "model/reason.h"
#include "wire/json.h"

static const struct mt_pg_stmt list = {
    "autopsies_list",
    "SELECT json_build_object('boot_id',boot_id,'instance_id',instance_id,'release_id',release_id,'process_type',process_type,"
    "'node_id',node_id,'ended_at'," MT_SQL_TS("ended_at") ",'reason_code',reason_code)::text, record::text, reason_code"
    " FROM moat.autopsies WHERE env_id = $1 AND ($2::text IS NULL OR release_id = $2) AND ($3::text IS NULL OR instance_id = $3)"
    " AND ($4::text IS NULL OR process_type = $4) ORDER BY ended_at DESC, boot_id DESC LIMIT $5"};

int mt_api_autopsies_list(struct mt_api_call *c)
{
    static const char *const filters[] = {"release_id", "instance_id", "process_type"};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    json_error_t je;
    int64_t limit;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    for (size_t i = 0; i < 3; i++) {
        const char *v = mt_api_query(c, filters[i]);
        if (v && strlen(v) > 63)
            return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is too long", filters[i]);
        mt_pg_p_text(&p, v);
    }
    if (mt_api_query_i64(c, "limit", 1, 50, 10, &limit) < 0 || mt_api_query_done(c) < 0 || mt_api_trail_read(c, "logs.read", NULL, NULL) < 0)
        return -1;
    mt_pg_p_i64(&p, limit);
    if (mt_pg_query(c->pg, &list, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *items = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++) {
        json_t *o = json_loads(mt_pg_text(r, i, 0), 0, &je), *record = json_loads(mt_pg_text(r, i, 1), 0, &je);
        enum mt_reason reason = mt_reason_from_code(mt_pg_text(r, i, 2));
        if (reason != MT_REASON_NONE)
            (void)mt_json_set_str(o, "reason_text", mt_reason_info(reason)->text);
        if (record)
            json_object_set_new(o, "record", record);
        json_array_append_new(items, o);
    }
    return mt_api_send(c, 200, json_pack("{s:o}", "items", items));
}
