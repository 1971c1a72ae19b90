/* SPDX-License-Identifier: Apache-2.0 */
/* Placement over trees of maxima. A key is one number, (score + 1) above the inverse of the node's rank by id, so that the
 * greatest key is the highest score and, among equals, the smallest id. 0: the node takes nothing of this shape. */
#include "control/scheduler/index.h"

#include "control/scheduler/place_part.h"

#include "base/assert.h"
#include "base/err.h"
#include "base/str.h"

#include <stdlib.h>

#define RANK_BITS 18U
_Static_assert(MT_PLACE_INDEX_NODES == 1U << RANK_BITS, "a rank fits its bits");

struct shape {
    struct mt_place_size size;
    char *words; /* architectures and selector, each with its NUL; two lists with an empty word between */
    size_t n_words;
    uint32_t *tree; /* [leaves, 2 x leaves): nodes by position; [1]: the best of all */
    uint64_t seen;  /* changes up to here are in the tree */
    uint64_t used;
};

struct holder { /* a node that holds something of the group */
    uint32_t at, n;
};

struct mt_place_index {
    struct mt_place_node *nodes;
    size_t n;
    uint32_t leaves;      /* power of two >= n */
    uint32_t *node_at;    /* position -> node */
    uint32_t *position;   /* node -> position */
    uint32_t *by_rank;    /* rank by id -> node */
    uint32_t *inverse;    /* node -> (1 << RANK_BITS) - 1 - rank */
    uint32_t *zone_begin; /* position -> first position of its zone */
    uint32_t *zone_end;   /* position -> first position after its zone */
    uint32_t *changes;    /* ring of node indices */
    uint64_t n_changes;
    size_t ring;
    struct shape shapes[MT_PLACE_INDEX_SHAPES];
    size_t n_shapes;
    uint64_t clock;
    uint32_t *on_node; /* of the group; all 0 between groups */
    struct holder *holders; /* by position; nodes with 0 stay until the group is done */
    size_t n_holders;
    size_t bytes;
};

/* ---- building ---- */

static int by_zone(const void *a, const void *b, void *nodes)
{
    const struct mt_place_node *all = nodes, *x = &all[*(const uint32_t *)a], *y = &all[*(const uint32_t *)b];
    int d = strcmp(mt_place_zone(x), mt_place_zone(y));

    return d ? d : strcmp(x->node_id, y->node_id);
}

static int by_id(const void *a, const void *b, void *nodes)
{
    const struct mt_place_node *all = nodes;

    return strcmp(all[*(const uint32_t *)a].node_id, all[*(const uint32_t *)b].node_id);
}

static uint32_t *numbers(struct mt_place_index *ix, size_t n)
{
    ix->bytes += (n + 1) * sizeof(uint32_t);
    return calloc(n + 1, sizeof(uint32_t));
}

int mt_place_index_new(struct mt_place_node *nodes, size_t n, struct mt_place_index **ret, struct mt_err *err)
{
    struct mt_place_index *ix = calloc(1, sizeof *ix);

    if (!ix)
        return MT_FAIL(err, MT_E_NOMEM, "index of %zu nodes", n);
    ix->nodes = nodes;
    ix->n = n;
    ix->bytes = sizeof *ix;
    ix->on_node = numbers(ix, n);
    if (n > MT_PLACE_INDEX_NODES && ix->on_node) {
        *ret = ix;
        return 0;
    }
    for (ix->leaves = 1; ix->leaves < n;)
        ix->leaves *= 2;
    ix->ring = n / 2 + 16;
    ix->node_at = numbers(ix, n);
    ix->position = numbers(ix, n);
    ix->by_rank = numbers(ix, n);
    ix->inverse = numbers(ix, n);
    ix->zone_begin = numbers(ix, n);
    ix->zone_end = numbers(ix, n);
    ix->changes = numbers(ix, ix->ring);
    ix->holders = calloc(n + 1, sizeof *ix->holders);
    ix->bytes += (n + 1) * sizeof *ix->holders;
    if (!ix->node_at || !ix->position || !ix->inverse || !ix->zone_begin || !ix->zone_end || !ix->changes || !ix->on_node ||
        !ix->holders || !ix->by_rank) {
        mt_place_index_free(ix);
        return MT_FAIL(err, MT_E_NOMEM, "index of %zu nodes", n);
    }
    for (uint32_t i = 0; i < n; i++)
        ix->by_rank[i] = ix->node_at[i] = i;
    qsort_r(ix->by_rank, n, sizeof *ix->by_rank, by_id, nodes);
    for (uint32_t i = 0; i < n; i++)
        ix->inverse[ix->by_rank[i]] = MT_PLACE_INDEX_NODES - 1 - i;
    qsort_r(ix->node_at, n, sizeof *ix->node_at, by_zone, nodes);
    for (uint32_t i = 0, begin = 0; i < n; i++) {
        ix->position[ix->node_at[i]] = i;
        if (i > begin && !MT_STREQ(mt_place_zone(&nodes[ix->node_at[i]]), mt_place_zone(&nodes[ix->node_at[begin]])))
            begin = i;
        ix->zone_begin[i] = begin;
    }
    for (size_t i = n; i-- > 0;)
        ix->zone_end[i] = i + 1 < n && ix->zone_begin[i + 1] == ix->zone_begin[i] ? ix->zone_end[i + 1] : (uint32_t)i + 1;
    *ret = ix;
    return 0;
}

static void drop_shape(struct mt_place_index *ix, struct shape *s)
{
    if (s->tree)
        ix->bytes -= 2 * (size_t)ix->leaves * sizeof *s->tree + s->n_words;
    free(s->words);
    free(s->tree);
    *s = (struct shape){0};
}

void mt_place_index_free(struct mt_place_index *ix)
{
    if (!ix)
        return;
    for (size_t i = 0; i < ix->n_shapes; i++)
        drop_shape(ix, &ix->shapes[i]);
    free(ix->node_at);
    free(ix->position);
    free(ix->by_rank);
    free(ix->inverse);
    free(ix->zone_begin);
    free(ix->zone_end);
    free(ix->changes);
    free(ix->on_node);
    free(ix->holders);
    free(ix);
}

size_t mt_place_index_bytes(const struct mt_place_index *ix)
{
    return ix->bytes;
}

void mt_place_index_changed(struct mt_place_index *ix, size_t node)
{
    if (ix->changes)
        ix->changes[ix->n_changes++ % ix->ring] = (uint32_t)node;
}

/* ---- the group ---- */

void mt_place_index_group(struct mt_place_index *ix, size_t node, int by)
{
    ix->on_node[node] += (uint32_t)by;
    if (!ix->holders)
        return; /* too many nodes for trees */
    uint32_t at = ix->position[node];
    size_t k = ix->n_holders;
    while (k > 0 && ix->holders[k - 1].at > at)
        k--;
    if (k > 0 && ix->holders[k - 1].at == at) {
        ix->holders[k - 1].n = ix->on_node[node];
        return;
    }
    memmove(&ix->holders[k + 1], &ix->holders[k], (ix->n_holders - k) * sizeof *ix->holders);
    ix->holders[k] = (struct holder){at, ix->on_node[node]};
    ix->n_holders++;
}

void mt_place_index_group_done(struct mt_place_index *ix)
{
    if (!ix->holders)
        memset(ix->on_node, 0, ix->n * sizeof *ix->on_node);
    for (size_t i = 0; ix->holders && i < ix->n_holders; i++)
        ix->on_node[ix->node_at[ix->holders[i].at]] = 0;
    ix->n_holders = 0;
}

/* ---- shapes ---- */

/* Walk the words of a request: with @out copy them, else compare with @with. Returns the length, or SIZE_MAX: other words. */
static size_t words(const struct mt_place_request *r, char *out, const char *with, size_t n_with)
{
    size_t n = 0;

    for (size_t i = 0; i < r->n_archs + 1 + 2 * r->n_selector; i++) {
        size_t k = i > r->n_archs ? i - r->n_archs - 1 : 0;
        const char *w = i < r->n_archs ? r->archs[i] : i == r->n_archs ? "" : k % 2 ? r->selector[k / 2].value : r->selector[k / 2].key;
        size_t len = strlen(w) + 1;
        if (with && (len > n_with - n || memcmp(with + n, w, len) != 0))
            return SIZE_MAX;
        if (out)
            memcpy(out + n, w, len);
        n += len;
    }
    return with && n != n_with ? SIZE_MAX : n;
}

static uint32_t leaf(const struct mt_place_index *ix, uint32_t node, const struct mt_place_request *r)
{
    int64_t base = mt_place_base(&ix->nodes[node], r);

    return base < 0 ? 0 : ((uint32_t)base + 1) << RANK_BITS | ix->inverse[node];
}

static uint32_t greater(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void build(const struct mt_place_index *ix, struct shape *s, const struct mt_place_request *r)
{
    for (uint32_t i = 0; i < ix->n; i++)
        s->tree[ix->leaves + i] = leaf(ix, ix->node_at[i], r);
    for (uint32_t i = ix->leaves - 1; i > 0; i--)
        s->tree[i] = greater(s->tree[2 * i], s->tree[2 * i + 1]);
    s->seen = ix->n_changes;
}

static void catch_up(const struct mt_place_index *ix, struct shape *s, const struct mt_place_request *r)
{
    if (ix->n_changes - s->seen > ix->ring) {
        build(ix, s, r);
        return;
    }
    for (; s->seen < ix->n_changes; s->seen++) {
        uint32_t node = ix->changes[s->seen % ix->ring], at = ix->leaves + ix->position[node], key = leaf(ix, node, r);
        if (s->tree[at] == key)
            continue;
        s->tree[at] = key;
        for (at /= 2; at > 0; at /= 2) {
            uint32_t best = greater(s->tree[2 * at], s->tree[2 * at + 1]);
            if (s->tree[at] == best)
                break;
            s->tree[at] = best;
        }
    }
}

/* The tree for a request, up to date; NULL when memory is out. @r has no volumes and nothing to avoid. */
static const struct shape *shape_for(struct mt_place_index *ix, const struct mt_place_request *r)
{
    struct shape *s = NULL, *oldest = &ix->shapes[0];

    ix->clock++;
    for (size_t i = 0; i < ix->n_shapes && !s; i++) {
        struct shape *x = &ix->shapes[i];
        if (x->size.memory_bytes == r->size.memory_bytes && x->size.cpu_millis == r->size.cpu_millis &&
            x->size.disk_bytes == r->size.disk_bytes && words(r, NULL, x->words, x->n_words) != SIZE_MAX)
            s = x;
        oldest = x->used < oldest->used ? x : oldest;
    }
    if (!s) {
        struct shape fresh = {.size = r->size, .n_words = words(r, NULL, NULL, 0)};
        fresh.words = malloc(fresh.n_words);
        fresh.tree = calloc(2 * (size_t)ix->leaves, sizeof *fresh.tree);
        if (!fresh.words || !fresh.tree) {
            free(fresh.words);
            free(fresh.tree);
            return NULL;
        }
        (void)words(r, fresh.words, NULL, 0);
        s = ix->n_shapes < MT_PLACE_INDEX_SHAPES ? &ix->shapes[ix->n_shapes++] : oldest;
        drop_shape(ix, s);
        *s = fresh;
        ix->bytes += 2 * (size_t)ix->leaves * sizeof *s->tree + s->n_words;
        build(ix, s, r);
    } else {
        catch_up(ix, s, r);
    }
    s->used = ix->clock;
    return s;
}

/* ---- finding ---- */

struct search {
    const struct mt_place_index *ix;
    const struct shape *s;
    uint32_t avoid; /* position, UINT32_MAX: none */
    uint32_t best;  /* key with the spread in it */
};

static void better(struct search *q, uint32_t key, int64_t spread)
{
    if (key)
        q->best = greater(q->best, key + ((uint32_t)spread << RANK_BITS));
}

static void range(struct search *q, uint32_t lo, uint32_t hi, int64_t spread)
{
    uint32_t best = 0;

    if (lo <= q->avoid && q->avoid < hi) {
        range(q, lo, q->avoid, spread);
        lo = q->avoid + 1;
    }
    for (uint32_t l = lo + q->ix->leaves, r = hi + q->ix->leaves; l < r; l /= 2, r /= 2) {
        if (l & 1)
            best = greater(best, q->s->tree[l++]);
        if (r & 1)
            best = greater(best, q->s->tree[--r]);
    }
    better(q, best, spread);
}

/* Ranges that hold nothing of the group, zone by zone, and the nodes that do. */
static void search(struct search *q)
{
    const struct mt_place_index *ix = q->ix;
    uint32_t done = 0;

    for (size_t i = 0, k; i < ix->n_holders; i = k) {
        uint32_t begin = ix->zone_begin[ix->holders[i].at], end = ix->zone_end[ix->holders[i].at];
        uint64_t in_zone = 0;
        range(q, done, begin, mt_place_spread(0, 0));
        done = begin;
        for (k = i; k < ix->n_holders && ix->holders[k].at < end; k++)
            in_zone += ix->holders[k].n;
        for (size_t h = i; h < k; h++) {
            uint32_t at = ix->holders[h].at;
            range(q, done, at, mt_place_spread(0, in_zone));
            range(q, at, at + 1, mt_place_spread(ix->holders[h].n, in_zone));
            done = at + 1;
        }
        range(q, done, end, mt_place_spread(0, in_zone));
        done = end;
    }
    range(q, done, (uint32_t)ix->n, mt_place_spread(0, 0));
}

static uint32_t position_of(const struct mt_place_index *ix, const char *node_id)
{
    for (size_t i = 0; node_id && i < ix->n; i++)
        if (MT_STREQ(ix->nodes[i].node_id, node_id))
            return ix->position[i];
    return UINT32_MAX;
}

void mt_place_index_find(struct mt_place_index *ix, const struct mt_place_request *request, struct mt_place_decision *ret)
{
    struct mt_place_request r = *request;

    r.group_on_node = ix->on_node;
    *ret = (struct mt_place_decision){.outcome = MT_PLACE_BLOCKED, .node = MT_PLACE_NONE, .score = -1};
    if ((ret->reason = mt_place_gate(&r, ret->detail)) != MT_REASON_NONE)
        return;
    if (r.n_volumes == 0 && ix->holders && ix->n > 0) { /* a volume names its node, no tree is needed for one */
        struct search q = {.ix = ix, .avoid = position_of(ix, r.avoid_node_id)};
        r.avoid_node_id = NULL;
        if ((q.s = shape_for(ix, &r))) {
            search(&q);
            if (q.best) {
                ret->score = (int64_t)(q.best >> RANK_BITS) - 1;
                ret->outcome = MT_PLACE_OK;
                ret->node = ix->by_rank[MT_PLACE_INDEX_NODES - 1 - (q.best & (MT_PLACE_INDEX_NODES - 1))];
                return;
            }
        }
        r.avoid_node_id = request->avoid_node_id;
    }
    mt_place(ix->nodes, ix->n, &r, ret); /* none: it counts what each filter took away */
}
