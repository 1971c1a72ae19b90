/* SPDX-License-Identifier: Apache-2.0 */
/* The event catalogue (control-plane.md §7.1): every type with its aggregate, and the registered schema of its payload.
 * Append refuses a payload that does not fit. Type names are permanent. Pure: needs base and jansson only. */
#pragma once

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

/** How an event stands to its aggregate: its first event, a later one, or either. */
enum mt_ev_birth { MT_EV_FIRST = 0, MT_EV_LATER, MT_EV_ANY };

/* X(symbol, type, aggregate_type, version, birth, tenant may read) */
#define MT_EVENT_TYPES(X)                                                              \
    X(USER_CREATED, "user.created", "user", 1, FIRST, false)                           \
    X(USER_UPDATED, "user.updated", "user", 1, LATER, false)                           \
    X(ORG_CREATED, "org.created", "org", 1, FIRST, true)                               \
    X(ORG_UPDATED, "org.updated", "org", 1, LATER, true)                               \
    X(ORG_SUSPENDED, "org.suspended", "org", 1, LATER, true)                           \
    X(ORG_RESUMED, "org.resumed", "org", 1, LATER, true)                               \
    X(ORG_QUOTA_SET, "org.quota_set", "org", 1, LATER, true)                           \
    X(ORG_DELETED, "org.deleted", "org", 1, LATER, true)                               \
    X(ORG_MEMBER_ADDED, "org_member.added", "org_member", 1, FIRST, true)              \
    X(ORG_MEMBER_ACTIVATED, "org_member.activated", "org_member", 1, LATER, true)      \
    X(ORG_MEMBER_ROLE_UPDATED, "org_member.role_updated", "org_member", 1, LATER, true) \
    X(ORG_MEMBER_REMOVED, "org_member.removed", "org_member", 1, LATER, true)          \
    X(SERVICE_PRINCIPAL_CREATED, "service_principal.created", "service_principal", 1, FIRST, true) \
    X(SERVICE_PRINCIPAL_UPDATED, "service_principal.updated", "service_principal", 1, LATER, true) \
    X(SERVICE_PRINCIPAL_SECRET_ROTATED, "service_principal.secret_rotated", "service_principal", 1, LATER, true) \
    X(SERVICE_PRINCIPAL_DELETED, "service_principal.deleted", "service_principal", 1, LATER, true) \
    X(REGISTRY_CREDENTIAL_SET, "registry_credential.set", "registry_credential", 1, ANY, true) \
    X(REGISTRY_CREDENTIAL_DELETED, "registry_credential.deleted", "registry_credential", 1, LATER, true) \
    X(LOG_DRAIN_CREATED, "log_drain.created", "log_drain", 1, FIRST, true)             \
    X(LOG_DRAIN_UPDATED, "log_drain.updated", "log_drain", 1, LATER, true)             \
    X(LOG_DRAIN_DELETED, "log_drain.deleted", "log_drain", 1, LATER, true)             \
    X(PROJECT_CREATED, "project.created", "project", 1, FIRST, true)                   \
    X(PROJECT_UPDATED, "project.updated", "project", 1, LATER, true)                   \
    X(PROJECT_DELETED, "project.deleted", "project", 1, LATER, true)                   \
    X(APP_CREATED, "app.created", "app", 1, FIRST, true)                               \
    X(APP_UPDATED, "app.updated", "app", 1, LATER, true)                               \
    X(APP_DELETED, "app.deleted", "app", 1, LATER, true)                               \
    X(ENV_CREATED, "env.created", "env", 1, FIRST, true)                               \
    X(ENV_UPDATED, "env.updated", "env", 1, LATER, true)                               \
    X(ENV_DELETED, "env.deleted", "env", 1, LATER, true)                               \
    X(RELEASE_CREATED, "release.created", "release", 1, FIRST, true)                   \
    X(DEPLOY_CREATED, "deploy.created", "deploy", 1, FIRST, true)                      \
    X(DEPLOY_STATUS_CHANGED, "deploy.status_changed", "deploy", 1, LATER, true)        \
    X(ENV_DESIRED_RELEASE_SET, "env.desired_release_set", "env", 1, LATER, true)       \
    X(ENV_DESIRED_RELEASE_CLEARED, "env.desired_release_cleared", "env", 1, LATER, true) \
    X(ENV_SCALE_SET, "env.scale_set", "env", 1, LATER, true)                           \
    X(ENV_RESTART_REQUESTED, "env.restart_requested", "env", 1, LATER, true)           \
    X(ENV_SCHEDULING_CHANGED, "env.scheduling_changed", "env", 1, LATER, true)         \
    X(ENV_REBALANCE_REQUESTED, "env.rebalance_requested", "env", 1, LATER, true)       \
    X(ROUTE_CREATED, "route.created", "route", 1, FIRST, true)                         \
    X(ROUTE_UPDATED, "route.updated", "route", 1, LATER, true)                         \
    X(ROUTE_DELETED, "route.deleted", "route", 1, LATER, true)                         \
    X(SECRET_BUNDLE_CREATED, "secret_bundle.created", "secret_bundle", 1, FIRST, true) \
    X(SECRET_BUNDLE_VERSION_SET, "secret_bundle.version_set", "secret_bundle", 1, LATER, true) \
    X(SECRET_BUNDLE_DELETED, "secret_bundle.deleted", "secret_bundle", 1, LATER, true) \
    X(INSTANCE_ALLOCATED, "instance.allocated", "instance", 1, FIRST, true)            \
    X(INSTANCE_DESIRED_STATE_CHANGED, "instance.desired_state_changed", "instance", 1, LATER, true) \
    X(INSTANCE_STATUS_CHANGED, "instance.status_changed", "instance", 1, LATER, true)  \
    X(INSTANCE_RESTART_REQUESTED, "instance.restart_requested", "instance", 1, LATER, true) \
    X(INSTANCE_RELEASED, "instance.released", "instance", 1, LATER, true)              \
    X(EXEC_SESSION_GRANTED, "exec_session.granted", "exec_session", 1, FIRST, true)    \
    X(EXEC_SESSION_CONNECTED, "exec_session.connected", "exec_session", 1, LATER, true) \
    X(EXEC_SESSION_REVOKED, "exec_session.revoked", "exec_session", 1, LATER, true)    \
    X(EXEC_SESSION_ENDED, "exec_session.ended", "exec_session", 1, LATER, true)        \
    X(VOLUME_CREATED, "volume.created", "volume", 1, FIRST, true)                      \
    X(VOLUME_PROVISIONED, "volume.provisioned", "volume", 1, LATER, true)              \
    X(VOLUME_RESIZE_REQUESTED, "volume.resize_requested", "volume", 1, LATER, true)    \
    X(VOLUME_RESIZED, "volume.resized", "volume", 1, LATER, true)                      \
    X(VOLUME_STATE_CHANGED, "volume.state_changed", "volume", 1, LATER, true)          \
    X(VOLUME_RENAMED, "volume.renamed", "volume", 1, LATER, true)                      \
    X(VOLUME_UPDATED, "volume.updated", "volume", 1, LATER, true)                      \
    X(VOLUME_MOVE_REFUSED, "volume.move_refused", "volume", 1, LATER, true)            \
    X(VOLUME_CHECK_REQUESTED, "volume.check_requested", "volume", 1, LATER, true)      \
    X(VOLUME_CHECKED, "volume.checked", "volume", 1, LATER, true)                      \
    X(VOLUME_DELETED, "volume.deleted", "volume", 1, LATER, true)                      \
    X(VOLUME_BACKUPS_COLLECTED, "volume.backups_collected", "volume", 1, LATER, true)  \
    X(VOLUME_BACKUPS_REKEYED, "volume.backups_rekeyed", "volume", 1, LATER, true)      \
    X(VOLUME_BACKUP_KEY_ROTATED, "volume.backup_key_rotated", "volume", 1, LATER, false) \
    X(VOLUME_ATTACHMENT_CREATED, "volume_attachment.created", "volume_attachment", 1, FIRST, true) \
    X(VOLUME_ATTACHMENT_REPLACED, "volume_attachment.replaced", "volume_attachment", 1, LATER, true) \
    X(VOLUME_ATTACHMENT_DELETED, "volume_attachment.deleted", "volume_attachment", 1, LATER, true) \
    X(SNAPSHOT_CREATED, "snapshot.created", "snapshot", 1, FIRST, true)                \
    X(SNAPSHOT_STATUS_CHANGED, "snapshot.status_changed", "snapshot", 1, LATER, true)  \
    X(SNAPSHOT_PRUNED, "snapshot.pruned", "snapshot", 1, LATER, true)                  \
    X(SNAPSHOT_PROOF_RECORDED, "snapshot.proof_recorded", "snapshot", 1, LATER, true)  \
    X(RESTORE_JOB_CREATED, "restore_job.created", "restore_job", 1, FIRST, true)       \
    X(RESTORE_JOB_STATUS_CHANGED, "restore_job.status_changed", "restore_job", 1, LATER, true) \
    X(VOLUME_MIGRATION_CREATED, "volume_migration.created", "volume_migration", 1, FIRST, true) \
    X(VOLUME_MIGRATION_STATUS_CHANGED, "volume_migration.status_changed", "volume_migration", 1, LATER, true) \
    X(ENV_IPV4_ENABLED, "env.ipv4_enabled", "env", 1, LATER, true)                     \
    X(ENV_IPV4_DISABLED, "env.ipv4_disabled", "env", 1, LATER, true)                   \
    X(ENV_IPV4_CARRIER_CHANGED, "env.ipv4_carrier_changed", "env", 1, LATER, false)    \
    X(USAGE_RECORDED, "usage.recorded", "usage", 1, FIRST, true)                       \
    X(IPV4_POOL_ADDED, "ipv4_pool.added", "ipv4_pool", 1, ANY, false)                  \
    X(IPV4_POOL_REMOVED, "ipv4_pool.removed", "ipv4_pool", 1, LATER, false)            \
    X(NODE_ENROLLED, "node.enrolled", "node", 1, FIRST, false)                         \
    X(NODE_ADMIN_STATE_CHANGED, "node.admin_state_changed", "node", 1, LATER, false)   \
    X(NODE_HEALTH_CHANGED, "node.health_changed", "node", 1, LATER, false)             \
    X(NODE_CONFIG_SET, "node.config_set", "node", 1, LATER, false)                     \
    X(NODE_UPDATED, "node.updated", "node", 1, LATER, false)                           \
    X(NODE_REMOVED, "node.removed", "node", 1, LATER, false)                           \
    X(NODE_CERTIFICATE_RENEWED, "node.certificate_renewed", "node", 1, LATER, false)   \
    X(NODE_KEY_ROTATION_REQUESTED, "node.wireguard_key_rotation_requested", "node", 1, LATER, false) \
    X(NODE_KEY_ROTATION_STARTED, "node.wireguard_key_rotation_started", "node", 1, LATER, false) \
    X(NODE_KEY_ROTATED, "node.wireguard_key_rotated", "node", 1, LATER, false)         \
    X(NODE_KEY_ROTATION_ROLLED_BACK, "node.wireguard_key_rotation_rolled_back", "node", 1, LATER, false) \
    X(ENROLLMENT_TOKEN_CREATED, "enrollment_token.created", "enrollment_token", 1, FIRST, false) \
    X(ENROLLMENT_TOKEN_USED, "enrollment_token.used", "enrollment_token", 1, LATER, false) \
    X(ENROLLMENT_TOKEN_REVOKED, "enrollment_token.revoked", "enrollment_token", 1, LATER, false) \
    X(QUARANTINE_SET, "quarantine.set", "quarantine", 1, ANY, false)                   \
    X(QUARANTINE_CLEARED, "quarantine.cleared", "quarantine", 1, LATER, false)         \
    X(IMAGE_BLOCK_SET, "image_block.set", "image_block", 1, ANY, false)                \
    X(IMAGE_BLOCK_CLEARED, "image_block.cleared", "image_block", 1, LATER, false)      \
    X(CLUSTER_CONFIG_SET, "cluster.config_set", "cluster", 1, ANY, false)              \
    X(CLUSTER_EPOCH_BUMPED, "cluster.epoch_bumped", "cluster", 1, ANY, false)          \
    X(CLUSTER_RECOVERY_FINISHED, "cluster.recovery_finished", "cluster", 1, ANY, false)

enum mt_ev {
#define X(symbol, type, aggregate, version, birth, tenant) MT_EV_##symbol,
    MT_EVENT_TYPES(X)
#undef X
    MT_EV_MAX
};

/** A set of event types. */
__extension__ typedef unsigned __int128 mt_ev_mask;
#define MT_EV_BIT(ev) ((mt_ev_mask)1 << (ev))
#define MT_EV_ALL (~(mt_ev_mask)0)
_Static_assert(MT_EV_MAX <= 128, "mt_ev_mask holds every type");

struct mt_ev_info {
    const char *type;
    const char *aggregate_type;
    int version;
    enum mt_ev_birth birth;
    bool tenant; /* tenants may read it; else operators only */
};

const struct mt_ev_info *mt_ev_info(enum mt_ev ev);
/** Look a type up by name; MT_EV_MAX when unknown. */
enum mt_ev mt_ev_by_name(const char *type);

/** Kinds of payload fields. Integers are within +-(2^53-1); there are no floats anywhere. */
enum mt_pf_kind {
    MT_PF_TEXT = 0, /* UTF-8, no NUL, at most 4096 bytes */
    MT_PF_INT,
    MT_PF_BOOL,
    MT_PF_OBJECT,  /* any content that obeys the general rules */
    MT_PF_TEXTS,   /* array of different texts */
    MT_PF_OBJECTS, /* array of objects */
    MT_PF_ENUM,    /* text out of `values` */
    MT_PF_ANY      /* any JSON value, null included */
};

/** Who sees a field of an event that tenants may read. */
enum mt_see {
    MT_SEE_TENANT = 0, /* everybody who reads the event */
    MT_SEE_AUDIT,      /* who may read the audit log; of what somebody did himself also that one */
    MT_SEE_OPERATOR,   /* operators, in the whole log */
    MT_SEE_MAX
};

struct mt_pf {
    const char *name;
    enum mt_pf_kind kind;
    bool required;
    const char *values; /* MT_PF_ENUM: "a|b|c" */
    enum mt_see see;
};

/** Fields of a type's payload; the end is an entry without a name. */
const struct mt_pf *mt_ev_fields(enum mt_ev ev);
/** True when some field of the type is not for everybody who reads it. */
bool mt_ev_hides(enum mt_ev ev);

#define MT_EV_PAYLOAD_MAX 65536

/**
 * Check @payload against the schema of @ev and the general rules (object, canonical form <= 64 KiB, no floats, no U+0000,
 * integers within +-(2^53-1), depth <= 32) and write its canonical JSON to @ret.
 * -MT_E_INVALID with the path of the offending field; -MT_E_LIMIT when too large.
 */
int mt_ev_payload(enum mt_ev ev, const json_t *payload, struct mt_buf *ret, struct mt_err *err);
