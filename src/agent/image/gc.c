/* SPDX-License-Identifier: Apache-2.0 */
/* Giving space back by runtime.md 16, the figures, and the hourly check of one disk's bytes. */
#include "agent/image/internal.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TMP_AGE_S 3600

/* A file or folder found in a scan. */
struct found {
    char *name;
    uint64_t bytes; /* allocated */
    int64_t mtime_s;
};

struct listing {
    struct found *v;
    size_t count, cap;
    uint64_t bytes;
};

static void listing_done(struct listing *l)
{
    for (size_t i = 0; i < l->count; i++)
        free(l->v[i].name);
    free(l->v);
}
#define auto_listing mt_cleanup(listing_done)

static uint64_t allocated(const struct stat *st)
{
    return (uint64_t)st->st_blocks * 512;
}

/* Bytes of the files directly in a work folder. */
static uint64_t folder_bytes(int dir, const char *name)
{
    uint64_t sum = 0;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        mt_closep(&fd);
        return 0;
    }
    for (const struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] != '.' && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            sum += allocated(&st);
    }
    (void)closedir(d);
    return sum;
}

static int list(const struct mt_image_store *s, const char *sub, struct listing *ret, struct mt_err *err)
{
    char path[PATH_MAX];
    if (image_path(s, path, sizeof path, err, "%s", sub) < 0)
        return -MT_E_INVALID;
    mt_auto_dir DIR *d = opendir(path);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", path);
    for (const struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (ret->count == ret->cap) {
            size_t cap = ret->cap ? ret->cap * 2 : 64;
            struct found *v = reallocarray(ret->v, cap, sizeof *v);
            if (!v)
                return MT_FAIL(err, MT_E_NOMEM, "no memory for a garbage collection");
            ret->v = v;
            ret->cap = cap;
        }
        struct found *f = &ret->v[ret->count];
        *f = (struct found){.name = mt_strndup(e->d_name, strlen(e->d_name)), .mtime_s = st.st_mtim.tv_sec};
        if (!f->name)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for a garbage collection");
        f->bytes = allocated(&st) + (S_ISDIR(st.st_mode) ? folder_bytes(dirfd(d), e->d_name) : 0);
        ret->bytes += f->bytes;
        ret->count++;
    }
    return 0;
}

static int fill_usage(struct mt_image_store *s, struct mt_image_usage *ret, struct mt_err *err)
{
    auto_listing struct listing disks = {0}, blobs = {0}, tmp = {0}, parts = {0};
    struct statvfs vfs;
    int r;
    if ((r = list(s, "rootdisks", &disks, err)) < 0 || (r = list(s, "blobs/sha256", &blobs, err)) < 0 ||
        (r = list(s, "tmp", &tmp, err)) < 0 || (r = list(s, "tmp/fetch", &parts, err)) < 0)
        return r;
    if (statvfs(s->conf.images_dir, &vfs) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "look at the file system of '%s'", s->conf.images_dir);
    struct mt_image_usage u = {.rootdisk_bytes = disks.bytes, .blob_bytes = blobs.bytes, .tmp_bytes = tmp.bytes + parts.bytes};
    u.fs_total_bytes = (uint64_t)vfs.f_blocks * vfs.f_frsize;
    u.fs_free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    u.budget_bytes = s->conf.cache_budget_bytes ? s->conf.cache_budget_bytes
                                                : mt_min_u64(u.fs_total_bytes / 5, (uint64_t)100 << 30);
    u.rootdisks = (uint32_t)s->disks.count;
    u.blobs = (uint32_t)blobs.count;
    size_t pos = 0;
    const char *digest;
    while (mt_map_next(&s->disks, &pos, &digest, NULL))
        u.pinned += image_pinned(s, digest);
    u.disk_pressure = s->pressure;
    u.disk_critical = s->critical;
    *ret = u;
    return 0;
}

int mt_image_usage(struct mt_image_store *s, struct mt_image_usage *ret, struct mt_err *err)
{
    (void)pthread_mutex_lock(&s->lock);
    int r = fill_usage(s, ret, err);
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}

static bool above(const struct mt_image_usage *u)
{
    uint64_t used = u->rootdisk_bytes + u->blob_bytes + u->tmp_bytes;
    return used > u->budget_bytes / 100 * 90 || u->fs_free_bytes < u->fs_total_bytes / 100 * 15;
}

static bool still_above(const struct mt_image_usage *u)
{
    uint64_t used = u->rootdisk_bytes + u->blob_bytes + u->tmp_bytes;
    return used > u->budget_bytes / 100 * 75 || u->fs_free_bytes < u->fs_total_bytes / 100 * 20;
}

static int by_age(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->mtime_s != y->mtime_s)
        return x->mtime_s < y->mtime_s ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void freed(struct mt_image_gc_report *r, uint64_t bytes)
{
    r->bytes_freed += bytes;
    r->after.fs_free_bytes += bytes; /* a close guess until the next look */
}

static int drop_old_tmp(struct mt_image_store *s, int64_t now_s, struct mt_image_gc_report *ret, struct mt_err *err)
{
    static const char *const dirs[] = {"tmp", "tmp/fetch"};
    for (size_t i = 0; i < MT_ARRAY_LEN(dirs); i++) {
        auto_listing struct listing l = {0};
        char path[PATH_MAX];
        int r = list(s, dirs[i], &l, err);
        if (r < 0 || (r = image_path(s, path, sizeof path, err, "%s", dirs[i])) < 0)
            return r;
        mt_auto_fd int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (size_t k = 0; dir >= 0 && k < l.count; k++) {
            if (strcmp(l.v[k].name, "fetch") == 0 || now_s - l.v[k].mtime_s < TMP_AGE_S)
                continue;
            if (mt_file_remove_tree(dir, l.v[k].name, NULL) == 0) {
                ret->tmp_removed++;
                ret->after.tmp_bytes -= mt_min_u64(l.v[k].bytes, ret->after.tmp_bytes);
                freed(ret, l.v[k].bytes);
            }
        }
    }
    return 0;
}

static int drop_blobs(struct mt_image_store *s, uint64_t keep, struct mt_image_gc_report *ret, struct mt_err *err)
{
    auto_listing struct listing l = {0};
    int r = list(s, "blobs/sha256", &l, err);
    if (r < 0)
        return r;
    qsort(l.v, l.count, sizeof *l.v, by_age);
    for (size_t i = 0; i < l.count && l.bytes > keep; i++) {
        char path[PATH_MAX];
        if (image_path(s, path, sizeof path, err, "blobs/sha256/%s", l.v[i].name) == 0 && unlink(path) == 0) {
            ret->blobs_removed++;
            l.bytes -= l.v[i].bytes;
            ret->after.blob_bytes -= mt_min_u64(l.v[i].bytes, ret->after.blob_bytes);
            freed(ret, l.v[i].bytes);
        }
    }
    return 0;
}

/* Unpinned, not in the plan, old enough: as an array in order of last use. */
static size_t victims(struct mt_image_store *s, int64_t now_s, struct found **ret)
{
    struct found *v = calloc(s->disks.count + 1, sizeof *v);
    size_t n = 0, pos = 0;
    const char *digest;
    void *value;
    while (v && mt_map_next(&s->disks, &pos, &digest, &value)) {
        const struct image_entry *e = value;
        char path[PATH_MAX];
        struct stat used, disk;
        if (image_pinned(s, digest) || image_path(s, path, sizeof path, NULL, "rootdisks/%s.used", e->disk.key) < 0)
            continue;
        int64_t last = lstat(path, &used) == 0 ? used.st_mtim.tv_sec : 0;
        if (!e->quarantined && (image_kept(s, digest) || now_s - last < (int64_t)s->conf.min_age_s))
            continue;
        v[n].name = mt_strndup(digest, strlen(digest));
        if (!v[n].name)
            break;
        v[n].mtime_s = e->quarantined ? INT64_MIN : last; /* a broken one goes first and always */
        v[n++].bytes = lstat(e->disk.path, &disk) == 0 ? allocated(&disk) : 0;
    }
    if (v)
        qsort(v, n, sizeof *v, by_age);
    *ret = v;
    return n;
}

static void drop_disks(struct mt_image_store *s, int64_t now_s, bool pressed, struct mt_image_gc_report *ret)
{
    struct found *v = NULL;
    size_t n = victims(s, now_s, &v);
    for (size_t i = 0; i < n; i++) {
        if (v[i].mtime_s != INT64_MIN && !(pressed && still_above(&ret->after)))
            break;
        struct image_entry *e = mt_map_remove(&s->disks, v[i].name);
        image_remove_files(s, e->disk.key);
        mt_log(MT_INFO, "image.evicted", KV("digest", v[i].name), KV("bytes", v[i].bytes));
        ret->rootdisks_removed++;
        ret->after.rootdisk_bytes -= mt_min_u64(v[i].bytes, ret->after.rootdisk_bytes);
        freed(ret, v[i].bytes);
        image_entry_free(e);
    }
    for (size_t i = 0; i < n; i++)
        free(v[i].name);
    free(v);
}

static int collect(struct mt_image_store *s, int64_t now_s, struct mt_image_gc_report *ret, struct mt_err *err)
{
    int r = fill_usage(s, &ret->after, err);
    if (r < 0 || (r = drop_old_tmp(s, now_s, ret, err)) < 0)
        return r;
    bool pressed = above(&ret->after);
    /* A running job may count on any blob; it ends within its deadline, and the next pass comes in a minute. */
    if (s->jobs_alive == 0 && (r = drop_blobs(s, pressed ? 0 : s->conf.blob_keep_bytes, ret, err)) < 0)
        return r;
    drop_disks(s, now_s, pressed, ret);
    r = fill_usage(s, &ret->after, err);
    if (r < 0)
        return r;
    s->pressure = ret->after.fs_free_bytes < ret->after.fs_total_bytes / 100 * 10;
    s->critical = ret->after.fs_free_bytes < ret->after.fs_total_bytes / 100 * 3;
    ret->after.disk_pressure = s->pressure;
    ret->after.disk_critical = s->critical;
    return 0;
}

int mt_image_gc(struct mt_image_store *s, int64_t now_s, struct mt_image_gc_report *ret, struct mt_err *err)
{
    struct mt_image_gc_report report = {0};
    (void)pthread_mutex_lock(&s->lock);
    int r = collect(s, now_s, &report, err);
    (void)pthread_mutex_unlock(&s->lock);
    if (ret)
        *ret = report;
    return r;
}

int mt_image_verify_next(struct mt_image_store *s, char ret_key[MT_IMAGE_KEY_HEX + 1], struct mt_err *err)
{
    char path[PATH_MAX] = "", want[65] = "", got[MT_SHA256_HEX], digest[72] = "";
    int64_t oldest = INT64_MAX;
    size_t pos = 0;
    void *value;
    ret_key[0] = 0;
    (void)pthread_mutex_lock(&s->lock);
    while (mt_map_next(&s->disks, &pos, NULL, &value)) {
        const struct image_entry *e = value;
        if (e->quarantined || e->verified_ns >= oldest || strlen(e->disk.path) >= sizeof path)
            continue;
        oldest = e->verified_ns;
        memcpy(ret_key, e->disk.key, sizeof e->disk.key);
        memcpy(want, e->sha256, sizeof want);
        memcpy(digest, e->disk.digest, sizeof digest);
        memcpy(path, e->disk.path, strlen(e->disk.path) + 1);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!ret_key[0])
        return 0;
    int r = mt_sha256_file(path, got, err); /* long: without the lock */
    (void)pthread_mutex_lock(&s->lock);
    struct image_entry *e = mt_map_get(&s->disks, digest);
    if (e && r == 0 && strcmp(got, want) == 0 && strcmp(e->sha256, want) == 0)
        e->verified_ns = mt_clock_mono();
    if (e && r == 0 && strcmp(got, want) != 0 && strcmp(e->sha256, want) == 0) {
        e->quarantined = true;
        mt_log(MT_ERROR, "image.corrupt", KV("digest", digest), KV("key", ret_key));
        r = MT_FAIL(err, MT_E_CORRUPT, "the root disk '%s' does not have its sha256 any more", ret_key);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}
