/* SPDX-License-Identifier: Apache-2.0 */
/* What all verbs share: names of objects, lists, manifests, damage, and the verbs themselves. */
#pragma once

#include "backup/idset.h"
#include "backup/listing.h"
#include "backup/s3.h"

#include <jansson.h>

struct mt_bk_damage {
    json_t *list;   /* at most 256 */
    uint64_t count; /* all */
};

struct mt_bk_run {
    const struct mt_bk_request *q;
    struct mt_s3 *s3;
    struct mt_bk_fault *f;
    struct mt_bk_damage damage;
    int64_t began_ns;
};

#define MT_BK_KEY 520
/** "<prefix>/v1/<cluster>/<org>/<volume>/" + @rest. */
void mt_bk_key(const struct mt_bk_request *q, const char *rest, char ret[MT_BK_KEY]);
void mt_bk_chunk_key(const struct mt_bk_request *q, const uint8_t id[MT_BK_ID], char ret[MT_BK_KEY]);
/** "c/<2>/<64>" behind the volume's prefix of a listed key; false when it is not one of ours. */
bool mt_bk_chunk_of_key(const struct mt_bk_request *q, const char *key, uint8_t ret[MT_BK_ID]);
/** Sizes that a chunk object can have. */
bool mt_bk_chunk_size_ok(uint64_t size);

/** Every object whose key begins with @prefix, page by page. @each: -1 stops (with the run's fault set). */
int mt_bk_list(struct mt_bk_run *r, const char *prefix, bool folders, int (*each)(const struct mt_bk_listed *e, void *arg), void *arg);

struct mt_bk_loaded {
    uint8_t *obj; /* owned */
    size_t len;
    struct mt_bk_manifest m; /* into obj */
    const struct mt_bk_keys *keys;
    uint8_t sha256[32];      /* of the object as stored */
};
/** Get and open a manifest. 0 with @ret_why: MT_BK_FINE or what is wrong with it (with a text in @err); -1: the run's fault. */
int mt_bk_load(struct mt_bk_run *r, const char *snapshot_id, struct mt_bk_loaded *ret, enum mt_bk_why *ret_why, struct mt_err *err);
void mt_bk_loaded_done(struct mt_bk_loaded *l);
/** Ids of @kind that are objects below @prefix, or folders (<id>/), into @list; what is named otherwise is counted in @ignored. */
int mt_bk_list_names(struct mt_bk_run *r, const char *prefix, enum mt_id_kind kind, bool folders, json_t *list, uint64_t *ignored);
/** As mt_bk_load, any damage is the run's fault. */
int mt_bk_load_or_fail(struct mt_bk_run *r, const char *snapshot_id, struct mt_bk_loaded *ret);

void mt_bk_damaged(struct mt_bk_run *r, const uint8_t id[MT_BK_ID], uint64_t offset, enum mt_bk_why why);
/** requests, retries, elapsed_ms, peak_memory_bytes into an answer; takes and returns it. */
json_t *mt_bk_count(const struct mt_bk_run *r, json_t *answer);

/**
 * Fetch and verify chunks of a manifest, several at once (main thread: the store; two more: decrypting).
 * @want: one bit for each chunk; @image_fd: where to write them, -1: nowhere. Damaged ones are fetched again, then told to the run's
 * damage. @done: called on the main thread for each good chunk (may be NULL; -1 stops).
 */
struct mt_bk_fetch {
    const struct mt_bk_loaded *from;
    const uint8_t *want;
    int image_fd;
    const char *phase;
    int (*done)(uint32_t index, void *arg);
    void *arg;
    uint64_t fetched, bytes; /* result: chunks, object bytes */
};
int mt_bk_fetch_run(struct mt_bk_run *r, struct mt_bk_fetch *x);
/** Choose max(@least, @percent) of the set bits of @from that are no zero chunks. */
void mt_bk_sample(const struct mt_bk_manifest *m, const uint8_t *from, uint32_t percent, uint32_t least, uint8_t *ret);
/** All chunks of @m that the store's list lacks (or has in an impossible size) as bits. */
int mt_bk_missing(struct mt_bk_run *r, const struct mt_bk_manifest *m, uint8_t *ret_bits, uint32_t *ret_count);

/* The verbs: the answer, or NULL with the run's fault. */
json_t *mt_bk_save(struct mt_bk_run *r);
json_t *mt_bk_restore(struct mt_bk_run *r);
json_t *mt_bk_verify(struct mt_bk_run *r);
json_t *mt_bk_scan(struct mt_bk_run *r);
json_t *mt_bk_gc(struct mt_bk_run *r);
json_t *mt_bk_put_key(struct mt_bk_run *r);
json_t *mt_bk_get_key(struct mt_bk_run *r);
json_t *mt_bk_put_file(struct mt_bk_run *r);
json_t *mt_bk_get_file(struct mt_bk_run *r);
json_t *mt_bk_list_files(struct mt_bk_run *r);
