/* SPDX-License-Identifier: Apache-2.0 */
/* Liveness, readiness, metrics (control-plane.md §17). Answered without the database. */
#include "control/api/handlers.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/audit/seal.h"
#include "control/limits/limits.h"
#include "control/log/history.h"
#include "control/nodes/ca.h"
#include "control/secrets/keys.h"

#include <sys/statvfs.h>

int mt_api_livez(struct mt_api_call *c)
{
    return mt_api_send(c, 200, json_pack("{s:s}", "status", "ok"));
}

int mt_api_readyz(struct mt_api_call *c)
{
    if (!atomic_load(&c->ctl->ready)) /* the views are not all there yet, or nothing is known of them */
        return mt_api_not_ready(c);
    if (!mt_control_database_up(c->ctl))
        return mt_api_fail(c, 503, "database_unavailable", "the database is not reachable");
    if (atomic_load(&c->ctl->stopping))
        return mt_api_fail(c, 503, "unavailable", "the server is stopping");
    return mt_api_send(c, 200, json_pack("{s:s,s:I}", "status", "ok", "head_event_id",
                                         (json_int_t)mt_log_head_get(c->ctl->head)));
}

static void put_refusals(struct mt_api_call *c, bool ready, struct mt_metrics *page)
{
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++)
        mt_metrics_u64(page, MT_M_QUOTA_REJECTIONS, mt_metrics_get(&c->ctl->quota_rejections[q]), mt_quota_name((enum mt_quota)q));
    for (unsigned i = 0; i < MT_LIMIT_MAX && ready; i++)
        mt_metrics_u64(page, MT_M_RATE_LIMITED, mt_limits_refused(c->ctl->limits, (enum mt_limit)i), mt_limit_name((enum mt_limit)i));
}

static void put_log(struct mt_api_call *c, struct mt_metrics *page)
{
    static const char *const ends[] = {"error", "done", "replay", "key_reuse", "stale", "taken", "quota"};
    const struct mt_append_measure *a = &c->ctl->append_measure;
    _Static_assert(MT_ARRAY_LEN(ends) == MT_ARRAY_LEN(a->ends), "one word for each");
    for (size_t i = 0; i < MT_ARRAY_LEN(ends); i++)
        mt_metrics_u64(page, MT_M_EVENT_APPEND, mt_metrics_get(&a->ends[i]), ends[i]);
    mt_metrics_hist(page, MT_M_APPEND_SECONDS, &a->took);
    mt_metrics_hist(page, MT_M_LOCK_SECONDS, &a->lock);
    mt_metrics_hist(page, MT_M_FLUSH_SECONDS, &a->flush);
    mt_metrics_i64(page, MT_M_EVENT_LAST, mt_log_head_get(c->ctl->head));
    mt_metrics_i64(page, MT_M_EPOCH, mt_history_epoch(c->ctl->history));
    for (int i = MT_RECOVERY_FROZEN; i <= MT_RECOVERY_APPLIED; i++)
        mt_metrics_u64(page, MT_M_RECOVERY, mt_history_state(c->ctl->history) == (enum mt_recovery)i, mt_recovery_name((enum mt_recovery)i));
}

static void put_certificates(struct mt_api_call *c, const struct mt_http_stats *h, struct mt_metrics *page)
{
    int64_t now = mt_clock_wall_us() / 1000000, api = atomic_load(&c->ctl->api_cert_not_after_s);
    if (api)
        mt_metrics_i64(page, MT_M_CERT_EXPIRY, api - now, "api");
    if (c->ctl->node_ca)
        mt_metrics_i64(page, MT_M_CERT_EXPIRY, mt_node_ca_ends_s(c->ctl->node_ca) - now, "ca");
    if (api || c->ctl->node_ca) {
        mt_metrics_u64(page, MT_M_TLS_FAILURES, h->tls_failed);
        mt_metrics_u64(page, MT_M_TLS_REFUSED, h->tls_refused);
    }
}

/* What only root may fill is full for PostgreSQL: free and total without it, as df counts. */
static void put_disk(struct mt_api_call *c, struct mt_metrics *page)
{
    const char *path = c->ctl->conf.database_disk;
    struct statvfs v;
    if (!path || statvfs(path, &v) < 0)
        return;
    mt_metrics_u64(page, MT_M_PG_DISK, (uint64_t)v.f_frsize * (v.f_blocks - v.f_bfree + v.f_bavail), "total");
    mt_metrics_u64(page, MT_M_PG_DISK, (uint64_t)v.f_frsize * v.f_bavail, "free");
}

/* Answered at any time, also before the database was reached: what is not there yet is not on the page. */
int mt_api_metrics(struct mt_api_call *c)
{
    struct mt_control *ctl = c->ctl;
    struct mt_key_info keys[MT_MASTERKEYS_MAX];
    struct mt_metrics page;
    struct mt_http_stats h = {0};
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(MT_METRICS_PAGE_MAX);
    bool ready = atomic_load(&ctl->ready);
    mt_http_server_stats(ctl->http, &h);
    mt_metrics_begin(&page, &b, MT_METRICS_CONTROL);
    mt_measure_auth(&ctl->measure, &page);
    mt_metrics_u64(&page, MT_M_DB_CONNECTIONS, h.busy, "used");
    mt_metrics_u64(&page, MT_M_DB_CONNECTIONS, ctl->conf.workers, "max");
    mt_metrics_hist(&page, MT_M_DB_SECONDS, &ctl->measure.db_request, "request");
    mt_metrics_hist(&page, MT_M_DB_SECONDS, &ctl->measure.db_scheduler, "scheduler");
    put_disk(c, &page);
    put_refusals(c, ready, &page);
    mt_metrics_u64(&page, MT_M_STREAM_CLIENTS, h.streams, "user");
    for (unsigned i = 0; i < MT_FOLLOWER_MAX; i++)
        mt_metrics_u64(&page, MT_M_STREAM_CLIENTS, mt_metrics_get(&ctl->measure.followers[i]), mt_measure_followers[i]);
    if (ready) {
        struct mt_audit_stats u = {0};
        put_log(c, &page);
        mt_measure_scheduler(&ctl->measure, &page);
        mt_audit_stats(ctl->audit, &u);
        mt_metrics_u64(&page, MT_M_AUDIT_FAILURES, u.dropped + u.failures);
    }
    mt_api_delivery_metrics(c, &page);
    mt_metrics_u64(&page, MT_M_MASTER_KEYS, mt_keys_list(ctl->keys, keys, MT_MASTERKEYS_MAX));
    put_certificates(c, &h, &page);
    mt_measure_http(&ctl->measure, &page); /* last: what would pass the bound of series is of this */
    if (mt_metrics_end(&page, &c->err) < 0)
        return mt_api_fail_err(c);
    size_t len = b.len;
    mt_http_reply(c->http, 200, "text/plain; version=0.0.4", mt_buf_take(&b), len);
    return 0;
}
