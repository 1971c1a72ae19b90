/* SPDX-License-Identifier: Apache-2.0 */
/* At most so many of something in any second (launches, runtime.md §3). Pure: time comes in. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { MT_PACE_MAX = 64 };

struct mt_pace {
    int64_t at_ns[MT_PACE_MAX]; /* the newest ones, a ring; 0 none yet */
    unsigned next;
};

/** May one more be at @now_ns with @most (1..MT_PACE_MAX) in a second? Otherwise *@ret_when_ns is the first moment. */
bool mt_pace_may(const struct mt_pace *p, unsigned most, int64_t now_ns, int64_t *ret_when_ns);
/** One was. */
void mt_pace_note(struct mt_pace *p, int64_t now_ns);
