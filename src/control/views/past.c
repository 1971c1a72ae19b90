/* SPDX-License-Identifier: Apache-2.0 */
/* See past.h. One transaction holds all of it and is never committed; the tables go with the connection. */
#include "control/views/past.h"

#include "base/clock.h"
#include "control/views/shadow.h"

#include <stdatomic.h>
#include <stdlib.h>

struct mt_past {
    struct mt_pg *pg;
    struct mt_replay replay;
    int64_t until_ns, events;
};

static atomic_int under_way;

/* Rows of these come from events that belong to no organisation, or to several. */
static uint64_t views_of_one(void)
{
    static const char *const none[] = {"users_view", "nodes_view", "cluster_view", "enrollment_tokens_view", "hostname_owners_view",
                                       "image_blocks_view", "quarantines_view", "ipv4_pool_view"};
    uint64_t all = UINT64_MAX;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        all &= ~(UINT64_C(1) << mt_proj_table(none[i]));
    return all;
}

static int begin(struct mt_past *p, const struct mt_replay_scope *scope, struct mt_err *err)
{
    mt_pg_timeout(p->pg, MT_PAST_MS);
    int r = mt_shadow_temp(p->pg, err);
    if (r < 0 || (r = mt_replay_init(&p->replay, p->pg, views_of_one(), err)) < 0)
        return r;
    p->replay.scope = *scope;
    return mt_pg_exec(p->pg, "BEGIN", err);
}

int mt_past_open(const struct mt_pg_conf *conf, const struct mt_replay_scope *scope, struct mt_past **ret, struct mt_err *err)
{
    struct mt_pg_conf own = *conf;
    if (atomic_fetch_add(&under_way, 1) >= MT_PAST_AT_ONCE) {
        (void)atomic_fetch_sub(&under_way, 1);
        return MT_FAIL(err, MT_E_CONFLICT, "%d looks into the past are under way", MT_PAST_AT_ONCE);
    }
    struct mt_past *p = calloc(1, sizeof *p);
    own.application_name = "moat history";
    int r = p ? mt_pg_connect(&own, &p->pg, err) : MT_FAIL(err, MT_E_NOMEM, "no memory for a look into the past");
    if (!p)
        (void)atomic_fetch_sub(&under_way, 1);
    else
        p->until_ns = mt_clock_mono() + MT_PAST_MS * MT_NS_PER_MS;
    if (r == 0 && (r = begin(p, scope, err)) == 0)
        *ret = p;
    else
        mt_past_close(p);
    return r;
}

int mt_past_to(struct mt_past *p, int64_t event_id, struct mt_err *err)
{
    while (p->replay.cursor < event_id) {
        int64_t left = (p->until_ns - mt_clock_mono()) / MT_NS_PER_MS;
        if (left <= 0)
            return MT_FAIL(err, MT_E_TIMEOUT, "event %lld of %lld was reached in %d s", (long long)p->replay.cursor, (long long)event_id,
                           MT_PAST_MS / 1000);
        mt_pg_timeout(p->pg, (int)left);
        int n = mt_replay_batch(&p->replay, event_id, false, err);
        if (n < 0)
            return n;
        p->events += n;
        if (p->events > MT_PAST_EVENTS)
            return MT_FAIL(err, MT_E_LIMIT, "more than %d events lie before that", MT_PAST_EVENTS);
    }
    /* The replay found its rows by key; what is read now wants plans of its own. */
    return mt_pg_exec(p->pg, "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_bitmapscan = on", err);
}

struct mt_pg *mt_past_pg(struct mt_past *p)
{
    return p->pg;
}

int64_t mt_past_events(const struct mt_past *p)
{
    return p->events;
}

void mt_past_close(struct mt_past *p)
{
    if (!p)
        return;
    mt_replay_done(&p->replay);
    mt_pg_free(p->pg);
    free(p);
    (void)atomic_fetch_sub(&under_way, 1);
}
