/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of moat-backup for a captured snapshot, from its key to its result. Blocks for as long as the upload takes; on a worker of its
 * own. Knows nothing of plans and reports. Source: storage-and-secrets.md 4.4, 4.8; docs/formats/backup.md.
 */
#pragma once

#include "agent/backup/engine.h"
#include "agent/backup/record.h"

struct mt_backup_run {
    struct mt_engine e;        /* job: the snapshot */
    /* given; strings borrowed */
    const char *parent;        /* newest that succeeded, of the same epoch; NULL none */
    const char *base;          /* the parent, when its image is here and may be believed: only what differs is read; NULL full read */
    bool distrust_stored;      /* send every chunk anew; without a base */
    int64_t captured_ms;
    bool filesystem;
    const char *dir;           /* of journals */
    const struct mt_backend *backend;
    /* result */
    uint64_t size_bytes, changed_bytes, uploaded_bytes, read_bytes, known_bytes; /* the last: changed, but in the store already */
    char image_root[65], manifest_sha256[65];
    bool distrusted_stored;    /* as the program says: not so when a run before it had ended it and had believed something */
};

/** Returns 0 it succeeded; -code with e.failed_reason, -MT_E_CANCELLED broken off. */
int mt_backup_run(struct mt_backup_run *r, struct mt_err *err);
