/* SPDX-License-Identifier: Apache-2.0 */
/* See collector.h. Blocks on its program, so it has a thread and a connection of its own. */
#include "control/volumes/collector.h"

#include "base/b64.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/log/history.h"
#include "control/log/locks.h"
#include "control/roles.h"
#include "control/volumes/backup_key.h"
#include "control/volumes/retention.h"
#include "wire/backup_call.h"
#include "wire/backup_conf.h"
#include "wire/json.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOK_MS 5000
#define LEASE_S "180"
#define RENEW_NS (10 * MT_NS_PER_S)
#define FRESH_NS (20 * MT_NS_PER_S)   /* the next batch may be deleted: what is left of the lease is far more than it takes */
#define GIVE_UP_NS (60 * MT_NS_PER_S) /* no renewal for so long: the program is ended */
#define REQUEST_TIMEOUT_S 10          /* of one request, and its tries: so a batch ends within the lease */
#define TRIES 3
#define RUN_S 21600
#define LIST_MAX 1000 /* ids in a list of a request, docs/formats/backup.md */
#define REQUEST_MAX ((size_t)192 << 10)
#define NOBODY 65534

struct mt_collector {
    struct mt_control *ctl;
    pthread_t thread;
    atomic_bool stop;
    int wake_fd;
    struct mt_pg *pg;
    char last[240]; /* complaint, said once while it repeats */
};

#define MS(t) "(extract(epoch FROM " t ") * 1000)::bigint"

/* $1 days that backups outlive their volume. One of which no backup is left then is purged, without a pause. One that was interrupted is as if it had not
 * been tried. */
static const struct mt_pg_stmt candidates = {
    "collect_candidates",
    "SELECT v.volume_id, v.org_id, v.app_id, v.env_id, p.purge, " MS("f.first_at") ", coalesce(CASE WHEN p.purge THEN " MS("coalesce(f.given_at, v.deleted_at)") " ELSE " MS("f.given_at")
    " END, 0), CASE WHEN p.purge THEN 0 ELSE coalesce(" MS("v.collected_at") ", 0) END, CASE WHEN coalesce(v.collect_failed, 'interrupted') = 'interrupted' THEN 0 ELSE "
    MS("v.collect_tried_at") " END, " MS("clock_timestamp()")
    ", v.collected_upto FROM volumes_view v CROSS JOIN LATERAL (SELECT min(s.finished_at) AS first_at, max(s.pruned_at) FILTER (WHERE s.last_event_id > v.collected_upto) AS given_at,"
    " count(*) FILTER (WHERE s.status = 'succeeded' AND s.pruned_at IS NULL) AS kept, bool_or(s.status IN ('queued', 'running')) AS active"
    " FROM snapshots_view s WHERE s.volume_id = v.volume_id) f"
    " CROSS JOIN LATERAL (SELECT v.deleted AND f.kept = 0 AND (v.delete_backups OR v.deleted_at < now() - make_interval(days => $1)) AS purge) p"
    " WHERE NOT v.backups_purged AND f.first_at IS NOT NULL AND NOT f.active ORDER BY v.volume_id COLLATE \"C\""};
enum { C_VOLUME = 0, C_ORG, C_APP, C_ENV, C_PURGE, C_FIRST, C_GIVEN, C_COLLECTED, C_TRIED, C_NOW, C_UPTO };

/* What is kept, and what was given up or came to nothing since; $2 the event up to which that is done. */
static const struct mt_pg_stmt manifests = {
    "collect_manifests",
    "SELECT snapshot_id, status = 'succeeded' AND pruned_at IS NULL AS kept, last_event_id FROM snapshots_view WHERE volume_id = $1 AND (last_event_id > $2 OR"
    " (status = 'succeeded' AND pruned_at IS NULL)) ORDER BY last_event_id"};
static const struct mt_pg_stmt epochs = {"collect_epochs", "SELECT key_epoch FROM moat.volume_backup_keys WHERE volume_id = $1 ORDER BY key_epoch"};

static const struct mt_pg_stmt log_lock = {"collect_log_lock", "SELECT pg_advisory_xact_lock(" MT_LOCK_LOG ")"};
static const struct mt_pg_stmt take = {
    "collect_take", "INSERT INTO moat.backup_collections (volume_id, lease_epoch, until) SELECT $1, $2, clock_timestamp() + interval '" LEASE_S " s' WHERE"
                    " EXISTS (SELECT 1 FROM moat.leases WHERE name = 'backups' AND epoch = $2) AND"
                    " NOT EXISTS (SELECT 1 FROM snapshots_view WHERE volume_id = $1 AND status IN ('queued', 'running')) ON CONFLICT DO NOTHING"};
static const struct mt_pg_stmt renew = {"collect_renew", "UPDATE moat.backup_collections SET until = clock_timestamp() + interval '" LEASE_S
                                                         " s' WHERE volume_id = $1 AND lease_epoch = $2 AND until > clock_timestamp()"};
static const struct mt_pg_stmt release = {"collect_release", "DELETE FROM moat.backup_collections WHERE volume_id = $1 AND lease_epoch = $2"};
static const struct mt_pg_stmt left_behind = {
    "collect_left", "SELECT c.volume_id, v.org_id, v.app_id, v.env_id, c.lease_epoch, greatest(0, " MS("(clock_timestamp() - c.began_at)") ") FROM moat.backup_collections c"
                    " JOIN volumes_view v ON v.volume_id = c.volume_id WHERE c.until < clock_timestamp() LIMIT 16"};
static const struct mt_pg_stmt release_left = {
    "collect_release_left", "DELETE FROM moat.backup_collections WHERE volume_id = $1 AND lease_epoch = $2 AND until < clock_timestamp()"};
static const struct mt_pg_stmt forget_keys = {"collect_forget_keys", "DELETE FROM moat.volume_backup_keys WHERE volume_id = $1"};

struct run {
    struct mt_collector *c;
    const char *volume_id, *org_id, *app_id, *env_id;
    int64_t lease, upto, renewed_ns, asked_ns, began_ns;
    bool purge, asked;  /* asked: the program waits for our word */
    int step_fd;        /* on which it gets that */
    char failed_reason[64], detail[64];
};

static int failed(struct run *r, const char *reason, const char *detail, int rc)
{
    (void)snprintf(r->failed_reason, sizeof r->failed_reason, "%s", reason);
    (void)snprintf(r->detail, sizeof r->detail, "%.63s", detail ? detail : "");
    return rc;
}

static void lease_params(const struct run *r, struct mt_pg_params *p)
{
    mt_pg_p_init(p);
    mt_pg_p_text(p, r->volume_id);
    mt_pg_p_i64(p, r->lease);
}

/* Asked by the program's reader a few times a second. */
static bool must_stop(void *arg)
{
    struct run *r = arg;
    int64_t now = mt_clock_mono();
    if (atomic_load(&r->c->stop) || mt_roles_epoch(r->c->ctl->roles, MT_LEAD_BACKUPS) != r->lease)
        return true;
    if (now - r->asked_ns >= RENEW_NS) {
        struct mt_pg_params p;
        struct mt_err ignored = {0};
        mt_auto_pg_res struct mt_pg_res *res = NULL;
        lease_params(r, &p);
        r->asked_ns = now;
        if ((mt_pg_idle_check(r->c->pg) || mt_pg_reset(r->c->pg, &ignored) == 0) && mt_pg_query(r->c->pg, &renew, &p, &res, &ignored) == 0 && mt_pg_affected(res) == 1)
            r->renewed_ns = now;
    }
    if (r->asked && now - r->renewed_ns < FRESH_NS) {
        r->asked = false;
        (void)!write(r->step_fd, "x", 1);
    }
    return now - r->renewed_ns > GIVE_UP_NS;
}

/* Before each batch that is deleted. A process that was stopped and goes on when its lease is another's gives no word. */
static void asks(void *arg, const char *word)
{
    struct run *r = arg;
    (void)word;
    r->asked = true;
    (void)must_stop(r);
}

/* ---- the request ---- */

static int put_keys(struct run *r, struct mt_buf *b, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, r->volume_id);
    int rc = mt_pg_query(r->c->pg, &epochs, &p, &res, err);
    if (rc < 0)
        return rc;
    mt_buf_puts(b, ",\"keys\":[");
    for (int i = 0; i < mt_pg_rows(res); i++) {
        uint8_t key[MT_AEAD_KEY], wrapped[MT_SEAL_WRAPPED];
        char hex[2 * MT_AEAD_KEY + 1];
        uint32_t epoch = (uint32_t)mt_pg_i64(res, i, 0);
        if ((rc = mt_backup_key_open(r->c->ctl->keys, r->c->pg, r->c->ctl->cluster_id, r->volume_id, epoch, &epoch, key, wrapped, err)) < 0)
            return failed(r, rc == -MT_E_UNAVAILABLE ? "master_key_unavailable" : "encryption_failed", "key", rc);
        mt_hex_encode(key, sizeof key, hex);
        mt_buf_printf(b, "%s{\"epoch\":%u,\"key\":\"", i ? "," : "", epoch);
        mt_buf_puts(b, hex);
        mt_buf_puts(b, "\"}");
        explicit_bzero(key, sizeof key);
        explicit_bzero(hex, sizeof hex);
    }
    mt_buf_putc(b, ']');
    return 0;
}

/* What goes, and what must be there; moves r->upto to the last one that goes. */
static int put_manifests(struct run *r, struct mt_buf *b, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, r->volume_id);
    mt_pg_p_i64(&p, r->upto);
    int rc = mt_pg_query(r->c->pg, &manifests, &p, &res, err);
    if (rc < 0)
        return rc;
    for (int kept = 0; kept < 2; kept++) {
        int n = 0;
        mt_buf_printf(b, ",\"%s_manifests\":[", kept ? "expect" : "delete");
        for (int i = 0; i < mt_pg_rows(res); i++) {
            if (mt_pg_bool(res, i, 1) != (kept != 0))
                continue;
            if (n == LIST_MAX && kept)
                return failed(r, "too_many_backups", "expect_manifests", MT_FAIL(err, MT_E_LIMIT, "the volume has more than %d backups", LIST_MAX));
            if (n == LIST_MAX)
                break; /* the rest next time */
            mt_buf_printf(b, "%s\"%s\"", n++ ? "," : "", mt_pg_text(res, i, 0));
            if (!kept)
                r->upto = mt_pg_i64(res, i, 2);
        }
        mt_buf_putc(b, ']');
    }
    return 0;
}

static int run_program(struct run *r, struct mt_backup_conf *store, json_t **ret_line, struct mt_err *err)
{
    const struct mt_control *ctl = r->c->ctl;
    mt_auto_fd int theirs = -1, ours = -1;
    int step[2];
    if (pipe2(step, O_CLOEXEC) < 0)
        return MT_FAIL_ERRNO(err, MT_E_IO, "pipe");
    theirs = step[0];
    r->step_fd = ours = step[1];
    store->request_timeout_s = store->request_timeout_s < REQUEST_TIMEOUT_S ? store->request_timeout_s : REQUEST_TIMEOUT_S;
    store->tries = store->tries < TRIES ? store->tries : TRIES;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(REQUEST_MAX);
    unsigned uid = geteuid() ? geteuid() : NOBODY, gid = geteuid() ? getegid() : NOBODY;
    int rc = 0;
    (void)mt_buf_reserve(&b, REQUEST_MAX); /* it holds keys and must not move: a copy would stay behind */
    mt_buf_puts(&b, "{\"store\":");
    mt_backup_conf_put(store, &b);
    mt_buf_printf(&b, ",\"cluster_id\":\"%s\",\"org_id\":\"%s\",\"volume_id\":\"%s\",\"uid\":%u,\"gid\":%u,\"total_timeout_s\":%d,\"step_fd\":%d", ctl->cluster_id, r->org_id, r->volume_id, uid, gid,
                  RUN_S, theirs);
    if (r->purge)
        mt_buf_puts(&b, ",\"purge\":true");
    else if ((rc = put_keys(r, &b, err)) == 0)
        rc = put_manifests(r, &b, err);
    mt_buf_putc(&b, '}');
    if (rc < 0) {
        explicit_bzero(b.p, b.cap);
        return rc;
    }
    struct mt_backup_call call = {.program = ctl->conf.backup_program, .verb = "gc", .fds = &theirs, .fd_n = 1, .stop = must_stop, .step = asks, .arg = r};
    rc = mt_backup_call(&call, &b, ret_line, err);
    if (rc == -MT_E_CANCELLED)
        return failed(r, "interrupted", NULL, rc);
    return rc < 0 ? failed(r, call.failed_reason, json_string_value(json_object_get(json_object_get(*ret_line, "error"), "detail")), rc) : 0;
}

/* ---- the end ---- */

/* The event, and with it the end of the lease. */
static int record(struct run *r, json_t *line, bool left, struct mt_err *err)
{
    static const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "backups", .request_id = "collection"};
    static const char *const counts[] = {"manifests", "manifests_deleted", "chunks_deleted", "bytes_deleted", "chunks_kept_young", NULL};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    struct mt_pg_params p, q;
    const struct mt_cmd_ids ids = {.org_id = r->org_id, .app_id = r->app_id, .env_id = r->env_id};
    bool ok = !r->failed_reason[0];
    lease_params(r, &p);
    mt_pg_p_init(&q);
    mt_pg_p_text(&q, r->volume_id);
    json_t *payload = json_pack("{s:s,s:b,s:I,s:I}", "result", ok ? "ok" : "failed", "purged", (int)(ok && r->purge), "upto_event_id", (json_int_t)r->upto, "duration_ms",
                                (json_int_t)((mt_clock_mono() - r->began_ns) / MT_NS_PER_MS));
    if (!payload)
        return MT_FAIL(err, MT_E_NOMEM, "payload of a collection");
    if (!ok)
        (void)json_object_set_new(payload, "failed_reason", json_string(r->failed_reason));
    if (!ok && r->detail[0])
        (void)json_object_set_new(payload, "detail", json_string(r->detail));
    for (size_t i = 0; ok && counts[i]; i++)
        if (json_is_integer(json_object_get(line, counts[i])))
            (void)json_object_set(payload, counts[i], json_object_get(line, counts[i]));
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc == 0)
        rc = mt_cmd_event(cmd, MT_EV_VOLUME_BACKUPS_COLLECTED, r->volume_id, &ids, payload, err);
    else
        json_decref(payload);
    if (rc < 0 || (rc = mt_cmd_cause(cmd, r->volume_id, 0, err)) < 0 || (rc = mt_cmd_side(cmd, left ? &release_left : &release, &p, 1, err)) < 0 ||
        (ok && r->purge && (rc = mt_cmd_side(cmd, &forget_keys, &q, -1, err)) < 0))
        return rc;
    rc = mt_append(r->c->ctl->appender, MT_TAKE(cmd), 10000, &done, err);
    mt_cmd_done_free(&done);
    return rc;
}

/* ---- one volume ---- */

/* Returns 1 with the lease, 0 not now, -code. */
static int begin(struct run *r, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_err ignored;
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    struct mt_pg *pg = r->c->pg;
    lease_params(r, &p);
    int rc = mt_pg_exec(pg, "BEGIN", err);
    if (rc == 0 && (rc = mt_pg_query(pg, &log_lock, NULL, NULL, err)) == 0)
        rc = mt_pg_query(pg, &take, &p, &res, err);
    if (rc == 0)
        rc = mt_pg_exec(pg, "COMMIT", err);
    else if (mt_pg_alive(pg))
        (void)mt_pg_exec(pg, "ROLLBACK", &ignored);
    r->began_ns = r->renewed_ns = r->asked_ns = mt_clock_mono();
    return rc < 0 ? rc : mt_pg_affected(res) == 1;
}

static int collect(struct run *r, struct mt_backup_conf *store, struct mt_err *err)
{
    struct mt_err why = {0};
    mt_auto_json json_t *line = NULL;
    int rc = begin(r, err);
    if (rc <= 0)
        return rc;
    rc = run_program(r, store, &line, &why);
    if (rc < 0 && !r->failed_reason[0])
        (void)failed(r, "internal_error", NULL, rc);
    if (rc < 0 && mt_roles_epoch(r->c->ctl->roles, MT_LEAD_BACKUPS) != r->lease)
        return 0; /* whoever holds the role now tells of it when the lease has run out */
    if (rc < 0)
        mt_log(MT_WARN, "backup.not_collected", KV("volume_id", r->volume_id), KV("failed_reason", (const char *)r->failed_reason), KV_ERR(&why));
    else
        mt_log(MT_INFO, "backup.collected", KV("volume_id", r->volume_id), KV("purged", r->purge), KV("chunks_deleted", (int64_t)json_integer_value(json_object_get(line, "chunks_deleted"))));
    rc = record(r, line, false, err);
    return rc < 0 ? rc : 1;
}

static int end_left_behind(struct mt_collector *c, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int rc = mt_pg_query(c->pg, &left_behind, NULL, &res, err);
    for (int i = 0; rc == 0 && i < mt_pg_rows(res); i++) {
        struct run r = {.c = c, .volume_id = mt_pg_text(res, i, 0), .org_id = mt_pg_text(res, i, 1), .app_id = mt_pg_text(res, i, 2), .env_id = mt_pg_text(res, i, 3),
                        .lease = mt_pg_i64(res, i, 4), .began_ns = mt_clock_mono() - mt_pg_i64(res, i, 5) * MT_NS_PER_MS};
        (void)failed(&r, "interrupted", NULL, 0);
        rc = record(&r, NULL, true, err);
        if (rc == -MT_E_CONFLICT)
            rc = 0;
    }
    return rc;
}

/* The volume that is owed longest. Returns 1 something was done, 0 nothing is due, -code. */
static int look(struct mt_collector *c, int64_t lease, struct mt_err *err)
{
    struct mt_pg_params p;
    struct mt_backup_conf store = {0};
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int64_t best = INT64_MAX;
    int row = -1, rc = end_left_behind(c, err);
    mt_pg_p_init(&p);
    mt_pg_p_i32(&p, (int32_t)c->ctl->conf.backup_deleted_grace_days);
    if (rc < 0 || (rc = mt_pg_query(c->pg, &candidates, &p, &res, err)) < 0)
        return rc;
    for (int i = 0; i < mt_pg_rows(res); i++) {
        const struct mt_collect_clock k = {.first_ms = mt_pg_i64(res, i, C_FIRST), .given_up_ms = mt_pg_i64(res, i, C_GIVEN), .collected_ms = mt_pg_i64(res, i, C_COLLECTED),
                                           .tried_ms = mt_pg_i64(res, i, C_TRIED)};
        int64_t due = mt_collect_due_ms(&k);
        if (due <= mt_pg_i64(res, i, C_NOW) && due < best) {
            best = due;
            row = i;
        }
    }
    if (row < 0)
        return 0;
    rc = mt_backup_conf_load(c->ctl->conf.backup_gc_file, &store, err);
    if (rc < 0)
        return rc;
    struct run r = {.c = c, .lease = lease, .volume_id = mt_pg_text(res, row, C_VOLUME), .org_id = mt_pg_text(res, row, C_ORG), .app_id = mt_pg_text(res, row, C_APP),
                    .env_id = mt_pg_text(res, row, C_ENV), .purge = mt_pg_bool(res, row, C_PURGE), .upto = mt_pg_i64(res, row, C_UPTO)};
    rc = collect(&r, &store, err);
    mt_backup_conf_done(&store);
    return rc;
}

static int turn(struct mt_collector *c, struct mt_err *err)
{
    int64_t lease = mt_roles_epoch(c->ctl->roles, MT_LEAD_BACKUPS);
    int rc = 0;
    /* A restored log may not know of backups that are. */
    if (!lease || mt_history_state(c->ctl->history) != MT_RECOVERY_NONE)
        return 0;
    if (!c->pg || !mt_pg_idle_check(c->pg))
        rc = mt_pg_open(&c->ctl->pg_conf, &c->pg, err);
    return rc < 0 ? rc : look(c, lease, err);
}

static void *collector_main(void *arg)
{
    struct mt_collector *c = arg;
    (void)pthread_setname_np(pthread_self(), "collector");
    while (!atomic_load(&c->stop)) {
        struct mt_err err = {0};
        int rc = turn(c, &err);
        if (rc < 0 && !MT_STREQ(c->last, err.msg))
            mt_log(MT_WARN, "backup.collector_failed", KV_ERR(&err));
        (void)snprintf(c->last, sizeof c->last, "%s", rc < 0 ? err.msg : "");
        struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
        (void)poll(&p, 1, rc > 0 ? 0 : LOOK_MS);
    }
    return NULL;
}

int mt_collector_start(struct mt_control *ctl, struct mt_collector **ret, struct mt_err *err)
{
    if (!ctl->conf.backup_gc_file || !ctl->conf.backup_program)
        return 0;
    struct mt_collector *c = calloc(1, sizeof *c);
    if (!c)
        return MT_FAIL(err, MT_E_NOMEM, "collector");
    *c = (struct mt_collector){.ctl = ctl, .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    int rc = c->wake_fd < 0 ? MT_FAIL_ERRNO(err, MT_E_IO, "eventfd") : 0;
    if (rc == 0 && pthread_create(&c->thread, NULL, collector_main, c) != 0)
        rc = MT_FAIL(err, MT_E_NOMEM, "collector thread");
    if (rc < 0) {
        if (c->wake_fd >= 0)
            (void)close(c->wake_fd);
        free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

void mt_collector_free(struct mt_collector *c)
{
    uint64_t one = 1;
    if (!c)
        return;
    atomic_store(&c->stop, true);
    (void)!write(c->wake_fd, &one, sizeof one);
    (void)pthread_join(c->thread, NULL);
    (void)close(c->wake_fd);
    mt_pg_free(c->pg);
    free(c);
}
