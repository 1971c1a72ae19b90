/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The requirements of runtime.md §22 on this machine, watched: what fails takes the node out of placement (a condition of the heartbeat, with what was
 * found and the command that mends it) until it is mended. Loop thread only. The looks are the heartbeat's and the doctor's own, at most one in
 * MT_HOST_LOOK_MS; what fails in one look and not in the next is in passing and counts for nothing, except at the start.
 */
#pragma once

#include "agent/hostcheck.h"
#include "wire/json.h"

#include <stdbool.h>

#define MT_HOST_LOOK_MS 5000
#define MT_E2FS_VERSION 24

struct mt_agent;

struct mt_host {
    struct mt_hostcheck_row rows[MT_HOSTCHECK_ROWS];
    bool failing[MT_HOSTCHECK_ROWS]; /* what counts */
    unsigned in_row[MT_HOSTCHECK_ROWS]; /* looks in a row in which it failed */
    int64_t looked_ns;               /* 0: never */
    int64_t e2fs_made_ns;            /* of the program whose version this is */
    char e2fs_version[MT_E2FS_VERSION];
};

/** Raise what this process may raise by itself: its descriptors. */
void mt_host_prepare(void);
/** All rows; looks when @now or when the last look is long ago. */
const struct mt_hostcheck_row *mt_host_rows(struct mt_agent *a, bool now);
/** Words for the heartbeat's conditions: at most @max into @ret, returns how many. */
size_t mt_host_conditions(struct mt_agent *a, const char **ret, size_t max);
/** [{item, finding, mend}] of what fails, for the heartbeat; NULL: nothing does. */
json_t *mt_host_report(struct mt_agent *a);
