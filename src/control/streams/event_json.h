/* SPDX-License-Identifier: Apache-2.0 */
/* An event in the form of the API, with one sentence for people (control-plane.md §11.1). Pure rendering. */
#pragma once

#include "base/buf.h"
#include "pg/pg.h"

/* The columns mt_event_json reads, in its order. */
#define MT_EVENT_COLUMNS                                                                                            \
    "event_id, occurred_at, org_id, app_id, env_id, aggregate_type, aggregate_id, aggregate_seq, event_type,"       \
    " event_version, actor_type, actor_id, request_id, correlation_id, causation_id, payload"

/** Append row @row as a JSON object; returns its event id. */
int64_t mt_event_json(const struct mt_pg_res *r, int row, struct mt_buf *b);

/** The sentence: "instance inst_x is ready" from type, aggregate and payload text. At most @size bytes. */
void mt_event_summary(const char *type, const char *aggregate_id, const char *payload, char *ret, size_t size);
