/* SPDX-License-Identifier: Apache-2.0 */
/* See offline.h. Each verb opens what it needs itself; a running server need not know of it. */
#include "control/first_operator.h"
#include "control/offline.h"
#include "control/offline_checks.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/bootstrap.h"
#include "control/log/schema.h"
#include "control/log/verify.h"
#include "control/save/save.h"
#include "control/secrets/keys.h"
#include "control/views/rebuild.h"
#include "control/volumes/backup_key.h"
#include "control/volumes/scan.h"
#include "model/ids.h"
#include "os/file.h"
#include "os/lockmem.h"
#include "wire/json.h"

#include <inttypes.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#define CALL_MS 600000

static int complain(const struct mt_err *err)
{
    fprintf(stderr, "moat-control: %s\n", err->msg);
    return 1;
}

static int misuse(const char *what)
{
    fprintf(stderr, "moat-control: %s\n", what);
    return 2;
}

/* Progress for people only. */
static bool progress(void *arg, int64_t done, int64_t head)
{
    const char *what = arg;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s %" PRId64 " of %" PRId64 " events%s", what, done, head, done >= head ? "\n" : "");
    return true;
}

static int verify_log(struct mt_control *ctl)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    struct mt_log_verdict v;
    char what[] = "verified";
    const struct mt_pg_conf pc = {.conninfo = ctl->conf.database_url, .role = ctl->conf.database_role, .options = MT_LOG_SEES_ALL, .call_timeout_ms = CALL_MS};
    if (mt_pg_connect(&pc, &pg, &err) < 0 || mt_log_verify(pg, progress, what, &v, &err) < 0)
        return complain(&err);
    if (!v.bad_event_id) {
        printf("the log is whole: %" PRId64 " events\n", v.events);
        return 0;
    }
    printf("the log is damaged at event %" PRId64 ": %s\n", v.bad_event_id, v.what);
    return 1;
}

static int verify_views(struct mt_control *ctl)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    struct mt_views_verdict v;
    char what[] = "replayed";
    const struct mt_rebuild_conf conf = {.progress = progress, .arg = what};
    if (mt_bootstrap_owner(&ctl->conf, "moat-control verify-views", &pg, &err) < 0 || mt_views_verify(pg, &conf, &v, &err) < 0)
        return complain(&err);
    if (!v.differences) {
        printf("the views are what the log says: %" PRId64 " rows after %" PRId64 " events\n", v.rows, v.events);
        return 0;
    }
    printf("%" PRId64 " rows differ, the first in %s%s%s\n  live    %s\n  rebuilt %s\nmend it with: moat-control rebuild --view all\n",
           v.differences, v.view, v.column[0] ? ", column " : "", v.column, v.live[0] ? v.live : "no row", v.rebuilt[0] ? v.rebuilt : "no row");
    return 1;
}

static int rebuild(struct mt_control *ctl, const char *view)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    struct mt_err err = {0};
    struct mt_rebuild_report rep;
    char what[] = "replayed";
    const struct mt_rebuild_conf conf = {.progress = progress, .arg = what};
    bool all = !view || MT_STREQ(view, "all");
    if (mt_bootstrap_owner(&ctl->conf, "moat-control rebuild", &pg, &err) < 0 ||
        mt_views_rebuild(pg, all ? NULL : view, &conf, &rep, &err) < 0)
        return complain(&err);
    printf("rebuilt %s from %" PRId64 " events in %" PRId64 ".%03" PRId64 " s; appending waited %" PRId64 " ms\n", all ? "all views" : view,
           rep.events, rep.took_us / 1000000, rep.took_us / 1000 % 1000, rep.stall_us / 1000);
    return 0;
}

/* ---- append ---- */

static const struct mt_pg_stmt st_correction = {
    "offline_correction", "INSERT INTO moat.corrections (event_id, reason, os_user) SELECT max(event_id), $1, $2 FROM moat.events"};

static int read_payload(const char *arg, json_t **ret, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t n = 0;
    int rc = 0;
    if (!arg || arg[0] != '@') {
        const char *t = arg ? arg : "{}";
        return mt_json_parse(t, strlen(t), MT_EV_PAYLOAD_MAX, 32, ret, err);
    }
    if ((rc = mt_file_read(arg + 1, MT_EV_PAYLOAD_MAX, &text, &n, err)) < 0)
        return rc;
    return mt_json_parse(text, n, MT_EV_PAYLOAD_MAX, 32, ret, err);
}

int mt_offline_correction(struct mt_cmd *cmd, const char *reason, const char *os_user, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, reason);
    mt_pg_p_text(&p, os_user);
    return mt_cmd_side(cmd, &st_correction, &p, 1, err);
}

static const char *os_user(char *ret, size_t size)
{
    char buf[1024];
    struct passwd pw, *found = NULL;
    (void)snprintf(ret, size, "root");
    if (getpwuid_r(getuid(), &pw, buf, sizeof buf, &found) == 0 && found)
        (void)snprintf(ret, size, "%s", pw.pw_name);
    return ret;
}

static int correction(const struct mt_offline_args *a, struct mt_cmd **ret, struct mt_err *err)
{
    char who[96], id[MT_ID_SIZE];
    enum mt_ev ev = mt_ev_by_name(a->type);
    json_t *payload = NULL;
    mt_id_new(MT_ID_REQUEST, id);
    const struct mt_cmd_actor actor = {.actor_type = "operator", .actor_id = os_user(who, sizeof who), .request_id = id};
    const struct mt_cmd_ids ids = {.org_id = a->org, .app_id = a->app, .env_id = a->env};
    if (ev == MT_EV_MAX)
        return MT_FAIL(err, MT_E_INVALID, "there is no event type '%s'", a->type);
    int rc = read_payload(a->payload, &payload, err);
    if (rc < 0)
        return mt_err_wrap(err, "--payload");
    if ((rc = mt_cmd_new(&actor, ret, err)) < 0) {
        json_decref(payload);
        return rc;
    }
    if ((rc = mt_cmd_event(*ret, ev, a->id, &ids, payload, err)) < 0)
        return rc;
    return mt_offline_correction(*ret, a->reason, who, err);
}

static int start_appender(struct mt_control *ctl, struct mt_err *err)
{
    const struct mt_appender_conf ac = {.pg = {.conninfo = ctl->conf.database_url, .role = ctl->conf.appender_role, .options = MT_LOG_SEES_ALL,
                                               .application_name = "moat-control offline"}};
    ctl->pg_conf = (struct mt_pg_conf){.conninfo = ctl->conf.database_url, .role = ctl->conf.database_role, .options = MT_LOG_SEES_ALL};
    return mt_appender_new(&ac, &ctl->appender, err);
}

static int append(struct mt_control *ctl, const struct mt_offline_args *a)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_err err = {0};
    struct mt_cmd_done done = {0};
    if (!a->type || !a->id || !a->reason || strlen(a->reason) < 3)
        return misuse("append needs --type, --id (the aggregate's) and --reason");
    int rc = correction(a, &cmd, &err);
    if (rc == 0 && (rc = start_appender(ctl, &err)) == 0) {
        rc = mt_append(ctl->appender, MT_TAKE(cmd), 30000, &done, &err);
        mt_cmd_done_free(&done);
    }
    mt_appender_free(MT_TAKE(ctl->appender));
    if (rc < 0)
        return complain(&err);
    printf("appended event %" PRId64 " (%s of %s)\n", done.event_id, a->type, a->id);
    return 0;
}

/* ---- scan-backups ---- */

static const struct mt_pg_stmt st_cluster = {"offline_cluster", "SELECT value #>> '{}' FROM cluster_view WHERE key = 'cluster_id'"};

static int read_cluster(struct mt_control *ctl, struct mt_err *err)
{
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    int rc = mt_pg_connect(&ctl->pg_conf, &pg, err);
    if (rc == 0 && (rc = mt_pg_query_one(pg, &st_cluster, NULL, &r, err)) == 0)
        (void)snprintf(ctl->cluster_id, sizeof ctl->cluster_id, "%s", mt_pg_text(r, 0, 0));
    return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_NOT_FOUND, "the database is of no cluster yet: moat-control init [--id CLUSTER]") : rc;
}

static int scan(struct mt_control *ctl, const struct mt_offline_args *a)
{
    char who[96];
    struct mt_err err = {0};
    const struct mt_scan_wish wish = {.apply = a->apply, .node_id = a->node, .reason = a->reason, .os_user = os_user(who, sizeof who)};
    if (a->apply && (!a->reason || strlen(a->reason) < 3))
        return misuse("scan-backups --apply needs --reason");
    mt_process_hide();
    int rc = mt_offline_become_owner(ctl->conf.data_dir, &err);
    if (rc == 0 && (rc = start_appender(ctl, &err)) == 0 && (rc = read_cluster(ctl, &err)) == 0 && (rc = mt_keys_new(ctl->conf.master_keys_file, &ctl->keys, &err)) == 0)
        rc = mt_scan(ctl, &wish, stdout, &err);
    mt_keys_free(MT_TAKE(ctl->keys));
    mt_appender_free(MT_TAKE(ctl->appender));
    return rc < 0 ? complain(&err) : 0;
}

static const struct mt_pg_stmt st_volume = {"offline_volume", "SELECT org_id, app_id, env_id FROM volumes_view WHERE volume_id = $1 AND NOT deleted"};

static int rekey_command(struct mt_control *ctl, const struct mt_offline_args *a, struct mt_cmd **ret, uint32_t *ret_epoch, struct mt_err *err)
{
    char who[96], id[MT_ID_SIZE];
    struct mt_pg_params p;
    mt_auto_pg struct mt_pg *pg = NULL;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_id_new(MT_ID_REQUEST, id);
    const struct mt_cmd_actor actor = {.actor_type = "operator", .actor_id = os_user(who, sizeof who), .request_id = id};
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, a->id);
    int rc = mt_pg_connect(&ctl->pg_conf, &pg, err);
    if (rc < 0 || (rc = mt_pg_query_one(pg, &st_volume, &p, &r, err)) < 0)
        return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_NOT_FOUND, "there is no volume %s", a->id) : rc;
    const struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, 0, 0), .app_id = mt_pg_text(r, 0, 1), .env_id = mt_pg_text(r, 0, 2)};
    if ((rc = mt_cmd_new(&actor, ret, err)) < 0 || (rc = mt_backup_key_next(ctl->keys, pg, *ret, ctl->cluster_id, a->id, ret_epoch, err)) < 0)
        return rc == -MT_E_NOT_FOUND ? MT_FAIL(err, MT_E_NOT_FOUND, "volume %s has no key yet: it was never backed up", a->id) : rc;
    if ((rc = mt_cmd_rely(*ret, MT_RELY_VOLUME_LIVE, a->id, NULL, 1, err)) < 0 ||
        (rc = mt_cmd_event(*ret, MT_EV_VOLUME_BACKUP_KEY_ROTATED, a->id, &ids, json_pack("{s:I,s:s}", "key_epoch", (json_int_t)*ret_epoch, "reason", a->reason), err)) < 0)
        return rc;
    return mt_offline_correction(*ret, a->reason, who, err);
}

static int rekey(struct mt_control *ctl, const struct mt_offline_args *a)
{
    uint32_t epoch = 0;
    struct mt_err err = {0};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    if (!a->id || !a->reason || strlen(a->reason) < 3)
        return misuse("rekey-backups needs --id (the volume's) and --reason");
    mt_process_hide();
    int rc = mt_offline_become_owner(ctl->conf.data_dir, &err);
    if (rc == 0 && (rc = start_appender(ctl, &err)) == 0 && (rc = read_cluster(ctl, &err)) == 0 && (rc = mt_keys_new(ctl->conf.master_keys_file, &ctl->keys, &err)) == 0 &&
        (rc = rekey_command(ctl, a, &cmd, &epoch, &err)) == 0)
        rc = mt_append(ctl->appender, MT_TAKE(cmd), 30000, &done, &err);
    mt_cmd_done_free(&done);
    mt_keys_free(MT_TAKE(ctl->keys));
    mt_appender_free(MT_TAKE(ctl->appender));
    if (rc == -MT_E_CONFLICT)
        (void)MT_FAIL(&err, MT_E_CONFLICT, "a snapshot of volume %s is under way: its key stays what it is until that has ended", a->id);
    if (rc < 0)
        return complain(&err);
    printf("{\"volume_id\":\"%s\",\"key_epoch\":%u}\n", a->id, epoch);
    return 0;
}

/* ---- init, migrate ---- */

static int init(struct mt_control *ctl, bool again, const char *cluster_id)
{
    struct mt_err err = {0};
    if (cluster_id && (strlen(cluster_id) > 31 || !mt_starts_with(cluster_id, "cl_") || strspn(cluster_id + 3, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != strlen(cluster_id + 3)))
        return misuse("init --id: the id of a cluster is cl_ and letters and digits");
    (void)snprintf(ctl->cluster_id, sizeof ctl->cluster_id, "%s", cluster_id ? cluster_id : "");
    int rc = mt_bootstrap_migrate(&ctl->conf, NULL, &err);
    if (rc == 0 && (rc = mt_bootstrap_mac_key(ctl, &err)) == 0 && (rc = start_appender(ctl, &err)) == 0)
        rc = mt_bootstrap(ctl, &err);
    mt_appender_free(MT_TAKE(ctl->appender));
    if (rc < 0)
        return complain(&err);
    printf("initialised cluster %s, prefix %s\n", ctl->cluster_id, ctl->prefix);
    if (ctl->conf.operator_token_file)
        printf("the local operator's token is in %s\n", ctl->conf.operator_token_file);
    return mt_first_operator(&ctl->conf, ctl->mac_key, again, &err) < 0 ? complain(&err) : 0;
}

static int migrate(struct mt_control *ctl)
{
    struct mt_err err = {0};
    if (mt_bootstrap_migrate(&ctl->conf, NULL, &err) < 0)
        return complain(&err);
    printf("the schema is current\n");
    return 0;
}

/* ---- backup, check-backup, restore ---- */

/* The stream is standard input or output: whose file it is, and when it gets its name, is the caller's. What is in it is told on the other one. */
static int saved(struct mt_control *ctl, const char *verb)
{
    struct mt_err err = {0};
    bool out = MT_STREQ(verb, "backup");
    if (isatty(out ? STDOUT_FILENO : STDIN_FILENO))
        return misuse(out ? "backup writes to standard output: > FILE, or use `moat admin backup FILE`" : "restore reads standard input: < FILE");
    mt_process_hide();
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ignore, NULL);
    int rc = mt_offline_become_owner(ctl->conf.data_dir, &err);
    if (rc == 0)
        rc = out                             ? mt_save(ctl, STDOUT_FILENO, stderr, &err)
             : MT_STREQ(verb, "check-backup") ? mt_save_check(ctl, STDIN_FILENO, stdout, &err)
                                              : mt_save_restore(ctl, STDIN_FILENO, stdout, &err);
    return rc < 0 ? complain(&err) : 0;
}

static int look(struct mt_control *ctl, const struct mt_offline_args *a)
{
    struct mt_err err = {0};
    bool database = MT_STREQ(a->verb, "check-database"), make = MT_STREQ(a->verb, "audit-checkpoint");
    if (!database && !a->key)
        return misuse("a checkpoint of the audit log needs --key FILE: the private key to make one, the public one to check it");
    if (make && isatty(STDOUT_FILENO))
        return misuse("audit-checkpoint writes to standard output: > FILE, or use `moat admin audit checkpoint FILE`");
    int rc = database ? mt_offline_become_owner(ctl->conf.data_dir, &err) : 0;
    if (rc == 0)
        rc = database ? mt_check_database(ctl, stdout, &err) : make ? mt_make_audit_checkpoint(ctl, a->key, stderr, &err) : mt_check_audit_checkpoint(ctl, a->key, stdout, &err);
    return rc < 0 ? complain(&err) : 0;
}

static const char *const verbs[] = {"init",    "migrate", "check-config", "verify-log", "verify-views", "rebuild",
                                    "append", "backup",  "check-backup", "restore",    "scan-backups", "rekey-backups",
                                    "check-database", "audit-checkpoint", "check-audit-checkpoint", NULL};

bool mt_offline_verb(const char *verb)
{
    for (int i = 0; verbs[i]; i++)
        if (MT_STREQ(verbs[i], verb))
            return true;
    return false;
}

int mt_offline_run(struct mt_control *ctl, const struct mt_offline_args *a)
{
    if (MT_STREQ(a->verb, "init"))
        return init(ctl, a->force, a->id);
    if (MT_STREQ(a->verb, "migrate"))
        return migrate(ctl);
    if (MT_STREQ(a->verb, "verify-log"))
        return verify_log(ctl);
    if (MT_STREQ(a->verb, "verify-views"))
        return verify_views(ctl);
    if (MT_STREQ(a->verb, "rebuild"))
        return rebuild(ctl, a->view);
    if (MT_STREQ(a->verb, "append"))
        return append(ctl, a);
    if (MT_STREQ(a->verb, "backup") || MT_STREQ(a->verb, "check-backup") || MT_STREQ(a->verb, "restore"))
        return saved(ctl, a->verb);
    if (MT_STREQ(a->verb, "scan-backups"))
        return scan(ctl, a);
    if (MT_STREQ(a->verb, "rekey-backups"))
        return rekey(ctl, a);
    if (MT_STREQ(a->verb, "check-database") || MT_STREQ(a->verb, "audit-checkpoint") || MT_STREQ(a->verb, "check-audit-checkpoint"))
        return look(ctl, a);
    return 0; /* check-config: it was loaded */
}
