/* SPDX-License-Identifier: Apache-2.0 */
/* Workload logs: asked of the agents, merged by (ts, instance, seq), never stored here (control-plane.md §11.2). */
#include "control/api/handlers.h"

#include "base/clock.h"
#include "base/cleanup.h"
#include "base/str.h"
#include "control/api/call.h"
#include "control/api/trail.h"
#include "control/limits/request.h"
#include "control/streams/agent.h"
#include "control/streams/logs.h"
#include "control/streams/sse.h"
#include "pg/array.h"
#include "wire/json.h"

#define AGENT_TIMEOUT_MS 3000
#define HISTORY_NS (15 * MT_NS_PER_S) /* to ask all nodes; whose turn has not come by then is missing */
#define INSTANCES_MAX 200
#define STREAM_BUFFER (1024u * 1024u)
#define HEARTBEAT_NS (15 * MT_NS_PER_S)
#define STREAM_MAX_NS (3600 * MT_NS_PER_S)
#define LOOK_NS (5 * MT_NS_PER_S)
#define LATE_NS (3 * MT_NS_PER_S) /* after `until`, for what agents and nodes are behind */
#define LOST_NS (2 * MT_NS_PER_S) /* between two tries of what does not answer */
#define ROUND 5000 /* records of one look back into an instance */
#define ROUNDS 40

static const struct mt_pg_stmt sources = {
    "log_sources",
    "SELECT instance_id, process_type, node_id, released_at IS NULL AND status <> 'stopped' FROM instances_view WHERE env_id = $1"
    " AND ($2::text IS NULL OR process_type = $2) AND ($3::text IS NULL OR instance_id = $3)"
    " AND ($4::text IS NULL OR release_id = $4) ORDER BY released_at IS NULL DESC, instance_id DESC LIMIT 200"};

struct filter {
    char process[40], instance[48], release[48], stream[16], contains[256];
    int64_t since_us, until_us; /* 0: none */
    bool previous;              /* of the attempt before the present one */
};

/* A position: how far an instance has been read. */
struct position {
    char instance_id[MT_ID_SIZE];
    uint64_t seq;
};

struct stream {
    struct mt_api_stream base; /* first */
    struct mt_log_place *where;
    json_t *missing;            /* nodes the client was told do not answer; owned */
    int64_t looked_ns;          /* for sources that were lost */
    struct filter f;
    struct position seen[INSTANCES_MAX]; /* instances that are followed, with the seq their following began at */
    size_t seen_n;
    json_t *cursor; /* {instance: seq} the client has, of a stream that goes on; NULL: a new one. Owned */
    int64_t opened_ns, spoke_ns;
    int64_t until_ns; /* when it has given all that is from before `until`; 0: it has none */
    struct mt_stream_place place;
};

static void stream_end(void *state)
{
    struct stream *s = state;
    mt_limits_stream_leave(&s->place);
    mt_log_place_unref(s->where);
    json_decref(s->missing);
    json_decref(s->cursor);
    free(s);
}

static int take(struct mt_api_call *c, const char *name, char *ret, size_t size)
{
    const char *v = mt_api_query(c, name);
    if (v && strlen(v) >= size)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is too long", name);
    snprintf(ret, size, "%s", v ? v : "");
    return 0;
}

/* RFC 3339, or a time span back from now: "10m", "2h", "90s". */
static int take_time(struct mt_api_call *c, const char *name, int64_t *ret)
{
    const char *v = mt_api_query(c, name);
    char *end;
    *ret = 0;
    if (!v)
        return 0;
    unsigned long n = strtoul(v, &end, 10);
    int64_t unit = MT_STREQ(end, "s") ? 1 : MT_STREQ(end, "m") ? 60 : MT_STREQ(end, "h") ? 3600 : 0;
    if (unit && end != v && n < 1000000) {
        *ret = mt_clock_wall_us() - (int64_t)n * unit * 1000000;
        return 0;
    }
    if (mt_rfc3339_parse(v, ret, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is an RFC 3339 time or a span like 10m", name);
    return 0;
}

static int read_filter(struct mt_api_call *c, struct filter *f)
{
    if (take(c, "process_type", f->process, sizeof f->process) < 0 ||
        take(c, "instance_id", f->instance, sizeof f->instance) < 0 ||
        take(c, "release_id", f->release, sizeof f->release) < 0 || take(c, "stream", f->stream, sizeof f->stream) < 0 ||
        take(c, "contains", f->contains, sizeof f->contains) < 0 || take_time(c, "since", &f->since_us) < 0 ||
        take_time(c, "until", &f->until_us) < 0 || mt_api_query_bool(c, "previous", false, &f->previous) < 0)
        return -1;
    if (f->stream[0] && !MT_STREQ(f->stream, "stdout") && !MT_STREQ(f->stream, "stderr") && !MT_STREQ(f->stream, "system"))
        return mt_api_fail(c, 400, "invalid_argument", "stream is stdout, stderr or system");
    int64_t end = f->until_us ? f->until_us : mt_clock_wall_us();
    if (f->since_us && f->until_us && end < f->since_us)
        return mt_api_fail(c, 400, "invalid_argument", "until is before since");
    uint64_t window_s = c->ctl->conf.log_window_s;
    if (f->since_us && end - f->since_us > (int64_t)window_s * 1000000 && !c->who.is_operator)
        return mt_api_fail(c, 400, "invalid_argument", "the window from since to until (or now) is at most %llu %s", (unsigned long long)(window_s % 3600 ? window_s / 60 : window_s / 3600),
                           window_s % 3600 ? "minutes" : window_s == 3600 ? "hour" : "hours");
    return 0;
}

static const char *or_null(const char *s)
{
    return s[0] ? s : NULL;
}

static int load_sources(struct mt_api_call *c, const struct filter *f, struct mt_pg_res **ret)
{
    struct mt_pg_params p;
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, c->env.id);
    mt_pg_p_text(&p, or_null(f->process));
    mt_pg_p_text(&p, or_null(f->instance));
    mt_pg_p_text(&p, or_null(f->release));
    return mt_pg_query(c->pg, &sources, &p, ret, &c->err) < 0 ? mt_api_fail_err(c) : 0;
}

static bool in_window(const struct filter *f, const json_t *item)
{
    int64_t at;
    if (!f->since_us && !f->until_us)
        return true;
    if (mt_rfc3339_parse(json_string_value(json_object_get(item, "ts")), &at, NULL) < 0)
        return false;
    return (!f->since_us || at >= f->since_us) && (!f->until_us || at < f->until_us);
}

static int by_time(const void *a, const void *b)
{
    json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    int d = strcmp(json_string_value(json_object_get(x, "ts")), json_string_value(json_object_get(y, "ts")));
    if (d == 0)
        d = strcmp(json_string_value(json_object_get(x, "instance_id")), json_string_value(json_object_get(y, "instance_id")));
    if (d)
        return d;
    json_int_t s = json_integer_value(json_object_get(x, "seq")), t = json_integer_value(json_object_get(y, "seq"));
    return s < t ? -1 : s > t;
}

/* History of all sources, oldest first, at most @limit newest (or, with positions, the first @limit after them). */
struct history {
    json_t **item; /* owned array of owned items */
    size_t n;
    json_t *missing; /* node ids that did not answer, owned */
    json_t *last;    /* {instance: seq} of the newest record that was looked at, wanted or not; owned */
};

static void history_done(struct history *h)
{
    for (size_t i = 0; i < h->n; i++)
        json_decref(h->item[i]);
    free(h->item);
    json_decref(h->missing);
    json_decref(h->last);
}

static uint64_t after_of(const json_t *cursor, const char *id)
{
    json_t *v = cursor ? json_object_get(cursor, id) : NULL;
    return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : 0;
}

static bool has_node(const json_t *nodes, const char *node_id)
{
    size_t i;
    json_t *v;
    json_array_foreach (nodes, i, v)
        if (MT_STREQ(json_string_value(v), node_id))
            return true;
    return false;
}

static void note_node(json_t *nodes, const char *node_id)
{
    if (!has_node(nodes, node_id))
        json_array_append_new(nodes, json_string(node_id));
}

static int add_items(struct history *h, const struct filter *f, const json_t *records, const char *id, const char *process)
{
    size_t i, n = json_array_size(records);
    json_t *r, **more = realloc(h->item, (h->n + n + 1) * sizeof *more);
    if (!more)
        return -MT_E_NOMEM;
    h->item = more;
    json_array_foreach (records, i, r) {
        json_t *item = mt_log_item(r, id, process);
        if (item)
            json_object_set(h->last, id, json_object_get(item, "seq")); /* the agent sends them in order */
        if (item && mt_log_item_wanted(item, or_null(f->stream), or_null(f->contains)) && in_window(f, item))
            h->item[h->n++] = item;
        else
            json_decref(item);
    }
    return 0;
}

/* A line is asked for that may lie before the newest ones. */
static bool looks_back(const struct filter *f)
{
    return f->since_us || f->until_us || f->stream[0] || f->contains[0];
}

/* With a filter the newest lines of an instance may all be others: it is looked back, round by round, until there are as many
 * as are wanted, the window or the log begins, or it is enough. Negative only for want of memory: what was found stays. */
static int look_back(struct mt_api_call *c, const struct filter *f, const char *id, const char *process, const char *node,
                     json_t *newest, int64_t until, size_t want, struct history *h)
{
    size_t had = h->n;
    json_t *records = json_incref(newest);
    int rc = add_items(h, f, records, id, process);
    json_t *last = json_incref(json_object_get(h->last, id));
    for (int round = 1; rc == 0 && round < ROUNDS && h->n - had < want; round++) {
        const json_t *oldest = json_array_get(records, 0);
        json_int_t seq = json_integer_value(json_object_get(oldest, "seq"));
        const char *ts = json_string_value(json_object_get(oldest, "ts"));
        int64_t at;
        if (seq <= 1 || !ts || (f->since_us && mt_rfc3339_parse(ts, &at, NULL) == 0 && at < f->since_us))
            break;
        json_int_t from = seq > ROUND ? seq - 1 - ROUND : 0;
        json_t *ask = json_pack("{s:s,s:s,s:b,s:I,s:I}", "op", "logs", "instance_id", id, "follow", false, "since_seq", from, "limit", seq - 1 - from);
        struct mt_err err = {0};
        json_decref(records);
        records = NULL;
        bool late = mt_clock_mono() >= until;
        if (late)
            json_decref(ask);
        if (late || mt_agent_ask(c->ctl, c->pg, id, ask, AGENT_TIMEOUT_MS, &records, &err) < 0) {
            note_node(h->missing, node);
            break;
        }
        for (size_t n; (n = json_array_size(records)) > 0;) /* the first ones may be kept no more: then it gave later ones too */
            if (json_integer_value(json_object_get(json_array_get(records, n - 1), "seq")) < seq || json_array_remove(records, n - 1) < 0)
                break;
        rc = add_items(h, f, records, id, process);
    }
    if (last)
        json_object_set_new(h->last, id, last); /* following goes on after the newest */
    json_decref(records);
    return rc;
}

static int load_history(struct mt_api_call *c, const struct filter *f, const struct mt_pg_res *src, const json_t *cursor,
                        int64_t limit, struct history *h)
{
    mt_auto_json json_t *away = json_array();
    int64_t until = mt_clock_mono() + HISTORY_NS;
    *h = (struct history){.missing = json_array(), .last = json_object()};
    for (int i = 0; i < mt_pg_rows(src); i++) {
        const char *id = mt_pg_text(src, i, 0), *node = mt_pg_text(src, i, 2);
        if (has_node(away, node))
            continue;
        if (mt_clock_mono() > until) { /* many nodes that do not answer: what there is is better than nothing */
            note_node(h->missing, node);
            continue;
        }
        uint64_t after = after_of(cursor, id);
        json_t *records = NULL;
        struct mt_err err = {0};
        json_t *ask = json_pack("{s:s,s:s,s:b,s:I}", "op", "logs", "instance_id", id, "follow", false, "limit",
                                (json_int_t)(looks_back(f) ? ROUND : limit));
        if (ask && cursor) /* without it the agent gives the newest */
            json_object_set_new(ask, "since_seq", json_integer((json_int_t)after));
        else if (ask && f->previous)
            json_object_set_new(ask, "previous", json_true());
        int rc = mt_agent_ask(c->ctl, c->pg, id, ask, AGENT_TIMEOUT_MS, &records, &err);
        if (rc < 0) {
            note_node(h->missing, node);
            if (rc != -MT_E_LIMIT && rc != -MT_E_CORRUPT)
                note_node(away, node); /* its other sources would not be answered either, each after as long */
            continue;
        }
        rc = looks_back(f) && !cursor && !f->previous ? look_back(c, f, id, mt_pg_text(src, i, 1), node, records, until, (size_t)limit, h)
                                                      : add_items(h, f, records, id, mt_pg_text(src, i, 1));
        json_decref(records);
        if (rc < 0) {
            (void)MT_FAIL(&c->err, MT_E_NOMEM, "log lines");
            return mt_api_fail_err(c);
        }
    }
    if (h->n)
        qsort(h->item, h->n, sizeof *h->item, by_time);
    return 0;
}

/* Cursor text: base64 is not needed, it is JSON of {instance: seq} in hexadecimal. A stream of server-sent events has its own. */
static int read_cursor(struct mt_api_call *c, bool stream, json_t **ret)
{
    const char *t = mt_api_query(c, "cursor"), *newer = stream ? mt_sse_last_id(c->http) : NULL;
    *ret = NULL;
    if (newer)
        t = newer;
    if (!t)
        return 0;
    size_t n = strlen(t) / 2;
    mt_auto_free char *text = malloc(n + 1);
    if (!text || strlen(t) % 2 || n > 16384 || mt_hex_decode(t, n, text) < 0 ||
        mt_json_parse(text, n, 16384, 2, ret, &c->err) < 0 || !json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        return mt_api_fail(c, 400, "invalid_cursor", "the cursor was not made by this list");
    }
    return 0;
}

static char *make_cursor(const json_t *old, const struct history *h, size_t from, size_t to)
{
    mt_auto_json json_t *pos = old ? json_deep_copy(old) : json_object();
    for (size_t i = from; i < to; i++)
        json_object_set(pos, json_string_value(json_object_get(h->item[i], "instance_id")),
                        json_object_get(h->item[i], "seq"));
    return mt_log_cursor(pos);
}

static int send_history(struct mt_api_call *c, const struct history *h, const json_t *cursor, int64_t limit)
{
    size_t n = h->n, want = (size_t)limit;
    /* Without a cursor the newest lines are wanted; after one, the next. */
    size_t from = !cursor && n > want ? n - want : 0, to = cursor && n > want ? want : n;
    json_t *items = json_array();
    for (size_t i = from; i < to; i++)
        json_array_append(items, h->item[i]);
    char *next = make_cursor(cursor, h, from, to);
    json_t *o = json_pack("{s:o,s:s*,s:O}", "items", items, "next_cursor", next, "missing_nodes", h->missing);
    free(next);
    return mt_api_send(c, 200, o);
}

int mt_api_logs_list(struct mt_api_call *c)
{
    struct filter f = {0};
    struct history h = {0};
    int64_t limit;
    mt_auto_json json_t *cursor = NULL;
    mt_auto_pg_res struct mt_pg_res *src = NULL;
    if (read_filter(c, &f) < 0 || mt_api_query_i64(c, "limit", 1, 5000, 500, &limit) < 0 || read_cursor(c, false, &cursor) < 0 ||
        mt_api_query_done(c) < 0 || mt_api_trail_read(c, "logs.read", NULL, NULL) < 0 || load_sources(c, &f, &src) < 0)
        return -1;
    int rc = load_history(c, &f, src, cursor, limit, &h);
    if (rc == 0)
        rc = send_history(c, &h, cursor, limit);
    history_done(&h);
    return rc;
}

/* ---------------------------------------------------------------- stream */

static bool followed(const struct stream *s, const char *id)
{
    for (size_t i = 0; i < s->seen_n; i++)
        if (MT_STREQ(s->seen[i].instance_id, id))
            return true;
    return false;
}

/* An agent that ended or was cut off took its sources along: what runs is followed anew, from where it was read to. */
static void forget_lost(struct stream *s, const struct mt_pg_res *src, int64_t now)
{
    if (now - s->looked_ns < LOST_NS)
        return;
    s->looked_ns = now;
    for (int i = 0; i < mt_pg_rows(src); i++)
        for (size_t k = 0; k < s->seen_n && mt_pg_bool(src, i, 3); k++)
            if (MT_STREQ(s->seen[k].instance_id, mt_pg_text(src, i, 0)) && mt_log_place_take_lost(s->where, s->seen[k].instance_id)) {
                s->seen[k] = s->seen[--s->seen_n];
                break;
            }
}

/* The nodes whose lines are not there, when they are others than the client was told. */
static void tell_missing(struct mt_api_call *c, struct stream *s, const json_t *away)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u);
    if (json_equal(s->missing, away) || (!s->missing && json_array_size(away) == 0))
        return;
    json_decref(s->missing);
    s->missing = json_deep_copy(away);
    mt_auto_json json_t *line = json_pack("{s:s,s:O}", "type", "missing", "nodes", away);
    if (!line || mt_json_dump(line, &b, &c->err) < 0)
        return;
    mt_buf_putc(&b, '\n');
    (void)mt_log_put(c->http, s->where, mt_buf_cstr(&b), b.len);
}

/* Follow every source that is not followed yet, from where the client has it, or the seq it was read to. */
static int follow_new(struct mt_api_call *c, struct stream *s, const struct mt_pg_res *src, const struct history *h)
{
    mt_auto_json json_t *away = json_array();
    forget_lost(s, src, mt_clock_mono());
    for (int i = 0; i < mt_pg_rows(src) && s->seen_n < INSTANCES_MAX; i++) {
        const char *id = mt_pg_text(src, i, 0), *node = mt_pg_text(src, i, 2);
        if (followed(s, id) || has_node(away, node))
            continue;
        json_t *at = h ? json_object_get(h->last, id) : NULL;
        uint64_t after = mt_log_place_seq(s->where, id);
        if (!after && json_is_integer(at) && json_integer_value(at) > 0)
            after = (uint64_t)json_integer_value(at);
        struct mt_follow w = {.instance_id = id, .process_type = mt_pg_text(src, i, 1), .stream = or_null(s->f.stream),
                              .contains = or_null(s->f.contains), .until_us = s->f.until_us, .place = s->where};
        json_t *ask = json_pack("{s:s,s:s,s:b}", "op", "logs", "instance_id", id, "follow", true);
        if (ask && s->f.previous && !after) /* the agent knows where it begins */
            json_object_set_new(ask, "previous", json_true());
        else if (ask)
            json_object_set_new(ask, "since_seq", json_integer((json_int_t)after));
        struct mt_err err = {0};
        if (mt_agent_open(c->ctl, c->pg, id, ask, AGENT_TIMEOUT_MS, &w.fd, &err) < 0) {
            note_node(away, node); /* again at the next look */
            continue;
        }
        if (after)
            mt_log_place_at(s->where, id, after);
        if (mt_fanout_add(c->ctl->fanout, c->http, &w, &c->err) < 0)
            return mt_api_fail(c, 429, "too_many_streams", "too many log streams are open");
        snprintf(s->seen[s->seen_n].instance_id, sizeof s->seen[0].instance_id, "%s", id);
        s->seen[s->seen_n++].seq = after;
    }
    tell_missing(c, s, away);
    return 0;
}

static void write_history(struct mt_api_call *c, const struct stream *s, const struct history *h, int64_t limit)
{
    size_t from = h->n > (size_t)limit ? h->n - (size_t)limit : 0;
    for (size_t i = from; i < h->n; i++) {
        mt_auto_buf struct mt_buf b = MT_BUF_INIT(512u * 1024u);
        json_object_set_new(h->item[i], "type", json_string("log"));
        if (mt_json_dump(h->item[i], &b, &c->err) == 0) {
            mt_buf_putc(&b, '\n');
            if (mt_log_put(c->http, s->where, mt_buf_cstr(&b), b.len) < 0)
                return;
        }
    }
}

static void say_end(struct mt_api_stream *base, struct mt_http_req *req, const char *reason)
{
    mt_log_end(req, ((struct stream *)base)->where, reason);
}

/* Where each source is followed from: a client that comes back with this, moved on by the lines it got, loses and repeats nothing. */
static void write_position(struct mt_api_call *c, const struct stream *s)
{
    mt_auto_json json_t *at = json_object();
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u);
    for (size_t i = 0; i < s->seen_n; i++)
        if (s->seen[i].seq) /* 0 with `previous`: only the agent knows */
            json_object_set_new(at, s->seen[i].instance_id, json_integer((json_int_t)s->seen[i].seq));
    mt_auto_json json_t *line = json_pack("{s:s,s:O}", "type", "position", "positions", at);
    if (line && mt_json_dump(line, &b, &c->err) == 0) {
        mt_buf_putc(&b, '\n');
        (void)mt_log_put(c->http, s->where, mt_buf_cstr(&b), b.len);
    }
}

static int open_stream(struct mt_api_call *c, struct stream **ret)
{
    struct filter f = {0};
    struct history h = {0};
    int64_t limit;
    mt_auto_json json_t *cursor = NULL;
    mt_auto_pg_res struct mt_pg_res *src = NULL;
    bool positions;
    if (read_filter(c, &f) < 0 || mt_api_query_i64(c, "limit", 0, 5000, 100, &limit) < 0 || read_cursor(c, true, &cursor) < 0 ||
        mt_api_query_bool(c, "positions", false, &positions) < 0 || mt_api_query_done(c) < 0 || mt_api_trail_read(c, "logs.follow", NULL, NULL) < 0 || load_sources(c, &f, &src) < 0)
        return -1;
    /* A stream that goes on, or begins with an attempt's first line, has no history of its own: following gives all of it. */
    bool direct = cursor || f.previous;
    int rc = direct ? 0 : load_history(c, &f, src, NULL, limit ? limit : 1, &h);
    struct stream *s = rc == 0 ? calloc(1, sizeof *s) : NULL;
    if (s) {
        *s = (struct stream){.base.end = say_end, .f = f, .cursor = MT_TAKE(cursor), .opened_ns = mt_clock_mono(), .spoke_ns = mt_clock_mono()};
        if (mt_limits_stream(c, &s->place) < 0) {
            json_decref(s->cursor);
            free(s);
            history_done(&h);
            return -1;
        }
        int64_t left_us = f.until_us ? f.until_us - mt_clock_wall_us() : 0;
        if (f.until_us)
            s->until_ns = s->opened_ns + (left_us > 0 ? left_us * 1000 : 0) + (left_us > 0 || direct ? LATE_NS : 0);
        mt_http_req_set_state(c->http, s, stream_end);
        bool sse = mt_sse_wanted(c->http);
        if (!(s->where = mt_log_place_new(sse, s->cursor))) {
            history_done(&h);
            (void)MT_FAIL(&c->err, MT_E_NOMEM, "log stream");
            return mt_api_fail_err(c);
        }
        mt_sse_start(c->http, sse, STREAM_BUFFER);
        if (!direct)
            write_history(c, s, &h, limit);
        if (!s->until_ns || s->until_ns > s->opened_ns) /* else history is all of it */
            rc = follow_new(c, s, src, direct ? NULL : &h);
        if (rc >= 0 && positions)
            write_position(c, s);
        *ret = s;
    } else if (rc == 0) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "log stream");
        rc = mt_api_fail_err(c);
    }
    history_done(&h);
    return rc < 0 ? -1 : 0;
}

int mt_api_logs_stream(struct mt_api_call *c)
{
    struct stream *s = mt_http_req_state(c->http);
    int64_t now = mt_clock_mono();
    if (!s) {
        if (open_stream(c, &s) < 0)
            return -1;
    } else { /* the log moved: new instances may have come */
        mt_auto_pg_res struct mt_pg_res *src = NULL;
        if (load_sources(c, &s->f, &src) < 0 || follow_new(c, s, src, NULL) < 0)
            return -1;
    }
    bool over = s->until_ns && now >= s->until_ns;
    if (over || mt_http_req_stopping(c->http) || now - s->opened_ns > STREAM_MAX_NS) {
        say_end(&s->base, c->http, over ? "until" : mt_http_req_stopping(c->http) ? "shutdown" : "max_duration");
        return 0;
    }
    if (now - s->spoke_ns >= HEARTBEAT_NS) {
        mt_log_beat(c->http, s->where);
        s->spoke_ns = now;
    }
    /* A source that was lost, or does not answer, is looked for sooner. */
    int64_t next = s->spoke_ns + HEARTBEAT_NS, look = now + (json_array_size(s->missing) ? LOST_NS : LOOK_NS);
    next = next < look ? next : look;
    mt_http_park(c->http, MT_TOPIC_HEAD, s->until_ns && s->until_ns < next ? s->until_ns : next);
    return 0;
}
