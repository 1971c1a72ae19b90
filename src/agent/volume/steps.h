/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done to one volume of this node, each thing whole and safe to do again: provision, attach (with growth), remove.
 *
 * Each takes the volume's lock, `<id>.lock` beside it, and fails with -MT_E_CONFLICT when a VM or another step has it; attach hands it to
 * its caller, who keeps it for the VM's life. Killed at any instruction, the next call finishes or begins anew: a volume has its name only
 * once its filesystem is on it. Blocks; on a worker. Source: storage-and-secrets.md 2.4, 2.6, 3.5; runtime.md 17.
 */
#pragma once

#include "agent/volume/backend.h"
#include "agent/volume/fstool.h"
#include "model/volume.h"

/**
 * Make the volume that the plan wants present; one that is there with the right filesystem and at least the size is success.
 * One that was available and is missing is never made again empty, one of a restore is not formatted here.
 * Returns 0 with its size; else -code and *@ret_fault, the word for the report.
 */
int mt_volume_provision(const struct mt_backend *b, const struct mt_fstool *t, const struct mt_plan_volume *v, uint64_t *ret_bytes,
                        enum mt_volume_fault *ret_fault, struct mt_err *err);

/** The lock alone, for who already has the volume (an agent that adopts a VM). -MT_E_CONFLICT another has it. Caller closes. */
int mt_volume_lock(const struct mt_backend *b, const char *volume_id, int *ret_lock, struct mt_err *err);

/** Remove the lock of a volume that is not there; of one that is, nothing. The caller has none of it. */
void mt_volume_forget_lock(const struct mt_backend *b, const char *volume_id);
/** The same for who has the lock and keeps it until this is done: nobody's copy of it can be in the way. */
void mt_volume_forget_held(const struct mt_backend *b, const char *volume_id);
/** When the agent starts: remove the locks of volumes that are neither there nor begun; an agent was killed between the volume's end and its lock's. */
void mt_volume_sweep_locks(const struct mt_backend *b);

/**
 * The check that an operator has asked for, on a volume that no VM has. Its state is not changed here. Returns 0 with the verdict and what the tool said;
 * -MT_E_CONFLICT a VM or another step has it, -MT_E_NOT_FOUND, or -code: nothing is known of it.
 */
int mt_volume_check(const struct mt_backend *b, const struct mt_fstool *t, const char *volume_id, const char *fs_uuid, bool repair, enum mt_volume_verdict *ret,
                    char ret_detail[MT_CHECK_DETAIL_MAX + 1], struct mt_err *err);

/** Remove volume and lock; not there is success. The caller removes its snapshots first. */
int mt_volume_remove(const struct mt_backend *b, const char *volume_id, enum mt_volume_fault *ret_fault, struct mt_err *err);

/**
 * Before a VM gets it: there, unlocked, open for writing nowhere, ext4 of UUID @fs_uuid, and grown to @resize_to_bytes if that is more than
 * it has. @check: the guest could not mount it the last time, so `e2fsck -pf` comes first.
 * Returns 0: @ret_path for the VMM and @ret_lock (caller closes, after the VM is gone); else -code and *@ret_detail, a reason_detail of
 * volume_attach_failed (static text).
 */
int mt_volume_attach(const struct mt_backend *b, const struct mt_fstool *t, const char *volume_id, const char *fs_uuid, uint64_t resize_to_bytes, bool check,
                     char ret_path[PATH_MAX], int *ret_lock, const char **ret_detail, struct mt_err *err);
