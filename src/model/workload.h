/* SPDX-License-Identifier: Apache-2.0 */
/*
 * WorkloadSpec: everything a node needs to run one instance, resolved by the control plane.
 *
 * Field names are those on the wire. Strings are borrowed: from `doc` when the spec was decoded, from the builder when it
 * was built (model/spec.h). The agent treats a spec as a value; it never goes back to the manifest.
 *
 * Source: runtime.md 2.2.
 */
#pragma once

#include "base/cleanup.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_err;

#define MT_SPEC_VERSION "v1"
#define MT_SECRETS_PATH "/run/secrets/platform.env"

#define MT_WORKLOAD_ENV_MAX 512
#define MT_WORKLOAD_ENV_BYTES_MAX (128U * 1024U)
#define MT_WORKLOAD_PORTS_MAX 32
#define MT_WORKLOAD_MOUNTS_MAX 8
#define MT_WORKLOAD_PRESTART_MAX 8
#define MT_WORKLOAD_ARGV_MAX 256
#define MT_WORKLOAD_DNS_MAX 3

struct mt_strings {
    const char **v; /* NUL-terminated strings, borrowed; the array itself is owned */
    size_t n;
};

struct mt_env_var {
    const char *key;
    const char *value;
};

struct mt_prestart {
    struct mt_strings argv;
    uint32_t timeout_seconds;
};

struct mt_workload_port {
    const char *name;
    uint16_t port;
    /* protocol is always "tcp" */
};

struct mt_workload_mount {
    const char *volume_id;
    const char *name;
    const char *path;
    bool read_only;
    const char *fs_uuid; /* NULL until the volume is provisioned */
    /* filesystem is always "ext4" */
};

enum mt_health_type { MT_HEALTH_NONE = 0, MT_HEALTH_TCP, MT_HEALTH_HTTP, MT_HEALTH_TYPE_MAX };

struct mt_health {
    enum mt_health_type type; /* NONE: no check was configured; runtime.md 12 says what the agent does then */
    uint16_t port;
    const char *path; /* http only, else NULL */
    uint32_t interval_seconds;
    uint32_t timeout_seconds;
    uint32_t grace_period_seconds;
    uint32_t success_threshold;
    uint32_t failure_threshold;
    bool proxy_protocol;
};

/** Seconds from the guest's `started` until the attempt fails as startup_timeout. Source: runtime.md 12. */
uint32_t mt_health_startup_timeout(const struct mt_health *health);

enum mt_restart_policy {
    MT_RESTART_ALWAYS = 0,
    MT_RESTART_ON_FAILURE,
    MT_RESTART_NEVER,
    MT_RESTART_POLICY_MAX
};

/** "always", "on-failure", "never". */
const char *mt_restart_policy_name(enum mt_restart_policy policy);

struct mt_limits {
    uint64_t disk_bytes_per_second; /* 0 = the node's default, itself 0 = off; so for all four */
    uint64_t disk_ops_per_second;
    uint64_t net_bytes_per_second;
    uint64_t net_packets_per_second;
};

struct mt_workload {
    json_t *doc; /* owned reference keeping the strings alive; NULL when built by hand */

    const char *org_id;
    const char *app_id;
    const char *env_id;
    const char *process_type;
    const char *instance_id;
    uint64_t generation;
    const char *release_id;
    const char *manifest_hash;
    const char *spec_hash; /* 64 hex; compared, never recomputed */

    struct {
        const char *repository;          /* host[:port]/path */
        const char *index_digest;        /* NULL unless the release names an index */
        const char *resolved_digest;     /* NULL is possible only before resolution: image_unresolved */
        const char *os;                  /* "linux" */
        const char *arch;                /* "amd64" or "arm64" */
        const char *pull_credential_ref; /* NULL: anonymous */
    } image;

    struct mt_strings command; /* empty: the image's Entrypoint + Cmd */
    const char *workdir;       /* NULL: the image's, else "/" */
    const char *user;          /* NULL: the image's, else "0:0" */

    struct mt_env_var *env_vars; /* sorted by key */
    size_t n_env_vars;
    struct mt_prestart *prestart;
    size_t n_prestart;

    struct {
        uint32_t cpu_millis;   /* 50..32000 */
        uint64_t memory_bytes; /* multiple of 1 MiB, >= 64 MiB */
        uint64_t disk_bytes;   /* >= 1 GiB */
        uint32_t vcpu_count;   /* 1..32 */
        uint32_t cpu_weight;   /* 1..10000 */
    } resources;
    struct mt_limits limits;

    struct {
        const char *overlay_ipv6; /* canonical text */
        struct mt_workload_port *ports;
        size_t n_ports;
        uint32_t mtu; /* 0: the plan's */
        struct mt_strings dns;
    } network;

    struct mt_health health;

    struct {
        bool present; /* the object is there */
        bool required;
        const char *version_id; /* NULL: no version pinned */
        uint32_t mode;          /* 0400 or 0440; on the wire the text "0400" */
        bool has_uid, has_gid;
        uint32_t uid, gid;
    } secrets;

    struct mt_workload_mount *mounts; /* ascending volume_id: device order */
    size_t n_mounts;

    struct {
        uint32_t stop_grace_seconds;
        const char *stop_signal; /* TERM INT QUIT HUP USR1 USR2, without SIG */
        enum mt_restart_policy restart_policy;
        uint32_t max_retries;
        uint32_t backoff_seconds;
    } lifecycle;

    struct mt_strings required_features;
};

/** What made a spec unusable: the field path goes into reason_detail of spec_unsupported. */
struct mt_workload_fault {
    char field[64];
    char message[160];
};

/** vCPUs of a cpu share: clamp(ceil(cpu_millis / 1000), 1, 32). Source: scheduling-and-operations.md 1.1. */
uint32_t mt_vcpu_count(uint32_t cpu_millis);

/** cgroup weight of a cpu share: clamp((cpu_millis + 5) / 10, 1, 10000). */
uint32_t mt_cpu_weight(uint32_t cpu_millis);

/**
 * Decode strictly: types and ranges of every known field are checked, unknown fields are ignored, an entry in
 * required_features that is not known is a fault of field "required_features".
 *
 * @json        borrowed; the result keeps a reference of its own
 * @ret         the spec, freed by mt_workload_free
 * @ret_fault   written on -MT_E_INVALID, may be NULL
 * Returns 0; -MT_E_INVALID; -MT_E_NOMEM.
 */
int mt_workload_decode(json_t *json, struct mt_workload **ret, struct mt_workload_fault *ret_fault, struct mt_err *err);

/** Encode with every field of the contract that is set. New reference in @ret. Returns 0 or -MT_E_NOMEM. */
int mt_workload_encode(const struct mt_workload *workload, json_t **ret, struct mt_err *err);

/** Free a spec made by mt_workload_decode or mt_workload_new; NULL is fine. */
void mt_workload_free(struct mt_workload *workload);

static inline void mt_workload_freep(struct mt_workload **workload)
{
    mt_workload_free(*workload);
    *workload = NULL;
}
#define mt_auto_workload mt_cleanup(mt_workload_freep)
