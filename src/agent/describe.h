/* SPDX-License-Identifier: Apache-2.0 */
/* What the local socket says about instances and the node: NDJSON into a buffer. Loop thread; no waiting. */
#pragma once

#include "agent/agent.h"
#include "base/buf.h"

struct mt_state;

/** One line for each instance. */
int mt_describe_list(struct mt_agent *a, struct mt_buf *out, struct mt_err *err);
/** One object: state, timings, last end, counters, use. -MT_E_NOT_FOUND. */
int mt_describe_instance(struct mt_agent *a, const char *instance_id, struct mt_buf *out, struct mt_err *err);
/** Serial output of the latest two attempts, a line each: {"attempt":"latest","line":...}. */
int mt_describe_console(struct mt_agent *a, const char *instance_id, struct mt_buf *out, struct mt_err *err);
/** Lines of text, an object each: {"attempt":...,"line":...}; @attempt NULL: without. */
void mt_describe_lines(const char *attempt, const char *text, size_t n, struct mt_buf *out);
/** Checks of runtime.md §22: {"check","severity":"ok|warn|fail","finding","mend"}. */
int mt_describe_doctor(struct mt_agent *a, struct mt_buf *out, struct mt_err *err);
/** "image=1 disk=14 net=11 vm=60 boot=1320 start=30 ready=35": milliseconds of the phases that are over. Returns @ret. */
const char *mt_describe_timing(const struct mt_state *st, char *ret, size_t size);
