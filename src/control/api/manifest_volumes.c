/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes of a manifest against the rows of the environment. See manifest_volumes.h. */
#include "control/api/manifest_volumes.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/mutate.h"
#include "control/volumes/home.h"
#include "model/manifest.h"
#include "model/mountpath.h"
#include "model/volume.h"
#include "model/workload.h"

static const struct mt_pg_stmt rows = {
    "deploy_volumes",
    "SELECT v.volume_id, v.name, greatest(v.size_bytes, v.resize_to_bytes) AS size, v.state, v.home_node_id, v.resource_version,"
    " a.attachment_id, a.process_type, a.mount_path, a.read_only, v.from_snapshot_id IS NOT NULL, coalesce(a.managed_by = 'api', false) FROM volumes_view v"
    " LEFT JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
    " WHERE v.env_id = $1 AND NOT v.deleted ORDER BY v.volume_id COLLATE \"C\""};

enum { V_ID = 0, V_NAME, V_SIZE, V_STATE, V_HOME, V_VERSION, A_ID, A_PROCESS, A_PATH, A_READ_ONLY, V_RESTORED, A_BY_HAND };

struct work {
    struct mt_api_call *c;
    struct mt_cmd *cmd;
    const json_t *manifest;
    const struct mt_deploy_plan *plan;
    struct mt_pg_res *r;
    bool *kept; /* by row: its attachment is as the manifest has it and stays */
    struct mt_volume_node *nodes;
    size_t n_nodes;
    json_t *changes;
};

static int row_of(const struct work *w, const char *name)
{
    for (int i = 0; i < mt_pg_rows(w->r); i++)
        if (MT_STREQ(mt_pg_text(w->r, i, V_NAME), name))
            return i;
    return -1;
}

static bool covered(const struct mt_deploy_plan *p, const char *process)
{
    for (size_t i = 0; i < p->n_items; i++)
        if (MT_STREQ(p->items[i].process_type, process))
            return true;
    for (size_t i = 0; i < p->n_cleared; i++)
        if (MT_STREQ(p->cleared[i].process_type, process))
            return true;
    return false;
}

static bool declared(const struct work *w, const char *name, struct mt_manifest_volume *ret)
{
    for (size_t i = 0; i < mt_manifest_n_volumes(w->manifest); i++)
        if (mt_manifest_volume_read(w->manifest, i, ret, NULL) == 0 && MT_STREQ(ret->name, name))
            return true;
    return false;
}

static void note(struct work *w, const char *action, const char *id, const char *name, const char *process)
{
    json_array_append_new(w->changes, json_pack("{s:s,s:s,s:s,s:s}", "action", action, "volume_id", id, "name", name, "process_type", process));
}

static int detach(struct work *w, int row)
{
    note(w, "detach", mt_pg_text(w->r, row, V_ID), mt_pg_text(w->r, row, V_NAME), mt_pg_text(w->r, row, A_PROCESS));
    return mt_api_event(w->c, w->cmd, MT_EV_VOLUME_ATTACHMENT_DELETED, mt_pg_text(w->r, row, A_ID),
                        json_pack("{s:s,s:s,s:b}", "volume_id", mt_pg_text(w->r, row, V_ID), "process_type", mt_pg_text(w->r, row, A_PROCESS), "forced", false));
}

static int attach(struct work *w, const char *volume_id, const char *name, const char *process, const struct mt_manifest_mount *m)
{
    char id[MT_ID_SIZE];
    mt_id_new(MT_ID_ATTACHMENT, id);
    note(w, "attach", volume_id, name, process);
    return mt_api_event(w->c, w->cmd, MT_EV_VOLUME_ATTACHMENT_CREATED, id,
                        json_pack("{s:s,s:s,s:s,s:b,s:s}", "volume_id", volume_id, "process_type", process, "mount_path", m->path, "read_only",
                                  (int)m->read_only, "managed_by", "manifest"));
}

/* The volume is there: is it fit for what the manifest says? */
static int check_existing(struct work *w, int row, const char *process)
{
    struct mt_manifest_volume mv;
    const char *name = mt_pg_text(w->r, row, V_NAME), *owner = mt_pg_text_or_null(w->r, row, A_PROCESS);
    uint64_t have = (uint64_t)mt_pg_i64(w->r, row, V_SIZE);
    if (MT_STREQ(mt_pg_text(w->r, row, V_STATE), "deleting"))
        return mt_api_fail(w->c, 409, "conflict", "volume '%s' is being deleted; deploy again when it is gone (moat volumes list)", name);
    if (mt_pg_bool(w->r, row, V_RESTORED) && MT_STREQ(mt_pg_text(w->r, row, V_STATE), "creating"))
        return mt_api_fail(w->c, 409, "conflict", "volume '%s' is being restored; deploy again when it is available (moat wait volume %s)", name,
                           mt_pg_text(w->r, row, V_ID));
    if (declared(w, name, &mv) && mv.size_bytes > have)
        return mt_api_fail(w->c, 409, "volume_size_mismatch",
                           "volume '%s' has %llu bytes and the manifest says %llu; a deploy never resizes: `moat volumes resize %s --size %lluGi` does",
                           name, (unsigned long long)have, (unsigned long long)mv.size_bytes, name, (unsigned long long)(mv.size_bytes >> 30));
    if (owner && !MT_STREQ(owner, process) && (!covered(w->plan, owner) || mt_pg_bool(w->r, row, A_BY_HAND)))
        return mt_api_fail(w->c, 409, "volume_already_attached", "volume '%s' is attached to process '%s', which this deploy leaves as it is%s", name, owner,
                           mt_pg_bool(w->r, row, A_BY_HAND) ? ": it was done by hand (moat volumes detach)" : "");
    if (mt_cmd_rely(w->cmd, MT_RELY_VOLUME, mt_pg_text(w->r, row, V_ID), NULL, mt_pg_i64(w->r, row, V_VERSION), &w->c->err) < 0 ||
        mt_cmd_rely(w->cmd, MT_RELY_VOLUME_LIVE, mt_pg_text(w->r, row, V_ID), NULL, 1, &w->c->err) < 0)
        return mt_api_fail_err(w->c);
    return 0;
}

static int load_nodes(struct work *w)
{
    return w->nodes ? 0 : mt_api_volume_nodes(w->c, &w->nodes, &w->n_nodes);
}

static int create(struct work *w, const struct mt_manifest_volume *mv, uint64_t size, const struct mt_volume_node *home, char ret_id[MT_ID_SIZE])
{
    mt_id_new(MT_ID_VOLUME, ret_id);
    return mt_api_event(w->c, w->cmd, MT_EV_VOLUME_CREATED, ret_id,
                        json_pack("{s:s,s:I,s:s,s:b,s:s}", "name", mv->name, "size_bytes", (json_int_t)size, "filesystem", "ext4",
                                  "backup_enabled", (int)mv->backup_enabled, "home_node_id", home->node_id));
}

/* What was attached to the process by hand stays, and has to fit to what its new release mounts and how far it is scaled. *ret_home: where it lives. */
static int check_by_hand(struct work *w, const char *type, const struct mt_manifest_process *pr, const char **ret_home)
{
    size_t n = pr->n_mounts;
    for (int i = 0; i < mt_pg_rows(w->r); i++) {
        if (!mt_pg_bool(w->r, i, A_BY_HAND) || !MT_STREQ(mt_pg_text(w->r, i, A_PROCESS), type))
            continue;
        const char *name = mt_pg_text(w->r, i, V_NAME), *path = mt_pg_text(w->r, i, A_PATH);
        bool same = false;
        *ret_home = mt_pg_text(w->r, i, V_HOME);
        w->kept[i] = true;
        for (size_t k = 0; k < pr->n_mounts; k++) {
            const struct mt_manifest_mount *m = &pr->mounts[k];
            bool equal = MT_STREQ(m->volume, name) && MT_STREQ(m->path, path) && m->read_only == mt_pg_bool(w->r, i, A_READ_ONLY);
            if (!equal && (MT_STREQ(m->volume, name) || mt_mountpath_nested(m->path, strlen(m->path), path, strlen(path))))
                return mt_api_fail(w->c, 409, "mount_path_conflict", "the manifest mounts volume '%s' at %s, and volume '%s' was attached to process '%s' by hand at %s; detach that first "
                                   "(moat volumes detach %s)", m->volume, m->path, name, type, path, name);
            same = same || equal;
        }
        n += !same;
        if (pr->scaling_min > 1)
            return mt_api_fail(w->c, 409, "volume_replica_limit", "process '%s' is to have at least %u replicas, and volume '%s' was attached to it by hand; a volume belongs to one instance", type,
                               pr->scaling_min, name);
    }
    if (n > MT_WORKLOAD_MOUNTS_MAX)
        return mt_api_fail(w->c, 409, "too_many_mounts", "process '%s' would have %zu volumes with those that were attached by hand, and %d is the most", type, n, MT_WORKLOAD_MOUNTS_MAX);
    return 0;
}

/* One process: are its volumes fit, which attachments stay as they are, where do those live that are missing. */
static int survey(struct work *w, const char *type, const struct mt_manifest_process *pr, struct mt_volume_node **ret_node)
{
    const char *home = NULL;
    uint64_t missing = 0;
    if (check_by_hand(w, type, pr, &home) < 0)
        return -1;
    for (size_t i = 0; i < pr->n_mounts; i++) {
        const struct mt_manifest_mount *m = &pr->mounts[i];
        struct mt_manifest_volume mv;
        int row = row_of(w, m->volume);
        if (row < 0) {
            if (!declared(w, m->volume, &mv))
                return mt_api_fail(w->c, 400, "manifest_invalid", "process '%s' mounts volume '%s', which the manifest does not declare", type, m->volume);
            missing += mt_volume_size(mv.size_bytes);
            continue;
        }
        if (check_existing(w, row, type) < 0)
            return -1;
        if (home && !MT_STREQ(home, mt_pg_text(w->r, row, V_HOME)))
            return mt_api_fail(w->c, 409, "volume_home_node_mismatch", "the volumes of process '%s' live on %s and %s; all of them must be on one node", type, home,
                               mt_pg_text(w->r, row, V_HOME));
        home = mt_pg_text(w->r, row, V_HOME);
        const char *owner = mt_pg_text_or_null(w->r, row, A_PROCESS);
        w->kept[row] = w->kept[row] || (owner && MT_STREQ(owner, type) && MT_STREQ(mt_pg_text(w->r, row, A_PATH), m->path) && mt_pg_bool(w->r, row, A_READ_ONLY) == m->read_only);
    }
    *ret_node = NULL;
    if (!missing)
        return 0;
    char why[320];
    if (load_nodes(w) < 0)
        return -1;
    long k = mt_volume_home(w->nodes, w->n_nodes, missing, home);
    mt_volume_home_why(w->nodes, w->n_nodes, missing, home, why, sizeof why);
    if (k < 0)
        return mt_api_fail(w->c, 409, "no_capacity_storage", "no node can hold the volumes of process '%s': %s", type, why);
    *ret_node = &w->nodes[k];
    for (size_t i = 0; i < pr->n_mounts; i++) {
        struct mt_manifest_volume mv;
        if (row_of(w, pr->mounts[i].volume) < 0 && declared(w, pr->mounts[i].volume, &mv))
            w->nodes[k].used_bytes += mt_volume_size(mv.size_bytes); /* the next process sees the rest */
    }
    return mt_volume_rely_room(w->cmd, *ret_node, &w->c->err) < 0 ? mt_api_fail_err(w->c) : 0;
}

/* What one process mounts and does not have yet; @node is where new volumes go. */
static int attach_all(struct work *w, const char *type, const struct mt_manifest_process *pr, const struct mt_volume_node *node)
{
    for (size_t i = 0; i < pr->n_mounts; i++) {
        const struct mt_manifest_mount *m = &pr->mounts[i];
        struct mt_manifest_volume mv;
        char made[MT_ID_SIZE] = "";
        int row = row_of(w, m->volume);
        if (row >= 0 && w->kept[row])
            continue;
        if (row < 0) {
            if (!node || !declared(w, m->volume, &mv) || create(w, &mv, mt_volume_size(mv.size_bytes), node, made) < 0)
                return -1;
            note(w, "create", made, mv.name, type);
        }
        if (attach(w, row < 0 ? made : mt_pg_text(w->r, row, V_ID), m->volume, type, m) < 0)
            return -1;
    }
    return 0;
}

/* Attachments of the deployed processes that are not as the manifest has them. All of them go before any comes: a path or a volume that one
 * gives up another may take. The volumes stay. */
static int detach_rest(struct work *w)
{
    for (int i = 0; i < mt_pg_rows(w->r); i++)
        if (!w->kept[i] && !mt_pg_null(w->r, i, A_ID) && !mt_pg_bool(w->r, i, A_BY_HAND) && covered(w->plan, mt_pg_text(w->r, i, A_PROCESS)) && detach(w, i) < 0)
            return -1;
    return 0;
}

static int apply(struct work *w)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, w->c->env.id);
    if (mt_pg_query(w->c->pg, &rows, &p, &w->r, &w->c->err) < 0)
        return mt_api_fail_err(w->c);
    w->kept = calloc((size_t)mt_pg_rows(w->r) + 1, sizeof *w->kept);
    if (!w->kept || !w->changes) {
        (void)MT_FAIL(&w->c->err, MT_E_NOMEM, "volumes of a deploy");
        return mt_api_fail_err(w->c);
    }
    mt_auto_free struct mt_volume_node **homes = calloc(w->plan->n_items + 1, sizeof *homes);
    if (!homes) {
        (void)MT_FAIL(&w->c->err, MT_E_NOMEM, "volumes of a deploy");
        return mt_api_fail_err(w->c);
    }
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1 && detach_rest(w) < 0)
            return -1;
        for (size_t i = 0; i < w->plan->n_items; i++) {
            const char *type = w->plan->items[i].process_type;
            struct mt_manifest_process pr;
            if (mt_manifest_process_read(w->manifest, type, &pr, &w->c->err) < 0)
                return mt_api_fail_err(w->c);
            int rc = pass == 0 ? survey(w, type, &pr, &homes[i]) : attach_all(w, type, &pr, homes[i]);
            mt_manifest_process_done(&pr);
            if (rc < 0)
                return -1;
        }
    }
    return 0;
}

int mt_manifest_volumes_apply(struct mt_api_call *c, struct mt_cmd *cmd, const json_t *manifest, const struct mt_deploy_plan *plan,
                              json_t **ret_changes)
{
    struct work w = {.c = c, .cmd = cmd, .manifest = manifest, .plan = plan, .changes = json_array()};
    int rc = apply(&w);
    mt_pg_res_free(w.r);
    free(w.kept);
    free(w.nodes);
    if (rc < 0)
        json_decref(w.changes);
    else
        *ret_changes = w.changes;
    return rc;
}
