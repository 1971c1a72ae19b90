/* SPDX-License-Identifier: Apache-2.0 */
/* The restore: see save.h. Twice through the file: once to know that it is whole, once to use it. */
#include "control/save/save.h"

#include "base/cleanup.h"
#include "base/str.h"
#include "control/bootstrap.h"
#include "control/log/history.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "control/save/program.h"
#include "control/save/record.h"
#include "os/file.h"
#include "pg/env.h"
#include "wire/json.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#define CALL_MS 600000
#define MANIFEST_MAX ((size_t)64 << 10)

static const struct mt_pg_stmt st_tables = {
    "restore_tables", "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                      " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'"};

/* Who is given each member, in the order of the file. */
struct sink {
    struct mt_control *ctl;
    json_t *manifest;
    struct mt_pg_program *pg; /* NULL: only looked at */
    bool database;
    uint64_t database_bytes;
    char name[MT_RECORD_NAME_MAX + 1];
    uint64_t parts; /* of the member so far */
};

/* Of a file in data_dir: nothing that leads elsewhere, nothing hidden, nothing that would take the place of what we write ourselves. */
static bool good_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && !MT_STREQ(name, "high-water");
}

static int take_manifest(struct sink *s, const uint8_t *p, uint32_t n, struct mt_err *err)
{
    if (s->manifest)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup has two manifests");
    int rc = mt_json_parse((const char *)p, n, MANIFEST_MAX, 8, &s->manifest, err);
    if (rc < 0)
        return mt_err_wrap(err, "the backup's manifest");
    json_t *j = s->manifest;
    if (json_integer_value(json_object_get(j, "format")) != 1)
        return MT_FAIL(err, MT_E_INVALID, "the backup is of a newer moat (format %lld): install that first", (long long)json_integer_value(json_object_get(j, "format")));
    const json_t *least = json_object_get(j, "schema_least");
    if (json_integer_value(least ? least : json_object_get(j, "schema")) > mt_log_schema_known())
        return MT_FAIL(err, MT_E_INVALID, "the backup has schema %lld, this moat-control knows %d: install the version that made it (%s) first",
                       (long long)json_integer_value(json_object_get(j, "schema")), mt_log_schema_known(),
                       json_string_value(json_object_get(j, "version")) ? json_string_value(json_object_get(j, "version")) : "unknown");
    if (!json_string_value(json_object_get(j, "cluster_id")) || json_integer_value(json_object_get(j, "epoch")) < 1 ||
        json_integer_value(json_object_get(j, "last_event_id")) < 0)
        return MT_FAIL(err, MT_E_CORRUPT, "the backup's manifest names no cluster, epoch or event");
    return 0;
}

static int to_program(struct sink *s, const uint8_t *p, size_t n, struct mt_err *err)
{
    while (n) {
        ssize_t w = write(s->pg->fd, p, n);
        if (w < 0 && errno == EPIPE) { /* it has ended: its status and its words say why */
            int rc = mt_pg_program_wait(s->pg, CALL_MS, err);
            return rc < 0 ? rc : MT_FAIL(err, MT_E_IO, "pg_restore took not all of the backup");
        }
        if (w < 0 && errno != EINTR)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write to pg_restore");
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

static int take_file(struct sink *s, const uint8_t *p, uint32_t n, struct mt_err *err)
{
    if (!s->pg)
        return 0;
    mt_auto_free char *path = mt_asprintf("%s/%s", s->ctl->conf.data_dir, s->name + strlen(MT_RECORD_FILE));
    return path ? mt_file_write(path, p, n, 0600, err) : MT_FAIL(err, MT_E_NOMEM, "restore");
}

static int take(struct sink *s, const uint8_t *p, uint32_t n, struct mt_err *err)
{
    bool database = MT_STREQ(s->name, MT_RECORD_DATABASE);
    if (!s->name[0] || (!database && s->parts++ != 0))
        return MT_FAIL(err, MT_E_CORRUPT, "the backup has data that belong to no member");
    if (MT_STREQ(s->name, MT_RECORD_MANIFEST))
        return take_manifest(s, p, n, err);
    if (!database)
        return take_file(s, p, n, err);
    s->database_bytes += n;
    return s->pg ? to_program(s, p, n, err) : 0;
}

static int begin_member(struct sink *s, const char *name, struct mt_err *err)
{
    bool file = mt_starts_with(name, MT_RECORD_FILE);
    if (strlen(name) > MT_RECORD_NAME_MAX || s->database || (file && !good_name(name + strlen(MT_RECORD_FILE))) ||
        (!file && !MT_STREQ(name, MT_RECORD_MANIFEST) && !MT_STREQ(name, MT_RECORD_DATABASE)) || (s->manifest == NULL) != MT_STREQ(name, MT_RECORD_MANIFEST))
        return MT_FAIL(err, MT_E_CORRUPT, "the backup has a member where none may be");
    (void)snprintf(s->name, sizeof s->name, "%s", name);
    s->parts = 0;
    s->database = MT_STREQ(name, MT_RECORD_DATABASE);
    return 0;
}

static int through(struct mt_sealed *in, struct sink *s, struct mt_err *err)
{
    mt_auto_lockmem struct mt_lockmem buf = {0};
    enum mt_record type;
    uint32_t n;
    mt_auto_free uint8_t *data = malloc((size_t)MT_RECORD_MAX + 1);
    int rc = data ? 0 : MT_FAIL(err, MT_E_NOMEM, "restore");
    while (rc == 0 && (rc = mt_record_read(in, &type, data, &n, err)) == 0 && type != MT_RECORD_END)
        rc = type == MT_RECORD_MEMBER ? (strlen((const char *)data) == n ? begin_member(s, (const char *)data, err) : MT_FAIL(err, MT_E_CORRUPT, "the backup has a name with a NUL"))
                                      : take(s, data, n, err);
    if (data)
        explicit_bzero(data, (size_t)MT_RECORD_MAX + 1);
    if (rc == 0 && (!s->manifest || s->database_bytes == 0))
        rc = MT_FAIL(err, MT_E_CORRUPT, "the backup has no %s", s->manifest ? "database" : "manifest");
    return rc < 0 ? rc : mt_sealed_at_end(in, err);
}

/* One way through the file, from its begin. */
static int pass(struct mt_control *ctl, int fd, struct mt_keys *keys, struct mt_pg_program *pg, json_t **ret, struct mt_err *err)
{
    struct sink s = {.ctl = ctl, .pg = pg};
    struct mt_sealed in = {.fd = -1};
    int rc = lseek(fd, 0, SEEK_SET) == 0 ? mt_sealed_open(&in, fd, keys, err)
                                         : MT_FAIL_ERRNO(err, MT_E_INVALID, "the backup must be a file (it is read twice)");
    if (rc == 0)
        rc = through(&in, &s, err);
    if (rc == 0 && ret) {
        (void)json_object_set_new(s.manifest, "bytes", json_integer((json_int_t)in.bytes));
        *ret = json_incref(s.manifest);
    }
    json_decref(s.manifest);
    mt_sealed_done(&in);
    return rc;
}

static void tell(json_t *manifest, FILE *told)
{
    (void)json_dumpf(manifest, told, JSON_COMPACT | JSON_SORT_KEYS);
    (void)fputc('\n', told);
    (void)fflush(told);
}

static int check(struct mt_control *ctl, int fd, struct mt_keys **keys, json_t **manifest, struct mt_err *err)
{
    int rc = mt_keys_new(ctl->conf.master_keys_file, keys, err);
    return rc < 0 ? rc : pass(ctl, fd, *keys, NULL, manifest, err);
}

int mt_save_check(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err)
{
    struct mt_keys *keys = NULL;
    mt_auto_json json_t *manifest = NULL;
    int rc = check(ctl, fd, &keys, &manifest, err);
    if (rc == 0)
        tell(manifest, told);
    mt_keys_free(keys);
    return rc;
}

/* An event that no log has: whatever the restored server sees first, it knows that something is missing, and no node has to tell it. */
static int forget(struct mt_control *ctl, const json_t *manifest, struct mt_err *err)
{
    char line[256];
    const struct mt_mark m = {.epoch = json_integer_value(json_object_get(manifest, "epoch")), .event_id = json_integer_value(json_object_get(manifest, "last_event_id")) + 1};
    mt_auto_free char *path = mt_asprintf("%s/high-water", ctl->conf.data_dir);
    mt_mark_print(&m, json_string_value(json_object_get(manifest, "cluster_id")), line, sizeof line);
    return path ? mt_file_write(path, line, strlen(line), 0600, err) : MT_FAIL(err, MT_E_NOMEM, "restore");
}

static int empty(struct mt_control *ctl, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int rc = mt_bootstrap_owner(&ctl->conf, "moat-control restore", &pg, err);
    if (rc < 0 || (rc = mt_pg_query_one(pg, &st_tables, NULL, &res, err)) < 0)
        return rc;
    if (mt_pg_i64(res, 0, 0) != 0)
        return MT_FAIL(err, MT_E_CONFLICT, "the database has tables already, and a restore replaces none: stop moat-control, then"
                                           " /usr/lib/moat/setup-database --remove and /usr/lib/moat/setup-database");
    return mt_log_database(pg, err); /* its settings are in no dump of what is in it */
}

static int whole(struct mt_control *ctl, const json_t *manifest, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_log_verdict v;
    const struct mt_pg_conf pc = {.conninfo = ctl->conf.database_url, .role = ctl->conf.database_role, .options = MT_LOG_SEES_ALL, .call_timeout_ms = CALL_MS};
    int rc = mt_pg_connect(&pc, &pg, err);
    if (rc < 0 || (rc = mt_log_verify(pg, NULL, NULL, &v, err)) < 0)
        return rc;
    if (v.bad_event_id)
        return MT_FAIL(err, MT_E_CORRUPT, "the restored log is damaged at event %" PRId64 ": %s", v.bad_event_id, v.what);
    return v.events == json_integer_value(json_object_get(manifest, "last_event_id"))
               ? 0 : MT_FAIL(err, MT_E_CORRUPT, "the restored log has %" PRId64 " events, not as many as the backup says", v.events);
}

static int fill(struct mt_control *ctl, int fd, struct mt_keys *keys, struct mt_err *err)
{
    struct mt_pg_program p = {.pidfd = -1, .fd = -1};
    mt_auto_free char *conninfo = mt_bootstrap_owner_conninfo(&ctl->conf);
    int rc = conninfo ? mt_pg_program_init(&p, "pg_restore", conninfo, err) : MT_FAIL(err, MT_E_NOMEM, "restore");
    const char *name = rc == 0 ? mt_pg_env_get(p.env, "PGDATABASE") : NULL;
    if (rc == 0 && (!name || strchr(name, '=')))
        rc = MT_FAIL(err, MT_E_INVALID, "database_url names no dbname");
    const char *const argv[] = {"pg_restore", "--format=custom", "--single-transaction", "--exit-on-error", "--no-password", "--dbname", name, NULL};
    if (rc == 0)
        rc = mt_pg_program_start(&p, argv, true, err);
    if (rc == 0)
        rc = pass(ctl, fd, keys, &p, NULL, err);
    if (rc == 0 && p.pidfd >= 0)
        rc = mt_pg_program_wait(&p, CALL_MS, err);
    mt_pg_program_done(&p);
    return rc;
}

int mt_save_restore(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err)
{
    struct mt_keys *keys = NULL;
    mt_auto_json json_t *manifest = NULL;
    int rc = check(ctl, fd, &keys, &manifest, err);
    if (rc == 0 && (rc = empty(ctl, err)) == 0 && (rc = mt_file_mkdirs(ctl->conf.data_dir, 0700, err)) == 0 && (rc = forget(ctl, manifest, err)) == 0 &&
        (rc = fill(ctl, fd, keys, err)) == 0 && (rc = whole(ctl, manifest, err)) == 0)
        tell(manifest, told);
    mt_keys_free(keys);
    return rc;
}
