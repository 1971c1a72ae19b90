/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plans/probe_plan.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/plans/release_row.h"
#include "model/ids.h"
#include "model/volume.h"
#include "model/workload.h"

static const struct mt_pg_stmt probe_of = {
    "plan_probe",
    "SELECT v.name AS volume, v.org_id, o.name AS org_name, v.app_id, p.name AS app_name, v.env_id, e.name AS env_name, a.process_type, n.arch, " MT_RELEASE_COLUMNS
    " FROM restores_view j JOIN volumes_view v ON v.volume_id = j.source_volume_id"
    " JOIN volume_attachments_view a ON a.volume_id = v.volume_id AND NOT a.deleted"
    " JOIN env_desired_view d ON d.env_id = v.env_id AND d.process_type = a.process_type"
    " JOIN releases_view r ON r.release_id = d.release_id JOIN orgs_view o ON o.org_id = v.org_id JOIN apps_view p ON p.app_id = v.app_id"
    " JOIN envs_view e ON e.env_id = v.env_id JOIN nodes_view n ON n.node_id = $1 WHERE j.restore_id = $2"};

static int workload(const struct mt_pg_res *r, const struct mt_release_row *rel, const char *restore_id, const char *volume_id, struct mt_workload **ret,
                    uint32_t *ret_seconds, struct mt_err *err)
{
    char instance_id[MT_ID_SIZE];
    const char *arch = mt_pg_text(r, 0, mt_pg_col(r, "arch"));
    struct mt_spec_group g = {
        .org_id = mt_pg_text(r, 0, mt_pg_col(r, "org_id")),
        .org_name = mt_pg_text(r, 0, mt_pg_col(r, "org_name")),
        .app_id = mt_pg_text(r, 0, mt_pg_col(r, "app_id")),
        .app_name = mt_pg_text(r, 0, mt_pg_col(r, "app_name")),
        .env_id = mt_pg_text(r, 0, mt_pg_col(r, "env_id")),
        .env_name = mt_pg_text(r, 0, mt_pg_col(r, "env_name")),
        .process_type = mt_pg_text(r, 0, mt_pg_col(r, "process_type")),
    };
    mt_release_row_group(rel, &g);
    (void)snprintf(instance_id, sizeof instance_id, "inst_%s", mt_id_ulid(restore_id));
    const struct mt_spec_instance in = {.instance_id = instance_id, .generation = 1, .arch = arch, .resolved_digest = mt_release_row_digest(rel, arch)};
    return mt_spec_probe(&g, &in, mt_pg_text(r, 0, mt_pg_col(r, "volume")), volume_id, ret, ret_seconds, err);
}

int mt_probe_plan(struct mt_pg *pg, const char *node_id, const char *restore_id, const char *volume_id, json_t **ret_workload, uint32_t *ret_seconds,
                  struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_err why = {0};
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_auto_workload struct mt_workload *w = NULL;
    struct mt_release_row rel = {0};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_text(&p, restore_id);
    int rc = mt_pg_query(pg, &probe_of, &p, &r, err);
    if (rc < 0 || mt_pg_rows(r) == 0)
        return rc;
    *ret_seconds = MT_PROBE_SECONDS_MAX;
    if ((rc = mt_release_row_read(r, 0, &rel, &why)) == 0)
        rc = workload(r, &rel, restore_id, volume_id, &w, ret_seconds, &why);
    mt_release_row_done(&rel);
    if (rc == -MT_E_NOT_FOUND)
        return 0;
    if (rc < 0)
        mt_log(MT_ERROR, "plan.probe_broken", KV("restore_id", restore_id), KV_ERR(&why));
    *ret_workload = rc < 0 || !w ? json_object() : json_incref(w->doc);
    return *ret_workload ? 1 : MT_FAIL(err, MT_E_NOMEM, "probe of a plan");
}
