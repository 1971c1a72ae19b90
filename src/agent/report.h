/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane is told: status batches and heartbeats (runtime.md §2.3).
 *
 * Loop thread. Transitions are coalesced for 100 ms, but ready, failed and exited go at once (ruling R23); every
 * report is repeated until acknowledged; all instances are sent again each 60 s. What is not acknowledged survives a
 * crash because it is derived from the state files.
 */
#pragma once

#include "agent/agent.h"

struct mt_report;

/** NULL when out of memory. */
struct mt_report *mt_report_new(struct mt_agent *a, struct mt_err *err);
void mt_report_free(struct mt_report *r);
/** @in has something to tell. */
void mt_report_due(struct mt_report *r, struct mt_inst *in);
/** A volume has something to tell. @r may be NULL: not there yet, it is asked when it is. */
void mt_report_volumes(struct mt_report *r);
/** @in goes away. */
void mt_report_forget(struct mt_report *r, struct mt_inst *in);
/** The answer to the batch in flight: HTTP status, or 0 when there was none. */
void mt_report_answer(struct mt_report *r, int http_status, const char *detail);
/** Send everything again at the next occasion (the control plane was away). */
void mt_report_resync(struct mt_report *r);
/** Heartbeat body; malloc'ed, NULL when out of memory. */
char *mt_report_heartbeat(struct mt_agent *a);
/** Conditions of this node as words, for heartbeat and doctor. @ret holds up to @max static texts; returns their number. */
size_t mt_report_conditions(struct mt_agent *a, const char **ret, size_t max);
/** The wire status of an instance as it is now. */
const char *mt_report_status_name(const struct mt_inst *in);
