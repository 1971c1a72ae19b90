/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of the guest for pong and for telling an OOM kill from another SIGKILL. */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

/** Files kept open: the workload may be root and hide /proc later. */
struct mt_stats {
    int meminfo_fd, vmstat_fd, loadavg_fd, root_fd;
};

/** Open the files beneath @proc ("/proc") and @root ("/"). A file that is missing gives zeroes later. */
void mt_stats_open(struct mt_stats *stats, const char *proc, const char *root);
void mt_stats_done(struct mt_stats *stats);
/** Value of oom_kill in vmstat: OOM kills since the guest booted. */
uint64_t mt_stats_oom_kills(const struct mt_stats *stats);
/** Fill everything but ts_ns and what is of volumes. */
void mt_stats_fill(const struct mt_stats *stats, struct mt_guest_pong *ret);

/** The number after the line's first word @key ("MemTotal:") in @text, 0 when absent. Pure. */
uint64_t mt_stats_value(const char *text, const char *key);
/** Thousandths of the first decimal fraction in @text ("0.52 ..." gives 520), 0 when malformed. Pure. */
uint64_t mt_stats_milli(const char *text);
