/* SPDX-License-Identifier: Apache-2.0 */
/* See volume_reports.h. */
#include "control/api/volume_reports.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "control/plans/sent.h"
#include "model/volume.h"

static const struct mt_pg_stmt rows = {
    "volume_report_rows", "SELECT volume_id, org_id, app_id, env_id, state, size_bytes, coalesce(resize_to_bytes, 0), coalesce(error_reason, ''),"
                          " resource_version, from_snapshot_id IS NOT NULL, coalesce(fs_uuid, ''), delete_backups, state = 'deleting' AND EXISTS (SELECT 1 FROM moat.events e"
                          " WHERE e.aggregate_type = 'volume' AND e.aggregate_id = volume_id AND e.event_type = 'volume.state_changed' AND (e.payload->>'forced')::boolean)"
                          ", CASE WHEN check_pending THEN check_number ELSE 0 END, check_repair FROM volumes_view WHERE home_node_id = $1 AND NOT deleted"};

enum { R_ID = 0, R_ORG, R_APP, R_ENV, R_STATE, R_SIZE, R_RESIZE, R_REASON, R_VERSION, R_RESTORED, R_UUID, R_BACKUPS, R_FORCED, R_CHECK, R_REPAIR };

static int row_of(const struct mt_pg_res *r, const char *id)
{
    for (int i = 0; i < mt_pg_rows(r); i++)
        if (MT_STREQ(mt_pg_text(r, i, R_ID), id))
            return i;
    return -1;
}

/* The last word of a volume says again how its deletion was asked for. */
static json_t *deleted(const struct mt_pg_res *r, int row)
{
    return json_pack("{s:b,s:b}", "forced", (int)mt_pg_bool(r, row, R_FORCED), "delete_backups", (int)mt_pg_bool(r, row, R_BACKUPS));
}

/* The event of one report, or MT_EV_MAX when it changes nothing. */
static enum mt_ev event_of(const struct mt_pg_res *r, int row, const struct mt_volume_report *v, json_t **ret_payload)
{
    const char *state = mt_pg_text(r, row, R_STATE);
    bool deleting = MT_STREQ(state, "deleting"), failed = v->failed;
    enum mt_volume_fault fault = v->fault;
    char expected[MT_VOLUME_UUID_SIZE];

    switch (v->event) {
    case MT_VOLUME_PROVISIONED:
        /* That a restored one is there, its restore tells; which UUID it has, the image said. */
        if (mt_pg_bool(r, row, R_RESTORED) && MT_STREQ(state, "creating"))
            return MT_EV_MAX;
        if (mt_pg_bool(r, row, R_RESTORED))
            snprintf(expected, sizeof expected, "%s", mt_pg_text(r, row, R_UUID));
        else
            mt_volume_fs_uuid(v->volume_id, expected);
        if (!failed && !MT_STREQ(v->fs_uuid, expected)) {
            failed = true;
            fault = MT_VOLUME_FAULT_FILESYSTEM_MISMATCH;
        }
        if (deleting || (!failed && MT_STREQ(state, "available")) ||
            (failed && MT_STREQ(state, "error") && MT_STREQ(mt_pg_text(r, row, R_REASON), mt_volume_fault_name(fault))))
            return MT_EV_MAX;
        *ret_payload = failed ? json_pack("{s:s,s:s}", "result", "failed", "error_reason", mt_volume_fault_name(fault))
                              : json_pack("{s:s,s:s}", "result", "ok", "fs_uuid", v->fs_uuid);
        return MT_EV_VOLUME_PROVISIONED;
    case MT_VOLUME_RESIZED:
        if (mt_pg_i64(r, row, R_RESIZE) == 0 || (!failed && (int64_t)v->size_bytes != mt_pg_i64(r, row, R_RESIZE)))
            return MT_EV_MAX;
        *ret_payload = json_pack("{s:I,s:s}", "size_bytes", (json_int_t)mt_pg_i64(r, row, failed ? R_SIZE : R_RESIZE), "result", failed ? "failed" : "ok");
        if (failed)
            json_object_set_new(*ret_payload, "error_reason", json_string(mt_volume_fault_name(fault)));
        return MT_EV_VOLUME_RESIZED;
    case MT_VOLUME_REMOVED:
        if (!deleting) /* it was not asked to: whatever it did, the volume is missed */
            break;
        *ret_payload = deleted(r, row);
        return MT_EV_VOLUME_DELETED;
    case MT_VOLUME_CHECKED:
        if (v->check != (uint64_t)mt_pg_i64(r, row, R_CHECK) || deleting) /* not the one that was asked for last */
            return MT_EV_MAX;
        *ret_payload = json_pack("{s:I,s:b,s:s,s:s*}", "number", (json_int_t)v->check, "repair", (int)mt_pg_bool(r, row, R_REPAIR), "result",
                                 mt_volume_verdict_name(v->verdict), "detail", v->check_detail);
        return MT_EV_VOLUME_CHECKED;
    case MT_VOLUME_MISSING:
    case MT_VOLUME_FAULT:
    case MT_VOLUME_EVENT_MAX:
    default:
        break;
    }
    if (v->event != MT_VOLUME_FAULT)
        fault = MT_VOLUME_FAULT_NOT_PRESENT;
    if (deleting) {
        if (v->event == MT_VOLUME_FAULT) { /* it stays asked for, and the node tries again */
            mt_log(MT_WARN, "volume.not_removed", KV("volume_id", v->volume_id), KV("reason", mt_volume_fault_name(fault)));
            return MT_EV_MAX;
        }
        *ret_payload = deleted(r, row);
        return MT_EV_VOLUME_DELETED;
    }
    if (MT_STREQ(state, "error") && MT_STREQ(mt_pg_text(r, row, R_REASON), mt_volume_fault_name(fault)))
        return MT_EV_MAX;
    *ret_payload = json_pack("{s:s,s:s}", "state", "error", "reason", mt_volume_fault_name(fault));
    return MT_EV_VOLUME_STATE_CHANGED;
}

static int take_one(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, int row, const struct mt_volume_report *v, int *events,
                    int *ignored)
{
    struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, row, R_ORG), .app_id = mt_pg_text(r, row, R_APP), .env_id = mt_pg_text(r, row, R_ENV)};
    json_t *payload = NULL;
    enum mt_ev ev = mt_plans_seq(c->ctl->plans, v->volume_id, v->seq) ? event_of(r, row, v, &payload) : MT_EV_MAX;
    if (ev == MT_EV_MAX) {
        (*ignored)++;
        return 0;
    }
    /* A resize or deletion asked for at this moment is not overwritten: the node is asked to tell it again. */
    if (mt_cmd_rely(cmd, MT_RELY_VOLUME, v->volume_id, NULL, mt_pg_i64(r, row, R_VERSION), &c->err) < 0) {
        json_decref(payload);
        return mt_api_fail_err(c);
    }
    if (mt_cmd_event(cmd, ev, v->volume_id, &ids, payload, &c->err) < 0)
        return mt_api_fail_err(c);
    (*events)++;
    return 0;
}

int mt_volume_reports_take(struct mt_api_call *c, struct mt_cmd *cmd, const char *node_id, const struct mt_status_batch *b, json_t *rejected,
                           int *events, int *ignored)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    const struct mt_storage_reports *s = &b->storage;
    if (s->n_volumes == 0)
        return 0;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    if (mt_pg_query(c->pg, &rows, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    for (size_t i = 0; i < s->n_volumes; i++) {
        const struct mt_volume_report *v = &s->volumes[i];
        bool again = false; /* two of one volume in one batch: the second waits for the rows of the first */
        for (size_t k = 0; k < i && !again; k++)
            again = MT_STREQ(s->volumes[k].volume_id, v->volume_id);
        int row = row_of(r, v->volume_id);
        if (row < 0 || again)
            json_array_append_new(rejected, json_pack("{s:s,s:s}", "volume_id", v->volume_id, "code", again ? "one_at_a_time" : "not_on_this_node"));
        else if (take_one(c, cmd, r, row, v, events, ignored) < 0)
            return -1;
    }
    return 0;
}
