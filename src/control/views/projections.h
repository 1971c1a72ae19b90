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

/** Payload fields that hold keys: the part, and the natural key of a row of another view. NULL where a type has none. */
const char *mt_proj_part_field(enum mt_ev ev);
const char *mt_proj_also_field(enum mt_ev ev);

/** Keys out of the texts of those two fields, NULL when absent. */
void mt_proj_keys_from(enum mt_ev ev, const char *aggregate_id, const char *app_id, const char *part, const char *also,
                       struct mt_proj_keys *ret);
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
 * The same for a replay, where whole batches are at hand: each event gets the earliest wave in which every row still sees
 * its events in the order of their ids. Events of other rows overtake each other, so a name may be taken before it is free:
 * only for tables without their unique indexes on names.
 * @ret_wave  one entry per event, 0 and up. Returns the number of waves, -MT_E_NOMEM.
 */
int mt_proj_waves(const struct mt_proj_event *events, int n, int32_t *ret_wave, struct mt_err *err);

/**
 * Queue the statements of one round on a pipeline for @events, whose ids are @lo, @lo + 1 and so on, none of which the views have
 * seen. Where few of them are of a type, its statement is given their ids. Returns how many were queued, or -code.
 */
int mt_proj_send(struct mt_pg *pg, const struct mt_proj_event *events, int n, int64_t lo, struct mt_err *err);
/** The same for events @lo..@hi of @types, which the views may have seen: what was applied before is skipped. */
int mt_proj_send_again(struct mt_pg *pg, mt_ev_mask types, int64_t lo, int64_t hi, struct mt_err *err);

/** As mt_proj_send_again for events that are new, only the statements that write one of @views (bit i: mt_proj_tables()[i]). */
int mt_proj_send_views(struct mt_pg *pg, mt_ev_mask types, int64_t lo, int64_t hi, uint64_t views, struct mt_err *err);
/** Index of a view in mt_proj_tables(), -1 when there is none of that name. */
int mt_proj_table(const char *view);
/** @views and all that their statements read. */
uint64_t mt_proj_closure(uint64_t views);
/** Give the text of every statement to @add, for a fingerprint of what the views hold. */
void mt_proj_fingerprint(void (*add)(void *arg, const char *text), void *arg);

/** Names of the view tables, NULL terminated, for rebuild and verify. */
const char *const *mt_proj_tables(void);
