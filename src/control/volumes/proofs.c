/* SPDX-License-Identifier: Apache-2.0 */
/* See proofs.h. Each is a command of its own, as in backups.c. */
#include "control/volumes/proofs.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/volumes/home.h"
#include "control/volumes/volume_sql.h"

#include <stdlib.h>

#define MS(t) "(extract(epoch FROM " t ") * 1000)::bigint"
#define AT_ONCE 16 /* of one look */

/* The newest backup of each volume that wants them, unless just that one is proven or a proof of the volume runs. */
static const struct mt_pg_stmt candidates = {
    "proof_candidates",
    "SELECT v.volume_id, s.snapshot_id, s.org_id, s.app_id, s.env_id, s.size_bytes, s.resource_version, " MS("f.first_at") ", coalesce("
    MS("(" MT_SQL_PROVEN("v") ")") ", 0), coalesce(" MS("(SELECT max(r.created_at) FROM restores_view r WHERE r.source_volume_id = v.volume_id AND r.purpose = 'proof')")
    ", 0), " MS("clock_timestamp()") " FROM volumes_view v"
    " JOIN LATERAL (" MT_SQL_LAST_BACKUP("v", "s.*") ") s ON true"
    " CROSS JOIN LATERAL (SELECT min(o.finished_at) AS first_at FROM snapshots_view o WHERE o.volume_id = v.volume_id AND o.status = 'succeeded') f"
    " WHERE NOT v.deleted AND v.backup_enabled AND s.restored_at IS NULL AND NOT EXISTS (SELECT 1 FROM restores_view r WHERE r.source_volume_id = v.volume_id"
    "  AND r.purpose = 'proof' AND r.status IN ('queued', 'running')) ORDER BY v.volume_id COLLATE \"C\""};

enum { C_VOLUME = 0, C_SNAPSHOT, C_ORG, C_APP, C_ENV, C_SIZE, C_VERSION, C_FIRST, C_PROVEN, C_TRIED, C_NOW };

/* What each node that can restore has done of proofs in a day, and whether one runs. */
static const struct mt_pg_stmt nodes_of = {
    "proof_nodes",
    "SELECT n.node_id, coalesce(sum(s.size_bytes), 0)::int8, coalesce(bool_or(r.status IN ('queued', 'running')), false) FROM nodes_view n"
    " LEFT JOIN restores_view r ON r.target_node_id = n.node_id AND r.purpose = 'proof' AND (r.status IN ('queued', 'running') OR"
    "  r.created_at > now() - interval '24 hours') LEFT JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id"
    " WHERE NOT n.deleted AND n.health = 'ready' AND (n.allocatable->>'restores')::boolean GROUP BY n.node_id"};

/* Asked again under the append lock, with this one in the view. */
static const struct mt_pg_stmt alone = {
    "proof_alone", "SELECT 1 WHERE (SELECT count(*) FROM restores_view r WHERE r.source_volume_id = $1 AND r.purpose = 'proof' AND r.status IN ('queued', 'running')) = 1"};

/* Returns 1 asked for, 0 not now, -code. */
static int ask(struct mt_control *ctl, int64_t lease, const struct mt_pg_res *r, int row, const char *node_id, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "proofs"};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_pg_params p;
    char restore_id[MT_ID_SIZE], volume_id[MT_ID_SIZE];
    const char *snapshot_id = mt_pg_text(r, row, C_SNAPSHOT);
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, row, C_ORG), .app_id = mt_pg_text(r, row, C_APP), .env_id = mt_pg_text(r, row, C_ENV)};
    mt_id_new(MT_ID_RESTORE, restore_id);
    mt_id_new(MT_ID_VOLUME, volume_id);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, mt_pg_text(r, row, C_VOLUME));
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0 || (rc = mt_cmd_rely(cmd, MT_RELY_LEASE, "backups", NULL, lease, err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, snapshot_id, NULL, mt_pg_i64(r, row, C_VERSION), err)) < 0 || (rc = mt_cmd_side(cmd, &alone, &p, 1, err)) < 0 ||
        (rc = mt_cmd_cause(cmd, restore_id, 0, err)) < 0)
        return rc;
    json_t *payload = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "snapshot_id", snapshot_id, "source_volume_id", mt_pg_text(r, row, C_VOLUME), "new_volume_id", volume_id,
                                "target_env_id", ids.env_id, "target_node_id", node_id, "purpose", "proof");
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a proof");
    if ((rc = mt_cmd_event(cmd, MT_EV_RESTORE_JOB_CREATED, restore_id, &ids, payload, err)) < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    bool moved = rc == -MT_E_CONFLICT; /* somebody was faster: it is looked at anew */
    mt_cmd_done_free(&done);
    if (rc == 0)
        mt_log(MT_INFO, "proof.scheduled", KV("volume_id", mt_pg_text(r, row, C_VOLUME)), KV("snapshot_id", snapshot_id), KV("restore_id", (const char *)restore_id),
               KV("node_id", node_id));
    return rc == 0 ? 1 : moved ? 0 : rc;
}

/* Which nodes may be given one of @bytes: able, idle, and within the day's budget (which one volume alone may exceed). */
static void who_may(const struct mt_pg_res *nr, const bool *given, int64_t bytes, struct mt_volume_node *nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool may = false;
        for (int k = 0; k < mt_pg_rows(nr) && !may; k++)
            may = MT_STREQ(mt_pg_text(nr, k, 0), nodes[i].node_id) && mt_proof_fits(given[k] || mt_pg_bool(nr, k, 2), mt_pg_i64(nr, k, 1), bytes);
        nodes[i].eligible = nodes[i].eligible && may;
    }
}

int mt_proof_nodes(struct mt_pg *pg, struct mt_volume_node *nodes, size_t n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *nr = NULL;
    int rc = mt_pg_query(pg, &nodes_of, NULL, &nr, err);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool may = false;
        for (int k = 0; k < mt_pg_rows(nr) && !may; k++)
            may = MT_STREQ(mt_pg_text(nr, k, 0), nodes[i].node_id) && !mt_pg_bool(nr, k, 2);
        nodes[i].eligible = nodes[i].eligible && may;
    }
    return rc;
}

static int place(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, const struct mt_pg_res *r, const struct mt_owed *owed, int n, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *nr = NULL;
    int asked = 0, rc = mt_pg_query(pg, &nodes_of, NULL, &nr, err);
    if (rc < 0 || mt_pg_rows(nr) == 0)
        return rc;
    mt_auto_free bool *given = calloc((size_t)mt_pg_rows(nr), sizeof *given);
    if (!given)
        return MT_FAIL(err, MT_E_NOMEM, "proofs that are due");
    for (int i = 0; i < n && i < AT_ONCE; i++) {
        mt_auto_free struct mt_volume_node *nodes = NULL;
        size_t n_nodes;
        int64_t bytes = mt_pg_i64(r, owed[i].row, C_SIZE);
        if ((rc = mt_volume_nodes_load(pg, &nodes, &n_nodes, err)) < 0)
            return rc;
        who_may(nr, given, bytes, nodes, n_nodes);
        long k = mt_volume_home(nodes, n_nodes, (uint64_t)bytes, NULL);
        if (k < 0)
            continue; /* one that is smaller may find a place */
        if ((rc = ask(ctl, lease, r, owed[i].row, nodes[k].node_id, err)) < 0)
            return rc;
        for (int m = 0; rc == 1 && m < mt_pg_rows(nr); m++)
            given[m] = given[m] || MT_STREQ(mt_pg_text(nr, m, 0), nodes[k].node_id);
        asked += rc;
    }
    return asked;
}

int mt_proofs_look(struct mt_control *ctl, struct mt_pg *pg, int64_t lease, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int n = 0, rc = mt_pg_query(pg, &candidates, NULL, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    mt_auto_free struct mt_owed *owed = calloc((size_t)mt_pg_rows(r), sizeof *owed);
    if (!owed)
        return MT_FAIL(err, MT_E_NOMEM, "proofs that are due");
    for (int i = 0; i < mt_pg_rows(r); i++) {
        const struct mt_proof_clock c = {.volume_id = mt_pg_text(r, i, C_VOLUME), .first_ms = mt_pg_i64(r, i, C_FIRST), .proven_ms = mt_pg_i64(r, i, C_PROVEN),
                                         .tried_ms = mt_pg_i64(r, i, C_TRIED)};
        int64_t due = mt_proof_due_ms(&c);
        if (due <= mt_pg_i64(r, i, C_NOW))
            owed[n++] = (struct mt_owed){.row = i, .due_ms = due};
    }
    qsort(owed, (size_t)n, sizeof *owed, mt_longest_owed_first);
    return n ? place(ctl, pg, lease, r, owed, n, err) : 0;
}
