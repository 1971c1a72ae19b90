/* SPDX-License-Identifier: Apache-2.0 */
/* Routes and their ready backends out of rows. */
#include "control/plans/edge_config.h"

#include "base/clock.h"
#include "base/str.h"
#include "control/plans/traces.h"
#include "os/digest.h"

/*
 * What edge $1 serves: every route of the shared addresses, and those that need an IPv4 address where it carries that. A name that is
 * served on both is there twice, and the second has "-4" behind its id. A raw port gives way to a TLS one of the same number: the edge
 * would refuse a snapshot with both.
 */
#define SERVED                                                                                                                   \
    "(SELECT s.*, s.route_id AS key, 'shared6' AS scope, NULL::text AS address FROM routes_view s WHERE NOT s.deleted"             \
    " AND s.address_scope = 'shared6' UNION ALL SELECT s.*, CASE s.address_scope WHEN 'ipv4' THEN s.route_id ELSE s.route_id || '-4' END," \
    " 'ipv4', a.ipv4_address FROM ipv4_allocations_view a JOIN routes_view s ON s.env_id = a.env_id AND NOT s.deleted AND s.ipv4_required" \
    " WHERE a.ended_at IS NULL AND a.edge_node_id = $1 AND NOT (s.protocol = 'tcp_raw' AND EXISTS (SELECT 1 FROM routes_view t"     \
    " WHERE t.env_id = s.env_id AND NOT t.deleted AND t.ipv4_required AND t.protocol = 'tls_passthrough' AND t.listen_port = s.listen_port))) r"

static const struct mt_pg_stmt routes = {
    "edge_routes",
    "SELECT key, json_strip_nulls(json_build_object('route_id',key,'org_id',org_id,'app_id',app_id,'env_id',env_id,"
    "'resource_version',resource_version,'protocol',protocol,'address_scope',scope,'address',address,'hostname',hostname,"
    "'listen_port',listen_port,'backend_process_type',backend_process_type,'backend_port',backend_port,"
    "'proxy_protocol',proxy_protocol,'proxy_tlv',proxy_tlv,'balance',balance,'min_tls_version',min_tls_version,'max_connections',max_connections,"
    "'default_for_listener',CASE WHEN default_for_listener AND scope = 'ipv4' THEN true END,'allow_non_tls',CASE WHEN allow_non_tls AND scope = 'ipv4' THEN true END,"
    "'idle_timeout_seconds',idle_timeout_seconds,'disabled',disabled OR (SELECT o.suspended FROM orgs_view o"
    " WHERE o.org_id = r.org_id)))::text, protocol, listen_port"
    " FROM " SERVED " ORDER BY key COLLATE \"C\""};

static const struct mt_pg_stmt listeners = {
    "edge_listeners",
    "SELECT json_strip_nulls(json_build_object('address_scope',scope,'protocol',protocol,'port',listen_port,'address',address))::text FROM"
    " (SELECT DISTINCT scope, address, protocol, listen_port FROM " SERVED ") l ORDER BY scope DESC, address COLLATE \"C\", listen_port, protocol"};

static const struct mt_pg_stmt backends = {
    "edge_backends",
    "SELECT r.key, json_agg(json_build_object('instance_id',i.instance_id,'address',i.overlay_ipv6,'port',r.backend_port,"
    "'weight',1,'state','ready') ORDER BY i.instance_id)::text FROM " SERVED " JOIN instances_view i ON i.env_id = r.env_id"
    " AND i.process_type = r.backend_process_type AND i.released_at IS NULL AND i.desired_state = 'running'"
    " AND i.status = 'ready' JOIN nodes_view n ON n.node_id = i.node_id AND n.admin_state NOT IN ('disabled', 'removed')"
    " GROUP BY r.key ORDER BY r.key COLLATE \"C\""};

static const struct mt_pg_stmt carried = {
    "edge_ipv4",
    "SELECT json_build_object('allocation_id',allocation_id,'env_id',env_id,'ipv4_address',ipv4_address)::text FROM ipv4_allocations_view"
    " WHERE ended_at IS NULL AND edge_node_id = $1 ORDER BY allocation_id COLLATE \"C\""};

static const struct mt_pg_stmt draining = {
    "edge_draining", "SELECT coalesce(string_agg(instance_id, ',' ORDER BY instance_id), '') FROM instances_view"
                     " WHERE released_at IS NULL AND desired_state <> 'running'"};

static int read_all(struct mt_pg *pg, const char *node_id, int64_t *head, int64_t *epoch, struct mt_pg_res **rr, struct mt_pg_res **br,
                    struct mt_pg_res **lr, struct mt_pg_res **ir, struct mt_pg_res **dr, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    int rc = mt_log_position(pg, head, epoch, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &routes, &p, rr, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &backends, &p, br, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &listeners, &p, lr, err);
    if (rc == 0)
        rc = mt_pg_query(pg, &carried, &p, ir, err);
    return rc == 0 ? mt_pg_query_one(pg, &draining, NULL, dr, err) : rc;
}

int mt_edge_config_build(struct mt_control *ctl, struct mt_pg *pg, const char *node_id, int64_t since, bool allow_shrink, char **ret_text, size_t *ret_len, int64_t *ret_revision,
                         char ret_fingerprint[65], struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *rr = NULL;
    mt_auto_pg_res struct mt_pg_res *lr = NULL;
    mt_auto_pg_res struct mt_pg_res *br = NULL;
    mt_auto_pg_res struct mt_pg_res *ir = NULL;
    mt_auto_pg_res struct mt_pg_res *dr = NULL;
    mt_auto_buf struct mt_buf content = MT_BUF_INIT(64u * 1024u * 1024u);
    mt_auto_buf struct mt_buf traces = MT_BUF_INIT(1024u);
    mt_auto_buf struct mt_buf doc = MT_BUF_INIT(64u * 1024u * 1024u + 4096u);
    int64_t head, epoch;
    char ts[MT_RFC3339_LEN];
    struct mt_err ignored;
    /*
     * One snapshot for the revision and for what is read. Were the revision older than the content, an edge with all of it could acknowledge
     * less for ever, since the next look finds nothing new: its drains would last their whole delay.
     */
    int rc = mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE moat.views_state IN ACCESS SHARE MODE", err);
    if (rc == 0)
        rc = read_all(pg, node_id, &head, &epoch, &rr, &br, &lr, &ir, &dr, err);
    if (rc == 0)
        rc = mt_edge_traces(pg, since, head, &traces, err);
    if (rc < 0) {
        if (mt_pg_alive(pg))
            (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
        return rc;
    }
    if ((rc = mt_pg_exec(pg, "COMMIT", err)) < 0)
        return rc;
    mt_buf_puts(&content, "\"listeners\":[");
    for (int i = 0; i < mt_pg_rows(lr); i++)
        mt_buf_printf(&content, "%s%s", i ? "," : "", mt_pg_text(lr, i, 0));
    mt_buf_puts(&content, "],\"routes\":[");
    for (int i = 0; i < mt_pg_rows(rr); i++)
        mt_buf_printf(&content, "%s%s", i ? "," : "", mt_pg_text(rr, i, 1));
    mt_buf_puts(&content, "],\"backends\":{");
    /* Both lists are in order of their keys. */
    for (int i = 0, k = 0, shown = 0; i < mt_pg_rows(br); i++) {
        int order = -1;
        while (k < mt_pg_rows(rr) && (order = strcmp(mt_pg_text(rr, k, 0), mt_pg_text(br, i, 0))) < 0)
            k++;
        if (k < mt_pg_rows(rr) && order == 0)
            mt_buf_printf(&content, "%s\"%s\":%s", shown++ ? "," : "", mt_pg_text(br, i, 0), mt_pg_text(br, i, 1));
    }
    mt_buf_puts(&content, "},\"ipv4\":[");
    for (int i = 0; i < mt_pg_rows(ir); i++)
        mt_buf_printf(&content, "%s%s", i ? "," : "", mt_pg_text(ir, i, 0));
    mt_buf_puts(&content, "],\"revoked_serials\":[],\"limits\":{}");
    if (ctl->conf.http_redirect)
        mt_buf_puts(&content, ",\"http_redirect\":true");
    if ((rc = mt_buf_check(&content, err)) < 0)
        return rc;
    mt_buf_printf(&doc,
                  "{\"format\":1,\"cluster_id\":\"%s\",\"epoch\":%lld,\"revision\":%lld,\"generated_at\":\"%s\",",
                  ctl->cluster_id, (long long)epoch, (long long)head, mt_rfc3339(mt_clock_wall_us(), ts));
    if (allow_shrink)
        mt_buf_puts(&doc, "\"allow_shrink\":true,");
    mt_buf_puts(&doc, mt_buf_cstr(&traces));
    mt_buf_put(&doc, content.p, content.len);
    mt_buf_putc(&doc, '}');
    const char *drain = mt_pg_text(dr, 0, 0);
    struct mt_sha256 *h = mt_sha256_new();
    if (!h)
        return MT_FAIL(err, MT_E_NOMEM, "edge configuration");
    uint8_t digest[32];
    mt_sha256_update(h, content.p, content.len);
    mt_sha256_update(h, drain, strlen(drain));
    mt_sha256_final(h, digest);
    mt_hex_encode(digest, sizeof digest, ret_fingerprint);
    *ret_len = doc.len;
    *ret_revision = head;
    if ((rc = mt_buf_check(&doc, err)) < 0)
        return rc;
    *ret_text = mt_buf_take(&doc);
    return *ret_text ? 0 : MT_FAIL(err, MT_E_NOMEM, "edge configuration");
}
