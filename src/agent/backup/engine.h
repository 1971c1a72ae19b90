/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every run of moat-backup for a job of this node has in common: the job's key from the control plane, the program in its sandbox, its lines until the result, and the words of its failure. Blocks; on a worker. docs/formats/backup.md.
 */
#pragma once

#include "wire/backup_conf.h"
#include "os/lockmem.h"

#include <jansson.h>
#include <stdatomic.h>
#include <sys/types.h>

#define MT_ENGINE_REQUEST_MAX 16384

struct mt_http_client;

struct mt_engine {
    /* given; strings borrowed */
    const char *program; /* absolute path of moat-backup */
    uid_t uid;           /* whom it becomes */
    gid_t gid;
    const char *cluster_id, *org_id, *volume_id, *job_id; /* owner and volume whose objects are meant; who may have the key */
    uint32_t key_epoch;
    const struct mt_backup_conf *store;
    struct mt_http_client *control; /* for the key */
    const char *cgroup_procs; /* of the group that it works in; NULL ours */
    atomic_bool *cancelled;
    void (*phase)(void *arg, const char *word); /* on this thread, when the program's phase changes; NULL nobody asks */
    void (*done)(void *arg, uint64_t bytes);    /* on this thread: how much of the phase is done; NULL nobody asks */
    void *arg;
    /* result */
    char failed_reason[64]; /* "" it did not fail */
    bool retryable;
};

/** Note why it failed; returns @rc. */
int mt_engine_failed(struct mt_engine *e, const char *reason, bool retryable, int rc);
/** The key of the job: 64 hex digits and NUL, then its wrapped form as base64 and NUL (mt_engine_wrapped), in @ret. */
int mt_engine_key(struct mt_engine *e, struct mt_lockmem *ret, struct mt_err *err);
const char *mt_engine_wrapped(const struct mt_lockmem *key);
/** The beginning of a request, without the brace at its end. The caller has reserved what the whole will need: a copy would stay behind. */
void mt_engine_head(const struct mt_engine *e, struct mt_buf *b);
/**
 * Run @verb with the request @b, which is wiped. @fds are inherited. Returns 0 with the result line (caller releases), -MT_E_CANCELLED, or
 * -code with failed_reason; the line may be there then too.
 */
int mt_engine_call(struct mt_engine *e, const char *verb, struct mt_buf *b, const int *fds, size_t fd_n, json_t **ret_line, struct mt_err *err);
