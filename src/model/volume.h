/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Volumes, snapshots and restores: the words, the rules for sizes, and what control plane and agent say of them.
 *
 * Strict decoding and encoding; what a report changes is decided elsewhere. Strings of decoded values are borrowed from the
 * document. Source: storage-and-secrets.md 2, 4, 5; the wire form is docs/formats/volume-plan.md.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/ids.h"

struct mt_err;

#define MT_VOLUME_SIZE_MIN (UINT64_C(1) << 30)  /* 1 GiB */
#define MT_VOLUME_SIZE_MAX (UINT64_C(1) << 41)  /* 2 TiB */
#define MT_VOLUME_SIZE_STEP (UINT64_C(4) << 20) /* a chunk of a backup */
#define MT_VOLUME_UUID_SIZE 37                  /* 36 characters and NUL */
#define MT_PLAN_VOLUMES_MAX 4096
#define MT_STORAGE_ORPHANS_MAX 64

enum mt_volume_state {
    MT_VOLUME_CREATING = 0,
    MT_VOLUME_AVAILABLE,
    MT_VOLUME_IN_USE,
    MT_VOLUME_DELETING,
    MT_VOLUME_DELETED,
    MT_VOLUME_ERROR,
    MT_VOLUME_STATE_MAX
};

/* What a node tells of a volume. */
enum mt_volume_event {
    MT_VOLUME_PROVISIONED = 0,
    MT_VOLUME_RESIZED,
    MT_VOLUME_REMOVED, /* "deleted" */
    MT_VOLUME_MISSING,
    MT_VOLUME_FAULT, /* "error" */
    MT_VOLUME_CHECKED,
    MT_VOLUME_EVENT_MAX
};

enum mt_volume_fault {
    MT_VOLUME_FAULT_NONE = 0,
    MT_VOLUME_FAULT_PROVISION_TIMEOUT,
    MT_VOLUME_FAULT_UNEXPECTED_CONTENT,
    MT_VOLUME_FAULT_NOT_PRESENT, /* volume_not_present_on_node */
    MT_VOLUME_FAULT_FILESYSTEM_MISMATCH,
    MT_VOLUME_FAULT_RESIZE_FAILED,
    MT_VOLUME_FAULT_REMOVE_FAILED,
    MT_VOLUME_FAULT_NO_SPACE,
    MT_VOLUME_FAULT_INTERNAL,
    MT_VOLUME_FAULT_MAX
};

/* What became of a check of the filesystem that an operator has asked for. */
enum mt_volume_verdict {
    MT_VOLUME_CLEAN = 0,
    MT_VOLUME_REPAIRED,
    MT_VOLUME_DAMAGED,      /* and left so: it was only looked at, or the tool could not mend all of it */
    MT_VOLUME_CHECK_FAILED, /* nothing is known: the tool did not come to its end, or the volume is not there */
    MT_VOLUME_CHECK_IN_USE, /* a VM has it */
    MT_VOLUME_VERDICT_MAX
};

/* Of a snapshot, a restore and a migration. */
enum mt_job_status { MT_JOB_QUEUED = 0, MT_JOB_RUNNING, MT_JOB_SUCCEEDED, MT_JOB_FAILED, MT_JOB_STATUS_MAX };

/* In the order in which a job goes through them. */
enum mt_snapshot_phase { MT_SNAPSHOT_NO_PHASE = 0, MT_SNAPSHOT_CAPTURING, MT_SNAPSHOT_UPLOADING, MT_SNAPSHOT_VERIFYING, MT_SNAPSHOT_PHASE_MAX };
enum mt_restore_phase { MT_RESTORE_NO_PHASE = 0, MT_RESTORE_DOWNLOADING, MT_RESTORE_CHECKING, MT_RESTORE_PHASE_MAX };

/** Wire words; assert on values outside the enum. "" for no phase and no fault. */
const char *mt_volume_state_name(enum mt_volume_state state);
const char *mt_volume_event_name(enum mt_volume_event event);
const char *mt_volume_fault_name(enum mt_volume_fault fault);
const char *mt_volume_verdict_name(enum mt_volume_verdict verdict);
const char *mt_job_status_name(enum mt_job_status status);
const char *mt_snapshot_phase_name(enum mt_snapshot_phase phase);
const char *mt_restore_phase_name(enum mt_restore_phase phase);
/** Word to value; false when the word is unknown (NULL included). The empty word is no value of any of them. */
bool mt_volume_state_parse(const char *word, enum mt_volume_state *ret);
bool mt_volume_event_parse(const char *word, enum mt_volume_event *ret);
bool mt_volume_fault_parse(const char *word, enum mt_volume_fault *ret);
bool mt_volume_verdict_parse(const char *word, enum mt_volume_verdict *ret);
bool mt_job_status_parse(const char *word, enum mt_job_status *ret);
bool mt_snapshot_phase_parse(const char *word, enum mt_snapshot_phase *ret);
bool mt_restore_phase_parse(const char *word, enum mt_restore_phase *ret);

/**
 * The UUID of the filesystem that is made on a volume: the 128 bits of the id's ULID as a UUID of version 8 (RFC 9562 5.8),
 * so both sides know it before the volume is there. @volume_id is a valid id of a volume (asserted).
 */
void mt_volume_fs_uuid(const char *volume_id, char ret[MT_VOLUME_UUID_SIZE]);
/** True for 8-4-4-4-12 lower-case hexadecimal digits. */
bool mt_volume_uuid_valid(const char *s);

/** @bytes rounded up to a whole number of steps; 0 when it is below the least or above the greatest size of a volume. */
uint64_t mt_volume_size(uint64_t bytes);

/* ---- downwards: sections of the node plan ---- */

#define MT_PROBE_SECONDS_MAX 600
#define MT_PROBE_DETAIL_MAX 200
#define MT_PROBE_OUTPUT_MAX 1000
#define MT_CHECK_DETAIL_MAX 200

struct mt_plan_volume {
    const char *volume_id, *org_id, *app_id, *env_id, *name;
    uint64_t size_bytes;
    uint64_t resize_to_bytes; /* 0: no growth wanted */
    const char *fs_uuid;      /* NULL: the image of a restore brings its own */
    bool absent;              /* desired is "absent", else "present" */
    bool was_available;
    const char *from_restore; /* NULL: not made by a restore */
    uint32_t check;           /* number of the check that is asked for, 0 none; it is in the plan until its end is known */
    bool check_repair;        /* and mend what is found */
};

struct mt_plan_snapshot_job {
    const char *snapshot_id, *volume_id, *org_id, *origin; /* origin: scheduled, manual, migration */
    uint32_t key_epoch;
    const char *parent_snapshot_id; /* NULL: nothing to build on */
    bool full_read, cancel;
    bool distrust_stored; /* a chunk was found broken in the store: none there is taken for good, all are sent anew */
};

struct mt_plan_restore_job {
    const char *restore_id, *snapshot_id, *source_volume_id, *source_org_id, *new_volume_id;
    uint64_t size_bytes;
    uint32_t key_epoch;
    bool cancel;
    bool proof; /* the volume is thrown away when it was found whole */
    bool precopy; /* of a migration: it is fetched and kept, neither checked nor named; another job goes on with it */
    bool done;    /* a pre-copy that has ended well: what it fetched is kept for as long as the job is in the plan */
    const char *base_restore_id, *base_snapshot_id; /* the pre-copy that this one goes on with, and of what; both or none */
    json_t *probe; /* borrowed; of a proof: WorkloadSpec of what is to be run on it before, NULL nothing (workload.h decodes it: a node that cannot says so) */
    uint32_t probe_seconds; /* that it has */
};

struct mt_plan_storage {
    struct mt_plan_volume *volumes; /* ascending volume_id */
    size_t n_volumes;
    struct mt_plan_snapshot_job *snapshots;
    size_t n_snapshots;
    struct mt_plan_restore_job *restores;
    size_t n_restores;
};

/**
 * The sections `volumes`, `snapshot_jobs`, `restore_jobs` of a plan; each may be absent (empty then).
 * Returns 0 (@ret released by mt_plan_storage_done), -MT_E_INVALID (a bad or doubled one: the plan is refused), -MT_E_NOMEM.
 */
int mt_plan_storage_decode(const json_t *plan, struct mt_plan_storage *ret, struct mt_err *err);
/** Put the sections into @plan; those that are empty are left out, so that a plan without volumes is as it was before there were any. */
int mt_plan_storage_encode(const struct mt_plan_storage *storage, json_t *plan, struct mt_err *err);
void mt_plan_storage_done(struct mt_plan_storage *storage);

/* ---- upwards: items of the status batch, and storage in the heartbeat ---- */

struct mt_volume_report {
    const char *volume_id;
    uint64_t seq;
    enum mt_volume_event event;
    bool failed;         /* result, of provisioned and resized only */
    const char *fs_uuid; /* NULL: not told */
    uint64_t size_bytes; /* 0: not told */
    enum mt_volume_fault fault;
    uint32_t check; /* of checked only: its number in the plan, and what came of it */
    enum mt_volume_verdict verdict;
    const char *check_detail; /* what the tool said, NULL nothing; at most MT_CHECK_DETAIL_MAX bytes */
};

struct mt_snapshot_report {
    const char *snapshot_id;
    uint64_t seq;
    enum mt_job_status status; /* never queued */
    enum mt_snapshot_phase phase;
    const char *consistency; /* NULL, "crash" or "filesystem" */
    int64_t captured_at_ms;  /* 0: not yet */
    bool has_size, has_changed, has_uploaded;
    uint64_t size_bytes, changed_bytes, uploaded_bytes;
    uint32_t key_epoch; /* 0: not told */
    const char *image_root, *manifest_sha256; /* 64 hexadecimal digits or NULL; there when succeeded */
    bool distrusted_stored; /* of one that succeeded: all its chunks were sent for it */
    const char *parent_snapshot_id;
    const char *failed_reason; /* there when failed: 1..64 of a-z 0-9 _ : */
};

struct mt_restore_report {
    const char *restore_id;
    uint64_t seq;
    enum mt_job_status status; /* never queued */
    enum mt_restore_phase phase;
    uint64_t bytes_done, bytes_total;
    const char *fs_uuid; /* there when succeeded */
    const char *failed_reason;
    bool snapshot_damaged;
    bool probed;              /* a probe was run: */
    uint32_t probe_ms;        /* from the start of its VM to its end */
    int probe_exit_code;      /* -1: it did not exit by itself */
    const char *probe_detail; /* how it ended otherwise, NULL when there is nothing to say; at most MT_PROBE_DETAIL_MAX bytes */
    const char *probe_output; /* what it said last, NULL nothing; at most MT_PROBE_OUTPUT_MAX bytes */
};

struct mt_storage_reports {
    struct mt_volume_report *volumes;
    size_t n_volumes;
    struct mt_snapshot_report *snapshots;
    size_t n_snapshots;
    struct mt_restore_report *restores;
    size_t n_restores;
};

/**
 * The lists `volumes`, `snapshots`, `restores` of a status batch, together at most @max items; absent ones are empty.
 * Returns 0 (@ret released by mt_storage_reports_done), -MT_E_INVALID, -MT_E_NOMEM.
 */
int mt_storage_reports_decode(const json_t *batch, size_t max, struct mt_storage_reports *ret, struct mt_err *err);
int mt_storage_reports_encode(const struct mt_storage_reports *reports, json_t *batch, struct mt_err *err);
void mt_storage_reports_done(struct mt_storage_reports *reports);

struct mt_storage_figures {
    bool present;        /* false: this node has no storage for volumes */
    const char *backend; /* "lvm-thin", "reflink", "copy" */
    uint64_t pool_bytes, pool_used_bytes, meta_bytes, meta_used_bytes;
    bool healthy;
    const char *reason; /* NULL when healthy */
    bool backup_store;  /* it can make backups: a store is configured, and its program runs */
    bool restores;      /* it can restore them too */
    const char *orphans[MT_STORAGE_ORPHANS_MAX]; /* volumes on the disk that no plan has */
    size_t n_orphans;
};

/** `storage` of a heartbeat; absent or null: not present. Returns 0 or -MT_E_INVALID. */
int mt_storage_figures_decode(const json_t *heartbeat, struct mt_storage_figures *ret, struct mt_err *err);
/** Put it into @heartbeat when it is present. Returns 0 or -MT_E_NOMEM. */
int mt_storage_figures_encode(const struct mt_storage_figures *figures, json_t *heartbeat, struct mt_err *err);
/** How many bytes of volumes a pool may hold: 80 % of it; the rest takes what snapshots keep. */
uint64_t mt_storage_allocatable(uint64_t pool_bytes);
