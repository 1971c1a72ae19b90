/* SPDX-License-Identifier: Apache-2.0 */
/* The backup: see save.h. */
#include "control/save/save.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/bootstrap.h"
#include "control/log/schema.h"
#include "control/save/program.h"
#include "control/save/record.h"
#include "os/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 20)
#define FILES_MAX 64
#define CALL_MS 600000

/* Of the same snapshot as what pg_dump sees. */
static const struct mt_pg_stmt st_state = {
    "save_state",
    "SELECT pg_export_snapshot(), coalesce((SELECT i.value #>> '{}' FROM moat_views.cluster_view i WHERE i.key = 'cluster_id'), ''),"
    " c.epoch, c.last_event_id, encode(c.last_chain_hash, 'hex'), pg_database_size(current_database())"
    " FROM moat.event_counter c"};

/* For `moat admin upgrade check`: one row, the newest. */
static const struct mt_pg_stmt st_remember = {
    "save_remember", "INSERT INTO moat.control_backup_last (made_at, bytes, last_event_id) VALUES (now(), $1, $2)"
                     " ON CONFLICT (one) DO UPDATE SET made_at = now(), bytes = excluded.bytes, last_event_id = excluded.last_event_id"};

struct save {
    struct mt_control *ctl;
    struct mt_sealed out;
    json_t *manifest, *files;
    char snapshot[64];
};

static int member(struct save *s, const char *name, const void *data, size_t n, struct mt_err *err)
{
    int rc = mt_record_write(&s->out, MT_RECORD_MEMBER, name, strlen(name), err);
    return rc < 0 ? rc : mt_record_write(&s->out, MT_RECORD_DATA, data, n, err);
}

/* Names of data_dir's files, but for what is known of the log's end: a restored server must not take that for the truth. */
static int list_files(struct save *s, struct mt_err *err)
{
    const char *dir = s->ctl->conf.data_dir;
    DIR *d = opendir(dir);
    if (!d)
        return MT_FAIL_ERRNO(err, MT_E_IO, "open data_dir '%s'", dir);
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        struct stat st;
        /* a server that runs beside this writes its high-water file: what is on its way to be one is gone in a moment */
        if (e->d_name[0] == '.' || MT_STREQ(e->d_name, "high-water") || mt_file_is_part(e->d_name) || fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
            continue;
        if (json_array_size(s->files) >= FILES_MAX || st.st_size > (off_t)FILE_MAX || strlen(e->d_name) + strlen(MT_RECORD_FILE) > MT_RECORD_NAME_MAX)
            rc = MT_FAIL(err, MT_E_LIMIT, "data_dir '%s' has more than %d files or one over 1 MiB ('%s'): take out what is not moat-control's", dir, FILES_MAX, e->d_name);
        else if (json_array_append_new(s->files, json_string(e->d_name)) < 0)
            rc = MT_FAIL(err, MT_E_INVALID, "data_dir '%s': the name of a file is not UTF-8", dir);
    }
    (void)closedir(d);
    return rc;
}

static int describe(struct save *s, struct mt_pg *pg, struct mt_keys *keys, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_key_info info[MT_MASTERKEYS_MAX];
    char at[32];
    int rc = mt_pg_query_one(pg, &st_state, NULL, &res, err), schema = 0, least = 0;
    if (rc < 0 || (rc = mt_log_schema_version(pg, &schema, err)) < 0)
        return rc;
    /* A database that a newer program has migrated, and that this one may use: the next one who restores it may be as old as this one. */
    if (schema > mt_log_schema_known() && (rc = mt_log_schema_least(pg, &least, err)) < 0)
        return rc;
    if (mt_fmt(s->snapshot, sizeof s->snapshot, err, "--snapshot=%s", mt_pg_text(res, 0, 0)) < 0)
        return -(int)err->code;
    (void)mt_rfc3339(mt_clock_wall_us(), at);
    json_t *ids = json_array();
    size_t n = mt_keys_list(keys, info, MT_ARRAY_LEN(info));
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(ids, json_string(info[i].id));
    s->manifest = json_pack("{s:i,s:s,s:s,s:i,s:s,s:I,s:I,s:s,s:I,s:o,s:O}", "format", 1, "made_at", at, "version", MOAT_VERSION, "schema", schema, "cluster_id",
                            mt_pg_text(res, 0, 1), "epoch", (json_int_t)mt_pg_i64(res, 0, 2), "last_event_id", (json_int_t)mt_pg_i64(res, 0, 3), "last_chain_hash",
                            mt_pg_text(res, 0, 4), "database_bytes", (json_int_t)mt_pg_i64(res, 0, 5), "master_keys", ids, "files", s->files);
    if (s->manifest && least && json_object_set_new(s->manifest, "schema_least", json_integer(least)) < 0)
        return MT_FAIL(err, MT_E_NOMEM, "backup");
    return s->manifest ? 0 : MT_FAIL(err, MT_E_NOMEM, "backup");
}

static int put_files(struct save *s, struct mt_err *err)
{
    size_t i;
    json_t *name;
    int rc = 0;
    json_array_foreach(s->files, i, name)
    {
        mt_auto_free char *path = mt_asprintf("%s/%s", s->ctl->conf.data_dir, json_string_value(name));
        mt_auto_free char *as = mt_asprintf(MT_RECORD_FILE "%s", json_string_value(name));
        char *text = NULL;
        size_t n = 0;
        rc = path && as ? mt_file_read(path, FILE_MAX, &text, &n, err) : MT_FAIL(err, MT_E_NOMEM, "backup");
        if (rc == 0)
            rc = member(s, as, text, n, err);
        if (text)
            explicit_bzero(text, n);
        free(text);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int put_database(struct save *s, const char *conninfo, struct mt_err *err)
{
    struct mt_pg_program p;
    const char *const argv[] = {"pg_dump", "--format=custom", "--compress=6", "--no-password", s->snapshot, NULL};
    static uint8_t buf[256 << 10];
    int rc = mt_pg_program_init(&p, "pg_dump", conninfo, err);
    if (rc == 0)
        rc = mt_record_write(&s->out, MT_RECORD_MEMBER, MT_RECORD_DATABASE, strlen(MT_RECORD_DATABASE), err);
    if (rc == 0)
        rc = mt_pg_program_start(&p, argv, false, err);
    while (rc == 0) {
        ssize_t n = read(p.fd, buf, sizeof buf);
        if (n == 0)
            break;
        if (n > 0)
            rc = mt_record_write(&s->out, MT_RECORD_DATA, buf, (size_t)n, err);
        else if (errno != EINTR)
            rc = MT_FAIL_ERRNO(err, MT_E_IO, "read from pg_dump");
    }
    if (rc == 0)
        rc = mt_pg_program_wait(&p, CALL_MS, err);
    mt_pg_program_done(&p);
    return rc;
}

static int write_all(struct save *s, int fd, const char *conninfo, struct mt_keys *keys, struct mt_pg *pg, struct mt_err *err)
{
    int rc = mt_pg_exec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", err);
    if (rc < 0 || (rc = list_files(s, err)) < 0 || (rc = describe(s, pg, keys, err)) < 0)
        return rc;
    mt_auto_free char *text = json_dumps(s->manifest, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text)
        return MT_FAIL(err, MT_E_NOMEM, "backup");
    if ((rc = mt_sealed_create(&s->out, fd, keys, err)) < 0 || (rc = member(s, MT_RECORD_MANIFEST, text, strlen(text), err)) < 0 ||
        (rc = put_files(s, err)) < 0 || (rc = put_database(s, conninfo, err)) < 0 || (rc = mt_record_write(&s->out, MT_RECORD_END, "", 0, err)) < 0)
        return rc;
    return mt_sealed_finish(&s->out, err);
}

/* The backup is whole: that it cannot be noted is no reason to throw it away. */
static void remember(struct save *s, struct mt_pg *pg)
{
    struct mt_err err = {0};
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, (int64_t)s->out.bytes);
    mt_pg_p_i64(&p, json_integer_value(json_object_get(s->manifest, "last_event_id")));
    if (mt_pg_exec(pg, "ROLLBACK", &err) < 0 || mt_pg_query(pg, &st_remember, &p, NULL, &err) < 0)
        mt_log(MT_WARN, "backup.not_noted", KV_ERR(&err), KV("hint", "the backup is whole; `moat admin upgrade check` does not know of it"));
}

int mt_save(struct mt_control *ctl, int fd, FILE *told, struct mt_err *err)
{
    struct save s = {.ctl = ctl, .files = json_array(), .out = {.fd = -1}};
    struct mt_keys *keys = NULL;
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_free char *conninfo = mt_bootstrap_owner_conninfo(&ctl->conf);
    int rc = s.files && conninfo ? mt_keys_new(ctl->conf.master_keys_file, &keys, err) : MT_FAIL(err, MT_E_NOMEM, "backup");
    if (rc == 0)
        rc = mt_bootstrap_owner(&ctl->conf, "moat-control backup", &pg, err);
    if (rc == 0)
        rc = write_all(&s, fd, conninfo, keys, pg, err);
    if (rc == 0) {
        remember(&s, pg);
        (void)json_object_set_new(s.manifest, "bytes", json_integer((json_int_t)s.out.bytes));
        (void)json_dumpf(s.manifest, told, JSON_COMPACT | JSON_SORT_KEYS);
        (void)fputc('\n', told);
    }
    mt_sealed_done(&s.out);
    mt_keys_free(keys);
    json_decref(s.manifest);
    json_decref(s.files);
    return rc;
}
