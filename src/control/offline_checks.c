/* SPDX-License-Identifier: Apache-2.0 */
#include "control/offline_checks.h"

#include "base/cleanup.h"
#include "control/audit/checkpoint.h"
#include "control/audit/verify.h"
#include "control/bootstrap.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "control/secrets/keys.h"
#include "control/secrets/rewrap.h"
#include "control/views/rebuild.h"
#include "os/file.h"
#include "os/lockmem.h"

#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#define CALL_MS 600000
#define KEY_MAX ((size_t)16 << 10)

static int connect_reader(const struct mt_control *ctl, struct mt_pg **ret, struct mt_err *err)
{
    const struct mt_pg_conf pc = {.conninfo = ctl->conf.database_url, .role = ctl->conf.database_role, .options = MT_LOG_SEES_ALL, .call_timeout_ms = CALL_MS};
    return mt_pg_connect(&pc, ret, err);
}

/* Root's hands are not needed: what is written in data_dir belongs to its owner, and PostgreSQL knows that one's name (peer). */
int mt_offline_become_owner(const char *data_dir, struct mt_err *err)
{
    struct stat st;
    char buf[4096];
    struct passwd pw, *found = NULL;
    if (getuid() != 0 || stat(data_dir, &st) < 0 || st.st_uid == 0)
        return 0;
    if (getpwuid_r(st.st_uid, &pw, buf, sizeof buf, &found) != 0 || !found)
        return MT_FAIL(err, MT_E_NOT_FOUND, "the owner of data_dir '%s' (%u) is no user of this machine", data_dir, st.st_uid);
    if (initgroups(pw.pw_name, pw.pw_gid) < 0 || setgid(pw.pw_gid) < 0 || setuid(pw.pw_uid) < 0)
        return MT_FAIL_ERRNO(err, MT_E_DENIED, "become '%s', who owns data_dir '%s'", pw.pw_name, data_dir);
    return 0;
}

/* ---- check-database ---- */

struct chains {
    int64_t n;
    struct mt_audit_verdict bad;
};

static void one_chain(void *arg, const struct mt_audit_verdict *v)
{
    struct chains *c = arg;
    c->n++;
    if (v->bad_seq && !c->bad.bad_seq)
        c->bad = *v;
}

static int check_schema(struct mt_pg *pg, int *ret, struct mt_err *err)
{
    int least = 0, known = mt_log_schema_known(), rc = mt_log_schema_version(pg, ret, err);
    if (rc < 0)
        return rc;
    if (*ret < known)
        return MT_FAIL(err, MT_E_CONFLICT, "the database is of schema %d, this program of %d: moat-control migrate", *ret, known);
    if (*ret > known && (rc = mt_log_schema_least(pg, &least, err)) < 0)
        return rc;
    return least > known ? MT_FAIL(err, MT_E_CONFLICT, "the database is of schema %d and needs a program of %d or newer, this one is of %d", *ret, least, known) : 0;
}

static int check_views(const struct mt_control *ctl, int64_t *ret_rows, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *owner = NULL;
    struct mt_views_verdict v = {0};
    const struct mt_rebuild_conf conf = {0};
    int rc = mt_bootstrap_owner(&ctl->conf, "moat-control check-database", &owner, err);
    if (rc < 0 || (rc = mt_views_verify(owner, &conf, &v, err)) < 0)
        return rc;
    *ret_rows = v.rows;
    return v.differences ? MT_FAIL(err, MT_E_CORRUPT, "%" PRId64 " rows of views are not what the log says, the first in %s: moat-control rebuild --view all", v.differences, v.view) : 0;
}

static int check_secrets(struct mt_control *ctl, struct mt_pg *pg, struct mt_verify_done *ret, struct mt_err *err)
{
    int rc = mt_keys_new(ctl->conf.master_keys_file, &ctl->keys, err);
    if (rc == 0)
        rc = mt_secrets_verify(ctl->keys, pg, ret, err);
    mt_keys_free(MT_TAKE(ctl->keys));
    if (rc < 0)
        return rc;
    if (ret->opened < ret->wrapped || ret->envelopes_opened < ret->envelopes)
        return MT_FAIL(err, MT_E_CORRUPT, "%" PRId64 " of %" PRId64 " keys and %" PRId64 " of %" PRId64 " contents of secrets do not open with the master keys of '%s'",
                       ret->wrapped - ret->opened, ret->wrapped, ret->envelopes - ret->envelopes_opened, ret->envelopes, ctl->conf.master_keys_file);
    return 0;
}

int mt_check_database(struct mt_control *ctl, FILE *out, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_log_verdict log = {0};
    struct chains chains = {0};
    struct mt_verify_done secrets = {0};
    int schema = 0;
    int64_t rows = 0, pending = 0;
    int rc = connect_reader(ctl, &pg, err);
    if (rc < 0 || (rc = check_schema(pg, &schema, err)) < 0 || (rc = mt_log_verify(pg, NULL, NULL, &log, err)) < 0)
        return rc;
    if (log.bad_event_id)
        return MT_FAIL(err, MT_E_CORRUPT, "the log is damaged at event %" PRId64 ": %s", log.bad_event_id, log.what);
    if ((rc = check_views(ctl, &rows, err)) < 0 || (rc = mt_audit_verify(pg, NULL, one_chain, &chains, &pending, err)) < 0)
        return rc;
    if (chains.bad.bad_seq)
        return MT_FAIL(err, MT_E_CORRUPT, "chain %s of the audit log does not hold at record %" PRId64 ": %s", chains.bad.chain, chains.bad.bad_seq, chains.bad.what);
    if ((rc = check_secrets(ctl, pg, &secrets, err)) < 0)
        return rc;
    fprintf(out, "{\"schema\":%d,\"events\":%" PRId64 ",\"view_rows\":%" PRId64 ",\"audit_chains\":%" PRId64 ",\"keys_opened\":%" PRId64 ",\"secrets_opened\":%" PRId64 "}\n", schema,
            log.events, rows, chains.n, secrets.opened, secrets.envelopes_opened);
    return 0;
}

/* ---- checkpoints of the audit log ---- */

static const struct mt_pg_stmt st_cluster = {"checks_cluster", "SELECT value #>> '{}' FROM cluster_view WHERE key = 'cluster_id'"};

static int open_cluster(const struct mt_control *ctl, struct mt_pg **ret, char *cluster, size_t size, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_offline_become_owner(ctl->conf.data_dir, err);
    if (rc == 0 && (rc = connect_reader(ctl, ret, err)) == 0 && (rc = mt_pg_query_one(*ret, &st_cluster, NULL, &r, err)) == 0)
        (void)snprintf(cluster, size, "%s", mt_pg_text(r, 0, 0));
    return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_NOT_FOUND, "the database is of no cluster yet: moat-control init [--id CLUSTER]") : rc;
}

static int write_all(int fd, const char *p, size_t n, struct mt_err *err)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "write the checkpoint");
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static void tell(FILE *to, const char *cluster, const struct mt_checkpoint_report *r)
{
    fprintf(to, "{\"cluster_id\":\"%s\",\"made_at\":\"%s\",\"chains\":%" PRId64 ",\"records\":%" PRId64 ",\"pruned\":%" PRId64 "}\n", cluster, r->made_at, r->chains, r->records, r->pruned);
}

int mt_make_audit_checkpoint(struct mt_control *ctl, const char *key, FILE *report, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_CHECKPOINT_MAX);
    struct mt_checkpoint_report r;
    char cluster[64] = "", *pem = NULL;
    size_t n = 0;
    mt_process_hide(); /* the key is read as whoever called, root as a rule; nobody else gets at it afterwards */
    int rc = mt_file_read(key, KEY_MAX, &pem, &n, err);
    if (rc < 0)
        return rc;
    if ((rc = open_cluster(ctl, &pg, cluster, sizeof cluster, err)) == 0)
        rc = mt_checkpoint_make(pg, cluster, pem, n, &b, &r, err);
    explicit_bzero(pem, n);
    free(pem);
    if (rc == 0 && (rc = write_all(STDOUT_FILENO, mt_buf_cstr(&b), b.len, err)) == 0)
        tell(report, cluster, &r);
    return rc;
}

static int read_all(int fd, struct mt_buf *b, struct mt_err *err)
{
    char part[16384];
    for (;;) {
        ssize_t n = read(fd, part, sizeof part);
        if (n < 0)
            return MT_FAIL_ERRNO(err, MT_E_IO, "read the checkpoint");
        if (n == 0)
            return 0;
        mt_buf_put(b, part, (size_t)n);
        if (b->failed)
            return MT_FAIL(err, MT_E_LIMIT, "a checkpoint has at most %zu bytes", (size_t)MT_CHECKPOINT_MAX);
    }
}

int mt_check_audit_checkpoint(struct mt_control *ctl, const char *key, FILE *report, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_CHECKPOINT_MAX);
    struct mt_checkpoint_report r;
    char cluster[64] = "";
    mt_auto_free char *pem = NULL;
    size_t n = 0;
    int rc = mt_file_read(key, KEY_MAX, &pem, &n, err);
    if (rc < 0 || (rc = read_all(STDIN_FILENO, &b, err)) < 0 || (rc = open_cluster(ctl, &pg, cluster, sizeof cluster, err)) < 0)
        return rc;
    if ((rc = mt_checkpoint_check(pg, cluster, mt_buf_cstr(&b), b.len, pem, n, &r, err)) == 0)
        tell(report, cluster, &r);
    return rc;
}
