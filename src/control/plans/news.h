/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which nodes and edges the newest events can concern, in memory: a parked poll of a plan that the log's moves wake asks here first, so that a hundred nodes
 * do not each ask the database again for every event of one of them. Looks at an event once for all polls of this process. Errs on the side of
 * asking: an event that it does not know concerns every node. Thread-safe.
 */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct mt_pg;
struct mt_plan_news;

/** NULL: no memory. */
struct mt_plan_news *mt_plan_news_new(void);
/** NULL is fine. */
void mt_plan_news_free(struct mt_plan_news *n);

/**
 * May a plan of @node_id that was made when the log ended at @made_at be another one now? Reads the events up to @head that nobody looked at yet.
 *
 * @head  the log's end as this process knows it
 * Returns 1 yes, 0 no; as the database says.
 */
int mt_plan_news_for(struct mt_plan_news *n, struct mt_pg *pg, const char *node_id, int64_t made_at, int64_t head, struct mt_err *err);
/** The same for the configuration of an edge, of any. */
int mt_plan_news_for_edges(struct mt_plan_news *n, struct mt_pg *pg, int64_t made_at, int64_t head, struct mt_err *err);
/** Forget all: the log has another past now. */
void mt_plan_news_clear(struct mt_plan_news *n);
