/* SPDX-License-Identifier: Apache-2.0 */
/* See ipv4.h. */
#include "agent/ipv4.h"

#include "agent/control.h"
#include "agent/instance/state.h"
#include "agent/net/ipv4.h"
#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"

#include <arpa/inet.h>

#define FILE_MAX 65536
#define RETRY_MS 30000

enum step { STEP_NONE = 0, STEP_UP, STEP_KEEP, STEP_DOWN };

/* One address: wanted, held, or both. */
struct held {
    char address[INET_ADDRSTRLEN];
    char dev[IFNAMSIZ]; /* "" = the host was not changed for it */
    bool hook;
    bool wanted, up, moved;
    int64_t until_ms; /* wall clock; 0: as long as the plan names it */
    unsigned tries;   /* failed ones in a row */
    int64_t next_ns;  /* no step before */
    char detail[160]; /* why the last step failed, or "" */
};

struct mt_ipv4s {
    struct mt_agent *a;
    struct mt_source *timer;
    struct held v[2 * MT_PLAN_IPV4_MAX];
    size_t n;
    bool busy;
};

struct job {
    struct mt_ipv4s *x;
    struct mt_ipv4_conf conf;
    struct held h;
    enum step step;
    bool mended;
    int rc;
    struct mt_err err;
};

static void look(struct mt_ipv4s *x);

static struct mt_ipv4_conf conf_of(const struct mt_agent *a)
{
    return (struct mt_ipv4_conf){.interface = a->conf.ipv4_interface, .hook_dir = a->conf.hook_dir};
}

static struct held *find(struct mt_ipv4s *x, const char *address)
{
    for (size_t i = 0; i < x->n; i++)
        if (MT_STREQ(x->v[i].address, address))
            return &x->v[i];
    return NULL;
}

static struct held *find_or_add(struct mt_ipv4s *x, const char *address)
{
    struct held *h = find(x, address);
    if (h || x->n == MT_ARRAY_LEN(x->v))
        return h;
    h = &x->v[x->n++];
    *h = (struct held){0};
    (void)snprintf(h->address, sizeof h->address, "%s", address);
    return h;
}

/* ---- the file ---------------------------------------------------------------------------- */

static int file_path(const struct mt_agent *a, char ret[PATH_MAX], struct mt_err *err)
{
    return mt_fmt(ret, PATH_MAX, err, "%s/ipv4.json", a->conf.agent_dir);
}

static int save(const struct mt_ipv4s *x, struct mt_err *err)
{
    char path[PATH_MAX];
    json_t *list = json_array();
    for (size_t i = 0; i < x->n; i++)
        if (x->v[i].dev[0])
            (void)json_array_append_new(list, json_pack("{s:s,s:s,s:b}", "address", x->v[i].address, "dev", x->v[i].dev, "hook", x->v[i].hook));
    json_t *doc = json_pack("{s:s,s:o}", "host_boot", x->a->host_boot, "held", list);
    int rc = doc ? file_path(x->a, path, err) : MT_FAIL(err, MT_E_NOMEM, "ipv4.json: out of memory");
    if (rc == 0)
        rc = mt_sealed_save(path, doc, err);
    json_decref(doc);
    return rc;
}

static void load(struct mt_ipv4s *x)
{
    char path[PATH_MAX];
    json_t *doc = NULL, *o;
    struct mt_err err;
    size_t i;
    if (file_path(x->a, path, &err) < 0 || mt_sealed_load(path, FILE_MAX, &doc, &err) < 0)
        return;
    const char *boot = json_string_value(json_object_get(doc, "host_boot"));
    /* addresses of another boot of the host are gone with it; what a hook told the world may not be */
    bool same = boot && MT_STREQ(boot, x->a->host_boot);
    json_array_foreach(json_object_get(doc, "held"), i, o) {
        const char *address = json_string_value(json_object_get(o, "address")), *dev = json_string_value(json_object_get(o, "dev"));
        struct in_addr a;
        bool hook = json_is_true(json_object_get(o, "hook"));
        struct held *h = address && dev && inet_pton(AF_INET, address, &a) == 1 && (same || hook) ? find_or_add(x, address) : NULL;
        if (!h)
            continue;
        (void)snprintf(h->dev, sizeof h->dev, "%s", dev);
        h->hook = hook;
    }
    json_decref(doc);
}

/* ---- steps ------------------------------------------------------------------------------- */

static void work(void *arg)
{
    struct job *j = arg;
    if (j->step == STEP_UP)
        j->rc = mt_ipv4_up(&j->conf, j->h.address, j->h.dev, j->h.hook, j->h.moved, &j->err);
    else if (j->step == STEP_KEEP)
        j->rc = mt_ipv4_keep(j->h.address, j->h.dev, !j->h.hook, &j->mended, &j->err);
    else
        j->rc = mt_ipv4_down(&j->conf, j->h.address, j->h.dev, j->h.hook, &j->err);
}

static void failed(struct mt_ipv4s *x, struct held *h, const struct mt_err *err)
{
    bool news = strcmp(h->detail, err->msg) != 0;
    h->tries++;
    h->up = false;
    h->next_ns = mt_loop_now(x->a->loop) + RETRY_MS * MT_NS_PER_MS;
    (void)snprintf(h->detail, sizeof h->detail, "%.150s", err->msg);
    if (news)
        mt_log(MT_ERROR, "ipv4.failed", KV("address", (const char *)h->address), KV_ERR(err), KV("tries", h->tries));
}

static void done(void *arg)
{
    struct job *j = arg;
    struct mt_ipv4s *x = j->x;
    struct held *h = find(x, j->h.address);
    x->busy = false;
    if (h && j->rc < 0) {
        failed(x, h, &j->err);
    } else if (h && j->step == STEP_DOWN) {
        mt_log(MT_INFO, "ipv4.given_back", KV("address", (const char *)h->address));
        h->dev[0] = h->detail[0] = '\0';
        h->up = false;
        h->tries = 0;
        struct mt_err err = {0};
        if (save(x, &err) < 0)
            mt_log(MT_WARN, "ipv4.not_recorded", KV_ERR(&err));
    } else if (h && j->step == STEP_KEEP && !h->up) { /* held, and not yet confirmed */
        h->next_ns = mt_loop_now(x->a->loop) + MT_NS_PER_S;
    } else if (h) {
        if (!h->up || j->mended)
            mt_log(j->mended && h->up ? MT_WARN : MT_INFO, j->mended && h->up ? "ipv4.put_back" : "ipv4.taken", KV("address", (const char *)h->address),
                   KV("dev", (const char *)h->dev), KV("hook", h->hook));
        h->up = true;
        h->tries = 0;
        h->detail[0] = '\0';
        h->next_ns = mt_loop_now(x->a->loop) + (int64_t)x->a->conf.drift_seconds * MT_NS_PER_S;
    }
    if (h && j->step != STEP_KEEP)
        mt_control_beat_now(x->a->control);
    free(j);
    look(x);
}

/* Its place is recorded before it is taken; a broken disk leaves the host as it is. */
static bool prepare(struct mt_ipv4s *x, struct held *h)
{
    const struct mt_ipv4_conf c = conf_of(x->a);
    struct mt_err err = {0};
    struct held was = *h;
    if (h->dev[0])
        return true;
    if (mt_ipv4_place(&c, &h->hook, h->dev, &err) == 0 && save(x, &err) == 0)
        return true;
    *h = was;
    failed(x, h, &err);
    mt_control_beat_now(x->a->control);
    return false;
}

static bool is_wanted(const struct held *h, int64_t wall_ms)
{
    return h->wanted && (!h->until_ms || wall_ms < h->until_ms);
}

/* Giving back comes first: somebody else may wait for it. What only an old plan names is neither taken nor announced: another
 * edge may have it by now. What is held already stays until the control plane is heard. */
static enum step next(struct mt_ipv4s *x, size_t *ret, int64_t now, int64_t wall_ms)
{
    for (size_t i = 0; i < x->n; i++)
        if (x->v[i].dev[0] && !is_wanted(&x->v[i], wall_ms) && x->v[i].next_ns <= now) {
            *ret = i;
            return STEP_DOWN;
        }
    for (size_t i = 0; i < x->n; i++)
        if (is_wanted(&x->v[i], wall_ms) && x->v[i].next_ns <= now && (x->v[i].dev[0] || x->a->plan_fresh)) {
            *ret = i;
            return x->v[i].up || !x->a->plan_fresh ? STEP_KEEP : STEP_UP;
        }
    return STEP_NONE;
}

static void look(struct mt_ipv4s *x)
{
    struct mt_agent *a = x->a;
    if (x->busy || a->quitting || a->stop_all)
        return;
    for (;;) {
        int64_t now = mt_loop_now(a->loop), wall_ms = mt_clock_wall_us() / 1000;
        size_t i = 0;
        enum step step = next(x, &i, now, wall_ms);
        if (step == STEP_NONE)
            break;
        if (step == STEP_UP && !prepare(x, &x->v[i]))
            continue; /* its next try is later */
        struct job *j = calloc(1, sizeof *j);
        if (!j)
            break;
        *j = (struct job){.x = x, .conf = conf_of(a), .h = x->v[i], .step = step};
        x->busy = true;
        if (mt_pool_submit(a->steps, work, done, j, NULL) == 0)
            return;
        x->busy = false;
        free(j);
        break;
    }
    for (size_t i = x->n; i-- > 0;) /* what is neither wanted nor held is forgotten */
        if (!x->v[i].wanted && !x->v[i].dev[0])
            x->v[i] = x->v[--x->n];
    if (x->n)
        mt_loop_timer_after(x->timer, 1000);
}

static void on_timer(struct mt_source *s, void *arg)
{
    (void)s;
    look(arg);
}

void mt_ipv4s_plan(struct mt_ipv4s *x)
{
    const struct mt_plan_network *n = &x->a->plan->network;
    for (size_t i = 0; i < x->n; i++) {
        struct held *h = &x->v[i];
        bool named = false;
        for (size_t k = 0; k < n->n_ipv4; k++)
            named = named || MT_STREQ(n->ipv4[k].address, h->address);
        if (h->wanted && !named)
            h->next_ns = 0; /* given back now */
        h->wanted = h->wanted && named;
    }
    for (size_t k = 0; k < n->n_ipv4; k++) {
        struct held *h = find_or_add(x, n->ipv4[k].address);
        if (!h)
            continue;
        if (!h->wanted || (!h->up && !h->tries))
            h->next_ns = 0;
        h->wanted = true;
        h->moved = n->ipv4[k].moved;
        h->until_ms = (int64_t)n->ipv4[k].until_unix_ms;
    }
    look(x);
}

bool mt_ipv4s_holds(const struct mt_ipv4s *x, const char *address)
{
    for (size_t i = 0; i < x->n; i++)
        if (MT_STREQ(x->v[i].address, address))
            return true;
    return false;
}

json_t *mt_ipv4s_report(const struct mt_ipv4s *x)
{
    json_t *list = NULL;
    for (size_t i = 0; i < x->n; i++) {
        const struct held *h = &x->v[i];
        if (!h->wanted)
            continue;
        list = list ? list : json_array();
        (void)json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:s*}", "address", h->address, "state", h->up ? "up" : h->tries ? "failed" : "pending",
                                                    "tries", (int)h->tries, "detail", h->detail[0] ? h->detail : NULL));
    }
    return list;
}

int mt_ipv4s_restore(struct mt_ipv4s *x, struct mt_err *err)
{
    const struct mt_ipv4_conf c = conf_of(x->a);
    char path[PATH_MAX];
    int rc = 0;
    for (size_t i = 0; i < x->n; i++) {
        if (!x->v[i].dev[0])
            continue;
        int one = mt_ipv4_down(&c, x->v[i].address, x->v[i].dev, x->v[i].hook, err);
        if (one < 0)
            mt_log(MT_WARN, "ipv4.not_given_back", KV("address", (const char *)x->v[i].address), KV_ERR(err));
        rc = one < 0 ? one : rc;
    }
    if (rc == 0 && file_path(x->a, path, err) == 0)
        (void)unlink(path);
    return rc;
}

struct mt_ipv4s *mt_ipv4s_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_ipv4s *x = calloc(1, sizeof *x);
    if (!x) {
        (void)MT_FAIL(err, MT_E_NOMEM, "IPv4 addresses: out of memory");
        return NULL;
    }
    x->a = a;
    x->timer = mt_loop_timer(a->loop, "ipv4", on_timer, x, err);
    if (!x->timer) {
        free(x);
        return NULL;
    }
    load(x);
    return x;
}

void mt_ipv4s_free(struct mt_ipv4s *x)
{
    if (!x)
        return;
    mt_loop_del(x->timer);
    free(x);
}
