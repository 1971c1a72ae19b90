/* SPDX-License-Identifier: Apache-2.0 */
/* See home.h. */
#include "control/volumes/home.h"

#include "base/cleanup.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>

#define HOMED_BYTES(node) \
    "(SELECT coalesce(sum(greatest(v.size_bytes, v.resize_to_bytes)), 0)::int8 FROM volumes_view v WHERE v.home_node_id = " node " AND NOT v.deleted)"

static const struct mt_pg_stmt nodes_of = {
    "volume_nodes",
    "SELECT n.node_id, n.admin_state = 'active' AND n.health IN ('ready', 'degraded') AND 'worker' = ANY (n.roles) AS eligible,"
    " coalesce((n.allocatable->>'volume_bytes')::int8, -1) AS bytes, coalesce((n.allocatable->>'new_volumes')::boolean, false) AS takes_new, "
    HOMED_BYTES("n.node_id") " AS used, greatest((n.allocatable->>'memory_bytes')::int8 - (SELECT coalesce(sum(i.memory_bytes), 0)"
    " FROM instances_view i WHERE i.node_id = n.node_id AND i.released_at IS NULL AND i.status <> 'stopped'), 0)::int8 AS memory"
    " FROM nodes_view n WHERE NOT n.deleted ORDER BY n.node_id COLLATE \"C\""};

/* Under the append lock, after the command's own events: one row, or the command is prepared again. */
static const struct mt_pg_stmt room = {
    "volume_room", "SELECT 1 FROM nodes_view n WHERE n.node_id = $1 AND NOT n.deleted AND (n.allocatable->>'volume_bytes')::int8 >= " HOMED_BYTES("$1")};

int mt_volume_nodes_load(struct mt_pg *pg, struct mt_volume_node **ret, size_t *ret_n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_query(pg, &nodes_of, NULL, &r, err);
    if (rc < 0)
        return rc;
    size_t n = (size_t)mt_pg_rows(r);
    struct mt_volume_node *list = calloc(n + 1, sizeof *list);
    if (!list)
        return MT_FAIL(err, MT_E_NOMEM, "nodes for a volume");
    for (int i = 0; i < (int)n; i++) {
        int64_t bytes = mt_pg_i64(r, i, 2);
        snprintf(list[i].node_id, sizeof list[i].node_id, "%s", mt_pg_text(r, i, 0));
        list[i].eligible = mt_pg_bool(r, i, 1);
        list[i].has_storage = bytes >= 0;
        list[i].takes_new = mt_pg_bool(r, i, 3);
        list[i].allocatable_bytes = bytes > 0 ? (uint64_t)bytes : 0;
        list[i].used_bytes = (uint64_t)mt_pg_i64(r, i, 4);
        list[i].free_memory_bytes = (uint64_t)mt_pg_i64(r, i, 5);
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

static uint64_t rest_of(const struct mt_volume_node *d)
{
    return d->allocatable_bytes > d->used_bytes ? d->allocatable_bytes - d->used_bytes : 0;
}

long mt_volume_home(const struct mt_volume_node *nodes, size_t n, uint64_t size_bytes, const char *only)
{
    long best = -1;
    for (size_t i = 0; i < n; i++) {
        const struct mt_volume_node *d = &nodes[i], *b = best < 0 ? NULL : &nodes[best];
        if ((only && !MT_STREQ(only, d->node_id)) || !d->eligible || !d->has_storage || !d->takes_new || rest_of(d) < size_bytes)
            continue;
        if (b && (rest_of(d) != rest_of(b)           ? rest_of(d) < rest_of(b)
                  : d->free_memory_bytes != b->free_memory_bytes ? d->free_memory_bytes < b->free_memory_bytes
                                                     : strcmp(d->node_id, b->node_id) > 0))
            continue;
        best = (long)i;
    }
    return best;
}

void mt_volume_home_why(const struct mt_volume_node *nodes, size_t n, uint64_t size_bytes, const char *only, char *ret, size_t size)
{
    unsigned all = 0, away = 0, none = 0, ill = 0, full = 0;
    for (size_t i = 0; i < n; i++) {
        const struct mt_volume_node *d = &nodes[i];
        if (only && !MT_STREQ(only, d->node_id))
            continue;
        all++;
        if (!d->eligible)
            away++;
        else if (!d->has_storage)
            none++;
        else if (!d->takes_new)
            ill++;
        else if (rest_of(d) < size_bytes)
            full++;
    }
    snprintf(ret, size, "of %u node%s%s %u cannot take work now, %u told of no storage for volumes, %u have storage that is ill or nearly full, %u have less room than %llu bytes",
             all, all == 1 ? "" : "s", only ? " (the only one that it may be)" : "", away, none, ill, full, (unsigned long long)size_bytes);
}

int mt_volume_rely_room(struct mt_cmd *cmd, struct mt_volume_node *node, struct mt_err *err)
{
    struct mt_pg_params p;
    if (node->relied)
        return 0;
    node->relied = true;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node->node_id);
    return mt_cmd_side(cmd, &room, &p, 1, err);
}
