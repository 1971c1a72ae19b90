/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/backup/record.h"

#include "agent/instance/state.h"
#include "base/cleanup.h"
#include "base/map.h"
#include "base/str.h"
#include "wire/json.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

static int record_path(const char *dir, const char *volume_id, char ret[PATH_MAX], struct mt_err *err)
{
    int rc = mt_id_check(MT_ID_VOLUME, volume_id, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s.json", dir, volume_id);
}

int mt_backup_journal(const char *dir, const char *snapshot_id, char ret[PATH_MAX], struct mt_err *err)
{
    int rc = mt_id_check(MT_ID_SNAPSHOT, snapshot_id, err);
    return rc < 0 ? rc : mt_fmt(ret, PATH_MAX, err, "%s/%s.jnl", dir, snapshot_id);
}

static int id_of(const json_t *doc, const char *key, char ret[MT_ID_SIZE], struct mt_err *err)
{
    const char *s = NULL;
    int rc = mt_json_opt_str(doc, key, MT_ID_SIZE, NULL, &s, err);
    if (rc == 0 && s && (rc = mt_id_check(MT_ID_SNAPSHOT, s, err)) == 0)
        (void)snprintf(ret, MT_ID_SIZE, "%s", s);
    return rc;
}

int mt_backup_record_load(const char *dir, const char *volume_id, struct mt_backup_record *ret, struct mt_err *err)
{
    char path[PATH_MAX];
    mt_auto_json json_t *doc = NULL;
    uint64_t ms = 0;
    struct mt_backup_record r = {0};
    struct mt_err own = {0};
    err = err ? err : &own; /* a sealed file that is broken is told apart by what the error says */
    *ret = r;
    (void)snprintf(ret->volume_id, sizeof ret->volume_id, "%s", volume_id);
    r = *ret;
    int rc = record_path(dir, volume_id, path, err);
    if (rc == 0)
        rc = mt_sealed_load(path, 65536, &doc, err);
    if (rc < 0)
        return rc;
    if (id_of(doc, "base", r.base, err) < 0 || id_of(doc, "job", r.job, err) < 0 || mt_json_opt_u64(doc, "captured_ms", 0, INT64_MAX, 0, &ms, err) < 0 ||
        mt_json_opt_bool(doc, "filesystem", false, &r.filesystem, err) < 0)
        return -MT_E_NOT_FOUND; /* not written by us: what it would save is a full read */
    r.captured_ms = (int64_t)ms;
    *ret = r;
    return 0;
}

int mt_backup_record_save(const char *dir, const struct mt_backup_record *r, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = record_path(dir, r->volume_id, path, err);
    if (rc < 0)
        return rc;
    if (!r->base[0] && !r->job[0]) /* nothing to remember */
        return unlink(path) == 0 || errno == ENOENT ? 0 : MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    mt_auto_json json_t *doc = json_pack("{s:I, s:b}", "captured_ms", (json_int_t)r->captured_ms, "filesystem", r->filesystem);
    if (!doc || (r->base[0] && json_object_set_new(doc, "base", json_string(r->base)) != 0) ||
        (r->job[0] && json_object_set_new(doc, "job", json_string(r->job)) != 0))
        return MT_FAIL(err, MT_E_NOMEM, "out of memory");
    return mt_sealed_save(path, doc, err);
}

static int drop_snapshot(const char *dir, const struct mt_backend *b, const char *id, struct mt_err *err)
{
    char path[PATH_MAX];
    int rc = mt_backend_snap_delete(b, id, err);
    if (rc == 0 && mt_backup_journal(dir, id, path, err) == 0)
        (void)unlink(path);
    return rc;
}

int mt_backup_forget(const char *dir, const struct mt_backend *b, const char *volume_id, struct mt_err *err)
{
    char path[PATH_MAX];
    struct mt_backup_record r;
    struct mt_err none = {0};
    (void)mt_backup_record_load(dir, volume_id, &r, &none);
    int rc = r.base[0] ? drop_snapshot(dir, b, r.base, err) : 0;
    if (rc == 0 && r.job[0])
        rc = drop_snapshot(dir, b, r.job, err);
    if (rc == 0)
        rc = record_path(dir, volume_id, path, err);
    if (rc == 0 && unlink(path) < 0 && errno != ENOENT)
        rc = MT_FAIL_ERRNO(err, MT_E_IO, "remove '%s'", path);
    return rc;
}

size_t mt_backup_drop_bases(const char *dir, const struct mt_backend *b)
{
    size_t dropped = 0;
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char id[MT_ID_SIZE];
        struct mt_backup_record r;
        size_t n = strlen(e->d_name);
        if (n <= 5 || n - 5 >= sizeof id || !MT_STREQ(e->d_name + n - 5, ".json"))
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(n - 5), e->d_name);
        if (mt_backup_record_load(dir, id, &r, NULL) < 0 || !r.base[0])
            continue;
        char base[MT_ID_SIZE];
        memcpy(base, r.base, sizeof base);
        r.base[0] = '\0';
        dropped += mt_backup_record_save(dir, &r, NULL) == 0 && mt_backend_snap_delete(b, base, NULL) == 0;
    }
    return dropped;
}

struct sweep {
    struct mt_map known; /* snapshot ids; values are not looked at */
    int64_t before_ms;
    size_t removed;
    char (*doomed)[MT_ID_SIZE];
    size_t n, room;
};

static void learn(struct sweep *s, const char *dir, const char *volume_id)
{
    struct mt_backup_record r;
    if (mt_backup_record_load(dir, volume_id, &r, NULL) < 0)
        return;
    if (r.base[0])
        (void)mt_map_put(&s->known, r.base, s);
    if (r.job[0])
        (void)mt_map_put(&s->known, r.job, s);
}

static void judge(void *arg, bool snapshot, const char *id, uint64_t bytes, int64_t made_ms)
{
    struct sweep *s = arg;
    (void)bytes;
    if (!snapshot || mt_map_get(&s->known, id) || made_ms >= s->before_ms)
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

size_t mt_backup_sweep(const char *dir, const struct mt_backend *b, int64_t now_ms, int64_t ttl_ms)
{
    struct sweep s = {.before_ms = now_ms - ttl_ms};
    mt_map_init(&s.known, 0);
    mt_auto_dir DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char id[MT_ID_SIZE];
        size_t n = strlen(e->d_name);
        if (n > 5 && n - 5 < sizeof id && MT_STREQ(e->d_name + n - 5, ".json")) {
            (void)snprintf(id, sizeof id, "%.*s", (int)(n - 5), e->d_name);
            learn(&s, dir, id);
        }
    }
    if (d)
        rewinddir(d);
    for (struct dirent *e; d && (e = readdir(d));) {
        char id[MT_ID_SIZE];
        size_t n = strlen(e->d_name);
        if (n <= 4 || n - 4 >= sizeof id || !MT_STREQ(e->d_name + n - 4, ".jnl"))
            continue;
        (void)snprintf(id, sizeof id, "%.*s", (int)(n - 4), e->d_name);
        if (!mt_map_get(&s.known, id))
            (void)unlinkat(dirfd(d), e->d_name, 0);
    }
    (void)mt_backend_enumerate(b, judge, &s, NULL);
    for (size_t i = 0; i < s.n; i++)
        s.removed += mt_backend_snap_delete(b, s.doomed[i], NULL) == 0;
    free(s.doomed);
    mt_map_done(&s.known);
    return s.removed;
}
