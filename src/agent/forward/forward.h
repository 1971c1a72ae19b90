/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines leave the node (scheduling-and-operations.md §7.2): to the operator's receiver, as agent.toml says, and to those that
 * organisations have set (log drains), which the control plane is asked for. A thread that keeps the list; each receiver is a sink (sink.h).
 */
#pragma once

#include "agent/agent.h"
#include "agent/forward/sources.h"
#include "wire/metrics.h"

struct mt_forward;

/** -MT_E_INVALID the configuration of the node's receiver is wrong, or a file that it names cannot be read. */
int mt_forward_new(struct mt_agent *a, struct mt_forward **ret, struct mt_err *err);
/** Ends all children; what the receivers have is on disk. NULL is fine. */
void mt_forward_free(struct mt_forward *f);
/** An instance that writes lines here, as long as it runs. NULL is fine for both. */
struct mt_log_source *mt_forward_hold(struct mt_forward *f, const char *const ids[MT_LOGFWD_IDS], uint64_t last);
void mt_forward_release(struct mt_forward *f, struct mt_log_source *src);
/** Its series of the metrics page. */
void mt_forward_measure(struct mt_forward *f, struct mt_metrics *m);
/** Where each sink stands, for the doctor: text into @out; 1 when one is down and lines wait for it, else 0. */
int mt_forward_doctor(struct mt_forward *f, struct mt_buf *out);
