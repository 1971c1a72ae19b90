/* SPDX-License-Identifier: Apache-2.0 */
/* The ring of flow records. See flowring.h. */
#include "agent/net/flowring.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>

#define SUFFIX ".flows"
#define SEGMENTS 64
#define MIN_BYTES (1U << 20)
#define PRUNE_NS (3600 * MT_NS_PER_S)
#define WAITING 512
#define FILES_MAX 4096 /* in the folder; more are not ours */

struct mt_flowring {
    pthread_mutex_t lock;
    char *dir;
    uint64_t max, segment, written; /* bytes; written: into the open file */
    int64_t keep_us, pruned_ns;
    int fd; /* -1: the next flush makes a file */
    size_t n;
    struct mt_flow_rec waiting[WAITING];
};

struct mt_flowring *mt_flowring_open(const char *dir, uint64_t max_bytes, unsigned days, struct mt_err *err)
{
    struct mt_flowring *r = calloc(1, sizeof *r);
    if (!r || !(r->dir = mt_strndup(dir, strlen(dir)))) {
        free(r);
        (void)MT_FAIL(err, MT_E_NOMEM, "flow log: out of memory");
        return NULL;
    }
    (void)pthread_mutex_init(&r->lock, NULL);
    r->fd = -1;
    r->max = max_bytes < MIN_BYTES ? MIN_BYTES : max_bytes;
    r->segment = r->max / SEGMENTS;
    r->pruned_ns = mt_clock_mono() - PRUNE_NS; /* soon, also when nothing is written */
    r->keep_us = (int64_t)days * 86400 * 1000000;
    if (mt_file_mkdirs(dir, 0700, err) < 0) {
        (void)mt_err_wrap(err, "flow log");
        mt_flowring_close(r);
        return NULL;
    }
    return r;
}

/* When its first record was written, -1 when it is no file of the ring. */
static int64_t begins(const char *name)
{
    char digits[24];
    uint64_t v;
    size_t n = strspn(name, "0123456789");
    if (n == 0 || n >= sizeof digits || strcmp(name + n, SUFFIX) != 0)
        return -1;
    memcpy(digits, name, n);
    digits[n] = '\0';
    return mt_parse_u64(digits, 0, INT64_MAX, &v, NULL) < 0 ? -1 : (int64_t)v;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The files' times, oldest first, malloc'ed. */
static int list(const char *dir, int64_t **ret, size_t *ret_n, struct mt_err *err)
{
    mt_auto_dir DIR *d = opendir(dir);
    *ret_n = 0;
    if (!d && errno != ENOENT)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    *ret = calloc(FILES_MAX, sizeof **ret);
    if (!*ret)
        return MT_FAIL(err, MT_E_NOMEM, "flow log: out of memory");
    for (struct dirent *e; d && *ret_n < FILES_MAX && (e = readdir(d));) {
        int64_t at = begins(e->d_name);
        if (at >= 0)
            (*ret)[(*ret_n)++] = at;
    }
    qsort(*ret, *ret_n, sizeof **ret, by_time);
    return 0;
}

static int path_of(const char *dir, int64_t at, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/%lld" SUFFIX, dir, (long long)at);
}

/* The oldest go until there is room for one more and none is too old; a file is as old as the last record in it. */
static void prune(struct mt_flowring *r)
{
    mt_auto_free int64_t *at = NULL;
    size_t n;
    uint64_t bytes = 0;
    char path[PATH_MAX];
    struct stat st;
    if (list(r->dir, &at, &n, NULL) < 0)
        return;
    for (size_t i = n; i-- > 0;) { /* newest first */
        if (path_of(r->dir, at[i], path, NULL) < 0 || stat(path, &st) < 0)
            continue;
        bytes += (uint64_t)st.st_size;
        bool old = (int64_t)st.st_mtime * 1000000 < mt_clock_wall_us() - r->keep_us;
        bool open = i + 1 == n && r->fd >= 0;
        if (!open && (old || bytes + r->segment > r->max))
            (void)unlink(path);
    }
    r->pruned_ns = mt_clock_mono();
}

static int write_out(struct mt_flowring *r, struct mt_err *err)
{
    const char *p = (const char *)r->waiting;
    size_t left = r->n * sizeof r->waiting[0];
    char path[PATH_MAX];
    if (r->fd < 0) {
        prune(r);
        for (int64_t at = r->waiting[0].ts_us;; at++) {
            if (path_of(r->dir, at, path, err) < 0)
                return -MT_E_INVALID;
            r->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
            if (r->fd >= 0 || errno != EEXIST)
                break;
        }
        if (r->fd < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "make '%s'", path);
        r->written = 0;
    }
    while (left > 0) {
        ssize_t n = write(r->fd, p, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write flow records below '%s'", r->dir);
        p += n;
        left -= (size_t)n;
        r->written += (size_t)n;
    }
    return 0;
}

static int flush_locked(struct mt_flowring *r, struct mt_err *err)
{
    if (r->pruned_ns && mt_clock_mono() - r->pruned_ns > PRUNE_NS)
        prune(r); /* where little happens, days pass without another file */
    if (r->n == 0)
        return 0;
    int rc = write_out(r, err);
    r->n = 0;
    if (rc < 0 || r->written >= r->segment)
        mt_closep(&r->fd); /* a cut record may be at its end: what follows goes into another file */
    return rc;
}

void mt_flowring_add(struct mt_flowring *r, const struct mt_flow_rec *rec)
{
    (void)pthread_mutex_lock(&r->lock);
    r->waiting[r->n++] = *rec;
    if (r->n == WAITING)
        (void)flush_locked(r, NULL);
    (void)pthread_mutex_unlock(&r->lock);
}

int mt_flowring_flush(struct mt_flowring *r, struct mt_err *err)
{
    (void)pthread_mutex_lock(&r->lock);
    int rc = flush_locked(r, err);
    (void)pthread_mutex_unlock(&r->lock);
    return rc;
}

void mt_flowring_close(struct mt_flowring *r)
{
    if (!r)
        return;
    (void)mt_flowring_flush(r, NULL);
    mt_closep(&r->fd);
    (void)pthread_mutex_destroy(&r->lock);
    free(r->dir);
    free(r);
}

/* ---- reading ----------------------------------------------------------------------------- */

static bool wanted(const struct mt_flow_filter *f, const struct mt_flow_rec *rec)
{
    bool flow = rec->kind == MT_FLOW_NEW || rec->kind == MT_FLOW_END;
    if (rec->kind < MT_FLOW_NEW || rec->kind >= MT_FLOW_KIND_MAX || rec->ts_us < f->since_us || (f->until_us && rec->ts_us > f->until_us))
        return false;
    if (f->port && (!flow || (rec->sport != f->port && rec->dport != f->port && rec->nat_port != f->port)))
        return false;
    return !f->has_address || memcmp(&rec->src, &f->address, 16) == 0 || (flow && (memcmp(&rec->dst, &f->address, 16) == 0 || memcmp(&rec->nat, &f->address, 16) == 0));
}

int mt_flowring_read(const char *dir, const struct mt_flow_filter *filter, mt_flow_fn *fn, void *arg, struct mt_err *err)
{
    mt_auto_free int64_t *at = NULL;
    mt_auto_free struct mt_flow_rec *recs = calloc(WAITING, sizeof *recs);
    size_t n;
    int rc = recs ? list(dir, &at, &n, err) : MT_FAIL(err, MT_E_NOMEM, "flow log: out of memory");
    for (size_t i = 0; rc == 0 && i < n; i++) {
        char path[PATH_MAX];
        if ((filter->until_us && at[i] > filter->until_us) || (i + 1 < n && at[i + 1] < filter->since_us) || path_of(dir, at[i], path, NULL) < 0)
            continue;
        mt_auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT)
            continue; /* it was the oldest */
        if (fd < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", path);
        for (off_t pos = 0;;) {
            ssize_t got = pread(fd, recs, WAITING * sizeof *recs, pos);
            if (got < 0)
                return MT_FAIL_ERRNO(err, MT_E_IO, "read '%s'", path);
            size_t whole = (size_t)got / sizeof *recs;
            if (whole == 0)
                break;
            for (size_t k = 0; k < whole; k++)
                if (wanted(filter, &recs[k]) && !fn(arg, &recs[k]))
                    return 0;
            pos += (off_t)(whole * sizeof *recs);
        }
    }
    return rc;
}
