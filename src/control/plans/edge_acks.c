/* SPDX-License-Identifier: Apache-2.0 */
/* The newest acknowledgement of each edge: a small table under a lock. */
#include "control/plans/edge_acks.h"

#include "base/clock.h"
#include "base/str.h"

#include <pthread.h>

#define EDGES_MAX 256
#define FRESH_NS (30 * MT_NS_PER_S)

struct mt_edges {
    pthread_mutex_t mu;
    size_t n;
    struct {
        char node_id[MT_ID_SIZE];
        int64_t revision, at_ns;
    } v[EDGES_MAX];
};

struct mt_edges *mt_edges_new(void)
{
    struct mt_edges *e = calloc(1, sizeof *e);
    if (e)
        pthread_mutex_init(&e->mu, NULL);
    return e;
}

void mt_edges_free(struct mt_edges *e)
{
    if (!e)
        return;
    pthread_mutex_destroy(&e->mu);
    free(e);
}

void mt_edges_note(struct mt_edges *e, const char *node_id, int64_t revision, int64_t now_ns)
{
    pthread_mutex_lock(&e->mu);
    size_t i = 0, oldest = 0;
    for (; i < e->n && !MT_STREQ(e->v[i].node_id, node_id); i++)
        if (e->v[i].at_ns < e->v[oldest].at_ns)
            oldest = i;
    if (i == e->n) {
        if (e->n < EDGES_MAX)
            e->n++;
        else
            i = oldest; /* the table is full of edges: the one silent longest makes room */
        snprintf(e->v[i].node_id, sizeof e->v[i].node_id, "%s", node_id);
    }
    e->v[i].revision = revision;
    e->v[i].at_ns = now_ns;
    pthread_mutex_unlock(&e->mu);
}

int64_t mt_edges_best(struct mt_edges *e, int64_t now_ns)
{
    int64_t best = 0;
    pthread_mutex_lock(&e->mu);
    for (size_t i = 0; i < e->n; i++)
        if (now_ns - e->v[i].at_ns < FRESH_NS && e->v[i].revision > best)
            best = e->v[i].revision;
    pthread_mutex_unlock(&e->mu);
    return best;
}

bool mt_edges_all_at(struct mt_edges *e, const char *const *node_ids, size_t n, int64_t revision)
{
    size_t found = 0;
    pthread_mutex_lock(&e->mu);
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < e->n; i++)
            if (MT_STREQ(e->v[i].node_id, node_ids[k]) && e->v[i].revision >= revision)
                found++;
    pthread_mutex_unlock(&e->mu);
    return n > 0 && found == n;
}

void mt_edges_clear(struct mt_edges *e)
{
    pthread_mutex_lock(&e->mu);
    e->n = 0;
    pthread_mutex_unlock(&e->mu);
}
