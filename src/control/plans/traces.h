/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traces on their way to nodes (control/trace.h): what a plan wants of an instance and what an edge is told come of deploys, and a deploy of a request. An
 * assignment names the trace of the deploy that wants it so, a snapshot for edges those of what changed since the one before, so that lines of agents and edges
 * are found by the caller's trace.
 */
#pragma once

#include "base/buf.h"
#include "control/trace.h"

/** The requests of the deploys in column @col of @of, each asked for once. */
int mt_plan_traces_read(struct mt_pg *pg, const struct mt_pg_res *of, int col, struct mt_pg_res **ret, struct mt_err *err);
/** The trace of a deploy of those. False for one without. */
bool mt_plan_trace_of(const struct mt_pg_res *traces, const char *deploy_id, char ret[MT_TRACE_ID]);

/** `"traces":[...],` of what happened to routed environments after event @since up to @head, the newest 8; nothing when there is none, or when @since is 0. */
int mt_edge_traces(struct mt_pg *pg, int64_t since, int64_t head, struct mt_buf *b, struct mt_err *err);
