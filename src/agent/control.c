/* SPDX-License-Identifier: Apache-2.0 */
/* Client of the control plane. See control.h. */
#include "agent/control.h"

#include "agent/identity/identity.h"
#include "agent/report.h"
#include "agent/skew.h"
#include "agent/strays.h"
#include "agent/upkeep.h"
#include "base/assert.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/str.h"
#include "os/file.h"
#include "wire/http_client.h"
#include "wire/json.h"
#include "wire/node_call.h"

#include <inttypes.h>
#include <pthread.h>

#define PLAN_TARGET "/internal/v1/nodes/self/plan"
#define HEARTBEAT_TARGET "/internal/v1/nodes/self/heartbeat"
#define STATUS_TARGET "/internal/v1/nodes/self/status"
#define WAIT_S 30
#define POST_TIMEOUT_MS 10000
#define POLL_TIMEOUT_MS ((WAIT_S + 10) * 1000)
#define ANSWER_MAX (1U << 20)
#define PAUSE_FIRST_MS 200
#define PAUSE_MAX_MS 5000
#define HTTP_UPGRADE 426 /* we share no protocol */

struct mt_control {
    struct mt_agent *a;
    struct mt_http_client *plan_client, *post_client;
    unsigned plan_generation, post_generation; /* of the identity's certificate, each its thread's */
    pthread_t plan_thread, post_thread;
    bool plan_started, post_started;
    struct mt_source *beat_timer;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    /* under lock */
    bool quit;
    bool repoll; /* plan_client was cancelled to be made anew */
    char *status, *beat; /* bodies waiting to be sent, owned */
    struct note *note;   /* another document waiting to be sent, owned */
    uint64_t after, epoch;
    bool have_after;
    bool incompatible; /* the loop's: the newest heartbeat was answered with 426; said once */
    unsigned welcomes; /* times that a heartbeat was taken after one was not: the plan is worth asking for at once */
    atomic_bool reachable;
};

enum { BEAT_RETRY_MS = 500 }; /* while heartbeats do not get through: a control plane that just came up learns of the node soon */

/* ---- results on the loop's thread -------------------------------------------------------- */

struct plan_result {
    struct mt_control *c;
    struct mt_plan *plan; /* NULL: unchanged, or refused */
    struct mt_err err;
    int http;
};

static void on_plan(void *arg)
{
    struct plan_result *p = arg;
    struct mt_agent *a = p->c->a;

    if (p->http == 304) {
        mt_agent_plan_unchanged(a);
    } else if (p->plan) {
        mt_agent_plan(a, p->plan, false);
        p->plan = NULL;
    } else {
        a->plans_rejected++;
        (void)snprintf(a->plan_rejected, sizeof a->plan_rejected, "%s", p->err.msg);
        mt_log(MT_ERROR, "plan.rejected", KV("http", p->http), KV_ERR(&p->err));
    }
    mt_plan_free(p->plan);
    free(p);
}

struct answer {
    struct mt_control *c;
    bool status; /* of a status batch, else of a heartbeat */
    int http;
    bool was_away;
    uint64_t recovery; /* of a heartbeat: the epoch in which the control plane is in recovery, 0: it is not */
    bool renew;        /* of a heartbeat: our certificates are of an authority that was replaced */
    bool has_skew;     /* of a heartbeat: what our clock is off by */
    int64_t skew_ms;
    json_t *ipv4_pool; /* of a heartbeat that asked for it, owned; NULL: not said */
    char detail[240];
};

/* Our clock against theirs, as the last heartbeat showed it; said when it begins to be wrong and when it is right again. */
static void take_skew(struct mt_agent *a, int64_t ms)
{
    bool was = mt_agent_clock_is_off(a);
    a->skew_ms = ms;
    bool is = mt_agent_clock_is_off(a);
    if (is && !was)
        mt_log(MT_ERROR, "clock.off", KV("least_ms", ms), KV("mend", "set the clock (timedatectl set-ntp true): nothing new is placed here, and beyond a minute heartbeats are refused"));
    else if (was && !is)
        mt_log(MT_INFO, "clock.right_again", KV("least_ms", ms));
    if (is != was)
        mt_control_beat_now(a->control); /* the condition goes out with the next heartbeat */
}

/* A control plane that speaks no protocol of ours (426): what runs goes on by the last plan, and what is to be told is kept until one is there that takes it. */
static void take_fit(struct mt_control *c, const struct answer *an)
{
    if (an->http == HTTP_UPGRADE && !c->incompatible)
        mt_log(MT_ERROR, "control.incompatible", KV("agent_version", MOAT_VERSION), KV("protocol", MT_NODE_PROTOCOL), KV("detail", an->detail),
               KV("mend", "install on this machine the version of moat that the control plane has; what runs here goes on meanwhile"));
    else if (an->http == 200 && c->incompatible)
        mt_log(MT_INFO, "control.compatible_again", KV("agent_version", MOAT_VERSION));
    if (an->http == HTTP_UPGRADE || an->http == 200)
        c->incompatible = an->http == HTTP_UPGRADE;
}

static void on_answer(void *arg)
{
    struct answer *an = arg;
    struct mt_agent_measure *m = &an->c->a->measure;
    if (!an->status && an->http != 0 && an->http < 500)
        an->c->a->disowned = an->http == 403;
    if (!an->status)
        (*(an->http == 0 ? &m->beats_unreachable : an->http >= 400 ? &m->beats_refused : &m->beats_taken))++;
    if (an->renew)
        mt_upkeep_wake(an->c->a->upkeep);
    if (an->ipv4_pool)
        mt_strays_look(an->c->a->strays, an->ipv4_pool);
    if (an->has_skew)
        take_skew(an->c->a, an->skew_ms);
    if (an->status)
        mt_report_answer(an->c->a->report, an->http, an->detail);
    else
        take_fit(an->c, an);
    if (!an->status && an->http >= 400 && an->http != HTTP_UPGRADE)
        mt_log(MT_WARN, "heartbeat.refused", KV("status", an->http), KV("detail", an->detail));
    if (!an->status && (an->http == 0 || an->http >= 500) && an->c->a->conf.heartbeat_ms > BEAT_RETRY_MS)
        mt_loop_timer_after(an->c->beat_timer, BEAT_RETRY_MS);
    if (!an->status && an->http == 200)
        mt_agent_recovery(an->c->a, an->recovery);
    if (an->was_away && !an->status)
        mt_report_resync(an->c->a->report); /* it may have lost what it knew: tell all again */
    json_decref(an->ipv4_pool);
    free(an);
}

struct note {
    struct mt_control *c;
    const char *target; /* static */
    char *body;
    mt_control_answer_fn *fn;
    void *arg;
    int http;
    char detail[800];
};

static void note_free(struct note *n)
{
    if (!n)
        return;
    free(n->body);
    free(n);
}

static void on_note(void *arg)
{
    struct note *n = arg;
    n->fn(n->arg, n->http, n->detail);
    note_free(n);
}

/* ---- threads ----------------------------------------------------------------------------- */

/* Sleep with a share of chance, woken early by quit. Returns true when to go on. */
static bool pause_ms(struct mt_control *c, int64_t ms)
{
    uint32_t random;
    struct timespec until;
    mt_random(&random, sizeof random);
    ms = ms - ms / 5 + (int64_t)(random % 1000) * ms * 2 / 5000;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    (void)pthread_mutex_lock(&c->lock);
    unsigned welcomes = c->welcomes;
    while (!c->quit && welcomes == c->welcomes && pthread_cond_timedwait(&c->wake, &c->lock, &until) == 0)
        continue;
    bool go = !c->quit;
    (void)pthread_mutex_unlock(&c->lock);
    return go;
}

static int ask_plan(struct mt_control *c, struct mt_err *err)
{
    char target[128];
    struct mt_http_reply reply;

    (void)pthread_mutex_lock(&c->lock);
    uint64_t after = c->after, epoch = c->epoch;
    bool have = c->have_after;
    (void)pthread_mutex_unlock(&c->lock);
    if (have)
        (void)snprintf(target, sizeof target, PLAN_TARGET "?after=%" PRIu64 "&epoch=%" PRIu64 "&wait=%d", after, epoch, WAIT_S);
    else
        (void)snprintf(target, sizeof target, PLAN_TARGET "?after=0&wait=0");
    struct mt_http_request rq = {.method = "GET", .target = target, .timeout_ms = POLL_TIMEOUT_MS};
    if (c->a->identity)
        mt_identity_follow(c->a->identity, c->plan_client, &c->plan_generation);
    int rc = mt_http_do(c->plan_client, &rq, MT_PLAN_BYTES_MAX, &reply, err);
    if (rc < 0)
        return rc;
    if (reply.status != 200 && reply.status != 304) {
        rc = MT_FAIL(err, MT_E_UNAVAILABLE, "plan: http %d", reply.status);
        mt_http_reply_done(&reply);
        return rc;
    }
    struct plan_result *p = calloc(1, sizeof *p);
    if (p) {
        p->c = c;
        p->http = reply.status;
        if (reply.status == 200 && mt_plan_parse((const char *)reply.body.p, reply.body.len, &p->plan, &p->err) == 0) {
            /* ask for newer from here on, even before the loop has looked at it */
            (void)pthread_mutex_lock(&c->lock);
            c->after = p->plan->cursor_event_id;
            c->epoch = p->plan->epoch;
            c->have_after = true;
            (void)pthread_mutex_unlock(&c->lock);
        }
        bool refused = reply.status == 200 && !p->plan;
        if (mt_loop_post(c->a->loop, on_plan, p) < 0) {
            mt_plan_free(p->plan);
            free(p);
        }
        if (refused)
            rc = MT_FAIL(err, MT_E_INVALID, "plan refused");
    }
    mt_http_reply_done(&reply);
    return rc;
}

/* The client was cancelled by mt_control_repoll: another one in its place. False: it was not, or there is no memory for it now. */
static bool fresh_client(struct mt_control *c)
{
    struct mt_http_client *old = NULL;
    (void)pthread_mutex_lock(&c->lock);
    struct mt_http_client *new = c->repoll && !c->quit ? mt_agent_client(c->a, &c->plan_generation) : NULL;
    if (new) {
        old = c->plan_client;
        c->plan_client = new;
        c->repoll = false;
    }
    (void)pthread_mutex_unlock(&c->lock);
    mt_http_client_free(old);
    return new != NULL;
}

static void *plan_main(void *arg)
{
    struct mt_control *c = arg;
    int64_t pause = PAUSE_FIRST_MS;

    for (;;) {
        struct mt_err err = {0};
        int64_t t0 = mt_clock_mono();
        int rc = ask_plan(c, &err);
        if (rc == -MT_E_CANCELLED && fresh_client(c))
            continue;
        atomic_store(&c->reachable, rc == 0 || rc == -MT_E_INVALID);
        if (rc == 0) {
            pause = PAUSE_FIRST_MS;
            /* a server that answers at once must not be asked in a tight loop */
            if (mt_clock_mono() - t0 > 20 * MT_NS_PER_MS) {
                (void)pthread_mutex_lock(&c->lock);
                bool quit = c->quit;
                (void)pthread_mutex_unlock(&c->lock);
                if (quit)
                    return NULL;
                continue;
            }
            if (!pause_ms(c, 20))
                return NULL;
            continue;
        }
        mt_log(MT_DEBUG, "plan.poll_failed", KV_ERR(&err));
        if (!pause_ms(c, pause))
            return NULL;
        pause = pause * 2 > PAUSE_MAX_MS ? PAUSE_MAX_MS : pause * 2;
    }
}

/* The control plane's clock is in the answer to a heartbeat that it took, and in the problem when it refuses one for our clock. */
static void read_clock(const json_t *doc, int http, int64_t sent_ms, int64_t got_ms, struct answer *an)
{
    const json_t *from = http == 200 ? doc : json_object_get(doc, "details"), *there = json_object_get(from, "clock_unix_ms");
    an->has_skew = json_is_integer(there) && mt_skew_least(sent_ms, got_ms, json_integer_value(there), &an->skew_ms);
}

static void read_authority(struct mt_control *c, const json_t *doc, struct answer *an)
{
    struct mt_err err;
    if (c->a->identity && mt_identity_authority(c->a->identity, json_string_value(json_object_get(doc, "ca_trust")),
                                                json_string_value(json_object_get(doc, "ca_key_id")), &an->renew, &err) < 0)
        mt_log(MT_ERROR, "identity.trust_refused", KV_ERR(&err), KV("mend", "what was trusted before is; the next heartbeat asks again"));
}

static bool post(struct mt_control *c, bool status, char *body, bool was_away)
{
    struct mt_err err = {0};
    struct mt_http_reply reply;
    mt_auto_json json_t *doc = NULL;
    struct answer *an = calloc(1, sizeof *an);
    struct mt_http_request rq = {.method = "POST",
                                 .target = status ? STATUS_TARGET : HEARTBEAT_TARGET,
                                 .body = body,
                                 .body_len = strlen(body),
                                 .timeout_ms = POST_TIMEOUT_MS};
    if (c->a->identity)
        mt_identity_follow(c->a->identity, c->post_client, &c->post_generation);
    int64_t sent_ms = mt_clock_wall_us() / 1000;
    int rc = mt_http_do(c->post_client, &rq, ANSWER_MAX, &reply, &err);
    int64_t got_ms = mt_clock_wall_us() / 1000;
    bool ok = rc == 0 && reply.status < 500;
    if (an) {
        an->c = c;
        an->status = status;
        an->was_away = ok && was_away;
        an->http = rc == 0 ? reply.status : 0;
        if (rc < 0)
            (void)snprintf(an->detail, sizeof an->detail, "%s", err.msg);
        else if (reply.status >= 400)
            (void)mt_printable((const char *)reply.body.p, reply.body.len, an->detail, sizeof an->detail);
        if (an->http == HTTP_UPGRADE && mt_json_parse((const char *)reply.body.p, reply.body.len, ANSWER_MAX, 8, &doc, NULL) == 0) {
            const char *detail = json_string_value(json_object_get(doc, "detail"));
            if (detail)
                (void)mt_printable(detail, strlen(detail), an->detail, sizeof an->detail);
        } else if (rc == 0 && !status && mt_json_parse((const char *)reply.body.p, reply.body.len, ANSWER_MAX, 8, &doc, NULL) == 0) {
            read_clock(doc, reply.status, sent_ms, got_ms, an);
        }
        if (rc == 0 && !status && reply.status == 200)
            read_authority(c, doc, an);
        if (rc == 0 && !status && reply.status < 400)
            an->recovery = json_is_true(json_object_get(doc, "recovery")) ? (uint64_t)json_integer_value(json_object_get(doc, "epoch")) : 0;
        if (rc == 0 && !status && reply.status == 200 && json_is_array(json_object_get(doc, "ipv4_pool")))
            an->ipv4_pool = json_deep_copy(json_object_get(doc, "ipv4_pool"));
        if (mt_loop_post(c->a->loop, on_answer, an) < 0) {
            json_decref(an->ipv4_pool);
            free(an);
        }
    }
    if (rc == 0)
        mt_http_reply_done(&reply);
    free(body);
    return ok;
}

static void post_note(struct mt_control *c, struct note *n)
{
    struct mt_err err = {0};
    struct mt_http_reply reply;
    struct mt_http_request rq = {.method = "POST", .target = n->target, .body = n->body, .body_len = strlen(n->body), .timeout_ms = POST_TIMEOUT_MS};
    int rc = mt_http_do(c->post_client, &rq, ANSWER_MAX, &reply, &err);
    if (rc < 0) {
        (void)snprintf(n->detail, sizeof n->detail, "%s", err.msg);
    } else {
        n->http = reply.status;
        (void)mt_printable((const char *)reply.body.p, reply.body.len, n->detail, sizeof n->detail);
        mt_http_reply_done(&reply);
    }
    if (mt_loop_post(c->a->loop, on_note, n) < 0)
        note_free(n);
}

static void *post_main(void *arg)
{
    struct mt_control *c = arg;
    bool away = true; /* nothing has got through yet */

    for (;;) {
        (void)pthread_mutex_lock(&c->lock);
        while (!c->quit && !c->status && !c->beat && !c->note)
            (void)pthread_cond_wait(&c->wake, &c->lock);
        bool quit = c->quit;
        char *status = MT_TAKE(c->status), *beat = MT_TAKE(c->beat);
        struct note *note = MT_TAKE(c->note);
        (void)pthread_mutex_unlock(&c->lock);
        if (quit) {
            free(status);
            free(beat);
            note_free(note);
            return NULL;
        }
        if (status)
            (void)post(c, true, status, false);
        if (note)
            post_note(c, note);
        if (!beat)
            continue;
        bool was_away = away;
        away = !post(c, false, beat, away);
        if (was_away && !away) {
            (void)pthread_mutex_lock(&c->lock);
            c->welcomes++;
            (void)pthread_cond_broadcast(&c->wake);
            (void)pthread_mutex_unlock(&c->lock);
        }
    }
}

/* ---- loop side --------------------------------------------------------------------------- */

static void on_beat(struct mt_source *s, void *arg)
{
    struct mt_control *c = arg;
    mt_loop_timer_after(s, (int64_t)c->a->conf.heartbeat_ms);
    char *body = mt_report_heartbeat(c->a);
    if (!body)
        return;
    (void)pthread_mutex_lock(&c->lock);
    free(c->beat); /* an unsent older one says less */
    c->beat = body;
    (void)pthread_cond_broadcast(&c->wake);
    (void)pthread_mutex_unlock(&c->lock);
}

int mt_control_status(struct mt_control *c, char *body)
{
    if (!body)
        return -MT_E_NOMEM;
    (void)pthread_mutex_lock(&c->lock);
    bool taken = !c->status;
    if (taken) {
        c->status = body;
        (void)pthread_cond_broadcast(&c->wake);
    }
    (void)pthread_mutex_unlock(&c->lock);
    if (!taken)
        free(body);
    return taken ? 0 : -MT_E_CONFLICT;
}

int mt_control_post(struct mt_control *c, const char *target, json_t *body, mt_control_answer_fn *fn, void *arg, struct mt_err *err)
{
    mt_auto_buf struct mt_buf text = MT_BUF_INIT(65536);
    struct note *n = body && c ? calloc(1, sizeof *n) : NULL;
    int rc = n ? mt_json_dump(body, &text, err) : MT_FAIL(err, MT_E_NOMEM, "out of memory");

    json_decref(body);
    if (rc == 0 && !(n->body = mt_buf_take(&text)))
        rc = MT_FAIL(err, MT_E_NOMEM, "out of memory");
    if (rc == 0) {
        n->c = c;
        n->target = target;
        n->fn = fn;
        n->arg = arg;
        (void)pthread_mutex_lock(&c->lock);
        if (c->note)
            rc = MT_FAIL(err, MT_E_CONFLICT, "another request to the control plane waits");
        else
            c->note = MT_TAKE(n);
        (void)pthread_cond_broadcast(&c->wake);
        (void)pthread_mutex_unlock(&c->lock);
    }
    note_free(n);
    return rc;
}

void mt_control_applied(struct mt_control *c, uint64_t epoch, uint64_t cursor, bool any)
{
    if (!c)
        return;
    (void)pthread_mutex_lock(&c->lock);
    c->after = cursor;
    c->epoch = epoch;
    c->have_after = any;
    (void)pthread_mutex_unlock(&c->lock);
}

void mt_control_beat_now(struct mt_control *c)
{
    if (c)
        mt_loop_timer_after(c->beat_timer, 0);
}

void mt_control_repoll(struct mt_control *c)
{
    if (!c || !c->a->identity) /* a Unix socket is no firewall's business */
        return;
    (void)pthread_mutex_lock(&c->lock);
    if (!c->quit && !c->repoll) {
        c->repoll = true;
        mt_http_client_cancel(c->plan_client);
    }
    (void)pthread_mutex_unlock(&c->lock);
}

bool mt_control_reachable(const struct mt_control *c)
{
    return c && atomic_load(&c->reachable);
}

struct mt_http_client *mt_agent_client(struct mt_agent *a, unsigned *ret_generation)
{
    if (a->identity)
        return mt_identity_client(a->identity, ret_generation);
    /* a plan is obeyed by root: only control's own process may give one, not whoever made the socket while control was away */
    const uid_t trusted[] = {0, geteuid(), a->control_uid};
    struct mt_http_client *c = mt_http_client_new(a->conf.control_socket);
    *ret_generation = 0;
    if (c) {
        mt_http_client_trust(c, trusted, MT_ARRAY_LEN(trusted));
        mt_node_call_says(c);
    }
    return c;
}

struct mt_control *mt_control_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_control *c = calloc(1, sizeof *c);
    pthread_condattr_t attr;
    pthread_attr_t small;

    if (!c) {
        (void)MT_FAIL(err, MT_E_NOMEM, "control client: out of memory");
        return NULL;
    }
    c->a = a;
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&c->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_attr_init(&small);
    (void)pthread_attr_setstacksize(&small, 512U << 10);
    c->plan_client = mt_agent_client(a, &c->plan_generation);
    c->post_client = mt_agent_client(a, &c->post_generation);
    c->beat_timer = mt_loop_timer(a->loop, "heartbeat", on_beat, c, err);
    if (!c->plan_client || !c->post_client || !c->beat_timer)
        (void)MT_FAIL(err, MT_E_NOMEM, "control client: out of memory");
    else {
        c->plan_started = pthread_create(&c->plan_thread, &small, plan_main, c) == 0;
        c->post_started = pthread_create(&c->post_thread, &small, post_main, c) == 0;
        if (!c->plan_started || !c->post_started)
            (void)MT_FAIL(err, MT_E_IO, "control client: no thread");
    }
    (void)pthread_attr_destroy(&small);
    if (!c->plan_started || !c->post_started) {
        mt_control_free(c);
        return NULL;
    }
    mt_loop_timer_after(c->beat_timer, 0);
    return c;
}

void mt_control_free(struct mt_control *c)
{
    if (!c)
        return;
    (void)pthread_mutex_lock(&c->lock);
    c->quit = true;
    (void)pthread_cond_broadcast(&c->wake);
    if (c->plan_client) /* its thread may put another one there */
        mt_http_client_cancel(c->plan_client);
    (void)pthread_mutex_unlock(&c->lock);
    if (c->post_client)
        mt_http_client_cancel(c->post_client);
    if (c->plan_started)
        (void)pthread_join(c->plan_thread, NULL);
    if (c->post_started)
        (void)pthread_join(c->post_thread, NULL);
    mt_loop_del(c->beat_timer);
    mt_http_client_free(c->plan_client);
    mt_http_client_free(c->post_client);
    free(c->status);
    free(c->beat);
    note_free(c->note);
    (void)pthread_cond_destroy(&c->wake);
    (void)pthread_mutex_destroy(&c->lock);
    free(c);
}
