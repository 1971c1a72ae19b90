/* SPDX-License-Identifier: Apache-2.0 */
/* The way of every request through the API. Order of refusals: control-plane.md §10.4 (401 first, then 404, then 403). */
#include "control/api/dispatch.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "control/api/gate.h"
#include "control/api/authorise.h"
#include "control/api/handlers.h"
#include "control/api/trail.h"
#include "control/log/history.h"
#include "control/log/schema.h"
#include "control/nodes/node.h"
#include "control/limits/request.h"
#include "control/volumes/home.h"
#include "model/names.h"
#include "wire/json.h"

#define BODY_MAX (1024u * 1024u)
#define SECRET_BODY_MAX (512u * 1024u)
#define BODY_DEPTH 32
#define MIN_EVENT_WAIT_MS 5000

bool mt_api_match(const char *tmpl, const char *path, struct mt_api_call *c)
{
    c->params_n = 0;
    while (*tmpl && *path) {
        if (*tmpl != '{') {
            if (*tmpl++ != *path++)
                return false;
            continue;
        }
        const char *end = strchr(tmpl, '}');
        size_t nlen = (size_t)(end - tmpl - 1), vlen = strcspn(path, "/");
        if (c->params_n == MT_API_PARAMS || nlen >= sizeof c->param[0].name || vlen == 0 ||
            vlen >= sizeof c->param[0].value)
            return false;
        for (size_t i = 0; i < vlen; i++)
            if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-:[]", path[i]))
                return false;
        memcpy(c->param[c->params_n].name, tmpl + 1, nlen);
        c->param[c->params_n].name[nlen] = 0;
        memcpy(c->param[c->params_n].value, path, vlen);
        c->param[c->params_n].value[vlen] = 0;
        c->params_n++;
        tmpl = end + 1;
        path += vlen;
    }
    return *tmpl == 0 && *path == 0;
}

static void request_id(struct mt_api_call *c)
{
    const char *h = mt_http_req_header(c->http, "X-Request-Id");
    size_t n = h ? strlen(h) : 0;
    bool ok = n > 0 && n <= 64, traced = mt_trace_take(mt_http_req_header(c->http, "traceparent"), &c->trace);
    for (size_t i = 0; i < n && ok; i++)
        ok = strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", h[i]) != NULL;
    if (ok) {
        memcpy(c->request_id, h, n + 1);
    } else {
        char id[MT_ID_SIZE];
        if (traced)
            mt_trace_request_id(c->trace.trace_id, id);
        else
            mt_id_new(MT_ID_REQUEST, id);
        snprintf(c->request_id, sizeof c->request_id, "%s", id);
    }
    if (!traced)
        mt_trace_begin(c->request_id, &c->trace);
}

/* The end of a request as a span of its trace: what failed on our side, what is sampled. */
static void span(const struct mt_api_call *c, int64_t took_us)
{
    unsigned status = mt_http_req_status(c->http);
    if (!status || (status < 500 && !c->trace.wanted))
        return;
    char name[200];
    (void)snprintf(name, sizeof name, "%s %s", c->route ? c->route->method : mt_http_req_method(c->http), c->route ? c->route->path : "other");
    mt_log(MT_INFO, "trace.span", KV("kind", "span"), KV("name", (const char *)name), KV("duration_us", took_us), KV("trace_id", c->trace.trace_id), KV("span_id", c->trace.span_id),
           KV("parent_span_id", c->trace.parent_id), KV("request_id", c->request_id), KV("status", status), KV("error_code", c->problem.code));
}

static int find_route(struct mt_api_call *c, enum mt_listener at)
{
    const char *method = mt_http_req_method(c->http), *path = mt_http_req_path(c->http);
    bool path_known = false;
    for (const struct mt_api_route *r = mt_api_routes; r->method; r++) {
        bool here = r->listener == at || (r->listener == MT_LISTEN_ADMIN && at == MT_LISTEN_API) ||
                    (r->listener == MT_LISTEN_INTERNAL && at == MT_LISTEN_NODES);
        if (here && r->handle == mt_api_metrics && mt_http_req_tls(c->http)) /* figures of the platform are not for the internet */
            continue;
        if (!here || !mt_api_match(r->path, path, c))
            continue;
        path_known = true;
        if (MT_STREQ(r->method, method)) {
            c->route = r;
            return 0;
        }
    }
    c->params_n = 0;
    if (path_known)
        return mt_api_fail(c, 405, "method_not_allowed", "this path has no %s", method);
    if (mt_starts_with(path, "/v1/") || mt_starts_with(path, "/internal/v1/"))
        return mt_api_fail(c, 404, "not_found", "this server has no such path; GET /v1/capabilities tells what it can do");
    return mt_api_fail(c, 404, "not_found", "not found");
}

/* A live connection for this worker, made anew at most once per request; one that the server has closed meanwhile is noticed
 * here, not by the request. */
static int database(struct mt_api_call *c, struct mt_api_worker *w)
{
    c->worker = w;
    if (!atomic_load(&c->ctl->ready))
        return mt_api_not_ready(c);
    int rc = 0;
    struct mt_pg_conf conf = c->ctl->pg_conf;
    conf.options = NULL;
    if (c->ctl->conf.database_pool_url) {
        conf.conninfo = c->ctl->conf.database_pool_url;
        conf.shared = MT_LOG_SETTING;
    }
    conf.took = mt_measure_query;
    conf.took_arg = &c->ctl->measure.db_request;
    if (!w->pg || !mt_pg_idle_check(w->pg)) {
        rc = mt_pg_open(&conf, &w->pg, &c->err);
        w->fence[0] = 0; /* a new session sees nothing */
    }
    if (rc == 0)
        rc = mt_pg_grown(w->pg, mt_log_head_get(c->ctl->head), &c->err);
    if (rc < 0)
        return mt_api_fail(c, 503, "database_unavailable", "the database is not reachable");
    c->pg = w->pg;
    return 0;
}

/* What the worker's session sees from now on. One that is shared is told so anew with each of its transactions. */
static void fenced(struct mt_api_worker *w, const char *org_id)
{
    (void)snprintf(w->fence, sizeof w->fence, "%s", org_id);
    if (mt_pg_shared(w->pg))
        mt_pg_name(w->pg, strlen(org_id) < MT_ID_SIZE ? org_id : ""); /* no organisation has a longer one: nothing is seen */
}

int mt_api_fence(struct mt_api_call *c, const char *org_id)
{
    struct mt_api_worker *w = c->worker;
    struct mt_pg_params p;
    if (MT_STREQ(w->fence, org_id))
        return 0;
    if (mt_pg_shared(w->pg)) {
        fenced(w, org_id);
        return 0;
    }
    mt_pg_p_init(&p);
    mt_pg_p_text(&p, org_id);
    w->fence[0] = 0; /* not known until that is done */
    if (mt_pg_query(w->pg, &mt_auth_fence, &p, NULL, &c->err) < 0)
        return mt_api_fail_err(c);
    fenced(w, org_id);
    return 0;
}

int mt_api_query_all(struct mt_api_call *c, const struct mt_pg_stmt *stmt, const struct mt_pg_params *p, struct mt_pg_res **ret)
{
    char was[MT_API_VALUE];
    (void)snprintf(was, sizeof was, "%s", c->worker->fence);
    if (mt_api_fence(c, MT_LOG_ALL) < 0)
        return -1;
    int rc = mt_pg_query(c->pg, stmt, p, ret, &c->err);
    return rc < 0 ? mt_api_fail_err(c) : mt_api_fence(c, was);
}

int mt_api_volume_nodes(struct mt_api_call *c, struct mt_volume_node **ret, size_t *ret_n)
{
    char was[MT_API_VALUE];
    (void)snprintf(was, sizeof was, "%s", c->worker->fence);
    if (mt_api_fence(c, MT_LOG_ALL) < 0)
        return -1;
    int rc = mt_volume_nodes_load(c->pg, ret, ret_n, &c->err);
    return rc < 0 ? mt_api_fail_err(c) : mt_api_fence(c, was);
}

static const char *param_or_null(const struct mt_api_call *c, const char *name)
{
    for (int i = 0; i < c->params_n; i++)
        if (MT_STREQ(c->param[i].name, name))
            return c->param[i].value;
    return NULL;
}

int mt_api_owners(struct mt_api_call *c)
{
    const char *h = mt_http_req_header(c->http, "Authorization");
    struct mt_auth_chain chain;
    enum mt_auth_end end;
    if (!h || strncasecmp(h, "Bearer ", 7) != 0 || mt_http_req_header_repeated(c->http, "Authorization")) {
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_MISSING]);
        return mt_api_fail(c, 401, "unauthorized", "send the header Authorization: Bearer <token>");
    }
    const char *org_id = param_or_null(c, "org_id");
    struct mt_api_worker *w = c->worker;
    fenced(w, ""); /* not known until the look-up has been made */
    if (mt_auth_lookup(c->pg, h + 7, org_id, param_or_null(c, "app_id"), param_or_null(c, "env_id"),
                       (c->route->flags & MT_API_GONE_OK) != 0, (c->route->flags & MT_API_OPERATOR) != 0, c->ctl->conf.allow_secret_export, c->switches ? NULL : mt_api_gate_asks(c),
                       &c->switches, &c->who, &chain, &end, &c->err) < 0)
        return mt_api_fail_err(c);
    if (end != MT_AUTH_UNKNOWN)
        fenced(w, org_id ? org_id : MT_LOG_ALL);
    c->org = chain.org;
    c->app = chain.app;
    c->env = chain.env;
    c->org_suspended = chain.suspended;
    c->app_of_env = chain.app_of_env;
    switch (end) {
    case MT_AUTH_OK:
        return 0;
    case MT_AUTH_EXPIRED:
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_EXPIRED]);
        return mt_api_fail(c, 401, "token_expired", "the token has expired");
    case MT_AUTH_REVOKED:
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_REVOKED]);
        return mt_api_fail(c, 401, "token_revoked", "the token was revoked");
    case MT_AUTH_DISABLED:
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_DISABLED]);
        return mt_api_fail(c, 403, "account_disabled", "the account is disabled");
    case MT_AUTH_NO_ORG:
        return mt_api_not_found(c, "organisation");
    case MT_AUTH_NO_APP:
        return mt_api_not_found(c, "app");
    case MT_AUTH_NO_ENV:
        return mt_api_not_found(c, "environment");
    case MT_AUTH_UNKNOWN:
    default:
        mt_measure_one(&c->ctl->measure.auth_failures[MT_AUTHF_UNKNOWN]);
        return mt_api_fail(c, 401, "unauthorized", "the token is not known");
    }
}

static int parse_body(struct mt_api_call *c)
{
    size_t len;
    const char *text = mt_http_req_body(c->http, &len), *ct = mt_http_req_header(c->http, "Content-Type");
    size_t blank = strspn(text, " \t\r\n");
    if (len == 0 || blank == len) {
        c->body = json_object();
        return 0;
    }
    if (ct && strncasecmp(ct, "application/json", 16) != 0)
        return mt_api_fail(c, 415, "unsupported_media_type", "the body must be application/json");
    bool secret = (c->route->flags & MT_API_SECRET) != 0;
    if (secret && len > SECRET_BODY_MAX)
        return mt_api_fail(c, 413, "payload_too_large", "the body is above 512 KiB");
    if (mt_json_parse(text, len, BODY_MAX, BODY_DEPTH, &c->body, &c->err) < 0 && secret)
        return mt_api_fail(c, 400, "invalid_json", "the body is not a JSON object without double keys"); /* the parser quotes */
    else if (!c->body)
        return mt_api_fail(c, 400, "invalid_json", "%s", c->err.msg);
    if (!json_is_object(c->body))
        return mt_api_fail(c, 400, "invalid_json", "the body must be a JSON object");
    return 0;
}

/* Read-your-writes across servers: wait for the log to reach what the client has seen. */
static int min_event(struct mt_api_call *c)
{
    int64_t want = 0;
    if (mt_api_query_i64(c, "min_event_id", 0, INT64_MAX, 0, &want) < 0)
        return -1;
    c->query_n = 0;
    if (c->route->flags & MT_API_NO_DB)
        return 0; /* nothing of the log is in such an answer */
    int64_t until = mt_clock_mono() + MIN_EVENT_WAIT_MS * MT_NS_PER_MS;
    int64_t head = mt_log_head_get(c->ctl->head);
    while (head < want && mt_clock_mono() < until)
        head = mt_log_head_wait(c->ctl->head, head, 200);
    if (head < want)
        return mt_api_fail(c, 504, "projection_timeout", "the log is at event %lld, event %lld was asked for",
                           (long long)head, (long long)want);
    return 0;
}

/* What is read now is the restored log: who reads it is told. */
static void warn_of_recovery(struct mt_api_call *c)
{
    enum mt_recovery r = mt_history_state(c->ctl->history);
    if (r != MT_RECOVERY_NONE)
        mt_http_add_header(c->http, "X-Moat-Recovery", mt_recovery_name(r));
}

/* Also for calls that are no commands: a client that sends a key must not think that it counts when it cannot. */
static int idempotency_key(struct mt_api_call *c)
{
    const char *key = MT_STREQ(c->route->method, "GET") ? NULL : mt_http_req_header(c->http, "Idempotency-Key");
    if (!key || (mt_idempotency_key_valid(key, strlen(key)) && !mt_http_req_header_repeated(c->http, "Idempotency-Key")))
        return 0;
    return mt_api_fail(c, 400, "invalid_argument", "Idempotency-Key is one value of 1 to 128 printable ASCII characters");
}

static void denied(struct mt_api_call *c)
{
    uint64_t bit = c->route->scope ? mt_scope_bit(c->route->scope) : 0; /* 0 also for "one of several" */
    mt_measure_one(&c->ctl->measure.denials[bit ? __builtin_ctzll(bit) : 63]);
}

static int run(struct mt_api_call *c, struct mt_api_worker *w)
{
    enum mt_listener at = (enum mt_listener)mt_http_req_listener(c->http);
    if (find_route(c, at) < 0 || ((c->route->listener == MT_LISTEN_INTERNAL || c->route->listener == MT_LISTEN_NODES) && mt_node_call_protocol(c, NULL) < 0))
        return -1;
    bool named = c->route->listener == MT_LISTEN_API && !(c->route->flags & MT_API_ANYONE);
    if (!(c->route->flags & MT_API_NO_DB) && (database(c, w) < 0 || (!named && mt_api_fence(c, MT_LOG_ALL) < 0)))
        return -1;
    if (named) {
        if (mt_api_owners(c) < 0)
            return -1;
        if (mt_api_authorise(c) < 0) {
            denied(c);
            return -1;
        }
        if (mt_limits_request(c) < 0)
            return -1;
        if (MT_STREQ(c->who.kind, "personal") && mt_http_req_round(c->http) == 0)
            mt_auth_touch(c->pg, &c->who);
    }
    if (idempotency_key(c) < 0 || (mt_http_req_round(c->http) == 0 && min_event(c) < 0))
        return -1;
    if ((c->route->flags & MT_API_BODY) && parse_body(c) < 0)
        return -1;
    return c->route->handle(c);
}

/* A running stream outlives an outage of the database and ends with its reason otherwise; its client resumes by id. */
static void stream_problem(struct mt_api_call *c)
{
    if (c->problem.status == 503 && !mt_http_req_stopping(c->http)) {
        mt_http_park(c->http, 0, mt_clock_mono() + MT_NS_PER_S);
        return;
    }
    struct mt_api_stream *s = mt_http_req_state(c->http);
    s->end(s, c->http, c->problem.code);
}

/* Waiting for news is no slowness: how long is said of those alone that were answered by their first round. */
static void measure(const struct mt_api_call *c, bool streamed_before, int64_t took_us)
{
    unsigned status = mt_http_req_status(c->http);
    if (status && !streamed_before)
        mt_measure_request(&c->ctl->measure, c->route ? c->route->method : NULL, c->route ? c->route->path : NULL, status,
                           mt_http_req_round(c->http) == 0 && !mt_http_req_streaming(c->http) ? took_us : -1);
}

void mt_api_handle(struct mt_http_req *req, void *worker, void *arg)
{
    struct mt_api_call c = {.ctl = arg, .http = req};
    bool streamed = mt_http_req_streaming(req);
    request_id(&c);
    if (mt_http_req_round(req) == 0) {
        mt_http_add_header(req, "X-Request-Id", c.request_id);
        mt_http_add_header(req, "X-Api-Version", "v1");
        warn_of_recovery(&c);
    }
    int rc = run(&c, worker);
    if (rc < 0 && c.problem.status == 0) /* a handler that failed without saying why is our bug */
        (void)mt_api_fail(&c, 500, "internal", "the request could not be carried out");
    if (rc < 0)
        mt_api_trail_refused(&c);
    if (rc < 0 && mt_http_req_streaming(req))
        stream_problem(&c);
    else if (rc < 0)
        mt_api_send_problem(&c);
    int64_t took_us = (mt_clock_mono() - mt_http_req_arrived_ns(req)) / 1000;
    measure(&c, streamed, took_us);
    mt_log(c.problem.status == 500 ? MT_WARN : MT_DEBUG, "api.request", KV("request_id", c.request_id),
           KV("method", mt_http_req_method(req)), KV("path", mt_http_req_path(req)), KV("status", c.problem.status),
           KV("code", c.problem.code), KV("took_us", took_us), KV("trace_id", c.trace.trace_id), KV("span_id", c.trace.span_id));
    if (!streamed)
        span(&c, took_us);
    json_decref(c.body);
    json_decref(c.problem.errors);
    json_decref(c.problem.details);
    mt_pg_res_freep(&c.switches);
}

void *mt_api_worker_start(void *arg, unsigned index)
{
    struct mt_api_worker *w = calloc(1, sizeof *w);
    (void)index;
    MT_ASSERT(w); /* start-up */
    w->ctl = arg;
    return w;
}

void mt_api_worker_stop(void *arg, void *worker)
{
    struct mt_api_worker *w = worker;
    (void)arg;
    if (w)
        mt_pg_free(w->pg);
    free(w);
}

char *mt_api_own_answer(struct mt_http_req *req, unsigned status, const char **ret_type, size_t *ret_len, void *arg)
{
    (void)arg;
    const char *code = status == 413   ? "payload_too_large"
                       : status == 503 ? "unavailable"
                       : status == 400 ? "invalid_argument"
                                       : "internal";
    const char *detail = status == 413   ? "the body is above 1 MiB"
                         : status == 503 ? "the server is busy or stopping"
                         : status == 400 ? "the request line or headers are malformed"
                                         : "the request could not be carried out";
    struct mt_api_call c = {.http = req};
    request_id(&c);
    if (mt_http_req_round(req) == 0) { /* later rounds have them */
        mt_http_add_header(req, "X-Request-Id", c.request_id);
        mt_http_add_header(req, "X-Api-Version", "v1");
    }
    char *t = mt_asprintf("{\"type\":\"urn:moat:error:%s\",\"title\":\"%s\",\"status\":%u,\"detail\":\"%s\",\"code\":\"%s\","
                          "\"request_id\":\"%s\",\"retryable\":%s}",
                          code, detail, status, detail, code, c.request_id, status == 503 ? "true" : "false");
    *ret_type = "application/problem+json";
    *ret_len = t ? strlen(t) : 0;
    return t;
}
