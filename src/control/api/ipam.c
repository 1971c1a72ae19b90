/* SPDX-License-Identifier: Apache-2.0 */
/* Pools of addresses for operators (control-plane.md §9.5 network): how full they are, and what nobody owns. */
#include "control/nodes/ipam.h"

#include "control/api/call.h"
#include "control/api/handlers.h"

int mt_api_ipam_get(struct mt_api_call *c)
{
    int64_t n[MT_IPAM_POOLS][MT_IPAM_STATES];
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_ipam_count(c->pg, (int64_t)c->ctl->conf.ipv4_cooldown_seconds, &c->ctl->ports, n, &c->err) < 0)
        return mt_api_fail_err(c);
    json_t *pools = json_array();
    for (int i = 0; i < MT_IPAM_POOLS; i++) {
        json_t *o = json_pack("{s:s}", "pool", mt_ipam_pools[i]);
        for (int k = 0; k < MT_IPAM_STATES; k++)
            (void)json_object_set_new(o, mt_ipam_states[k], json_integer(n[i][k]));
        (void)json_array_append_new(pools, o);
    }
    return mt_api_send(c, 200, json_pack("{s:o,s:n}", "items", pools, "next_cursor"));
}

int mt_api_ipam_leaks(struct mt_api_call *c)
{
    json_t *list = NULL;
    if (mt_api_query_done(c) < 0)
        return -1;
    if (mt_ipam_leaks(c->pg, &list, &c->err) < 0)
        return mt_api_fail_err(c);
    return mt_api_send(c, 200, json_pack("{s:o,s:n}", "items", list, "next_cursor"));
}
