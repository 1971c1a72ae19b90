/* SPDX-License-Identifier: Apache-2.0 */
/* Placement: gates, filters in order, integer score. Pure. */
#include "control/scheduler/place.h"

#include "control/scheduler/place_part.h"

#include "base/assert.h"
#include "base/num.h"
#include "base/str.h"

static const char *const admin_names[MT_NODE_ADMIN_MAX] = {
    [MT_NODE_ENROLLED] = "enrolled", [MT_NODE_PENDING_APPROVAL] = "pending_approval", [MT_NODE_ACTIVE] = "active",
    [MT_NODE_CORDONED] = "cordoned", [MT_NODE_DRAINING] = "draining",                 [MT_NODE_DISABLED] = "disabled",
    [MT_NODE_REMOVED] = "removed",
};

static const char *const health_names[MT_NODE_HEALTH_MAX] = {
    [MT_NODE_READY] = "ready",     [MT_NODE_DEGRADED] = "degraded", [MT_NODE_SUSPECT] = "suspect",
    [MT_NODE_OFFLINE] = "offline", [MT_NODE_LOST] = "lost",
};

const char *mt_node_admin_name(enum mt_node_admin admin)
{
    MT_ASSERT((unsigned)admin < MT_NODE_ADMIN_MAX);
    return admin_names[admin];
}

const char *mt_node_health_name(enum mt_node_health health)
{
    MT_ASSERT((unsigned)health < MT_NODE_HEALTH_MAX);
    return health_names[health];
}

bool mt_node_admin_parse(const char *word, enum mt_node_admin *ret)
{
    for (unsigned i = 0; word && i < MT_NODE_ADMIN_MAX; i++)
        if (MT_STREQ(admin_names[i], word)) {
            *ret = (enum mt_node_admin)i;
            return true;
        }
    return false;
}

bool mt_node_health_parse(const char *word, enum mt_node_health *ret)
{
    for (unsigned i = 0; word && i < MT_NODE_HEALTH_MAX; i++)
        if (MT_STREQ(health_names[i], word)) {
            *ret = (enum mt_node_health)i;
            return true;
        }
    return false;
}

bool mt_node_eligible(const struct mt_place_node *node)
{
    return node->admin == MT_NODE_ACTIVE && node->health == MT_NODE_READY;
}

bool mt_node_gone(const struct mt_place_node *node)
{
    return node->health == MT_NODE_OFFLINE || node->health == MT_NODE_LOST || node->admin == MT_NODE_DISABLED ||
           node->admin == MT_NODE_REMOVED;
}

/* The filters in the order of the specification; a node falls to the first that refuses it. */
enum filter { F_ELIGIBLE = 0, F_ARCH, F_HOME, F_IN_USE, F_MEMORY, F_DISK, F_CPU, F_LABEL, F_AVOID, F_MAX };

static const struct {
    enum mt_reason reason;
    const char *word; /* in the count of nodes */
} filters[F_MAX] = {
    [F_ELIGIBLE] = {MT_REASON_NO_NODES_ACTIVE, "not ready"},
    [F_ARCH] = {MT_REASON_NO_MATCHING_ARCH, "architecture"},
    [F_HOME] = {MT_REASON_VOLUME_HOME_NODE_OFFLINE, "not the volume's home"},
    [F_IN_USE] = {MT_REASON_VOLUME_IN_USE, "volume in use"},
    [F_MEMORY] = {MT_REASON_NO_CAPACITY_MEMORY, "memory"},
    [F_DISK] = {MT_REASON_NO_CAPACITY_DISK, "disk"},
    [F_CPU] = {MT_REASON_NO_CAPACITY_CPU, "cpu"},
    [F_LABEL] = {MT_REASON_NO_MATCHING_LABEL, "labels"},
    [F_AVOID] = {MT_REASON_NO_NODES_ACTIVE, "avoided"},
};

static bool fits(uint64_t used, uint64_t more, uint64_t limit)
{
    return used <= limit && more <= limit - used;
}

static bool has_labels(const struct mt_place_node *n, const struct mt_place_request *r)
{
    for (size_t i = 0; i < r->n_selector; i++) {
        bool found = false;
        for (size_t k = 0; k < n->n_labels && !found; k++)
            found = MT_STREQ(n->labels[k].key, r->selector[i].key) && MT_STREQ(n->labels[k].value, r->selector[i].value);
        if (!found)
            return false;
    }
    return true;
}

static bool has_arch(const struct mt_place_node *n, const struct mt_place_request *r)
{
    for (size_t i = 0; i < r->n_archs; i++)
        if (MT_STREQ(r->archs[i], n->arch))
            return true;
    return false;
}

/* The filter a node falls to, F_MAX when it passes all. */
static enum filter refused_by(const struct mt_place_node *n, const struct mt_place_request *r)
{
    if (!mt_node_eligible(n))
        return F_ELIGIBLE;
    if (!has_arch(n, r))
        return F_ARCH;
    for (size_t i = 0; i < r->n_volumes; i++)
        if (!MT_STREQ(r->volumes[i].home_node_id, n->node_id))
            return F_HOME;
    for (size_t i = 0; i < r->n_volumes; i++)
        if (r->volumes[i].in_use)
            return F_IN_USE;
    if (!fits(n->used_memory_bytes, r->size.memory_bytes + n->overhead_bytes, n->alloc_memory_bytes))
        return F_MEMORY;
    if (!fits(n->used_disk_bytes, r->size.disk_bytes, n->alloc_disk_bytes))
        return F_DISK;
    if (!fits(n->used_cpu_millis, r->size.cpu_millis, n->ceiling_cpu_millis))
        return F_CPU;
    if (!has_labels(n, r))
        return F_LABEL;
    if (r->avoid_node_id && MT_STREQ(r->avoid_node_id, n->node_id))
        return F_AVOID;
    return F_MAX;
}

const char *mt_place_refusal(const struct mt_place_node *n, const struct mt_place_request *r)
{
    enum filter f = refused_by(n, r);
    return f == F_MAX ? NULL : filters[f].word;
}

const char *mt_place_zone(const struct mt_place_node *n)
{
    return n->zone ? n->zone : n->node_id;
}

int64_t mt_place_spread(uint64_t on_node, uint64_t in_zone)
{
    return (int64_t)(4 * (500 / (1 + on_node) + 500 / (1 + in_zone)));
}

/* Score without the spread of a node that passed the filters. */
static int64_t base_of(const struct mt_place_node *n, const struct mt_place_request *r)
{
    /* the filters made sure that what is subtracted is there and that alloc_memory is not 0 */
    uint64_t free_memory = n->alloc_memory_bytes - n->used_memory_bytes - r->size.memory_bytes - n->overhead_bytes;
    uint64_t m = 1000 * free_memory / mt_max_u64(n->alloc_memory_bytes, 1); /* below 2^53 bytes: no overflow */
    uint64_t cpu = n->alloc_cpu_millis ? 1000 * (n->used_cpu_millis + r->size.cpu_millis) / n->alloc_cpu_millis : 1000;
    uint64_t c = 1000 - mt_min_u64(1000, cpu);
    uint64_t f = 1000 - mt_min_u64(1000, UINT64_C(250) * n->boot_failures);
    return (int64_t)(3 * m + 2 * c + f);
}

int64_t mt_place_base(const struct mt_place_node *n, const struct mt_place_request *r)
{
    return refused_by(n, r) < F_MAX || n->booting >= MT_PLACE_BOOTS_PER_NODE ? -1 : base_of(n, r);
}

static int64_t score_of(const struct mt_place_node *nodes, size_t n_nodes, size_t at, const struct mt_place_request *r)
{
    const struct mt_place_node *n = &nodes[at];
    uint64_t on_node = r->group_on_node ? r->group_on_node[at] : 0, in_zone = 0;

    for (size_t i = 0; r->group_on_node && i < n_nodes; i++)
        if (r->group_on_node[i] && MT_STREQ(mt_place_zone(&nodes[i]), mt_place_zone(n)))
            in_zone += r->group_on_node[i];
    return mt_place_spread(on_node, in_zone) + base_of(n, r);
}

/* "5 nodes: 3 memory, 2 not ready" */
static void explain(const size_t removed[F_MAX], size_t n_nodes, char out[MT_PLACE_DETAIL])
{
    size_t n = (size_t)snprintf(out, MT_PLACE_DETAIL, "%zu node%s", n_nodes, n_nodes == 1 ? "" : "s");
    const char *sep = ": ";

    for (unsigned i = 1; i <= F_MAX; i++) {
        unsigned f = i % F_MAX; /* what is not ready comes last */
        if (removed[f] && n < MT_PLACE_DETAIL)
            n += (size_t)snprintf(out + n, MT_PLACE_DETAIL - n, "%s%zu %s", sep, removed[f], filters[f].word);
        if (removed[f])
            sep = ", ";
    }
}

enum mt_reason mt_place_gate(const struct mt_place_request *r, char detail[MT_PLACE_DETAIL])
{
    const struct mt_place_quota *q = &r->quota;
    const char *dimension = NULL;

    if (r->gates.secrets_missing)
        return MT_REASON_SECRETS_MISSING;
    if (r->gates.volume_constraints_invalid)
        return MT_REASON_VOLUME_CONSTRAINTS_INVALID;
    if (q->instances < 1)
        dimension = "max_instances";
    else if (q->memory_bytes < 0 || (uint64_t)q->memory_bytes < r->size.memory_bytes + MT_PLACE_QUOTA_OVERHEAD)
        dimension = "max_total_memory_bytes";
    else if (q->cpu_millis < (int64_t)r->size.cpu_millis)
        dimension = "max_total_cpu_millis";
    if (dimension) {
        (void)snprintf(detail, MT_PLACE_DETAIL, "%s", dimension);
        return MT_REASON_ORG_QUOTA_EXCEEDED;
    }
    if (r->gates.org_suspended)
        return MT_REASON_ORG_SUSPENDED;
    if (r->gates.volume_migrating)
        return MT_REASON_VOLUME_MIGRATING;
    if (r->gates.release_blocked)
        return MT_REASON_RELEASE_BLOCKED;
    return MT_REASON_NONE;
}

void mt_place(const struct mt_place_node *nodes, size_t n_nodes, const struct mt_place_request *r, struct mt_place_decision *ret)
{
    size_t removed[F_MAX] = {0}, n_passed = 0;
    enum filter last = F_ELIGIBLE;

    *ret = (struct mt_place_decision){.outcome = MT_PLACE_BLOCKED, .node = MT_PLACE_NONE, .score = -1};
    ret->reason = mt_place_gate(r, ret->detail);
    if (ret->reason != MT_REASON_NONE)
        return;
    for (size_t i = 0; i < n_nodes; i++) {
        enum filter f = refused_by(&nodes[i], r);
        if (f < F_MAX) {
            removed[f]++;
            last = f > last ? f : last;
            continue;
        }
        n_passed++;
        if (nodes[i].booting >= MT_PLACE_BOOTS_PER_NODE)
            continue;
        int64_t score = score_of(nodes, n_nodes, i, r);
        if (score > ret->score || (score == ret->score && strcmp(nodes[i].node_id, nodes[ret->node].node_id) < 0)) {
            ret->score = score;
            ret->node = i;
        }
    }
    if (ret->node != MT_PLACE_NONE) {
        ret->outcome = MT_PLACE_OK;
        return;
    }
    if (n_passed) {
        ret->outcome = MT_PLACE_DEFERRED;
        return;
    }
    ret->reason = filters[last].reason;
    if (last == F_HOME)
        for (size_t i = 1; i < r->n_volumes; i++)
            if (!MT_STREQ(r->volumes[i].home_node_id, r->volumes[0].home_node_id))
                ret->reason = MT_REASON_VOLUME_LOCALITY_NO_NODE;
    explain(removed, n_nodes, ret->detail);
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

void mt_place_charge(struct mt_place_node *n, const struct mt_place_size *size)
{
    n->used_memory_bytes += size->memory_bytes + n->overhead_bytes;
    n->used_cpu_millis += size->cpu_millis;
    n->used_disk_bytes += size->disk_bytes;
    n->booting++;
    n->instances++;
}

void mt_place_credit(struct mt_place_node *n, const struct mt_place_size *size)
{
    n->used_memory_bytes = minus(n->used_memory_bytes, size->memory_bytes + n->overhead_bytes);
    n->used_cpu_millis = minus(n->used_cpu_millis, size->cpu_millis);
    n->used_disk_bytes = minus(n->used_disk_bytes, size->disk_bytes);
    n->instances -= n->instances > 0;
}

void mt_place_quota_charge(struct mt_place_quota *q, const struct mt_place_size *size)
{
    if (q->instances != INT64_MAX)
        q->instances--;
    if (q->memory_bytes != INT64_MAX)
        q->memory_bytes -= (int64_t)(size->memory_bytes + MT_PLACE_QUOTA_OVERHEAD);
    if (q->cpu_millis != INT64_MAX)
        q->cpu_millis -= (int64_t)size->cpu_millis;
}

void mt_place_quota_credit(struct mt_place_quota *q, const struct mt_place_size *size)
{
    if (q->instances != INT64_MAX)
        q->instances++;
    if (q->memory_bytes != INT64_MAX)
        q->memory_bytes += (int64_t)(size->memory_bytes + MT_PLACE_QUOTA_OVERHEAD);
    if (q->cpu_millis != INT64_MAX)
        q->cpu_millis += (int64_t)size->cpu_millis;
}
