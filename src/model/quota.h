/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quotas of an organisation: the one table of dimensions with the limits of the tiers (control-plane.md §14). It drives
 * enforcement, `moat orgs quotas`, and docs/api/quotas.txt (`moat-control --quotas`). Pure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define MT_QUOTA_GIB INT64_C(1073741824)
#define MT_QUOTA_TIB (INT64_C(1024) * MT_QUOTA_GIB)
#define MT_QUOTA_OVERHEAD INT64_C(67108864) /* bytes counted with each instance's memory */
#define MT_QUOTA_UNLIMITED INT64_C(-1)
#define MT_QUOTA_LIMIT_MAX INT64_C(9007199254740991)

/* X(symbol, dimension, free, paid, what is counted) */
#define MT_QUOTAS(X)                                                                                                       \
    X(PROJECTS, "max_projects", 5, 50, "live projects")                                                                    \
    X(APPS, "max_apps", 10, 200, "live apps")                                                                              \
    X(ENVS, "max_envs", 20, 600, "live environments of all apps")                                                          \
    X(INSTANCES, "max_instances", 10, 500, "instances not asked to stop; those that fail or drain count")                  \
    X(TOTAL_MEMORY, "max_total_memory_bytes", 8 * MT_QUOTA_GIB, 1 * MT_QUOTA_TIB, "memory caps of the instances and 64 MiB each") \
    X(TOTAL_CPU, "max_total_cpu_millis", 8000, 512000, "processor requests of the instances")                              \
    X(INSTANCE_MEMORY, "max_instance_memory_bytes", 4 * MT_QUOTA_GIB, 64 * MT_QUOTA_GIB, "memory cap of one instance")     \
    X(ROUTES, "max_routes", 10, 500, "live routes")                                                                        \
    X(PUBLIC_PORTS, "max_public_ports", 10, 500, "different ports that live routes use on an address")                     \
    X(SERVICE_PRINCIPALS, "max_service_principals", 5, 50, "live service principals")                                      \
    X(MEMBERS, "max_members", 5, 100, "members and those invited")                                                         \
    X(DEPLOYS_PER_ENV_HOUR, "max_deploys_per_env_hour", 30, 120, "deploys, rollbacks and restarts of one environment in an hour") \
    X(EXEC_SESSIONS, "max_exec_sessions", 4, 40, "exec sessions granted or connected")                                       \
    X(VOLUMES, "max_volumes", 5, 200, "live volumes")                                                                      \
    X(VOLUME_BYTES, "max_total_volume_bytes", 50 * MT_QUOTA_GIB, 10 * MT_QUOTA_TIB, "sizes of the live volumes, asked-for growth included") \
    X(VOLUME_ATTACHMENTS, "max_volume_attachments", 10, 400, "volumes attached to a process")                               \
    X(SNAPSHOTS, "max_snapshots_per_volume", 5, 60, "manual snapshots of one volume that did not fail and are not deleted")     \
    X(RESTORES, "max_concurrent_restores", 1, 4, "restores that somebody asked for and that have not ended")                 \
    X(IPV4, "max_ipv4_allocations", 0, 10, "IPv4 addresses that environments have")                                          \
    X(IPV4_PORTS, "max_ipv4_extra_ports", 2, 5, "ports beside 80 and 443 that routes use on the IPv4 address of one environment") \
    X(LOG_DRAINS, "max_log_drains", 1, 5, "log drains")                                                                    \
    X(STREAMS, "max_log_streams", 5, 50, "open event and log streams, on one server")

enum mt_quota {
#define X(symbol, name, free, paid, counts) MT_QUOTA_##symbol,
    MT_QUOTAS(X)
#undef X
    MT_QUOTA_MAX
};

enum mt_quota_tier { MT_TIER_FREE = 0, MT_TIER_PAID, MT_TIER_UNLIMITED, MT_TIER_MAX };

/** "max_apps". */
const char *mt_quota_name(enum mt_quota q);
/** By name; MT_QUOTA_MAX when there is no such dimension. */
enum mt_quota mt_quota_by_name(const char *name);
/** What the dimension counts, in words. */
const char *mt_quota_counts(enum mt_quota q);
/** Limit of a tier, or what mt_quota_configure put in its place; MT_QUOTA_UNLIMITED when it has none. */
int64_t mt_quota_default(enum mt_quota q, enum mt_quota_tier tier);
/** The operator's own default of a dimension, for every tier. At start, before any thread asks. */
void mt_quota_configure(enum mt_quota q, int64_t limit);
bool mt_quota_configured(enum mt_quota q);
/** "free", "paid", "unlimited"; false when it is none of these. */
bool mt_quota_tier_parse(const char *name, enum mt_quota_tier *ret);
const char *mt_quota_tier_name(enum mt_quota_tier tier);
