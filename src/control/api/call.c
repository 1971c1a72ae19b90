/* SPDX-License-Identifier: Apache-2.0 */
/* Reading requests and sending answers: parameters, query, body members, lists with cursors. */
#include "control/api/call.h"

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/str.h"
#include "control/api/cursor.h"
#include "wire/json.h"

const char *mt_api_param(const struct mt_api_call *c, const char *name)
{
    for (int i = 0; i < c->params_n; i++)
        if (MT_STREQ(c->param[i].name, name))
            return c->param[i].value;
    mt_panic(__FILE__, __LINE__, "path parameter that the template does not have");
}

const char *mt_api_query(struct mt_api_call *c, const char *name)
{
    const char *k, *v, *found = NULL;
    MT_ASSERT(c->query_n < MT_API_QUERY);
    c->query[c->query_n++] = name;
    for (size_t i = 0; mt_http_req_query_at(c->http, i, &k, &v); i++)
        if (MT_STREQ(k, name))
            found = v;
    return found;
}

int mt_api_query_done(struct mt_api_call *c)
{
    const char *k, *v;
    char shown[64];
    for (size_t i = 0; mt_http_req_query_at(c->http, i, &k, &v); i++) {
        const char *before, *its;
        for (size_t j = 0; j < i && !(c->query_repeats && MT_STREQ(k, c->query_repeats)); j++)
            if (mt_http_req_query_at(c->http, j, &before, &its) && MT_STREQ(k, before))
                return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is given twice", mt_printable(k, strlen(k), shown, sizeof shown));
        bool known = MT_STREQ(k, "min_event_id");
        for (int j = 0; j < c->query_n && !known; j++)
            known = MT_STREQ(k, c->query[j]);
        if (!known)
            return mt_api_fail(c, 400, "invalid_argument", "unknown query parameter '%s'",
                               mt_printable(k, strlen(k), shown, sizeof shown));
    }
    return 0;
}

int mt_api_query_i64(struct mt_api_call *c, const char *name, int64_t min, int64_t max, int64_t absent, int64_t *ret)
{
    const char *v = mt_api_query(c, name);
    *ret = absent;
    if (v && mt_parse_i64(v, min, max, ret, &c->err) < 0)
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s': %s", name, c->err.msg);
    return 0;
}

int mt_api_query_bool(struct mt_api_call *c, const char *name, bool absent, bool *ret)
{
    const char *v = mt_api_query(c, name);
    *ret = absent;
    if (!v)
        return 0;
    if (!MT_STREQ(v, "true") && !MT_STREQ(v, "false"))
        return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s' is true or false", name);
    *ret = MT_STREQ(v, "true");
    return 0;
}

int mt_api_fields(struct mt_api_call *c, const char *const *known)
{
    const char *k;
    json_t *v;
    json_object_foreach (c->body, k, v) {
        bool ok = false;
        char shown[64];
        for (size_t i = 0; known[i] && !ok; i++)
            ok = MT_STREQ(known[i], k);
        if (ok)
            continue;
        const char *near = mt_nearest(k, known);
        mt_printable(k, strlen(k), shown, sizeof shown);
        c->problem.errors = json_pack("[{s:s,s:s,s:s}]", "field", shown, "code", "unknown_field", "message",
                                      near ? near : "not known here");
        if (near)
            return mt_api_fail(c, 400, "unknown_field", "unknown field '%s'; did you mean '%s'?", shown, near);
        return mt_api_fail(c, 400, "unknown_field", "unknown field '%s'", shown);
    }
    return 0;
}

static json_t *member(struct mt_api_call *c, const char *name)
{
    json_t *v = json_object_get(c->body, name);
    return json_is_null(v) ? NULL : v;
}

static int field_fail(struct mt_api_call *c, const char *name, const char *what)
{
    if (!c->problem.errors)
        c->problem.errors = json_pack("[{s:s,s:s,s:s}]", "field", name, "code", "invalid_argument", "message", what);
    return mt_api_fail(c, 400, "invalid_argument", "'%s': %s", name, what);
}

int mt_api_text(struct mt_api_call *c, const char *name, bool required, size_t max, const char **ret)
{
    json_t *v = member(c, name);
    char what[80];
    *ret = NULL;
    if (!v)
        return required ? field_fail(c, name, "is required") : 0;
    size_t n = json_string_length(v);
    snprintf(what, sizeof what, "is a text of 1 to %zu bytes", max);
    if (!json_is_string(v) || n < 1 || n > max)
        return field_fail(c, name, what);
    const char *s = json_string_value(v);
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\n' && s[i] != '\t' && s[i] != '\r') || s[i] == 0x7f)
            return field_fail(c, name, "holds control characters");
    *ret = s;
    return 0;
}

int mt_api_bool(struct mt_api_call *c, const char *name, bool absent, bool *ret)
{
    json_t *v = member(c, name);
    *ret = absent;
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return field_fail(c, name, "is true or false");
    *ret = json_is_true(v);
    return 0;
}

int mt_api_int(struct mt_api_call *c, const char *name, bool required, int64_t min, int64_t max, int64_t absent,
               int64_t *ret)
{
    json_t *v = member(c, name);
    char what[80];
    *ret = absent;
    if (!v)
        return required ? field_fail(c, name, "is required") : 0;
    snprintf(what, sizeof what, "is an integer from %lld to %lld", (long long)min, (long long)max);
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return field_fail(c, name, what);
    *ret = json_integer_value(v);
    return 0;
}

int mt_api_expected_version(struct mt_api_call *c, int64_t *ret)
{
    const char *h = mt_http_req_header(c->http, "If-Match");
    int64_t body = -1, header = -1;
    *ret = -1;
    if (mt_api_int(c, "expected_version", false, 0, INT64_C(9007199254740991), -1, &body) < 0)
        return -1;
    if (h) {
        size_t n = strlen(h);
        char num[24] = "";
        if (n > 2 && h[0] == '"' && h[n - 1] == '"' && n - 2 < sizeof num)
            memcpy(num, h + 1, n - 2);
        if (mt_parse_i64(num, 0, INT64_MAX, &header, &c->err) < 0)
            return mt_api_fail(c, 400, "invalid_argument", "If-Match is a quoted version, for example \"3\"");
    }
    if (h && body >= 0 && body != header)
        return mt_api_fail(c, 400, "invalid_argument", "If-Match and expected_version differ");
    *ret = h ? header : body;
    return 0;
}

int mt_api_check_version(struct mt_api_call *c, bool required, int64_t current, const char *what)
{
    int64_t expected;
    if (mt_api_expected_version(c, &expected) < 0)
        return -1;
    if (expected < 0 && required)
        return mt_api_fail(c, 400, "expected_version_required",
                           "give expected_version (or If-Match): the resource_version of the %s that the change is based on", what);
    if (expected < 0 || expected == current)
        return 0;
    bool header_only = !member(c, "expected_version");
    c->problem.details = json_pack("{s:I}", "current_version", (json_int_t)current);
    return mt_api_fail(c, header_only ? 412 : 409, header_only ? "precondition_failed" : "version_conflict",
                       "the %s is at version %lld, not %lld", what, (long long)current, (long long)expected);
}

/* ---------------------------------------------------------------- answers */

int mt_api_send_text(struct mt_api_call *c, int status, char *json, size_t len)
{
    if (!json) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "no memory for an answer");
        return mt_api_fail_err(c);
    }
    mt_http_reply(c->http, (unsigned)status, "application/json; charset=utf-8", json, len);
    return 0;
}

int mt_api_send(struct mt_api_call *c, int status, json_t *value)
{
    char *t = value ? json_dumps(value, JSON_COMPACT) : NULL;
    json_decref(value);
    return mt_api_send_text(c, status, t, t ? strlen(t) : 0);
}

static void etag(struct mt_api_call *c, int64_t version)
{
    char t[32];
    snprintf(t, sizeof t, "\"%lld\"", (long long)version);
    mt_http_add_header(c->http, "ETag", t);
}

int mt_api_send_row(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const char *what)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_pg_query_one(c->pg, stmt, p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, what) : mt_api_fail_err(c);
    const char *text = mt_pg_text(r, 0, 0);
    etag(c, mt_pg_i64(r, 0, 1));
    return mt_api_send_text(c, 200, strdup(text), strlen(text));
}

int mt_api_send_shown(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, const char *what, mt_api_show_fn *show)
{
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    json_error_t je;
    if (mt_pg_query_one(c->pg, stmt, p, &r, &c->err) < 0)
        return c->err.code == MT_E_NOT_FOUND ? mt_api_not_found(c, what) : mt_api_fail_err(c);
    json_t *o = json_loads(mt_pg_text(r, 0, 0), 0, &je);
    etag(c, mt_pg_i64(r, 0, 1));
    if (o)
        show(c, o);
    return mt_api_send(c, 200, o);
}

/* One item of a list. */
static int put_item(struct mt_api_call *c, mt_api_show_fn *show, const char *text, struct mt_buf *b)
{
    json_error_t je;
    mt_auto_json json_t *o = show ? json_loads(text, 0, &je) : NULL;
    if (!o) {
        mt_buf_puts(b, text);
        return 0;
    }
    show(c, o);
    return mt_json_dump(o, b, &c->err);
}

/* What a cursor is bound to: the path and every query parameter the handler asked for, order and filters alike. */
static char *list_key(struct mt_api_call *c, bool asc)
{
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u);
    mt_buf_printf(&b, "%s %s", mt_http_req_path(c->http), asc ? "asc" : "desc");
    for (int i = 0; i < c->query_n; i++) {
        const char *name = c->query[i], *k, *v;
        if (MT_STREQ(name, "cursor") || MT_STREQ(name, "limit") || MT_STREQ(name, "order"))
            continue;
        for (size_t j = 0; mt_http_req_query_at(c->http, j, &k, &v); j++)
            if (MT_STREQ(k, name))
                mt_buf_printf(&b, "\n%s=%s", k, v);
    }
    return mt_buf_take(&b);
}

int mt_api_list_created(struct mt_api_call *c, struct mt_api_list *l)
{
    static const char *const names[] = {"created_after", "created_before"};
    for (size_t i = 0; i < 2; i++) {
        const char *v = mt_api_query(c, names[i]);
        int64_t at = 0;
        if (v && mt_rfc3339_parse(v, &at, &c->err) < 0)
            return mt_api_fail(c, 400, "invalid_argument", "query parameter '%s': %s", names[i], c->err.msg);
        if (v)
            mt_pg_p_time(&l->params, at);
        else
            mt_pg_p_time_null(&l->params);
    }
    return 0;
}

static int send_list(struct mt_api_call *c, struct mt_api_list *l)
{
    int64_t limit;
    char id[MT_ID_SIZE] = "", next[MT_CURSOR_SIZE];
    const char *cursor = mt_api_query(c, "cursor"), *order = mt_api_query(c, "order");
    if (mt_api_query_i64(c, "limit", 1, 200, 50, &limit) < 0 || mt_api_query_done(c) < 0)
        return -1;
    if (order && !MT_STREQ(order, "asc") && !MT_STREQ(order, "desc"))
        return mt_api_fail(c, 400, "invalid_argument", "order is asc or desc");
    bool asc = order && MT_STREQ(order, "asc");
    mt_auto_free char *key = list_key(c, asc);
    if (!key) {
        (void)MT_FAIL(&c->err, MT_E_NOMEM, "list");
        return mt_api_fail_err(c);
    }
    if (cursor && !mt_cursor_read(cursor, key, id))
        return mt_api_fail(c, 400, "invalid_cursor", "the cursor was made for another list, filter or order");
    mt_pg_p_text(&l->params, cursor ? id : NULL);
    mt_pg_p_i64(&l->params, limit + 1);
    mt_auto_pg_res struct mt_pg_res *r = NULL;
    if (mt_pg_query(c->pg, asc ? l->asc : l->desc, &l->params, &r, &c->err) < 0)
        return mt_api_fail_err(c);
    int n = mt_pg_rows(r), show = n > limit ? (int)limit : n;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(64u * 1024u * 1024u);
    mt_buf_puts(&b, "{\"items\":[");
    for (int i = 0; i < show; i++) {
        if (i)
            mt_buf_putc(&b, ',');
        if (put_item(c, l->show, mt_pg_text(r, i, 1), &b) < 0)
            return mt_api_fail_err(c);
    }
    mt_buf_puts(&b, "],\"next_cursor\":");
    if (n > limit && mt_cursor_make(mt_pg_text(r, show - 1, 0), key, next))
        mt_buf_printf(&b, "\"%s\"}", next);
    else
        mt_buf_puts(&b, "null}");
    size_t len = b.len;
    return mt_api_send_text(c, 200, mt_buf_take(&b), len);
}

int mt_api_send_list(struct mt_api_call *c, struct mt_api_list *l)
{
    int rc = send_list(c, l);
    if (l->filtered)
        mt_api_inside_done(l->inside);
    return rc;
}
