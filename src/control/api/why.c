/* SPDX-License-Identifier: Apache-2.0 */
/* Why an instance is as it is: its events, what caused them, and what the deploys said that they belong to, in the order in which it
 * happened. Only its own events and what they point to are read. */
#include "control/api/handlers.h"

#include "base/str.h"
#include "control/api/why.h"

/* $1 instance, $2 env, $3 app. Events of nodes are the operator's and left out. */
static const struct mt_pg_stmt chain = {
    "why_chain",
    "WITH RECURSIVE own AS (SELECT event_id, causation_id, correlation_id, event_type, payload FROM moat.events"
    "  WHERE aggregate_id = $1 AND aggregate_type = 'instance' AND env_id = $2),"
    " causes AS (SELECT event_id, causation_id FROM own UNION SELECT e.event_id, e.causation_id FROM causes c"
    "  JOIN moat.events e ON e.event_id = c.causation_id WHERE e.env_id = $2),"
    " born AS (SELECT payload->>'process_type' AS process_type, payload->>'release_id' AS release_id FROM own"
    "  WHERE event_type = 'instance.allocated'),"
    " deploys AS (SELECT DISTINCT correlation_id AS id FROM own WHERE correlation_id IS NOT NULL),"
    " told AS (SELECT event_id FROM causes"
    "  UNION SELECT e.event_id FROM deploys d JOIN moat.events e ON e.aggregate_id = d.id AND e.aggregate_type = 'deploy' AND e.env_id = $2"
    "  UNION SELECT e.event_id FROM deploys d JOIN moat.events e ON e.correlation_id = d.id AND e.aggregate_type = 'env' AND e.env_id = $2"
    "   WHERE COALESCE(e.payload->>'process_type', (SELECT process_type FROM born)) = (SELECT process_type FROM born)"
    "  UNION SELECT e.event_id FROM born b JOIN moat.events e ON e.aggregate_id = b.release_id AND e.aggregate_type = 'release' AND e.app_id = $3)"
    " SELECT " MT_EVENT_COLUMNS " FROM moat.events JOIN told USING (event_id) ORDER BY event_id LIMIT 1000"};

int mt_api_why_put(struct mt_api_call *c, const char *instance_id, const char *env_id, const char *app_id, enum mt_see see, struct mt_buf *b)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, instance_id);
    mt_pg_p_text(&p, env_id);
    mt_pg_p_text(&p, app_id);
    if (mt_pg_query(c->pg, &chain, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0)
        return mt_api_not_found(c, "instance");
    mt_buf_putc(b, '[');
    for (int i = 0; i < mt_pg_rows(r); i++) {
        if (i)
            mt_buf_putc(b, ',');
        (void)mt_event_json(r, i, see, b);
    }
    mt_buf_putc(b, ']');
    return 0;
}

int mt_api_instance_why(struct mt_api_call *c)
{
    const char *id = mt_api_param(c, "instance_id");
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u * 1024u);
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_buf_printf(&b, "{\"instance_id\":\"%s\",\"items\":", id); /* letters, digits and underscores: it is found, or this is not sent */
    if (mt_api_why_put(c, id, c->env.id, c->app.id, MT_SEE_TENANT, &b) < 0)
        return -1;
    mt_buf_putc(&b, '}');
    size_t len = b.len;
    return mt_api_send_text(c, 200, mt_buf_take(&b), len);
}
