/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of agents and edges (control-plane.md §9.6, docs/api/internal.md). Who calls is asked in nodes/node.c. */
#include "control/api/handlers.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/api/restore_reports.h"
#include "control/api/snapshot_reports.h"
#include "control/api/volume_reports.h"
#include "control/autopsy/autopsy.h"
#include "control/ipv4/ipv4.h"
#include "control/names/proxy_watch.h"
#include "control/nodes/local.h"
#include "control/plans/edge_acks.h"
#include "control/plans/edge_config.h"
#include "control/plans/node_plan.h"
#include "control/plans/news.h"
#include "control/plans/sent.h"
#include "control/recovery/recovery.h"
#include "wire/json.h"

#define INTEGER_MAX ((UINT64_C(1) << 53) - 1) /* of anything on the wire */
#define LISTENERS_MAX 65536                   /* of an edge */
#define WAIT_MAX 60
#define SKEW_MAX_MS 60000 /* of a node's clock in a heartbeat */
#define REPORT_ROUNDS 4

/* ---------------------------------------------------------------- heartbeat */

static const struct mt_pg_stmt keep_heartbeat = {
    "heartbeat_keep",
    "INSERT INTO moat.node_heartbeats (node_id, received_at, agent_version, epoch, plan_cursor, body)"
    " VALUES ($1, now(), $2, $3, $4, $5) ON CONFLICT (node_id) DO UPDATE SET received_at = now(),"
    " agent_version = excluded.agent_version, epoch = excluded.epoch, plan_cursor = excluded.plan_cursor,"
    " body = excluded.body"};

/* What a node says with a clock that is far off is not counted (scheduling-and-operations.md §1): its certificates, the moments of key rotations
 * and the times of its lines are wrong. The answer brings our clock, so that the agent knows what is the matter without being heard. */
static int refuse_skew(struct mt_api_call *c, int64_t skew_ms)
{
    int64_t s = (skew_ms < 0 ? -skew_ms : skew_ms) / 1000;
    if (s * 1000 <= SKEW_MAX_MS)
        return 0;
    c->problem.details = json_pack("{s:I}", "clock_unix_ms", (json_int_t)(mt_clock_wall_us() / 1000));
    return mt_api_fail(c, 422, "clock_skew", "the clock of the node is %lld min %lld s %s that of the control plane, one minute is allowed: set it"
                       " (timedatectl set-ntp true). Until then the node is taken for silent", (long long)s / 60, (long long)s % 60,
                       skew_ms < 0 ? "behind" : "ahead of");
}

/* Which authority signs, so that a node with a certificate of another one asks for a new one; and what to trust, when the node trusts something else
 * (nodes/ca.h). @trusts: as its heartbeat said, "" when an agent says nothing, which is one that would not understand. */
static void say_authority(const struct mt_node_ca *ca, const char *trusts, json_t *answer)
{
    const char *sha256, *trust = mt_node_ca_trust(ca, &sha256);
    (void)json_object_set_new(answer, "ca_key_id", json_string(mt_node_ca_about(ca)->key_id));
    if (*trusts && !MT_STREQ(trusts, sha256))
        (void)json_object_set_new(answer, "ca_trust", json_string(trust));
}

int mt_api_heartbeat(struct mt_api_call *c)
{
    struct mt_heartbeat *hb = NULL;
    struct mt_node node;
    int64_t arrived_ms = mt_clock_wall_us() / 1000 - (mt_clock_mono() - mt_http_req_arrived_ns(c->http)) / MT_NS_PER_MS, head, epoch;
    bool local = mt_node_call_is_local(c);
    if (mt_api_query_done(c) < 0 || (local ? mt_node_local_agent(c) : mt_node_caller(c, MT_CERT_NODE, &node)) < 0)
        return -1;
    if (mt_heartbeat_decode(c->body, &hb, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_node_call_protocol(c, &hb->protocols) < 0) {
        mt_heartbeat_free(hb);
        return -1;
    }
    char trusts[65];
    snprintf(trusts, sizeof trusts, "%s", hb->ca_trust ? hb->ca_trust : "");
    bool asks = hb->asks_ipv4_pool;
    int64_t skew = hb->clock_unix_ms ? hb->clock_unix_ms - arrived_ms : 0;
    if (refuse_skew(c, skew) < 0) {
        mt_heartbeat_free(hb);
        return -1;
    }
    struct mt_history_look look;
    char who[MT_ID_SIZE + 8];
    snprintf(who, sizeof who, "node %s", hb->node_id);
    int rc = mt_recovery_look(c->ctl, c->pg, &look, &c->err);
    if (rc == 0)
        rc = mt_recovery_reported(c->ctl, c->pg, who, hb->cursor_event_id ? (int64_t)hb->epoch : 0, (int64_t)hb->cursor_event_id, &c->err);
    if (rc < 0) {
        mt_heartbeat_free(hb);
        return mt_api_fail_err(c);
    }
    bool frozen = mt_history_state(c->ctl->history) == MT_RECOVERY_FROZEN;
    if (local)
        rc = mt_node_find_local(c->pg, &node, &c->err);
    if (rc == -MT_E_NOT_FOUND && frozen) {
        mt_heartbeat_free(hb);
        return mt_api_fail(c, 503, "recovery", MT_HISTORY_REFUSAL ": a node that the log does not know is enrolled after it is applied");
    }
    if (rc == -MT_E_NOT_FOUND) {
        rc = mt_local_node_enrol(c->ctl, c->pg, hb, c->request_id, &c->err);
        if (rc == 0)
            rc = mt_node_find_local(c->pg, &node, &c->err);
    }
    if (rc < 0) {
        mt_heartbeat_free(hb);
        return mt_api_fail_err(c);
    }
    if (!MT_STREQ(node.node_id, hb->node_id)) {
        rc = mt_api_fail(c, 409, "conflict", "the node of this %s is %s", local ? "machine" : "certificate", node.node_id);
        mt_heartbeat_free(hb);
        return rc;
    }
    mt_auto_buf struct mt_buf body = MT_BUF_INIT(256u * 1024u);
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node.node_id);
    mt_pg_p_text(&p, hb->agent_version);
    mt_pg_p_i64(&p, (int64_t)hb->epoch);
    mt_pg_p_i64(&p, (int64_t)hb->cursor_event_id);
    if ((rc = mt_json_dump(c->body, &body, &c->err)) == 0) {
        mt_pg_p_json(&p, mt_buf_cstr(&body));
        rc = mt_pg_query(c->pg, &keep_heartbeat, &p, NULL, &c->err);
    }
    if (rc == 0 && !frozen)
        rc = mt_node_refresh(c->ctl, c->pg, &node, hb, c->request_id, &c->err);
    if (rc == 0)
        rc = mt_log_position(c->pg, &head, &epoch, &c->err);
    mt_heartbeat_free(hb);
    if (rc < 0)
        return mt_api_fail_err(c);
    json_t *answer = json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:s,s:b}", "admin_state", node.admin_state, "epoch", (json_int_t)epoch,
                                 "plan_cursor", (json_int_t)head, "clock_skew_ms", (json_int_t)skew, "clock_unix_ms",
                                 (json_int_t)(mt_clock_wall_us() / 1000), "heartbeat_seconds",
                                 (json_int_t)c->ctl->conf.heartbeat_seconds, "cluster_id", c->ctl->cluster_id, "recovery",
                                 mt_history_state(c->ctl->history) != MT_RECOVERY_NONE);
    if (!local)
        say_authority(c->ctl->node_ca, trusts, answer);
    json_t *pool = NULL;
    if (asks && node.edge && mt_ipv4_pool_to_look_for(c->pg, node.node_id, &pool, &c->err) < 0) {
        json_decref(answer);
        return mt_api_fail_err(c);
    }
    if (asks && answer)
        (void)json_object_set_new(answer, "ipv4_pool", pool ? pool : json_array());
    return mt_api_send(c, 200, answer);
}

/* ---------------------------------------------------------------- long polls */

/* What the caller has (@ret_epoch 0: it does not say), and the deadline of a long poll in monotonic ns from its wait= parameter,
 * counted from arrival. */
static int poll_args(struct mt_api_call *c, int64_t *ret_after, int64_t *ret_epoch, int64_t *ret_deadline)
{
    int64_t wait;
    if (mt_api_query_i64(c, "after", 0, INT64_MAX, 0, ret_after) < 0 || mt_api_query_i64(c, "epoch", 0, INT64_MAX, 0, ret_epoch) < 0 ||
        mt_api_query_i64(c, "wait", 0, WAIT_MAX, 30, &wait) < 0 || mt_api_query_done(c) < 0)
        return -1;
    *ret_deadline = mt_http_req_arrived_ns(c->http) + wait * MT_NS_PER_S;
    return 0;
}

/* Nothing new: sleep on, or 304 when the time is over. */
static int nothing_new(struct mt_api_call *c, int64_t deadline)
{
    if (mt_clock_mono() >= deadline || mt_http_req_stopping(c->http)) {
        mt_http_reply(c->http, 304, NULL, NULL, 0);
        return 0;
    }
    mt_http_park(c->http, MT_TOPIC_HEAD, deadline);
    return 0;
}

/* The state of the log before anything is made of it; the caller's own place tells too. */
static int look(struct mt_api_call *c, const char *who, int64_t epoch, int64_t after, struct mt_history_look *ret)
{
    if (mt_recovery_look(c->ctl, c->pg, ret, &c->err) < 0 || mt_recovery_reported(c->ctl, c->pg, who, epoch, after, &c->err) < 0)
        return mt_api_fail_err(c);
    ret->recovery = mt_history_state(c->ctl->history);
    return 0;
}

/* The first answer after an operator's decision may take away more than one that comes by itself. */
static bool decided(const struct mt_history_look *l, int64_t epoch, int64_t after)
{
    return l->log.epoch > 1 && (epoch < l->log.epoch || after < l->changed_event_id);
}

/* What a parked poll of a plan knows: whose it is, and where the log ended when its plan was still the same. */
struct plan_poll {
    char node_id[MT_ID_SIZE];
    int64_t epoch, same_at;
    _Atomic uint64_t *followers; /* counted there as long as this is */
};

static void plan_poll_free(void *p)
{
    struct plan_poll *was = p;
    (void)atomic_fetch_sub_explicit(was->followers, 1, memory_order_relaxed);
    free(was);
}

/* Has anything happened that can concern the plan of a poll that was parked? When in doubt yes: all is asked again then, who calls too. @node_id NULL:
 * the configuration of an edge. */
static bool has_news(struct mt_api_call *c, const struct plan_poll *was, const char *node_id)
{
    struct mt_err ignored = {0};
    if (mt_history_state(c->ctl->history) != MT_RECOVERY_NONE || was->epoch != mt_history_epoch(c->ctl->history))
        return true;
    if (!node_id)
        return mt_plan_news_for_edges(c->ctl->plan_news, c->pg, was->same_at, mt_log_head_get(c->ctl->head), &ignored) != 0;
    return mt_plan_news_for(c->ctl->plan_news, c->pg, node_id, was->same_at, mt_log_head_get(c->ctl->head), &ignored) != 0;
}

/* Sleep on, with what is known: that the plan is the same as one of the time when the log ended at @at. */
static int plan_is_same(struct mt_api_call *c, enum mt_follower who, const struct mt_node *node, int64_t epoch, int64_t at, int64_t deadline)
{
    struct plan_poll *was = mt_http_req_state(c->http);
    if (!was && (was = calloc(1, sizeof *was)) != NULL) {
        was->followers = &c->ctl->measure.followers[who];
        mt_measure_one(was->followers);
        mt_http_req_set_state(c->http, was, plan_poll_free);
    }
    if (was) {
        snprintf(was->node_id, sizeof was->node_id, "%s", node->node_id);
        was->epoch = epoch;
        was->same_at = at;
    }
    return nothing_new(c, deadline);
}

int mt_api_plan(struct mt_api_call *c)
{
    struct mt_node node;
    struct mt_history_look now;
    int64_t after, epoch, deadline, cursor;
    char fingerprint[65], who[MT_ID_SIZE + 8], *text = NULL;
    size_t len;
    if (poll_args(c, &after, &epoch, &deadline) < 0)
        return -1;
    const struct plan_poll *was = mt_http_req_state(c->http);
    if (was && !has_news(c, was, was->node_id))
        return nothing_new(c, deadline);
    if (mt_node_caller(c, MT_CERT_NODE, &node) < 0)
        return -1;
    snprintf(who, sizeof who, "node %s", node.node_id);
    if (look(c, who, epoch, after, &now) < 0)
        return -1;
    if (now.recovery == MT_RECOVERY_FROZEN)
        return nothing_new(c, deadline); /* it keeps what it has */
    /* The poll that follows a plan asks for the next one: what the plan was made of need not be read again. */
    const struct plan_poll has = {.epoch = epoch, .same_at = after};
    if (mt_http_req_round(c->http) == 0 && mt_plans_fresh(c->ctl->plans, node.node_id, after) && !has_news(c, &has, node.node_id))
        return plan_is_same(c, MT_FOLLOWER_AGENT, &node, epoch, after, deadline);
    const struct mt_node_plan_how how = {.recovery = now.recovery, .epoch = now.log.epoch, .decided = decided(&now, epoch, after)};
    if (mt_node_plan_fingerprint(c->ctl, c->pg, &node, &how, fingerprint, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_plans_unchanged(c->ctl->plans, node.node_id, fingerprint, after))
        return plan_is_same(c, MT_FOLLOWER_AGENT, &node, now.log.epoch, now.log.event_id, deadline);
    if (mt_node_plan_build(c->ctl, c->pg, &node, &how, &text, &len, &cursor, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_plans_sent(c->ctl->plans, node.node_id, fingerprint, cursor);
    mt_log(MT_INFO, "plan.sent", KV("node_id", node.node_id), KV("cursor", cursor), KV("after", after), KV("bytes", len));
    return mt_api_send_text(c, 200, text, len);
}

/* ---------------------------------------------------------------- status of instances */

static const struct mt_pg_stmt status_rows = {
    "status_rows",
    "SELECT instance_id, org_id, app_id, env_id, deploy_id, status, coalesce(status_detail, '') AS status_detail,"
    " coalesce(boot_id, '') AS boot_id, coalesce(reason_code, '') AS reason_code,"
    " coalesce(reason_detail, '') AS reason_detail, exit_code, restart_count, desired_state,"
    " status = 'failed' AND reason_code = 'crash_loop_backoff', updated_at > now() - interval '5 minutes'"
    " FROM instances_view WHERE node_id = $1 AND released_at IS NULL"};

static bool same(const char *a, const char *b)
{
    return MT_STREQ(a ? a : "", b);
}

/* True when the report says what the row says already. */
static bool repeats(const struct mt_pg_res *r, int row, const struct mt_status_report *s)
{
    return MT_STREQ(mt_pg_text(r, row, 5), mt_instance_status_name(s->status)) &&
           same(s->status_detail, mt_pg_text(r, row, 6)) && same(s->boot_id, mt_pg_text(r, row, 7)) &&
           same(s->reason_code, mt_pg_text(r, row, 8)) && same(s->reason_detail, mt_pg_text(r, row, 9)) &&
           mt_pg_i64_or(r, row, 10, -1) == (s->has_exit_code ? s->exit_code : -1) &&
           mt_pg_i64(r, row, 11) == (int64_t)s->restart_count;
}

/* One that fails again and again is told as that, not attempt by attempt (control-plane.md §6.4): until it is ready, or fails for good, an event every
 * five minutes keeps its count of restarts. What is left out here the agent's full list brings again, every minute. */
static bool is_of_a_loop(const struct mt_pg_res *r, int row, const struct mt_status_report *s)
{
    if (!mt_pg_bool(r, row, 13))
        return false;
    bool again = s->status == MT_STATUS_FAILED && same(s->reason_code, mt_reason_code(MT_REASON_CRASH_LOOP_BACKOFF));
    return s->status == MT_STATUS_BOOTING || s->status == MT_STATUS_STARTING || s->status == MT_STATUS_UNREADY || (again && mt_pg_bool(r, row, 14));
}

static json_t *status_payload(const char *node_id, const struct mt_status_report *s)
{
    char ts[MT_RFC3339_LEN];
    json_t *p = json_pack("{s:s,s:s,s:s*,s:s*,s:s*,s:s*,s:s*,s:I,s:s}", "node_id", node_id, "status",
                          mt_instance_status_name(s->status), "status_detail", s->status_detail, "boot_id", s->boot_id,
                          "reason_code", s->reason_code, "reason_detail", s->reason_detail, "next_retry_at",
                          s->next_retry_at, "restart_count", (json_int_t)s->restart_count, "reported_at",
                          s->reported_at ? s->reported_at : mt_rfc3339(mt_clock_wall_us(), ts));
    if (p && s->has_exit_code)
        json_object_set_new(p, "exit_code", json_integer(s->exit_code));
    return p;
}

static int find_row(const struct mt_pg_res *r, const char *id)
{
    for (int i = 0; i < mt_pg_rows(r); i++)
        if (MT_STREQ(mt_pg_text(r, i, 0), id))
            return i;
    return -1;
}

static int add_status(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, int row, json_t *payload)
{
    struct mt_cmd_ids ids = {.org_id = mt_pg_text(r, row, 1), .app_id = mt_pg_text(r, row, 2), .env_id = mt_pg_text(r, row, 3)};
    if (mt_cmd_cause(cmd, mt_pg_text_or_null(r, row, 4), 0, &c->err) < 0) {
        json_decref(payload);
        return mt_api_fail_err(c);
    }
    if (mt_cmd_event(cmd, MT_EV_INSTANCE_STATUS_CHANGED, mt_pg_text(r, row, 0), &ids, payload, &c->err) < 0)
        return mt_api_fail_err(c);
    return 0;
}

/* A full list leaves out an instance that shall not run: then it is gone, whatever happened to its last report. */
static int settle_missing(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_pg_res *r, const char *node_id,
                          const struct mt_status_batch *b, int *events)
{
    for (int i = 0; i < mt_pg_rows(r); i++) {
        bool listed = false;
        for (size_t k = 0; k < b->n_reports && !listed; k++)
            listed = MT_STREQ(b->reports[k].instance_id, mt_pg_text(r, i, 0));
        if (listed || !MT_STREQ(mt_pg_text(r, i, 12), "stopped") || MT_STREQ(mt_pg_text(r, i, 5), "stopped"))
            continue;
        struct mt_status_report s = {.instance_id = mt_pg_text(r, i, 0),
                                     .status = MT_STATUS_STOPPED,
                                     .restart_count = (uint32_t)mt_pg_i64(r, i, 11)};
        if (add_status(c, cmd, r, i, status_payload(node_id, &s)) < 0)
            return -1;
        (*events)++;
    }
    return 0;
}

/* Before the events: once a report is acknowledged the agent forgets its record. One that cannot be kept must not hold up reports. */
static int take_autopsies(struct mt_api_call *c, const char *node_id, const struct mt_status_batch *b)
{
    for (size_t i = 0; i < b->n_reports; i++) {
        const struct mt_status_report *s = &b->reports[i];
        if (!s->autopsy)
            continue;
        int rc = mt_autopsy_keep(c->pg, node_id, s->instance_id, s->autopsy, &c->err);
        if (rc == -MT_E_UNAVAILABLE || rc == -MT_E_TIMEOUT || rc == -MT_E_NOMEM)
            return mt_api_fail_err(c);
        if (rc < 0)
            mt_log(MT_WARN, "autopsy.not_kept", KV("instance_id", s->instance_id), KV_ERR(&c->err));
    }
    c->err = (struct mt_err){0};
    return 0;
}

/* What was not appended was not seen: the node tells it again. */
static void unsee(struct mt_api_call *c, const struct mt_status_batch *b)
{
    for (size_t i = 0; i < b->n_reports; i++)
        mt_plans_seq_undo(c->ctl->plans, b->reports[i].instance_id);
    for (size_t i = 0; i < b->storage.n_volumes; i++)
        mt_plans_seq_undo(c->ctl->plans, b->storage.volumes[i].volume_id);
    for (size_t i = 0; i < b->storage.n_snapshots; i++)
        mt_plans_seq_undo(c->ctl->plans, b->storage.snapshots[i].snapshot_id);
    for (size_t i = 0; i < b->storage.n_restores; i++)
        mt_plans_seq_undo(c->ctl->plans, b->storage.restores[i].restore_id);
}

/* The events of a batch into @cmd. */
static int gather_reports(struct mt_api_call *c, const struct mt_node *node, const struct mt_status_batch *b, struct mt_cmd *cmd, json_t *rejected,
                          int *events, int *ignored)
{
    struct mt_pg_params p;
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node->node_id);
    if (mt_pg_query(c->pg, &status_rows, &p, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    for (size_t i = 0; i < b->n_reports; i++) {
        const struct mt_status_report *s = &b->reports[i];
        int row = find_row(r, s->instance_id);
        if (row < 0) {
            json_array_append_new(rejected, json_pack("{s:s,s:s}", "instance_id", s->instance_id, "code", "not_on_this_node"));
            continue;
        }
        if (repeats(r, row, s) || is_of_a_loop(r, row, s) || !mt_plans_seq(c->ctl->plans, s->instance_id, s->seq)) {
            (*ignored)++;
            continue;
        }
        if (add_status(c, cmd, r, row, status_payload(node->node_id, s)) < 0)
            return -1;
        (*events)++;
    }
    if (b->resync && settle_missing(c, cmd, r, node->node_id, b, events) < 0)
        return -1;
    if (mt_volume_reports_take(c, cmd, node->node_id, b, rejected, events, ignored) < 0 ||
        mt_snapshot_reports_take(c, cmd, node->node_id, b, rejected, events, ignored) < 0 ||
        mt_restore_reports_take(c, cmd, node->node_id, b, rejected, events, ignored) < 0)
        return -1;
    return 0;
}

/* One round: 0 answered, -1 refused; 1 what a report relies on changed meanwhile, only when it is not the @last. */
static int take_reports_once(struct mt_api_call *c, const struct mt_node *node, const struct mt_status_batch *b, bool last)
{
    mt_auto_cmd struct mt_cmd *cmd = NULL;
    mt_auto_json json_t *rejected = json_array();
    struct mt_cmd_actor actor = {.actor_type = "node", .actor_id = node->node_id, .request_id = c->request_id};
    int events = 0, ignored = 0;
    if (mt_cmd_new(&actor, &cmd, &c->err) < 0)
        return mt_api_fail_err(c);
    int rc = gather_reports(c, node, b, cmd, rejected, &events, &ignored);
    if (rc == 0 && events) {
        struct mt_cmd_done done = {0};
        if (mt_append(c->ctl->appender, MT_TAKE(cmd), 10000, &done, &c->err) < 0)
            rc = c->err.code == MT_E_CONFLICT && !last ? 1 : mt_api_fail_err(c);
        mt_cmd_done_free(&done);
    }
    if (rc != 0) {
        unsee(c, b);
        return rc;
    }
    return mt_api_send(c, 200, json_pack("{s:i,s:i,s:O}", "accepted", events, "ignored", ignored, "rejected", rejected));
}

static int take_reports(struct mt_api_call *c, const struct mt_node *node, const struct mt_status_batch *b)
{
    int rc = 1;
    for (int i = REPORT_ROUNDS; i > 0 && rc > 0; i--)
        rc = take_reports_once(c, node, b, i == 1);
    return rc;
}

int mt_api_node_status(struct mt_api_call *c)
{
    struct mt_status_batch *b = NULL;
    struct mt_node node;
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_NODE, &node) < 0)
        return -1;
    if (mt_status_batch_decode(c->body, &b, &c->err) < 0)
        return mt_api_fail_err(c);
    enum mt_recovery r = mt_history_state(c->ctl->history);
    int rc = take_autopsies(c, node.node_id, b);
    if (rc == 0 && r != MT_RECOVERY_NONE && mt_recovery_keep(c->pg, node.node_id, b, &c->err) < 0)
        rc = mt_api_fail_err(c);
    if (rc == 0 && r == MT_RECOVERY_FROZEN) /* seen, and told again in full when the log takes it */
        rc = mt_api_send(c, 200, json_pack("{s:i,s:i,s:[]}", "accepted", 0, "ignored", (int)b->n_reports, "rejected"));
    else if (rc == 0)
        rc = take_reports(c, &node, b);
    mt_status_batch_free(b);
    return rc;
}

/* ---------------------------------------------------------------- edges */

int mt_api_edge_config(struct mt_api_call *c)
{
    struct mt_node node;
    struct mt_history_look now;
    int64_t after, epoch, deadline, revision;
    char fingerprint[65], who[MT_ID_SIZE + 8], *text = NULL;
    size_t len;
    if (poll_args(c, &after, &epoch, &deadline) < 0)
        return -1;
    const struct plan_poll *was = mt_http_req_state(c->http);
    if (was && !has_news(c, was, NULL))
        return nothing_new(c, deadline);
    if (mt_node_caller(c, MT_CERT_EDGE, &node) < 0)
        return -1;
    snprintf(who, sizeof who, "edge:%s", node.node_id);
    if (look(c, who, epoch, after, &now) < 0)
        return -1;
    if (now.recovery == MT_RECOVERY_FROZEN)
        return nothing_new(c, deadline); /* it goes on serving */
    const struct plan_poll has = {.epoch = epoch, .same_at = after};
    if (mt_http_req_round(c->http) == 0 && mt_plans_fresh(c->ctl->plans, who, after) && !has_news(c, &has, NULL))
        return plan_is_same(c, MT_FOLLOWER_EDGE, &node, epoch, after, deadline);
    if (mt_edge_config_build(c->ctl, c->pg, node.node_id, was ? was->same_at : after, decided(&now, epoch, after), &text, &len, &revision, fingerprint, &c->err) < 0)
        return mt_api_fail_err(c);
    if (mt_plans_unchanged(c->ctl->plans, who, fingerprint, after)) {
        free(text);
        return plan_is_same(c, MT_FOLLOWER_EDGE, &node, now.log.epoch, revision, deadline);
    }
    mt_plans_sent(c->ctl->plans, who, fingerprint, revision);
    return mt_api_send_text(c, 200, text, len);
}

static const struct mt_pg_stmt keep_edge_heartbeat = {
    "edge_heartbeat_keep",
    "INSERT INTO moat.edge_heartbeats (node_id, received_at, epoch, revision, ipv4_errors, version, connections) VALUES ($1, now(), $2, $3, $4::jsonb, left($5, 40), $6)"
    " ON CONFLICT (node_id) DO UPDATE SET received_at = now(), epoch = excluded.epoch, revision = excluded.revision,"
    " ipv4_errors = excluded.ipv4_errors, version = excluded.version, connections = excluded.connections"};

/* [{address, error}] of the listeners on dedicated addresses that an edge could not open, at most 64. */
static json_t *ipv4_errors(const json_t *status)
{
    json_t *list = json_array(), *l;
    size_t i;
    json_array_foreach(json_object_get(status, "listeners"), i, l) {
        const char *scope = json_string_value(json_object_get(l, "address_scope")), *local = json_string_value(json_object_get(l, "local"));
        const char *state = json_string_value(json_object_get(l, "state")), *error = json_string_value(json_object_get(l, "error"));
        if (!scope || !local || !MT_STREQ(scope, "ipv4") || (state && MT_STREQ(state, "open")) || json_array_size(list) == 64)
            continue;
        json_array_append_new(list, json_pack("{s:s%,s:s}", "address", local, strcspn(local, ":"), "error", error ? error : "not open"));
    }
    return list;
}

/* Connections that are open over all of its routes. */
static int64_t open_connections(const json_t *status)
{
    const char *key;
    json_t *o;
    int64_t sum = 0;
    json_object_foreach(json_object_get(status, "routes"), key, o) {
        json_int_t n = json_integer_value(json_object_get(o, "active"));
        sum += n > 0 && n <= UINT32_MAX ? n : 0;
    }
    return sum;
}

static int keep_edge(struct mt_api_call *c, const char *node_id, uint64_t epoch, uint64_t revision)
{
    mt_auto_json json_t *errors = ipv4_errors(c->body);
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(65536);
    struct mt_pg_params p;
    int rc = mt_json_dump(errors, &text, &c->err);
    if (rc < 0)
        return rc;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, node_id);
    mt_pg_p_i64(&p, (int64_t)epoch);
    mt_pg_p_i64(&p, (int64_t)revision);
    mt_pg_p_json(&p, mt_buf_cstr(&text));
    mt_pg_p_text(&p, json_string_value(json_object_get(c->body, "agent_version")));
    mt_pg_p_i64(&p, open_connections(c->body));
    return mt_pg_query(c->pg, &keep_edge_heartbeat, &p, NULL, &c->err);
}

/* Of routes whose backends are sent the PROXY header. One that is served on an IPv4 address too is there twice (plans/edge_config.c). */
static void watch_proxies(struct mt_api_call *c, const char *node_id)
{
    const char *key;
    json_t *o;
    json_object_foreach(json_object_get(c->body, "routes"), key, o) {
        json_int_t connections = json_integer_value(json_object_get(o, "connections")), early = json_integer_value(json_object_get(o, "early_closes"));
        char edge[MT_ID_SIZE], route[MT_ID_SIZE];
        size_t len = strlen(key);
        bool v4 = len > 2 && MT_STREQ(key + len - 2, "-4");
        if (json_integer_value(json_object_get(o, "proxy_headers")) <= 0 || connections < 0 || early < 0 || early > connections ||
            mt_fmt(route, sizeof route, &c->err, "%.*s", (int)(v4 ? len - 2 : len), key) < 0)
            continue;
        snprintf(edge, sizeof edge, "%s", node_id);
        if (v4) /* counters of their own */
            edge[0] = '4';
        mt_proxy_watch_note(c->ctl->proxies, edge, route, (uint64_t)connections, (uint64_t)early, mt_clock_mono());
    }
}

int mt_api_edge_status(struct mt_api_call *c)
{
    struct mt_node node;
    uint64_t revision, epoch;
    char who[MT_ID_SIZE + 8];
    json_t *rejected, *ignored;
    if (mt_api_query_done(c) < 0 || mt_node_caller(c, MT_CERT_EDGE, &node) < 0)
        return -1;
    if (mt_json_get_u64(c->body, "epoch", 0, INTEGER_MAX, &epoch, &c->err) < 0 ||
        mt_json_get_u64(c->body, "revision", 0, INTEGER_MAX, &revision, &c->err) < 0 ||
        mt_json_opt_object(c->body, "rejected", &rejected, &c->err) < 0 || mt_json_opt_array(c->body, "listeners", LISTENERS_MAX, &ignored, &c->err) < 0 ||
        mt_json_opt_object(c->body, "routes", &ignored, &c->err) < 0)
        return mt_api_fail_err(c);
    if (rejected) {
        const char *detail = json_string_value(json_object_get(rejected, "detail"));
        mt_log(MT_ERROR, "edge.config_rejected", KV("node_id", node.node_id), KV("detail", detail ? detail : ""));
    }
    snprintf(who, sizeof who, "edge:%s", node.node_id);
    if (mt_recovery_reported(c->ctl, c->pg, who, revision ? (int64_t)epoch : 0, (int64_t)revision, &c->err) < 0)
        return mt_api_fail_err(c);
    /* A revision of an epoch before counts for nothing in this one. */
    mt_edges_note(c->ctl->edges, node.node_id, (int64_t)epoch < mt_history_epoch(c->ctl->history) ? 0 : (int64_t)revision, mt_clock_mono());
    watch_proxies(c, node.node_id);
    if (keep_edge(c, node.node_id, epoch, revision) < 0)
        return mt_api_fail_err(c);
    mt_control_poke(c->ctl);
    return mt_api_send(c, 200, json_pack("{s:b}", "ok", true));
}
