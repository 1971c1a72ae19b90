/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backup. Workers read, identify, compress and seal chunks; the main thread sends them and keeps the journal. The manifest goes
 * last, after the store's list has named every chunk. Source: storage-and-secrets.md §4.8.
 */
#include "backup/out.h"
#include "backup/ranges.h"
#include "backup/store.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORKERS_MAX 2
#define PIECES_MAX 20
#define JOURNAL_SYNC 64
#define ONE_WORKER_RATE ((uint64_t)100 << 20)
#define VERIFY_LEAST 8

/* First record of a journal whose ids were all sent and none of them believed: no chunk has this id. What other runs noted may have been told by the
 * base or the store, so a journal of the other kind is begun anew. */
static const uint8_t sent_all[MT_BK_ID + 1] = "moat journal: all was sent anew\n";

struct piece {
    struct mt_s3_op op;
    struct save *x;
    uint8_t *buf;
    uint32_t index;
    size_t len;
    struct piece *next;
};

struct save {
    struct mt_bk_run *r;
    const struct mt_bk_keys *keys;
    uint8_t *frame;    /* the manifest's object: header, plaintext, tag */
    uint8_t *ids;      /* in it: the base's at first, ours in the end */
    uint32_t count;
    bool base_used, delta;
    uint8_t *todo;     /* bits: chunks to look at */
    uint8_t *uploaded; /* bits: chunks that this run has stored */
    bool force;        /* healing: send whatever is known */
    bool ask_first;    /* HEAD before PUT: the store may hold what we do not know of */
    struct mt_bk_idset known;

    pthread_mutex_t lock; /* guards all below and known, ids while workers run */
    pthread_cond_t room;
    struct piece *idle, *ready;
    struct piece pieces[PIECES_MAX];
    size_t pieces_made;
    uint32_t next;
    unsigned workers, running;
    bool stop;
    struct mt_bk_fault fault; /* of a worker */
    uint64_t looked, read_bytes, changed, zero, sent_bytes, sent, healed, unsynced;
    pthread_t threads[WORKERS_MAX];
};

static void worker_fails(struct save *x, enum mt_bk_kind kind, const char *detail, const char *what)
{
    (void)pthread_mutex_lock(&x->lock);
    (void)mt_bk_fail(&x->fault, kind, detail, "%s", what);
    x->stop = true;
    (void)pthread_cond_broadcast(&x->room);
    (void)pthread_mutex_unlock(&x->lock);
}

/* One chunk of the image: 1 data, 0 known to be zero without reading, -1 failed. @hole_end: what the last question found out. */
static int read_chunk(struct save *x, uint32_t index, uint8_t *p, off_t *hole_end)
{
    off_t at = (off_t)(index * MT_BK_CHUNK);
    size_t have = 0;
    if (at + (off_t)MT_BK_CHUNK <= *hole_end)
        return 0;
    off_t data = lseek(x->r->q->image_fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
        data = INT64_MAX; /* nothing but a hole from here, or the end */
    if (data >= at + (off_t)MT_BK_CHUNK) {
        *hole_end = data;
        return 0;
    }
    while (have < MT_BK_CHUNK) {
        ssize_t n = pread(x->r->q->image_fd, p + have, MT_BK_CHUNK - have, at + (off_t)have);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            worker_fails(x, MT_BK_READ, "image", "the image is not to be read");
            return -1;
        }
        if (n == 0) {
            memset(p + have, 0, MT_BK_CHUNK - have); /* a file that ends early; devices were measured at the start */
            break;
        }
        have += (size_t)n;
    }
    /* read once and never again: it must not push out of memory what the VMs read */
    (void)posix_fadvise(x->r->q->image_fd, at, (off_t)MT_BK_CHUNK, POSIX_FADV_DONTNEED);
    (void)__atomic_fetch_add(&x->read_bytes, have, __ATOMIC_RELAXED);
    return 1;
}

/* Take the next chunk and a piece for it; NULL when there is none left or it is over. */
static struct piece *take(struct save *x)
{
    struct piece *p = NULL;
    (void)pthread_mutex_lock(&x->lock);
    while (!x->idle && !x->stop)
        (void)pthread_cond_wait(&x->room, &x->lock);
    while (x->next < x->count && !mt_bk_bit(x->todo, x->next))
        x->next++;
    if (!x->stop && x->next < x->count) {
        p = x->idle;
        x->idle = p->next;
        p->index = x->next++;
    }
    (void)pthread_mutex_unlock(&x->lock);
    return p;
}

static void give_back(struct save *x, struct piece *p)
{
    (void)pthread_mutex_lock(&x->lock);
    p->next = x->idle;
    x->idle = p;
    (void)pthread_cond_signal(&x->room);
    (void)pthread_mutex_unlock(&x->lock);
}

/* Enter the id at its place; true when the chunk has to be sent. */
static bool note(struct save *x, uint32_t index, const uint8_t id[MT_BK_ID], bool zero)
{
    uint8_t *place = x->ids + (size_t)index * MT_BK_ID;
    (void)pthread_mutex_lock(&x->lock);
    bool differs = memcmp(place, id, MT_BK_ID) != 0, send = false;
    x->looked++;
    if (x->force) { /* healing: what is read must be what the manifest says */
        send = !differs;
        if (differs) {
            (void)mt_bk_fail(&x->fault, MT_BK_VERIFY, "delta", "chunk %u is not what the base says, although no range names it", index);
            x->stop = true;
        }
    } else {
        x->changed += differs;
        memcpy(place, id, MT_BK_ID);
        send = !zero && mt_bk_idset_add(&x->known, id);
    }
    (void)pthread_mutex_unlock(&x->lock);
    return send;
}

/* True: ready to be sent. */
static bool work(struct save *x, struct piece *p, struct mt_bk_zip *z, uint8_t **scratch, off_t *hole_end)
{
    uint8_t id[MT_BK_ID] = {0}, hash[32];
    struct mt_err err = {0};
    uint8_t *plain = p->buf + MT_BK_HEADER;
    int got = read_chunk(x, p->index, plain, hole_end);
    if (got < 0)
        return false;
    bool zero = got == 0 || mt_bk_zero(plain, MT_BK_CHUNK);
    if (!zero)
        mt_bk_chunk_id(x->keys, plain, id);
    if (!note(x, p->index, id, zero))
        return false;
    size_t n = mt_bk_compress(z, plain, *scratch);
    if (n) { /* the compressed one goes, the other is scratch now */
        uint8_t *t = p->buf;
        p->buf = *scratch;
        *scratch = t;
    }
    if (mt_bk_seal(MT_BK_FRAME_CHUNK, n != 0, x->keys, &x->r->q->scope, id, MT_BK_CHUNK, p->buf, n ? n : MT_BK_CHUNK, &p->len, &err) < 0) {
        worker_fails(x, MT_BK_ENCRYPTION, "seal", err.msg);
        return false;
    }
    mt_sha256_of(p->buf, p->len, hash);
    p->op = (struct mt_s3_op){.body = p->buf, .body_len = p->len};
    mt_hex_encode(hash, sizeof hash, p->op.body_sha256);
    mt_bk_chunk_key(x->r->q, id, p->op.key);
    return true;
}

static void *worker(void *arg)
{
    struct save *x = arg;
    struct mt_bk_zip *z = mt_bk_zip_new();
    uint8_t *scratch = malloc(MT_BK_CHUNK_OBJECT_MAX);
    struct piece *p;
    off_t hole_end = 0;
    if (!z || !scratch)
        worker_fails(x, MT_BK_INTERNAL, "memory", "no memory for a compressor");
    while ((p = take(x))) {
        if (!work(x, p, z, &scratch, &hole_end)) {
            give_back(x, p);
            continue;
        }
        (void)pthread_mutex_lock(&x->lock);
        p->next = x->ready;
        x->ready = p;
        (void)pthread_mutex_unlock(&x->lock);
        mt_s3_wake(x->r->s3);
    }
    mt_bk_zip_free(z);
    free(scratch);
    (void)pthread_mutex_lock(&x->lock);
    x->running--;
    (void)pthread_cond_broadcast(&x->room); /* who waits for a piece looks again: maybe nothing is left */
    (void)pthread_mutex_unlock(&x->lock);
    mt_s3_wake(x->r->s3);
    return NULL;
}

static int journal(struct save *x, const uint8_t *id)
{
    int fd = x->r->q->journal_fd;
    if (fd < 0)
        return 0;
    if (write(fd, id, MT_BK_ID) != MT_BK_ID || (++x->unsynced % JOURNAL_SYNC == 0 && fdatasync(fd) < 0))
        return mt_bk_fail(x->r->f, MT_BK_WRITE, errno == ENOSPC ? "no_space" : "journal", "the journal takes no more");
    return 0;
}

static void sent(struct mt_s3_op *op, void *arg)
{
    struct piece *p = arg;
    struct save *x = p->x;
    const uint8_t *id = x->ids + (size_t)p->index * MT_BK_ID;
    if (op->end == MT_S3_FAILED) {
        if (x->r->f->kind == MT_BK_OK)
            *x->r->f = op->fault;
    } else if (op->method == MT_S3_HEAD && (op->end == MT_S3_NOT_FOUND || !mt_bk_chunk_size_ok(op->len))) {
        op->method = MT_S3_PUT;
        mt_s3_submit(x->r->s3, op);
        return;
    } else if (op->end != MT_S3_DONE) {
        (void)mt_bk_fail(x->r->f, MT_BK_UPLOAD, "http_404", "the store has no place for a chunk");
    } else if (journal(x, id) == 0 && op->method == MT_S3_PUT) {
        mt_bk_bit_set(x->uploaded, p->index);
        x->sent++;
        x->sent_bytes += p->len;
        mt_bk_step("chunk_put");
    }
    give_back(x, p);
}

/* One pass over the chunks of todo. */
static int pass(struct save *x)
{
    struct mt_bk_run *r = x->r;
    uint64_t total = 0;
    for (uint32_t i = 0; i < x->count; i++)
        total += mt_bk_bit(x->todo, i);
    x->next = 0;
    x->looked = 0;
    for (x->running = 0; x->running < x->workers; x->running++)
        if (pthread_create(&x->threads[x->running], NULL, worker, x) != 0)
            return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for threads");
    for (;;) {
        (void)pthread_mutex_lock(&x->lock);
        struct piece *list = x->ready;
        bool over = x->running == 0;
        uint64_t looked = x->looked;
        x->ready = NULL;
        if (r->f->kind != MT_BK_OK)
            x->stop = true;
        else if (x->fault.kind != MT_BK_OK)
            *r->f = x->fault;
        if (x->stop)
            (void)pthread_cond_broadcast(&x->room);
        (void)pthread_mutex_unlock(&x->lock);
        while (list) {
            struct piece *p = list;
            list = p->next;
            p->op.method = x->ask_first && !x->force ? MT_S3_HEAD : MT_S3_PUT;
            p->op.done = sent;
            p->op.arg = p;
            mt_s3_submit(r->s3, &p->op);
            over = false;
        }
        if (r->f->kind != MT_BK_OK)
            return -1; /* the process ends now, and its threads with it */
        if (over && mt_s3_pending(r->s3) == 0)
            break;
        mt_bk_progress("uploading", (x->count - total + looked) * MT_BK_CHUNK, r->q->size_bytes, x->sent_bytes);
        if (mt_s3_turn(r->s3, 1000, r->f) < 0)
            return -1;
    }
    for (unsigned i = 0; i < x->workers; i++)
        (void)pthread_join(x->threads[i], NULL);
    if (r->q->journal_fd >= 0 && fdatasync(r->q->journal_fd) < 0)
        return mt_bk_fail(r->f, MT_BK_WRITE, "journal", "the journal takes no more");
    return 0;
}

/* --- before ------------------------------------------------------------------------------------------------------ */

static int read_ranges(struct save *x)
{
    const struct mt_bk_request *q = x->r->q;
    struct mt_bk_ranges ranges;
    struct mt_err err = {0};
    char part[8192];
    ssize_t n;
    mt_bk_ranges_init(&ranges, q->size_bytes, x->todo);
    while ((n = read(q->ranges_fd, part, sizeof part)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mt_bk_fail(x->r->f, MT_BK_INVALID, "ranges", "the ranges are not to be read");
        if (mt_bk_ranges_feed(&ranges, part, (size_t)n, &err) < 0)
            return mt_bk_fail(x->r->f, MT_BK_INVALID, "ranges", "%s", err.msg);
    }
    return mt_bk_ranges_end(&ranges, &err) < 0 ? mt_bk_fail(x->r->f, MT_BK_INVALID, "ranges", "%s", err.msg) : 0;
}

/* The base's ids to our place; without it a full read. */
static int use_base(struct save *x)
{
    const struct mt_bk_request *q = x->r->q;
    mt_cleanup(mt_bk_loaded_done) struct mt_bk_loaded base = {0};
    enum mt_bk_why why = MT_BK_WHY_MISSING;
    struct mt_err err = {0};
    if (!q->base[0])
        return 0;
    if (mt_bk_load(x->r, q->base, &base, &why, &err) < 0)
        return -1;
    if (why != MT_BK_FINE || base.m.size_bytes > q->size_bytes || base.keys != x->keys)
        return 0;
    memcpy(x->ids, base.m.ids, (size_t)base.m.count * MT_BK_ID);
    for (uint32_t i = base.m.count; i < x->count; i++)
        mt_bk_bit_set(x->todo, i); /* the volume has grown: nothing is known of the new part */
    for (uint32_t i = 0; i < base.m.count; i++)
        if (!mt_bk_id_zero(base.m.ids + (size_t)i * MT_BK_ID))
            (void)mt_bk_idset_add(&x->known, base.m.ids + (size_t)i * MT_BK_ID);
    x->base_used = true;
    return 0;
}

static bool journal_sent_all(int fd)
{
    uint8_t first[MT_BK_ID];
    return fd >= 0 && pread(fd, first, sizeof first, 0) == (ssize_t)sizeof first && memcmp(first, sent_all, sizeof first) == 0;
}

static int read_journal(struct save *x)
{
    int fd = x->r->q->journal_fd;
    bool distrust = x->r->q->distrust;
    uint8_t part[256 * MT_BK_ID];
    off_t at = 0;
    if (fd < 0)
        return 0;
    /* on the disk before the first id: a crash leaves no mark before ids that are not its own */
    if (distrust != journal_sent_all(fd) &&
        (ftruncate(fd, 0) < 0 || fsync(fd) < 0 || (distrust && (pwrite(fd, sent_all, MT_BK_ID, 0) != MT_BK_ID || fsync(fd) < 0))))
        return mt_bk_fail(x->r->f, MT_BK_WRITE, errno == ENOSPC ? "no_space" : "journal", "the journal is not to be begun anew");
    if (distrust)
        at = MT_BK_ID;
    for (;;) {
        ssize_t n = pread(fd, part, sizeof part, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return mt_bk_fail(x->r->f, MT_BK_INVALID, "journal", "the journal is not to be read");
        size_t whole = (size_t)n / MT_BK_ID;
        for (size_t i = 0; i < whole; i++)
            (void)mt_bk_idset_add(&x->known, part + i * MT_BK_ID);
        at += (off_t)(whole * MT_BK_ID);
        if (whole == 0)
            break;
    }
    if (ftruncate(fd, at) < 0 || lseek(fd, at, SEEK_SET) != at) /* a torn last id goes */
        return mt_bk_fail(x->r->f, MT_BK_INVALID, "journal", "the journal is not to be written");
    return 0;
}

static int note_listed(const struct mt_bk_listed *e, void *arg)
{
    struct save *x = arg;
    uint8_t id[MT_BK_ID];
    if (!e->key[0] || !mt_bk_chunk_of_key(x->r->q, e->key, id) || !mt_bk_chunk_size_ok(e->size))
        return 0;
    if (mt_bk_idset_full(&x->known) || x->known.count > x->known.most / 2)
        x->ask_first = true; /* room is kept for what we send: the rest is asked for one by one */
    else
        (void)mt_bk_idset_add(&x->known, id);
    return 0;
}

static int prepare(struct save *x)
{
    const struct mt_bk_request *q = x->r->q;
    struct mt_err err = {0};
    char prefix[MT_BK_KEY];
    struct stat st;
    size_t bits = ((size_t)x->count + 7) / 8;
    /* base and new ids; a big volume gets less than both in the worst case (8 MiB for 2 TiB): what does not fit is sent unasked */
    size_t room = x->count > 65536 ? x->count : 2 * (size_t)x->count + 1024;
    if (fstat(q->image_fd, &st) < 0)
        return mt_bk_fail(x->r->f, MT_BK_INVALID, "descriptor", "image_fd %d is not open", q->image_fd);
    if (!S_ISREG(st.st_mode) && lseek(q->image_fd, 0, SEEK_END) < (off_t)q->size_bytes)
        return mt_bk_fail(x->r->f, MT_BK_READ, "image_short", "the device is shorter than the volume");
    x->frame = calloc(1, MT_BK_MANIFEST_LEN(x->count) + MT_BK_OVERHEAD);
    x->todo = calloc(1, bits);
    x->uploaded = calloc(1, bits);
    if (!x->frame || !x->todo || !x->uploaded || mt_bk_idset_init(&x->known, room, &err) < 0)
        return mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "no memory for the volume's list of chunks");
    x->ids = x->frame + MT_BK_HEADER + MT_BK_MANIFEST_HEADER;
    if ((!q->distrust && use_base(x) < 0) || (q->ranges_fd >= 0 && read_ranges(x) < 0))
        return -1;
    x->delta = x->base_used && q->ranges_fd >= 0;
    if (!x->delta)
        memset(x->todo, 0xff, bits);
    if (read_journal(x) < 0)
        return -1;
    x->ask_first = x->base_used;
    mt_bk_key(q, "c/", prefix);
    if (!x->base_used && !q->distrust && mt_bk_list(x->r, prefix, false, note_listed, x) < 0)
        return -1;
    size_t used = MT_BK_MANIFEST_LEN(x->count) + (x->known.mask + 1) * sizeof *x->known.slots;
    size_t most = (((size_t)48 << 20) - used) / MT_BK_CHUNK_OBJECT_MAX - x->workers, want = q->store.parallel + x->workers;
    for (size_t i = 0; i < most && i < want && i < PIECES_MAX; i++) {
        struct piece *p = &x->pieces[i];
        if (!(p->buf = malloc(MT_BK_CHUNK_OBJECT_MAX)))
            return mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "no memory for chunks");
        x->pieces_made++;
        p->x = x;
        p->next = x->idle;
        x->idle = p;
    }
    return 0;
}

/* --- after ------------------------------------------------------------------------------------------------------- */

static void free_pieces(struct save *x)
{
    for (size_t i = 0; i < x->pieces_made; i++)
        free(x->pieces[i].buf);
    x->pieces_made = 0;
}

/* The store must name every chunk; what it has lost is read and sent once more. */
static int verify(struct save *x, struct mt_bk_manifest *m)
{
    uint32_t lost = 0;
    struct mt_bk_run *r = x->r;
    size_t bits = ((size_t)x->count + 7) / 8;
    mt_bk_step("verify");
    mt_bk_idset_done(&x->known);
    mt_bk_progress("verifying", 0, r->q->size_bytes, x->sent_bytes);
    if (mt_bk_missing(r, m, x->todo, &lost) < 0)
        return -1;
    if (lost) {
        x->force = true;
        if (mt_bk_idset_init(&x->known, 1, &(struct mt_err){0}) < 0 || pass(x) < 0)
            return -1;
        x->healed = lost;
        if (mt_bk_missing(r, m, x->todo, &lost) < 0)
            return -1;
        if (lost)
            return mt_bk_fail(r->f, MT_BK_VERIFY, "chunk_missing", "the store took %u chunks and does not list them", lost);
    }
    free_pieces(x);
    mt_auto_free uint8_t *want = calloc(1, bits);
    struct mt_bk_loaded from = {.keys = x->keys, .m = *m, .len = MT_BK_MANIFEST_LEN(x->count)};
    struct mt_bk_fetch fetch = {.from = &from, .want = want, .image_fd = -1, .phase = "verifying"};
    if (!want)
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory to verify");
    if (r->q->sample_percent)
        mt_bk_sample(m, x->uploaded, r->q->sample_percent, VERIFY_LEAST, want);
    if (mt_bk_fetch_run(r, &fetch) < 0)
        return -1;
    if (r->damage.count)
        return mt_bk_fail(r->f, MT_BK_VERIFY, "chunk_damaged", "%ju of the chunks just stored came back damaged", (uintmax_t)r->damage.count);
    x->looked = fetch.fetched;
    return 0;
}

/* Store the manifest and read it back: it is the backup. */
static int put_manifest(struct save *x, struct mt_bk_manifest *m, uint8_t ret_sha[32])
{
    struct mt_bk_run *r = x->r;
    struct mt_err err = {0};
    char rest[64];
    uint8_t back[32];
    size_t len = 0;
    mt_bk_manifest_head(m, x->frame + MT_BK_HEADER);
    size_t plain = MT_BK_MANIFEST_LEN(x->count);
    if (mt_bk_seal(MT_BK_FRAME_MANIFEST, false, x->keys, &r->q->scope, m->snapshot, plain, x->frame, plain, &len, &err) < 0)
        return mt_bk_fail(r->f, MT_BK_ENCRYPTION, "seal", "%s", err.msg);
    mt_sha256_of(x->frame, len, ret_sha);
    struct mt_s3_op op = {.method = MT_S3_PUT, .body = x->frame, .body_len = len};
    mt_hex_encode(ret_sha, 32, op.body_sha256);
    (void)snprintf(rest, sizeof rest, "m/%s", m->snapshot);
    mt_bk_key(r->q, rest, op.key);
    mt_bk_step("manifest");
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    if (op.end != MT_S3_DONE)
        return mt_bk_fail(r->f, MT_BK_UPLOAD, "http_404", "the store has no place for the manifest");
    mt_bk_step("manifest_put");
    op.method = MT_S3_GET;
    op.into = x->frame; /* what was sent is known by its hash */
    op.cap = len;
    if (mt_s3_run(r->s3, &op, r->f) < 0)
        return -1;
    mt_sha256_of(x->frame, op.end == MT_S3_DONE ? op.len : 0, back);
    if (!mt_digest_equal(back, ret_sha, 32))
        return mt_bk_fail(r->f, MT_BK_VERIFY, "manifest_damaged", "the manifest just stored came back otherwise");
    return 0;
}

static json_t *answer(struct save *x, const struct mt_bk_manifest *m, const uint8_t sha[32], bool already)
{
    char root[65], hash[65];
    mt_hex_encode(m->root, 32, root);
    mt_hex_encode(sha, 32, hash);
    return mt_bk_count(x->r, json_pack("{s:b,s:s,s:s,s:s,s:I,s:I,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:b}", "ok", 1, "snapshot_id", m->snapshot,
                                       "image_root", root, "manifest_sha256", hash, "key_epoch", (json_int_t)x->keys->epoch, "size_bytes",
                                       (json_int_t)m->size_bytes, "scan_mode", m->delta ? "delta" : "full", "base_used", x->base_used, "changed_bytes",
                                       (json_int_t)m->changed_bytes, "uploaded_bytes", (json_int_t)m->uploaded_bytes, "read_bytes",
                                       (json_int_t)x->read_bytes, "chunks", (json_int_t)m->count, "zero_chunks", (json_int_t)x->zero,
                                       "chunks_uploaded", (json_int_t)x->sent, "chunks_healed", (json_int_t)x->healed, "verified_chunks",
                                       (json_int_t)x->looked, "already_done", already, "distrust_stored",
                                       already ? journal_sent_all(x->r->q->journal_fd) : x->r->q->distrust));
}

static json_t *save(struct save *x)
{
    const struct mt_bk_request *q = x->r->q;
    struct mt_bk_loaded there = {0};
    enum mt_bk_why why;
    struct mt_err err = {0};
    uint8_t sha[32];
    json_t *done = NULL;
    mt_bk_step("start");
    if (mt_bk_load(x->r, q->snapshot, &there, &why, &err) < 0)
        return NULL;
    if (why == MT_BK_FINE) {
        if (there.m.captured_at_ms == q->captured_at_ms && there.m.size_bytes == q->size_bytes && there.keys == x->keys)
            done = answer(x, &there.m, there.sha256, true);
        else
            (void)mt_bk_fail(x->r->f, MT_BK_INVALID, "snapshot_exists", "the store holds a backup '%s' of another capture", q->snapshot);
    }
    mt_bk_loaded_done(&there);
    if (why == MT_BK_FINE || prepare(x) < 0 || pass(x) < 0)
        return done;
    struct mt_bk_manifest m = {.filesystem = q->filesystem, .delta = x->delta, .size_bytes = q->size_bytes, .count = x->count,
                               .captured_at_ms = q->captured_at_ms, .changed_bytes = x->changed * MT_BK_CHUNK, .uploaded_bytes = x->sent_bytes,
                               .ids = x->ids};
    memcpy(m.snapshot, q->snapshot, sizeof m.snapshot);
    memcpy(m.volume, q->scope.volume, sizeof m.volume);
    memcpy(m.parent, q->parent, sizeof m.parent);
    for (uint32_t i = 0; i < x->count; i++)
        x->zero += mt_bk_id_zero(x->ids + (size_t)i * MT_BK_ID);
    if (mt_bk_image_root(m.size_bytes, m.count, m.ids, m.root, &err) < 0) {
        (void)mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "%s", err.msg);
        return NULL;
    }
    if (verify(x, &m) < 0 || put_manifest(x, &m, sha) < 0)
        return NULL;
    return answer(x, &m, sha, false);
}

json_t *mt_bk_save(struct mt_bk_run *r)
{
    struct save *x = calloc(1, sizeof *x);
    const struct mt_bk_keys *keys = mt_bk_request_keys(r->q, r->q->key_epoch);
    json_t *ret = NULL;
    if (!x) {
        (void)mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory for a backup");
        return NULL;
    }
    if (!keys) {
        (void)mt_bk_fail(r->f, MT_BK_ENCRYPTION, "key_missing", "no key of epoch %u was given", r->q->key_epoch);
        free(x);
        return NULL;
    }
    x->r = r;
    x->keys = keys;
    x->count = (uint32_t)(r->q->size_bytes / MT_BK_CHUNK);
    /* one does some 200 MiB/s: where the rate is bounded anyway, the other processors stay the VMs' without anybody having to be pushed off them */
    x->workers = r->q->store.upload_limit && r->q->store.upload_limit <= ONE_WORKER_RATE ? 1 : WORKERS_MAX;
    (void)pthread_mutex_init(&x->lock, NULL);
    (void)pthread_cond_init(&x->room, NULL);
    ret = save(x);
    if (!ret)
        return NULL; /* threads may still be at work on x: the process ends now */
    mt_bk_idset_done(&x->known);
    free_pieces(x);
    free(x->frame);
    free(x->todo);
    free(x->uploaded);
    free(x);
    return ret;
}
