/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/forward/forward.h"

#include "agent/control.h"
#include "agent/forward/sink.h"
#include "agent/identity/identity.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "os/sock.h"
#include "wire/http_client.h"
#include "wire/json.h"

#include <limits.h>
#include <sys/stat.h>

#define LIST_TARGET "/internal/v1/nodes/self/log-drains"
#define DRAIN_TARGET "/internal/v1/nodes/self/log-drain"
#define ANSWER_MAX ((size_t)256 << 10)
#define TIMEOUT_MS 10000
#define ASK_EVERY_S 15
#define SWEEP_EVERY_S 60
#define DRAINS_MAX 32 /* of organisations on one node; each is a process */
#define FILE_MAX ((size_t)64 << 10)

struct drain {
    struct mt_list link;
    char id[MT_ID_SIZE];
    uint64_t version;
    struct mt_sink *sink;
    bool listed; /* in the newest answer */
};

struct mt_forward {
    struct mt_agent *a;
    struct mt_log_sources sources;
    struct mt_sink_totals totals[MT_SINK_KINDS];
    char program[PATH_MAX], state_dir[PATH_MAX];
    char *node_conf; /* of the operator's receiver; NULL: none */
    pthread_mutex_t lock; /* guards node, drains; held by the thread while it changes them */
    pthread_cond_t wake;
    bool quit;
    struct mt_sink *node;
    struct mt_list drains;
    size_t n_drains;
    pthread_t thread;
    bool started;
    struct mt_http_client *client;
    unsigned generation;
};

/* ---- configurations of children ---------------------------------------------------------- */

static void put_member(struct mt_buf *b, const char *name, const char *text)
{
    if (!text)
        return;
    mt_buf_printf(b, ",\"%s\":", name);
    mt_buf_put_json_str(b, text, strlen(text));
}

/* "host:port" of @url, without what is before and after. */
static int authority(const char *url, char ret[300], struct mt_err *err)
{
    const char *at = strstr(url, "://");
    if (!at || (!mt_starts_with(url, "https://") && !mt_starts_with(url, "http://")))
        return MT_FAIL(err, MT_E_INVALID, "'%s' is no http or https URL", url);
    at += 3;
    size_t n = strcspn(at, "/?#");
    if (n == 0 || n > 260 || memchr(at, '@', n))
        return MT_FAIL(err, MT_E_INVALID, "'%s' names no host, or a user: a token goes into a header", url);
    const char *after = memchr(at, ']', n);
    bool port = memchr(after ? after : at, ':', n - (size_t)(after ? after - at : 0)) != NULL;
    return mt_fmt(ret, 300, err, "%.*s%s", (int)n, at, port ? "" : mt_starts_with(url, "https://") ? ":443" : ":80");
}

static int put_target(struct mt_buf *b, const char *kind, const char *target, bool tls, char ret_at[300], struct mt_err *err)
{
    char host[256];
    uint16_t port;
    bool otlp = MT_STREQ(kind, "otlp");
    int rc = otlp ? authority(target, ret_at, err) : mt_fmt(ret_at, 300, err, "%s", target);
    if (rc == 0)
        rc = mt_sock_split(ret_at, host, &port, err);
    if (rc < 0)
        return rc;
    mt_buf_printf(b, "{\"kind\":\"%s\"", otlp ? "otlp" : "syslog");
    put_member(b, otlp ? "url" : "host", otlp ? target : host);
    if (!otlp)
        mt_buf_printf(b, ",\"port\":%u,\"tls\":%s", port, tls ? "true" : "false");
    return 0;
}

static void put_tail(const struct mt_forward *f, struct mt_buf *b, bool any_address)
{
    put_member(b, "node", f->a->conf.node_id ? f->a->conf.node_id : "node");
    mt_buf_printf(b, ",\"any_address\":%s,\"message_max\":%llu,\"uid\":%u,\"gid\":%u}", any_address ? "true" : "false",
                  (unsigned long long)f->a->conf.log_message_max, (unsigned)f->a->worker_uid, (unsigned)f->a->worker_gid);
}

static int put_file(struct mt_buf *b, const char *name, const char *path, bool secret, struct mt_err *err)
{
    mt_auto_free char *text = NULL;
    size_t n = 0;
    struct stat st;
    if (!path)
        return 0;
    if (secret && stat(path, &st) == 0 && (st.st_mode & 077))
        return MT_FAIL(err, MT_E_INVALID, "'%s' can be read by others; chmod 600 it", path);
    int rc = mt_file_read(path, FILE_MAX, &text, &n, err);
    if (rc == 0)
        put_member(b, name, text);
    if (text)
        explicit_bzero(text, n);
    return rc;
}

/* The operator's receiver. */
static int node_conf(struct mt_forward *f, struct mt_err *err)
{
    const struct mt_agent_conf *c = &f->a->conf;
    char at[300];
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(ANSWER_MAX);
    if (MT_STREQ(c->log_sink, "none"))
        return 0;
    if (!c->log_sink_target)
        return MT_FAIL(err, MT_E_INVALID, "logs.sink is '%s' and logs.sink_target is missing", c->log_sink);
    if (!c->log_sink_cert_file != !c->log_sink_key_file)
        return MT_FAIL(err, MT_E_INVALID, "logs.sink_cert_file and logs.sink_key_file go together");
    int rc = put_target(&b, c->log_sink, c->log_sink_target, c->log_sink_tls, at, err);
    if (rc == 0)
        rc = put_file(&b, "ca", c->log_sink_ca_file, false, err);
    if (rc == 0)
        rc = put_file(&b, "cert", c->log_sink_cert_file, false, err);
    if (rc == 0)
        rc = put_file(&b, "key", c->log_sink_key_file, true, err);
    if (rc == 0)
        rc = put_file(&b, "headers", c->log_sink_headers_file, true, err);
    if (rc < 0)
        return mt_err_wrap(err, "logs.sink");
    put_tail(f, &b, true);
    f->node_conf = mt_buf_take(&b);
    return f->node_conf ? 0 : MT_FAIL(err, MT_E_NOMEM, "logs.sink: out of memory");
}

/* ---- drains of organisations ------------------------------------------------------------- */

static struct drain *find(struct mt_forward *f, const char *id)
{
    MT_LIST_EACH (pos, &f->drains) {
        struct drain *d = MT_CONTAINER(pos, struct drain, link);
        if (MT_STREQ(d->id, id))
            return d;
    }
    return NULL;
}

static int ask(struct mt_forward *f, const struct mt_http_request *rq, json_t **ret, struct mt_err *err)
{
    mt_auto_http_reply struct mt_http_reply reply = {0};
    if (f->a->identity)
        mt_identity_follow(f->a->identity, f->client, &f->generation);
    int rc = mt_http_do(f->client, rq, ANSWER_MAX, &reply, err);
    if (rc < 0)
        return rc;
    if (reply.status == 200)
        rc = mt_json_parse((const char *)reply.body.p, reply.body.len, ANSWER_MAX, 6, ret, err);
    else
        rc = MT_FAIL(err, reply.status == 404 ? MT_E_NOT_FOUND : MT_E_UNAVAILABLE, "the control plane answers http %d", reply.status);
    if (rq->secret && reply.body.p)
        explicit_bzero(reply.body.p, reply.body.cap);
    return rc;
}

static bool listed_target(const struct mt_forward *f, const char *at)
{
    for (size_t i = 0; i < f->a->conf.log_local_targets.n; i++)
        if (strcasecmp(f->a->conf.log_local_targets.v[i], at) == 0)
            return true;
    return false;
}

/* What the control plane gave for one drain -> the child's configuration. */
static int drain_conf(const struct mt_forward *f, const json_t *o, struct mt_buf *b, struct mt_err *err)
{
    const char *kind, *target, *token, *ca, *header;
    char at[300];
    int rc = mt_json_get_str(o, "kind", 16, &kind, err);
    if (rc == 0)
        rc = mt_json_get_str(o, "target", 2048, &target, err);
    if (rc == 0)
        rc = mt_json_opt_str(o, "token", 8192, NULL, &token, err);
    if (rc == 0)
        rc = mt_json_opt_str(o, "header", 128, "Authorization", &header, err);
    if (rc == 0)
        rc = mt_json_opt_str(o, "ca_pem", FILE_MAX, NULL, &ca, err);
    if (rc == 0)
        rc = put_target(b, kind, target, true, at, err);
    if (rc < 0)
        return rc;
    put_member(b, "ca", ca);
    if (token) {
        mt_auto_free char *line = mt_asprintf("%s: %s", header, token);
        put_member(b, "headers", line ? line : "");
        if (line)
            explicit_bzero(line, strlen(line));
    }
    put_tail(f, b, listed_target(f, at));
    return b->failed ? MT_FAIL(err, MT_E_NOMEM, "drain: out of memory") : 0;
}

static void end_drain(struct mt_forward *f, struct drain *d, bool forget)
{
    (void)pthread_mutex_lock(&f->lock);
    mt_list_remove(&d->link);
    f->n_drains--;
    (void)pthread_mutex_unlock(&f->lock);
    mt_sink_free(d->sink, forget);
    free(d);
    if (f->n_drains == 0 && !f->node_conf)
        mt_log_sources_keep(&f->sources, false);
}

static int start_drain(struct mt_forward *f, const char *id, const char *org_id, uint64_t version, uint64_t since_ms, struct mt_err *err)
{
    char body[96];
    mt_auto_json json_t *o = NULL;
    mt_auto_buf struct mt_buf b = MT_BUF_INIT(ANSWER_MAX);
    (void)mt_buf_reserve(&b, ANSWER_MAX / 2); /* it holds the receiver's secret and must not move */
    int rc = mt_fmt(body, sizeof body, err, "{\"log_drain_id\":\"%s\"}", id);
    const struct mt_http_request rq = {.method = "POST", .target = DRAIN_TARGET, .body = body, .body_len = strlen(body), .timeout_ms = TIMEOUT_MS, .secret = true};
    if (rc == 0)
        rc = ask(f, &rq, &o, err);
    if (rc == 0)
        rc = drain_conf(f, o, &b, err);
    struct drain *d = rc == 0 ? calloc(1, sizeof *d) : NULL;
    if (d) {
        const struct mt_sink_conf c = {.kind = MT_SINK_ORG, .id = id, .org_id = org_id, .since_us = (int64_t)since_ms * 1000, .child = mt_buf_cstr(&b), .program = f->program, .state_dir = f->state_dir,
                                       .sources = &f->sources, .totals = &f->totals[MT_SINK_ORG]};
        (void)snprintf(d->id, sizeof d->id, "%s", id);
        d->version = version;
        d->listed = true;
        mt_log_sources_keep(&f->sources, true);
        rc = mt_sink_new(&c, &d->sink, err);
        if (rc < 0) {
            free(d);
            mt_log_sources_keep(&f->sources, f->n_drains || f->node_conf);
        } else {
            (void)pthread_mutex_lock(&f->lock);
            mt_list_push_back(&f->drains, &d->link);
            f->n_drains++;
            (void)pthread_mutex_unlock(&f->lock);
            mt_log(MT_INFO, "forward.drain", KV("log_drain_id", id), KV("org_id", org_id));
        }
    } else if (rc == 0) {
        rc = MT_FAIL(err, MT_E_NOMEM, "drain: out of memory");
    }
    if (b.p)
        explicit_bzero(b.p, b.len);
    return rc;
}

/* Not in the list: it was deleted, or its organisation has no instance here any more. What that printed last is still sent. */
static void let_go(struct mt_forward *f, struct drain *d)
{
    char body[96];
    mt_auto_json json_t *o = NULL;
    struct mt_sink_state st;
    struct mt_err err = {0};
    if (mt_fmt(body, sizeof body, &err, "{\"log_drain_id\":\"%s\"}", d->id) < 0)
        return;
    const struct mt_http_request rq = {.method = "POST", .target = DRAIN_TARGET, .body = body, .body_len = strlen(body), .timeout_ms = TIMEOUT_MS, .secret = true};
    int rc = ask(f, &rq, &o, &err);
    mt_sink_state(d->sink, &st);
    if (rc == -MT_E_NOT_FOUND) {
        mt_log(MT_INFO, "forward.drain_deleted", KV("log_drain_id", (const char *)d->id));
        end_drain(f, d, true);
    } else if (rc < 0 && st.waiting == 0) {
        end_drain(f, d, false); /* its cursor stays for when the organisation comes back */
    }
}

/* The list of the control plane is what is served; without an answer all stays as it is. */
static void ask_for_drains(struct mt_forward *f)
{
    const struct mt_http_request rq = {.method = "GET", .target = LIST_TARGET, .timeout_ms = TIMEOUT_MS};
    mt_auto_json json_t *o = NULL;
    json_t *list = NULL;
    struct mt_err err = {0};
    int rc = ask(f, &rq, &o, &err);
    if (rc == -MT_E_NOT_FOUND || rc == -MT_E_UNAVAILABLE || rc == -MT_E_TIMEOUT || rc == -MT_E_CANCELLED)
        return; /* an older control plane, or none */
    if (rc == 0)
        rc = mt_json_get_array(o, "log_drains", 4096, &list, &err);
    struct drain *d;
    MT_LIST_EACH (pos, &f->drains)
        MT_CONTAINER(pos, struct drain, link)->listed = rc < 0;
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        const json_t *x = json_array_get(list, i);
        const char *id, *org;
        uint64_t version, since_ms;
        if ((rc = mt_json_get_str(x, "id", MT_ID_SIZE, &id, &err)) < 0 || (rc = mt_id_check(MT_ID_DRAIN, id, &err)) < 0 ||
            (rc = mt_json_get_str(x, "org_id", MT_ID_SIZE, &org, &err)) < 0 || (rc = mt_json_get_u64(x, "version", 1, INT64_MAX, &version, &err)) < 0 ||
            (rc = mt_json_get_u64(x, "since_ms", 1, INT64_MAX / 1000, &since_ms, &err)) < 0)
            break;
        if ((d = find(f, id)) && d->version == version) {
            d->listed = true;
            continue;
        }
        if (d)
            end_drain(f, d, false); /* it was changed: its cursor stays */
        struct mt_err why = {0};
        int r = f->n_drains < DRAINS_MAX ? start_drain(f, id, org, version, since_ms, &why) : MT_FAIL(&why, MT_E_LIMIT, "this node serves %d drains already", DRAINS_MAX);
        if (r < 0)
            mt_log(MT_WARN, "forward.drain_not_served", KV("log_drain_id", id), KV_ERR(&why));
    }
    if (rc < 0) {
        mt_log(MT_WARN, "forward.list_unreadable", KV_ERR(&err));
        return;
    }
    MT_LIST_EACH (pos, &f->drains) {
        d = MT_CONTAINER(pos, struct drain, link);
        if (!d->listed)
            let_go(f, d);
    }
}

/* ---- the thread -------------------------------------------------------------------------- */

static bool rest(struct mt_forward *f, int64_t seconds)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    (void)pthread_mutex_lock(&f->lock);
    while (!f->quit && pthread_cond_timedwait(&f->wake, &f->lock, &until) == 0)
        continue;
    bool quit = f->quit;
    (void)pthread_mutex_unlock(&f->lock);
    return !quit;
}

static void start_node(struct mt_forward *f)
{
    struct mt_err err = {0};
    struct mt_sink *s = NULL;
    const struct mt_sink_conf c = {.kind = MT_SINK_NODE, .id = "node", .child = f->node_conf, .program = f->program, .state_dir = f->state_dir, .sources = &f->sources,
                                   .totals = &f->totals[MT_SINK_NODE]};
    if (mt_sink_new(&c, &s, &err) < 0)
        mt_log(MT_ERROR, "forward.no_sink", KV_ERR(&err));
    (void)pthread_mutex_lock(&f->lock);
    f->node = s;
    (void)pthread_mutex_unlock(&f->lock);
}

static void *main_of(void *arg)
{
    struct mt_forward *f = arg;
    if (f->node_conf) {
        mt_log_sources_keep(&f->sources, true);
        start_node(f);
    }
    int64_t swept = mt_clock_mono();
    do {
        if (f->client)
            ask_for_drains(f);
        if (mt_clock_mono() - swept >= SWEEP_EVERY_S * MT_NS_PER_S) {
            mt_log_sources_sweep(&f->sources);
            swept = mt_clock_mono();
        }
    } while (rest(f, ASK_EVERY_S));
    return NULL;
}

int mt_forward_new(struct mt_agent *a, struct mt_forward **ret, struct mt_err *err)
{
    struct mt_forward *f = calloc(1, sizeof *f);
    pthread_attr_t small;
    pthread_condattr_t attr;
    if (!f)
        return MT_FAIL(err, MT_E_NOMEM, "forwarding of logs: out of memory");
    f->a = a;
    mt_list_init(&f->drains);
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&f->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    int rc = mt_log_sources_init(&f->sources, a->conf.logs_dir);
    if (rc == 0)
        rc = mt_fmt(f->program, sizeof f->program, err, "%s/moat-forward", a->conf.bin_dir);
    if (rc == 0)
        rc = mt_fmt(f->state_dir, sizeof f->state_dir, err, "%s/forward", a->conf.agent_dir);
    if (rc == 0)
        rc = mt_file_mkdirs(f->state_dir, 0700, err);
    if (rc == 0)
        rc = node_conf(f, err);
    if (rc == 0 && a->conf.log_drains && !(f->client = mt_agent_client(a, &f->generation)))
        rc = MT_FAIL(err, MT_E_NOMEM, "forwarding of logs: out of memory");
    if (rc == 0) {
        (void)pthread_attr_init(&small);
        (void)pthread_attr_setstacksize(&small, 512U << 10);
        f->started = pthread_create(&f->thread, &small, main_of, f) == 0;
        (void)pthread_attr_destroy(&small);
        rc = f->started ? 0 : MT_FAIL(err, MT_E_IO, "forwarding of logs: no thread");
    }
    if (rc < 0) {
        mt_forward_free(f);
        return rc;
    }
    *ret = f;
    return 0;
}

void mt_forward_free(struct mt_forward *f)
{
    if (!f)
        return;
    (void)pthread_mutex_lock(&f->lock);
    f->quit = true;
    (void)pthread_cond_broadcast(&f->wake);
    (void)pthread_mutex_unlock(&f->lock);
    if (f->client)
        mt_http_client_cancel(f->client);
    if (f->started)
        (void)pthread_join(f->thread, NULL);
    mt_sink_free(f->node, false);
    MT_LIST_EACH (pos, &f->drains)
        end_drain(f, MT_CONTAINER(pos, struct drain, link), false);
    mt_http_client_free(f->client);
    if (f->node_conf)
        explicit_bzero(f->node_conf, strlen(f->node_conf));
    free(f->node_conf);
    mt_log_sources_done(&f->sources);
    (void)pthread_cond_destroy(&f->wake);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

struct mt_log_source *mt_forward_hold(struct mt_forward *f, const char *const ids[MT_LOGFWD_IDS], uint64_t last)
{
    return f ? mt_log_source_hold(&f->sources, ids, last) : NULL;
}

void mt_forward_release(struct mt_forward *f, struct mt_log_source *src)
{
    if (f)
        mt_log_source_release(&f->sources, src);
}

/* ---- what is told ------------------------------------------------------------------------ */

void mt_forward_measure(struct mt_forward *f, struct mt_metrics *m)
{
    static const char *const kinds[MT_SINK_KINDS] = {"node", "organisation"};
    uint64_t up[MT_SINK_KINDS] = {0}, all[MT_SINK_KINDS] = {0}, waiting[MT_SINK_KINDS] = {0};
    struct mt_sink_state st;
    if (!f)
        return;
    (void)pthread_mutex_lock(&f->lock);
    if (f->node) {
        mt_sink_state(f->node, &st);
        all[MT_SINK_NODE] = 1;
        up[MT_SINK_NODE] = st.up;
        waiting[MT_SINK_NODE] = st.waiting;
    }
    MT_LIST_EACH (pos, &f->drains) {
        mt_sink_state(MT_CONTAINER(pos, struct drain, link)->sink, &st);
        all[MT_SINK_ORG]++;
        up[MT_SINK_ORG] += st.up;
        waiting[MT_SINK_ORG] += st.waiting;
    }
    (void)pthread_mutex_unlock(&f->lock);
    for (int i = 0; i < MT_SINK_KINDS; i++)
        mt_metrics_u64(m, MT_M_A_LOG_FORWARDED, atomic_load(&f->totals[i].lines), kinds[i]);
    uint64_t lost = 0, refused = 0;
    for (int i = 0; i < MT_SINK_KINDS; i++) {
        lost += atomic_load(&f->totals[i].lost);
        refused += atomic_load(&f->totals[i].refused);
    }
    mt_metrics_u64(m, MT_M_A_LOG_DROPPED, lost, "retention");
    mt_metrics_u64(m, MT_M_A_LOG_DROPPED, refused, "refused");
    for (int i = 0; i < MT_SINK_KINDS; i++) {
        mt_metrics_u64(m, MT_M_A_LOG_SINKS, up[i], kinds[i], "up");
        mt_metrics_u64(m, MT_M_A_LOG_SINKS, all[i] - up[i], kinds[i], "down");
    }
    for (int i = 0; i < MT_SINK_KINDS; i++)
        mt_metrics_u64(m, MT_M_A_LOG_WAITING, waiting[i], kinds[i]);
}

static void say(const char *id, struct mt_sink *s, int *level, struct mt_buf *out)
{
    struct mt_sink_state st;
    mt_sink_state(s, &st);
    mt_buf_printf(out, "%s%s: ", out->len ? "; " : "", id);
    if (st.up)
        mt_buf_printf(out, "up, %llu lines wait", (unsigned long long)st.waiting);
    else
        mt_buf_printf(out, "down (%s), %llu lines wait", st.why, (unsigned long long)st.waiting);
    if (!st.up && st.waiting)
        *level = 1;
}

int mt_forward_doctor(struct mt_forward *f, struct mt_buf *out)
{
    int level = 0;
    (void)pthread_mutex_lock(&f->lock);
    if (f->node)
        say("node", f->node, &level, out);
    MT_LIST_EACH (pos, &f->drains) {
        const struct drain *d = MT_CONTAINER(pos, struct drain, link);
        say(d->id, d->sink, &level, out);
    }
    (void)pthread_mutex_unlock(&f->lock);
    if (out->len == 0)
        mt_buf_puts(out, "none");
    return level;
}
