/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent counts for its metrics page (scheduling-and-operations.md §8). Loop thread, but for the pulls, which workers
 * count. Everything else on the page is read off the agent when it is asked for.
 */
#pragma once

#include "agent/channel.h"
#include "agent/measure_storage.h"
#include "model/reason.h"
#include "wire/metrics.h"

struct mt_agent;
struct mt_inst;

enum mt_boot_phase { MT_BOOT_PULL = 0, MT_BOOT_ROOTFS, MT_BOOT_VMM, MT_BOOT_GUEST, MT_BOOT_READY, MT_BOOT_PHASE_MAX };

struct mt_agent_measure {
    uint64_t beats_taken, beats_refused, beats_unreachable;
    struct mt_hist reconcile;
    struct mt_hist boot[MT_BOOT_PHASE_MAX][2]; /* ok, failed */
    uint64_t failures[MT_REASON_MAX], restarts[MT_REASON_MAX];
    uint64_t oom_host, oom_guest;
    _Atomic uint64_t pulls_ok, pulls_failed;
    uint64_t lines[3]; /* stdout, stderr, system */
    int64_t used_at_ns; /* when what VMs use was last looked at; 0 never */
    uint64_t firewall_mended;
    uint64_t breaches[MT_BREACH_MAX];
    _Atomic uint64_t evictions;
    struct mt_storage_measure storage;
    int64_t plan_heard_ns; /* monotonic; 0: not yet */
};

/** The instance became ready for the first time in this attempt. */
void mt_agent_measure_ready(const struct mt_inst *in);
/** The attempt is over, unplanned; @again: another one follows. */
void mt_agent_measure_over(const struct mt_inst *in, bool again);
/** The whole page. Loop thread. -MT_E_LIMIT. */
int mt_agent_measure_page(void *agent, struct mt_buf *b, struct mt_err *err);
/** For /readyz: a plan was heard, the driver and the firewall are there (or, disconnected, what runs is served). */
bool mt_agent_measure_is_ready(void *agent, const char **ret_why);
