/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks from the store: the main thread asks for them in order, worker threads decrypt, identify and write. */
#include "backup/out.h"
#include "backup/store.h"

#include "base/cleanup.h"

#include <pthread.h>
#include <unistd.h>

#define WORKERS 2
#define PIECES_MAX 20
#define REFETCH 2 /* a chunk that fails its check is asked for again: what the wire has spoilt is no damage of the store */

struct piece {
    struct mt_s3_op op;
    struct fetch *x;
    uint8_t *buf;
    uint32_t index;
    unsigned again;
    enum mt_bk_why why;
    struct piece *next;
};

struct fetch {
    struct mt_bk_run *r;
    struct mt_bk_fetch *job;
    const uint8_t *ids;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct piece *todo, *judged; /* to workers, and back */
    struct piece *idle;          /* main thread's own */
    struct piece pieces[PIECES_MAX];
    pthread_t threads[WORKERS];
    unsigned started, busy;
    bool stop;
    int write_errno;
};

static bool write_all(int fd, const uint8_t *p, size_t n, off_t at)
{
    while (n) {
        ssize_t k = pwrite(fd, p, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
        at += k;
    }
    return true;
}

static void *worker(void *arg)
{
    struct fetch *x = arg;
    struct mt_bk_zip *z = mt_bk_zip_new();
    uint8_t *scratch = malloc(MT_BK_CHUNK);
    (void)pthread_mutex_lock(&x->lock);
    for (;;) {
        while (!x->todo && !x->stop)
            (void)pthread_cond_wait(&x->work, &x->lock);
        struct piece *p = x->todo;
        if (!p)
            break;
        x->todo = p->next;
        (void)pthread_mutex_unlock(&x->lock);
        const uint8_t *plain = NULL;
        int wrong = z && scratch ? 0 : ENOMEM;
        if (!wrong) {
            p->why = mt_bk_open_chunk(x->job->from->keys, &x->r->q->scope, x->ids + (size_t)p->index * MT_BK_ID, z, p->buf, p->op.len, scratch, &plain);
            if (p->why == MT_BK_FINE && x->job->image_fd >= 0 && !write_all(x->job->image_fd, plain, MT_BK_CHUNK, (off_t)(p->index * MT_BK_CHUNK)))
                wrong = errno ? errno : EIO;
        }
        (void)pthread_mutex_lock(&x->lock);
        if (wrong)
            x->write_errno = wrong;
        p->next = x->judged;
        x->judged = p;
        mt_s3_wake(x->r->s3);
    }
    (void)pthread_mutex_unlock(&x->lock);
    mt_bk_zip_free(z);
    free(scratch);
    return NULL;
}

static void to_worker(struct fetch *x, struct piece *p)
{
    (void)pthread_mutex_lock(&x->lock);
    struct piece **at = &x->todo;
    while (*at)
        at = &(*at)->next;
    p->next = NULL;
    *at = p;
    (void)pthread_cond_signal(&x->work);
    (void)pthread_mutex_unlock(&x->lock);
}

static void release(struct fetch *x, struct piece *p)
{
    p->next = x->idle;
    x->idle = p;
    x->busy--;
}

static void got(struct mt_s3_op *op, void *arg)
{
    struct piece *p = arg;
    struct fetch *x = p->x;
    if (op->end == MT_S3_DONE) {
        to_worker(x, p);
        return;
    }
    if (op->end == MT_S3_FAILED && x->r->f->kind == MT_BK_OK)
        *x->r->f = op->fault;
    else if (op->end != MT_S3_FAILED)
        mt_bk_damaged(x->r, x->ids + (size_t)p->index * MT_BK_ID, (uint64_t)p->index * MT_BK_CHUNK,
                      op->end == MT_S3_NOT_FOUND ? MT_BK_WHY_MISSING : MT_BK_WHY_TRUNCATED);
    release(x, p);
}

static void ask(struct fetch *x, struct piece *p)
{
    p->op = (struct mt_s3_op){.method = MT_S3_GET, .into = p->buf, .cap = MT_BK_CHUNK_OBJECT_MAX, .done = got, .arg = p};
    mt_bk_chunk_key(x->r->q, x->ids + (size_t)p->index * MT_BK_ID, p->op.key);
    mt_s3_submit(x->r->s3, &p->op);
}

/* What the workers have judged; -1 with the fault. */
static int collect(struct fetch *x)
{
    (void)pthread_mutex_lock(&x->lock);
    struct piece *list = x->judged;
    int wrong = x->write_errno;
    x->judged = NULL;
    (void)pthread_mutex_unlock(&x->lock);
    if (wrong == ENOMEM)
        (void)mt_bk_fail(x->r->f, MT_BK_INTERNAL, "memory", "no memory for a decompressor");
    else if (wrong)
        (void)mt_bk_fail(x->r->f, MT_BK_WRITE, wrong == ENOSPC || wrong == EDQUOT ? "no_space" : "image", "the target takes no more: %s",
                         strerrordesc_np(wrong));
    while (list) {
        struct piece *p = list;
        list = p->next;
        if (p->why != MT_BK_FINE && p->again < REFETCH && x->r->f->kind == MT_BK_OK) {
            p->again++;
            ask(x, p);
            continue;
        }
        if (p->why != MT_BK_FINE) {
            mt_bk_damaged(x->r, x->ids + (size_t)p->index * MT_BK_ID, (uint64_t)p->index * MT_BK_CHUNK, p->why);
        } else if (x->r->f->kind == MT_BK_OK) {
            x->job->fetched++;
            x->job->bytes += p->op.len;
            if (x->job->done)
                (void)x->job->done(p->index, x->job->arg); /* -1 has set the fault */
        }
        release(x, p);
    }
    return x->r->f->kind == MT_BK_OK ? 0 : -1;
}

static int run(struct fetch *x)
{
    const struct mt_bk_manifest *m = &x->job->from->m;
    uint32_t next = 0;
    uint64_t total = 0, base = x->job->bytes;
    (void)base;
    for (uint32_t i = 0; i < m->count; i++)
        total += mt_bk_bit(x->job->want, i) ? MT_BK_CHUNK : 0;
    for (;;) {
        while (next < m->count && x->idle) {
            if (!mt_bk_bit(x->job->want, next) || mt_bk_id_zero(x->ids + (size_t)next * MT_BK_ID)) {
                next++;
                continue;
            }
            struct piece *p = x->idle;
            x->idle = p->next;
            x->busy++;
            p->index = next++;
            p->again = 0;
            ask(x, p);
        }
        if (collect(x) < 0)
            return -1;
        if (next >= m->count && x->busy == 0)
            return 0;
        if (next < m->count && x->idle)
            continue;
        mt_bk_progress(x->job->phase, x->job->fetched * MT_BK_CHUNK, total, 0);
        if (mt_s3_turn(x->r->s3, 1000, x->r->f) < 0)
            return -1;
    }
}

int mt_bk_fetch_run(struct mt_bk_run *r, struct mt_bk_fetch *job)
{
    mt_auto_free struct fetch *x = calloc(1, sizeof *x);
    /* 64 MiB in all: the manifest, two workers' scratch, curl and OpenSSL; the rest is for chunks under way */
    size_t room = ((size_t)44 << 20) - job->from->len, pieces = room / MT_BK_CHUNK_OBJECT_MAX - WORKERS;
    size_t want = r->q->store.parallel + WORKERS;
    int rc = -1;
    if (!x)
        return mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory to fetch chunks");
    x->r = r;
    x->job = job;
    x->ids = job->from->m.ids;
    (void)pthread_mutex_init(&x->lock, NULL);
    (void)pthread_cond_init(&x->work, NULL);
    pieces = pieces < want ? pieces : want;
    bool ok = true;
    for (size_t i = 0; i < pieces && i < PIECES_MAX && ok; i++) {
        struct piece *p = &x->pieces[i];
        ok = (p->buf = malloc(MT_BK_CHUNK_OBJECT_MAX)) != NULL;
        p->x = x;
        p->next = x->idle;
        x->idle = p;
    }
    for (; ok && x->started < WORKERS; x->started++)
        ok = pthread_create(&x->threads[x->started], NULL, worker, x) == 0;
    rc = ok ? run(x) : mt_bk_fail(r->f, MT_BK_INTERNAL, "memory", "no memory to fetch chunks");
    (void)pthread_mutex_lock(&x->lock);
    x->stop = true;
    if (rc < 0)
        x->todo = NULL;
    (void)pthread_cond_broadcast(&x->work);
    (void)pthread_mutex_unlock(&x->lock);
    for (unsigned i = 0; i < x->started; i++)
        (void)pthread_join(x->threads[i], NULL);
    if (rc == 0) { /* after a failure requests may still be under way into these: the process ends now */
        for (size_t i = 0; i < PIECES_MAX; i++)
            free(x->pieces[i].buf);
    } else {
        (void)MT_TAKE(x);
    }
    return rc;
}
