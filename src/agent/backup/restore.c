/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/restore.h"

#include "agent/instance/steps.h"
#include "agent/volume/steps.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "wire/json.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAIL ".rjl"
#define JOURNAL_HEAD 40 /* docs/formats/backup.md: a journal that says something is longer */

static int journal_path(const char *dir, const char *restore_id, char ret[PATH_MAX], struct mt_err *err)
{
    int rc = mt_id_check(MT_ID_RESTORE, restore_id, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s" TAIL, dir, restore_id);
}

static int drop(const char *dir, const struct mt_backend *b, const char *restore_id, const char *new_volume_id, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = journal_path(dir, restore_id, path, err); /* first: a part without its journal is begun anew */
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    return rc < 0 ? rc : mt_backend_part_drop(b, new_volume_id, err);
}

int mt_restore_remove(const char *dir, const struct mt_backend *b, const char *restore_id, const char *new_volume_id, struct mt_err *err)
{
    int rc = drop(dir, b, restore_id, new_volume_id, err);
    mt_volume_forget_lock(b, new_volume_id);
    return rc;
}

int mt_restore_forget(const char *dir, const struct mt_backend *b, const char *restore_id, const char *new_volume_id, struct mt_err *err)
{
    char path[PATH_MAX];
    uint64_t bytes;
    if (mt_backend_size(b, new_volume_id, &bytes, NULL) == -MT_E_NOT_FOUND)
        return mt_restore_remove(dir, b, restore_id, new_volume_id, err);
    int rc = journal_path(dir, restore_id, path, err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    return rc;
}

/* ---- one run ----------------------------------------------------------------------------- */

struct state {
    int part, journal;
    bool kept;  /* of an earlier run, of which nobody says how far its check came */
    bool based; /* the part held all of the base before anything of this was written */
    uint64_t source_bytes;
};

static void state_done(struct state *s)
{
    mt_closep(&s->part);
    mt_closep(&s->journal);
}

static bool says_something(const char *journal)
{
    struct stat st;
    return stat(journal, &st) == 0 && st.st_size > JOURNAL_HEAD;
}

/* To begin anew: the journal of the base first, for without it nobody builds on what is left. */
static int drop_all(const struct mt_restore_run *r, struct mt_err *err)
{
    int rc = r->base_restore_id ? drop(r->dir, r->backend, r->base_restore_id, r->new_volume_id, err) : 0;
    return rc < 0 ? rc : drop(r->dir, r->backend, r->e.job_id, r->new_volume_id, err);
}

/*
 * What an earlier run left is believed only with its journal: zeros are not written again, and what a check changed where the backup has
 * zeros would stay. A pre-copy is not checked, so its part is the image of its snapshot to the byte until this run writes to it; what this run
 * writes is where the two snapshots differ, whatever was there, so it goes on from any point of it. After a check broke off nothing is fetched
 * again, and one that then fails begins with nothing.
 */
static int open_part(struct mt_restore_run *r, const char *path, struct state *s, struct mt_err *err)
{
    char base[PATH_MAX];
    int rc = r->base_restore_id ? journal_path(r->dir, r->base_restore_id, base, err) : 0;
    if (rc < 0)
        return mt_engine_failed(&r->e, "internal_error", false, rc);
    rc = mt_backend_part_open(r->backend, r->new_volume_id, r->size_bytes, &s->part, err);
    if (rc == -MT_E_CONFLICT)
        return mt_engine_failed(&r->e, "internal_error", true, rc); /* until it ends, for it has lost who started it */
    s->based = rc == 0 && r->base_restore_id && says_something(base);
    s->kept = rc == 0 && says_something(path);
    if (!s->kept && !s->based) {
        mt_closep(&s->part);
        if ((rc = drop_all(r, err)) < 0)
            return mt_engine_failed(&r->e, "write_failed", false, rc);
        if ((rc = mt_backend_part_begin(r->backend, r->new_volume_id, r->size_bytes, &s->part, err)) < 0)
            return mt_engine_failed(&r->e, rc == -MT_E_LIMIT ? "no_capacity" : "write_failed", false, rc);
    }
    s->journal = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->journal < 0)
        return mt_engine_failed(&r->e, "write_failed", false, MT_FAIL_ERRNO(err, MT_E_IO, "open the journal of '%s'", r->e.job_id));
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_RESTORE_RESERVED, MT_KILL_RECORDED);
    return 0;
}

/* The engine's words become those of a restore. */
static int judged(struct mt_restore_run *r, int rc)
{
    static const struct {
        const char *said, *means;
    } words[] = {{"credentials_invalid", "download_failed"}, {"encryption_failed", "decrypt_failed"}, {"verify_failed", "integrity_check_failed"},
                 {"disk_read_failed", "write_failed"}, {"backup_store_unreachable", "download_failed"}, {"artifact_expired", "download_failed"}};
    for (size_t i = 0; rc < 0 && i < MT_ARRAY_LEN(words); i++)
        if (MT_STREQ(r->e.failed_reason, words[i].said))
            (void)snprintf(r->e.failed_reason, sizeof r->e.failed_reason, "%s", words[i].means);
    r->damaged = rc < 0 && (MT_STREQ(r->e.failed_reason, "integrity_check_failed") || MT_STREQ(r->e.failed_reason, "backup_object_missing"));
    return rc;
}

static int fetch(struct mt_restore_run *r, struct state *s, struct mt_err *err)
{
    mt_auto_lockmem struct mt_lockmem key = {0};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_ENGINE_REQUEST_MAX);
    mt_auto_json json_t *line = NULL;
    int rc = mt_engine_key(&r->e, &key, err);
    if (rc < 0)
        return judged(r, rc);
    (void)mt_buf_reserve(&b, MT_ENGINE_REQUEST_MAX / 2); /* it must not move: a copy would stay behind */
    mt_engine_head(&r->e, &b);
    mt_buf_printf(&b, ",\"keys\":[{\"epoch\":%" PRIu32 ",\"key\":\"%s\"}],\"snapshot_id\":\"%s\",\"size_bytes\":%" PRIu64 ",\"image_fd\":%d,\"journal_fd\":%d,\"zeroed\":%s",
                  r->e.key_epoch, (const char *)key.p, r->snapshot_id, r->size_bytes, s->part, s->journal, s->based ? "false" : "true");
    if (s->based)
        mt_buf_printf(&b, ",\"have_snapshot_id\":\"%s\"", r->base_snapshot_id);
    mt_buf_printf(&b, "}");
    const int fds[] = {s->part, s->journal};
    if ((rc = mt_engine_call(&r->e, "restore", &b, fds, 2, &line, err)) < 0)
        return judged(r, rc);
    s->source_bytes = (uint64_t)json_integer_value(json_object_get(line, "size_bytes"));
    mt_log(MT_INFO, "restore.fetched", KV("restore_id", r->e.job_id), KV("snapshot_id", r->snapshot_id),
           KV("bytes_fetched", (int64_t)json_integer_value(json_object_get(line, "bytes_fetched"))),
           KV("chunks_skipped", (int64_t)json_integer_value(json_object_get(line, "chunks_skipped"))),
           KV("elapsed_ms", (int64_t)json_integer_value(json_object_get(line, "elapsed_ms"))));
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_RESTORE_FETCHED, MT_KILL_RECORDED);
    return 0;
}

/* A repairing check: the image of a moment has a journal to be replayed, and nobody else has the volume yet. */
static int check(struct mt_restore_run *r, struct state *s, struct mt_err *err)
{
    if (r->e.phase)
        r->e.phase(r->e.arg, "checking");
    int rc = r->size_bytes > s->source_bytes ? mt_fstool_grow(r->tools, s->part, err) : mt_fstool_check(r->tools, s->part, err);
    if (rc == 0 && r->proof) /* after the replay of its journal nothing is left to be repaired */
        rc = mt_fstool_verify(r->tools, s->part, err);
    if (rc == 0)
        rc = mt_fstool_uuid(s->part, r->fs_uuid, err);
    if (rc < 0)
        mt_closep(&s->part); /* a device that is open is not removed; the volume's lock is ours still */
    if (rc < 0) /* one that a kill broke off half way may have left it worse: once more from the beginning */
        return mt_engine_failed(&r->e, "fsck_failed", (s->kept || s->based) && drop_all(r, NULL) == 0, rc);
    mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_RESTORE_CHECKED, MT_KILL_RECORDED);
    return 0;
}

/* What a guest wrote into the copy is nothing that a later run may go on with: it begins anew, for it finds no journal. */
static int trial(struct mt_restore_run *r, const char *journal, struct state *s, struct mt_err *err)
{
    char device[PATH_MAX];
    mt_auto_fd int dir = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = mt_backend_part_path(r->backend, r->new_volume_id, device, err);
    if (rc < 0)
        return mt_engine_failed(&r->e, "internal_error", false, rc);
    mt_closep(&s->part); /* the VMM has it alone; the volume's lock is ours still */
    if ((unlink(journal) < 0 && errno != ENOENT) || dir < 0 || fsync(dir) < 0)
        return mt_engine_failed(&r->e, "write_failed", false, MT_FAIL_ERRNO(err, MT_E_IO, "forget the journal of '%s'", r->e.job_id));
    rc = r->trial(r->trial_arg, device, r->fs_uuid, err);
    if (rc < 0)
        return mt_engine_failed(&r->e, rc == -MT_E_CORRUPT ? "probe_failed" : "probe_not_run", false, rc);
    return 0;
}

/* Its name says that it is whole: an earlier run ended and was not told. */
static int look_at(struct mt_restore_run *r, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_fd int fd = -1;
    int rc = mt_backend_path(r->backend, r->new_volume_id, path, err);
    if (rc == 0 && (fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) < 0)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "open volume '%s'", r->new_volume_id);
    if (rc == 0)
        rc = mt_fstool_uuid(fd, r->fs_uuid, err);
    return rc < 0 ? mt_engine_failed(&r->e, "internal_error", false, rc) : 0;
}

int mt_restore_run(struct mt_restore_run *r, struct mt_err *err)
{
    char path[PATH_MAX];
    uint64_t bytes;
    mt_auto_fd int lock = -1;
    mt_cleanup(state_done) struct state s = {.part = -1, .journal = -1};
    r->e.failed_reason[0] = '\0';
    r->e.retryable = r->damaged = false;
    int rc = journal_path(r->dir, r->e.job_id, path, err);
    if (rc < 0 || (rc = mt_volume_lock(r->backend, r->new_volume_id, &lock, err)) < 0)
        return mt_engine_failed(&r->e, "internal_error", rc == -MT_E_CONFLICT, rc);
    rc = mt_backend_size(r->backend, r->new_volume_id, &bytes, err);
    if (rc == 0) {
        rc = look_at(r, err);
    } else if (rc != -MT_E_NOT_FOUND) {
        return mt_engine_failed(&r->e, "internal_error", false, rc);
    } else if (r->precopy) { /* the journal stays: it is what says that the part is whole */
        if ((rc = open_part(r, path, &s, err)) == 0 && (rc = fetch(r, &s, err)) == 0 && (rc = mt_fstool_uuid(s.part, r->fs_uuid, err)) < 0)
            rc = mt_engine_failed(&r->e, "fsck_failed", false, rc);
        return rc;
    } else if ((rc = open_part(r, path, &s, err)) == 0 && (rc = fetch(r, &s, err)) == 0 && (rc = check(r, &s, err)) == 0) {
        if (r->proof && r->trial && (rc = trial(r, path, &s, err)) < 0)
            return rc;
        if (r->proof)
            mt_closep(&s.part); /* as above */
        if (r->proof)
            rc = drop(r->dir, r->backend, r->e.job_id, r->new_volume_id, err);
        else
            rc = mt_backend_part_commit(r->backend, r->new_volume_id, s.part, err);
        if (rc < 0)
            return mt_engine_failed(&r->e, r->proof ? "cleanup_failed" : "write_failed", false, rc);
        mt_kill_here(MT_KILL_VOLUME, MT_KILL_VOLUME_RESTORE_NAMED, MT_KILL_RECORDED);
    }
    if (rc == 0)
        (void)unlink(path);
    if (rc == 0 && r->proof)
        mt_volume_forget_held(r->backend, r->new_volume_id);
    return rc;
}

/* ---- what nobody wants ------------------------------------------------------------------- */

struct sweep {
    const char (*wanted)[MT_ID_SIZE];
    size_t wanted_n;
    char (*doomed)[MT_ID_SIZE];
    size_t n, room;
};

static bool is_wanted(const char (*ids)[MT_ID_SIZE], size_t n, const char *id)
{
    for (size_t i = 0; i < n; i++)
        if (MT_STREQ(ids[i], id))
            return true;
    return false;
}

static void on_part(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    struct sweep *s = arg;
    (void)bytes;
    (void)made_ms;
    if (snapshot || is_wanted(s->wanted, s->wanted_n, id))
        return;
    if (s->n == s->room) {
        size_t room = s->room ? s->room * 2 : 16;
        char(*more)[MT_ID_SIZE] = reallocarray(s->doomed, room, sizeof *more);
        if (!more)
            return;
        s->doomed = more;
        s->room = room;
    }
    (void)snprintf(s->doomed[s->n++], MT_ID_SIZE, "%s", id);
}

size_t mt_restore_sweep(const char *dir, const struct mt_backend *b, const char (*restore_ids)[MT_ID_SIZE], const char (*volume_ids)[MT_ID_SIZE], size_t n)
{
    struct sweep s = {.wanted = volume_ids, .wanted_n = n};
    size_t removed = 0;
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char id[MT_ID_SIZE];
        size_t len = strlen(e->d_name), tail = sizeof TAIL - 1;
        if (len <= tail || len - tail >= sizeof id || !MT_STREQ(e->d_name + len - tail, TAIL))
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(len - tail), e->d_name);
        if (!is_wanted(restore_ids, n, id))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    }
    (void)mt_backend_parts(b, on_part, &s, NULL);
    for (size_t i = 0; i < s.n; i++) {
        removed += mt_backend_part_drop(b, s.doomed[i], NULL) == 0;
        mt_volume_forget_lock(b, s.doomed[i]);
    }
    free(s.doomed);
    return removed;
}
