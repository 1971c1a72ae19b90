/* SPDX-License-Identifier: Apache-2.0 */
#include "control/names/proxy_watch.h"

#include "base/clock.h"
#include "base/str.h"
#include "model/ids.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define ROWS 4096 /* pairs of edge and route; what does not fit is not watched */

struct row {
    char edge[MT_ID_SIZE], route[MT_ID_SIZE];
    uint64_t connections, early; /* where the window began */
    int64_t since_ns;
    bool suspect;
};

struct mt_proxy_watch {
    pthread_mutex_t mu;
    struct row *v[ROWS];
    size_t n;
};

struct mt_proxy_watch *mt_proxy_watch_new(void)
{
    struct mt_proxy_watch *w = calloc(1, sizeof *w);
    if (w)
        (void)pthread_mutex_init(&w->mu, NULL);
    return w;
}

void mt_proxy_watch_free(struct mt_proxy_watch *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n; i++)
        free(w->v[i]);
    (void)pthread_mutex_destroy(&w->mu);
    free(w);
}

static struct row *find(struct mt_proxy_watch *w, const char *edge, const char *route)
{
    struct row *old = NULL;
    for (size_t i = 0; i < w->n; i++) {
        if (MT_STREQ(w->v[i]->route, route) && MT_STREQ(w->v[i]->edge, edge))
            return w->v[i];
        if (!old || w->v[i]->since_ns < old->since_ns)
            old = w->v[i];
    }
    if (w->n < ROWS) {
        struct row *r = malloc(sizeof *r);
        if (!r)
            return NULL;
        old = w->v[w->n++] = r;
    }
    *old = (struct row){0}; /* the pair that nobody reports for longest made room */
    (void)snprintf(old->edge, sizeof old->edge, "%s", edge);
    (void)snprintf(old->route, sizeof old->route, "%s", route);
    return old;
}

void mt_proxy_watch_note(struct mt_proxy_watch *w, const char *edge, const char *route_id, uint64_t connections, uint64_t early, int64_t now_ns)
{
    (void)pthread_mutex_lock(&w->mu);
    struct row *r = find(w, edge, route_id);
    if (r && (r->since_ns == 0 || connections < r->connections || early < r->early)) {
        r->connections = connections;
        r->early = early;
        r->since_ns = now_ns;
    } else if (r && now_ns - r->since_ns >= MT_PROXY_WINDOW_S * MT_NS_PER_S) {
        uint64_t fresh = connections - r->connections, died = early - r->early;
        if (fresh > 0) /* a minute without says nothing */
            r->suspect = died * 2 > fresh;
        r->connections = connections;
        r->early = early;
        r->since_ns = now_ns;
    }
    (void)pthread_mutex_unlock(&w->mu);
}

bool mt_proxy_watch_suspect(struct mt_proxy_watch *w, const char *route_id)
{
    bool yes = false;
    (void)pthread_mutex_lock(&w->mu);
    for (size_t i = 0; i < w->n && !yes; i++)
        yes = w->v[i]->suspect && MT_STREQ(w->v[i]->route, route_id);
    (void)pthread_mutex_unlock(&w->mu);
    return yes;
}
