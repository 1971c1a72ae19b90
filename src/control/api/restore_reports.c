/* SPDX-License-Identifier: Apache-2.0 */
/* See restore_reports.h. */
#include "control/api/restore_reports.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/plans/sent.h"
#include "model/volume.h"

static const struct mt_pg_stmt row_of = {
    "restore_report_row",
    "SELECT r.org_id, r.app_id, r.env_id, r.snapshot_id, r.source_volume_id, r.new_volume_id, r.status, coalesce(r.phase, ''), r.resource_version, coalesce(v.state, ''),"
    " coalesce(v.resource_version, 0), greatest(0, (extract(epoch FROM now() - r.created_at) * 1000)::bigint), s.app_id, s.env_id, coalesce(r.purpose = 'proof', false), coalesce(r.purpose = 'precopy', false) FROM restores_view r"
    " LEFT JOIN volumes_view v ON v.volume_id = r.new_volume_id JOIN snapshots_view s ON s.snapshot_id = r.snapshot_id"
    " WHERE r.restore_id = $1 AND r.target_node_id = $2"};

enum { R_ORG = 0, R_APP, R_ENV, R_SNAPSHOT, R_SOURCE, R_NEW, R_STATUS, R_PHASE, R_VERSION, R_STATE, R_VOLUME_VERSION, R_TOOK, R_SOURCE_APP, R_SOURCE_ENV, R_PROOF, R_PRECOPY };

static bool forward(const struct mt_pg_res *r, const struct mt_restore_report *v)
{
    enum mt_job_status now = MT_JOB_QUEUED;
    enum mt_restore_phase phase = MT_RESTORE_NO_PHASE;
    (void)mt_job_status_parse(mt_pg_text(r, 0, R_STATUS), &now);
    (void)mt_restore_phase_parse(mt_pg_text(r, 0, R_PHASE), &phase);
    if (now == MT_JOB_SUCCEEDED || now == MT_JOB_FAILED || v->status < now)
        return false;
    return v->status != now || v->phase > phase;
}

static json_t *job_payload(const struct mt_restore_report *v)
{
    json_t *o = json_pack("{s:s}", "status", mt_job_status_name(v->status));
    if (v->status == MT_JOB_RUNNING && v->phase != MT_RESTORE_NO_PHASE)
        json_object_set_new(o, "phase", json_string(mt_restore_phase_name(v->phase)));
    if (v->bytes_total) {
        json_object_set_new(o, "bytes_done", json_integer((json_int_t)v->bytes_done));
        json_object_set_new(o, "bytes_total", json_integer((json_int_t)v->bytes_total));
    }
    if (v->status == MT_JOB_FAILED)
        json_object_set_new(o, "failed_reason", json_string(v->failed_reason));
    return o;
}

/* The end of a job is the end of waiting for its volume: ready, or gone again (the node has removed what there was of it). */
static int end_volume(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const struct mt_restore_report *v, const struct mt_cmd_ids *ids)
{
    const char *id = mt_pg_text(r, 0, R_NEW);
    enum mt_ev ev = MT_EV_VOLUME_PROVISIONED;
    json_t *payload;
    if (mt_pg_bool(r, 0, R_PRECOPY) && v->status == MT_JOB_SUCCEEDED) /* another job makes it whole */
        return 0;
    if (!MT_STREQ(mt_pg_text(r, 0, R_STATE), "creating")) /* being deleted: the node tells when it is; or a proof, which has none */
        return 0;
    if (v->status == MT_JOB_SUCCEEDED) {
        payload = json_pack("{s:s,s:s}", "result", "ok", "fs_uuid", v->fs_uuid);
    } else if (MT_STREQ(v->failed_reason, "cleanup_failed")) {
        payload = json_pack("{s:s,s:s}", "result", "failed", "error_reason", mt_volume_fault_name(MT_VOLUME_FAULT_REMOVE_FAILED));
    } else {
        ev = MT_EV_VOLUME_DELETED;
        payload = json_pack("{s:b,s:b}", "forced", false, "delete_backups", false);
    }
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, id, NULL, mt_pg_i64(r, 0, R_VOLUME_VERSION), &c->err) < 0) {
        json_decref(payload);
        return -1;
    }
    return mt_cmd_event(cmd, ev, id, ids, payload, &c->err);
}

/* What the probe of a manifest said of the copy, for the event. */
static void put_probe(json_t *payload, const struct mt_restore_report *v)
{
    if (!payload || !v->probed)
        return;
    json_object_set_new(payload, "probe_ms", json_integer((json_int_t)v->probe_ms));
    if (v->probe_exit_code >= 0)
        json_object_set_new(payload, "probe_exit_code", json_integer(v->probe_exit_code));
    if (v->probe_detail)
        json_object_set_new(payload, "probe_detail", json_string(v->probe_detail));
    if (v->probe_output)
        json_object_set_new(payload, "probe_output", json_string(v->probe_output));
}

/* A restore whose file system was checked proves its snapshot; one that found damage says so of it. That the file system of a backup is not
 * whole, or that the probe does not find in it what it should, although every byte is as it was stored, is what proofs are made to find. */
static bool no_good(const char *failed_reason)
{
    return MT_STREQ(failed_reason, "fsck_failed") || MT_STREQ(failed_reason, "probe_failed");
}

static int prove(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const struct mt_restore_report *v)
{
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, R_ORG), .app_id = mt_pg_text(r, 0, R_SOURCE_APP), .env_id = mt_pg_text(r, 0, R_SOURCE_ENV)};
    const char *result = v->status == MT_JOB_SUCCEEDED ? "ok" : v->snapshot_damaged ? "damaged" : mt_pg_bool(r, 0, R_PROOF) && no_good(v->failed_reason) ? "failed" : NULL;
    if (!result || (mt_pg_bool(r, 0, R_PRECOPY) && v->status == MT_JOB_SUCCEEDED)) /* nobody checked it */
        return 0;
    json_t *payload = json_pack("{s:s,s:s,s:s,s:I,s:I}", "volume_id", mt_pg_text(r, 0, R_SOURCE), "kind", "restore", "result", result, "bytes",
                                (json_int_t)v->bytes_done, "duration_ms", (json_int_t)mt_pg_i64(r, 0, R_TOOK));
    if (v->status == MT_JOB_FAILED && payload)
        json_object_set_new(payload, "failed_reason", json_string(v->failed_reason));
    put_probe(payload, v);
    return mt_cmd_event(cmd, MT_EV_SNAPSHOT_PROOF_RECORDED, mt_pg_text(r, 0, R_SNAPSHOT), &ids, payload, &c->err);
}

static int take_one(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_restore_report *v, json_t *rejected, int *events,
                    int *ignored)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, v->restore_id);
    mt_pg_p_text(&p, node_id);
    if (mt_pg_query(c->pg, &row_of, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_pg_rows(r) == 0) {
        json_array_append_new(rejected, json_pack("{s:s,s:s}", "restore_id", v->restore_id, "code", "not_on_this_node"));
        return 0;
    }
    if (!mt_plans_seq(c->ctl->plans, v->restore_id, v->seq) || !forward(r, v)) {
        (*ignored)++;
        return 0;
    }
    bool end = v->status == MT_JOB_SUCCEEDED || v->status == MT_JOB_FAILED;
    struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, R_ORG), .app_id = mt_pg_text(r, 0, R_APP), .env_id = mt_pg_text(r, 0, R_ENV)};
    if (mt_cmd_rely(cmd, MT_RELY_RESTORE, v->restore_id, NULL, mt_pg_i64(r, 0, R_VERSION), &c->err) < 0 ||
        mt_cmd_cause(cmd, v->restore_id, 0, &c->err) < 0 ||
        mt_cmd_event(cmd, MT_EV_RESTORE_JOB_STATUS_CHANGED, v->restore_id, &ids, job_payload(v), &c->err) < 0 ||
        (end && (end_volume(c, cmd, r, v, &ids) < 0 || prove(c, cmd, r, v) < 0)))
        return mt_api_fail_err(c);
    (*events)++;
    return 0;
}

int mt_restore_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                            int *events, int *ignored)
{
    const struct mt_storage_reports *s = &b->storage;
    for (size_t i = 0; i < s->n_restores; i++) {
        bool again = false; /* two of one job in one batch: the second waits for the row of the first */
        for (size_t k = 0; k < i && !again; k++)
            again = MT_STREQ(s->restores[k].restore_id, s->restores[i].restore_id);
        if (again)
            json_array_append_new(rejected, json_pack("{s:s,s:s}", "restore_id", s->restores[i].restore_id, "code", "one_at_a_time"));
        else if (take_one(c, cmd, node_id, &s->restores[i], rejected, events, ignored) < 0)
            return -1;
    }
    return 0;
}
