/* SPDX-License-Identifier: Apache-2.0 */
/* Two maps under one lock. */
#include "control/plans/sent.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/str.h"
#include "os/file.h"

#include <pthread.h>

struct sent {
    char fingerprint[65];
    int64_t cursor;
    int64_t compared_ns; /* monotonic: when the fingerprint was last that of the rows */
};

struct mt_plans {
    pthread_mutex_t mu;
    struct mt_map sent; /* who -> struct sent */
    struct mt_map seq;  /* instance id -> uint64_t */
};

struct mt_plans *mt_plans_new(void)
{
    struct mt_plans *p = calloc(1, sizeof *p);
    uint64_t seed[2];
    if (!p)
        return NULL;
    mt_random(seed, sizeof seed);
    pthread_mutex_init(&p->mu, NULL);
    mt_map_init(&p->sent, seed[0]);
    mt_map_init(&p->seq, seed[1]);
    return p;
}

static void free_values(struct mt_map *m)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(m, &pos, NULL, &v))
        free(v);
    mt_map_done(m);
}

void mt_plans_free(struct mt_plans *p)
{
    if (!p)
        return;
    free_values(&p->sent);
    free_values(&p->seq);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

bool mt_plans_unchanged(struct mt_plans *p, const char *who, const char *fingerprint, int64_t cursor)
{
    pthread_mutex_lock(&p->mu);
    struct sent *s = mt_map_get(&p->sent, who);
    bool same = s && MT_STREQ(s->fingerprint, fingerprint) && cursor >= s->cursor;
    if (same)
        s->compared_ns = mt_clock_mono();
    pthread_mutex_unlock(&p->mu);
    return same;
}

bool mt_plans_fresh(struct mt_plans *p, const char *who, int64_t cursor)
{
    pthread_mutex_lock(&p->mu);
    const struct sent *s = mt_map_get(&p->sent, who);
    bool fresh = s && s->cursor == cursor && mt_clock_mono() - s->compared_ns < MT_PLANS_FRESH_NS;
    pthread_mutex_unlock(&p->mu);
    return fresh;
}

void mt_plans_sent(struct mt_plans *p, const char *who, const char *fingerprint, int64_t cursor)
{
    pthread_mutex_lock(&p->mu);
    struct sent *s = mt_map_get(&p->sent, who);
    if (!s) {
        s = calloc(1, sizeof *s);
        if (s && mt_map_put(&p->sent, who, s) < 0) {
            free(s);
            s = NULL;
        }
    }
    if (s) { /* without memory the next poll is answered with the same content once more */
        snprintf(s->fingerprint, sizeof s->fingerprint, "%s", fingerprint);
        s->cursor = cursor;
        s->compared_ns = mt_clock_mono();
    }
    pthread_mutex_unlock(&p->mu);
}

bool mt_plans_seq(struct mt_plans *p, const char *id, uint64_t seq)
{
    bool newer = true;
    pthread_mutex_lock(&p->mu);
    uint64_t *v = mt_map_get(&p->seq, id);
    if (v && *v >= seq) {
        newer = false;
    } else if (v) {
        *v = seq;
    } else if ((v = malloc(sizeof *v)) != NULL) {
        *v = seq;
        if (mt_map_put(&p->seq, id, v) < 0)
            free(v);
    }
    pthread_mutex_unlock(&p->mu);
    return newer;
}

void mt_plans_seq_forget(struct mt_plans *p, const char *id)
{
    pthread_mutex_lock(&p->mu);
    free(mt_map_remove(&p->seq, id));
    pthread_mutex_unlock(&p->mu);
}

void mt_plans_seq_undo(struct mt_plans *p, const char *id)
{
    mt_plans_seq_forget(p, id); /* the agent sends it again; the view tells repeats from news */
}

void mt_plans_clear(struct mt_plans *p)
{
    pthread_mutex_lock(&p->mu);
    uint64_t sent = p->sent.seed, seq = p->seq.seed;
    free_values(&p->sent);
    free_values(&p->seq);
    mt_map_init(&p->sent, sent);
    mt_map_init(&p->seq, seq);
    pthread_mutex_unlock(&p->mu);
}
