/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of moat-backup as the child of a daemon: the request goes in, its lines come out until the result, its failure becomes words. Its reads and writes are
 * of the idle class. Blocks for as long as it takes; on a thread of its own. Contract: docs/formats/backup.md.
 */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

struct mt_backup_call {
    /* given; strings borrowed */
    const char *program; /* absolute path of moat-backup */
    const char *verb;
    const int *fds;      /* inherited */
    size_t fd_n;
    const char *cgroup_procs; /* of the group that it works in, where what it may take from others is bounded; NULL ours */
    bool (*stop)(void *arg);                    /* asked a few times a second: true ends the program; NULL never */
    void (*phase)(void *arg, const char *word); /* when the program's phase changes; NULL nobody asks */
    void (*done)(void *arg, uint64_t bytes);    /* about once a second: how much of the phase is done; NULL nobody asks */
    void (*step)(void *arg, const char *word);  /* the program waits at a step for the caller's byte (docs/formats/backup.md, step_fd); NULL none was asked for */
    void (*item)(void *arg, const json_t *line); /* every other line but the result: lists; NULL nobody asks */
    void *arg;
    /* result of one that failed */
    char failed_reason[64];
    bool retryable;
};

/**
 * Run it with the request @b (at most 256 KiB), which is wiped. Returns 0 with the result line (new reference), -MT_E_CANCELLED when it was
 * stopped, or -code with failed_reason; the line may be there then too.
 */
int mt_backup_call(struct mt_backup_call *c, struct mt_buf *b, json_t **ret_line, struct mt_err *err);
