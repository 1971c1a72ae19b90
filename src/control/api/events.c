/* SPDX-License-Identifier: Apache-2.0 */
/* The event log as tenants and operators read it: pages and a stream that resumes by id (control-plane.md §11.1). */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/limits/request.h"
#include "control/log/read.h"
#include "control/streams/event_json.h"
#include "control/streams/feed.h"
#include "control/streams/sse.h"
#include "pg/array.h"

#define PAGE 200
#define HEARTBEAT_NS (15 * MT_NS_PER_S)
#define STREAM_MAX_NS (3600 * MT_NS_PER_S)
#define STREAM_BUFFER (1024u * 1024u)
#define JOIN_TRIES 5
#define TYPE_PATTERN 72
#define REFILL_NS (50 * MT_NS_PER_MS)
#define STALL_NS (30 * MT_NS_PER_S)
#define RECHECK_NS (5 * MT_NS_PER_S) /* how long a revoked token may go on reading */

/* $1 org or NULL, $2 app, $3 env, $4 aggregate_type, $5 aggregate_id, $6 correlation, $7 actor, $8 since, $9 until,
 * $10 LIKE patterns or NULL, $11 cursor, $12 limit, $15 types that are not told here */
#define WHERE                                                                                                       \
    " WHERE ($1::text IS NULL OR org_id = $1) AND ($2::text IS NULL OR app_id = $2)"                               \
    " AND ($3::text IS NULL OR env_id = $3) AND ($4::text IS NULL OR aggregate_type = $4)"                          \
    " AND ($5::text IS NULL OR aggregate_id = $5) AND ($6::text IS NULL OR correlation_id = $6)"                    \
    " AND ($7::text IS NULL OR actor_id = $7) AND ($8::timestamptz IS NULL OR occurred_at >= $8)"                   \
    " AND ($9::timestamptz IS NULL OR occurred_at < $9)"                                                            \
    " AND (cardinality($10::text[]) = 0 OR event_type LIKE ANY ($10::text[]))"                            \
    " AND " MT_SQL_INSIDE("app_id", "env_id", "13", "14") " AND event_type <> ALL ($15::text[])"

#define FIRST MT_SQL_SINCE_ID("$8::timestamptz")
#define LAST MT_SQL_UNTIL_ID("$9::timestamptz")
#define TIMES " AND " MT_SQL_BETWEEN_TIMES("$8::timestamptz", "$9::timestamptz")
#define PAGE_OF(of, id)                                                                                                                                \
    {{"events_page_" of "_desc", "SELECT " MT_EVENT_COLUMNS " FROM " MT_SQL_EVENTS_OF(of, id, "(SELECT " FIRST ")", "(SELECT LEAST($11::int8 - 1, " LAST "))", "DESC") \
      WHERE " LIMIT $12"},                                                                                         \
     {"events_page_" of "_asc", "SELECT " MT_EVENT_COLUMNS " FROM " MT_SQL_EVENTS_OF(of, id, "(SELECT GREATEST($11::int8 + 1, " FIRST "))", "(SELECT " LAST ")", "") \
      WHERE " LIMIT $12"}}

enum { PAGE_ALL = 0, PAGE_ORG, PAGE_ENV, PAGE_MAX };
static const struct mt_pg_stmt pages[PAGE_MAX][2] = {
    [PAGE_ALL] = {{"events_page_desc", "SELECT " MT_EVENT_COLUMNS " FROM moat.events" WHERE TIMES " AND event_id < $11 ORDER BY event_id DESC LIMIT $12"},
                  {"events_page_asc", "SELECT " MT_EVENT_COLUMNS " FROM moat.events" WHERE TIMES " AND event_id > $11 ORDER BY event_id ASC LIMIT $12"}},
    [PAGE_ORG] = PAGE_OF("org", "$1"),
    [PAGE_ENV] = PAGE_OF("env", "$3"),
};

/* By the index that tells most apart; an aggregate's or a correlation's is found by the planner. */
static int page_by(const struct mt_event_filter *f)
{
    return f->agg_id[0] || f->correlation[0] ? PAGE_ALL : f->env[0] ? PAGE_ENV : f->org[0] ? PAGE_ORG : PAGE_ALL;
}

struct stream {
    struct mt_api_stream base; /* first */
    struct mt_event_filter f;
    struct mt_feed_sub sub; /* the feed's once following */
    struct mt_feed *feed;
    bool following;
    int64_t opened_ns, beat_ns;
    struct mt_stream_place place;
};

static int take(struct mt_api_call *c, const char *name, char *ret, size_t size)
{
    const char *v = mt_api_query(c, name);
    if (v && strlen(v) >= size)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is too long", name);
    snprintf(ret, size, "%s", v ? v : "");
    return 0;
}

static int take_time(struct mt_api_call *c, const char *name, int64_t *ret)
{
    const char *v = mt_api_query(c, name);
    *ret = 0;
    if (v && mt_rfc3339_parse(v, ret, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is not an RFC 3339 time", name);
    return 0;
}

/* "app.created" or "instance.*" into a LIKE pattern. */
static int add_type(struct mt_api_call *c, struct mt_event_filter *f, const char *type)
{
    size_t n = strlen(type), o = 0;
    bool prefix = n > 2 && MT_STREQ(type + n - 2, ".*");
    if (f->types_n == MT_FILTER_TYPES || n < 3 || n > 60)
        return mt_api_fail(c, 400, "invalid_argument", "event_type: at most %d values of 3 to 60 characters", MT_FILTER_TYPES);
    char *out = malloc(TYPE_PATTERN);
    if (!out) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "filter");
        return mt_api_fail_err(c);
    }
    f->types[f->types_n++] = out;
    for (size_t i = 0; i < (prefix ? n - 1 : n); i++) {
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789_.", type[i]) || o + 3 > TYPE_PATTERN)
            return mt_api_fail(c, 400, "invalid_argument", "event_type is a name, or a prefix that ends in .*");
        if (type[i] == '_')
            out[o++] = '\\';
        out[o++] = type[i];
    }
    if (prefix)
        out[o++] = '%';
    out[o] = 0;
    return 0;
}

/* Operators see all of it in the whole log; in an organisation they are who they are there. */
static void whose_eyes(const struct mt_api_call *c, struct mt_event_filter *f)
{
    f->eyes.see = !c->org.id[0] ? MT_SEE_OPERATOR : mt_api_may(c, "audit:read") ? MT_SEE_AUDIT : MT_SEE_TENANT;
    snprintf(f->self, sizeof f->self, "%s", c->who.subject_id);
    f->eyes.self = f->self;
}

static int read_filter(struct mt_api_call *c, struct mt_event_filter *f)
{
    const char *k, *v;
    (void)snprintf(f->org, sizeof f->org, "%s", c->org.id);
    whose_eyes(c, f);
    if (take(c, "app_id", f->app, sizeof f->app) < 0 || take(c, "env_id", f->env, sizeof f->env) < 0 ||
        take(c, "aggregate_type", f->agg_type, sizeof f->agg_type) < 0 ||
        take(c, "aggregate_id", f->agg_id, sizeof f->agg_id) < 0 ||
        take(c, "correlation_id", f->correlation, sizeof f->correlation) < 0 ||
        take(c, "actor_id", f->actor, sizeof f->actor) < 0 || take_time(c, "since", &f->since_us) < 0 ||
        take_time(c, "until", &f->until_us) < 0)
        return -1;
    (void)mt_api_query(c, "event_type");
    c->query_repeats = "event_type";
    for (size_t i = 0; mt_http_req_query_at(c->http, i, &k, &v); i++)
        if (MT_STREQ(k, "event_type") && add_type(c, f, v) < 0)
            return -1;
    return 0;
}

static const char *null_if_empty(const char *s)
{
    return s[0] ? s : NULL;
}

static int query_page(struct mt_api_call *c, const struct mt_event_filter *f, bool asc, int64_t cursor, int64_t limit,
                      struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    struct mt_pg_arr types, hidden, own[2];
    mt_pg_arr_init(&types, MT_PG_ELEM_TEXT, 8192);
    mt_pg_arr_init(&hidden, MT_PG_ELEM_TEXT, 16384);
    for (unsigned i = 0; i < MT_EV_MAX && f->org[0]; i++) /* what operators alone may read, in an organisation too */
        if (!mt_ev_info((enum mt_ev)i)->tenant)
            mt_pg_arr_text_add(&hidden, mt_ev_info((enum mt_ev)i)->type);
    for (int i = 0; i < f->types_n; i++)
        mt_pg_arr_text_add(&types, f->types[i]);
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, null_if_empty(f->org));
    mt_pg_p_text(&p, null_if_empty(f->app));
    mt_pg_p_text(&p, null_if_empty(f->env));
    mt_pg_p_text(&p, null_if_empty(f->agg_type));
    mt_pg_p_text(&p, null_if_empty(f->agg_id));
    mt_pg_p_text(&p, null_if_empty(f->correlation));
    mt_pg_p_text(&p, null_if_empty(f->actor));
    if (f->since_us)
        mt_pg_p_time(&p, f->since_us);
    else
        mt_pg_p_time_null(&p);
    if (f->until_us)
        mt_pg_p_time(&p, f->until_us);
    else
        mt_pg_p_time_null(&p);
    mt_pg_p_arr(&p, &types);
    mt_pg_p_i64(&p, cursor);
    mt_pg_p_i64(&p, limit);
    mt_api_inside(c, &p, own);
    mt_pg_p_arr(&p, &hidden);
    int rc = mt_pg_query(c->pg, &pages[page_by(f)][asc], &p, ret, &c->err);
    if (rc == 0 && (rc = mt_log_in_order(*ret, !asc, &c->err)) < 0)
        mt_pg_res_freep(ret);
    mt_pg_arr_done(&types);
    mt_pg_arr_done(&hidden);
    mt_api_inside_done(own);
    return rc < 0 ? mt_api_fail_err(c) : 0;
}

static int list_with(struct mt_api_call *c, struct mt_event_filter *f)
{
    int64_t after, before, limit, head, epoch;
    const char *order;
    if (read_filter(c, f) < 0 || mt_api_query_i64(c, "after_event_id", 0, INT64_MAX, 0, &after) < 0 ||
        mt_api_query_i64(c, "before_event_id", 1, INT64_MAX, INT64_MAX, &before) < 0 ||
        mt_api_query_i64(c, "limit", 1, 500, 100, &limit) < 0)
        return -1;
    order = mt_api_query(c, "order");
    if (mt_api_query_done(c) < 0)
        return -1;
    if (order && !MT_STREQ(order, "asc") && !MT_STREQ(order, "desc"))
        return mt_api_fail(c, 400, "invalid_argument", "order is asc or desc");
    bool asc = !order || MT_STREQ(order, "asc");
    /* The head first: what is read afterwards may be newer, never older, so a poller skips nothing. */
    if (mt_log_position(c->pg, &head, &epoch, &c->err) < 0)
        return mt_api_fail_err(c);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (query_page(c, f, asc, asc ? after : before, limit, &r) < 0)
        return -1;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u * 1024u);
    int n = mt_pg_rows(r);
    int64_t last = asc ? after : before;
    mt_buf_puts(&b, "{\"items\":[");
    for (int i = 0; i < n; i++) {
        if (i)
            mt_buf_putc(&b, ',');
        last = mt_event_json(r, i, mt_event_see(&f->eyes, mt_pg_text(r, i, 11)), &b);
    }
    if (asc && n < limit && (n == 0 || last < head))
        last = head; /* nothing more up to the head: advance past filtered rows, and back to it from a history that is gone */
    mt_buf_printf(&b, "],\"next_after_event_id\":%lld,\"head_event_id\":%lld,\"epoch\":%lld}", (long long)last,
                  (long long)head, (long long)epoch);
    size_t len = b.len;
    return mt_api_send_text(c, 200, mt_buf_take(&b), len);
}

static int list(struct mt_api_call *c)
{
    struct mt_event_filter f = {0};
    int rc = list_with(c, &f);
    mt_event_filter_done(&f);
    return rc;
}

int mt_api_events_list(struct mt_api_call *c)
{
    return list(c);
}

int mt_api_admin_events_list(struct mt_api_call *c)
{
    return list(c); /* no org in the path: no org filter */
}

/* ---------------------------------------------------------------- stream */

static void say_end(struct mt_api_stream *base, struct mt_http_req *req, const char *reason)
{
    struct stream *s = (struct stream *)base;
    (void)req;
    mt_feed_leave(s->feed, &s->sub);
    mt_feed_end(&s->sub, reason);
}

static int end_stream(struct mt_api_call *c, struct stream *s, const char *reason)
{
    say_end(&s->base, c->http, reason);
    return 0;
}

/* Write everything up to the head. 0 all written; 1 the buffer is full; 2 the cursor is ahead of the log; -1 problem. */
static int pump(struct mt_api_call *c, struct stream *s)
{
    char eid[24];
    for (;;) {
        int64_t head, epoch;
        if (mt_log_position(c->pg, &head, &epoch, &c->err) < 0)
            return mt_api_fail_err(c);
        if (s->sub.after > head) { /* of a history that is gone: reset, or what comes next would be skipped */
            s->sub.after = head;
            return 2;
        }
        mt_auto_pg_res struct mt_pg_res *r = NULL;
        if (query_page(c, &s->f, true, s->sub.after, PAGE, &r) < 0)
            return -1;
        int n = mt_pg_rows(r);
        for (int i = 0; i < n; i++) {
            mt_auto_buf struct mt_buf b = MT_BUF_INIT(256u * 1024u);
            int64_t id = mt_event_json(r, i, mt_event_see(&s->f.eyes, mt_pg_text(r, i, 11)), &b);
            mt_buf_putc(&b, '\n');
            snprintf(eid, sizeof eid, "%lld", (long long)id);
            int rc = mt_sse_put(c->http, s->sub.sse, eid, b.p, b.len);
            if (rc == -MT_E_LIMIT)
                return 1;
            s->sub.after = id;
            s->sub.spoke_ns = mt_clock_mono();
        }
        if (n < PAGE) {
            if (head > s->sub.after)
                s->sub.after = head;
            return 0;
        }
    }
}

static void stream_free(void *state)
{
    struct stream *s = state;
    mt_feed_leave(s->feed, &s->sub);
    mt_limits_stream_leave(&s->place);
    mt_event_filter_done(&s->f);
    free(s);
}

static int open_stream(struct mt_api_call *c, struct stream **ret)
{
    struct stream *s = calloc(1, sizeof *s);
    if (!s) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "stream");
        return mt_api_fail_err(c);
    }
    int64_t head, epoch, now = mt_clock_mono();
    *s = (struct stream){.base.end = say_end, .feed = c->ctl->feed, .opened_ns = now, .beat_ns = now};
    s->sub = (struct mt_feed_sub){.req = c->http, .filter = &s->f, .sse = mt_sse_wanted(c->http), .spoke_ns = now};
    mt_http_req_set_state(c->http, s, stream_free); /* from here on it goes with the request */
    if (read_filter(c, &s->f) < 0 || mt_api_query_i64(c, "after_event_id", 0, INT64_MAX, -1, &s->sub.after) < 0 ||
        mt_api_query_done(c) < 0)
        return -1;
    const char *last_id = mt_sse_last_id(c->http);
    if (last_id && mt_parse_i64(last_id, 0, INT64_MAX, &s->sub.after, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "Last-Event-ID is the id of an event: %s", c->err.msg);
    if (mt_log_position(c->pg, &head, &epoch, &c->err) < 0)
        return mt_api_fail_err(c);
    if (s->sub.after < 0)
        s->sub.after = head;
    if (mt_limits_stream(c, &s->place) < 0)
        return -1;
    if (c->who.restricted.on) {
        s->f.inside = malloc(sizeof *s->f.inside);
        if (!s->f.inside) {
            (void)MT_FAIL(&c->err, MT_E_NOMEM, "stream");
            return mt_api_fail_err(c);
        }
        *s->f.inside = c->who.restricted;
    }
    mt_sse_start(c->http, s->sub.sse, STREAM_BUFFER);
    *ret = s;
    return 0;
}

/* The past from the database until the feed takes over. 0, 1, 2 and -1 as pump. */
static int follow(struct mt_api_call *c, struct stream *s)
{
    for (int i = 0; i < JOIN_TRIES && !s->following; i++) {
        int rc = pump(c, s);
        if (rc != 0)
            return rc;
        s->following = mt_feed_join(s->feed, &s->sub) == 1;
    }
    return 0;
}

int mt_api_events_stream(struct mt_api_call *c)
{
    struct stream *s = mt_http_req_state(c->http);
    bool first = !s, ended;
    int64_t after, spoke, now = mt_clock_mono();
    if (first && open_stream(c, &s) < 0)
        return -1;
    int rc = s->following || mt_http_req_stopping(c->http) ? 0 : follow(c, s);
    if (rc < 0)
        return -1;
    mt_feed_look(s->feed, &s->sub, &after, &spoke, &ended);
    if (ended)
        return 0; /* the feed has said why */
    if (mt_http_req_stopping(c->http))
        return end_stream(c, s, "shutdown");
    if (rc == 2)
        return end_stream(c, s, "reset");
    if (rc == 1 && now - spoke > STALL_NS)
        return end_stream(c, s, "slow_consumer");
    if (rc == 1) { /* the past is read as fast as the client takes it; only the present can be too much */
        mt_http_park(c->http, 0, now + REFILL_NS);
        return 0;
    }
    if (now - s->opened_ns > STREAM_MAX_NS)
        return end_stream(c, s, "max_duration");
    if (s->f.eyes.see == MT_SEE_AUDIT && !mt_api_may(c, "audit:read")) /* a role was taken: what is seen is decided anew */
        return end_stream(c, s, "scope_changed");
    int64_t last = spoke > s->beat_ns ? spoke : s->beat_ns;
    if (first || now - last >= HEARTBEAT_NS) {
        char line[96], id[24];
        int n = snprintf(line, sizeof line, "{\"type\":\"heartbeat\",\"head_event_id\":%lld}\n", (long long)after);
        snprintf(id, sizeof id, "%lld", (long long)after);
        if (mt_sse_beat(c->http, s->sub.sse, id, line, (size_t)n) == -MT_E_LIMIT)
            return end_stream(c, s, "slow_consumer");
        last = s->beat_ns = now;
    }
    /* The feed writes; this runs again for the heartbeat, and to ask whether the token still counts. */
    int64_t next = last + HEARTBEAT_NS;
    mt_http_park(c->http, s->following ? 0 : MT_TOPIC_HEAD, next < now + RECHECK_NS ? next : now + RECHECK_NS);
    return 0;
}
