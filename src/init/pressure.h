/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that only fetches its program text again and again.
 *
 * Without swap the kernel can take minutes to call the OOM killer of a guest just short of memory: each page of text that it evicts and
 * reads back counts as progress. So init asks the kernel to be told when much time is lost to memory (PSI), looks whether there is
 * anything left that could be given, and calls the killer itself once that has gone on. The killer it calls (sysrq f) chooses and counts
 * as it always does, and never panics for want of a victim. Measured, 128 MiB guest under TCG, a growing awk: 3 % of the processor is the
 * program's and 85 % the kernel's, 58 % of the time some task is stalled, available are 0 to 400 KiB of 60 MiB, and no kill within 180 s.
 *
 * The multi-generational LRU's min_ttl_ms is not for this: in a guest with less than 16 MiB of page cache it kills whenever kswapd is
 * woken, however much could be reclaimed, and calls the killer again when the victim is gone, which panics ("System is deadlocked on
 * memory"; mm/vmscan.c of 6.12, lru_gen_age_node and lruvec_is_reclaimable).
 * Source: Documentation/accounting/psi.rst, admin-guide/sysrq.rst; runtime.md 6 (oom_killed).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "init/stats.h"

enum { MT_PRESSURE_WINDOW_MS = 2000, MT_PRESSURE_STALL_MS = 600, MT_PRESSURE_WINDOWS = 2, MT_PRESSURE_LEFT = 64 };

struct mt_pressure {
    int fd;      /**< poll it for POLLPRI; -1: the kernel does not tell */
    int kill_fd; /**< /proc/sysrq-trigger */
    unsigned windows; /**< stalled ones with nothing left, in a row */
    int64_t last_ns;
};

/** Ask to be told of windows in which a task stalled for MT_PRESSURE_STALL_MS. @proc: folder of a proc filesystem. -1: this kernel does not tell. */
int mt_pressure_open(struct mt_pressure *p, const char *proc);
/**
 * A stalled window was told at @now. True when less than 1/MT_PRESSURE_LEFT of @total_bytes is available and that is so for the
 * MT_PRESSURE_WINDOWS'th time in a row; then counting begins anew.
 */
bool mt_pressure_count(struct mt_pressure *p, uint64_t total_bytes, uint64_t available_bytes, int64_t now);
/** poll() found @revents on fd. */
void mt_pressure_turn(struct mt_pressure *p, short revents, const struct mt_stats *stats, int64_t now);
