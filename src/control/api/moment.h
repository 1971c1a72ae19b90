/* SPDX-License-Identifier: Apache-2.0 */
/* A moment of the log, as people name it: `2026-11-28T21:00:00Z`, `-2h30m` (before now), `@4711` (after that event), `now`. */
#pragma once

#include "control/api/call.h"

struct mt_moment {
    int64_t event_id; /* the last event that had happened */
    int64_t own_us;   /* when the organisation's last event at or before it happened */
};

/**
 * The moment that @text, the value of query parameter @name, means. Times are of the server's clock, which stamps the events; two
 * events of one time are in the order of their ids. Returns 0 or -1: 400 invalid_argument that says what is wrong: not a time, in
 * the future, before the organisation's first event.
 */
int mt_api_moment(struct mt_api_call *c, const char *name, const char *text, struct mt_moment *ret);

/** Microseconds of a text like "2h", "1h30m", "7d" (s, m, h, d, w; each number at most 7 digits). Pure; -MT_E_INVALID. */
int mt_moment_ago(const char *text, int64_t *ret_us, struct mt_err *err);
