/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to one S3 store: several at once, signed, bounded, tried again. One thread drives it; others may only wake it.
 * Knows nothing of chunks. Retries and deadlines: storage-and-secrets.md §4.9.
 */
#pragma once

#include "backup/fault.h"
#include "backup/request.h"

struct mt_sha256;
struct mt_s3;

enum mt_s3_method { MT_S3_GET = 0, MT_S3_HEAD, MT_S3_PUT, MT_S3_DELETE };

enum mt_s3_end { MT_S3_DONE = 0, MT_S3_NOT_FOUND, MT_S3_OVERSIZE, MT_S3_FAILED };

/** One request; the caller's memory until @done was called. Zeroed but for the first part. */
struct mt_s3_op {
    enum mt_s3_method method;
    char key[520];         /* object key, "" for the bucket itself */
    const char *query;     /* canonical query or NULL; borrowed */
    const uint8_t *body;   /* PUT */
    size_t body_len;
    char body_sha256[65];  /* hex of the body, PUT */
    uint8_t *into;         /* GET: at most @cap bytes are taken, one more is MT_S3_OVERSIZE; NULL with @hash */
    size_t cap;
    struct mt_sha256 *hash; /* GET: the body goes here; counted in len. Never tried again once a byte came */
    void (*done)(struct mt_s3_op *op, void *arg); /* on the driving thread; may submit again */
    void *arg;

    enum mt_s3_end end;
    struct mt_bk_fault fault; /* MT_S3_FAILED */
    size_t len;               /* bytes of the body got; HEAD: content length, SIZE_MAX when not told */

    /* the engine's own */
    void *curl, *headers;
    unsigned tries;
    int64_t not_before;
    bool overflow, skewed, head_whole;
    struct mt_s3 *owner;
    char error[1024];
    size_t error_len;
    struct mt_s3_op *next;
};

/** Counters of a run. */
struct mt_s3_stats {
    uint64_t requests, retries, sent, received;
};

struct mt_s3 *mt_s3_new(const struct mt_bk_request *q, int64_t deadline_ns, struct mt_bk_fault *f);
void mt_s3_free(struct mt_s3 *s);
/** Queue an operation; its callback comes from mt_s3_turn. */
void mt_s3_submit(struct mt_s3 *s, struct mt_s3_op *op);
/** Move everything on, waiting at most @wait_ms for something to happen. -1 with @f: the deadline of the run. */
int mt_s3_turn(struct mt_s3 *s, int wait_ms, struct mt_bk_fault *f);
/** Submit one operation and turn until it has ended; those of others go on beside it. */
int mt_s3_run(struct mt_s3 *s, struct mt_s3_op *op, struct mt_bk_fault *f);
/** End a wait of mt_s3_turn from another thread. */
void mt_s3_wake(struct mt_s3 *s);
/** Operations not yet ended. */
size_t mt_s3_pending(const struct mt_s3 *s);
const struct mt_s3_stats *mt_s3_stats_of(const struct mt_s3 *s);
/** The earlier of our clock and the store's at its last answer, microseconds: nothing looks older than it is. */
int64_t mt_s3_now_us(const struct mt_s3 *s);
