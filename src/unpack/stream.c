/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A producer thread inflates into a ring of buffers; the caller's thread hashes and parses them. The two halves cost about
 * the same, so on two cores a layer takes the time of the slower one. The thread ends with the process.
 */
#include "unpack/stream.h"

#include "base/assert.h"
#include "base/str.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#define BUFFER_SIZE ((size_t)256 << 10)
#define BUFFERS 8
#define RATIO_FREE ((uint64_t)64 << 20) /* U12: the ratio counts only after so many bytes */
#define RATIO_MAX 1000

enum outcome { RUNNING = 0, AT_END, CORRUPT, BOMB, READ_FAILED, NO_MEMORY };

struct slot {
    uint8_t *data;
    size_t len;
};

struct mt_stream {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Guarded by the lock. */
    struct slot ring[BUFFERS];
    size_t head, count;   /* filled slots: head .. head+count */
    bool working, stop, quit;
    enum outcome outcome;
    int sys_errno;
    /* The job; written by begin while the thread is idle. */
    int fd;
    uint64_t size;
    enum mt_oci_compression compression;
    /* The producer's own. */
    uint8_t *in;
    uint64_t consumed, produced;
    struct slot fill;
    ZSTD_DCtx *zstd;
    /* The reader's own. */
    EVP_MD_CTX *md;
    bool holding; /* the slot at head is lent to the caller */
};

/* Next compressed bytes into s->in; 0 at the declared end. */
static ssize_t refill(struct mt_stream *s)
{
    size_t want = s->size - s->consumed < BUFFER_SIZE ? (size_t)(s->size - s->consumed) : BUFFER_SIZE;
    if (want == 0)
        return 0;
    ssize_t n = pread(s->fd, s->in, want, (off_t)s->consumed);
    if (n <= 0) {
        s->sys_errno = n < 0 ? errno : EIO; /* shorter than its declared size: the blob on disk was cut */
        return -1;
    }
    s->consumed += (uint64_t)n;
    return n;
}

/* Hand the filled buffer over; false when the reader has lost interest. */
static bool push(struct mt_stream *s)
{
    if (s->fill.len == 0)
        return true;
    (void)pthread_mutex_lock(&s->lock);
    while (s->count == BUFFERS - 1 && !s->stop)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    bool go_on = !s->stop;
    if (go_on) {
        struct slot *slot = &s->ring[(s->head + s->count) % BUFFERS];
        struct slot spare = *slot;
        *slot = s->fill;
        s->fill = (struct slot){.data = spare.data};
        s->count++;
        (void)pthread_cond_broadcast(&s->changed);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return go_on;
}

/* Count @n fresh bytes in the fill buffer and hand it over when full. */
static enum outcome produced(struct mt_stream *s, size_t n)
{
    s->fill.len += n;
    s->produced += n;
    if (s->produced > RATIO_FREE && s->produced / RATIO_MAX > s->consumed)
        return BOMB;
    if (s->fill.len == BUFFER_SIZE && !push(s))
        return AT_END;
    return RUNNING;
}

static enum outcome run_plain(struct mt_stream *s)
{
    for (;;) {
        ssize_t n = refill(s);
        if (n <= 0)
            return n == 0 ? AT_END : READ_FAILED;
        memcpy(s->fill.data, s->in, (size_t)n);
        s->fill.len = (size_t)n;
        s->produced += (uint64_t)n;
        if (!push(s))
            return AT_END;
    }
}

static enum outcome run_gzip(struct mt_stream *s)
{
    z_stream z = {0};
    enum outcome out = RUNNING;
    bool inside = false;
    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return NO_MEMORY;
    while (out == RUNNING) {
        if (z.avail_in == 0) {
            ssize_t n = refill(s);
            if (n <= 0) {
                out = n < 0 ? READ_FAILED : inside ? CORRUPT : AT_END; /* only between members is an end an end */
                break;
            }
            z.next_in = s->in;
            z.avail_in = (uInt)n;
        }
        z.next_out = s->fill.data + s->fill.len;
        z.avail_out = (uInt)(BUFFER_SIZE - s->fill.len);
        uInt room = z.avail_out;
        inside = true;
        int r = inflate(&z, Z_NO_FLUSH);
        if (r == Z_MEM_ERROR)
            out = NO_MEMORY;
        else if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
            out = CORRUPT;
        else
            out = produced(s, room - z.avail_out);
        if (r == Z_STREAM_END && out == RUNNING) { /* members may follow one another (RFC 1952 2.2) */
            inside = false;
            if (inflateReset(&z) != Z_OK)
                out = CORRUPT;
        }
    }
    (void)inflateEnd(&z);
    return out;
}

static enum outcome run_zstd(struct mt_stream *s)
{
    if (!s->zstd && !(s->zstd = ZSTD_createDCtx()))
        return NO_MEMORY;
    (void)ZSTD_DCtx_reset(s->zstd, ZSTD_reset_session_only);
    size_t left = 0; /* 0: between frames */
    ZSTD_inBuffer in = {.src = s->in};
    for (;;) {
        if (in.pos == in.size) {
            ssize_t n = refill(s);
            if (n <= 0)
                return n < 0 ? READ_FAILED : left ? CORRUPT : AT_END;
            in = (ZSTD_inBuffer){.src = s->in, .size = (size_t)n};
        }
        do { /* once more with a full output buffer: the decoder may hold back bytes although its input is used up */
            size_t room = BUFFER_SIZE - s->fill.len;
            ZSTD_outBuffer into = {.dst = s->fill.data + s->fill.len, .size = room};
            left = ZSTD_decompressStream(s->zstd, &into, &in);
            if (ZSTD_isError(left))
                return ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation ? NO_MEMORY : CORRUPT;
            bool full = into.pos == room;
            enum outcome out = produced(s, into.pos);
            if (out != RUNNING)
                return out;
            if (!full)
                break;
        } while (left);
    }
}

static void *producer(void *arg)
{
    struct mt_stream *s = arg;
    (void)pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->working && !s->quit)
            (void)pthread_cond_wait(&s->changed, &s->lock);
        if (s->quit)
            break;
        (void)pthread_mutex_unlock(&s->lock);
        s->fill.len = 0;
        s->consumed = s->produced = 0;
        enum outcome out = s->compression == MT_OCI_GZIP   ? run_gzip(s)
                           : s->compression == MT_OCI_ZSTD ? run_zstd(s)
                                                           : run_plain(s);
        if (out == AT_END)
            (void)push(s);
        (void)pthread_mutex_lock(&s->lock);
        s->outcome = out;
        s->working = false;
        (void)pthread_cond_broadcast(&s->changed);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

struct mt_stream *mt_stream_new(void)
{
    struct mt_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->changed, NULL);
    s->in = malloc(BUFFER_SIZE);
    s->fill.data = malloc(BUFFER_SIZE);
    s->md = EVP_MD_CTX_new();
    bool ok = s->in && s->fill.data && s->md;
    for (size_t i = 0; i < BUFFERS; i++)
        ok = (s->ring[i].data = malloc(BUFFER_SIZE)) != NULL && ok;
    if (!ok || pthread_create(&s->thread, NULL, producer, s) != 0) {
        s->quit = true; /* tells free that there is no thread to join */
        mt_stream_free(s);
        return NULL;
    }
    return s;
}

void mt_stream_free(struct mt_stream *s)
{
    if (!s)
        return;
    if (!s->quit) {
        (void)pthread_mutex_lock(&s->lock);
        s->quit = s->stop = true;
        (void)pthread_cond_broadcast(&s->changed);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->thread, NULL);
    }
    for (size_t i = 0; i < BUFFERS; i++)
        free(s->ring[i].data);
    free(s->fill.data);
    free(s->in);
    (void)ZSTD_freeDCtx(s->zstd);
    EVP_MD_CTX_free(s->md);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

void mt_stream_begin(struct mt_stream *s, int fd, uint64_t size, enum mt_oci_compression compression)
{
    (void)EVP_DigestInit_ex(s->md, EVP_sha256(), NULL);
    (void)pthread_mutex_lock(&s->lock);
    MT_ASSERT(!s->working);
    s->fd = fd;
    s->size = size;
    s->compression = compression;
    s->head = s->count = 0;
    s->holding = false;
    s->stop = false;
    s->outcome = RUNNING;
    s->sys_errno = 0;
    s->working = true;
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}

int mt_stream_read(struct mt_stream *s, const uint8_t **ret_p, size_t *ret_n, struct mt_fault *f)
{
    (void)pthread_mutex_lock(&s->lock);
    if (s->holding) {
        s->head = (s->head + 1) % BUFFERS;
        s->count--;
        s->holding = false;
        (void)pthread_cond_broadcast(&s->changed);
    }
    while (s->count == 0 && s->working)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    const struct slot *slot = &s->ring[s->head];
    bool have = s->count > 0;
    enum outcome out = s->outcome;
    s->holding = have;
    (void)pthread_mutex_unlock(&s->lock);
    if (have) {
        (void)EVP_DigestUpdate(s->md, slot->data, slot->len);
        *ret_p = slot->data;
        *ret_n = slot->len;
        return 1;
    }
    switch (out) {
    case RUNNING:
    case AT_END:
        return 0;
    case CORRUPT:
        return mt_fault_rule(f, "U11", NULL, 0, "the compressed data is corrupt or cut off");
    case BOMB:
        return mt_fault_rule(f, "U12", NULL, 0, "the layer unpacks to more than 1000 times its size");
    case READ_FAILED:
        return mt_fault_sys(f, "read_blob", s->sys_errno, "reading a layer blob");
    case NO_MEMORY:
        break;
    }
    return mt_fault_sys(f, "memory", ENOMEM, "inflating a layer");
}

void mt_stream_end(struct mt_stream *s, char ret_hex[65])
{
    unsigned char sum[32];
    (void)pthread_mutex_lock(&s->lock);
    s->stop = true;
    (void)pthread_cond_broadcast(&s->changed);
    while (s->working)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    (void)pthread_mutex_unlock(&s->lock);
    (void)EVP_DigestFinal_ex(s->md, sum, NULL);
    mt_hex_encode(sum, sizeof sum, ret_hex);
}
