/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's store of workload logs: append, read from a position, follow (scheduling-and-operations.md §7.2).
 *
 * One folder per instance, <logs_dir>/<env>/<instance>/, with segment files <first_seq>.log; layout in
 * docs/formats/log-segments.md. Plain blocking file I/O of bounded size; used from the loop thread. Knows
 * nothing of VMs: what to store comes as records. Kept after the instance stops.
 */
#pragma once

#include "base/err.h"
#include "base/list.h"

#include <stdio.h>

#define MT_LOG_SEGMENT_BYTES (8U << 20)
#define MT_LOG_LINE_MAX 20480 /* payload bytes of one record */
#define MT_LOG_ABOUT_FILE "about" /* beside the segments: whose they are; written by agent/forward, goes with the last segment */

enum mt_log_stream { MT_LOG_STDOUT = 1, MT_LOG_STDERR = 2, MT_LOG_SYSTEM = 3 };

/** "stdout", "stderr", "system". */
const char *mt_log_stream_name(uint8_t stream);

#define MT_LOG_TRUNCATED 0x01 /* the line was longer; what follows is in the next record or lost */
#define MT_LOG_GAP 0x02       /* a system line "dropped=N" */

struct mt_log_record {
    uint64_t seq;       /* per instance, from 1, without holes */
    int64_t ts_us;      /* wall time of receipt */
    uint32_t boot;      /* boot sequence of the attempt */
    uint64_t guest_seq; /* sequence of the guest within the boot; 0: the agent's own line */
    uint8_t stream;
    uint8_t flags;
    const uint8_t *line; /* borrowed; bytes as they came */
    size_t len;
};

struct mt_log_store;

/**
 * Open the store of one instance for appending; makes the folder, cuts a torn last record off.
 * Returns 0, -MT_E_IO, -MT_E_NOMEM.
 */
int mt_log_store_open(const char *logs_dir, const char *env_id, const char *instance_id, struct mt_log_store **ret,
                      struct mt_err *err);
void mt_log_store_close(struct mt_log_store *s);
/** Oldest segments go as soon as a new one begins, so that all of the instance's stay within @bytes (at least two segments). Not said: no bound but mt_log_retain's. */
void mt_log_store_bound(struct mt_log_store *s, uint64_t bytes);

/**
 * Append. @r->seq is ignored: the store gives the number (returned in *@ret_seq, 0 when the record was
 * not stored). A record of (boot, guest_seq) that was stored before is dropped silently: the guest sends
 * again what it is not sure of. Above 1 MiB/s with 8 MiB burst records are dropped and counted; the
 * next one that fits is preceded by a system line "dropped=<bytes>". @now_ns monotonic.
 */
int mt_log_append(struct mt_log_store *s, const struct mt_log_record *r, int64_t now_ns, uint64_t *ret_seq,
                  struct mt_err *err);
/** The guest lost @bytes: one system line "dropped=<bytes>". */
int mt_log_append_gap(struct mt_log_store *s, uint64_t bytes, uint32_t boot, uint64_t guest_seq, int64_t now_ns,
                      struct mt_err *err);
/** A record (or a gap of @bytes) that is not stored, because nothing may be written now: counted as one of a flood is. */
void mt_log_skip(struct mt_log_store *s, uint64_t bytes, uint32_t boot, uint64_t guest_seq);
/** Number the next record will get; also the number of records ever stored, plus one. */
uint64_t mt_log_next_seq(const struct mt_log_store *s);
/** Segments older than @days or beyond @max_bytes go, oldest first, never the open one. */
void mt_log_retain(const char *logs_dir, uint64_t days, uint64_t max_bytes, int64_t now_us);

/* ---- reading ----------------------------------------------------------------------------- */

struct mt_log_reader;

/**
 * Read the records with seq > @since_seq; UINT64_MAX: from the end on.
 * Returns 0; -MT_E_NOT_FOUND this node has no log of the instance.
 */
int mt_log_reader_open(const char *logs_dir, const char *instance_id, uint64_t since_seq, struct mt_log_reader **ret,
                       struct mt_err *err);
/**
 * The next record. 1 and *@ret (its line is valid until the next call); 0 none at the moment, ask again
 * after an append; -MT_E_CORRUPT, -MT_E_IO.
 */
int mt_log_reader_next(struct mt_log_reader *r, struct mt_log_record *ret, struct mt_err *err);
void mt_log_reader_close(struct mt_log_reader *r);
/**
 * Records of one attempt: *@ret_first..*@ret_last. @boot 0: the newest attempt that has records. 0; -MT_E_NOT_FOUND it has none (or
 * they were written before attempts were noted).
 */
int mt_log_boot_range(const char *logs_dir, const char *instance_id, uint32_t boot, uint64_t *ret_first, uint64_t *ret_last,
                      struct mt_err *err);
/** Last sequence number stored for the instance, 0 when there is none. */
int mt_log_last_seq(const char *logs_dir, const char *instance_id, uint64_t *ret, struct mt_err *err);
