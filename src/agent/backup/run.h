/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of moat-backup for a captured snapshot, from its key to its result. Blocks for as long as the upload takes; on a worker of its
 * own. Knows nothing of plans and reports. Source: storage-and-secrets.md 4.4, 4.8; docs/formats/backup.md.
 */
#pragma once

#include "agent/backup/conf.h"
#include "agent/backup/record.h"

#include <stdatomic.h>

struct mt_http_client;

struct mt_backup_run {
    /* given; strings borrowed */
    const char *program;       /* absolute path of moat-backup */
    uid_t uid;                 /* whom it becomes */
    gid_t gid;
    const char *cluster_id, *org_id, *volume_id, *snapshot_id;
    const char *parent;        /* newest that succeeded, of the same epoch; NULL none */
    const char *base;          /* the parent, when its image is here and may be believed: only what differs is read; NULL full read */
    uint32_t key_epoch;
    int64_t captured_ms;
    bool filesystem;
    const char *dir;           /* of journals */
    const struct mt_backend *backend;
    const struct mt_backup_conf *store;
    struct mt_http_client *control; /* for the key */
    atomic_bool *cancelled;
    void (*phase)(void *arg, bool verifying); /* on this thread, when the phase changes */
    void *arg;
    /* result */
    uint64_t size_bytes, changed_bytes, uploaded_bytes;
    char image_root[65], manifest_sha256[65];
    char failed_reason[64]; /* "" it succeeded */
    bool retryable;
};

/** Returns 0 it succeeded; -code with failed_reason, -MT_E_CANCELLED broken off. */
int mt_backup_run(struct mt_backup_run *r, struct mt_err *err);
