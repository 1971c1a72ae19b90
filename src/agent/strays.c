/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/strays.h"

#include "agent/agent.h"
#include "agent/ipv4.h"
#include "agent/net/arp.h"
#include "agent/net/ipv4.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "model/plan.h"

#include <arpa/inet.h>

#define AGAIN_S (24 * 3600)
#define FOUND_AGAIN_S 600

struct mt_strays {
    struct mt_agent *a;
    json_t *found; /* NULL: nothing */
    int64_t due_ns;
    bool busy;
};

struct job {
    struct mt_strays *s;
    struct mt_ipv4_conf conf;
    struct in_addr v[MT_IPV4_POOL_ASKED];
    bool held[MT_IPV4_POOL_ASKED]; /* ours to have */
    struct mt_arp_owner owner[MT_IPV4_POOL_ASKED];
    size_t n;
    json_t *found;
    int rc;
    struct mt_err err;
};

static void note(struct job *j, size_t i, const char *at)
{
    char text[INET_ADDRSTRLEN];
    if (json_array_size(j->found) < MT_IPV4_STRAYS_MAX)
        (void)json_array_append_new(j->found, json_pack("{s:s,s:s}", "address", inet_ntop(AF_INET, &j->v[i], text, sizeof text), "at", at));
}

static void work(void *arg)
{
    struct job *j = arg;
    char dev[IFNAMSIZ], at[MT_ARP_TEXT];
    bool hook = false, here;
    struct mt_err ignored;
    for (size_t i = 0; i < j->n && j->rc == 0; i++) {
        j->rc = mt_arp_here(NULL, &j->v[i], &here, &j->err);
        if (j->rc == 0 && here && !j->held[i])
            note(j, i, MT_IPV4_STRAY_HERE);
    }
    /* where a hook tells the world, addresses are routed here and no link knows them */
    if (j->rc < 0 || mt_ipv4_place(&j->conf, &hook, dev, &ignored) < 0 || hook)
        return;
    j->rc = mt_arp_find(dev, j->v, j->n, j->owner, &j->err);
    for (size_t i = 0; i < j->n && j->rc == 0; i++) {
        mt_arp_text(j->owner[i].mac, at);
        if (j->owner[i].found)
            note(j, i, at);
    }
}

static void done(void *arg)
{
    struct job *j = arg;
    struct mt_strays *s = j->s;
    const json_t *v;
    size_t i;
    s->busy = false;
    s->due_ns = mt_loop_now(s->a->loop) + (json_array_size(j->found) || j->rc < 0 ? FOUND_AGAIN_S : AGAIN_S) * MT_NS_PER_S;
    if (j->rc < 0) {
        mt_log(MT_WARN, "ipv4.not_looked", KV_ERR(&j->err));
    } else {
        json_array_foreach (j->found, i, v)
            if (!s->found || !json_equal(s->found, j->found))
                mt_log(MT_WARN, "ipv4.stray", KV("address", json_string_value(json_object_get(v, "address"))), KV("at", json_string_value(json_object_get(v, "at"))),
                       KV("mend", "`moat admin ipam leaks`: another machine has an address of the pool"));
        json_decref(s->found);
        s->found = json_array_size(j->found) ? json_incref(j->found) : NULL;
    }
    json_decref(j->found);
    free(j);
}

bool mt_strays_due(const struct mt_strays *s)
{
    return !s->busy && s->a->plan_fresh && mt_loop_now(s->a->loop) >= s->due_ns;
}

void mt_strays_look(struct mt_strays *s, const json_t *pool)
{
    const json_t *v;
    size_t i;
    struct job *j = s->busy || s->a->quitting ? NULL : calloc(1, sizeof *j);
    if (!j)
        return;
    j->s = s;
    j->conf = (struct mt_ipv4_conf){.interface = s->a->conf.ipv4_interface, .hook_dir = s->a->conf.hook_dir};
    j->found = json_array();
    json_array_foreach (pool, i, v) {
        const char *text = json_string_value(v);
        if (j->n == MT_IPV4_POOL_ASKED || !text || inet_pton(AF_INET, text, &j->v[j->n]) != 1)
            continue;
        j->held[j->n++] = mt_ipv4s_holds(s->a->ipv4, text);
    }
    s->busy = true;
    if (mt_pool_submit(s->a->steps, work, done, j, NULL) == 0)
        return;
    s->busy = false;
    json_decref(j->found);
    free(j);
}

json_t *mt_strays_report(const struct mt_strays *s)
{
    return s->found ? json_incref(s->found) : NULL;
}

struct mt_strays *mt_strays_new(struct mt_agent *a, struct mt_err *err)
{
    struct mt_strays *s = calloc(1, sizeof *s);
    if (!s)
        (void)MT_FAIL(err, MT_E_NOMEM, "IPv4 addresses: out of memory");
    else
        s->a = a;
    return s;
}

void mt_strays_free(struct mt_strays *s)
{
    if (!s)
        return;
    json_decref(s->found);
    free(s);
}
