/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The config line for a guest, as far as workload and image say it: process, variables, disks, mounts, logs. Network, secrets and exec are of whoever
 * runs the VM. Pure; knows no instances. Source: runtime.md 9.3.
 */
#pragma once

#include "agent/image/image.h"
#include "model/workload.h"
#include "wire/guest.h"

struct mt_arena;

/* Borrowed, and by the result too. */
struct mt_guest_make {
    const struct mt_workload *spec;
    const struct mt_image_config *image; /* NULL: not at hand */
    const char *instance_id, *boot_id;
    uint64_t generation;
    const char *root_uuid, *scratch_uuid;
};

#define MT_GUEST_CONFIG_ARENA (4U << 20)

/** The kernel command line of a guest, but for what the driver adds. @builtin: nothing is a module. */
int mt_guest_boot_args(bool builtin, const char *instance_id, const char *boot_id, char *ret, size_t size, struct mt_err *err);

/** Fill @c, which is zeroed. Returns 0, or -code and the reason why this workload cannot be configured. */
int mt_guest_config_make(const struct mt_guest_make *m, struct mt_arena *ar, struct mt_guest_config *c, enum mt_reason *ret_reason, struct mt_err *err);
