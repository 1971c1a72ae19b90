/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ensure: one thread per wanted digest runs moat-fetch, then moat-unpack; any number of callers wait for it. A caller that is
 * cancelled leaves at once; when none is left the children are killed. What a crash leaves is only in tmp/.
 */
#include "agent/image/internal.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/json.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MAX ((size_t)4 << 20)
#define BUILD_TIMEOUT_MS ((int64_t)60 * 60 * 1000)

struct image_job {
    struct mt_image_store *store;
    char digest[72], key[MT_IMAGE_KEY_HEX + 1], arch[16];
    char *repository, *username, *password;
    int cancel_fd; /* eventfd */
    /* Guarded by the store's lock: */
    unsigned refs;    /* the thread and the waiters */
    unsigned waiters;
    bool joinable;    /* in store->jobs */
    bool cancelled;
    bool started;     /* phase is meaningful */
    bool done;
    enum mt_image_phase phase;
    int result;
    struct mt_image_failure failure;
    struct mt_err err;
    uint64_t pull_ms, build_ms;
};

static void job_unref(struct image_job *j)
{
    if (--j->refs)
        return;
    if (j->password)
        explicit_bzero(j->password, strlen(j->password));
    free(j->repository);
    free(j->username);
    free(j->password);
    mt_closep(&j->cancel_fd);
    free(j);
}

static void job_leave_map(struct image_job *j)
{
    if (j->joinable)
        (void)mt_map_remove(&j->store->jobs, j->digest);
    j->joinable = false;
}

static void job_cancel(struct image_job *j)
{
    const uint64_t one = 1;
    if (j->cancelled)
        return;
    j->cancelled = true;
    job_leave_map(j); /* who comes now gets a new job */
    (void)!write(j->cancel_fd, &one, sizeof one);
    (void)pthread_cond_broadcast(&j->store->changed);
}

void image_jobs_cancel_all(struct mt_image_store *s)
{
    size_t pos = 0;
    void *j;
    while (mt_map_next(&s->jobs, &pos, NULL, &j))
        job_cancel(j);
}

static int job_fail(struct image_job *j, enum mt_reason reason, const char *detail)
{
    j->failure.reason = reason;
    (void)snprintf(j->failure.detail, sizeof j->failure.detail, "%s", detail);
    return -(int)(j->err.code ? j->err.code : MT_E_IO);
}

/* Wait for one of @max places; the lock is held. False when cancelled meanwhile. */
static bool take_place(struct image_job *j, unsigned *used, unsigned max)
{
    while (*used >= max && !j->cancelled)
        (void)pthread_cond_wait(&j->store->changed, &j->store->lock);
    if (j->cancelled)
        return false;
    (*used)++;
    return true;
}

static void set_phase(struct image_job *j, enum mt_image_phase phase)
{
    j->phase = phase;
    j->started = true;
    (void)pthread_cond_broadcast(&j->store->changed);
}

/* Run a child; its JSON answer or a failure. @fallback is the reason when the child says nothing usable. */
static json_t *ask(struct image_job *j, const char *path, const char *const *argv, json_t *request, int64_t timeout_ms,
                   enum mt_reason fallback)
{
    mt_auto_buf struct mt_buf out = MT_BUF_INIT(ANSWER_MAX);
    char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
    json_t *answer = NULL;
    if (!text) {
        (void)MT_FAIL(&j->err, MT_E_NOMEM, "no memory for a request to '%s'", path);
        (void)job_fail(j, fallback, "memory");
        return NULL;
    }
    struct image_child c = {.path = path, .argv = argv, .input = text, .input_len = strlen(text), .cancel_fd = j->cancel_fd,
                            .timeout_ms = timeout_ms, .store = j->store};
    int r = image_child_run(&c, &out, &j->err);
    explicit_bzero(text, c.input_len);
    free(text);
    if (r == 0)
        r = out.failed ? MT_FAIL(&j->err, MT_E_LIMIT, "'%s' answers too much", path)
                       : mt_json_parse((const char *)out.p, out.len, ANSWER_MAX, 16, &answer, &j->err);
    if (r == -MT_E_TIMEOUT)
        (void)job_fail(j, fallback == MT_REASON_IMAGE_PULL_FAILED ? MT_REASON_IMAGE_PULL_TIMEOUT : fallback, "total_deadline");
    else if (r < 0)
        (void)job_fail(j, fallback, "worker");
    if (r < 0)
        return NULL;
    bool ok = false;
    if (mt_json_get_bool(answer, "ok", &ok, &j->err) == 0 && ok)
        return answer;
    json_t *error = NULL;
    const char *code = "", *detail = "", *message = "";
    if (mt_json_get_object(answer, "error", &error, &j->err) == 0 &&
        mt_json_get_str(error, "reason_code", 64, &code, &j->err) == 0 &&
        mt_json_get_str(error, "detail", 200, &detail, &j->err) == 0 &&
        mt_json_get_str(error, "message", 1000, &message, &j->err) == 0) {
        char shown[200];
        enum mt_reason reason = mt_reason_from_code(code);
        (void)MT_FAIL(&j->err, reason == MT_REASON_DISK_FULL ? MT_E_LIMIT : MT_E_IO, "%s",
                      mt_printable(message, strlen(message), shown, sizeof shown));
        char kept[160];
        (void)job_fail(j, reason == MT_REASON_NONE ? fallback : reason, mt_printable(detail, strlen(detail), kept, sizeof kept));
    } else {
        (void)job_fail(j, fallback, "worker");
    }
    json_decref(answer);
    return NULL;
}

static json_t *text_array(const char *const *list)
{
    json_t *a = json_array();
    for (size_t i = 0; a && list && list[i]; i++)
        (void)json_array_append_new(a, json_string(list[i]));
    return a;
}

static int pull(struct image_job *j)
{
    const struct mt_image_conf *c = &j->store->conf;
    const char *const argv[] = {"moat-fetch", "pull", NULL};
    mt_auto_json json_t *q =
        json_pack("{s:s,s:s,s:s,s:s,s:o,s:o,s:I,s:I,s:I,s:I,s:I}", "images_dir", c->images_dir, "repository", j->repository, "digest",
                  j->digest, "arch", j->arch, "local_registries", text_array(c->local_registries), "insecure_registries",
                  text_array(c->insecure_registries), "max_compressed_bytes", (json_int_t)c->max_compressed_bytes, "total_timeout_s",
                  (json_int_t)c->total_timeout_s, "layer_timeout_s", (json_int_t)c->layer_timeout_s, "uid",
                  (json_int_t)c->worker_uid, "gid", (json_int_t)c->worker_gid);
    if (q && c->ca_file)
        (void)json_object_set_new(q, "ca_file", json_string(c->ca_file));
    if (q && j->username) {
        (void)json_object_set_new(q, "username", json_string(j->username));
        (void)json_object_set_new(q, "password", json_string(j->password ? j->password : ""));
    }
    json_t *answer = ask(j, c->fetch_path, argv, q, ((int64_t)c->total_timeout_s + 15) * 1000, MT_REASON_IMAGE_PULL_FAILED);
    json_decref(answer);
    return answer ? 0 : -(int)(j->err.code ? j->err.code : MT_E_IO);
}

/* The new disk into its place, then the description that makes it count. */
static int publish(struct image_job *j, const char *work_dir, json_t *answer)
{
    struct mt_image_store *s = j->store;
    char from[PATH_MAX], to[PATH_MAX], dir[PATH_MAX], json[PATH_MAX], built[MT_RFC3339_LEN];
    struct image_entry *e = calloc(1, sizeof *e);
    if (!e)
        return MT_FAIL(&j->err, MT_E_NOMEM, "no memory for a root disk");
    int r = image_path(s, dir, sizeof dir, &j->err, "rootdisks");
    if (r == 0)
        r = image_path(s, from, sizeof from, &j->err, "tmp/%s/disk.ext4", work_dir);
    if (r == 0)
        r = image_path(s, to, sizeof to, &j->err, "rootdisks/%s.ext4", j->key);
    if (r == 0)
        r = image_path(s, json, sizeof json, &j->err, "rootdisks/%s.json", j->key);
    if (r == 0)
        r = image_disk_from_json(answer, dir, e, &j->err);
    if (r == 0 && (strcmp(e->disk.key, j->key) != 0 || strcmp(e->disk.digest, j->digest) != 0)) {
        mt_rootdisk_done(&e->disk);
        r = MT_FAIL(&j->err, MT_E_CORRUPT, "moat-unpack answered for another image");
    }
    if (r == 0) {
        (void)json_object_del(answer, "ok");
        json_t *version = json_object_get(answer, "format");
        if ((version && json_object_set(answer, "format_version", version) < 0) ||
            json_object_set_new(answer, "built_at", json_string(mt_rfc3339(mt_clock_wall_us(), built))) < 0)
            r = MT_FAIL(&j->err, MT_E_NOMEM, "no memory for a root disk");
    }
    if (r == 0) {
        struct stat st;
        mt_auto_fd int fd = open(from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 || (uint64_t)st.st_size != e->disk.bytes)
            r = MT_FAIL(&j->err, MT_E_CORRUPT, "moat-unpack left no root disk of the size it names");
        else if ((geteuid() == 0 && fchown(fd, 0, 0) < 0) || fchmod(fd, 0444) < 0 || fsync(fd) < 0 || rename(from, to) < 0)
            r = MT_FAIL_ERRNO(&j->err, MT_E_IO, "put the root disk into its place");
    }
    if (r == 0)
        r = mt_file_sync_dir(dir, &j->err);
    if (r == 0)
        r = image_disk_save(json, answer, &j->err);
    if (r < 0) {
        image_entry_free(e);
        return r;
    }
    image_touch_used(s, j->key);
    (void)pthread_mutex_lock(&s->lock);
    r = image_index_put(s, e, &j->err);
    (void)pthread_mutex_unlock(&s->lock);
    if (r < 0)
        image_entry_free(e);
    return r;
}

static int build(struct image_job *j)
{
    struct mt_image_store *s = j->store;
    const struct mt_image_conf *c = &s->conf;
    const char *const argv[] = {"moat-unpack", NULL};
    char work_dir[64], path[PATH_MAX], tmp[PATH_MAX];
    uint64_t nonce;
    mt_random(&nonce, sizeof nonce);
    (void)snprintf(work_dir, sizeof work_dir, "build-%.16s-%016jx", j->key, (uintmax_t)nonce);
    int r = image_path(s, path, sizeof path, &j->err, "tmp/%s", work_dir);
    if (r == 0)
        r = image_path(s, tmp, sizeof tmp, &j->err, "tmp");
    if (r < 0)
        return job_fail(j, MT_REASON_ROOTFS_BUILD_FAILED, "work_dir");
    if (mkdir(path, 0700) < 0 || (geteuid() == 0 && chown(path, c->worker_uid, c->worker_gid) < 0)) {
        bool full = errno == ENOSPC;
        (void)MT_FAIL_ERRNO(&j->err, MT_E_IO, "make the build folder '%s'", path);
        return job_fail(j, full ? MT_REASON_DISK_FULL : MT_REASON_ROOTFS_BUILD_FAILED, full ? "images" : "work_dir");
    }
    mt_auto_json json_t *q = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I}", "images_dir", c->images_dir, "work_dir", work_dir,
                                       "digest", j->digest, "arch", j->arch, "format_version", c->format_version, "e2fsck",
                                       c->e2fsck_path, "uid", (json_int_t)c->worker_uid, "gid", (json_int_t)c->worker_gid,
                                       "max_unpacked_bytes", (json_int_t)c->max_unpacked_bytes);
    mt_auto_json json_t *answer = ask(j, c->unpack_path, argv, q, BUILD_TIMEOUT_MS, MT_REASON_ROOTFS_BUILD_FAILED);
    r = answer ? 0 : -(int)(j->err.code ? j->err.code : MT_E_IO);
    if (r == 0 && publish(j, work_dir, answer) < 0)
        r = job_fail(j, j->err.sys_errno == ENOSPC ? MT_REASON_DISK_FULL : MT_REASON_ROOTFS_BUILD_FAILED,
                     j->err.sys_errno == ENOSPC ? "images" : "publish");
    int dir = open(tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {
        (void)mt_file_remove_tree(dir, work_dir, NULL);
        (void)close(dir);
    }
    return r;
}

/* A bad image stays bad: remember it, so that restarts do not download and unpack it in a storm. */
static void remember_failure(struct image_job *j)
{
    struct mt_image_store *s = j->store;
    if (j->failure.reason == MT_REASON_NONE || mt_reason_is_platform(mt_reason_code(j->failure.reason)))
        return;
    struct image_failed *f = calloc(1, sizeof *f);
    if (!f)
        return;
    f->until_ns = mt_clock_mono() + (int64_t)s->conf.failure_memory_s * MT_NS_PER_S;
    f->failure = j->failure;
    (void)snprintf(f->message, sizeof f->message, "%s", j->err.msg);
    free(mt_map_remove(&s->failures, j->digest));
    if (mt_map_put(&s->failures, j->digest, f) < 0)
        free(f);
}

static int run_phase(struct image_job *j, enum mt_image_phase phase, unsigned *used, unsigned max, int (*work)(struct image_job *),
                     uint64_t *ret_ms)
{
    struct mt_image_store *s = j->store;
    if (!take_place(j, used, max))
        return -MT_E_CANCELLED;
    set_phase(j, phase);
    (void)pthread_mutex_unlock(&s->lock);
    int64_t begin = mt_clock_mono();
    int r = work(j);
    *ret_ms = (uint64_t)((mt_clock_mono() - begin) / MT_NS_PER_MS);
    (void)pthread_mutex_lock(&s->lock);
    (*used)--;
    (void)pthread_cond_broadcast(&s->changed);
    return r;
}

static void *job_main(void *arg)
{
    struct image_job *j = arg;
    struct mt_image_store *s = j->store;
    (void)pthread_mutex_lock(&s->lock);
    int r = run_phase(j, MT_IMAGE_PULLING, &s->pulls, s->conf.parallel_pulls, pull, &j->pull_ms);
    if (r == 0 && !j->cancelled)
        r = run_phase(j, MT_IMAGE_BUILDING, &s->builds, s->conf.parallel_builds, build, &j->build_ms);
    if (j->cancelled) {
        r = -MT_E_CANCELLED;
        j->failure.reason = MT_REASON_NONE;
    } else if (r < 0) {
        remember_failure(j);
    }
    if (r == 0)
        mt_log(MT_INFO, "image.ready", KV("digest", j->digest), KV("pull_ms", j->pull_ms), KV("build_ms", j->build_ms));
    j->result = r;
    j->done = true;
    job_leave_map(j);
    s->jobs_alive--;
    (void)pthread_cond_broadcast(&s->changed);
    job_unref(j);
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

static char *copy_or_null(const char *s)
{
    return s ? mt_strndup(s, strlen(s)) : NULL;
}

/* A running job for the request, or a new one. The lock is held. */
static struct image_job *join_job(struct mt_image_store *s, const struct mt_image_request *q, const char *key, struct mt_err *err)
{
    struct image_job *j = mt_map_get(&s->jobs, q->digest);
    pthread_attr_t attr;
    pthread_t thread;
    if (j)
        return j;
    j = calloc(1, sizeof *j);
    if (!j) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for an image job");
        return NULL;
    }
    j->refs = 1;
    j->store = s;
    j->cancel_fd = eventfd(0, EFD_CLOEXEC);
    (void)snprintf(j->digest, sizeof j->digest, "%s", q->digest);
    (void)snprintf(j->key, sizeof j->key, "%s", key);
    (void)snprintf(j->arch, sizeof j->arch, "%s", q->arch);
    j->repository = copy_or_null(q->repository);
    j->username = copy_or_null(q->username);
    j->password = copy_or_null(q->password);
    if (j->cancel_fd < 0 || !j->repository || (q->username && !j->username) || (q->password && !j->password) ||
        mt_map_put(&s->jobs, j->digest, j) < 0) {
        (void)MT_FAIL(err, MT_E_NOMEM, "no memory for an image job");
        job_unref(j);
        return NULL;
    }
    j->joinable = true;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, (size_t)256 << 10);
    int e = pthread_create(&thread, &attr, job_main, j);
    (void)pthread_attr_destroy(&attr);
    if (e != 0) {
        errno = e;
        (void)MT_FAIL_ERRNO(err, MT_E_IO, "start a thread for an image");
        job_leave_map(j);
        job_unref(j);
        return NULL;
    }
    s->jobs_alive++;
    return j;
}

static bool is_cancelled(const struct mt_image_store *s, const struct mt_image_request *q)
{
    return s->closing || (q->cancelled && atomic_load(q->cancelled));
}

/* Hand out the cached disk and pin it. The lock is held. -MT_E_NOT_FOUND when there is none. */
static int give(struct mt_image_store *s, const struct mt_image_request *q, struct mt_rootdisk *ret, struct mt_err *err)
{
    const struct image_entry *e = mt_map_get(&s->disks, q->digest);
    struct stat st;
    if (!e || e->quarantined)
        return MT_FAIL(err, MT_E_NOT_FOUND, "image '%s' has no root disk here", q->digest);
    if (lstat(e->disk.path, &st) < 0 || (uint64_t)st.st_size != e->disk.bytes) { /* somebody's rm: build it again */
        image_entry_free(mt_map_remove(&s->disks, q->digest));
        return MT_FAIL(err, MT_E_NOT_FOUND, "the root disk of '%s' is gone", q->digest);
    }
    int r = image_disk_copy(&e->disk, ret, err);
    if (r == 0 && (r = image_pin_locked(s, q->digest, q->owner, err)) < 0)
        mt_rootdisk_done(ret);
    if (r == 0)
        image_touch_used(s, e->disk.key);
    return r;
}

/* Wait until the job is done or nobody here wants it; the lock is held, but not in callbacks. */
static void wait_for(struct mt_image_store *s, struct image_job *j, const struct mt_image_request *q)
{
    int told = -1;
    while (!j->done && !is_cancelled(s, q)) {
        if (j->started && (int)j->phase != told) {
            told = (int)j->phase;
            if (q->on_phase) {
                (void)pthread_mutex_unlock(&s->lock);
                q->on_phase(q->arg, (enum mt_image_phase)told);
                (void)pthread_mutex_lock(&s->lock);
            }
            continue;
        }
        (void)pthread_cond_wait(&s->changed, &s->lock);
    }
}

static int ensure_locked(struct mt_image_store *s, const struct mt_image_request *q, const char *key, struct mt_rootdisk *ret,
                         struct mt_image_failure *failure, struct mt_err *err)
{
    if (is_cancelled(s, q))
        return MT_FAIL(err, MT_E_CANCELLED, "cancelled");
    int r = give(s, q, ret, err);
    if (r != -MT_E_NOT_FOUND) {
        if (r == 0)
            ret->cached = true;
        failure->reason = r == 0 ? MT_REASON_NONE : MT_REASON_ROOTFS_BUILD_FAILED;
        return r;
    }
    const struct image_failed *known = mt_map_get(&s->failures, q->digest);
    if (known && known->until_ns > mt_clock_mono()) {
        *failure = known->failure;
        return MT_FAIL(err, MT_E_INVALID, "%s", known->message);
    }
    struct image_job *j = join_job(s, q, key, err);
    if (!j) {
        failure->reason = MT_REASON_ROOTFS_BUILD_FAILED;
        return -(int)err->code;
    }
    j->refs++;
    j->waiters++;
    wait_for(s, j, q);
    j->waiters--;
    if (!j->done) {
        if (j->waiters == 0)
            job_cancel(j);
        r = MT_FAIL(err, MT_E_CANCELLED, "cancelled");
    } else if (j->result < 0) {
        r = j->result;
        *err = j->err;
        *failure = j->failure;
    } else {
        r = give(s, q, ret, err);
        if (r == 0) {
            ret->pull_ms = j->pull_ms;
            ret->build_ms = j->build_ms;
        } else {
            failure->reason = MT_REASON_ROOTFS_BUILD_FAILED;
        }
    }
    job_unref(j);
    return r;
}

int mt_image_ensure(struct mt_image_store *s, const struct mt_image_request *q, struct mt_rootdisk *ret,
                    struct mt_image_failure *ret_failure, struct mt_err *err)
{
    char key[MT_IMAGE_KEY_HEX + 1];
    struct mt_err own = {0};
    struct mt_image_failure failure = {0};
    if (!err)
        err = &own;
    *ret = (struct mt_rootdisk){0};
    *ret_failure = failure;
    if (!q->digest || !q->digest[0] || mt_image_key(q->digest, s->conf.format_version, key, err) < 0) {
        ret_failure->reason = MT_REASON_IMAGE_UNRESOLVED;
        (void)snprintf(ret_failure->detail, sizeof ret_failure->detail, "resolved_digest");
        return MT_FAIL(err, MT_E_INVALID, "the workload names no image digest to run");
    }
    MT_ASSERT(q->owner && q->arch && q->repository);
    if (strlen(q->arch) >= sizeof((struct image_job *)0)->arch) {
        ret_failure->reason = MT_REASON_IMAGE_ARCH_MISMATCH;
        (void)snprintf(ret_failure->detail, sizeof ret_failure->detail, "arch");
        return MT_FAIL(err, MT_E_INVALID, "the workload names an unknown architecture");
    }
    (void)pthread_mutex_lock(&s->lock);
    int r = ensure_locked(s, q, key, ret, &failure, err);
    (void)pthread_mutex_unlock(&s->lock);
    *ret_failure = failure;
    return r;
}

void mt_image_cancel(struct mt_image_store *s, atomic_bool *cancelled)
{
    (void)pthread_mutex_lock(&s->lock); /* so that the flag cannot fall between a waiter's look and its sleep */
    atomic_store(cancelled, true);
    (void)pthread_cond_broadcast(&s->changed);
    (void)pthread_mutex_unlock(&s->lock);
}
