/* SPDX-License-Identifier: Apache-2.0 */
/* The index: opened by scanning, changed under one lock. Pins live in memory; the agent restores them from its state files. */
#include "agent/image/internal.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/digest.h"
#include "os/file.h"
#include "wire/imageref.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#define PART_MAX_AGE_S 3600

int image_path(const struct mt_image_store *s, char *ret, size_t size, struct mt_err *err, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(ret, size, "%s/", s->conf.images_dir);
    va_start(ap, fmt);
    int m = n > 0 && (size_t)n < size ? vsnprintf(ret + n, size - (size_t)n, fmt, ap) : -1;
    va_end(ap);
    if (m < 0 || (size_t)n + (size_t)m >= size)
        return MT_FAIL(err, MT_E_INVALID, "a path below '%s' is too long", s->conf.images_dir);
    return 0;
}

const char *mt_image_phase_name(enum mt_image_phase phase)
{
    return phase == MT_IMAGE_PULLING ? "pulling_image" : "building_rootfs";
}

int mt_image_key(const char *digest, const char *format_version, char ret_key[MT_IMAGE_KEY_HEX + 1], struct mt_err *err)
{
    char text[160];
    if (!digest || !mt_digest_valid(digest))
        return MT_FAIL(err, MT_E_INVALID, "an image digest must be 'sha256:' and 64 lower-case hex digits");
    int n = snprintf(text, sizeof text, "%s:%s", digest, format_version ? format_version : "r1");
    if (n < 0 || (size_t)n >= sizeof text)
        return MT_FAIL(err, MT_E_INVALID, "the root disk format version is too long");
    mt_sha256_hex(text, (size_t)n, ret_key);
    return 0;
}

/* --- pins -------------------------------------------------------------------------------------------------------- */

bool image_pinned(const struct mt_image_store *s, const char *digest)
{
    for (const struct mt_list *l = s->pins.next; l != &s->pins; l = l->next)
        if (strcmp(((const struct image_pin *)(const void *)l)->digest, digest) == 0)
            return true;
    return false;
}

bool image_kept(const struct mt_image_store *s, const char *digest)
{
    for (size_t i = 0; s->keep && s->keep[i]; i++)
        if (strcmp(s->keep[i], digest) == 0)
            return true;
    return false;
}

int image_pin_locked(struct mt_image_store *s, const char *digest, const char *owner, struct mt_err *err)
{
    MT_LIST_EACH (l, &s->pins) {
        const struct image_pin *p = (const struct image_pin *)(void *)l;
        if (strcmp(p->digest, digest) == 0 && strcmp(p->owner, owner) == 0)
            return 0;
    }
    size_t n = strlen(owner);
    struct image_pin *p = malloc(sizeof *p + n + 1);
    if (!p)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for a pin");
    (void)snprintf(p->digest, sizeof p->digest, "%s", digest);
    memcpy(p->owner, owner, n + 1);
    mt_list_push_back(&s->pins, &p->link);
    return 0;
}

void image_touch_used(const struct mt_image_store *s, const char *key)
{
    char path[PATH_MAX];
    if (image_path(s, path, sizeof path, NULL, "rootdisks/%s.used", key) < 0)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0) {
        (void)futimens(fd, NULL);
        (void)close(fd);
    }
}

int mt_image_pin(struct mt_image_store *s, const char *digest, const char *owner, struct mt_err *err)
{
    if (!digest || !mt_digest_valid(digest))
        return MT_FAIL(err, MT_E_INVALID, "an image digest must be 'sha256:' and 64 lower-case hex digits");
    (void)pthread_mutex_lock(&s->lock);
    const struct image_entry *e = mt_map_get(&s->disks, digest);
    int r = image_pin_locked(s, digest, owner, err);
    if (r == 0 && e)
        image_touch_used(s, e->disk.key);
    if (r == 0 && !e)
        r = MT_FAIL(err, MT_E_NOT_FOUND, "image '%s' has no root disk here", digest);
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}

void mt_image_release(struct mt_image_store *s, const char *owner)
{
    (void)pthread_mutex_lock(&s->lock);
    MT_LIST_EACH (l, &s->pins) {
        struct image_pin *p = (struct image_pin *)(void *)l;
        if (strcmp(p->owner, owner) != 0)
            continue;
        mt_list_remove(l);
        const struct image_entry *e = mt_map_get(&s->disks, p->digest);
        if (e)
            image_touch_used(s, e->disk.key);
        free(p);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

static void free_texts(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

static char **copy_texts(const char *const *list, size_t n)
{
    char **out = calloc(n + 1, sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        if (!(out[i] = mt_strndup(list[i], strlen(list[i])))) {
            free_texts(out);
            return NULL;
        }
    return out;
}

int mt_image_keep(struct mt_image_store *s, const char *const *digests, size_t n, struct mt_err *err)
{
    char **copy = copy_texts(digests, n);
    if (!copy)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the plan's digests");
    (void)pthread_mutex_lock(&s->lock);
    char **old = s->keep;
    s->keep = copy;
    (void)pthread_mutex_unlock(&s->lock);
    free_texts(old);
    return 0;
}

/* --- index ------------------------------------------------------------------------------------------------------- */

int image_index_put(struct mt_image_store *s, struct image_entry *e, struct mt_err *err)
{
    struct image_entry *old = mt_map_get(&s->disks, e->disk.digest);
    if (mt_map_put(&s->disks, e->disk.digest, e) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the image index");
    image_entry_free(old);
    return 0;
}

void image_remove_files(const struct mt_image_store *s, const char *key)
{
    static const char *const ends[] = {"json", "ext4", "used"}; /* the description first: without it the rest counts for nothing */
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (image_path(s, path, sizeof path, NULL, "rootdisks/%s.%s", key, ends[i]) == 0)
            (void)unlink(path);
}

int mt_image_lookup(struct mt_image_store *s, const char *digest, struct mt_rootdisk *ret, struct mt_err *err)
{
    (void)pthread_mutex_lock(&s->lock);
    const struct image_entry *e = digest ? mt_map_get(&s->disks, digest) : NULL;
    int r = e && !e->quarantined ? image_disk_copy(&e->disk, ret, err)
                                 : MT_FAIL(err, MT_E_NOT_FOUND, "image '%s' has no root disk here", digest ? digest : "");
    if (r == 0)
        ret->cached = true;
    (void)pthread_mutex_unlock(&s->lock);
    return r;
}

void mt_image_forget_failure(struct mt_image_store *s, const char *digest)
{
    if (!digest)
        return;
    (void)pthread_mutex_lock(&s->lock);
    free(mt_map_remove(&s->failures, digest));
    (void)pthread_mutex_unlock(&s->lock);
}

/* --- open and close ---------------------------------------------------------------------------------------------- */

static bool has_end(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* Every description that holds joins the index; every file without a description that holds goes. */
static int scan_disks(struct mt_image_store *s, struct mt_err *err)
{
    char dir[PATH_MAX], path[PATH_MAX + 256], key[MT_IMAGE_KEY_HEX + 1];
    if (image_path(s, dir, sizeof dir, err, "rootdisks") < 0)
        return -MT_E_INVALID;
    mt_auto_dir DIR *d = opendir(dir);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    for (const struct dirent *de; (de = readdir(d));) {
        struct mt_err why = {0};
        if (!has_end(de->d_name, ".json"))
            continue;
        (void)snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
        struct image_entry *e = calloc(1, sizeof *e);
        if (!e)
            return MT_FAIL(err, MT_E_NOMEM, "no memory for the image index");
        int r = image_disk_load(path, dir, e, &why);
        if (r == 0 && (mt_image_key(e->disk.digest, s->conf.format_version, key, &why) < 0 || strcmp(key, e->disk.key) != 0 ||
                       strncmp(de->d_name, key, MT_IMAGE_KEY_HEX) != 0))
            r = MT_FAIL(&why, MT_E_CORRUPT, "its key does not belong to its digest and this format");
        if (r < 0) {
            mt_log(MT_WARN, "image.index_dropped", KV("file", de->d_name), KV_ERR(&why));
            (void)unlink(path);
            image_entry_free(e);
        } else if (image_index_put(s, e, err) < 0) {
            image_entry_free(e);
            return -MT_E_NOMEM;
        }
    }
    rewinddir(d);
    for (const struct dirent *de; (de = readdir(d));) {
        struct stat st;
        if (de->d_name[0] == '.' || has_end(de->d_name, ".json"))
            continue;
        (void)snprintf(path, sizeof path, "%s/%.64s.json", dir, de->d_name);
        if (strlen(de->d_name) < MT_IMAGE_KEY_HEX || lstat(path, &st) < 0)
            (void)mt_file_remove_tree(dirfd(d), de->d_name, NULL);
    }
    return 0;
}

/* Builds of a dead agent go at once; partial downloads may be resumed within the hour. */
static int clean_tmp(const struct mt_image_store *s, struct mt_err *err)
{
    char dir[PATH_MAX];
    if (image_path(s, dir, sizeof dir, err, "tmp") < 0)
        return -MT_E_INVALID;
    mt_auto_dir DIR *d = opendir(dir);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open '%s'", dir);
    for (const struct dirent *de; (de = readdir(d));)
        if (de->d_name[0] != '.' && strcmp(de->d_name, "fetch") != 0)
            (void)mt_file_remove_tree(dirfd(d), de->d_name, NULL);
    return 0;
}

static int make_dir(const struct mt_image_store *s, const char *name, mode_t mode, bool worker, struct mt_err *err)
{
    char path[PATH_MAX];
    if (image_path(s, path, sizeof path, err, "%s", name) < 0)
        return -MT_E_INVALID;
    int r = mt_file_mkdirs(path, mode, err);
    if (r < 0)
        return r;
    if (chmod(path, mode) < 0 || (worker && geteuid() == 0 && chown(path, s->conf.worker_uid, s->conf.worker_gid) < 0))
        return MT_FAIL_ERRNO(err, MT_E_IO, "set owner and mode of '%s'", path);
    return 0;
}

static int make_dirs(struct mt_image_store *s, struct mt_err *err)
{
    int r;
    if ((r = make_dir(s, ".", 0711, false, err)) < 0 || (r = make_dir(s, "blobs", 0711, false, err)) < 0 ||
        (r = make_dir(s, "blobs/sha256", 0700, true, err)) < 0 || (r = make_dir(s, "rootdisks", 0711, false, err)) < 0 ||
        (r = make_dir(s, "tmp", 0711, false, err)) < 0 || (r = make_dir(s, "tmp/fetch", 0700, true, err)) < 0)
        return r;
    return 0;
}

static char *dup_or_null(const char *s, bool *ok)
{
    char *copy = s ? mt_strndup(s, strlen(s)) : NULL;
    *ok = *ok && (!s || copy);
    return copy;
}

static size_t count(const char *const *list)
{
    size_t n = 0;
    while (list && list[n])
        n++;
    return n;
}

static void set_defaults(struct mt_image_conf *c)
{
    if (c->worker_uid == 0) {
        c->worker_uid = 65534;
        c->worker_gid = 65534;
    }
    c->layer_timeout_s = c->layer_timeout_s ? c->layer_timeout_s : 300;
    c->total_timeout_s = c->total_timeout_s ? c->total_timeout_s : 1800;
    c->max_compressed_bytes = c->max_compressed_bytes ? c->max_compressed_bytes : (uint64_t)10 << 30;
    c->max_unpacked_bytes = c->max_unpacked_bytes ? c->max_unpacked_bytes : (uint64_t)50 << 30;
    c->parallel_pulls = c->parallel_pulls ? c->parallel_pulls : 4;
    c->parallel_builds = c->parallel_builds ? c->parallel_builds : 2;
    c->blob_keep_bytes = c->blob_keep_bytes ? c->blob_keep_bytes : (uint64_t)10 << 30;
    c->min_age_s = c->min_age_s == 0 ? 600 : c->min_age_s == UINT32_MAX ? 0 : c->min_age_s;
    c->failure_memory_s = c->failure_memory_s ? c->failure_memory_s : 600;
}

int mt_image_store_open(const struct mt_image_conf *conf, struct mt_image_store **ret, struct mt_err *err)
{
    char path[PATH_MAX];
    uint64_t seed;
    if (!conf->images_dir || conf->images_dir[0] != '/' || !conf->fetch_path || !conf->unpack_path)
        return MT_FAIL(err, MT_E_INVALID, "the image store needs absolute paths of its folder and programs");
    struct mt_image_store *s = calloc(1, sizeof *s);
    if (!s)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for the image store");
    bool ok = true;
    s->lock_fd = -1;
    s->conf = *conf;
    s->conf.images_dir = dup_or_null(conf->images_dir, &ok);
    s->conf.fetch_path = dup_or_null(conf->fetch_path, &ok);
    s->conf.unpack_path = dup_or_null(conf->unpack_path, &ok);
    s->conf.e2fsck_path = dup_or_null(conf->e2fsck_path ? conf->e2fsck_path : "/sbin/e2fsck", &ok);
    s->conf.ca_file = dup_or_null(conf->ca_file, &ok);
    s->conf.cgroup_parent = dup_or_null(conf->cgroup_parent, &ok);
    s->conf.format_version = dup_or_null(conf->format_version ? conf->format_version : "r1", &ok);
    s->local = copy_texts(conf->local_registries, count(conf->local_registries));
    s->insecure = copy_texts(conf->insecure_registries, count(conf->insecure_registries));
    s->conf.local_registries = (const char *const *)s->local;
    s->conf.insecure_registries = (const char *const *)s->insecure;
    set_defaults(&s->conf);
    mt_random(&seed, sizeof seed);
    mt_map_init(&s->disks, seed);
    mt_map_init(&s->failures, seed + 1);
    mt_map_init(&s->jobs, seed + 2);
    mt_list_init(&s->pins);
    (void)pthread_mutex_init(&s->lock, NULL);
    image_group_open(s);
    (void)pthread_cond_init(&s->changed, NULL);
    int r = ok && s->local && s->insecure ? 0 : MT_FAIL(err, MT_E_NOMEM, "no memory for the image store");
    if (r == 0)
        r = make_dirs(s, err);
    if (r == 0)
        r = image_path(s, path, sizeof path, err, "lock");
    if (r == 0)
        r = mt_file_lock(path, &s->lock_fd, err);
    if (r == 0)
        r = clean_tmp(s, err);
    if (r == 0)
        r = scan_disks(s, err);
    if (r < 0) {
        mt_image_store_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

void mt_image_store_close(struct mt_image_store *s)
{
    size_t pos = 0;
    void *value;
    if (!s)
        return;
    (void)pthread_mutex_lock(&s->lock);
    s->closing = true;
    image_jobs_cancel_all(s);
    (void)pthread_cond_broadcast(&s->changed);
    while (s->jobs_alive)
        (void)pthread_cond_wait(&s->changed, &s->lock);
    (void)pthread_mutex_unlock(&s->lock);
    while (mt_map_next(&s->disks, &pos, NULL, &value))
        image_entry_free(value);
    for (pos = 0; mt_map_next(&s->failures, &pos, NULL, &value);)
        free(value);
    MT_LIST_EACH (l, &s->pins)
        free(l); /* the link is its first member */
    mt_map_done(&s->disks);
    mt_map_done(&s->failures);
    mt_map_done(&s->jobs);
    free_texts(s->keep);
    free_texts(s->local);
    free_texts(s->insecure);
    const char *const texts[] = {s->conf.images_dir, s->conf.fetch_path, s->conf.unpack_path, s->conf.e2fsck_path, s->conf.ca_file, s->conf.cgroup_parent,
                                 s->conf.format_version};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        free((void *)(uintptr_t)texts[i]);
    mt_closep(&s->lock_fd);
    (void)pthread_cond_destroy(&s->changed);
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_mutex_destroy(&s->group_lock);
    free(s);
}
