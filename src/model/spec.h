/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a release to what a node runs: the spec hash of a group, and the WorkloadSpec of one instance.
 *
 * Only the control plane calls this; agents compare the hash as an opaque text. Everything is resolved here: merged
 * variables, defaults, digest of the architecture, limits, mounts. Source: scheduling-and-operations.md 4.2,
 * control-plane.md 18, runtime.md 2.2.
 */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/workload.h"

struct mt_err;

#define MT_SPEC_HASH_SIZE 65

struct mt_spec_volume {
    const char *name; /* of the manifest */
    const char *volume_id;
    const char *fs_uuid; /* NULL until provisioned */
};

/** What all instances of a group share. All texts borrowed. */
struct mt_spec_group {
    const char *org_id, *org_name;
    const char *app_id, *app_name;
    const char *env_id, *env_name;
    const char *process_type;
    const char *release_id;
    uint64_t release_number;
    const json_t *manifest; /* canonical, as stored with the release */
    const char *manifest_hash;
    const char *image_digest;      /* what the release pinned: index digest if it is an index */
    bool image_is_index;
    const char *image_repository;  /* host[:port]/path */
    const char *pull_credential_ref; /* NULL: anonymous */
    const char *secret_version_id;   /* NULL: none */
    bool secrets_file;               /* that version has at least one key: the file exists in the guest */
    const struct mt_spec_volume *volumes; /* every volume the process mounts */
    size_t n_volumes;
    uint64_t restart_generation, rebalance_generation;
};

/** What one instance adds. */
struct mt_spec_instance {
    const char *instance_id;
    uint64_t generation;         /* >= 1 */
    const char *spec_hash;       /* as recorded at allocation; NULL: computed */
    const char *overlay_ipv6;
    const char *arch;            /* of the node */
    const char *resolved_digest; /* manifest for that architecture */
    bool health_proxy_protocol;  /* an active route to the health port injects PROXY v2 */
};

/**
 * spec_hash of a group: lower-case hex SHA-256 of canonical JSON. Two groups with the same inputs have the same hash on
 * every machine; scale, routes, labels and names of org, app and environment are not inputs.
 * Returns 0; -MT_E_NOT_FOUND (process type), -MT_E_INVALID (a mount without its volume), -MT_E_CORRUPT, -MT_E_NOMEM.
 */
int mt_spec_hash(const struct mt_spec_group *group, char ret[MT_SPEC_HASH_SIZE], struct mt_err *err);

/**
 * The WorkloadSpec of one instance, checked by the strict decoder; its `doc` is the JSON for the plan.
 * Returns as mt_spec_hash, and -MT_E_INVALID when the result is not a valid spec. Free with mt_workload_free.
 */
int mt_spec_build(const struct mt_spec_group *group, const struct mt_spec_instance *instance, struct mt_workload **ret,
                  struct mt_err *err);

/**
 * What a proof of a backup of @volume (its name in the manifest) runs: the probe of the manifest as the command of the process that mounts it, with
 * image, user, variables and resources of that process, without network, secrets, ports and prestart, and with one mount: @volume_id, read and write,
 * at the volume's path, whose filesystem the node finds out. Volumes of the group and the instance's address are not asked.
 * Returns 0 with the limit of its time; -MT_E_NOT_FOUND the manifest names no probe, or the process does not mount it; else as mt_spec_build.
 */
int mt_spec_probe(const struct mt_spec_group *group, const struct mt_spec_instance *instance, const char *volume, const char *volume_id,
                  struct mt_workload **ret, uint32_t *ret_seconds, struct mt_err *err);
