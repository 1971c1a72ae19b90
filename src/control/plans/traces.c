/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plans/traces.h"

#include "base/str.h"
#include "pg/array.h"

#define EDGE_TRACES "8"    /* MT_EDGE_TRACES_MAX of the edge */
#define EDGE_EVENTS 4096   /* an edge that was away for longer is not told what all of it came of */

static const struct mt_pg_stmt requests = {
    "plan_traces", "SELECT aggregate_id, request_id FROM moat.events WHERE aggregate_id = ANY ($1::text[]) AND aggregate_seq = 1 AND aggregate_type = 'deploy'"};

static const struct mt_pg_stmt edge_requests = {
    "edge_traces",
    "WITH f AS MATERIALIZED (SELECT event_id, aggregate_type, correlation_id, request_id FROM moat.events WHERE event_id > $1 AND event_id <= $2"
    "  AND aggregate_type IN ('instance', 'route') AND env_id IN (SELECT env_id FROM routes_view))"
    " SELECT request_id, max(event_id) FROM (SELECT d.request_id, d.event_id FROM (SELECT DISTINCT correlation_id FROM f WHERE aggregate_type = 'instance') c"
    "  JOIN moat.events d ON d.aggregate_id = c.correlation_id AND d.aggregate_seq = 1 AND d.aggregate_type = 'deploy'"
    "  UNION ALL SELECT request_id, event_id FROM f WHERE aggregate_type = 'route') t GROUP BY 1 ORDER BY 2 DESC LIMIT " EDGE_TRACES};

int mt_plan_traces_read(struct mt_pg *pg, const struct mt_pg_res *of, int col, struct mt_pg_res **ret, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_pg_arr ids;
    const char *before = "";
    mt_pg_arr_init(&ids, MT_PG_ELEM_TEXT, 1024u * 1024u);
    for (int i = 0; i < mt_pg_rows(of); i++) {
        const char *id = mt_pg_text_or_null(of, i, col);
        if (!id || MT_STREQ(id, before)) /* rows come in the order of their instances' births: those of one deploy mostly follow each other */
            continue;
        mt_pg_arr_text_add(&ids, id);
        before = id;
    }
    mt_pg_p_init(&p);
    mt_pg_p_arr(&p, &ids);
    int rc = mt_pg_query(pg, &requests, &p, ret, err);
    mt_pg_arr_done(&ids);
    return rc;
}

bool mt_plan_trace_of(const struct mt_pg_res *traces, const char *deploy_id, char ret[MT_TRACE_ID])
{
    for (int i = 0; deploy_id && i < mt_pg_rows(traces); i++)
        if (MT_STREQ(mt_pg_text(traces, i, 0), deploy_id))
            return mt_trace_of_request(mt_pg_text(traces, i, 1), ret);
    return false;
}

int mt_edge_traces(struct mt_pg *pg, int64_t since, int64_t head, struct mt_buf *b, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    char id[MT_TRACE_ID];
    int n = 0;
    if (since <= 0 || since >= head)
        return 0;
    if (head - since > EDGE_EVENTS)
        since = head - EDGE_EVENTS;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, since);
    mt_pg_p_i64(&p, head);
    int rc = mt_pg_query(pg, &edge_requests, &p, &r, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(r); i++)
        if (mt_trace_of_request(mt_pg_text(r, i, 0), id))
            mt_buf_printf(b, "%s\"%s\"", n++ ? "," : "\"traces\":[", id);
    if (n > 0)
        mt_buf_puts(b, "],");
    return rc;
}
