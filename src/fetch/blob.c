/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/blob.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int sys_fail(struct mt_fetch_fault *f, const char *what)
{
    int e = errno;
    if (e == ENOSPC || e == EDQUOT)
        return mt_fetch_fail(f, MT_FETCH_DISK_FULL, "images", "%s: no space left on the device of the image store", what);
    return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "%s: %s", what, strerrordesc_np(e));
}

static void blob_path(const char *digest, char ret[128])
{
    (void)snprintf(ret, 128, MT_BLOB_DIR "/%s", digest + strlen("sha256:"));
}

static void part_path(const char *digest, char ret[128])
{
    (void)snprintf(ret, 128, MT_BLOB_PART_DIR "/%s.part", digest + strlen("sha256:"));
}

bool mt_blob_present(const char *digest, uint64_t size)
{
    char path[128];
    struct stat st;
    blob_path(digest, path);
    if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || (size && (uint64_t)st.st_size != size))
        return false;
    (void)utimensat(AT_FDCWD, path, NULL, AT_SYMLINK_NOFOLLOW);
    return true;
}

struct download {
    int fd;
    uint64_t at, size;
    struct mt_sha256 *sha;
    atomic_uint_fast64_t *downloaded;
};

static int restart(void *arg, struct mt_fetch_fault *f)
{
    struct download *d = arg;
    mt_sha256_free(d->sha);
    d->sha = mt_sha256_new();
    d->at = 0;
    if (!d->sha)
        return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for a hash");
    return ftruncate(d->fd, 0) < 0 ? sys_fail(f, "starting a blob anew") : 0;
}

static int body(void *arg, const void *p, size_t n, struct mt_fetch_fault *f)
{
    struct download *d = arg;
    const uint8_t *b = p;
    if (n > d->size - d->at)
        return mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "digest_mismatch", "the registry sends more than the %ju bytes the manifest declares",
                             (uintmax_t)d->size);
    mt_sha256_update(d->sha, p, n);
    for (size_t left = n; left;) {
        ssize_t w = pwrite(d->fd, b, left, (off_t)d->at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return sys_fail(f, "writing a blob");
        b += w;
        left -= (size_t)w;
        d->at += (uint64_t)w;
    }
    (void)atomic_fetch_add(d->downloaded, n);
    return 0;
}

/* Hash what a predecessor left. */
static int rehash(struct download *d, struct mt_fetch_fault *f)
{
    struct stat st;
    if (fstat(d->fd, &st) < 0)
        return sys_fail(f, "reading a partial blob");
    if ((uint64_t)st.st_size > d->size)
        return restart(d, f);
    d->sha = mt_sha256_new();
    mt_auto_free uint8_t *buf = malloc((size_t)1 << 20);
    if (!d->sha || !buf)
        return mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "no memory for a hash");
    while (d->at < (uint64_t)st.st_size) {
        ssize_t n = pread(d->fd, buf, (size_t)1 << 20, (off_t)d->at);
        if (n <= 0)
            return sys_fail(f, "reading a partial blob");
        mt_sha256_update(d->sha, buf, (size_t)n);
        d->at += (uint64_t)n;
    }
    return 0;
}

/* Open and lock the partial file; 1 when the blob has appeared meanwhile. */
static int open_part(const char *digest, uint64_t size, int64_t deadline_ns, const atomic_bool *stop, int *ret_fd,
                     struct mt_fetch_fault *f)
{
    char path[128];
    part_path(digest, path);
    for (;;) {
        struct stat mine, there;
        if (mt_blob_present(digest, size))
            return 1;
        mt_auto_fd int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return sys_fail(f, "making a partial blob");
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            if (errno != EWOULDBLOCK && errno != EINTR)
                return sys_fail(f, "locking a partial blob");
            if (atomic_load(stop))
                return mt_fetch_fail(f, MT_FETCH_STOPPED, "stopped", "stopped");
            if (mt_clock_mono() >= deadline_ns)
                return mt_fetch_fail(f, MT_FETCH_TIMEOUT, "layer_deadline", "another pull of the same blob took too long");
            (void)poll(NULL, 0, 20);
        }
        /* The one who held the lock may have renamed or removed the file: then ours has no name any more. */
        if (fstat(fd, &mine) == 0 && lstat(path, &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
            *ret_fd = MT_TAKE_FD(fd);
            return 0;
        }
    }
}

static int finish(struct download *d, const char *digest, struct mt_fetch_fault *f)
{
    uint8_t sum[MT_SHA256_LEN];
    char hex[MT_SHA256_HEX], part[128], path[128];
    struct mt_err err;
    part_path(digest, part);
    blob_path(digest, path);
    mt_sha256_final(MT_TAKE(d->sha), sum);
    mt_hex_encode(sum, sizeof sum, hex);
    if (strcmp(hex, digest + strlen("sha256:")) != 0) {
        (void)unlink(part);
        return mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "digest_mismatch", "the blob '%s' arrived as sha256:%s", digest, hex);
    }
    /* read-only after the rename, not before: a partial blob that a kill leaves behind must open for writing again */
    if (fsync(d->fd) < 0 || rename(part, path) < 0 || fchmod(d->fd, 0444) < 0)
        return sys_fail(f, "storing a blob");
    return mt_file_sync_dir(MT_BLOB_DIR, &err) < 0 ? mt_fetch_fail(f, MT_FETCH_INTERNAL, "internal", "%s", err.msg) : 0;
}

int mt_blob_download(struct mt_fetch_session *s, const char *digest, uint64_t size, int64_t deadline_ns, atomic_bool *stop,
                     atomic_uint_fast64_t *ret_downloaded, struct mt_fetch_fault *f)
{
    mt_auto_fd int fd = -1;
    int r = open_part(digest, size, deadline_ns, stop, &fd, f);
    if (r != 0)
        return r < 0 ? -1 : 0;
    struct download d = {.fd = fd, .size = size, .downloaded = ret_downloaded};
    r = rehash(&d, f);
    for (int gap = 0; r == 0 && d.at < size; gap++) {
        struct mt_fetch_get g = {.kind = "blobs", .name = digest, .deadline_ns = deadline_ns, .deadline_name = "layer_deadline",
                                 .offset = &d.at, .stop = stop, .arg = &d, .body = body, .restart = restart};
        r = mt_fetch_get(s, &g, f);
        if (r == 0 && d.at < size && gap == 2) /* a clean end, yet too early, again and again */
            r = mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "digest_mismatch", "the registry sends %ju of the %ju bytes of blob '%s'",
                              (uintmax_t)d.at, (uintmax_t)size, digest);
    }
    if (r == 0)
        r = finish(&d, digest, f);
    else if (f->kind == MT_FETCH_BAD_IMAGE) { /* never build upon wrong bytes */
        char part[128];
        part_path(digest, part);
        (void)unlink(part);
    }
    mt_sha256_free(d.sha);
    return r;
}

int mt_blob_put(const char *digest, const void *data, size_t len, struct mt_fetch_fault *f)
{
    char path[128];
    struct mt_err err;
    blob_path(digest, path);
    if (mt_blob_present(digest, len))
        return 0;
    if (mt_file_write(path, data, len, 0444, &err) < 0) {
        errno = err.sys_errno;
        return sys_fail(f, "storing a document");
    }
    return 0;
}

struct document {
    struct mt_buf *out;
    const char *what;
};

static int document_restart(void *arg, struct mt_fetch_fault *f)
{
    const struct document *d = arg;
    (void)f;
    mt_buf_reset(d->out);
    return 0;
}

static int document_body(void *arg, const void *p, size_t n, struct mt_fetch_fault *f)
{
    const struct document *d = arg;
    mt_buf_put(d->out, p, n);
    return d->out->failed ? mt_fetch_fail(f, MT_FETCH_TOO_LARGE, "manifest", "a %s document is above its limit of %zu bytes", d->what,
                                          d->out->max)
                          : 0;
}

int mt_blob_document(struct mt_fetch_session *s, const char *kind, const char *name, const char *accept, size_t max, int tries,
                     struct mt_buf *ret, char ret_digest[MT_DIGEST_LEN + 1], char *ret_type, struct mt_fetch_fault *f)
{
    char hex[MT_SHA256_HEX];
    struct document d = {.out = ret, .what = kind};
    struct mt_fetch_get g = {.kind = kind, .name = name, .accept = accept, .tries = tries, .deadline_name = "total_deadline",
                             .arg = &d, .body = document_body, .restart = document_restart};
    mt_buf_init(ret, max);
    if (mt_fetch_get(s, &g, f) < 0)
        return -1;
    mt_sha256_hex(ret->len ? (const void *)ret->p : "", ret->len, hex);
    (void)snprintf(ret_digest, MT_DIGEST_LEN + 1, "sha256:%s", hex);
    const char *want = mt_digest_valid(name) ? name : g.content_digest;
    if (want[0] && strcmp(want, ret_digest) != 0)
        return mt_fetch_fail(f, MT_FETCH_BAD_IMAGE, "digest_mismatch", "the registry sent %s instead of %s", ret_digest, want);
    if (ret_type)
        memcpy(ret_type, g.content_type, sizeof g.content_type);
    return 0;
}
