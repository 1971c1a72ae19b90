/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The probe of a proof: a throwaway microVM on a restored copy of a volume, which runs one command and says by its exit code whether the copy is good.
 *
 * Image, user, variables and memory are those of the process that mounts the volume; there is no network, no secret and nothing that outlives the call.
 * Blocks; on the worker of the restore, with a loop of its own for the guest's channels. What an agent that was killed left is found by a file
 * <restore_id>.try, written before anything else is made: mt_trial_sweep takes it all away. Knows nothing of plans and reports.
 */
#pragma once

#include "agent/agent.h"
#include "agent/image/image.h"
#include "model/volume.h"
#include "model/workload.h"

struct mt_trial {
    /* given; borrowed */
    struct mt_agent *a; /* thread-safe members only */
    const char *dir, *restore_id;
    struct mt_workload *spec; /* with one mount, whose UUID is filled in */
    uint32_t seconds;
    uint32_t slot, overhead_mib;
    struct mt_vmm *vmm;
    struct mt_bundle bundle;
    const atomic_bool *cancelled;
    atomic_bool image_cancelled; /* set by mt_image_cancel to end mt_trial_ready */
    /* result */
    bool ran;
    uint32_t ms; /* from the start of the VM until it was over */
    int exit_code; /* -1: it did not exit by itself */
    char detail[MT_PROBE_DETAIL_MAX]; /* how it ended otherwise; "" */
    char output[MT_PROBE_OUTPUT_MAX]; /* what it said last, printable, lines kept; "" */
    /* own */
    struct mt_rootdisk disk;
};

/** Its image is at hand and pinned until mt_trial_done. Before the volume is restored: a pull may take its time, or fail. 0, -MT_E_CANCELLED, -code. */
int mt_trial_ready(struct mt_trial *t, struct mt_err *err);
/**
 * Boot on @device, which holds the filesystem @fs_uuid, run the probe, take everything away again. The device is changed.
 * Returns 0 it exited with 0; -MT_E_CORRUPT it did not, or the guest could not mount the volume or run the command (detail); -MT_E_CANCELLED;
 * else -code: it could not be tried.
 */
int mt_trial_run(struct mt_trial *t, const char *device, const char *fs_uuid, struct mt_err *err);
/** Release the image. */
void mt_trial_done(struct mt_trial *t);

/** The name of its jail and scratch disk, <ULID>-0: instances begin with 1. */
bool mt_trial_name(const char *name, char ret_restore_id[MT_ID_SIZE]);
/** Take away what agents before left of trials in @dir. Not while one runs. */
void mt_trial_sweep(struct mt_agent *a, const char *dir);
