/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which environments the next pass has to step: those that something happened to, those whose time has come, those that wait for room when there may
 * be some, or all. Whatever is not due is not loaded and not stepped, so a cluster in which nothing changes costs a look at what is to come. Forgetting
 * is no fault: the caller makes all of them due twice a minute. Not thread-safe.
 */
#pragma once

#include "base/map.h"

#include <stdbool.h>
#include <stdint.h>

struct mt_due {
    struct mt_map dirty;   /* env ids to step now */
    struct mt_map wake;    /* env id -> int64_t, when time alone changes its answer (the database's ms); without such a time it is not there */
    struct mt_map waiting; /* env ids that wait for room, a boot slot or a place in a drain that instances of others hold */
    bool all;              /* every environment, named or not */
    bool room_news;        /* instances changed since those that wait were looked at */
    int64_t room_ns;       /* when they were */
};

void mt_due_init(struct mt_due *d, uint64_t seed_a, uint64_t seed_b);
void mt_due_done(struct mt_due *d);

/** Step @env_id in the next pass; without memory for it, all. */
void mt_due_mark(struct mt_due *d, const char *env_id);

/** What a step of @env_id said: @wake_ms INT64_MAX: time alone changes nothing. */
void mt_due_said(struct mt_due *d, const char *env_id, int64_t wake_ms, bool waits_for_others);

/** In how many ns those that wait are to be looked at again, @pause_ns after the last time at the earliest; INT64_MAX: not before instances change. */
int64_t mt_due_room_ns(const struct mt_due *d, int64_t mono_ns, int64_t pause_ns);

/** Mark what time and room have made due. True when there is anything to step. */
bool mt_due_gather(struct mt_due *d, int64_t now_ms, int64_t mono_ns, int64_t pause_ns);

/** They are loaded: nothing is dirty any more. After a pass over all of them each has said anew whether it waits. */
void mt_due_taken(struct mt_due *d);

/** The nearest time of any, INT64_MAX: none. */
int64_t mt_due_next_ms(const struct mt_due *d);
