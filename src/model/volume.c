/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes: words, sizes, UUID, and the plan's sections for a node. See volume.h. */
#include "model/volume.h"

#include "model/jsonout.h"
#include "model/names.h"
#include "wire/json.h"

#include "base/assert.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_INT_MAX ((UINT64_C(1) << 53) - 1)

static const char *const state_names[MT_VOLUME_STATE_MAX] = {
    [MT_VOLUME_CREATING] = "creating", [MT_VOLUME_AVAILABLE] = "available", [MT_VOLUME_IN_USE] = "in_use",
    [MT_VOLUME_DELETING] = "deleting", [MT_VOLUME_DELETED] = "deleted",     [MT_VOLUME_ERROR] = "error",
};

static const char *const event_names[MT_VOLUME_EVENT_MAX] = {
    [MT_VOLUME_PROVISIONED] = "provisioned", [MT_VOLUME_RESIZED] = "resized", [MT_VOLUME_REMOVED] = "deleted",
    [MT_VOLUME_MISSING] = "missing",         [MT_VOLUME_FAULT] = "error",     [MT_VOLUME_CHECKED] = "checked",
};

static const char *const fault_names[MT_VOLUME_FAULT_MAX] = {
    [MT_VOLUME_FAULT_NONE] = "",
    [MT_VOLUME_FAULT_PROVISION_TIMEOUT] = "provision_timeout",
    [MT_VOLUME_FAULT_UNEXPECTED_CONTENT] = "unexpected_content",
    [MT_VOLUME_FAULT_NOT_PRESENT] = "volume_not_present_on_node",
    [MT_VOLUME_FAULT_FILESYSTEM_MISMATCH] = "filesystem_mismatch",
    [MT_VOLUME_FAULT_RESIZE_FAILED] = "resize_failed",
    [MT_VOLUME_FAULT_REMOVE_FAILED] = "remove_failed",
    [MT_VOLUME_FAULT_NO_SPACE] = "no_space",
    [MT_VOLUME_FAULT_INTERNAL] = "internal_error",
};

static const char *const verdict_names[MT_VOLUME_VERDICT_MAX] = {
    [MT_VOLUME_CLEAN] = "clean",         [MT_VOLUME_REPAIRED] = "repaired",      [MT_VOLUME_DAMAGED] = "damaged",
    [MT_VOLUME_CHECK_FAILED] = "failed", [MT_VOLUME_CHECK_IN_USE] = "in_use",
};

static const char *const job_names[MT_JOB_STATUS_MAX] = {
    [MT_JOB_QUEUED] = "queued", [MT_JOB_RUNNING] = "running", [MT_JOB_SUCCEEDED] = "succeeded", [MT_JOB_FAILED] = "failed",
};

static const char *const snapshot_phases[MT_SNAPSHOT_PHASE_MAX] = {
    [MT_SNAPSHOT_NO_PHASE] = "", [MT_SNAPSHOT_CAPTURING] = "capturing", [MT_SNAPSHOT_UPLOADING] = "uploading",
    [MT_SNAPSHOT_VERIFYING] = "verifying",
};

static const char *const restore_phases[MT_RESTORE_PHASE_MAX] = {
    [MT_RESTORE_NO_PHASE] = "", [MT_RESTORE_DOWNLOADING] = "downloading", [MT_RESTORE_CHECKING] = "checking",
};

/* Index of @word in @names, or -1. */
static int word_at(const char *const *names, unsigned n, const char *word)
{
    for (unsigned i = 0; word && *word && i < n; i++)
        if (MT_STREQ(names[i], word))
            return (int)i;
    return -1;
}

#define WORDS(type, names, max, name_of, parse)     \
    const char *name_of(enum type v)                \
    {                                               \
        MT_ASSERT((unsigned)v < (unsigned)(max));   \
        return names[v];                            \
    }                                               \
    bool parse(const char *word, enum type *ret)    \
    {                                               \
        int i = word_at(names, (unsigned)(max), word); \
        if (i >= 0)                                 \
            *ret = (enum type)i;                    \
        return i >= 0;                              \
    }

WORDS(mt_volume_state, state_names, MT_VOLUME_STATE_MAX, mt_volume_state_name, mt_volume_state_parse)
WORDS(mt_volume_event, event_names, MT_VOLUME_EVENT_MAX, mt_volume_event_name, mt_volume_event_parse)
WORDS(mt_volume_fault, fault_names, MT_VOLUME_FAULT_MAX, mt_volume_fault_name, mt_volume_fault_parse)
WORDS(mt_volume_verdict, verdict_names, MT_VOLUME_VERDICT_MAX, mt_volume_verdict_name, mt_volume_verdict_parse)
WORDS(mt_job_status, job_names, MT_JOB_STATUS_MAX, mt_job_status_name, mt_job_status_parse)
WORDS(mt_snapshot_phase, snapshot_phases, MT_SNAPSHOT_PHASE_MAX, mt_snapshot_phase_name, mt_snapshot_phase_parse)
WORDS(mt_restore_phase, restore_phases, MT_RESTORE_PHASE_MAX, mt_restore_phase_name, mt_restore_phase_parse)

void mt_volume_fs_uuid(const char *volume_id, char ret[MT_VOLUME_UUID_SIZE])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint8_t b[16] = {0};
    unsigned bit = 0; /* of 130: the first two of 26 × 5 are zero in a ULID */

    MT_ASSERT(mt_id_valid(MT_ID_VOLUME, volume_id, strlen(volume_id)));
    for (const char *p = mt_id_ulid(volume_id); *p; p++) {
        unsigned v = (unsigned)(strchr(digits, *p) - digits);
        for (int k = 4; k >= 0; k--, bit++)
            if (bit >= 2 && (v >> k & 1U))
                b[(bit - 2) / 8] |= (uint8_t)(0x80U >> ((bit - 2) % 8));
    }
    b[6] = (uint8_t)((b[6] & 0x0fU) | 0x80U);
    b[8] = (uint8_t)((b[8] & 0x3fU) | 0x80U);
    snprintf(ret, MT_VOLUME_UUID_SIZE, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
             b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

bool mt_volume_uuid_valid(const char *s)
{
    if (!s || strlen(s) != MT_VOLUME_UUID_SIZE - 1)
        return false;
    for (size_t i = 0; s[i]; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : strchr("0123456789abcdef", s[i]) == NULL)
            return false;
    }
    return true;
}

uint64_t mt_volume_size(uint64_t bytes)
{
    if (bytes < MT_VOLUME_SIZE_MIN || bytes > MT_VOLUME_SIZE_MAX)
        return 0;
    return (bytes + MT_VOLUME_SIZE_STEP - 1) / MT_VOLUME_SIZE_STEP * MT_VOLUME_SIZE_STEP;
}

uint64_t mt_storage_allocatable(uint64_t pool_bytes)
{
    return pool_bytes / 5 * 4 + pool_bytes % 5 * 4 / 5;
}

/* ---- decoding ---- */

static int get_id(const json_t *o, const char *key, enum mt_id_kind kind, const char **ret, struct mt_err *err)
{
    int rc = mt_json_get_str(o, key, MT_ID_SIZE, ret, err);

    if (rc == 0 && (rc = mt_id_check(kind, *ret, err)) < 0)
        (void)mt_err_wrap(err, "'%s'", key);
    return rc;
}

static int opt_id(const json_t *o, const char *key, enum mt_id_kind kind, const char **ret, struct mt_err *err)
{
    int rc = mt_json_opt_str(o, key, MT_ID_SIZE, NULL, ret, err);

    if (rc == 0 && *ret && (rc = mt_id_check(kind, *ret, err)) < 0)
        (void)mt_err_wrap(err, "'%s'", key);
    return rc;
}

static int get_epoch(const json_t *o, uint32_t *ret, struct mt_err *err)
{
    uint64_t v = 0;
    int rc = mt_json_get_u64(o, "key_epoch", 1, UINT32_MAX, &v, err);

    *ret = (uint32_t)v;
    return rc;
}

static int get_size(const json_t *o, const char *key, bool optional, uint64_t *ret, struct mt_err *err)
{
    int rc = optional ? mt_json_opt_u64(o, key, MT_VOLUME_SIZE_MIN, MT_VOLUME_SIZE_MAX, 0, ret, err)
                      : mt_json_get_u64(o, key, MT_VOLUME_SIZE_MIN, MT_VOLUME_SIZE_MAX, ret, err);

    if (rc == 0 && *ret % MT_VOLUME_SIZE_STEP)
        rc = MT_FAIL(err, MT_E_INVALID, "'%s' is not a whole number of 4 MiB", key);
    return rc;
}

static int dec_check(const json_t *o, struct mt_plan_volume *v, struct mt_err *err)
{
    json_t *check;
    uint64_t number;
    int rc = mt_json_opt_object(o, "check", &check, err);

    if (rc < 0 || !check)
        return rc;
    if ((rc = mt_json_get_u64(check, "number", 1, UINT32_MAX, &number, err)) < 0 || (rc = mt_json_get_bool(check, "repair", &v->check_repair, err)) < 0)
        return mt_err_wrap(err, "check");
    v->check = (uint32_t)number;
    return 0;
}

static int dec_volume(const json_t *o, struct mt_plan_volume *v, struct mt_err *err)
{
    const char *desired;
    int rc;

    if ((rc = get_id(o, "volume_id", MT_ID_VOLUME, &v->volume_id, err)) < 0 || (rc = get_id(o, "org_id", MT_ID_ORG, &v->org_id, err)) < 0 ||
        (rc = get_id(o, "app_id", MT_ID_APP, &v->app_id, err)) < 0 || (rc = get_id(o, "env_id", MT_ID_ENV, &v->env_id, err)) < 0 ||
        (rc = mt_json_get_str(o, "name", MT_NAME_SIZE, &v->name, err)) < 0 || (rc = mt_name_check(MT_NAME_VOLUME, v->name, err)) < 0 ||
        (rc = get_size(o, "size_bytes", false, &v->size_bytes, err)) < 0 ||
        (rc = get_size(o, "resize_to_bytes", true, &v->resize_to_bytes, err)) < 0 ||
        (rc = mt_json_opt_str(o, "fs_uuid", MT_VOLUME_UUID_SIZE, NULL, &v->fs_uuid, err)) < 0 ||
        (rc = mt_json_get_str(o, "desired", 8, &desired, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "was_available", false, &v->was_available, err)) < 0 ||
        (rc = opt_id(o, "from_restore", MT_ID_RESTORE, &v->from_restore, err)) < 0 || (rc = dec_check(o, v, err)) < 0)
        return rc;
    v->absent = MT_STREQ(desired, "absent");
    if (!v->absent && !MT_STREQ(desired, "present"))
        return MT_FAIL(err, MT_E_INVALID, "'desired' is neither present nor absent");
    if (v->fs_uuid && !mt_volume_uuid_valid(v->fs_uuid))
        return MT_FAIL(err, MT_E_INVALID, "'fs_uuid' is not a UUID");
    if (v->resize_to_bytes && v->resize_to_bytes <= v->size_bytes)
        return MT_FAIL(err, MT_E_INVALID, "'resize_to_bytes' is not above 'size_bytes'");
    return 0;
}

static int dec_snapshot_job(const json_t *o, struct mt_plan_snapshot_job *j, struct mt_err *err)
{
    int rc;

    if ((rc = get_id(o, "snapshot_id", MT_ID_SNAPSHOT, &j->snapshot_id, err)) < 0 ||
        (rc = get_id(o, "volume_id", MT_ID_VOLUME, &j->volume_id, err)) < 0 || (rc = get_id(o, "org_id", MT_ID_ORG, &j->org_id, err)) < 0 ||
        (rc = mt_json_get_str(o, "origin", 16, &j->origin, err)) < 0 || (rc = get_epoch(o, &j->key_epoch, err)) < 0 ||
        (rc = opt_id(o, "parent_snapshot_id", MT_ID_SNAPSHOT, &j->parent_snapshot_id, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "full_read", false, &j->full_read, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "distrust_stored", false, &j->distrust_stored, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "cancel", false, &j->cancel, err)) < 0)
        return rc;
    if (!MT_STREQ(j->origin, "scheduled") && !MT_STREQ(j->origin, "manual") && !MT_STREQ(j->origin, "migration"))
        return MT_FAIL(err, MT_E_INVALID, "'origin' is not scheduled, manual or migration");
    return 0;
}

static int dec_restore_job(const json_t *o, struct mt_plan_restore_job *j, struct mt_err *err)
{
    json_t *probe;
    uint64_t seconds;
    int rc;

    if ((rc = get_id(o, "restore_id", MT_ID_RESTORE, &j->restore_id, err)) < 0 ||
        (rc = get_id(o, "snapshot_id", MT_ID_SNAPSHOT, &j->snapshot_id, err)) < 0 ||
        (rc = get_id(o, "source_volume_id", MT_ID_VOLUME, &j->source_volume_id, err)) < 0 ||
        (rc = get_id(o, "source_org_id", MT_ID_ORG, &j->source_org_id, err)) < 0 ||
        (rc = get_id(o, "new_volume_id", MT_ID_VOLUME, &j->new_volume_id, err)) < 0 ||
        (rc = get_size(o, "size_bytes", false, &j->size_bytes, err)) < 0 || (rc = get_epoch(o, &j->key_epoch, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "cancel", false, &j->cancel, err)) < 0 || (rc = mt_json_opt_bool(o, "proof", false, &j->proof, err)) < 0 ||
        (rc = mt_json_opt_bool(o, "precopy", false, &j->precopy, err)) < 0 || (rc = mt_json_opt_bool(o, "done", false, &j->done, err)) < 0 ||
        (rc = mt_json_opt_object(o, "probe", &probe, err)) < 0)
        return rc;
    if (json_object_get(o, "base_restore_id") || json_object_get(o, "base_snapshot_id")) {
        if ((rc = get_id(o, "base_restore_id", MT_ID_RESTORE, &j->base_restore_id, err)) < 0 ||
            (rc = get_id(o, "base_snapshot_id", MT_ID_SNAPSHOT, &j->base_snapshot_id, err)) < 0)
            return rc;
    }
    if ((j->done && !j->precopy) || (j->precopy && (j->proof || j->base_restore_id)))
        return MT_FAIL(err, MT_E_INVALID, "restore job %s: 'precopy', 'done', 'proof' and a base do not go together so", j->restore_id);
    if (!probe)
        return 0;
    if (!j->proof)
        return MT_FAIL(err, MT_E_INVALID, "'probe' is for a proof");
    if ((rc = mt_json_opt_object(probe, "workload", &j->probe, err)) < 0 || (rc = mt_json_get_u64(probe, "timeout_seconds", 1, MT_PROBE_SECONDS_MAX, &seconds, err)) < 0)
        return mt_err_wrap(err, "probe");
    if (!j->probe)
        return MT_FAIL(err, MT_E_INVALID, "'probe.workload' is missing");
    j->probe_seconds = (uint32_t)seconds;
    return 0;
}

/* One list of a document: room for its items, each decoded, ids (the first member of an item) ascending. */
#define DECODE_LIST(doc, key, max, items, n_items, decode, first_id)                                          \
    do {                                                                                                      \
        json_t *list_, *o_;                                                                                   \
        size_t i_;                                                                                            \
        if ((rc = mt_json_opt_array(doc, key, max, &list_, err)) < 0)                                         \
            goto fail;                                                                                        \
        if (!list_)                                                                                           \
            break;                                                                                            \
        items = calloc(json_array_size(list_) + 1, sizeof *(items));                                          \
        if (!(items)) {                                                                                       \
            rc = MT_FAIL(err, MT_E_NOMEM, "out of memory");                                                   \
            goto fail;                                                                                        \
        }                                                                                                     \
        json_array_foreach(list_, i_, o_) {                                                                   \
            rc = json_is_object(o_) ? decode(o_, &(items)[i_], err) : MT_FAIL(err, MT_E_INVALID, "is not an object"); \
            if (rc == 0 && i_ && strcmp((items)[i_ - 1].first_id, (items)[i_].first_id) >= 0)                 \
                rc = MT_FAIL(err, MT_E_INVALID, "%s is there twice, or not in order", (items)[i_].first_id);  \
            if (rc < 0) {                                                                                     \
                (void)mt_err_wrap(err, key "[%zu]", i_);                                                      \
                goto fail;                                                                                    \
            }                                                                                                 \
            n_items = i_ + 1;                                                                                 \
        }                                                                                                     \
    } while (0)

int mt_plan_storage_decode(const json_t *plan, struct mt_plan_storage *ret, struct mt_err *err)
{
    struct mt_plan_storage s = {0};
    struct mt_err own = {0};
    int rc;

    err = err ? err : &own;
    DECODE_LIST(plan, "volumes", MT_PLAN_VOLUMES_MAX, s.volumes, s.n_volumes, dec_volume, volume_id);
    DECODE_LIST(plan, "snapshot_jobs", MT_PLAN_VOLUMES_MAX, s.snapshots, s.n_snapshots, dec_snapshot_job, snapshot_id);
    DECODE_LIST(plan, "restore_jobs", MT_PLAN_VOLUMES_MAX, s.restores, s.n_restores, dec_restore_job, restore_id);
    *ret = s;
    return 0;
fail:
    mt_plan_storage_done(&s);
    return rc;
}

void mt_plan_storage_done(struct mt_plan_storage *s)
{
    free(s->volumes);
    free(s->snapshots);
    free(s->restores);
    *s = (struct mt_plan_storage){0};
}

/* ---- encoding ---- */

static json_t *enc_volume(const struct mt_plan_volume *v)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "volume_id", v->volume_id);
    mt_jout_str(&o, "org_id", v->org_id);
    mt_jout_str(&o, "app_id", v->app_id);
    mt_jout_str(&o, "env_id", v->env_id);
    mt_jout_str(&o, "name", v->name);
    mt_jout_u64(&o, "size_bytes", v->size_bytes);
    if (v->resize_to_bytes)
        mt_jout_u64(&o, "resize_to_bytes", v->resize_to_bytes);
    mt_jout_str(&o, "fs_uuid", v->fs_uuid);
    mt_jout_str(&o, "desired", v->absent ? "absent" : "present");
    mt_jout_bool(&o, "was_available", v->was_available);
    mt_jout_str(&o, "from_restore", v->from_restore);
    if (v->check) {
        struct mt_jout check = mt_jout_new();
        mt_jout_u64(&check, "number", v->check);
        mt_jout_bool(&check, "repair", v->check_repair);
        mt_jout_json(&o, "check", mt_jout_take(&check));
    }
    return mt_jout_take(&o);
}

static json_t *enc_snapshot_job(const struct mt_plan_snapshot_job *j)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "snapshot_id", j->snapshot_id);
    mt_jout_str(&o, "volume_id", j->volume_id);
    mt_jout_str(&o, "org_id", j->org_id);
    mt_jout_str(&o, "origin", j->origin);
    mt_jout_u64(&o, "key_epoch", j->key_epoch);
    mt_jout_str(&o, "parent_snapshot_id", j->parent_snapshot_id);
    mt_jout_bool(&o, "full_read", j->full_read);
    if (j->distrust_stored)
        mt_jout_bool(&o, "distrust_stored", true);
    mt_jout_bool(&o, "cancel", j->cancel);
    return mt_jout_take(&o);
}

static json_t *enc_restore_job(const struct mt_plan_restore_job *j)
{
    struct mt_jout o = mt_jout_new();

    mt_jout_str(&o, "restore_id", j->restore_id);
    mt_jout_str(&o, "snapshot_id", j->snapshot_id);
    mt_jout_str(&o, "source_volume_id", j->source_volume_id);
    mt_jout_str(&o, "source_org_id", j->source_org_id);
    mt_jout_str(&o, "new_volume_id", j->new_volume_id);
    mt_jout_u64(&o, "size_bytes", j->size_bytes);
    mt_jout_u64(&o, "key_epoch", j->key_epoch);
    mt_jout_bool(&o, "cancel", j->cancel);
    if (j->proof)
        mt_jout_bool(&o, "proof", true);
    if (j->precopy)
        mt_jout_bool(&o, "precopy", true);
    if (j->done)
        mt_jout_bool(&o, "done", true);
    if (j->base_restore_id) {
        mt_jout_str(&o, "base_restore_id", j->base_restore_id);
        mt_jout_str(&o, "base_snapshot_id", j->base_snapshot_id);
    }
    if (j->probe) {
        struct mt_jout p = mt_jout_new();
        mt_jout_u64(&p, "timeout_seconds", j->probe_seconds);
        mt_jout_json(&p, "workload", json_incref(j->probe));
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

int mt_plan_storage_encode(const struct mt_plan_storage *s, json_t *plan, struct mt_err *err)
{
    ENCODE_LIST(plan, "volumes", s->volumes, s->n_volumes, enc_volume);
    ENCODE_LIST(plan, "snapshot_jobs", s->snapshots, s->n_snapshots, enc_snapshot_job);
    ENCODE_LIST(plan, "restore_jobs", s->restores, s->n_restores, enc_restore_job);
    return 0;
}
