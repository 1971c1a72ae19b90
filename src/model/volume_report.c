/* SPDX-License-Identifier: Apache-2.0 */
/* What a node tells of its volumes, snapshots and restores, and of its storage. See volume.h. */
#include "model/volume.h"

#include "model/jsonout.h"
#include "model/names.h"
#include "wire/json.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1)
#define REASON_MAX 64

/* An id and the number of the report. */
static int head(const json_t *o, const char *key, enum mt_id_kind kind, const char **ret_id, uint64_t *ret_seq, struct mt_err *err)
{
    int rc;

    if (!json_is_object(o))
        return MT_FAIL(err, MT_E_INVALID, "is not an object");
    if ((rc = mt_json_get_str(o, key, MT_ID_SIZE, ret_id, err)) < 0 || (rc = mt_id_check(kind, *ret_id, err)) < 0 ||
        (rc = mt_json_get_u64(o, "seq", 1, JSON_INT_MAX, ret_seq, err)) < 0)
        return rc;
    return 0;
}

static int opt_uuid(const json_t *o, const char **ret, struct mt_err *err)
{
    int rc = mt_json_opt_str(o, "fs_uuid", MT_VOLUME_UUID_SIZE, NULL, ret, err);

    if (rc == 0 && *ret && !mt_volume_uuid_valid(*ret))
        rc = MT_FAIL(err, MT_E_INVALID, "'fs_uuid' is not a UUID");
    return rc;
}

static int dec_check(const json_t *o, struct mt_volume_report *r, struct mt_err *err)
{
    json_t *check;
    uint64_t number;
    const char *verdict;
    int rc = mt_json_opt_object(o, "check", &check, err);

    if (rc < 0)
        return rc;
    if ((r->event == MT_VOLUME_CHECKED) != (check != NULL))
        return MT_FAIL(err, MT_E_INVALID, "'check' is for checked, and needed there");
    if (!check)
        return 0;
    if ((rc = mt_json_get_u64(check, "number", 1, UINT32_MAX, &number, err)) < 0 || (rc = mt_json_get_str(check, "result", 16, &verdict, err)) < 0 ||
        (rc = mt_json_opt_str(check, "detail", MT_CHECK_DETAIL_MAX, NULL, &r->check_detail, err)) < 0)
        return mt_err_wrap(err, "check");
    if (!mt_volume_verdict_parse(verdict, &r->verdict))
        return MT_FAIL(err, MT_E_INVALID, "check: 'result' is not a known word");
    r->check = (uint32_t)number;
    return 0;
}

static int dec_volume(const json_t *o, struct mt_volume_report *r, struct mt_err *err)
{
    const char *event, *result, *fault;
    int rc;

    if ((rc = head(o, "volume_id", MT_ID_VOLUME, &r->volume_id, &r->seq, err)) < 0 ||
        (rc = mt_json_get_str(o, "event", 16, &event, err)) < 0 || (rc = mt_json_opt_str(o, "result", 8, NULL, &result, err)) < 0 ||
        (rc = opt_uuid(o, &r->fs_uuid, err)) < 0 || (rc = mt_json_opt_u64(o, "size_bytes", 0, JSON_INT_MAX, 0, &r->size_bytes, err)) < 0 ||
        (rc = mt_json_opt_str(o, "error_reason", REASON_MAX, NULL, &fault, err)) < 0)
        return rc;
    if (!mt_volume_event_parse(event, &r->event))
        return MT_FAIL(err, MT_E_INVALID, "'event' is not a known word");
    bool judged = r->event == MT_VOLUME_PROVISIONED || r->event == MT_VOLUME_RESIZED;
    if (judged != (result != NULL))
        return MT_FAIL(err, MT_E_INVALID, "'result' is for provisioned and resized, and needed there");
    r->failed = result && MT_STREQ(result, "failed");
    if (result && !r->failed && !MT_STREQ(result, "ok"))
        return MT_FAIL(err, MT_E_INVALID, "'result' is neither ok nor failed");
    if (fault && !mt_volume_fault_parse(fault, &r->fault))
        return MT_FAIL(err, MT_E_INVALID, "'error_reason' is not a known word");
    if ((r->failed || r->event == MT_VOLUME_FAULT) && !r->fault)
        return MT_FAIL(err, MT_E_INVALID, "'error_reason' is missing");
    if (judged && !r->failed && !r->size_bytes)
        return MT_FAIL(err, MT_E_INVALID, "'size_bytes' is missing");
    if (r->event == MT_VOLUME_PROVISIONED && !r->failed && !r->fs_uuid)
        return MT_FAIL(err, MT_E_INVALID, "'fs_uuid' is missing");
    return dec_check(o, r, err);
}

static int job_status(const json_t *o, enum mt_job_status *ret, const char **ret_reason, struct mt_err *err)
{
    const char *status;
    int rc;

    if ((rc = mt_json_get_str(o, "status", 16, &status, err)) < 0 ||
        (rc = mt_json_opt_str(o, "failed_reason", REASON_MAX, NULL, ret_reason, err)) < 0)
        return rc;
    if (!mt_job_status_parse(status, ret) || *ret == MT_JOB_QUEUED)
        return MT_FAIL(err, MT_E_INVALID, "'status' is not running, succeeded or failed");
    if ((*ret == MT_JOB_FAILED) != (*ret_reason != NULL))
        return MT_FAIL(err, MT_E_INVALID, "'failed_reason' is for what failed, and needed there");
    if (*ret_reason && (!**ret_reason || strspn(*ret_reason, "abcdefghijklmnopqrstuvwxyz0123456789_:") != strlen(*ret_reason)))
        return MT_FAIL(err, MT_E_INVALID, "'failed_reason' is not 1 to 64 of a-z 0-9 _ :");
    return 0;
}

static int opt_bytes(const json_t *o, const char *key, bool *ret_has, uint64_t *ret, struct mt_err *err)
{
    *ret_has = json_is_integer(json_object_get(o, key));
    return mt_json_opt_u64(o, key, 0, JSON_INT_MAX, 0, ret, err);
}

static int opt_hash(const json_t *o, const char *key, const char **ret, struct mt_err *err)
{
    int rc = mt_json_opt_str(o, key, 64, NULL, ret, err);

    if (rc == 0 && *ret && !mt_hex64_valid(*ret, strlen(*ret)))
        rc = MT_FAIL(err, MT_E_INVALID, "'%s' is not 64 hexadecimal digits", key);
    return rc;
}

static int dec_snapshot(const json_t *o, struct mt_snapshot_report *r, struct mt_err *err)
{
    const char *phase;
    uint64_t at, epoch;
    int rc;

    if ((rc = head(o, "snapshot_id", MT_ID_SNAPSHOT, &r->snapshot_id, &r->seq, err)) < 0 ||
        (rc = job_status(o, &r->status, &r->failed_reason, err)) < 0 || (rc = mt_json_opt_str(o, "phase", 16, NULL, &phase, err)) < 0 ||
        (rc = mt_json_opt_str(o, "consistency", 16, NULL, &r->consistency, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "captured_at_ms", 0, UINT64_C(253402300799999), 0, &at, err)) < 0 ||
        (rc = opt_bytes(o, "size_bytes", &r->has_size, &r->size_bytes, err)) < 0 ||
        (rc = opt_bytes(o, "changed_bytes", &r->has_changed, &r->changed_bytes, err)) < 0 ||
        (rc = opt_bytes(o, "uploaded_bytes", &r->has_uploaded, &r->uploaded_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "key_epoch", 0, UINT32_MAX, 0, &epoch, err)) < 0 ||
        (rc = opt_hash(o, "image_root", &r->image_root, err)) < 0 || (rc = opt_hash(o, "manifest_sha256", &r->manifest_sha256, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "distrusted_stored", false, &r->distrusted_stored, err)) < 0 ||
        (rc = mt_json_opt_str(o, "parent_snapshot_id", MT_ID_SIZE, NULL, &r->parent_snapshot_id, err)) < 0)
        return rc;
    r->captured_at_ms = (int64_t)at;
    r->key_epoch = (uint32_t)epoch;
    if (r->parent_snapshot_id && (rc = mt_id_check(MT_ID_SNAPSHOT, r->parent_snapshot_id, err)) < 0)
        return rc;
    if (phase && !mt_snapshot_phase_parse(phase, &r->phase))
        return MT_FAIL(err, MT_E_INVALID, "'phase' is not capturing, uploading or verifying");
    if (r->consistency && !MT_STREQ(r->consistency, "crash") && !MT_STREQ(r->consistency, "filesystem"))
        return MT_FAIL(err, MT_E_INVALID, "'consistency' is neither crash nor filesystem");
    if (r->status == MT_JOB_SUCCEEDED && (!r->image_root || !r->manifest_sha256 || !r->captured_at_ms || !r->key_epoch || !r->has_size))
        return MT_FAIL(err, MT_E_INVALID, "a snapshot that succeeded names captured_at_ms, size_bytes, key_epoch, image_root, manifest_sha256");
    return 0;
}

static int dec_probe(const json_t *o, struct mt_restore_report *r, struct mt_err *err)
{
    json_t *p;
    uint64_t ms, code;
    int rc = mt_json_opt_object(o, "probe", &p, err);

    r->probe_exit_code = -1;
    if (rc < 0 || !p)
        return rc;
    if ((rc = mt_json_get_u64(p, "ms", 0, UINT32_MAX, &ms, err)) < 0 || (rc = mt_json_opt_u64(p, "exit_code", 0, 255, 256, &code, err)) < 0 ||
        (rc = mt_json_opt_str(p, "detail", MT_PROBE_DETAIL_MAX, NULL, &r->probe_detail, err)) < 0 ||
        (rc = mt_json_opt_str(p, "output", MT_PROBE_OUTPUT_MAX, NULL, &r->probe_output, err)) < 0)
        return mt_err_wrap(err, "probe");
    r->probed = true;
    r->probe_ms = (uint32_t)ms;
    if (code < 256)
        r->probe_exit_code = (int)code;
    return 0;
}

static int dec_restore(const json_t *o, struct mt_restore_report *r, struct mt_err *err)
{
    const char *phase;
    int rc;

    if ((rc = head(o, "restore_id", MT_ID_RESTORE, &r->restore_id, &r->seq, err)) < 0 ||
        (rc = job_status(o, &r->status, &r->failed_reason, err)) < 0 || (rc = mt_json_opt_str(o, "phase", 16, NULL, &phase, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "bytes_done", 0, JSON_INT_MAX, 0, &r->bytes_done, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "bytes_total", 0, JSON_INT_MAX, 0, &r->bytes_total, err)) < 0 || (rc = opt_uuid(o, &r->fs_uuid, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "snapshot_damaged", false, &r->snapshot_damaged, err)) < 0 || (rc = dec_probe(o, r, err)) < 0)
        return rc;
    if (phase && !mt_restore_phase_parse(phase, &r->phase))
        return MT_FAIL(err, MT_E_INVALID, "'phase' is neither downloading nor checking");
    if (r->status == MT_JOB_SUCCEEDED && !r->fs_uuid)
        return MT_FAIL(err, MT_E_INVALID, "a restore that succeeded names fs_uuid");
    return 0;
}

#define DECODE_LIST(doc, key, items, n_items, decode)                                \
    do {                                                                             \
        json_t *list_, *o_;                                                          \
        size_t i_;                                                                   \
        if ((rc = mt_json_opt_array(doc, key, max, &list_, err)) < 0)                \
            goto fail;                                                               \
        if (!list_)                                                                  \
            break;                                                                   \
        max -= json_array_size(list_);                                               \
        items = calloc(json_array_size(list_) + 1, sizeof *(items));                 \
        if (!(items)) {                                                              \
            rc = MT_FAIL(err, MT_E_NOMEM, "out of memory");                          \
            goto fail;                                                               \
        }                                                                            \
        json_array_foreach(list_, i_, o_) {                                          \
            if ((rc = decode(o_, &(items)[i_], err)) < 0) {                          \
                (void)mt_err_wrap(err, key "[%zu]", i_);                             \
                goto fail;                                                           \
            }                                                                        \
            n_items = i_ + 1;                                                        \
        }                                                                            \
    } while (0)

int mt_storage_reports_decode(const json_t *batch, size_t max, struct mt_storage_reports *ret, struct mt_err *err)
{
    struct mt_storage_reports s = {0};
    struct mt_err own = {0};
    int rc;

    err = err ? err : &own;
    DECODE_LIST(batch, "volumes", s.volumes, s.n_volumes, dec_volume);
    DECODE_LIST(batch, "snapshots", s.snapshots, s.n_snapshots, dec_snapshot);
    DECODE_LIST(batch, "restores", s.restores, s.n_restores, dec_restore);
    *ret = s;
    return 0;
fail:
    mt_storage_reports_done(&s);
    return rc;
}

void mt_storage_reports_done(struct mt_storage_reports *s)
{
    free(s->volumes);
    free(s->snapshots);
    free(s->restores);
    *s = (struct mt_storage_reports){0};
}

/* ---- encoding ---- */

static const char *word_or_null(const char *word)
{
    return word && *word ? word : NULL;
}

static json_t *enc_volume(const struct mt_volume_report *r)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "volume_id", r->volume_id);
    mt_jout_u64(&o, "seq", r->seq);
    mt_jout_str(&o, "event", mt_volume_event_name(r->event));
    if (r->event == MT_VOLUME_PROVISIONED || r->event == MT_VOLUME_RESIZED)
        mt_jout_str(&o, "result", r->failed ? "failed" : "ok");
    mt_jout_str(&o, "fs_uuid", r->fs_uuid);
    if (r->size_bytes)
        mt_jout_u64(&o, "size_bytes", r->size_bytes);
    mt_jout_str(&o, "error_reason", word_or_null(mt_volume_fault_name(r->fault)));
    if (r->event == MT_VOLUME_CHECKED) {
        struct mt_jout check = mt_jout_new();
        mt_jout_u64(&check, "number", r->check);
        mt_jout_str(&check, "result", mt_volume_verdict_name(r->verdict));
        mt_jout_str(&check, "detail", r->check_detail);
        mt_jout_json(&o, "check", mt_jout_take(&check));
    }
    return mt_jout_take(&o);
}

static json_t *enc_snapshot(const struct mt_snapshot_report *r)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "snapshot_id", r->snapshot_id);
    mt_jout_u64(&o, "seq", r->seq);
    mt_jout_str(&o, "status", mt_job_status_name(r->status));
    mt_jout_str(&o, "phase", word_or_null(mt_snapshot_phase_name(r->phase)));
    mt_jout_str(&o, "consistency", r->consistency);
    if (r->captured_at_ms)
        mt_jout_u64(&o, "captured_at_ms", (uint64_t)r->captured_at_ms);
    if (r->has_size)
        mt_jout_u64(&o, "size_bytes", r->size_bytes);
    if (r->has_changed)
        mt_jout_u64(&o, "changed_bytes", r->changed_bytes);
    if (r->has_uploaded)
        mt_jout_u64(&o, "uploaded_bytes", r->uploaded_bytes);
    if (r->key_epoch)
        mt_jout_u64(&o, "key_epoch", r->key_epoch);
    mt_jout_str(&o, "image_root", r->image_root);
    mt_jout_str(&o, "manifest_sha256", r->manifest_sha256);
    if (r->distrusted_stored)
        mt_jout_bool(&o, "distrusted_stored", true);
    mt_jout_str(&o, "parent_snapshot_id", r->parent_snapshot_id);
    mt_jout_str(&o, "failed_reason", r->failed_reason);
    return mt_jout_take(&o);
}

static json_t *enc_restore(const struct mt_restore_report *r)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "restore_id", r->restore_id);
    mt_jout_u64(&o, "seq", r->seq);
    mt_jout_str(&o, "status", mt_job_status_name(r->status));
    mt_jout_str(&o, "phase", word_or_null(mt_restore_phase_name(r->phase)));
    mt_jout_u64(&o, "bytes_done", r->bytes_done);
    mt_jout_u64(&o, "bytes_total", r->bytes_total);
    mt_jout_str(&o, "fs_uuid", r->fs_uuid);
    mt_jout_str(&o, "failed_reason", r->failed_reason);
    mt_jout_bool(&o, "snapshot_damaged", r->snapshot_damaged);
    if (r->probed) {
        struct mt_jout p = mt_jout_new();
        mt_jout_u64(&p, "ms", r->probe_ms);
        if (r->probe_exit_code >= 0)
            mt_jout_u64(&p, "exit_code", (uint64_t)r->probe_exit_code);
        mt_jout_str(&p, "detail", r->probe_detail);
        mt_jout_str(&p, "output", r->probe_output);
        mt_jout_json(&o, "probe", mt_jout_take(&p));
    }
    return mt_jout_take(&o);
}

#define ENCODE_LIST(doc, key, items, n_items, encode)                                 \
    do {                                                                              \
        json_t *list_ = (n_items) ? json_array() : NULL;                              \
        bool ok_ = !(n_items) || list_;                                               \
        for (size_t i_ = 0; ok_ && i_ < (n_items); i_++)                              \
            ok_ = json_array_append_new(list_, encode(&(items)[i_])) == 0;            \
        if (!ok_)                                                                     \
            json_decref(list_);                                                       \
        else if (list_)                                                               \
            ok_ = json_object_set_new(doc, key, list_) == 0;                          \
        if (!ok_)                                                                     \
            return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding " key " (or a text that is not UTF-8)"); \
    } while (0)

int mt_storage_reports_encode(const struct mt_storage_reports *s, json_t *batch, struct mt_err *err)
{
    ENCODE_LIST(batch, "volumes", s->volumes, s->n_volumes, enc_volume);
    ENCODE_LIST(batch, "snapshots", s->snapshots, s->n_snapshots, enc_snapshot);
    ENCODE_LIST(batch, "restores", s->restores, s->n_restores, enc_restore);
    return 0;
}

/* ---- heartbeat ---- */

int mt_storage_figures_decode(const json_t *heartbeat, struct mt_storage_figures *ret, struct mt_err *err)
{
    struct mt_storage_figures f = {0};
    json_t *o, *list, *id;
    size_t i;
    int rc = mt_json_opt_object(heartbeat, "storage", &o, err);

    if (rc < 0)
        return rc;
    if (!o) {
        *ret = f;
        return 0;
    }
    if ((rc = mt_json_get_str(o, "backend", 16, &f.backend, err)) < 0 ||
        (rc = mt_json_get_u64(o, "pool_bytes", 0, JSON_INT_MAX, &f.pool_bytes, err)) < 0 ||
        (rc = mt_json_get_u64(o, "pool_used_bytes", 0, JSON_INT_MAX, &f.pool_used_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "meta_bytes", 0, JSON_INT_MAX, 0, &f.meta_bytes, err)) < 0 ||
        (rc = mt_json_opt_u64(o, "meta_used_bytes", 0, JSON_INT_MAX, 0, &f.meta_used_bytes, err)) < 0 ||
        (rc = mt_json_get_bool(o, "healthy", &f.healthy, err)) < 0 || (rc = mt_json_opt_str(o, "reason", 256, NULL, &f.reason, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "backup_store", false, &f.backup_store, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "restores", false, &f.restores, err)) < 0 ||
        (rc = mt_json_opt_array(o, "orphans", MT_STORAGE_ORPHANS_MAX, &list, err)) < 0)
        return mt_err_wrap(err, "storage");
    if (!MT_STREQ(f.backend, "lvm-thin") && !MT_STREQ(f.backend, "reflink") && !MT_STREQ(f.backend, "copy"))
        return MT_FAIL(err, MT_E_INVALID, "storage: 'backend' is not lvm-thin, reflink or copy");
    json_array_foreach(list, i, id) {
        if ((rc = mt_id_check(MT_ID_VOLUME, json_string_value(id), err)) < 0)
            return mt_err_wrap(err, "storage: orphans[%zu]", i);
        f.orphans[f.n_orphans++] = json_string_value(id);
    }
    f.present = true;
    *ret = f;
    return 0;
}

int mt_storage_figures_encode(const struct mt_storage_figures *f, json_t *heartbeat, struct mt_err *err)
{
    struct mt_jout o;
    json_t *orphans, *storage;

    if (!f->present)
        return 0;
    o = mt_jout_new();
    orphans = json_array();
    mt_jout_str(&o, "backend", f->backend);
    mt_jout_u64(&o, "pool_bytes", f->pool_bytes);
    mt_jout_u64(&o, "pool_used_bytes", f->pool_used_bytes);
    mt_jout_u64(&o, "meta_bytes", f->meta_bytes);
    mt_jout_u64(&o, "meta_used_bytes", f->meta_used_bytes);
    mt_jout_bool(&o, "healthy", f->healthy);
    mt_jout_str(&o, "reason", f->reason);
    if (f->backup_store)
        mt_jout_bool(&o, "backup_store", true);
    if (f->restores)
        mt_jout_bool(&o, "restores", true);
    for (size_t i = 0; i < f->n_orphans; i++)
        if (!orphans || json_array_append_new(orphans, json_string(f->orphans[i])) != 0)
            o.failed = true;
    mt_jout_json(&o, "orphans", orphans);
    storage = mt_jout_take(&o);
    if (!storage || json_object_set_new(heartbeat, "storage", storage) != 0)
        return MT_FAIL(err, MT_E_NOMEM, "out of memory encoding storage (or a text that is not UTF-8)");
    return 0;
}
