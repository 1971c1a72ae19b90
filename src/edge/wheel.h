/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers of one worker: a hashed wheel, 1024 slots of 16 ms. Setting and clearing are O(1); a timer fires up to one slot late, never early.
 * One timer for each object, embedded.
 */
#pragma once

#include "base/list.h"

#include <stdint.h>

#define MT_EDGE_WHEEL_SLOTS 1024U
#define MT_EDGE_WHEEL_TICK_NS INT64_C(16000000)

struct mt_edge_timer {
    struct mt_list node; /* linked while set */
    int64_t at;          /* monotonic ns */
};

struct mt_edge_wheel {
    struct mt_list slots[MT_EDGE_WHEEL_SLOTS];
    uint64_t used[MT_EDGE_WHEEL_SLOTS / 64]; /* slots that may hold timers */
    int64_t tick;                            /* last tick that was fired */
};

void mt_edge_wheel_init(struct mt_edge_wheel *w, int64_t now);
/** Prepare an embedded timer; needed before set and clear. */
static inline void mt_edge_timer_init(struct mt_edge_timer *t)
{
    mt_list_init(&t->node);
}
/** Fire at @at; a set timer moves. */
void mt_edge_wheel_set(struct mt_edge_wheel *w, struct mt_edge_timer *t, int64_t at);
static inline void mt_edge_wheel_clear(struct mt_edge_timer *t)
{
    mt_list_remove(&t->node);
}
/** Call @fn for every timer due at @now, each cleared before; @fn may set and clear any timer. */
void mt_edge_wheel_run(struct mt_edge_wheel *w, int64_t now, void (*fn)(struct mt_edge_timer *t, void *arg), void *arg);
/** Milliseconds epoll may sleep, -1 when no timer is set. */
int mt_edge_wheel_wait_ms(struct mt_edge_wheel *w, int64_t now);
