/* SPDX-License-Identifier: Apache-2.0 */
/* See snapshot_reports.h. */
#include "control/api/snapshot_reports.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/plans/sent.h"
#include "model/volume.h"

/* Also those that ended: their last report may be told again. */
static const struct mt_pg_stmt row_of = {
    "snapshot_report_row", "SELECT org_id, app_id, env_id, volume_id, status, coalesce(phase, ''), captured_at IS NOT NULL, resource_version"
                           " FROM snapshots_view WHERE snapshot_id = $1 AND source_node_id = $2"};

enum { S_ORG = 0, S_APP, S_ENV, S_VOLUME, S_STATUS, S_PHASE, S_CAPTURED, S_VERSION };

/* Is @v a step forward from row @r? */
static bool forward(const struct mt_pg_res *r, const struct mt_snapshot_report *v)
{
    enum mt_job_status now = MT_JOB_QUEUED;
    enum mt_snapshot_phase phase = MT_SNAPSHOT_NO_PHASE;
    (void)mt_job_status_parse(mt_pg_text(r, 0, S_STATUS), &now);
    (void)mt_snapshot_phase_parse(mt_pg_text(r, 0, S_PHASE), &phase);
    if (now == MT_JOB_SUCCEEDED || now == MT_JOB_FAILED || v->status < now)
        return false;
    return v->status != now || v->phase > phase || (v->phase == phase && v->captured_at_ms && !mt_pg_bool(r, 0, S_CAPTURED));
}

static void set_bytes(json_t *o, const char *name, bool has, uint64_t n)
{
    if (has)
        json_object_set_new(o, name, json_integer((json_int_t)n));
}

static void set_text(json_t *o, const char *name, const char *text)
{
    if (text)
        json_object_set_new(o, name, json_string(text));
}

static json_t *payload_of(const char *volume_id, const struct mt_snapshot_report *v)
{
    char at[MT_RFC3339_LEN];
    json_t *o = json_pack("{s:s,s:s}", "volume_id", volume_id, "status", mt_job_status_name(v->status));
    set_text(o, "phase", v->status == MT_JOB_RUNNING && v->phase != MT_SNAPSHOT_NO_PHASE ? mt_snapshot_phase_name(v->phase) : NULL);
    set_text(o, "consistency", v->consistency);
    set_text(o, "captured_at", v->captured_at_ms ? mt_rfc3339(v->captured_at_ms * 1000, at) : NULL);
    set_bytes(o, "size_bytes", v->has_size, v->size_bytes);
    set_bytes(o, "changed_bytes", v->has_changed, v->changed_bytes);
    set_bytes(o, "uploaded_bytes", v->has_uploaded, v->uploaded_bytes);
    set_bytes(o, "key_epoch", v->key_epoch != 0, v->key_epoch);
    set_text(o, "image_root", v->image_root);
    set_text(o, "manifest_sha256", v->manifest_sha256);
    set_text(o, "parent_snapshot_id", v->parent_snapshot_id);
    if (v->status == MT_JOB_SUCCEEDED && v->distrusted_stored)
        json_object_set_new(o, "distrusted_stored", json_true());
    set_text(o, "failed_reason", v->status == MT_JOB_FAILED ? v->failed_reason : NULL);
    return o;
}

static int take_one(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_snapshot_report *v, json_t *rejected, int *events,
                    int *ignored)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, v->snapshot_id);
    mt_pg_p_text(&p, node_id);
    if (mt_pg_query(c->pg, &row_of, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0) {
        json_array_append_new(rejected, json_pack("{s:s,s:s}", "snapshot_id", v->snapshot_id, "code", "not_on_this_node"));
        return 0;
    }
    if (!mt_plans_seq(c->ctl->plans, v->snapshot_id, v->seq) || !forward(r, v)) {
        (*ignored)++;
        return 0;
    }
    struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, S_ORG), .app_id = mt_pg_text(r, 0, S_APP), .env_id = mt_pg_text(r, 0, S_ENV)};
    /* A cancellation asked for at this moment is no harm: what is pruned stays so. Two reports of one job at once are. */
    if (mt_cmd_rely(cmd, MT_RELY_SNAPSHOT, v->snapshot_id, NULL, mt_pg_i64(r, 0, S_VERSION), &c->err) < 0 ||
        mt_cmd_cause(cmd, v->snapshot_id, 0, &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_SNAPSHOT_STATUS_CHANGED, v->snapshot_id, &ids, payload_of(mt_pg_text(r, 0, S_VOLUME), v), &c->err) < 0)
        return mt_api_fail_err(c);
    (*events)++;
    return 0;
}

int mt_snapshot_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                             int *events, int *ignored)
{
    const struct mt_storage_reports *s = &b->storage;
    for (size_t i = 0; i < s->n_snapshots; i++) {
        bool again = false; /* two of one job in one batch: the second waits for the row of the first */
        for (size_t k = 0; k < i && !again; k++)
            again = MT_STREQ(s->snapshots[k].snapshot_id, s->snapshots[i].snapshot_id);
        if (again)
            json_array_append_new(rejected, json_pack("{s:s,s:s}", "snapshot_id", s->snapshots[i].snapshot_id, "code", "one_at_a_time"));
        else if (take_one(c, cmd, node_id, &s->snapshots[i], rejected, events, ignored) < 0)
            return -1;
    }
    return 0;
}
