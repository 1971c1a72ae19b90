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
#include "control/secrets/keys.h"

int mt_api_livez(struct mt_api_call *c)
{
    return mt_api_send(c, 200, json_pack("{s:s}", "status", "ok"));
}

int mt_api_readyz(struct mt_api_call *c)
{
    if (!atomic_load(&c->ctl->ready) || !mt_control_database_up(c->ctl))
        return mt_api_fail(c, 503, "database_unavailable", "the database is not reachable");
    if (atomic_load(&c->ctl->stopping))
        return mt_api_fail(c, 503, "unavailable", "the server is stopping");
    return mt_api_send(c, 200, json_pack("{s:s,s:I}", "status", "ok", "head_event_id",
                                         (json_int_t)mt_log_head_get(c->ctl->head)));
}

static void put_refusals(struct mt_api_call *c, bool ready, struct mt_buf *b)
{
    mt_buf_puts(b, "# TYPE moat_quota_rejections_total counter\n");
    for (unsigned q = 0; q < MT_QUOTA_MAX; q++)
        mt_buf_printf(b, "moat_quota_rejections_total{dimension=\"%s\"} %llu\n", mt_quota_name((enum mt_quota)q),
                      (unsigned long long)atomic_load(&c->ctl->quota_rejections[q]));
    mt_buf_puts(b, "# TYPE moat_rate_limited_total counter\n");
    for (unsigned i = 0; i < MT_LIMIT_MAX && ready; i++)
        mt_buf_printf(b, "moat_rate_limited_total{dimension=\"%s\"} %llu\n", mt_limit_name((enum mt_limit)i),
                      (unsigned long long)mt_limits_refused(c->ctl->limits, (enum mt_limit)i));
}

static void put_deliveries(struct mt_api_call *c, struct mt_buf *b)
{
    struct mt_key_info keys[MT_MASTERKEYS_MAX];
    mt_api_delivery_metrics(c, b);
    mt_buf_printf(b, "# TYPE moat_master_keys gauge\nmoat_master_keys %zu\n", mt_keys_list(c->ctl->keys, keys, MT_MASTERKEYS_MAX));
}

int mt_api_metrics(struct mt_api_call *c)
{
    struct mt_appender_stats a = {0};
    struct mt_http_stats h = {0};
    struct mt_audit_stats u = {0};
    bool ready = atomic_load(&c->ctl->ready);
    if (ready)
        mt_audit_stats(c->ctl->audit, &u);
    if (ready)
        mt_appender_stats(c->ctl->appender, &a);
    mt_http_server_stats(c->ctl->http, &h);
    char *t = mt_asprintf("# TYPE moat_eventlog_head gauge\nmoat_eventlog_head %lld\n"
                          "# TYPE moat_append_batches_total counter\nmoat_append_batches_total %llu\n"
                          "# TYPE moat_append_commands_total counter\nmoat_append_commands_total %llu\n"
                          "# TYPE moat_append_events_total counter\nmoat_append_events_total %llu\n"
                          "# TYPE moat_append_replays_total counter\nmoat_append_replays_total %llu\n"
                          "# TYPE moat_append_stale_total counter\nmoat_append_stale_total %llu\n"
                          "# TYPE moat_append_reconnects_total counter\nmoat_append_reconnects_total %llu\n"
                          "# TYPE moat_audit_records_total counter\nmoat_audit_records_total %llu\n"
                          "# TYPE moat_audit_append_failures_total counter\nmoat_audit_append_failures_total %llu\n"
                          "# TYPE moat_api_requests_total counter\nmoat_api_requests_total %llu\n"
                          "# TYPE moat_api_parked gauge\nmoat_api_parked %u\n"
                          "# TYPE moat_api_streams gauge\nmoat_api_streams %u\n"
                          "# TYPE moat_api_busy_workers gauge\nmoat_api_busy_workers %u\n",
                          (long long)(ready ? mt_log_head_get(c->ctl->head) : 0), (unsigned long long)a.batches,
                          (unsigned long long)a.commands, (unsigned long long)a.events, (unsigned long long)a.replays,
                          (unsigned long long)a.stale, (unsigned long long)a.reconnects, (unsigned long long)u.sealed,
                          (unsigned long long)(u.dropped + u.failures), (unsigned long long)h.requests,
                          h.parked, h.streams, h.busy);
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(1u << 20);
    bool made = t != NULL;
    mt_buf_puts(&b, made ? t : "");
    free(t);
    put_refusals(c, ready, &b);
    put_deliveries(c, &b);
    int64_t cert_end = atomic_load(&c->ctl->api_cert_not_after_s);
    if (cert_end)
        mt_buf_printf(&b, "# TYPE moat_cert_expiry_seconds gauge\nmoat_cert_expiry_seconds{kind=\"api\"} %lld\n"
                          "# TYPE moat_api_tls_handshake_failures_total counter\nmoat_api_tls_handshake_failures_total %llu\n"
                          "# TYPE moat_api_tls_refused_total counter\nmoat_api_tls_refused_total %llu\n",
                      (long long)(cert_end - mt_clock_wall_us() / 1000000), (unsigned long long)h.tls_failed, (unsigned long long)h.tls_refused);
    mt_buf_printf(&b, "# TYPE moat_eventlog_epoch gauge\nmoat_eventlog_epoch %lld\n# TYPE moat_recovery gauge\n",
                  (long long)mt_history_epoch(c->ctl->history));
    for (int i = MT_RECOVERY_FROZEN; i <= MT_RECOVERY_APPLIED; i++)
        mt_buf_printf(&b, "moat_recovery{state=\"%s\"} %d\n", mt_recovery_name((enum mt_recovery)i),
                      mt_history_state(c->ctl->history) == (enum mt_recovery)i);
    if (!made || mt_buf_check(&b, &c->err) < 0) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "metrics");
        return mt_api_fail_err(c);
    }
    size_t len = b.len;
    mt_http_reply(c->http, 200, "text/plain; version=0.0.4", mt_buf_take(&b), len);
    return 0;
}
