/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a node remembers of the backups of one volume: the snapshot that the next one builds on, and the one that is under way.
 * A file for each volume in one folder, sealed, and a journal for each snapshot that is under way. docs/formats/agent-state.md.
 */
#pragma once

#include "agent/volume/backend.h"
#include "model/ids.h"

struct mt_backup_record {
    char volume_id[MT_ID_SIZE];
    char base[MT_ID_SIZE]; /* newest that succeeded, whose image is kept; "" none */
    char job[MT_ID_SIZE];  /* captured, its backup not ended; "" none */
    int64_t captured_ms;   /* of the job */
    bool filesystem;       /* of the job: consistency */
};

/** Read; -MT_E_NOT_FOUND there is none (or a broken one, set aside): @ret is empty then, with its @volume_id. */
int mt_backup_record_load(const char *dir, const char *volume_id, struct mt_backup_record *ret, struct mt_err *err);
int mt_backup_record_save(const char *dir, const struct mt_backup_record *r, struct mt_err *err);
/** Path of the journal of @snapshot_id. */
int mt_backup_journal(const char *dir, const char *snapshot_id, char ret[PATH_MAX], struct mt_err *err);

/** Remove what is kept of the volume: images of its snapshots, journals, the record. Not there is success. */
int mt_backup_forget(const char *dir, const struct mt_backend *b, const char *volume_id, struct mt_err *err);
/** The pool is nearly full: remove the image of every base; the next backups read all. Not while a job works. Returns their number. */
size_t mt_backup_drop_bases(const char *dir, const struct mt_backend *b);
/** Remove images of snapshots that no record knows and that are older than @ttl_ms, and journals nobody waits for. Returns their number. */
size_t mt_backup_sweep(const char *dir, const struct mt_backend *b, int64_t now_ms, int64_t ttl_ms);
