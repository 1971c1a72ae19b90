/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an accepted config to a machine ready for the workload: disks, mounts, sysctls, clock, network,
 * files in /etc (runtime.md 8, steps 4 to 11). Runs once, in order, without waiting for anybody.
 */
#pragma once

#include "base/err.h"
#include "init/cmdline.h"
#include "wire/guest.h"

/** Why a boot ends; @reason is a code of runtime.md 6, static text. */
struct mt_boot_failure {
    const char *reason;
    char detail[MT_GUEST_TEXT_MAX];
};

/** Fill @ret and return -1. */
int mt_boot_fail(struct mt_boot_failure *ret, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/**
 * What the codec cannot check: ids equal to the command line, no feature this init lacks, secrets that
 * are required are there. A config that announces a feature unknown here is refused, never half obeyed.
 * Returns 0 or -1 with @ret.
 */
int mt_boot_accept(const struct mt_guest_config *config, const struct mt_cmdline *cmdline,
                   struct mt_boot_failure *ret);

/** Do it. Returns 0 or -1 with @ret; what was mounted before the failure stays. */
int mt_boot_setup(const struct mt_guest_config *config, struct mt_boot_failure *ret);
