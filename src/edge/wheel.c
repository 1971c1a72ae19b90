/* SPDX-License-Identifier: Apache-2.0 */
#include "edge/wheel.h"

#include "base/clock.h"

void mt_edge_wheel_init(struct mt_edge_wheel *w, int64_t now)
{
    memset(w, 0, sizeof *w);
    for (unsigned i = 0; i < MT_EDGE_WHEEL_SLOTS; i++)
        mt_list_init(&w->slots[i]);
    w->tick = now / MT_EDGE_WHEEL_TICK_NS;
}

void mt_edge_wheel_set(struct mt_edge_wheel *w, struct mt_edge_timer *t, int64_t at)
{
    int64_t tick = at / MT_EDGE_WHEEL_TICK_NS + 1; /* rounded up: never early */
    if (tick <= w->tick)
        tick = w->tick + 1;
    unsigned slot = (unsigned)((uint64_t)tick % MT_EDGE_WHEEL_SLOTS);
    mt_list_remove(&t->node);
    t->at = at;
    mt_list_push_back(&w->slots[slot], &t->node);
    w->used[slot / 64] |= UINT64_C(1) << (slot % 64);
}

static void run_slot(struct mt_edge_wheel *w, unsigned slot, int64_t now, void (*fn)(struct mt_edge_timer *, void *), void *arg)
{
    /* moved aside first: a timer that @fn sets again must not be met twice in this round */
    struct mt_list due, later;
    mt_list_init(&due);
    mt_list_init(&later);
    struct mt_list *n;
    while ((n = mt_list_pop_front(&w->slots[slot])) != NULL)
        mt_list_push_back(&due, n);
    w->used[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
    while ((n = mt_list_pop_front(&due)) != NULL) {
        struct mt_edge_timer *t = MT_CONTAINER(n, struct mt_edge_timer, node);
        if (t->at > now)
            mt_list_push_back(&later, n); /* a later turn of the wheel */
        else
            fn(t, arg);
    }
    while ((n = mt_list_pop_front(&later)) != NULL) {
        mt_list_push_back(&w->slots[slot], n);
        w->used[slot / 64] |= UINT64_C(1) << (slot % 64);
    }
}

void mt_edge_wheel_run(struct mt_edge_wheel *w, int64_t now, void (*fn)(struct mt_edge_timer *t, void *arg), void *arg)
{
    int64_t to = now / MT_EDGE_WHEEL_TICK_NS;
    if (to - w->tick > (int64_t)MT_EDGE_WHEEL_SLOTS)
        w->tick = to - (int64_t)MT_EDGE_WHEEL_SLOTS; /* slept long: one whole turn meets everything */
    while (w->tick < to) {
        w->tick++;
        unsigned slot = (unsigned)((uint64_t)w->tick % MT_EDGE_WHEEL_SLOTS);
        if (w->used[slot / 64] & (UINT64_C(1) << (slot % 64)))
            run_slot(w, slot, now, fn, arg);
    }
}

int mt_edge_wheel_wait_ms(struct mt_edge_wheel *w, int64_t now)
{
    unsigned first = (unsigned)((uint64_t)(w->tick + 1) % MT_EDGE_WHEEL_SLOTS);
    for (unsigned i = 0; i < MT_EDGE_WHEEL_SLOTS;) {
        unsigned slot = (first + i) % MT_EDGE_WHEEL_SLOTS;
        uint64_t used = w->used[slot / 64] >> (slot % 64);
        if (used == 0) { /* the rest of this word */
            i += 64 - slot % 64;
            continue;
        }
        unsigned ahead = (unsigned)__builtin_ctzll(used);
        i += ahead;
        slot += ahead; /* within the word */
        if (mt_list_empty(&w->slots[slot])) { /* its timers were cleared */
            w->used[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
            continue;
        }
        int64_t at = (w->tick + 1 + (int64_t)i) * MT_EDGE_WHEEL_TICK_NS;
        return at <= now ? 0 : (int)((at - now + MT_NS_PER_MS - 1) / MT_NS_PER_MS);
    }
    return -1;
}
