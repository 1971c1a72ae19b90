/* SPDX-License-Identifier: Apache-2.0 */
/* Finding a restored database and beginning its recovery; what this process does when the epoch grows. */
#include "control/recovery/recovery.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/plans/edge_acks.h"
#include "control/plans/news.h"
#include "control/plans/sent.h"
#include "control/streams/feed.h"
#include "model/ids.h"
#include "pg/array.h"

#include <pthread.h>

#define APPEND_MS 10000

/* $1 the new epoch. */
static const struct mt_pg_stmt st_epoch = {"recovery_epoch", "UPDATE moat.event_counter SET epoch = $1 WHERE epoch < $1"};
/* Behind every address that the log knows, and by as many as can have been given out since: 2^20 for each epoch that passed. A
 * backup that is restored twice begins at the same counter twice, and the second time what the first recovery gave out is in use
 * too. Runs before the epoch is set. A node without a counter starts at the epoch's own floor (pass_load.c). */
static const struct mt_pg_stmt st_addresses = {
    "recovery_addresses",
    "INSERT INTO moat.ipam_counters (node_id, next_address) SELECT n.node_id, greatest(coalesce(c.next_address, 1),"
    " coalesce((SELECT max(i.overlay_ipv6::inet - host(network(n.instance_prefix::inet))::inet) + 1 FROM instances_view i"
    " WHERE i.node_id = n.node_id AND i.overlay_ipv6::inet << n.instance_prefix::inet), 1)) + (($1::bigint - (SELECT epoch FROM moat.event_counter)) << 20)"
    " FROM nodes_view n LEFT JOIN moat.ipam_counters c USING (node_id)"
    " ON CONFLICT (node_id) DO UPDATE SET next_address = excluded.next_address"};
/* Leaders of the history that is gone hold epochs that will be given out again: none of theirs may ever count. */
static const struct mt_pg_stmt st_leases = {"recovery_leases", "UPDATE moat.leases SET epoch = epoch + 1000000"};
static const struct mt_pg_stmt st_forget_reports = {"recovery_forget_r", "DELETE FROM moat.recovery_reports"};
static const struct mt_pg_stmt st_forget_nodes = {"recovery_forget_n", "DELETE FROM moat.recovery_nodes"};

int mt_recovery_forget(struct mt_cmd *cmd, struct mt_err *err)
{
    int rc = mt_cmd_side(cmd, &st_forget_reports, NULL, -1, err);
    return rc < 0 ? rc : mt_cmd_side(cmd, &st_forget_nodes, NULL, -1, err);
}

static int prepare(const struct mt_history_look *l, int64_t epoch, const char *why, struct mt_cmd **ret, struct mt_err *err)
{
    char request[MT_ID_SIZE];
    struct mt_pg_params p;
    struct mt_cmd_ids none = {0};
    mt_id_new(MT_ID_REQUEST, request);
    const struct mt_cmd_actor actor = {.actor_type = "system", .actor_id = "recovery", .request_id = request};
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    int rc = mt_cmd_new(&actor, &cmd, err);
    if (rc < 0)
        return rc;
    mt_cmd_in_recovery(cmd);
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, epoch);
    if ((rc = mt_cmd_event(cmd, MT_EV_CLUSTER_EPOCH_BUMPED, "recovery", &none,
                           json_pack("{s:I,s:s}", "epoch", (json_int_t)epoch, "reason", why), err)) < 0 ||
        (rc = mt_cmd_rely(cmd, MT_RELY_CLUSTER, "recovery", NULL, l->version, err)) < 0 ||
        (rc = mt_cmd_side(cmd, &st_addresses, &p, -1, err)) < 0 || (rc = mt_cmd_side(cmd, &st_epoch, &p, 1, err)) < 0 ||
        (rc = mt_cmd_side(cmd, &st_leases, NULL, -1, err)) < 0 || (rc = mt_recovery_forget(cmd, err)) < 0)
        return rc;
    *ret = MT_TAKE(cmd);
    return 0;
}

/* Append the new epoch, unless somebody else has. */
static int begin(struct mt_control *ctl, const struct mt_history_look *l, int64_t epoch, const char *why, struct mt_err *err)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    struct mt_cmd_done done = {0};
    int rc = prepare(l, epoch, why, &cmd, err);
    if (rc < 0)
        return rc;
    rc = mt_append(ctl->appender, MT_TAKE(cmd), APPEND_MS, &done, err);
    if (rc < 0 && (done.end == MT_END_STALE || rc == -MT_E_CONFLICT))
        rc = 0;
    else if (rc == 0)
        mt_log(MT_ERROR, "recovery.begun", KV("epoch", epoch), KV("event_id", done.event_id), KV("why", why),
               KV("mend", "moat admin recovery plan, then apply and finish"));
    mt_cmd_done_free(&done);
    return rc;
}

/* Bring the process to the state that a look found. */
static void follow(struct mt_control *ctl, const struct mt_history_look *l)
{
    int64_t was = atomic_load(&ctl->epoch), now = mt_history_epoch(ctl->history);
    int state = (int)mt_history_state(ctl->history), told = atomic_load(&ctl->recovery);
    if (now > was && atomic_compare_exchange_strong(&ctl->epoch, &was, now) && was > 0) {
        mt_log(MT_WARN, "recovery.epoch", KV("was", was), KV("is", now), KV("head", l->log.event_id));
        mt_feed_reset(ctl->feed, l->log.event_id);
        mt_plans_clear(ctl->plans);
        mt_plan_news_clear(ctl->plan_news);
        mt_edges_clear(ctl->edges);
        told = -1;
    }
    if (state == told)
        return;
    atomic_store(&ctl->recovery, state);
    mt_log(MT_WARN, "recovery.state", KV("state", mt_recovery_name((enum mt_recovery)state)), KV("epoch", now));
    if (ctl->http)
        mt_http_server_wake(ctl->http, MT_TOPIC_HEAD);
    mt_control_poke(ctl);
}

/* One thread begins at a time: one that finds what another has just been told of would begin with a reason that says nothing. */
static pthread_mutex_t beginning = PTHREAD_MUTEX_INITIALIZER;

static bool behind(const struct mt_history_look *l)
{
    return l->verdict == MT_HISTORY_BEHIND || l->verdict == MT_HISTORY_OTHER;
}

/* Under `beginning`. */
static int begin_by_look(struct mt_control *ctl, struct mt_pg *pg, struct mt_history_look *ret, struct mt_err *err)
{
    struct mt_history_look l;
    char why[300];
    int rc = mt_history_look(ctl->history, pg, &l, err);
    if (rc == 0 && behind(&l)) {
        int64_t epoch = l.known.epoch > l.log.epoch ? l.known.epoch : l.log.epoch;
        (void)snprintf(why, sizeof why, "this server knows event %lld of epoch %lld, %s %lld of epoch %lld", (long long)l.known.event_id,
                       (long long)l.known.epoch,
                       l.verdict == MT_HISTORY_OTHER ? "another one is there now; the database ends with event" : "the database ends with event",
                       (long long)l.log.event_id, (long long)l.log.epoch);
        if ((rc = begin(ctl, &l, epoch + 1, why, err)) == 0)
            rc = mt_history_look(ctl->history, pg, &l, err);
    }
    if (rc == 0)
        *ret = l;
    return rc;
}

int mt_recovery_look(struct mt_control *ctl, struct mt_pg *pg, struct mt_history_look *ret, struct mt_err *err)
{
    struct mt_history_look l;
    int rc = mt_history_look(ctl->history, pg, &l, err);
    if (rc == 0 && behind(&l)) {
        (void)pthread_mutex_lock(&beginning);
        rc = begin_by_look(ctl, pg, &l, err);
        (void)pthread_mutex_unlock(&beginning);
    }
    if (rc < 0)
        return rc;
    follow(ctl, &l);
    l.recovery = mt_history_state(ctl->history);
    if (ret)
        *ret = l;
    return 0;
}

int mt_recovery_reported(struct mt_control *ctl, struct mt_pg *pg, const char *who, int64_t epoch, int64_t cursor, struct mt_err *err)
{
    struct mt_history_look l;
    int64_t head, have;
    char why[300];
    if (epoch <= 0)
        return 0;
    int rc = mt_log_position(pg, &head, &have, err);
    if (rc < 0 || epoch < have || (epoch == have && cursor <= head))
        return rc;
    (void)pthread_mutex_lock(&beginning);
    mt_history_doubt(ctl->history, epoch);
    rc = mt_history_look(ctl->history, pg, &l, err);
    /* otherwise this server's own knowledge is the better reason; or it is settled meanwhile */
    bool seen_here = rc == 0 && l.known.epoch >= epoch && (l.known.epoch > l.log.epoch || l.known.event_id > l.log.event_id);
    if (rc == 0 && !seen_here && l.log.epoch <= epoch) {
        (void)snprintf(why, sizeof why, "%s has applied event %lld of epoch %lld, the database ends with event %lld of epoch %lld", who,
                       (long long)cursor, (long long)epoch, (long long)l.log.event_id, (long long)l.log.epoch);
        rc = begin(ctl, &l, epoch + 1, why, err);
    }
    (void)pthread_mutex_unlock(&beginning);
    return rc < 0 ? rc : mt_recovery_look(ctl, pg, NULL, err);
}

/* ---- reports ---- */

static const struct mt_pg_stmt st_keep = {
    "recovery_keep",
    "INSERT INTO moat.recovery_reports (node_id, instance_id, status, boot_id) SELECT DISTINCT ON (t.id) $1, t.id, t.status, nullif(t.boot, '')"
    " FROM unnest($2::text[], $3::text[], $4::text[]) t(id, status, boot) ON CONFLICT (node_id, instance_id) DO UPDATE"
    " SET status = excluded.status, boot_id = excluded.boot_id, reported_at = excluded.reported_at"};
static const struct mt_pg_stmt st_replace = {
    "recovery_replace", "WITH gone AS (DELETE FROM moat.recovery_reports WHERE node_id = $1 AND instance_id <> ALL ($2::text[]))"
                        " INSERT INTO moat.recovery_nodes (node_id, listed_at) VALUES ($1, now())"
                        " ON CONFLICT (node_id) DO UPDATE SET listed_at = excluded.listed_at"};

int mt_recovery_keep(struct mt_pg *pg, const char *node_id, const struct mt_status_batch *b, struct mt_err *err)
{
    struct mt_pg_arr id, status, boot;
    struct mt_pg_params p;
    int rc = 0;
    mt_pg_arr_init(&id, MT_PG_ELEM_TEXT, 1u << 20);
    mt_pg_arr_init(&status, MT_PG_ELEM_TEXT, 1u << 20);
    mt_pg_arr_init(&boot, MT_PG_ELEM_TEXT, 1u << 20);
    for (size_t i = 0; i < b->n_reports; i++) {
        mt_pg_arr_text_add(&id, b->reports[i].instance_id);
        mt_pg_arr_text_add(&status, mt_instance_status_name(b->reports[i].status));
        mt_pg_arr_text_add(&boot, b->reports[i].boot_id ? b->reports[i].boot_id : "");
    }
    /* What the list holds before it counts as listed: nobody may see a node that seems to run nothing. */
    if (b->n_reports > 0) {
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, node_id);
        mt_pg_p_arr(&p, &id);
        mt_pg_p_arr(&p, &status);
        mt_pg_p_arr(&p, &boot);
        rc = mt_pg_query(pg, &st_keep, &p, NULL, err);
    }
    if (rc == 0 && b->resync) {
        mt_pg_p_init(&p);
        mt_pg_p_text(&p, node_id);
        mt_pg_p_arr(&p, &id);
        rc = mt_pg_query(pg, &st_replace, &p, NULL, err);
    }
    mt_pg_arr_done(&id);
    mt_pg_arr_done(&status);
    mt_pg_arr_done(&boot);
    return rc;
}
