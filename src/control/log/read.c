/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of events by cursor. One statement for each condition that has an index of its own; the other filters ride along. */
#include "control/log/read.h"

#include "pg/array.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/str.h"

#include <string.h>

#define COLS \
    "event_id, occurred_at, org_id, app_id, env_id, aggregate_type, aggregate_id, aggregate_seq, event_type, event_version," \
    " actor_type, actor_id, request_id, idempotency_key, correlation_id, causation_id, payload, chain_hash"
/* $1 cursor, $2 limit, $3.. filters; the first filter of each statement is not optional there, so that its index serves */
#define OPT(n, col) " AND ($" #n " IS NULL OR " col " = $" #n ")"
#define REST \
    OPT(3, "org_id") OPT(4, "app_id") OPT(5, "env_id") OPT(6, "aggregate_type") OPT(7, "aggregate_id") OPT(8, "correlation_id") \
    OPT(9, "actor_id") " AND ($10::text[] IS NULL OR event_type LIKE ANY ($10)) AND ($11::text[] IS NULL OR event_type <> ALL ($11))" \
    " AND ($12::timestamptz IS NULL OR occurred_at >= $12) AND ($13::timestamptz IS NULL OR occurred_at < $13)"
#define FIRST MT_SQL_SINCE_ID("$12::timestamptz")
#define LAST MT_SQL_UNTIL_ID("$13::timestamptz")
#define TIMES " AND " MT_SQL_BETWEEN_TIMES("$12::timestamptz", "$13::timestamptz")
#define READ(name, must) \
    {{"log_read_" name, "SELECT " COLS " FROM events WHERE event_id > $1" must REST TIMES " ORDER BY event_id LIMIT $2"}, \
     {"log_read_" name "_desc", "SELECT " COLS " FROM events WHERE event_id < $1" must REST TIMES " ORDER BY event_id DESC LIMIT $2"}}
#define READ_OF(of, id) \
    {{"log_read_" of, "SELECT " COLS " FROM " MT_SQL_EVENTS_OF(of, id, "(SELECT GREATEST($1::int8 + 1, " FIRST "))", "(SELECT " LAST ")", "") \
      " WHERE true" REST " LIMIT $2"}, \
     {"log_read_" of "_desc", "SELECT " COLS " FROM " MT_SQL_EVENTS_OF(of, id, "(SELECT " FIRST ")", "(SELECT LEAST($1::int8 - 1, " LAST "))", "DESC") \
      " WHERE true" REST " LIMIT $2"}}

enum { BY_ID = 0, BY_ORG, BY_ENV, BY_CORRELATION, BY_AGGREGATE, BY_MAX };
static const struct mt_pg_stmt st_read[BY_MAX][2] = {
    [BY_ID] = READ("all", ""),
    [BY_ORG] = READ_OF("org", "$3"),
    [BY_ENV] = READ_OF("env", "$5"),
    [BY_CORRELATION] = READ("correlation", " AND correlation_id = $8"),
    [BY_AGGREGATE] = READ("aggregate", " AND aggregate_type = $6 AND aggregate_id = $7"),
};
static const struct mt_pg_stmt st_get = {"log_get", "SELECT " COLS " FROM events WHERE event_id = $1"};
static const struct mt_pg_stmt st_position = {"log_position", "SELECT last_event_id, epoch FROM event_counter"};

#define TYPES_MAX 32

/* "deploy.*" -> 'deploy.%', with LIKE's own letters escaped. */
static int add_type(struct mt_pg_arr *a, const char *type, struct mt_err *err)
{
    size_t n = strlen(type);
    bool prefix = n > 2 && MT_STREQ(type + n - 2, ".*");
    if (n == 0 || n > 100 || strspn(type, "abcdefghijklmnopqrstuvwxyz0123456789_.") != (prefix ? n - 1 : n))
        return MT_FAIL(err, MT_E_INVALID, "event type '%.60s' is neither a name nor a prefix ending in '.*'", type);
    char like[224];
    size_t at = 0;
    for (size_t i = 0; i < (prefix ? n - 1 : n); i++) {
        if (type[i] == '_')
            like[at++] = '\\';
        like[at++] = type[i];
    }
    if (prefix)
        like[at++] = '%';
    mt_pg_arr_text_n(a, like, at);
    return 0;
}

static int types_of(const struct mt_log_filter *f, struct mt_pg_arr *like, struct mt_pg_arr *hidden, struct mt_err *err)
{
    int r = 0;
    if (f->n_event_types > TYPES_MAX)
        return MT_FAIL(err, MT_E_LIMIT, "at most %d event types in one filter", TYPES_MAX);
    if (f->event_type)
        r = add_type(like, f->event_type, err);
    for (int i = 0; i < f->n_event_types && r == 0; i++)
        r = add_type(like, f->event_types[i], err);
    for (unsigned i = 0; i < MT_EV_MAX && f->tenant_only; i++)
        if (!mt_ev_info((enum mt_ev)i)->tenant)
            mt_pg_arr_text_add(hidden, mt_ev_info((enum mt_ev)i)->type);
    return r;
}

static int pick(const struct mt_log_filter *f)
{
    return f->aggregate_type && f->aggregate_id ? BY_AGGREGATE
           : f->correlation_id                  ? BY_CORRELATION
           : f->env_id                          ? BY_ENV
           : f->org_id                          ? BY_ORG
                                                : BY_ID;
}

static int read_page(struct mt_pg *pg, const struct mt_log_filter *f, int64_t after, int limit, struct mt_pg_arr *like,
                     struct mt_pg_arr *hidden, struct mt_pg_res *res[2], struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, f->desc && after == 0 ? INT64_MAX : after);
    mt_pg_p_i64(&p, limit);
    mt_pg_p_text(&p, f->org_id);
    mt_pg_p_text(&p, f->app_id);
    mt_pg_p_text(&p, f->env_id);
    mt_pg_p_text(&p, f->aggregate_type);
    mt_pg_p_text(&p, f->aggregate_id);
    mt_pg_p_text(&p, f->correlation_id);
    mt_pg_p_text(&p, f->actor_id);
    mt_pg_p_arr_or_null(&p, like);
    mt_pg_p_arr_or_null(&p, hidden);
    if (f->since_us)
        mt_pg_p_time(&p, f->since_us);
    else
        mt_pg_p_time_null(&p);
    if (f->until_us)
        mt_pg_p_time(&p, f->until_us);
    else
        mt_pg_p_time_null(&p);
    /* The head is read first: what the page then misses lies above it. */
    int r = mt_pg_pipe_enter(pg, err);
    if (r < 0)
        return r;
    r = mt_pg_pipe_send(pg, &st_position, NULL, err);
    if (r == 0)
        r = mt_pg_pipe_send(pg, &st_read[pick(f)][f->desc], &p, err);
    if (r == 0)
        r = mt_pg_pipe_sync(pg, res, 2, err);
    struct mt_err ignored = {0};
    int left = mt_pg_pipe_leave(pg, r < 0 ? &ignored : err);
    if (r == 0 && left < 0) {
        mt_pg_res_freep(&res[0]);
        mt_pg_res_freep(&res[1]);
    }
    return r < 0 ? r : left;
}

int mt_log_in_order(const struct mt_pg_res *res, bool desc, struct mt_err *err)
{
    int64_t before = desc ? INT64_MAX : 0;
    for (int i = 0; i < mt_pg_rows(res); i++) {
        int64_t id = mt_pg_i64(res, i, 0);
        if (desc ? id >= before : id <= before)
            return MT_FAIL(err, MT_E_CORRUPT, "event %lld came after event %lld: the database does not keep the order of runs", (long long)id, (long long)before);
        before = id;
    }
    return 0;
}

int mt_log_read(struct mt_pg *pg, const struct mt_log_filter *f, int64_t after, int limit, struct mt_log_page *ret_page,
                int64_t *ret_cursor, int64_t *ret_head, struct mt_err *err)
{
    static const struct mt_log_filter all;
    if (!f)
        f = &all;
    if (limit < 1 || limit > 1000 || after < 0)
        return MT_FAIL(err, MT_E_INVALID, "limit is 1..1000, the cursor not negative");
    struct mt_pg_arr like, hidden;
    mt_pg_arr_init(&like, MT_PG_ELEM_TEXT, 64u << 10);
    mt_pg_arr_init(&hidden, MT_PG_ELEM_TEXT, 64u << 10);
    struct mt_pg_res *res[2] = {NULL, NULL};
    int r = types_of(f, &like, &hidden, err);
    if (r == 0)
        r = read_page(pg, f, after, limit, &like, &hidden, res, err);
    mt_pg_arr_done(&like);
    mt_pg_arr_done(&hidden);
    if (r < 0)
        return r;
    if (mt_pg_rows(res[0]) != 1)
        r = MT_FAIL(err, MT_E_CORRUPT, "event_counter has no row");
    if (r < 0 || (r = mt_log_in_order(res[1], f->desc, err)) < 0) {
        mt_pg_res_freep(&res[0]);
        mt_pg_res_freep(&res[1]);
        return r;
    }
    int64_t head = mt_pg_i64(res[0], 0, 0);
    mt_pg_res_freep(&res[0]);
    int n = mt_pg_rows(res[1]);
    int64_t last = n > 0 ? mt_pg_i64(res[1], n - 1, 0) : 0;
    if (n < limit)
        last = f->desc ? 0 : (last > head ? last : head > after ? head : after);
    *ret_page = (struct mt_log_page){.res = res[1], .n = n};
    *ret_cursor = last;
    if (ret_head)
        *ret_head = head;
    return 0;
}

void mt_log_page_get(const struct mt_log_page *page, int i, struct mt_log_event *ret)
{
    const struct mt_pg_res *r = page->res;
    size_t n;
    *ret = (struct mt_log_event){
        .event_id = mt_pg_i64(r, i, 0), .occurred_us = mt_pg_time(r, i, 1), .org_id = mt_pg_text_or_null(r, i, 2),
        .app_id = mt_pg_text_or_null(r, i, 3), .env_id = mt_pg_text_or_null(r, i, 4), .aggregate_type = mt_pg_text(r, i, 5),
        .aggregate_id = mt_pg_text(r, i, 6), .aggregate_seq = (int32_t)mt_pg_i64(r, i, 7), .event_type = mt_pg_text(r, i, 8),
        .event_version = (int32_t)mt_pg_i64(r, i, 9), .actor_type = mt_pg_text(r, i, 10), .actor_id = mt_pg_text(r, i, 11),
        .request_id = mt_pg_text(r, i, 12), .idempotency_key = mt_pg_text_or_null(r, i, 13),
        .correlation_id = mt_pg_text_or_null(r, i, 14), .causation_id = mt_pg_i64_or(r, i, 15, 0),
        .payload = mt_pg_text(r, i, 16), .chain_hash = mt_pg_bytes(r, i, 17, &n)};
}

void mt_log_page_done(struct mt_log_page *page)
{
    mt_pg_res_freep(&page->res);
    page->n = 0;
}

int mt_log_get(struct mt_pg *pg, int64_t event_id, struct mt_log_page *ret_page, struct mt_err *err)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_i64(&p, event_id);
    int r = mt_pg_query_one(pg, &st_get, &p, &ret_page->res, err);
    if (r == -(int)MT_E_NOT_FOUND)
        return MT_FAIL(err, MT_E_NOT_FOUND, "there is no event %lld", (long long)event_id);
    ret_page->n = r == 0;
    return r;
}

int mt_log_position(struct mt_pg *pg, int64_t *ret_head, int64_t *ret_epoch, struct mt_err *err)
{
    mt_auto_pg_res struct mt_pg_res *res = NULL;
    int r = mt_pg_query_one(pg, &st_position, NULL, &res, err);
    if (r < 0)
        return r;
    *ret_head = mt_pg_i64(res, 0, 0);
    if (ret_epoch)
        *ret_epoch = mt_pg_i64(res, 0, 1);
    return 0;
}

static void put_text(struct mt_buf *b, const char *name, const char *v)
{
    if (!v)
        return;
    mt_buf_printf(b, ",\"%s\":", name);
    mt_buf_put_json_str(b, v, strlen(v));
}

void mt_log_event_json(const struct mt_log_event *e, const char *summary, struct mt_buf *b)
{
    char when[MT_RFC3339_LEN];
    mt_buf_printf(b, "{\"event_id\":%lld,\"occurred_at\":\"%s\"", (long long)e->event_id, mt_rfc3339(e->occurred_us, when));
    put_text(b, "event_type", e->event_type);
    mt_buf_printf(b, ",\"event_version\":%d", e->event_version);
    put_text(b, "org_id", e->org_id);
    put_text(b, "app_id", e->app_id);
    put_text(b, "env_id", e->env_id);
    put_text(b, "aggregate_type", e->aggregate_type);
    put_text(b, "aggregate_id", e->aggregate_id);
    mt_buf_printf(b, ",\"aggregate_seq\":%d,\"actor\":{\"type\":", e->aggregate_seq);
    mt_buf_put_json_str(b, e->actor_type, strlen(e->actor_type));
    put_text(b, "id", e->actor_id);
    mt_buf_putc(b, '}');
    put_text(b, "request_id", e->request_id);
    put_text(b, "correlation_id", e->correlation_id);
    if (e->causation_id)
        mt_buf_printf(b, ",\"causation_id\":%lld", (long long)e->causation_id);
    mt_buf_puts(b, ",\"payload\":");
    mt_buf_puts(b, e->payload);
    put_text(b, "summary", summary);
    mt_buf_putc(b, '}');
}
