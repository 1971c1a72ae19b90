/* SPDX-License-Identifier: Apache-2.0 */
/* Sets of eight by hash: a set that is full loses what nobody looked at longest, but nothing that waits to be asked. */
#include "control/names/cache.h"

#include "base/clock.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

#define SETS 512
#define WAYS 8
#define QUEUE 512

struct entry {
    char host[MT_NAMES_HOST];
    int64_t looked_ns, due_ns;
    bool queued;
    unsigned failures; /* in a row */
    struct mt_names_seen seen;
};

struct mt_names_cache {
    struct entry *e[SETS][WAYS];
    struct entry *queue[QUEUE];
    size_t first, n_queue;
};

struct mt_names_cache *mt_names_cache_new(void)
{
    return calloc(1, sizeof(struct mt_names_cache));
}

void mt_names_cache_free(struct mt_names_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < SETS; i++)
        for (size_t k = 0; k < WAYS; k++)
            free(c->e[i][k]);
    free(c);
}

static struct entry **set_of(struct mt_names_cache *c, const char *host)
{
    uint32_t h = 2166136261u; /* FNV-1a: whoever collides on purpose shortens the memory for eight names */
    for (const char *p = host; *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    return c->e[h % SETS];
}

static struct entry *find(struct mt_names_cache *c, const char *host)
{
    struct entry **set = set_of(c, host);
    for (size_t k = 0; k < WAYS; k++)
        if (set[k] && MT_STREQ(set[k]->host, host))
            return set[k];
    return NULL;
}

static struct entry *make(struct mt_names_cache *c, const char *host)
{
    struct entry **set = set_of(c, host), **to = NULL;
    for (size_t k = 0; k < WAYS; k++) {
        if (!set[k]) {
            to = &set[k];
            break;
        }
        if (!set[k]->queued && (!to || set[k]->looked_ns < (*to)->looked_ns))
            to = &set[k];
    }
    if (!to || (!*to && !(*to = malloc(sizeof **to))))
        return NULL;
    **to = (struct entry){0};
    (void)snprintf((*to)->host, sizeof (*to)->host, "%s", host);
    return *to;
}

bool mt_names_cache_look(struct mt_names_cache *c, const char *host, int64_t now_ns, struct mt_names_seen *ret)
{
    struct entry *e = NULL;
    *ret = (struct mt_names_seen){0};
    if (strlen(host) >= MT_NAMES_HOST || (!(e = find(c, host)) && !(e = make(c, host))))
        return false;
    e->looked_ns = now_ns;
    *ret = e->seen;
    if (e->queued || now_ns < e->due_ns || c->n_queue == QUEUE)
        return false;
    e->queued = true;
    c->queue[(c->first + c->n_queue++) % QUEUE] = e;
    return true;
}

bool mt_names_cache_next(struct mt_names_cache *c, char ret_host[MT_NAMES_HOST])
{
    if (c->n_queue == 0)
        return false;
    memcpy(ret_host, c->queue[c->first]->host, MT_NAMES_HOST);
    c->first = (c->first + 1) % QUEUE;
    c->n_queue--;
    return true; /* it stays marked until its answer is put */
}

void mt_names_cache_put(struct mt_names_cache *c, const char *host, const struct mt_names_seen *seen, int64_t now_ns)
{
    struct entry *e = find(c, host);
    int64_t wait_s = MT_NAMES_EVERY_S;
    if (!e)
        return;
    e->queued = false;
    if (seen) {
        e->seen = *seen;
        e->failures = 0;
    } else {
        for (unsigned i = 0; i < e->failures && wait_s < MT_NAMES_SLOWEST_S; i++)
            wait_s *= 2;
        e->failures++;
    }
    e->due_ns = now_ns + (wait_s < MT_NAMES_SLOWEST_S ? wait_s : MT_NAMES_SLOWEST_S) * MT_NS_PER_S;
}
