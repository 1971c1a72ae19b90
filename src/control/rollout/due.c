/* SPDX-License-Identifier: Apache-2.0 */
/* Three maps of environments. */
#include "control/rollout/due.h"

#include <stdlib.h>

static char present; /* value of a set */

void mt_due_init(struct mt_due *d, uint64_t seed_a, uint64_t seed_b)
{
    *d = (struct mt_due){0};
    mt_map_init(&d->dirty, seed_a);
    mt_map_init(&d->wake, seed_b);
    mt_map_init(&d->waiting, seed_a ^ seed_b);
}

void mt_due_done(struct mt_due *d)
{
    size_t pos = 0;
    void *v;
    while (mt_map_next(&d->wake, &pos, NULL, &v))
        free(v);
    mt_map_done(&d->wake);
    mt_map_done(&d->waiting);
    mt_map_done(&d->dirty);
}

void mt_due_mark(struct mt_due *d, const char *env_id)
{
    if (mt_map_put(&d->dirty, env_id, &present) < 0)
        d->all = true;
}

static void set_wake(struct mt_due *d, const char *env_id, int64_t at_ms)
{
    int64_t *v = mt_map_get(&d->wake, env_id);
    if (at_ms == INT64_MAX) {
        if (v)
            free(mt_map_remove(&d->wake, env_id));
        return;
    }
    if (v) {
        *v = at_ms;
        return;
    }
    v = malloc(sizeof *v);
    if (!v)
        return; /* the pass over all comes anyway */
    *v = at_ms;
    if (mt_map_put(&d->wake, env_id, v) < 0)
        free(v);
}

void mt_due_said(struct mt_due *d, const char *env_id, int64_t wake_ms, bool waits_for_others)
{
    set_wake(d, env_id, wake_ms);
    if (!waits_for_others)
        (void)mt_map_remove(&d->waiting, env_id);
    else if (mt_map_put(&d->waiting, env_id, &present) < 0)
        d->all = true;
}

int64_t mt_due_room_ns(const struct mt_due *d, int64_t mono_ns, int64_t pause_ns)
{
    if (!d->room_news || d->waiting.count == 0)
        return INT64_MAX;
    int64_t left = d->room_ns + pause_ns - mono_ns;
    return left > 0 ? left : 0;
}

bool mt_due_gather(struct mt_due *d, int64_t now_ms, int64_t mono_ns, int64_t pause_ns)
{
    size_t pos = 0;
    const char *id;
    void *v;
    while (mt_map_next(&d->wake, &pos, &id, &v)) {
        const int64_t *at = v;
        if (*at <= now_ms) {
            mt_due_mark(d, id);
            free(mt_map_remove(&d->wake, id));
        }
    }
    if (mt_due_room_ns(d, mono_ns, pause_ns) == 0) {
        d->room_news = false;
        d->room_ns = mono_ns;
        pos = 0;
        while (mt_map_next(&d->waiting, &pos, &id, &v))
            mt_due_mark(d, id);
    }
    return d->all || d->dirty.count > 0;
}

void mt_due_taken(struct mt_due *d)
{
    uint64_t seed = d->dirty.seed;
    if (d->all) { /* one that was deleted does not say so again */
        uint64_t waiting = d->waiting.seed;
        mt_map_done(&d->waiting);
        mt_map_init(&d->waiting, waiting);
    }
    mt_map_done(&d->dirty);
    mt_map_init(&d->dirty, seed);
    d->all = false;
}

int64_t mt_due_next_ms(const struct mt_due *d)
{
    size_t pos = 0;
    void *v;
    int64_t best = INT64_MAX;
    while (mt_map_next(&d->wake, &pos, NULL, &v))
        if (*(const int64_t *)v < best)
            best = *(const int64_t *)v;
    return best;
}
