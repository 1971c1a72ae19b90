/* SPDX-License-Identifier: Apache-2.0 */
/* A backup into a target, or only looked at. Source: storage-and-secrets.md §5.1. */
#include "backup/out.h"
#include "backup/store.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "os/digest.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYNC_EVERY 256 /* chunks between two points from which a restore can go on */
#define JOURNAL_HEAD 40

struct restore {
    struct mt_bk_run *r;
    struct mt_bk_loaded from;
    uint8_t *want, *finished; /* bits */
    size_t bits;
    uint64_t unsynced, written, skipped;
};

/* What is finished, told to the journal once it is on disk. */
static int checkpoint(struct restore *x)
{
    const struct mt_bk_request *q = x->r->q;
    if (fdatasync(q->image_fd) < 0)
        return mt_bk_fail(x->r->f, MT_BK_WRITE, errno == ENOSPC ? "no_space" : "image", "the target does not keep what it took");
    x->unsynced = 0;
    mt_bk_step("checkpoint");
    if (q->journal_fd >= 0 && (pwrite(q->journal_fd, x->finished, x->bits, JOURNAL_HEAD) != (ssize_t)x->bits || fdatasync(q->journal_fd) < 0))
        return mt_bk_fail(x->r->f, MT_BK_WRITE, "journal", "the journal takes no more");
    return 0;
}

static int note_done(uint32_t index, void *arg)
{
    struct restore *x = arg;
    mt_bk_bit_set(x->finished, index);
    x->written += MT_BK_CHUNK;
    mt_bk_step("chunk_written");
    return ++x->unsynced >= SYNC_EVERY ? checkpoint(x) : 0;
}

static int open_journal(struct restore *x)
{
    int fd = x->r->q->journal_fd;
    uint8_t head[JOURNAL_HEAD] = {'M', 'T', 'R', '1'}, had[JOURNAL_HEAD];
    memcpy(head + 8, x->from.m.root, 32);
    if (fd < 0)
        return 0;
    if (pread(fd, had, sizeof had, 0) == sizeof had && memcmp(had, head, sizeof had) == 0 &&
        pread(fd, x->finished, x->bits, JOURNAL_HEAD) == (ssize_t)x->bits)
        return 0;
    memset(x->finished, 0, x->bits);
    if (ftruncate(fd, 0) < 0 || pwrite(fd, head, sizeof head, 0) != sizeof head)
        return mt_bk_fail(x->r->f, MT_BK_WRITE, "journal", "the journal is not to be written");
    return 0;
}

static int zero_range(struct restore *x, off_t at, off_t n, bool device)
{
    int fd = x->r->q->image_fd;
    uint64_t range[2] = {(uint64_t)at, (uint64_t)n};
    if (device ? ioctl(fd, BLKZEROOUT, range) == 0 : fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, n) == 0)
        return 0;
    mt_auto_free uint8_t *zeros = calloc(1, MT_BK_CHUNK);
    for (; zeros && n > 0;) { /* a file system without holes */
        ssize_t k = pwrite(fd, zeros, n < (off_t)MT_BK_CHUNK ? (size_t)n : MT_BK_CHUNK, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            break;
        at += k;
        n -= k;
    }
    if (n == 0)
        return 0;
    return mt_bk_fail(x->r->f, MT_BK_WRITE, errno == ENOSPC ? "no_space" : "image", "the target takes no zeros");
}

/* Make room, decide what is wanted, and zero what is zero. */
static int prepare(struct restore *x)
{
    const struct mt_bk_request *q = x->r->q;
    const struct mt_bk_manifest *m = &x->from.m;
    uint64_t size = q->size_bytes ? q->size_bytes : m->size_bytes;
    struct stat st;
    if (size < m->size_bytes)
        return mt_bk_fail(x->r->f, MT_BK_INVALID, "request", "'size_bytes' is smaller than the backup's %ju", (uintmax_t)m->size_bytes);
    if (fstat(q->image_fd, &st) < 0)
        return mt_bk_fail(x->r->f, MT_BK_INVALID, "descriptor", "image_fd %d is not open", q->image_fd);
    bool device = !S_ISREG(st.st_mode);
    if (device && lseek(q->image_fd, 0, SEEK_END) < (off_t)size)
        return mt_bk_fail(x->r->f, MT_BK_WRITE, "no_space", "the device is shorter than the volume");
    if (!device && st.st_size < (off_t)size && ftruncate(q->image_fd, (off_t)size) < 0)
        return mt_bk_fail(x->r->f, MT_BK_WRITE, errno == ENOSPC || errno == EFBIG ? "no_space" : "image", "the target does not grow");
    if (open_journal(x) < 0)
        return -1;
    off_t from = -1;
    for (uint32_t i = 0; i <= m->count; i++) {
        bool zero = i < m->count && mt_bk_bit(x->want, i) && !mt_bk_bit(x->finished, i) && mt_bk_id_zero(m->ids + (size_t)i * MT_BK_ID);
        if (i < m->count && (mt_bk_bit(x->finished, i) || !mt_bk_bit(x->want, i)))
            x->skipped++;
        if (i < m->count && mt_bk_bit(x->finished, i))
            x->want[i >> 3] = (uint8_t)(x->want[i >> 3] & ~(1U << (i & 7)));
        if (zero && from < 0)
            from = (off_t)(i * MT_BK_CHUNK);
        if (!zero && from >= 0 && !q->zeroed && zero_range(x, from, (off_t)(i * MT_BK_CHUNK) - from, device) < 0)
            return -1;
        if (!zero)
            from = -1;
    }
    if (size > m->size_bytes && !q->zeroed)
        return zero_range(x, (off_t)m->size_bytes, (off_t)(size - m->size_bytes), device);
    return 0;
}

/* Load, and compare with what the control plane remembers. */
static int load(struct mt_bk_run *r, struct mt_bk_loaded *from)
{
    if (mt_bk_load_or_fail(r, r->q->snapshot, from) < 0)
        return -1;
    if (r->q->want_root && !mt_digest_equal(from->m.root, r->q->root, 32))
        return mt_bk_fail(r->f, MT_BK_INTEGRITY, "image_root", "the manifest of '%s' is of another image than is remembered", r->q->snapshot);
    if (r->q->want_sha && !mt_digest_equal(from->sha256, r->q->sha, 32))
        return mt_bk_fail(r->f, MT_BK_INTEGRITY, "manifest_sha256", "the manifest of '%s' is another one than is remembered", r->q->snapshot);
    return 0;
}

/* All wanted, or with a snapshot that the target holds already: what differs. */
static int choose(struct restore *x)
{
    const struct mt_bk_manifest *m = &x->from.m;
    mt_cleanup(mt_bk_loaded_done) struct mt_bk_loaded have = {0};
    if (x->r->q->base[0] && mt_bk_load_or_fail(x->r, x->r->q->base, &have) < 0)
        return -1;
    for (uint32_t i = 0; i < m->count; i++)
        if (!have.obj || i >= have.m.count || have.keys != x->from.keys ||
            memcmp(m->ids + (size_t)i * MT_BK_ID, have.m.ids + (size_t)i * MT_BK_ID, MT_BK_ID) != 0)
            mt_bk_bit_set(x->want, i);
    return 0;
}

static int broken(struct mt_bk_run *r)
{
    bool missing = true;
    json_t *item;
    size_t i;
    json_array_foreach(r->damage.list, i, item)
        missing = missing && MT_STREQ(json_string_value(json_object_get(item, "why")), "missing");
    return mt_bk_fail(r->f, missing ? MT_BK_MISSING : MT_BK_INTEGRITY, "chunk", "%ju chunks of '%s' are damaged or missing", (uintmax_t)r->damage.count,
                      r->q->snapshot);
}

static json_t *answer(struct restore *x, const struct mt_bk_fetch *fetch)
{
    char root[65];
    const struct mt_bk_manifest *m = &x->from.m;
    mt_hex_encode(m->root, 32, root);
    return mt_bk_count(x->r, json_pack("{s:b,s:s,s:s,s:I,s:I,s:s,s:I,s:I,s:I,s:I,s:O,s:I}", "ok", 1, "snapshot_id", m->snapshot, "image_root", root,
                                       "size_bytes", (json_int_t)m->size_bytes, "captured_at_ms", (json_int_t)m->captured_at_ms, "consistency",
                                       m->filesystem ? "filesystem" : "crash", "bytes_written", (json_int_t)x->written, "bytes_fetched",
                                       (json_int_t)fetch->bytes, "chunks_fetched", (json_int_t)fetch->fetched, "chunks_skipped",
                                       (json_int_t)x->skipped, "damaged", x->r->damage.list, "damaged_count", (json_int_t)x->r->damage.count));
}

static void done(struct restore *x)
{
    mt_bk_loaded_done(&x->from);
    free(x->want);
    free(x->finished);
}

static int begin(struct restore *x)
{
    mt_bk_step("start");
    if (load(x->r, &x->from) < 0)
        return -1;
    x->bits = ((size_t)x->from.m.count + 7) / 8;
    x->want = calloc(1, x->bits);
    x->finished = calloc(1, x->bits);
    return x->want && x->finished ? 0 : mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "no memory for a restore");
}

json_t *mt_bk_restore(struct mt_bk_run *r)
{
    mt_cleanup(done) struct restore x = {.r = r};
    struct mt_bk_fetch fetch = {.from = &x.from, .image_fd = r->q->image_fd, .phase = "downloading", .done = note_done, .arg = &x};
    if (begin(&x) < 0 || choose(&x) < 0 || prepare(&x) < 0)
        return NULL;
    fetch.want = x.want;
    if (mt_bk_fetch_run(r, &fetch) < 0)
        return NULL;
    if (r->damage.count && !r->q->salvage) {
        (void)broken(r);
        return NULL;
    }
    for (uint32_t i = 0; r->damage.count && !r->q->zeroed && i < x.from.m.count; i++) /* salvage: zeros where the chunk is lost */
        if (mt_bk_bit(x.want, i) && !mt_bk_bit(x.finished, i) && !mt_bk_id_zero(x.from.m.ids + (size_t)i * MT_BK_ID) &&
            zero_range(&x, (off_t)(i * MT_BK_CHUNK), MT_BK_CHUNK, false) < 0)
            return NULL;
    if (checkpoint(&x) < 0 || fsync(r->q->image_fd) < 0) {
        (void)mt_bk_fail(r->f, MT_BK_WRITE, "image", "the target does not keep what it took");
        return NULL;
    }
    mt_bk_step("done");
    return answer(&x, &fetch);
}

static int note_bad_list(struct restore *x)
{
    uint32_t lost = 0;
    mt_auto_free uint8_t *bits = calloc(1, x->bits);
    if (!bits)
        return mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "no memory to verify");
    if (mt_bk_missing(x->r, &x->from.m, bits, &lost) < 0)
        return -1;
    for (uint32_t i = 0; lost && i < x->from.m.count; i++) {
        if (mt_bk_bit(bits, i)) {
            mt_bk_damaged(x->r, x->from.m.ids + (size_t)i * MT_BK_ID, (uint64_t)i * MT_BK_CHUNK, MT_BK_WHY_MISSING);
            x->want[i >> 3] = (uint8_t)(x->want[i >> 3] & ~(1U << (i & 7)));
        }
    }
    return 0;
}

json_t *mt_bk_verify(struct mt_bk_run *r)
{
    mt_cleanup(done) struct restore x = {.r = r};
    struct mt_bk_fetch fetch = {.from = &x.from, .image_fd = -1, .phase = "checking"};
    if (begin(&x) < 0)
        return NULL;
    if (r->q->sample) {
        memset(x.finished, 0xff, x.bits);
        mt_bk_sample(&x.from.m, x.finished, r->q->sample_percent, 8, x.want);
    } else {
        memset(x.want, 0xff, x.bits);
    }
    fetch.want = x.want;
    if (note_bad_list(&x) < 0 || mt_bk_fetch_run(r, &fetch) < 0)
        return NULL;
    if (r->damage.count) {
        (void)broken(r);
        return NULL;
    }
    char root[65];
    mt_hex_encode(x.from.m.root, 32, root);
    return mt_bk_count(r, json_pack("{s:b,s:s,s:s,s:I,s:I,s:[]}", "ok", 1, "snapshot_id", x.from.m.snapshot, "image_root", root, "chunks_checked",
                                    (json_int_t)fetch.fetched, "bytes_fetched", (json_int_t)fetch.bytes, "damaged"));
}
