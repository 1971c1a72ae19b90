/* SPDX-License-Identifier: Apache-2.0 */
/* One step of a group: what is there, what ends by time or node loss, held groups, groups with volumes. Pure. */
#include "control/rollout/rollout.h"

#include "control/rollout/step.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/str.h"

static const char *const condition_names[MT_ROLL_CONDITION_MAX] = {
    [MT_ROLL_OK] = "ok",
    [MT_ROLL_BLOCKED] = "blocked",
    [MT_ROLL_HELD] = "held",
};

const char *mt_roll_condition_name(enum mt_roll_condition condition)
{
    MT_ASSERT((unsigned)condition < MT_ROLL_CONDITION_MAX);
    return condition_names[condition];
}

bool mt_roll_condition_parse(const char *word, enum mt_roll_condition *ret)
{
    for (unsigned i = 0; word && i < MT_ROLL_CONDITION_MAX; i++)
        if (MT_STREQ(condition_names[i], word)) {
            *ret = (enum mt_roll_condition)i;
            return true;
        }
    return false;
}

uint32_t mt_roll_surge(uint32_t desired, bool stateful)
{
    if (stateful)
        return 0;
    uint32_t quarter = desired / 4 + (desired % 4 != 0);
    return quarter > 1 ? quarter : 1;
}

int64_t mt_roll_min_ready_ms(const struct mt_roll_group *group)
{
    return group->min_ready_seconds ? 1000 * (int64_t)group->min_ready_seconds : MT_ROLL_MIN_READY_MS;
}

int64_t mt_roll_attempt_window_ms(uint32_t startup_timeout_seconds)
{
    int64_t four = 4000 * (int64_t)startup_timeout_seconds;

    return four > 600000 ? four : 600000;
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && MT_STREQ(a, b));
}

/* ---- shared by the parts of a step ---- */

void mt_step_wake(struct mt_step *s, int64_t at_ms)
{
    if (at_ms > s->now_ms && at_ms < s->r->wake_at_ms)
        s->r->wake_at_ms = at_ms;
}

/* One more or one fewer of the group on a node, for the spread. */
static void held_by(struct mt_step *s, size_t node, int by)
{
    if (s->index)
        mt_place_index_group(s->index, node, by);
    else
        s->on_node[node] += (uint32_t)by;
}

struct mt_place_node *mt_step_node(const struct mt_step *s, const struct mt_step_inst *in)
{
    return in->i->node < s->n_nodes ? &s->nodes[in->i->node] : NULL;
}

void mt_step_act(struct mt_step *s, enum mt_roll_action_type type, struct mt_step_inst *in, enum mt_reason reason)
{
    struct mt_place_node *node = mt_step_node(s, in);

    MT_ASSERT(s->r->n_actions < s->room && !in->leaving);
    in->leaving = true;
    if (node && type == MT_ROLL_DRAIN)
        node->draining++;
    s->r->actions[s->r->n_actions++] =
        (struct mt_roll_action){.type = type, .node = in->i->node, .instance = in->i, .reason = reason};
}

static struct mt_place_request request_for(const struct mt_step *s, const struct mt_roll_instance *copy_of, const char *avoid)
{
    struct mt_place_request q = s->g->request;

    q.quota = *s->quota;
    q.group_on_node = s->on_node;
    q.avoid_node_id = avoid;
    if (copy_of) {
        q.size = copy_of->size;
        q.archs = copy_of->archs;
        q.n_archs = copy_of->n_archs;
    }
    return q;
}

enum mt_place_outcome mt_step_allocate(struct mt_step *s, const struct mt_roll_instance *replaces,
                                       const struct mt_roll_instance *copy_of, const char *avoid,
                                       struct mt_place_decision *ret)
{
    struct mt_place_request q = request_for(s, copy_of, avoid);

    if (s->index)
        mt_place_index_find(s->index, &q, ret);
    else
        mt_place(s->nodes, s->n_nodes, &q, ret);
    if (ret->outcome != MT_PLACE_OK) {
        s->r->waits_for_others = true;
        return ret->outcome;
    }
    MT_ASSERT(s->r->n_actions < s->room);
    mt_place_charge(&s->nodes[ret->node], &q.size);
    mt_place_quota_charge(s->quota, &q.size);
    if (s->index)
        mt_place_index_changed(s->index, ret->node);
    held_by(s, ret->node, 1);
    s->r->actions[s->r->n_actions++] = (struct mt_roll_action){
        .type = MT_ROLL_ALLOCATE, .node = ret->node, .instance = replaces, .copy_of = copy_of};
    return MT_PLACE_OK;
}

bool mt_step_fits_without(const struct mt_step *s, const struct mt_step_inst *in, struct mt_place_decision *ret)
{
    struct mt_place_request q = request_for(s, NULL, NULL);
    struct mt_place_volume volumes[MT_WORKLOAD_MOUNTS_MAX];
    struct mt_place_node *node = mt_step_node(s, in);
    struct mt_place_node keep = {0};

    for (size_t i = 0; i < q.n_volumes && i < MT_WORKLOAD_MOUNTS_MAX; i++) {
        volumes[i] = q.volumes[i];
        volumes[i].in_use = false; /* by the one that would be gone */
    }
    q.volumes = volumes;
    mt_place_quota_credit(&q.quota, &in->i->size);
    if (node) {
        keep = *node;
        mt_place_credit(node, &in->i->size);
    }
    mt_place(s->nodes, s->n_nodes, &q, ret);
    if (node)
        *node = keep;
    s->r->waits_for_others = s->r->waits_for_others || ret->outcome == MT_PLACE_BLOCKED;
    return ret->outcome != MT_PLACE_BLOCKED;
}

void mt_step_blocked(struct mt_step *s, const struct mt_place_decision *why)
{
    s->r->condition = MT_ROLL_BLOCKED;
    s->r->reason = why->reason;
    (void)snprintf(s->r->detail, sizeof s->r->detail, "%s", why->detail);
}

/* ---- what is there ---- */

static void classify(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;

    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        const struct mt_roll_instance *i = in->i = &g->instances[k];
        const struct mt_place_node *node = mt_step_node(s, in);
        bool gone = !node || mt_node_gone(node);

        in->matching = g->target_spec && same(i->spec_hash, g->target_spec);
        if (i->desired != MT_DESIRED_RUNNING)
            continue;
        if (i->status == MT_STATUS_STOPPED) {
            in->completed = g->restart_policy != MT_RESTART_ALWAYS && i->reason_code &&
                            mt_reason_from_code(i->reason_code) == MT_REASON_COMPLETED;
            in->available = in->completed;
            in->lost = !in->completed;
            continue;
        }
        /* A volume stays where it is: an instance with mounts is waited for, never replaced elsewhere. */
        in->lost = gone && !g->stateful;
        in->live = !in->lost;
        if (!in->live)
            continue;
        in->evicted = !g->stateful && ((node && node->admin == MT_NODE_DRAINING) || i->restart_requested);
        if (i->status == MT_STATUS_READY && !gone && i->ready_since_ms > 0) {
            in->available = s->now_ms - i->ready_since_ms >= mt_roll_min_ready_ms(g);
            if (!in->available)
                mt_step_wake(s, i->ready_since_ms + mt_roll_min_ready_ms(g));
        }
        if (node)
            held_by(s, i->node, 1);
    }
}

/* What ends by itself: drains without an answer, instances of gone nodes, boots nobody reports about. */
static void settle(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;

    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        const struct mt_roll_instance *i = in->i;
        const struct mt_place_node *node = mt_step_node(s, in);
        bool gone = !node || mt_node_gone(node);

        if (in->lost) {
            enum mt_reason why = i->status == MT_STATUS_STOPPED             ? MT_REASON_REPLACED
                                 : !node || node->health == MT_NODE_LOST ? MT_REASON_NODE_LOST
                                                                         : MT_REASON_NODE_OFFLINE;
            mt_step_act(s, MT_ROLL_STOP, in, why);
        } else if (in->completed && !in->matching) {
            mt_step_act(s, MT_ROLL_STOP, in, g->roll_reason);
        } else if (i->desired == MT_DESIRED_DRAINING) {
            int64_t limit = i->changed_at_ms + 1000 * ((int64_t)i->drain_delay_seconds + i->stop_grace_seconds + 30);
            if (gone ? !g->stateful : s->now_ms >= limit)
                mt_step_act(s, MT_ROLL_STOP, in, i->stop_reason);
            else
                mt_step_wake(s, limit);
        } else if (in->live && i->status == MT_STATUS_BOOTING && !gone && g->boot_budget_seconds) {
            int64_t limit = i->changed_at_ms + 1000 * ((int64_t)g->boot_budget_seconds + g->startup_timeout_seconds + 60);
            if (s->now_ms >= limit) {
                mt_step_act(s, MT_ROLL_STOP, in, MT_REASON_ATTEMPT_FAILED);
                in->live = false;
                held_by(s, i->node, -1);
            } else {
                mt_step_wake(s, limit);
            }
        }
    }
}

/* ---- held groups ---- */

/* A code that says the workload failed: not the platform's fault, not a planned stop echoed by the agent, not success.
 * A code this version does not know comes from a newer agent and counts. */
static bool blames_workload(const char *code)
{
    enum mt_reason reason = mt_reason_from_code(code);

    if (reason == MT_REASON_NONE)
        return code && *code;
    return (mt_reason_info(reason)->parts & MT_REASON_INSTANCE) && !mt_reason_info(reason)->platform &&
           reason != MT_REASON_COMPLETED;
}

/* Attempts of the target that count: after the last command, inside the window, the workload's fault. */
static unsigned failed_attempts(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;
    int64_t since = s->now_ms - mt_roll_attempt_window_ms(g->startup_timeout_seconds);
    unsigned n = 0;

    for (size_t k = 0; k < g->n_attempts; k++) {
        const struct mt_roll_attempt *a = &g->attempts[k];
        if (!same(a->spec_hash, g->target_spec) || a->event_id <= g->command_event || a->ended_at_ms < since ||
            !blames_workload(a->reason_code))
            continue;
        n++;
        if (!s->r->last_attempt || a->event_id > s->r->last_attempt->event_id)
            s->r->last_attempt = a;
    }
    return n;
}

/*
 * An instance of the target that its workload ended for good, or one in a crash loop although it was ready once: what it does after that
 * are no attempts that "ended before their first ready", and without this the deploy would wait for its deadline. (One in a crash loop that
 * was never ready: three of its attempts have been counted by then.)
 */
static bool given_up(const struct mt_step_inst *in)
{
    const struct mt_roll_instance *i = in->i;

    return in->live && in->matching && i->status == MT_STATUS_FAILED && (!i->retry_pending || i->ever_ready) && blames_workload(i->reason_code);
}

static const struct mt_roll_instance *first_given_up(const struct mt_step *s)
{
    for (size_t k = 0; k < s->n; k++)
        if (given_up(&s->in[k]))
            return s->in[k].i;
    return NULL;
}

/* Why the group is held, for machines and for people: by @failed attempts, or by what became of @final. */
static void say_held(struct mt_step *s, unsigned failed, const struct mt_roll_instance *final)
{
    const struct mt_roll_attempt *last = s->r->last_attempt;
    const char *code, *detail = last ? last->reason_detail : NULL;

    if (final && final->ever_ready && failed < MT_ROLL_ATTEMPTS) {
        s->r->held_reason = code = final->reason_code;
        (void)snprintf(s->r->detail, sizeof s->r->detail, "%.40s was ready once and %s: %.48s", final->instance_id,
                       final->retry_pending ? "crashes again and again" : "ended for good", code);
        return;
    }
    s->r->held_reason = code = last ? last->reason_code : final ? final->reason_code : NULL;
    if (code)
        (void)snprintf(s->r->detail, sizeof s->r->detail, "%u attempt%s ended before the instance was ready: %.48s%s%.80s%s",
                       failed ? failed : 1, failed > 1 ? "s" : "", code, detail ? " (" : "", detail ? detail : "",
                       detail ? ")" : "");
}

static bool is_held(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;

    if (!g->target_spec || g->desired == 0)
        return false;
    bool in_rollout = !same(g->stable_spec, g->target_spec);
    unsigned failed = failed_attempts(s);
    const struct mt_roll_instance *final = first_given_up(s);
    bool remembered = g->condition == MT_ROLL_HELD && g->held_event > g->command_event && same(g->recorded_target, g->target_spec);

    if (remembered && g->recorded_detail && strncmp(g->recorded_detail, MT_ROLL_OPERATOR_HOLD, strlen(MT_ROLL_OPERATOR_HOLD)) == 0) {
        s->r->held_by_operator = true;
        (void)snprintf(s->r->detail, sizeof s->r->detail, "%s", g->recorded_detail);
        return true;
    }
    if (!remembered && !(in_rollout && (failed >= MT_ROLL_ATTEMPTS || final)))
        return false;
    say_held(s, failed, final);
    return true;
}

/*
 * Is what is held what the group was stable with? Only then anything more of it is made. Of a spec that is still being rolled out nothing
 * is, also when an instance of it was ready once: what is not ready of it is stopped by the next step, would be made again by that, and so on.
 */
static bool proven(const struct mt_step *s)
{
    return s->g->stable_spec && same(s->g->stable_spec, s->g->target_spec);
}

/* The spec to replace a lost instance from: the one it had, else that of the oldest one that still serves. */
static const struct mt_roll_instance *template_of(const struct mt_step *s, const struct mt_step_inst *lost)
{
    const struct mt_roll_instance *best = NULL;
    bool target_too = proven(s);

    if (lost && lost->i->ever_ready && (target_too || !lost->matching))
        return lost->i;
    for (size_t k = 0; k < s->n; k++) {
        const struct mt_step_inst *in = &s->in[k];
        bool went = in->i->stop_reason == MT_REASON_NODE_OFFLINE || in->i->stop_reason == MT_REASON_NODE_LOST;
        if (in->i->ever_ready && (target_too || !in->matching) && ((in->live && !in->leaving) || went) &&
            (!best || strcmp(in->i->instance_id, best->instance_id) < 0))
            best = in->i;
    }
    return best;
}

static void held(struct mt_step *s)
{
    uint32_t live = 0;
    size_t next_lost = 0;

    s->r->condition = MT_ROLL_HELD;
    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        if (!in->live || in->leaving)
            continue;
        if (in->matching && !proven(s) && in->i->status != MT_STATUS_READY && (!in->i->ever_ready || given_up(in)))
            mt_step_act(s, MT_ROLL_STOP, in, s->r->held_by_operator ? MT_REASON_TERMINATED_BY_OPERATOR : MT_REASON_ATTEMPT_FAILED);
        else
            live++;
    }
    if (s->g->stateful || !s->g->may_allocate)
        return;
    for (; live < s->g->desired; live++) {
        struct mt_place_decision d;
        while (next_lost < s->n && !s->in[next_lost].lost)
            next_lost++;
        const struct mt_step_inst *lost = next_lost < s->n ? &s->in[next_lost++] : NULL;
        const struct mt_roll_instance *from = template_of(s, lost);
        if (!from || mt_step_allocate(s, lost ? lost->i : NULL, from, NULL, &d) != MT_PLACE_OK)
            break;
    }
}

/* ---- nothing wanted, and groups with volumes ---- */

static void drain_all(struct mt_step *s, enum mt_reason why)
{
    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        const struct mt_place_node *node = mt_step_node(s, in);
        if (in->leaving)
            continue;
        if (in->completed || (in->live && (!node || mt_node_gone(node))))
            mt_step_act(s, MT_ROLL_STOP, in, why); /* nobody is there to drain it */
        else if (in->live)
            mt_step_act(s, MT_ROLL_DRAIN, in, why);
    }
}

/* Everything goes, and comes back when the operator takes it back: what is wanted stays as it is. */
static void switched_off(struct mt_step *s, enum mt_reason why)
{
    struct mt_place_decision d = {.reason = why};

    drain_all(s, why);
    if (s->g->target_spec && s->g->desired > 0)
        mt_step_blocked(s, &d);
}

/* At most one instance, on the home node; the next one starts when the last is confirmed stopped. */
static void stateful(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;
    struct mt_place_decision d = {.reason = MT_REASON_VOLUME_CONSTRAINTS_INVALID};
    struct mt_step_inst *kept = NULL;
    bool busy = false;

    if (g->desired > 1) {
        mt_step_blocked(s, &d);
        return;
    }
    for (size_t k = 0; k < s->n; k++) {
        struct mt_step_inst *in = &s->in[k];
        const struct mt_place_node *node = mt_step_node(s, in);
        bool gone = !node || mt_node_gone(node);
        if (in->completed && in->matching) {
            kept = in;
            continue;
        }
        busy = busy || in->i->status != MT_STATUS_STOPPED;
        if (gone && in->i->status != MT_STATUS_STOPPED) {
            d = (struct mt_place_decision){.reason = MT_REASON_VOLUME_HOME_NODE_OFFLINE};
            mt_step_blocked(s, &d);
        }
        if (!in->live || in->leaving || gone)
            continue;
        bool stays = in->matching && !in->i->restart_requested;
        if (node && node->admin == MT_NODE_DRAINING && node->stops_stateful)
            mt_step_act(s, MT_ROLL_DRAIN, in, MT_REASON_NODE_DRAINING); /* the operator's word: it is down until the node is back */
        else if (stays && !kept)
            kept = in;
        else if (stays)
            mt_step_act(s, MT_ROLL_DRAIN, in, MT_REASON_SCALED_DOWN);
        else if (!g->may_allocate)
            continue; /* nothing could follow it */
        else if (mt_step_fits_without(s, in, &d))
            mt_step_act(s, MT_ROLL_DRAIN, in, in->matching ? MT_REASON_RESTART_REQUESTED : g->roll_reason);
        else
            mt_step_blocked(s, &d); /* it would stop and nothing could take its place */
    }
    if (kept || busy || !g->may_allocate)
        return;
    if (mt_step_allocate(s, NULL, NULL, NULL, &d) == MT_PLACE_BLOCKED)
        mt_step_blocked(s, &d);
}

/* ---- results ---- */

static void count(struct mt_step *s)
{
    struct mt_roll_result *r = s->r;
    uint32_t good = 0, good_available = 0;

    for (size_t k = 0; k < s->n; k++) {
        const struct mt_step_inst *in = &s->in[k];
        bool there = in->completed || (in->live && !in->leaving);
        if (in->live && in->matching && !in->leaving)
            r->matching++;
        if (in->live && in->i->status == MT_STATUS_READY && !in->leaving)
            r->ready++;
        if (in->available && !in->leaving)
            r->available++;
        /* evicted ones count as old: the group is not settled before they are replaced */
        if (there && in->matching && !in->evicted) {
            good++;
            good_available += in->available && !in->leaving;
        } else if (in->live && !in->leaving) {
            r->old++;
        }
    }
    bool allocated = false, leaving_old = false;
    for (size_t k = 0; k < r->n_actions; k++) {
        allocated = allocated || r->actions[k].type == MT_ROLL_ALLOCATE;
        leaving_old = leaving_old || r->actions[k].type == MT_ROLL_DRAIN;
    }
    uint32_t desired = s->g->target_spec ? s->g->desired : 0;
    r->satisfied = r->condition != MT_ROLL_HELD && !allocated && !leaving_old && r->old == 0 && good == desired &&
                   good_available == desired;
}

static void remember(struct mt_step *s)
{
    const struct mt_roll_group *g = s->g;
    struct mt_roll_result *r = s->r;

    r->stable_spec = g->stable_spec;
    if (r->satisfied && g->target_spec)
        r->stable_spec = g->target_spec;
    bool held_again = r->condition == MT_ROLL_HELD && g->condition == MT_ROLL_HELD && g->held_event <= g->command_event;
    /* With nothing wanted the record keeps its last target: there is none to write in its place. */
    r->scheduling_changed = r->condition != g->condition || r->reason != g->reason || held_again ||
                            !same(r->stable_spec, g->stable_spec) ||
                            (g->target_spec && !same(g->recorded_target, g->target_spec));
}

static int step(struct mt_step *w, struct mt_arena *arena, struct mt_err *err)
{
    const struct mt_roll_group *g = w->g;

    *w->r = (struct mt_roll_result){.wake_at_ms = INT64_MAX};
    w->n = g->n_instances;
    w->room = 2 * w->n + 2 * MT_ROLL_REPLICAS_MAX + 8;
    w->r->actions = mt_arena_alloc(arena, w->room * sizeof *w->r->actions);
    w->in = mt_arena_alloc(arena, (w->n + 1) * sizeof *w->in);
    w->on_node = w->index ? NULL : mt_arena_alloc(arena, (w->n_nodes + 1) * sizeof *w->on_node);
    if (!w->r->actions || !w->in || (!w->index && !w->on_node))
        return MT_FAIL(err, MT_E_NOMEM, "out of memory for one group of %zu instances", w->n);

    classify(w);
    settle(w);
    if (g->request.gates.org_suspended)
        switched_off(w, MT_REASON_ORG_SUSPENDED);
    else if (g->request.gates.release_evicted)
        switched_off(w, MT_REASON_RELEASE_BLOCKED);
    else if (g->request.gates.volume_migrating)
        switched_off(w, MT_REASON_VOLUME_MIGRATING);
    else if (!g->target_spec || g->desired == 0)
        drain_all(w, g->stop_all_reason == MT_REASON_NONE ? MT_REASON_SCALED_DOWN : g->stop_all_reason);
    else if (is_held(w))
        held(w);
    else if (g->stateful)
        stateful(w);
    else
        mt_step_stateless(w);
    count(w);
    remember(w);
    if (w->index)
        mt_place_index_group_done(w->index);
    return 0;
}

int mt_roll_step(const struct mt_roll_group *g, struct mt_place_node *nodes, size_t n_nodes, struct mt_place_quota *quota,
                 int64_t now_ms, struct mt_arena *arena, struct mt_roll_result *ret, struct mt_err *err)
{
    struct mt_step s = {.g = g, .nodes = nodes, .n_nodes = n_nodes, .quota = quota, .now_ms = now_ms, .r = ret};

    return step(&s, arena, err);
}

int mt_roll_step_indexed(const struct mt_roll_group *g, struct mt_place_node *nodes, size_t n_nodes, struct mt_place_index *index,
                         struct mt_place_quota *quota, int64_t now_ms, struct mt_arena *arena, struct mt_roll_result *ret,
                         struct mt_err *err)
{
    struct mt_step s = {.g = g, .nodes = nodes, .n_nodes = n_nodes, .index = index, .quota = quota, .now_ms = now_ms, .r = ret};

    return step(&s, arena, err);
}
