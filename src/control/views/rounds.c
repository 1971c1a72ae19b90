/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting a run of events into rounds, inside which the projections may run type by type. Pure. */
#include "control/views/projections.h"
#include "control/views/rank.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

/* Which natural keys an event type frees or takes; one class per view that has such keys. */
enum name_class { NAMES_NONE = 0, NAMES_ORG, NAMES_PROJECT, NAMES_APP, NAMES_ENV, NAMES_ROUTE, NAMES_NODE, NAMES_MEMBER, NAMES_BUNDLE, NAMES_VOLUME, NAMES_ATTACHMENT, NAMES_REGISTRY, NAMES_DRAIN, NAMES_IPV4, NAMES_MAX };
enum name_use { USE_NONE = 0, USE_FREE, USE_TAKE, USE_BOTH };

static const struct {
    enum name_class names;
    enum name_use use;
    const char *part; /* payload field that tells one row of the aggregate from another */
    bool also_app;
    const char *also; /* payload field that names a row of another view */
} kinds[MT_EV_MAX] = {
    [MT_EV_ORG_CREATED] = {NAMES_ORG, USE_TAKE},
    [MT_EV_ORG_UPDATED] = {NAMES_ORG, USE_BOTH},
    [MT_EV_ORG_DELETED] = {NAMES_ORG, USE_FREE},
    [MT_EV_ORG_MEMBER_ADDED] = {NAMES_MEMBER, USE_TAKE},
    [MT_EV_ORG_MEMBER_REMOVED] = {NAMES_MEMBER, USE_FREE},
    [MT_EV_PROJECT_CREATED] = {NAMES_PROJECT, USE_TAKE},
    [MT_EV_PROJECT_UPDATED] = {NAMES_PROJECT, USE_BOTH},
    [MT_EV_PROJECT_DELETED] = {NAMES_PROJECT, USE_FREE},
    [MT_EV_APP_CREATED] = {NAMES_APP, USE_TAKE},
    [MT_EV_APP_UPDATED] = {NAMES_APP, USE_BOTH},
    [MT_EV_APP_DELETED] = {NAMES_APP, USE_FREE},
    [MT_EV_ENV_CREATED] = {NAMES_ENV, USE_TAKE},
    [MT_EV_ENV_UPDATED] = {NAMES_ENV, USE_BOTH},
    [MT_EV_ENV_DELETED] = {NAMES_ENV, USE_FREE},
    [MT_EV_ROUTE_CREATED] = {NAMES_ROUTE, USE_TAKE, .also = "hostname"},
    [MT_EV_ROUTE_DELETED] = {NAMES_ROUTE, USE_FREE, .also = "hostname"},
    [MT_EV_SECRET_BUNDLE_CREATED] = {NAMES_BUNDLE, USE_TAKE},
    [MT_EV_SECRET_BUNDLE_DELETED] = {NAMES_BUNDLE, USE_FREE},
    [MT_EV_VOLUME_CREATED] = {NAMES_VOLUME, USE_TAKE},
    [MT_EV_VOLUME_RENAMED] = {NAMES_VOLUME, USE_BOTH},
    [MT_EV_VOLUME_UPDATED] = {NAMES_VOLUME, USE_BOTH},
    [MT_EV_VOLUME_DELETED] = {NAMES_VOLUME, USE_FREE},
    [MT_EV_VOLUME_ATTACHMENT_CREATED] = {NAMES_ATTACHMENT, USE_TAKE},
    [MT_EV_VOLUME_ATTACHMENT_REPLACED] = {NAMES_ATTACHMENT, USE_BOTH},
    [MT_EV_VOLUME_ATTACHMENT_DELETED] = {NAMES_ATTACHMENT, USE_FREE},
    [MT_EV_REGISTRY_CREDENTIAL_SET] = {NAMES_REGISTRY, USE_TAKE},
    [MT_EV_REGISTRY_CREDENTIAL_DELETED] = {NAMES_REGISTRY, USE_FREE},
    [MT_EV_LOG_DRAIN_CREATED] = {NAMES_DRAIN, USE_TAKE},
    [MT_EV_LOG_DRAIN_DELETED] = {NAMES_DRAIN, USE_FREE},
    [MT_EV_ENV_IPV4_ENABLED] = {NAMES_IPV4, USE_TAKE},
    [MT_EV_ENV_IPV4_DISABLED] = {NAMES_IPV4, USE_FREE},
    [MT_EV_NODE_ENROLLED] = {NAMES_NODE, USE_TAKE},
    [MT_EV_NODE_REMOVED] = {NAMES_NODE, USE_FREE},
    [MT_EV_RELEASE_CREATED] = {.also_app = true},
    [MT_EV_ENV_DESIRED_RELEASE_SET] = {.part = "process_type"},
    [MT_EV_ENV_DESIRED_RELEASE_CLEARED] = {.part = "process_type"},
    [MT_EV_ENV_SCHEDULING_CHANGED] = {.part = "process_type"},
    [MT_EV_CLUSTER_CONFIG_SET] = {.part = "key"},
};

uint64_t mt_proj_hash(const char *a, const char *b)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a; an accidental match only costs a round */
    for (; *a; a++)
        h = (h ^ (unsigned char)*a) * 0x100000001b3u;
    if (b) {
        h = (h ^ 0x1f) * 0x100000001b3u;
        for (; *b; b++)
            h = (h ^ (unsigned char)*b) * 0x100000001b3u;
    }
    h ^= h >> 29;
    return h ? h : 1;
}

const char *mt_proj_part_field(enum mt_ev ev)
{
    MT_ASSERT(ev < MT_EV_MAX);
    return kinds[ev].part;
}

const char *mt_proj_also_field(enum mt_ev ev)
{
    MT_ASSERT(ev < MT_EV_MAX);
    return kinds[ev].also;
}

void mt_proj_keys_from(enum mt_ev ev, const char *aggregate_id, const char *app_id, const char *part, const char *also,
                       struct mt_proj_keys *ret)
{
    MT_ASSERT(ev < MT_EV_MAX);
    *ret = (struct mt_proj_keys){.row = mt_proj_hash(aggregate_id, NULL)};
    if (kinds[ev].part)
        ret->part = mt_proj_hash(aggregate_id, part ? part : "");
    if (kinds[ev].also_app && app_id)
        ret->also = mt_proj_hash(app_id, NULL);
    else if (kinds[ev].also && also)
        ret->also = mt_proj_hash(kinds[ev].also, also);
}

static const char *text_of(const json_t *payload, const char *field)
{
    return field ? json_string_value(json_object_get(payload, field)) : NULL;
}

void mt_proj_keys_of(enum mt_ev ev, const char *aggregate_id, const char *app_id, const json_t *payload,
                     struct mt_proj_keys *ret)
{
    MT_ASSERT(ev < MT_EV_MAX);
    mt_proj_keys_from(ev, aggregate_id, app_id, text_of(payload, kinds[ev].part), text_of(payload, kinds[ev].also), ret);
}

/* Highest rank that touched a row in this round; `wide` counts only events that touch all rows of the aggregate. */
struct cell {
    uint64_t key;
    int round, any, wide;
};

static struct cell *cell_of(struct cell *cells, size_t mask, uint64_t key, int round)
{
    for (size_t i = key;; i++) {
        struct cell *c = &cells[i & mask];
        if (c->key && c->key != key)
            continue;
        if (!c->key || c->round != round)
            *c = (struct cell){.key = key, .round = round, .any = -1, .wide = -1};
        return c;
    }
}

struct names_seen {
    bool taken[NAMES_MAX], both[NAMES_MAX];
};

/* False when @ev must not join the round; else it is noted. */
static bool names_fit(struct names_seen *seen, enum mt_ev ev)
{
    enum name_class c = kinds[ev].names;
    enum name_use use = kinds[ev].use;
    if (use == USE_NONE)
        return true;
    if (seen->both[c] || (seen->taken[c] && use != USE_TAKE))
        return false;
    seen->taken[c] |= use != USE_FREE;
    seen->both[c] |= use == USE_BOTH;
    return true;
}

static bool rows_fit(struct cell *cells, size_t mask, const struct mt_proj_event *e, int rank, int round)
{
    struct cell *row = cell_of(cells, mask, e->keys.row, round);
    struct cell *also = e->keys.also ? cell_of(cells, mask, e->keys.also, round) : NULL;
    if (also && rank < also->any)
        return false;
    if (e->keys.part) {
        struct cell *part = cell_of(cells, mask, e->keys.part, round);
        if (rank <= row->wide || rank <= part->any)
            return false;
        part->any = rank;
    } else {
        if (rank <= row->any)
            return false;
        row->wide = rank;
    }
    row->any = rank > row->any ? rank : row->any;
    if (also)
        also->any = rank;
    return true;
}

int mt_proj_rounds(const struct mt_proj_event *events, int n, struct mt_proj_round *ret, struct mt_err *err)
{
    size_t cap = 64;
    while (cap < (size_t)n * 6)
        cap *= 2;
    struct cell *cells = calloc(cap, sizeof *cells);
    if (!cells)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %d events", n);
    struct names_seen seen = {0};
    int rounds = 0;
    for (int i = 0; i < n; i++) {
        int rank = mt_proj_rank(events[i].ev);
        MT_ASSERT(rank >= 0);
        if (rounds == 0 || !names_fit(&seen, events[i].ev) || !rows_fit(cells, cap - 1, &events[i], rank, rounds)) {
            ret[rounds++] = (struct mt_proj_round){.first = i};
            memset(&seen, 0, sizeof seen);
            (void)names_fit(&seen, events[i].ev);
            (void)rows_fit(cells, cap - 1, &events[i], rank, rounds);
        }
        ret[rounds - 1].count++;
        ret[rounds - 1].types |= MT_EV_BIT(events[i].ev);
    }
    free(cells);
    return rounds;
}

/* ---- waves ---- */

/* A place in a replay: wave, then rank inside it. */
static int64_t place(int wave, int rank)
{
    return (int64_t)wave << 32 | (int64_t)rank;
}

struct mark {
    uint64_t key;
    int64_t any, wide; /* place of the last event that touched the row, and all rows of the aggregate; -1 none */
};

static struct mark *mark_of(struct mark *marks, size_t mask, uint64_t key)
{
    for (size_t i = key;; i++) {
        struct mark *m = &marks[i & mask];
        if (!m->key)
            *m = (struct mark){.key = key, .any = -1, .wide = -1};
        if (m->key == key)
            return m;
    }
}

/* Earliest wave in which @rank comes after place @last (or at it, with @or_equal). */
static int wave_after(int64_t last, int rank, bool or_equal)
{
    if (last < 0)
        return 0;
    int wave = (int)(last >> 32), had = (int)(last & INT32_MAX);
    return rank > had || (or_equal && rank == had) ? wave : wave + 1;
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int wave_of(struct mark *marks, size_t mask, const struct mt_proj_event *e, int rank)
{
    struct mark *row = mark_of(marks, mask, e->keys.row);
    struct mark *part = e->keys.part ? mark_of(marks, mask, e->keys.part) : NULL;
    struct mark *also = e->keys.also ? mark_of(marks, mask, e->keys.also) : NULL;
    int wave = part ? larger(wave_after(row->wide, rank, false), wave_after(part->any, rank, false))
                    : wave_after(row->any, rank, false);
    if (also)
        wave = larger(wave, wave_after(also->any, rank, true));
    int64_t at = place(wave, rank);
    if (part)
        part->any = at;
    else
        row->wide = at;
    row->any = later(row->any, at);
    if (also)
        also->any = later(also->any, at);
    return wave;
}

int mt_proj_waves(const struct mt_proj_event *events, int n, int32_t *ret_wave, struct mt_err *err)
{
    size_t cap = 64;
    while (cap < (size_t)n * 6)
        cap *= 2;
    struct mark *marks = calloc(cap, sizeof *marks);
    if (!marks)
        return MT_FAIL(err, MT_E_NOMEM, "no memory for %d events", n);
    int waves = 0;
    for (int i = 0; i < n; i++) {
        int rank = mt_proj_rank(events[i].ev);
        MT_ASSERT(rank >= 0);
        ret_wave[i] = wave_of(marks, cap - 1, &events[i], rank);
        waves = larger(waves, ret_wave[i] + 1);
    }
    free(marks);
    return waves;
}
