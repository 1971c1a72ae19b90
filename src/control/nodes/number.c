/* SPDX-License-Identifier: Apache-2.0 */
#include "control/nodes/number.h"

static const struct mt_pg_stmt highest = {
    "node_number", "SELECT coalesce(max(overlay_ipv6::inet - host(network($1::inet))::inet), 0) FROM nodes_view"};

int mt_node_addresses_next(struct mt_pg *pg, const char *cluster_prefix, char ret_overlay[MT_ADDR_SIZE], char ret_prefix[MT_ADDR_SIZE],
                           struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, cluster_prefix);
    int rc = mt_pg_query_one(pg, &highest, &p, &r, err);
    if (rc < 0)
        return rc;
    int64_t next = mt_pg_i64(r, 0, 0) + 1;
    uint32_t number = next >= 1 && next <= 65535 ? (uint32_t)next : 0; /* 0 is no number: refused below */
    rc = mt_addr_node(cluster_prefix, number, ret_overlay, err);
    return rc < 0 ? rc : mt_addr_node_prefix(cluster_prefix, number, ret_prefix, err);
}
