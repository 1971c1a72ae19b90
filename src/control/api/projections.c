/* SPDX-License-Identifier: Apache-2.0 */
/* The views themselves: where each stands, and asking for a rebuild. The projector of one server carries it out (keeper.c). */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/call.h"
#include "control/keeper.h"
#include "control/views/projections.h"

/* A live view stands at the head by construction: it is written with the events. */
static const struct mt_pg_stmt list = {
    "projections_list",
    "SELECT json_strip_nulls(json_build_object('name',c.projection,'state',c.state,'last_applied_event_id',"
    "CASE c.state WHEN 'live' THEN h.last_event_id ELSE c.last_applied_event_id END,'head_event_id',h.last_event_id,"
    "'updated_at'," MT_SQL_TS("c.updated_at") ",'rebuild',CASE WHEN r.view IS NULL THEN NULL ELSE json_build_object("
    "'view',r.view,'requested_at'," MT_SQL_TS("r.requested_at") ",'requested_by',r.requested_by,'failed',r.failed) END))::text"
    " FROM moat.projection_checkpoints c CROSS JOIN moat.event_counter h"
    " LEFT JOIN LATERAL (SELECT * FROM moat.rebuild_requests q WHERE q.view IN (c.projection, 'all') ORDER BY q.requested_at LIMIT 1) r ON true"
    " ORDER BY c.projection"};
/* Asking twice for what is under way changes nothing; one that failed is tried again. */
static const struct mt_pg_stmt ask = {
    "projections_ask", "INSERT INTO moat.rebuild_requests (view, requested_by) VALUES ($1, $2) ON CONFLICT (view) DO UPDATE"
                       " SET failed = NULL RETURNING json_build_object('view',view,'requested_at'," MT_SQL_TS("requested_at")
                       ",'requested_by',requested_by)::text"};

int mt_api_projections_list(struct mt_api_call *c)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_pg_query(c->pg, &list, NULL, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *items = json_array();
    for (int i = 0; i < mt_pg_rows(r); i++)
        json_array_append_new(items, json_loads(mt_pg_text(r, i, 0), 0, &je));
    return mt_api_send(c, 200, json_pack("{s:o,s:n}", "items", items, "next_cursor"));
}

int mt_api_projections_rebuild(struct mt_api_call *c)
{
    static const char *const fields[] = {NULL};
    const char *name = mt_api_param(c, "name");
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    json_error_t je;
    if (mt_api_query_done(c) < 0 || mt_api_fields(c, fields) < 0)
        return -1;
    if (!MT_STREQ(name, "all") && mt_proj_table(name) < 0)
        return mt_api_not_found(c, "view");
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, name);
    mt_pg_p_text(&p, c->who.subject_id);
    if (mt_pg_query_one(c->pg, &ask, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_keeper_poke(c->ctl->keeper);
    return mt_api_send(c, 200, json_loads(mt_pg_text(r, 0, 0), 0, &je));
}
