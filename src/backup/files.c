/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files as objects of the same name, beside the volumes: what the control plane's own backups are kept as. What is in them is their maker's affair. */
#include "backup/out.h"
#include "backup/store.h"

#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MOST ((uint64_t)5 << 30) /* what S3 takes in one request */
#define LISTED_MOST 10000

static void file_key(const struct mt_bk_request *q, const char *name, char ret[MT_BK_KEY])
{
    /* bounded by the request: a prefix of 200, a name of 128 */
    (void)snprintf(ret, MT_BK_KEY, "%s%scontrol/v1/%s", q->store.prefix, q->store.prefix[0] ? "/" : "", name);
}

static int head(struct mt_bk_run *r, bool *ret_there, uint64_t *ret_len)
{
    struct mt_s3_op op = {.method = MT_S3_HEAD};
    file_key(r->q, r->q->name, op.key);
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    *ret_there = op.end == MT_S3_DONE;
    *ret_len = op.len;
    if (*ret_there && op.len == SIZE_MAX)
        return mt_bk_fail(r->f, MT_BK_DOWNLOAD, "length", "the store does not tell how long '%s' is", r->q->name);
    return 0;
}

/* The digest of the object as the store gives it back. */
static int digest_of(struct mt_bk_run *r, uint64_t len, uint8_t ret[32], bool *ret_whole)
{
    struct mt_s3_op op = {.method = MT_S3_GET, .cap = len, .hash = mt_sha256_new()};
    if (!op.hash)
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a digest");
    file_key(r->q, r->q->name, op.key);
    int rc = mt_s3_run(r->s3, &op, r->f);
    mt_sha256_final(op.hash, ret);
    *ret_whole = rc == 0 && op.end == MT_S3_DONE && op.len == len;
    return rc;
}

static json_t *told(struct mt_bk_run *r, uint64_t len, const uint8_t sha[32], bool already)
{
    char hex[65];
    mt_hex_encode(sha, 32, hex);
    return mt_bk_count(r, json_pack("{s:b,s:s,s:I,s:s,s:b}", "ok", 1, "name", r->q->name, "bytes", (json_int_t)len, "sha256", hex, "already_done", (int)already));
}

static json_t *put(struct mt_bk_run *r, const uint8_t *data, uint64_t len)
{
    uint8_t ours[32], theirs[32];
    bool there = false, whole = false, already;
    uint64_t had = 0;
    mt_sha256_of(data, len, ours);
    if (head(r, &there, &had) < 0)
        return NULL;
    already = there;
    if (there && had != len) {
        (void)mt_bk_fail(r->f, MT_BK_UPLOAD, "file_exists", "the store holds another file '%s' of %ju bytes; it is never overwritten", r->q->name, (uintmax_t)had);
        return NULL;
    }
    if (!there) {
        struct mt_s3_op op = {.method = MT_S3_PUT, .body = data, .body_len = len};
        mt_hex_encode(ours, sizeof ours, op.body_sha256);
        file_key(r->q, r->q->name, op.key);
        mt_bk_progress("uploading", 0, len, 0);
        if (mt_s3_run(r->s3, &op, r->f) < 0)
            return NULL;
        if (op.end != MT_S3_DONE) {
            (void)mt_bk_fail(r->f, MT_BK_UPLOAD, "file", "the store has no place for '%s'", r->q->name);
            return NULL;
        }
    }
    /* what a store says it has counts for nothing until it has given it back */
    mt_bk_progress("verifying", len, len, already ? 0 : len);
    if (digest_of(r, len, theirs, &whole) < 0)
        return NULL;
    if (whole && mt_digest_equal(ours, theirs, 32))
        return told(r, len, ours, already);
    (void)mt_bk_fail(r->f, already ? MT_BK_UPLOAD : MT_BK_VERIFY, already ? "file_exists" : "file",
                     already ? "the store holds another file '%s' of the same length; it is never overwritten" : "the file '%s' just stored came back otherwise", r->q->name);
    return NULL;
}

json_t *mt_bk_put_file(struct mt_bk_run *r)
{
    struct stat st;
    if (fstat(r->q->image_fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0) {
        (void)mt_bk_fail(r->f, MT_BK_INVALID, "file", "'file_fd' is no regular file with something in it");
        return NULL;
    }
    uint64_t len = (uint64_t)st.st_size;
    if (len > FILE_MOST) {
        (void)mt_bk_fail(r->f, MT_BK_INVALID, "file_size", "a file of %ju bytes is more than the 5 GiB that a store takes at once", (uintmax_t)len);
        return NULL;
    }
    uint8_t *data = mmap(NULL, len, PROT_READ, MAP_PRIVATE, r->q->image_fd, 0);
    if (data == MAP_FAILED) {
        (void)mt_bk_fail(r->f, MT_BK_READ, "file", "the file cannot be mapped");
        return NULL;
    }
    json_t *answer = put(r, data, len);
    (void)munmap(data, len);
    return answer;
}

json_t *mt_bk_get_file(struct mt_bk_run *r)
{
    bool there = false;
    uint64_t len = 0;
    uint8_t sha[32];
    if (head(r, &there, &len) < 0)
        return NULL;
    if (!there) {
        (void)mt_bk_fail(r->f, MT_BK_MISSING, "file", "the store has no file '%s'", r->q->name);
        return NULL;
    }
    if (len == 0 || len > FILE_MOST) {
        (void)mt_bk_fail(r->f, MT_BK_DOWNLOAD, "file_size", "'%s' has %ju bytes, which none of ours has", r->q->name, (uintmax_t)len);
        return NULL;
    }
    /* room first: a mapping that the disk cannot take ends a program without a word */
    uint8_t *data = fallocate(r->q->image_fd, 0, 0, (off_t)len) < 0 || ftruncate(r->q->image_fd, (off_t)len) < 0
                        ? MAP_FAILED
                        : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, r->q->image_fd, 0);
    if (data == MAP_FAILED) {
        (void)mt_bk_fail(r->f, MT_BK_WRITE, "file", "there is no room for %ju bytes", (uintmax_t)len);
        return NULL;
    }
    struct mt_s3_op op = {.method = MT_S3_GET, .into = data, .cap = len};
    file_key(r->q, r->q->name, op.key);
    mt_bk_progress("downloading", 0, len, 0);
    int rc = mt_s3_run(r->s3, &op, r->f);
    if (rc == 0 && (op.end != MT_S3_DONE || op.len != len))
        rc = mt_bk_fail(r->f, MT_BK_DOWNLOAD, "file", "'%s' did not come whole", r->q->name);
    if (rc == 0)
        mt_sha256_of(data, len, sha);
    (void)munmap(data, len);
    if (rc == 0 && fsync(r->q->image_fd) < 0)
        rc = mt_bk_fail(r->f, MT_BK_WRITE, "file", "the file cannot be brought to the disk");
    return rc == 0 ? told(r, len, sha, false) : NULL;
}

struct listing {
    const char *prefix;
    uint64_t files, ignored;
};

static int each(const struct mt_bk_listed *e, void *arg)
{
    struct listing *l = arg;
    char when[MT_RFC3339_LEN];
    const char *name = e->key + strlen(l->prefix);
    if (!mt_starts_with(e->key, l->prefix) || !mt_bk_file_name(name) || l->files == LISTED_MOST) {
        l->ignored++;
        return 0;
    }
    l->files++;
    (void)mt_rfc3339(e->modified_us, when);
    return mt_bk_line(json_pack("{s:{s:s,s:I,s:s}}", "file", "name", name, "bytes", (json_int_t)e->size, "stored_at", when)) ? 0 : -1;
}

json_t *mt_bk_list_files(struct mt_bk_run *r)
{
    char prefix[MT_BK_KEY];
    struct listing l = {.prefix = prefix};
    file_key(r->q, "", prefix);
    if (mt_bk_list(r, prefix, false, each, &l) < 0)
        return NULL;
    return mt_bk_count(r, json_pack("{s:b,s:I,s:I}", "ok", 1, "files", (json_int_t)l.files, "ignored", (json_int_t)l.ignored));
}
