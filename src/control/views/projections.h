/* SPDX-License-Identifier: Apache-2.0 */
/* The live projections (control-plane.md §8): for each event type the statements that bring its views up to date, set-wise
 * over a range of event ids, and the plan of rounds that keeps set-wise the same as one by one. The same statements serve
 * append and rebuild: they name tables without a schema. No handler but these writes a view. */
#pragma once

#include "control/log/types.h"
#include "pg/pg.h"

/** Rows an event touches, as hashes of their keys: equal keys have equal hashes. 0 = none. */
struct mt_proj_keys {
    uint64_t row;  /* the aggregate's own row(s) */
    uint64_t part; /* one row among several of the aggregate (env and process type); 0 = all of them */
    uint64_t also; /* a row of another aggregate (release.created: its app; routes: the hostname) */
};

/** Hash of a row key; never 0. */
uint64_t mt_proj_hash(const char *a, const char *b);

struct mt_proj_event {
    enum mt_ev ev;
    struct mt_proj_keys keys;
};

/** Keys of an event; @payload as given to mt_cmd_event. */
void mt_proj_keys_of(enum mt_ev ev, const char *aggregate_id, const char *app_id, const json_t *payload,
                     struct mt_proj_keys *ret);

/** Consecutive events [first, first + count) of a list. */
struct mt_proj_round {
    int first, count;
    mt_ev_mask types;
};

/**
 * Cut @n events into rounds. Inside a round the statements run in the order of the table, each over all events of its
 * type; the cut guarantees that no row would see two events in an order other than that of their ids, and that no name
 * is taken before an earlier event of the round frees it.
 * @ret holds @n entries at most. Returns the number of rounds, -MT_E_NOMEM.
 */
int mt_proj_rounds(const struct mt_proj_event *events, int n, struct mt_proj_round *ret, struct mt_err *err);

/**
 * Queue the statements of one round on a pipeline for event ids @lo..@hi, none of which the views have seen. Returns how
 * many were queued, or -code.
 */
int mt_proj_send(struct mt_pg *pg, mt_ev_mask types, int64_t lo, int64_t hi, struct mt_err *err);
/** The same for events that the views may have seen: what was applied before is skipped. */
int mt_proj_send_again(struct mt_pg *pg, mt_ev_mask types, int64_t lo, int64_t hi, struct mt_err *err);

/** Names of the view tables, NULL terminated, for rebuild and verify. */
const char *const *mt_proj_tables(void);
