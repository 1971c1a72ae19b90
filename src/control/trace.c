/* SPDX-License-Identifier: Apache-2.0 */
#include "control/trace.h"

#include "base/log.h"
#include "base/str.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

#define ONE_IN 100U
#define INSTANCES_MAX 100

static bool hex_of(const char *s, size_t bytes, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    bool any = false;
    for (size_t i = 0; i < 2 * bytes; i++) {
        if (!s[i] || !strchr(digits, s[i]))
            return false;
        any |= s[i] != '0';
    }
    memcpy(ret, s, 2 * bytes);
    ret[2 * bytes] = '\0';
    return any; /* all zeros is no id */
}

/* By its last bits, so that all who see a trace keep it or do not. */
static bool sampled(const char *trace_id)
{
    return strtoul(trace_id + 24, NULL, 16) % ONE_IN == 0;
}

static void new_span(struct mt_trace *t)
{
    uint8_t r[8];
    mt_random(r, sizeof r);
    mt_hex_encode(r, sizeof r, t->span_id);
}

bool mt_trace_take(const char *h, struct mt_trace *ret)
{
    static const char form[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
    struct mt_trace t = {.wanted = false};
    char flags[3];
    if (!h || strlen(h) != sizeof form - 1 || strncmp(h, "00-", 3) != 0 || h[35] != '-' || h[52] != '-' || !hex_of(h + 3, 16, t.trace_id) || !hex_of(h + 36, 8, t.parent_id))
        return false;
    (void)hex_of(h + 53, 1, flags); /* "00" is flags too */
    if (!strchr("0123456789abcdef", h[53]) || !strchr("0123456789abcdef", h[54]))
        return false;
    t.wanted = (strtoul(h + 53, NULL, 16) & 1) != 0 || sampled(t.trace_id);
    new_span(&t);
    *ret = t;
    return true;
}

void mt_trace_request_id(const char *trace_id, char ret[MT_ID_SIZE])
{
    uint8_t bits[16];
    char ulid[MT_ULID_SIZE];
    uint64_t high = 0;
    if (mt_hex_decode(trace_id, sizeof bits, bits) < 0)
        memset(bits, 0, sizeof bits);
    for (size_t i = 0; i < 6; i++)
        high = high << 8 | bits[i];
    mt_ulid_encode(high, bits + 6, ulid);
    (void)snprintf(ret, MT_ID_SIZE, "%s_%s", mt_id_prefix(MT_ID_REQUEST), ulid);
}

/* The 128 bits of an id of ours. */
static bool bits_of(const char *ulid, uint8_t ret[16])
{
    static const char letters[] = "0123456789abcdefghjkmnpqrstvwxyz";
    if (!ulid || !mt_ulid_valid(ulid, strlen(ulid)))
        return false;
    unsigned __int128 v = 0;
    for (size_t i = 0; ulid[i]; i++)
        v = v << 5 | (unsigned)(strchr(letters, ulid[i]) - letters);
    for (int i = 15; i >= 0; i--, v >>= 8)
        ret[i] = (uint8_t)v;
    return true;
}

bool mt_trace_of_request(const char *request_id, char ret[MT_TRACE_ID])
{
    uint8_t bits[16];
    const char *prefix = mt_id_prefix(MT_ID_REQUEST);
    size_t n = strlen(prefix);
    if (strncmp(request_id, prefix, n) != 0 || request_id[n] != '_' || !bits_of(request_id + n + 1, bits))
        return false;
    mt_hex_encode(bits, sizeof bits, ret);
    return true;
}

void mt_trace_begin(const char *request_id, struct mt_trace *ret)
{
    *ret = (struct mt_trace){.wanted = false};
    if (!mt_trace_of_request(request_id, ret->trace_id)) {
        uint8_t r[16];
        mt_random(r, sizeof r);
        mt_hex_encode(r, sizeof r, ret->trace_id);
    }
    ret->wanted = sampled(ret->trace_id);
    new_span(ret);
}

/* ---- what came of a deploy ---- */

/* In one question: the request that made it with each of its instances (none: one row without): begin, the end of its first attempt (ready or failed), and which. */
enum { D_REQUEST, D_US, D_ORG, D_APP, D_ENV, I_ID, I_NODE, I_PROCESS, I_STATUS, I_REASON, I_US };
static const struct mt_pg_stmt st_deploy = {
    "trace_deploy",
    "SELECT d.request_id, (extract(epoch FROM now() - d.occurred_at) * 1000000)::int8, coalesce(d.org_id, ''), coalesce(d.app_id, ''), coalesce(d.env_id, ''), i.* FROM moat.events d"
    " LEFT JOIN LATERAL (SELECT a.aggregate_id, a.payload->>'node_id', a.payload->>'process_type', f.payload->>'status', coalesce(f.payload->>'reason_code', ''),"
    "  (extract(epoch FROM f.occurred_at - a.occurred_at) * 1000000)::int8 FROM moat.events a"
    "  CROSS JOIN LATERAL (SELECT s.payload, s.occurred_at FROM moat.events s WHERE s.aggregate_id = a.aggregate_id AND s.aggregate_type = 'instance'"
    "   AND s.event_type = 'instance.status_changed' AND s.payload->>'status' IN ('ready', 'failed') ORDER BY s.aggregate_seq LIMIT 1) f"
    "  WHERE a.correlation_id = $1 AND a.event_type = 'instance.allocated' ORDER BY a.event_id LIMIT $2) i ON true"
    " WHERE d.aggregate_id = $1 AND d.aggregate_seq = 1 AND d.aggregate_type = 'deploy'"};

/* A span that is found again: the last 8 bytes of the id of what it is of. */
static void span_of(const char *id, char ret[MT_SPAN_ID])
{
    uint8_t bits[16] = {0};
    const char *ulid = strchr(id, '_');
    (void)bits_of(ulid ? ulid + 1 : NULL, bits);
    mt_hex_encode(bits + 8, 8, ret);
}

static void instance_spans(const struct mt_pg_res *r, const char *deploy_id, const char *trace_id, const char *parent, bool wanted)
{
    for (int i = 0; i < mt_pg_rows(r); i++) {
        char span[MT_SPAN_ID];
        const char *id = mt_pg_text_or_null(r, i, I_ID), *status = id ? mt_pg_text(r, i, I_STATUS) : "";
        if (!id || (!wanted && MT_STREQ(status, "ready")))
            continue;
        span_of(id, span);
        mt_log(MT_INFO, "trace.span", KV("kind", "span"), KV("name", "instance.boot"), KV("duration_us", mt_pg_i64(r, i, I_US)), KV("trace_id", trace_id), KV("span_id", (const char *)span),
               KV("parent_span_id", parent), KV("deploy_id", deploy_id), KV("instance_id", id), KV("node_id", mt_pg_text(r, i, I_NODE)),
               KV("process_type", mt_pg_text(r, i, I_PROCESS)), KV("status", status), KV("reason_code", mt_pg_text(r, i, I_REASON)));
    }
}

void mt_trace_deploy(struct mt_pg *pg, const char *deploy_id, const char *became)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    struct mt_pg_params p;
    struct mt_err ignored = {0};
    char trace_id[MT_TRACE_ID], span[MT_SPAN_ID];
    bool failed = MT_STREQ(became, "failed");
    if (!failed && !MT_STREQ(became, "succeeded"))
        return;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, deploy_id);
    mt_pg_p_i64(&p, INSTANCES_MAX);
    if (mt_pg_query(pg, &st_deploy, &p, &r, &ignored) < 0 || mt_pg_rows(r) == 0 || !mt_trace_of_request(mt_pg_text(r, 0, D_REQUEST), trace_id))
        return;
    bool wanted = failed || sampled(trace_id);
    span_of(deploy_id, span);
    if (wanted)
        mt_log(MT_INFO, "trace.span", KV("kind", "span"), KV("name", "deploy"), KV("duration_us", mt_pg_i64(r, 0, D_US)), KV("trace_id", (const char *)trace_id),
               KV("span_id", (const char *)span), KV("request_id", mt_pg_text(r, 0, D_REQUEST)), KV("deploy_id", deploy_id), KV("org_id", mt_pg_text(r, 0, D_ORG)),
               KV("app_id", mt_pg_text(r, 0, D_APP)), KV("env_id", mt_pg_text(r, 0, D_ENV)), KV("status", became));
    instance_spans(r, deploy_id, trace_id, span, wanted);
}
