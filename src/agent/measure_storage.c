/* SPDX-License-Identifier: Apache-2.0 */
/* See measure_storage.h. */
#include "agent/measure_storage.h"

#include "base/assert.h"
#include "base/str.h"

#include <string.h>

/* The reasons of storage-and-secrets.md 4.9 and of restores, by their first word; a label is a closed set. */
static const char *const reasons[] = {
    "none", "cancelled", "preflight_failed", "snapshot_create_failed", "artifact_expired", "pool_pressure", "disk_read_failed", "backup_store_unreachable",
    "credentials_invalid", "upload_failed", "verify_failed", "encryption_failed", "decrypt_failed", "download_failed", "write_failed", "integrity_check_failed",
    "backup_object_missing", "snapshot_not_found", "invalid_argument", "no_capacity", "fsck_failed", "probe_failed", "probe_not_run", "cleanup_failed", "internal_error", "other"};
_Static_assert(MT_ARRAY_LEN(reasons) == MT_STORAGE_ENDS, "one count for each word");

static const char *const results[] = {"succeeded", "failed"};

void mt_storage_measure_end(struct mt_storage_measure *m, enum mt_storage_work what, const char *failed_reason, int64_t took_us)
{
    const char *word = failed_reason ? failed_reason : reasons[0];
    size_t len = strcspn(word, ":"), i = 0;
    while (i < MT_ARRAY_LEN(reasons) - 1 && (strlen(reasons[i]) != len || memcmp(reasons[i], word, len) != 0))
        i++;
    m->ends[what][i]++;
    if (took_us >= 0)
        mt_hist_observe_long(&m->took[what][failed_reason != NULL], took_us);
}

void mt_storage_measure_attach(struct mt_storage_measure *m, bool ok, int64_t took_us)
{
    (void)atomic_fetch_add_explicit(ok ? &m->attached : &m->not_attached, 1, memory_order_relaxed);
    mt_hist_observe(&m->attach, took_us);
}

static void put_ends(const struct mt_storage_measure *m, struct mt_metrics *p, enum mt_storage_work what, enum mt_metric id)
{
    mt_metrics_u64(p, id, m->ends[what][0], results[0], reasons[0]);
    for (size_t i = 1; i < MT_ARRAY_LEN(reasons); i++) /* every reason from the start: an increase from nothing is none for who looks at rates */
        mt_metrics_u64(p, id, m->ends[what][i], results[1], reasons[i]);
}

void mt_storage_measure_put(const struct mt_storage_measure *m, struct mt_metrics *p)
{
    mt_metrics_u64(p, MT_M_A_ATTACH, mt_metrics_get(&m->attached), "ok");
    mt_metrics_u64(p, MT_M_A_ATTACH, mt_metrics_get(&m->not_attached), "failed");
    mt_metrics_hist(p, MT_M_A_ATTACH_SECONDS, &m->attach);
    put_ends(m, p, MT_STORAGE_SNAPSHOT, MT_M_A_SNAPSHOTS);
    put_ends(m, p, MT_STORAGE_BACKUP, MT_M_A_BACKUPS);
    put_ends(m, p, MT_STORAGE_RESTORE, MT_M_A_RESTORES);
    for (size_t i = 0; i < MT_ARRAY_LEN(results); i++)
        mt_metrics_hist(p, MT_M_A_BACKUP_SECONDS, &m->took[MT_STORAGE_BACKUP][i], results[i]);
    for (size_t i = 0; i < MT_ARRAY_LEN(results); i++)
        mt_metrics_hist(p, MT_M_A_RESTORE_SECONDS, &m->took[MT_STORAGE_RESTORE][i], results[i]);
    mt_metrics_u64(p, MT_M_A_BACKUP_BYTES, m->read_bytes, "read");
    mt_metrics_u64(p, MT_M_A_BACKUP_BYTES, m->uploaded_bytes, "uploaded");
    mt_metrics_u64(p, MT_M_A_BACKUP_BYTES, m->deduplicated_bytes, "deduplicated");
}
