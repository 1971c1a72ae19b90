/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reason codes: one closed table shared by control plane, scheduler, agent, edge and CLI.
 *
 * A code belongs to one or more of three parts: why an instance failed or ended (set by agent or guest), why a desired
 * state left `running` (planned stops, set by the control plane), why a group cannot be placed (set by the scheduler,
 * never on an instance). `platform` marks faults of the platform's side: they are retried and never consume max_retries
 * nor the three attempts of a rollout. Unknown codes received are stored as given and shown. A code that nothing raises stays: the table is what a reader of
 * a log of any version knows (ipam_unavailable: docs/api/errors.md).
 *
 * Source: runtime.md 6, ruling R9.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum mt_reason_part {
    MT_REASON_INSTANCE = 1U << 0,
    MT_REASON_STOP = 1U << 1,
    MT_REASON_PLACEMENT = 1U << 2,
};

/* clang-format off */
/* X(symbol, code, parts, platform side, text for people: lower case, no full stop) */
#define MT_REASONS(X) \
    X(IMAGE_PULL_FAILED, "image_pull_failed", I, true, "the image could not be pulled from the registry") \
    X(IMAGE_PULL_TIMEOUT, "image_pull_timeout", I, true, "pulling the image took longer than its limit") \
    X(IMAGE_TOO_LARGE, "image_too_large", I, false, "the image is above a size, entry or layer limit") \
    X(IMAGE_LAYER_INVALID, "image_layer_invalid", I, false, "a layer of the image breaks the unpack rules") \
    X(IMAGE_ARCH_MISMATCH, "image_arch_mismatch", I, false, "the image is for another processor architecture") \
    X(IMAGE_UNRESOLVED, "image_unresolved", I, false, "the workload names no image digest") \
    X(ROOTFS_BUILD_FAILED, "rootfs_build_failed", I, true, "the root disk could not be built") \
    X(DISK_FULL, "disk_full", I, true, "the node has no disk space left") \
    X(NODE_CAPACITY_EXCEEDED, "node_capacity_exceeded", I, true, "the node cannot hold one more instance of this size") \
    X(VMM_START_FAILED, "vmm_start_failed", I, true, "the microVM did not start") \
    X(BOOT_TIMEOUT, "boot_timeout", I, true, "the guest did not report in time after its start") \
    X(GUEST_PROTOCOL_MISMATCH, "guest_protocol_mismatch", I, true, "guest and agent speak different protocol versions") \
    X(CONFIG_FETCH_FAILED, "config_fetch_failed", I, true, "the guest did not get or accept its configuration") \
    X(NETWORK_SETUP_FAILED, "network_setup_failed", I, true, "the instance's network could not be set up") \
    X(ROOTFS_MOUNT_FAILED, "rootfs_mount_failed", I, true, "the guest could not mount its root") \
    X(VOLUME_ATTACH_FAILED, "volume_attach_failed", I, true, "a volume could not be attached") \
    X(SECRETS_MISSING, "secrets_missing", IP, false, "secrets are required but the environment has none") \
    X(SECRETS_INJECTION_FAILED, "secrets_injection_failed", I, true, "the secrets file could not be delivered") \
    X(USER_NOT_FOUND, "user_not_found", I, false, "the image has no such user") \
    X(WORKDIR_MISSING, "workdir_missing", I, false, "the working directory does not exist in the image") \
    X(EXEC_NOT_FOUND, "exec_not_found", I, false, "the command does not exist in the image") \
    X(EXEC_DENIED, "exec_denied", I, false, "the command may not be executed") \
    X(PRESTART_FAILED, "prestart_failed", I, false, "a prestart command failed or timed out") \
    X(WORKLOAD_EXITED, "workload_exited", I, false, "the process ended with a non-zero exit code") \
    X(WORKLOAD_SIGNALED, "workload_signaled", I, false, "the process was killed by a signal") \
    X(COMPLETED, "completed", I, false, "the process ended with exit code 0 and is not restarted") \
    X(OOM_KILLED, "oom_killed", I, false, "the instance ran out of memory") \
    X(HEALTHCHECK_FAILED, "healthcheck_failed", I, false, "the health check failed too often") \
    X(STARTUP_TIMEOUT, "startup_timeout", I, false, "the instance was not ready within its start time") \
    X(VM_LOST, "vm_lost", I, true, "the microVM vanished without a report") \
    X(VM_UNRESPONSIVE, "vm_unresponsive", I, true, "the microVM stopped answering") \
    X(CGROUP_SETUP_FAILED, "cgroup_setup_failed", I, true, "the resource limits could not be applied") \
    X(SPEC_UNSUPPORTED, "spec_unsupported", I, false, "the node cannot honour this workload specification") \
    X(CRASH_LOOP_BACKOFF, "crash_loop_backoff", I, false, "waiting before the next attempt after repeated failures") \
    X(REPLACED, "replaced", S, false, "a newer instance took its place") \
    X(SCALED_DOWN, "scaled_down", S, false, "fewer replicas are wanted") \
    X(RESTART_REQUESTED, "restart_requested", S, false, "a restart was requested") \
    X(REBALANCED, "rebalanced", S, false, "the group was placed anew on request") \
    X(ENV_DELETED, "env_deleted", S, false, "the environment was deleted") \
    X(ATTEMPT_FAILED, "attempt_failed", S, false, "the instance never became ready") \
    X(NODE_DRAINING, "node_draining", S, false, "its node is being drained") \
    X(NODE_OFFLINE, "node_offline", S, false, "its node does not report") \
    X(NODE_LOST, "node_lost", S, false, "its node was declared lost") \
    X(ORG_SUSPENDED, "org_suspended", SP, false, "the organisation is suspended") \
    X(RELEASE_BLOCKED, "release_blocked", SP, false, "the release's image is blocked by the operator") \
    X(VOLUME_MIGRATING, "volume_migrating", SP, false, "its volumes are on their way to another node") \
    X(TERMINATED_BY_OPERATOR, "terminated_by_operator", S, false, "an operator stopped it") \
    X(NO_NODES_ACTIVE, "no_nodes_active", P, false, "no node is active and ready") \
    X(NO_MATCHING_ARCH, "no_matching_arch", P, false, "no eligible node has an architecture the image was built for") \
    X(NO_MATCHING_LABEL, "no_matching_label", P, false, "no node carries the labels the environment asks for") \
    X(NO_CAPACITY_MEMORY, "no_capacity_memory", P, false, "no node has enough free memory") \
    X(NO_CAPACITY_DISK, "no_capacity_disk", P, false, "no node has enough free scratch disk") \
    X(NO_CAPACITY_CPU, "no_capacity_cpu", P, false, "every node is at its processor ceiling") \
    X(VOLUME_HOME_NODE_OFFLINE, "volume_home_node_offline", P, false, "the node that holds the volume is not available") \
    X(VOLUME_LOCALITY_NO_NODE, "volume_locality_no_node", P, false, "no node holds all volumes of the process") \
    X(VOLUME_IN_USE, "volume_in_use", P, false, "another instance still uses the volume") \
    X(VOLUME_CONSTRAINTS_INVALID, "volume_constraints_invalid", P, false, "a process with volumes has more than one replica, or a volume of it is not there any more") \
    X(IPAM_EXHAUSTED, "ipam_exhausted", P, false, "the node has no instance address left") \
    X(IPAM_UNAVAILABLE, "ipam_unavailable", P, false, "no instance address could be allocated") \
    X(ORG_QUOTA_EXCEEDED, "org_quota_exceeded", P, false, "the organisation's quota is used up") \
    X(SURGE_UNAVAILABLE, "surge_unavailable", P, false, "no room for an extra instance; old ones are drained first") \
    X(RETRY_BACKOFF, "retry_backoff", P, false, "waiting before the next replacement")
/* clang-format on */

enum mt_reason {
    MT_REASON_NONE = 0, /* no reason; its code is "" */
#define MT_REASON_ENUM(symbol, code, parts, platform, text) MT_REASON_##symbol,
    MT_REASONS(MT_REASON_ENUM)
#undef MT_REASON_ENUM
    MT_REASON_MAX
};

struct mt_reason_info {
    const char *code;
    unsigned parts; /* set of enum mt_reason_part */
    bool platform;  /* column P: a fault of the platform's side */
    const char *text;
};

/** Facts of a reason; asserts that @reason is inside the table. */
const struct mt_reason_info *mt_reason_info(enum mt_reason reason);

/** The code as it goes on the wire; "" for MT_REASON_NONE. */
const char *mt_reason_code(enum mt_reason reason);

/** Look a code up; MT_REASON_NONE when NULL or not in the table (a newer peer may know more). */
enum mt_reason mt_reason_from_code(const char *code);

/** True when a failure with this code is the platform's and must not count against the workload; false if unknown. */
bool mt_reason_is_platform(const char *code);
