/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One receiver of log lines: a thread that reads the store behind the instances and a child, moat-forward, that speaks to the receiver.
 *
 * Nothing here can hold up an instance: the store is the buffer. What the receiver has is kept in a file (the cursor), at most a second
 * late, so lines come at least once and in order for each instance. What retention takes from the store before the receiver has it, and
 * what it refuses for good, is counted and said in the stream as a system line "forward dropped=N ...".
 */
#pragma once

#include "agent/forward/sources.h"

#include <sys/types.h>

enum mt_sink_kind { MT_SINK_NODE = 0, MT_SINK_ORG, MT_SINK_KINDS };

/* Of all sinks of one kind since the start: sinks come and go, counters do not fall. */
struct mt_sink_totals {
    _Atomic uint64_t lines, lost, refused;
};

struct mt_sink_conf {
    enum mt_sink_kind kind;
    const char *id;       /* "node" or the drain's id: name of the cursor's file */
    const char *org_id;   /* whose lines; NULL: everybody's */
    int64_t since_us;     /* a sink without cursor: lines of before this moment are not its business; 0: what is stored when it begins */
    const char *child;    /* moat-forward's configuration, JSON; copied, wiped at the end */
    const char *program;  /* path of moat-forward; borrowed */
    const char *state_dir; /* borrowed */
    struct mt_log_sources *sources;
    struct mt_sink_totals *totals;
};

struct mt_sink;
int mt_sink_new(const struct mt_sink_conf *c, struct mt_sink **ret, struct mt_err *err);
/** Ends the child and the thread. @forget: the cursor goes too. */
void mt_sink_free(struct mt_sink *s, bool forget);

struct mt_sink_state {
    bool up;
    uint64_t waiting; /* lines that the receiver does not have */
    char why[MT_LOGFWD_TEXT_MAX + 1];
};
void mt_sink_state(struct mt_sink *s, struct mt_sink_state *ret);
