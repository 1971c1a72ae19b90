/* SPDX-License-Identifier: Apache-2.0 */
/* The registered payload schema of every event type (control-plane.md §7.1). A new optional field is the same version; a
 * changed meaning or a new required field is a new version with an upcaster. */
#include "control/log/types.h"

#include "base/assert.h"

#include <string.h>

static const struct mt_ev_info infos[MT_EV_MAX] = {
#define X(symbol, type, aggregate, version, birth, tenant) \
    [MT_EV_##symbol] = {type, aggregate, version, MT_EV_##birth, tenant},
    MT_EVENT_TYPES(X)
#undef X
};

#define TEXT(n) {n, MT_PF_TEXT, true, NULL}
#define TEXT_OPT(n) {n, MT_PF_TEXT, false, NULL}
#define INT(n) {n, MT_PF_INT, true, NULL}
#define INT_OPT(n) {n, MT_PF_INT, false, NULL}
#define BOOL(n) {n, MT_PF_BOOL, true, NULL}
#define BOOL_OPT(n) {n, MT_PF_BOOL, false, NULL}
#define OBJECT(n) {n, MT_PF_OBJECT, true, NULL}
#define OBJECT_OPT(n) {n, MT_PF_OBJECT, false, NULL}
#define TEXTS(n) {n, MT_PF_TEXTS, true, NULL}
#define TEXTS_OPT(n) {n, MT_PF_TEXTS, false, NULL}
#define OBJECTS(n) {n, MT_PF_OBJECTS, true, NULL}
#define OBJECTS_OPT(n) {n, MT_PF_OBJECTS, false, NULL}
#define ENUM(n, v) {n, MT_PF_ENUM, true, v}
#define ENUM_OPT(n, v) {n, MT_PF_ENUM, false, v}
#define ANY(n) {n, MT_PF_ANY, true, NULL}
#define ANY_OPT(n) {n, MT_PF_ANY, false, NULL}
#define END {NULL, MT_PF_ANY, false, NULL}

#define ADMIN_STATES "enrolled|pending_approval|active|cordoned|draining|disabled|removed"
#define HEALTHS "ready|degraded|suspect|offline|lost"
#define ROLES "owner|admin|developer|readonly"
#define BALANCE "round_robin|least_conn"

static const struct mt_pf f_user_created[] = {TEXT("email"), TEXT_OPT("display_name"), BOOL("is_operator"), END};
static const struct mt_pf f_user_updated[] = {TEXT_OPT("display_name"), BOOL_OPT("is_operator"),
                                              ENUM_OPT("state", "active|disabled"), END};
static const struct mt_pf f_name[] = {TEXT("name"), END};
static const struct mt_pf f_name_opt[] = {TEXT_OPT("name"), END};
static const struct mt_pf f_reason[] = {TEXT("reason"), END};
/* limit and previous: null is no override */
static const struct mt_pf f_quota_set[] = {TEXT("dimension"), ANY("limit"), ANY_OPT("previous"), TEXT("reason"), END};
static const struct mt_pf f_none[] = {END};
static const struct mt_pf f_cascade[] = {BOOL("cascade"), END};
/* billing_email: null takes the value away */
static const struct mt_pf f_org_updated[] = {TEXT_OPT("name"), ANY_OPT("billing_email"), BOOL_OPT("developer_exec"), END};
static const struct mt_pf f_member_added[] = {TEXT("email"), TEXT_OPT("user_id"), ENUM("role", ROLES),
                                              ENUM("state", "invited|active"), END};
static const struct mt_pf f_member_activated[] = {TEXT("user_id"), END};
static const struct mt_pf f_member_role[] = {ENUM("old_role", ROLES), ENUM("new_role", ROLES), END};
static const struct mt_pf f_member_removed[] = {TEXT("email"), END};
static const struct mt_pf f_sp_created[] = {TEXT("name"), TEXT("client_id"), TEXTS("scopes"), OBJECT_OPT("restrict"), END};
/* restrict: null takes the restriction away */
static const struct mt_pf f_sp_updated[] = {TEXT_OPT("name"), {"scopes", MT_PF_TEXTS, false, NULL}, ANY_OPT("restrict"), END};
static const struct mt_pf f_sp_rotated[] = {TEXT("rotation_id"), TEXT_OPT("old_valid_until"), END};
/* no password: that is in moat.registry_secrets, by material_id */
static const struct mt_pf f_registry_set[] = {TEXT("host"), TEXT("username"), TEXT("material_id"), END};
static const struct mt_pf f_registry_deleted[] = {TEXT("host"), END};
/* no token: that is beside the passwords, by material_id; without one material_id is not there */
static const struct mt_pf f_drain_set[] = {TEXT("name"), ENUM("kind", "syslog|otlp"), TEXT("target"), TEXT_OPT("header"), TEXT_OPT("ca_pem"), TEXT_OPT("material_id"), END};
static const struct mt_pf f_image_block[] = {TEXT("digest"), BOOL("evict"), TEXT("reason"), END};
/* of an organisation's, and yet in no envelope of it: tenants do not read it */
static const struct mt_pf f_quarantine[] = {ENUM("target_type", "instance|env|org"), TEXT("target_id"), TEXT("reason"), END};
static const struct mt_pf f_app_created[] = {TEXT("name"), TEXT_OPT("description"), TEXT_OPT("project_id"), END};
/* description and project_id: null takes the value away */
static const struct mt_pf f_app_updated[] = {TEXT_OPT("name"), ANY_OPT("description"), ANY_OPT("project_id"), END};
/* the last two: null takes the value away */
static const struct mt_pf f_env_updated[] = {TEXT_OPT("name"), BOOL_OPT("private_network"), BOOL_OPT("protected"),
                                             ANY_OPT("label_selector"), ANY_OPT("backup_interval_seconds"), END};
static const struct mt_pf f_release_created[] = {
    INT("number"), TEXT("image_ref"), TEXT("image_digest"), ENUM("image_kind", "manifest|index"), OBJECTS("platforms"),
    BOOL("image_verified"), TEXT("manifest_hash"), OBJECT("manifest"), END};
static const struct mt_pf f_deploy_created[] = {
    ENUM("kind", "deploy|rollback|restart"), TEXT_OPT("release_id"), OBJECT("release_ids"), TEXTS("process_types"),
    ENUM("strategy", "rolling"), ENUM("on_failure", "hold|rollback"), INT("timeout_seconds"), OBJECT("previous_release_ids"),
    TEXT_OPT("note"), OBJECTS_OPT("warnings"), END};
static const struct mt_pf f_deploy_status[] = {ENUM("status", "queued|rolling|succeeded|failed|superseded"), TEXT_OPT("message"),
                                               TEXT_OPT("failed_reason"), TEXT_OPT("superseded_by"), END};
static const struct mt_pf f_desired_set[] = {TEXT("process_type"), TEXT("release_id"), TEXT("deploy_id"), END};
static const struct mt_pf f_desired_cleared[] = {TEXT("process_type"), TEXT("deploy_id"), END};
static const struct mt_pf f_scale_set[] = {OBJECTS("scales"), END};
static const struct mt_pf f_restart[] = {TEXTS("process_types"), TEXT("deploy_id"), END};
static const struct mt_pf f_scheduling[] = {TEXT("process_type"), ENUM("condition", "ok|blocked|held"), TEXT_OPT("reason"),
                                            TEXT_OPT("detail"), TEXT_OPT("stable_spec"), TEXT_OPT("target_spec"),
                                            TEXT_OPT("next_try_at"), END};
static const struct mt_pf f_rebalance[] = {TEXTS("process_types"), END};
static const struct mt_pf f_route_created[] = {
    TEXT_OPT("hostname"), INT("listen_port"), ENUM("protocol", "tls_passthrough|tcp_raw"), ENUM("address_scope", "shared6|ipv4"),
    TEXT("backend_process_type"), INT("backend_port"), ENUM("proxy_protocol", "off|v2"), BOOL("backend_expects_proxy_protocol"),
    BOOL("ipv4_required"), OBJECT("options"), ENUM("managed_by", "api|manifest"), END};
static const struct mt_pf f_route_updated[] = {
    TEXT_OPT("backend_process_type"), INT_OPT("backend_port"), ENUM_OPT("proxy_protocol", "off|v2"),
    BOOL_OPT("backend_expects_proxy_protocol"), BOOL_OPT("ipv4_required"), BOOL_OPT("proxy_tlv"), ANY_OPT("max_connections"),
    ANY_OPT("idle_timeout_seconds"), ENUM_OPT("balance", BALANCE), ANY_OPT("min_tls_version"), BOOL_OPT("default_for_listener"), BOOL_OPT("allow_non_tls"),
    BOOL_OPT("disabled"), TEXT_OPT("reason"), END};
static const struct mt_pf f_route_deleted[] = {TEXT_OPT("hostname"), INT("listen_port"), END};
static const struct mt_pf f_bundle_created[] = {ENUM("format", "moat_env_v1"), END};
/* neither values nor names of keys */
static const struct mt_pf f_version_set[] = {TEXT("version_id"), INT("version_number"), TEXT("data_hash"), INT("key_count"),
                                             BOOL("confirmed_none"), ENUM("source", "put|patch|activate"), END};
static const struct mt_pf f_allocated[] = {
    TEXT("process_type"), TEXT("node_id"), TEXT("release_id"), TEXT_OPT("deploy_id"), TEXT_OPT("secret_version_id"),
    TEXT("overlay_ipv6"), OBJECT("resources"), TEXT("arch"), TEXT("image_digest"), TEXT("spec_hash"), INT("generation"),
    TEXT_OPT("replaces"), END};
static const struct mt_pf f_desired_state[] = {ENUM("desired_state", "draining|stopped"), INT_OPT("grace_seconds"),
                                               INT_OPT("drain_delay_seconds"), TEXT("reason"), END};
static const struct mt_pf f_status[] = {
    TEXT("node_id"), ENUM("status", "booting|starting|ready|unready|draining|stopped|failed"), TEXT_OPT("status_detail"),
    TEXT_OPT("boot_id"), INT_OPT("exit_code"), TEXT_OPT("reason_code"), TEXT_OPT("reason_detail"), TEXT_OPT("next_retry_at"), INT("restart_count"),
    TEXT("reported_at"), END};
static const struct mt_pf f_released[] = {TEXT("overlay_ipv6"), END};
#define EXEC_ENDS \
    "exited|killed|timeout|connect_timeout|client_disconnect|revoked|instance_stopped|agent_unreachable|start_failed|protocol_error"
/* command: an array of texts, of which some may be the same */
static const struct mt_pf f_exec_granted[] = {TEXT("instance_id"), ANY("command"), BOOL("tty"), TEXT_OPT("user"), TEXT("expires_at"),
                                              INT("max_duration_seconds"), END};
static const struct mt_pf f_exec_connected[] = {TEXT("instance_id"), {"source_ip", MT_PF_TEXT, true, NULL, MT_SEE_AUDIT}, END};
static const struct mt_pf f_exec_revoked[] = {TEXT("instance_id"), END};
static const struct mt_pf f_exec_ended[] = {TEXT("instance_id"), ENUM("end_reason", EXEC_ENDS), INT_OPT("exit_code"),
                                            TEXT_OPT("signal"), INT_OPT("stdin_bytes"), INT_OPT("output_bytes"), END};
#define VOLUME_FAULTS \
    "provision_timeout|unexpected_content|volume_not_present_on_node|filesystem_mismatch|resize_failed|remove_failed|no_space|internal_error"
static const struct mt_pf f_volume_created[] = {TEXT("name"), INT("size_bytes"), ENUM("filesystem", "ext4"), BOOL("backup_enabled"),
                                                TEXT("home_node_id"), TEXT_OPT("from_snapshot_id"), END};
static const struct mt_pf f_volume_provisioned[] = {ENUM("result", "ok|failed"), TEXT_OPT("fs_uuid"), ENUM_OPT("error_reason", VOLUME_FAULTS), END};
static const struct mt_pf f_volume_resize[] = {INT("size_bytes"), END};
static const struct mt_pf f_volume_resized[] = {INT("size_bytes"), ENUM("result", "ok|failed"), ENUM_OPT("error_reason", VOLUME_FAULTS), END};
static const struct mt_pf f_volume_state[] = {ENUM("state", "in_use|available|deleting|error"), TEXT_OPT("reason"), BOOL_OPT("delete_backups"), BOOL_OPT("forced"), END};
static const struct mt_pf f_volume_renamed[] = {TEXT("name"), TEXT("old_name"), END};
static const struct mt_pf f_volume_updated[] = {TEXT_OPT("name"), BOOL_OPT("backup_enabled"), END};
static const struct mt_pf f_volume_collected[] = {ENUM("result", "ok|failed"), TEXT_OPT("failed_reason"), TEXT_OPT("detail"), BOOL("purged"), INT("upto_event_id"),
                                                  INT_OPT("manifests"), INT_OPT("manifests_deleted"), INT_OPT("chunks_deleted"), INT_OPT("bytes_deleted"),
                                                  INT_OPT("chunks_kept_young"), INT("duration_ms"), END};
static const struct mt_pf f_volume_rekeyed[] = {INT("key_epoch"), TEXT("reason"), END};
static const struct mt_pf f_volume_check[] = {INT("number"), BOOL("repair"), END};
static const struct mt_pf f_volume_checked[] = {INT("number"), BOOL("repair"), ENUM("result", "clean|repaired|damaged|failed|in_use"), TEXT_OPT("detail"), END};
static const struct mt_pf f_volume_deleted[] = {BOOL("forced"), BOOL("delete_backups"), END};
static const struct mt_pf f_snapshot_created[] = {TEXT("volume_id"), TEXT("source_node_id"), ENUM("origin", "scheduled|manual|migration"), TEXT_OPT("note"),
                                                  TEXT_OPT("migration_id"), END};
static const struct mt_pf f_snapshot_status[] = {
    TEXT("volume_id"), ENUM("status", "queued|running|succeeded|failed"), ENUM_OPT("phase", "capturing|uploading|verifying"),
    ENUM_OPT("consistency", "crash|filesystem"), TEXT_OPT("captured_at"), INT_OPT("size_bytes"), INT_OPT("changed_bytes"), INT_OPT("uploaded_bytes"),
    {"key_epoch", MT_PF_INT, false, NULL, MT_SEE_OPERATOR}, {"image_root", MT_PF_TEXT, false, NULL, MT_SEE_OPERATOR},
    {"manifest_sha256", MT_PF_TEXT, false, NULL, MT_SEE_OPERATOR}, TEXT_OPT("parent_snapshot_id"), BOOL_OPT("distrusted_stored"), TEXT_OPT("failed_reason"), END};
static const struct mt_pf f_snapshot_proof[] = {TEXT("volume_id"), ENUM("kind", "readback|restore"), ENUM("result", "ok|damaged|failed"), INT("bytes"),
                                                INT("duration_ms"), TEXT_OPT("failed_reason"), INT_OPT("probe_ms"), INT_OPT("probe_exit_code"), TEXT_OPT("probe_detail"),
                                                TEXT_OPT("probe_output"), END};
static const struct mt_pf f_restore_created[] = {TEXT("snapshot_id"), TEXT("source_volume_id"), TEXT("new_volume_id"), TEXT("target_env_id"),
                                                 TEXT("target_node_id"), ENUM_OPT("purpose", "proof|precopy|migration"), TEXT_OPT("migration_id"), TEXT_OPT("base_restore_id"), END};
static const struct mt_pf f_migration_created[] = {TEXT_OPT("process_type"), TEXTS("volume_ids"), TEXTS("new_volume_ids"), TEXT("source_node_id"), TEXT("target_node_id"),
                                                   ENUM("reason", "user|drain|replace"), END};
static const struct mt_pf f_migration_status[] = {ENUM("status", "queued|running|succeeded|failed"),
                                                  ENUM_OPT("phase", "precopy|stopping|final_copy|checking|starting|returning"), INT_OPT("downtime_ms"),
                                                  TEXT_OPT("failed_reason"), END};
static const struct mt_pf f_restore_status[] = {ENUM("status", "queued|running|succeeded|failed"), ENUM_OPT("phase", "downloading|checking"),
                                                INT_OPT("bytes_done"), INT_OPT("bytes_total"), TEXT_OPT("failed_reason"), END};
static const struct mt_pf f_snapshot_pruned[] = {TEXT("volume_id"), ENUM("reason", "retention|user|volume_deleted"), END};
static const struct mt_pf f_attachment_created[] = {TEXT("volume_id"), TEXT("process_type"), TEXT("mount_path"), BOOL("read_only"),
                                                    ENUM("managed_by", "api|manifest"), END};
static const struct mt_pf f_attachment_replaced[] = {TEXT("old_volume_id"), TEXT("new_volume_id"), TEXT("old_name"), ENUM("reason", "user|restore|migration|recover"), END};
static const struct mt_pf f_attachment_deleted[] = {TEXT("volume_id"), TEXT("process_type"), BOOL("forced"), END};
static const struct mt_pf f_ipv4_pool[] = {TEXT("address"), TEXT_OPT("reason"), END};
static const struct mt_pf f_ipv4_enabled[] = {TEXT("allocation_id"), TEXT("ipv4_address"), END};
static const struct mt_pf f_ipv4_disabled[] = {TEXT("allocation_id"), TEXT("ipv4_address"), BOOL("forced"), END};
static const struct mt_pf f_ipv4_carrier[] = {TEXT("allocation_id"), TEXT("ipv4_address"), TEXT("edge_node_id"), TEXT("reason"), END};
/* `from` inclusive, `to` exclusive, RFC 3339; the aggregate is ALLOCATION.YYYYMMDDHH: each hour of one once */
static const struct mt_pf f_usage[] = {ENUM("kind", "ipv4"), TEXT("allocation_id"), TEXT("ipv4_address"), TEXT("from"), TEXT("to"), INT("extra_ports"), END};
static const struct mt_pf f_enrolled[] = {
    TEXT("name"), TEXTS("roles"), TEXT("arch"), TEXT("wireguard_public_key"), TEXT("cert_fingerprint"), TEXT("overlay_ipv6"),
    TEXT("instance_prefix"), TEXT_OPT("public_ipv6"), TEXT_OPT("public_ipv4"), OBJECT("labels"), OBJECT("capacity"),
    TEXT("enrollment_token_id"), TEXTS_OPT("endpoints"), END};
/* renewed by the node itself; the fingerprint is that of the new key */
static const struct mt_pf f_cert_renewed[] = {ENUM("kind", "node|edge"), TEXT("cert_fingerprint"), TEXT("serial"), TEXT("not_after"), END};
static const struct mt_pf f_key_requested[] = {INT("lead_seconds"), TEXT_OPT("reason"), END};
static const struct mt_pf f_key_started[] = {TEXT("next_public_key"), INT("key_generation"), INT("cutover_unix_ms"), END};
static const struct mt_pf f_key_rotated[] = {TEXT("wireguard_public_key"), INT("key_generation"), END};
static const struct mt_pf f_key_back[] = {TEXT("wireguard_public_key"), INT("key_generation"), TEXT("reason"), END};
static const struct mt_pf f_token_created[] = {TEXT("expires_at"), TEXTS("roles"), TEXT_OPT("node_name"), TEXT_OPT("source_cidr"),
                                               BOOL("require_approval"), END};
static const struct mt_pf f_token_used[] = {TEXT("node_id"), END};
static const struct mt_pf f_admin_state[] = {ENUM("old", ADMIN_STATES), ENUM("new", ADMIN_STATES), TEXT_OPT("reason"), ENUM_OPT("stateful", "stay|stop|migrate"), END};
static const struct mt_pf f_move_refused[] = {TEXT("node_id"), TEXT("code"), TEXT("reason"), END};
static const struct mt_pf f_health[] = {ENUM("old", HEALTHS), ENUM("new", HEALTHS), TEXTS("conditions"), TEXT_OPT("reason"), END};
static const struct mt_pf f_node_config[] = {OBJECT("changed"), OBJECT("previous"), TEXT("reason"), END};
static const struct mt_pf f_node_updated[] = {OBJECT_OPT("labels"), ANY_OPT("public_ipv6"), ANY_OPT("public_ipv4"),
                                              INT_OPT("mtu"), OBJECT_OPT("allocatable"), OBJECT_OPT("vmm"),
                                              TEXT_OPT("agent_version"), TEXT_OPT("wireguard_public_key"),
                                              TEXTS_OPT("endpoints"), END};
static const struct mt_pf f_cluster_config[] = {TEXT("key"), ANY_OPT("previous"), ANY("value"), TEXT("reason"), END};
static const struct mt_pf f_epoch[] = {INT("epoch"), TEXT("reason"), END};

static const struct mt_pf *const fields[MT_EV_MAX] = {
    [MT_EV_USER_CREATED] = f_user_created,
    [MT_EV_USER_UPDATED] = f_user_updated,
    [MT_EV_ORG_CREATED] = f_name,
    [MT_EV_ORG_UPDATED] = f_org_updated,
    [MT_EV_ORG_SUSPENDED] = f_reason,
    [MT_EV_ORG_RESUMED] = f_reason,
    [MT_EV_ORG_QUOTA_SET] = f_quota_set,
    [MT_EV_ORG_DELETED] = f_none,
    [MT_EV_ORG_MEMBER_ADDED] = f_member_added,
    [MT_EV_ORG_MEMBER_ACTIVATED] = f_member_activated,
    [MT_EV_ORG_MEMBER_ROLE_UPDATED] = f_member_role,
    [MT_EV_ORG_MEMBER_REMOVED] = f_member_removed,
    [MT_EV_SERVICE_PRINCIPAL_CREATED] = f_sp_created,
    [MT_EV_SERVICE_PRINCIPAL_UPDATED] = f_sp_updated,
    [MT_EV_SERVICE_PRINCIPAL_SECRET_ROTATED] = f_sp_rotated,
    [MT_EV_SERVICE_PRINCIPAL_DELETED] = f_none,
    [MT_EV_REGISTRY_CREDENTIAL_SET] = f_registry_set,
    [MT_EV_REGISTRY_CREDENTIAL_DELETED] = f_registry_deleted,
    [MT_EV_LOG_DRAIN_CREATED] = f_drain_set,
    [MT_EV_LOG_DRAIN_UPDATED] = f_drain_set,
    [MT_EV_LOG_DRAIN_DELETED] = f_name,
    [MT_EV_PROJECT_CREATED] = f_name,
    [MT_EV_PROJECT_UPDATED] = f_name_opt,
    [MT_EV_PROJECT_DELETED] = f_none,
    [MT_EV_APP_CREATED] = f_app_created,
    [MT_EV_APP_UPDATED] = f_app_updated,
    [MT_EV_APP_DELETED] = f_cascade,
    [MT_EV_ENV_CREATED] = f_name,
    [MT_EV_ENV_UPDATED] = f_env_updated,
    [MT_EV_ENV_DELETED] = f_cascade,
    [MT_EV_RELEASE_CREATED] = f_release_created,
    [MT_EV_DEPLOY_CREATED] = f_deploy_created,
    [MT_EV_DEPLOY_STATUS_CHANGED] = f_deploy_status,
    [MT_EV_ENV_DESIRED_RELEASE_SET] = f_desired_set,
    [MT_EV_ENV_DESIRED_RELEASE_CLEARED] = f_desired_cleared,
    [MT_EV_ENV_SCALE_SET] = f_scale_set,
    [MT_EV_ENV_RESTART_REQUESTED] = f_restart,
    [MT_EV_ENV_SCHEDULING_CHANGED] = f_scheduling,
    [MT_EV_ENV_REBALANCE_REQUESTED] = f_rebalance,
    [MT_EV_ROUTE_CREATED] = f_route_created,
    [MT_EV_ROUTE_UPDATED] = f_route_updated,
    [MT_EV_ROUTE_DELETED] = f_route_deleted,
    [MT_EV_SECRET_BUNDLE_CREATED] = f_bundle_created,
    [MT_EV_SECRET_BUNDLE_VERSION_SET] = f_version_set,
    [MT_EV_SECRET_BUNDLE_DELETED] = f_none,
    [MT_EV_INSTANCE_ALLOCATED] = f_allocated,
    [MT_EV_INSTANCE_DESIRED_STATE_CHANGED] = f_desired_state,
    [MT_EV_INSTANCE_STATUS_CHANGED] = f_status,
    [MT_EV_INSTANCE_RESTART_REQUESTED] = f_none,
    [MT_EV_INSTANCE_RELEASED] = f_released,
    [MT_EV_EXEC_SESSION_GRANTED] = f_exec_granted,
    [MT_EV_EXEC_SESSION_CONNECTED] = f_exec_connected,
    [MT_EV_EXEC_SESSION_REVOKED] = f_exec_revoked,
    [MT_EV_EXEC_SESSION_ENDED] = f_exec_ended,
    [MT_EV_VOLUME_CREATED] = f_volume_created,
    [MT_EV_VOLUME_PROVISIONED] = f_volume_provisioned,
    [MT_EV_VOLUME_RESIZE_REQUESTED] = f_volume_resize,
    [MT_EV_VOLUME_RESIZED] = f_volume_resized,
    [MT_EV_VOLUME_STATE_CHANGED] = f_volume_state,
    [MT_EV_VOLUME_RENAMED] = f_volume_renamed,
    [MT_EV_VOLUME_UPDATED] = f_volume_updated,
    [MT_EV_VOLUME_CHECK_REQUESTED] = f_volume_check,
    [MT_EV_VOLUME_CHECKED] = f_volume_checked,
    [MT_EV_VOLUME_DELETED] = f_volume_deleted,
    [MT_EV_VOLUME_BACKUPS_COLLECTED] = f_volume_collected,
    [MT_EV_VOLUME_BACKUPS_REKEYED] = f_volume_rekeyed, /* in logs of before; the one that follows is what is written now */
    [MT_EV_VOLUME_BACKUP_KEY_ROTATED] = f_volume_rekeyed,
    [MT_EV_VOLUME_ATTACHMENT_CREATED] = f_attachment_created,
    [MT_EV_VOLUME_ATTACHMENT_REPLACED] = f_attachment_replaced,
    [MT_EV_VOLUME_ATTACHMENT_DELETED] = f_attachment_deleted,
    [MT_EV_SNAPSHOT_CREATED] = f_snapshot_created,
    [MT_EV_SNAPSHOT_STATUS_CHANGED] = f_snapshot_status,
    [MT_EV_SNAPSHOT_PRUNED] = f_snapshot_pruned,
    [MT_EV_SNAPSHOT_PROOF_RECORDED] = f_snapshot_proof,
    [MT_EV_RESTORE_JOB_CREATED] = f_restore_created,
    [MT_EV_RESTORE_JOB_STATUS_CHANGED] = f_restore_status,
    [MT_EV_VOLUME_MOVE_REFUSED] = f_move_refused,
    [MT_EV_VOLUME_MIGRATION_CREATED] = f_migration_created,
    [MT_EV_VOLUME_MIGRATION_STATUS_CHANGED] = f_migration_status,
    [MT_EV_ENV_IPV4_ENABLED] = f_ipv4_enabled,
    [MT_EV_ENV_IPV4_DISABLED] = f_ipv4_disabled,
    [MT_EV_ENV_IPV4_CARRIER_CHANGED] = f_ipv4_carrier,
    [MT_EV_USAGE_RECORDED] = f_usage,
    [MT_EV_IPV4_POOL_ADDED] = f_ipv4_pool,
    [MT_EV_IPV4_POOL_REMOVED] = f_ipv4_pool,
    [MT_EV_NODE_ENROLLED] = f_enrolled,
    [MT_EV_NODE_ADMIN_STATE_CHANGED] = f_admin_state,
    [MT_EV_NODE_HEALTH_CHANGED] = f_health,
    [MT_EV_NODE_CONFIG_SET] = f_node_config,
    [MT_EV_NODE_UPDATED] = f_node_updated,
    [MT_EV_NODE_REMOVED] = f_reason,
    [MT_EV_NODE_CERTIFICATE_RENEWED] = f_cert_renewed,
    [MT_EV_NODE_KEY_ROTATION_REQUESTED] = f_key_requested,
    [MT_EV_NODE_KEY_ROTATION_STARTED] = f_key_started,
    [MT_EV_NODE_KEY_ROTATED] = f_key_rotated,
    [MT_EV_NODE_KEY_ROTATION_ROLLED_BACK] = f_key_back,
    [MT_EV_ENROLLMENT_TOKEN_CREATED] = f_token_created,
    [MT_EV_ENROLLMENT_TOKEN_USED] = f_token_used,
    [MT_EV_ENROLLMENT_TOKEN_REVOKED] = f_none,
    [MT_EV_QUARANTINE_SET] = f_quarantine,
    [MT_EV_QUARANTINE_CLEARED] = f_quarantine,
    [MT_EV_IMAGE_BLOCK_SET] = f_image_block,
    [MT_EV_IMAGE_BLOCK_CLEARED] = f_image_block,
    [MT_EV_CLUSTER_CONFIG_SET] = f_cluster_config,
    [MT_EV_CLUSTER_EPOCH_BUMPED] = f_epoch,
    [MT_EV_CLUSTER_RECOVERY_FINISHED] = f_epoch,
};

const struct mt_ev_info *mt_ev_info(enum mt_ev ev)
{
    MT_ASSERT(ev < MT_EV_MAX);
    return &infos[ev];
}

enum mt_ev mt_ev_by_name(const char *type)
{
    for (unsigned i = 0; i < MT_EV_MAX; i++)
        if (strcmp(infos[i].type, type) == 0)
            return (enum mt_ev)i;
    return MT_EV_MAX;
}

const struct mt_pf *mt_ev_fields(enum mt_ev ev)
{
    MT_ASSERT(ev < MT_EV_MAX);
    return fields[ev];
}

bool mt_ev_hides(enum mt_ev ev)
{
    for (const struct mt_pf *f = mt_ev_fields(ev); f->name; f++)
        if (f->see != MT_SEE_TENANT)
            return true;
    return false;
}
