/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which monitor this host uses, proven by booting the bundle (rulings R3, R25).
 * Knows drivers and the `hello` line; decides nothing about scheduling.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/vmm/vmm.h"

struct mt_vmm_probe_conf {
    struct mt_vmm_conf vmm;
    const char *want;           /* "auto", "firecracker" or "qemu" (config key `vmm`) */
    const char *kernel_path;    /* of the bundle in use */
    const char *initramfs_path;
    const char *cache_path;     /* D/run/vmm.json */
    const char *scratch_dir;    /* same filesystem as jail_base: two small disks are made here and removed */
    const char *bundle_version; /* part of the cache key: a new bundle is probed again */
};

struct mt_vmm_choice {
    bool ok;                  /* false: nothing boots; condition vmm_unavailable with `reason` */
    enum mt_vmm_kind kind;
    enum mt_vmm_accel accel;
    bool cached;              /* answer of an earlier probe in this boot of the host */
    unsigned hello_ms;        /* launch to hello of the probe that succeeded */
    char version[64];         /* of the monitor */
    char reason[768];         /* what was tried and why it was taken or not; one line, for doctor and the node record */
};

/**
 * Decide. Boots at most one probe VM after the other (firecracker, qemu+kvm: 5 s each, times vmm.patience; qemu+tcg: 30 s, usually 1.5 s),
 * without network, slot 65535, and removes every trace. Blocks; run it in the worker pool.
 *
 * Returns 0 with @ret_choice filled, also when nothing boots (ok = false); a negative code only for a wrong
 * configuration or an unusable scratch folder.
 */
int mt_vmm_probe(const struct mt_vmm_probe_conf *conf, struct mt_vmm_choice *ret_choice, struct mt_err *err);
