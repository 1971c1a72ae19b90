/* SPDX-License-Identifier: Apache-2.0 */
/* The views as they were after some event: the log replayed into temporary tables of a connection of its own, by the very
 * statements that keep the live views. Only what belongs to one organisation (and, in it, one app or environment) is replayed, so
 * nothing of others can be in there. Views of the whole platform (users, nodes, owners of host names, cluster) stay empty. */
#pragma once

#include "control/views/replay.h"

/** Bounds of one look, and how many there may be at once in a process. */
#define MT_PAST_EVENTS 1000000
#define MT_PAST_MS 30000
#define MT_PAST_AT_ONCE 2

struct mt_past;

/** -MT_E_CONFLICT: as many as there may be are under way; else as the database says. */
int mt_past_open(const struct mt_pg_conf *conf, const struct mt_replay_scope *scope, struct mt_past **ret, struct mt_err *err);
/**
 * Go on to event @event_id; never back. -MT_E_LIMIT more events than MT_PAST_EVENTS, -MT_E_TIMEOUT longer than MT_PAST_MS since
 * mt_past_open, -MT_E_CORRUPT an event that this program does not know.
 */
int mt_past_to(struct mt_past *p, int64_t event_id, struct mt_err *err);
/** The connection: names of views without a schema are those of the past; `moat.events` is the whole log. Borrowed. */
struct mt_pg *mt_past_pg(struct mt_past *p);
/** Events applied. */
int64_t mt_past_events(const struct mt_past *p);
void mt_past_close(struct mt_past *p);
