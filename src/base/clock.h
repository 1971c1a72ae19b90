/* SPDX-License-Identifier: Apache-2.0 */
/* Time: monotonic nanoseconds inside, wall time (UTC) only at the edges. */
#pragma once

#include "base/err.h"

#define MT_NS_PER_MS INT64_C(1000000)
#define MT_NS_PER_S INT64_C(1000000000)

/** Nanoseconds of CLOCK_MONOTONIC. */
int64_t mt_clock_mono(void);
/** Microseconds since 1970-01-01 UTC. */
int64_t mt_clock_wall_us(void);

#define MT_RFC3339_LEN 28 /* "2026-11-23T03:00:00.000000Z" and NUL */
/** RFC 3339 UTC with microseconds and Z into @ret[MT_RFC3339_LEN]; returns @ret. */
const char *mt_rfc3339(int64_t wall_us, char *ret);
/** Parse RFC 3339 (any fraction up to 9 digits, Z or +hh:mm); -MT_E_INVALID. */
int mt_rfc3339_parse(const char *s, int64_t *ret_wall_us, struct mt_err *err);
