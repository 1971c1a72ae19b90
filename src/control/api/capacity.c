/* SPDX-License-Identifier: Apache-2.0 */
/* How much the cluster still takes (control-plane.md §11 admin, scheduling-and-operations.md §11.7): the nodes as a pass of the
 * scheduler loads them, summed by the function beside placement. */
#include "control/api/handlers.h"

#include "control/api/call.h"
#include "control/pass.h"
#include "control/scheduler/capacity.h"

#define NODES_BYTES (64U * 1024U * 1024U)

int mt_api_capacity_get(struct mt_api_call *c)
{
    struct mt_pass p = {.ctl = c->ctl, .pg = c->pg};
    struct mt_capacity k;
    if (mt_api_query_done(c) < 0)
        return -1;
    mt_arena_init(&p.arena, NODES_BYTES);
    const char *none[] = {NULL};
    if (mt_pass_load(&p, none, 0, &c->err) < 0) {
        mt_pass_done(&p);
        return mt_api_fail_err(c);
    }
    mt_capacity(p.nodes, p.n_nodes, &k);
    json_t *o = json_pack("{s:I,s:I,s:{s:I,s:I,s:I},s:{s:I,s:I,s:I},s:I,s:s*,s:I}", "nodes", (json_int_t)p.n_nodes, "eligible_nodes", (json_int_t)k.nodes,
                          "allocatable", "memory_bytes", (json_int_t)k.memory_bytes, "cpu_millis", (json_int_t)k.cpu_millis, "disk_bytes",
                          (json_int_t)k.disk_bytes, "used", "memory_bytes", (json_int_t)k.used_memory_bytes, "cpu_millis",
                          (json_int_t)k.used_cpu_millis, "disk_bytes", (json_int_t)k.used_disk_bytes, "headroom_memory_bytes",
                          (json_int_t)k.headroom_bytes, "worst_node_id", k.worst == MT_PLACE_NONE ? NULL : p.nodes[k.worst].node_id,
                          "largest_instance_memory_bytes", (json_int_t)k.largest_memory_bytes);
    mt_pass_done(&p);
    return mt_api_send(c, 200, o);
}
