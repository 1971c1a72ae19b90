/* SPDX-License-Identifier: Apache-2.0 */
/* Every handler of the route table (api/table.c), by the file it lives in. All return 0 or -1 as api/call.h says. */
#pragma once

#include <jansson.h>

struct mt_api_call;

/* account.c */
int mt_api_whoami(struct mt_api_call *c);
int mt_api_capabilities(struct mt_api_call *c);
/* auth_token.c */
int mt_api_device_start(struct mt_api_call *c);
int mt_api_device_token(struct mt_api_call *c);
int mt_api_auth_token(struct mt_api_call *c);
int mt_api_auth_refresh(struct mt_api_call *c);
int mt_api_auth_revoke(struct mt_api_call *c);
/* tokens.c */
int mt_api_tokens_list(struct mt_api_call *c);
int mt_api_tokens_create(struct mt_api_call *c);
int mt_api_tokens_delete(struct mt_api_call *c);
int mt_api_tokens_revoke(struct mt_api_call *c);
/* users.c */
int mt_api_users_list(struct mt_api_call *c);
int mt_api_users_create(struct mt_api_call *c);
int mt_api_users_get(struct mt_api_call *c);
int mt_api_users_update(struct mt_api_call *c);
int mt_api_users_setup_link(struct mt_api_call *c);
/* break_glass.c */
int mt_api_break_glass(struct mt_api_call *c);
/* pages/device_page.c, pages/setup_page.c */
int mt_page_device_get(struct mt_api_call *c);
int mt_page_device_post(struct mt_api_call *c);
int mt_page_device_approved(struct mt_api_call *c);
int mt_page_device_denied(struct mt_api_call *c);
int mt_page_setup_get(struct mt_api_call *c);
int mt_page_setup_post(struct mt_api_call *c);
int mt_page_setup_done(struct mt_api_call *c);
/* members.c */
int mt_api_members_list(struct mt_api_call *c);
int mt_api_members_create(struct mt_api_call *c);
int mt_api_members_update(struct mt_api_call *c);
int mt_api_members_delete(struct mt_api_call *c);
/* service_principals.c */
int mt_api_sps_list(struct mt_api_call *c);
int mt_api_sps_get(struct mt_api_call *c);
int mt_api_sps_create(struct mt_api_call *c);
int mt_api_sps_update(struct mt_api_call *c);
int mt_api_sps_rotate(struct mt_api_call *c);
int mt_api_sps_delete(struct mt_api_call *c);
/* tenancy.c */
int mt_api_orgs_list(struct mt_api_call *c);
int mt_api_orgs_create(struct mt_api_call *c);
int mt_api_orgs_get(struct mt_api_call *c);
int mt_api_projects_list(struct mt_api_call *c);
int mt_api_projects_create(struct mt_api_call *c);
int mt_api_projects_get(struct mt_api_call *c);
int mt_api_apps_list(struct mt_api_call *c);
int mt_api_apps_create(struct mt_api_call *c);
int mt_api_apps_get(struct mt_api_call *c);
int mt_api_envs_list(struct mt_api_call *c);
int mt_api_envs_create(struct mt_api_call *c);
int mt_api_envs_get(struct mt_api_call *c);
/* schemas.c */
int mt_api_event_schemas(struct mt_api_call *c);
/* tenancy_change.c */
int mt_api_orgs_patch(struct mt_api_call *c);
int mt_api_orgs_delete(struct mt_api_call *c);
int mt_api_projects_patch(struct mt_api_call *c);
int mt_api_projects_delete(struct mt_api_call *c);
int mt_api_apps_patch(struct mt_api_call *c);
int mt_api_apps_delete(struct mt_api_call *c);
int mt_api_envs_patch(struct mt_api_call *c);
int mt_api_envs_delete(struct mt_api_call *c);
/* releases.c */
int mt_api_manifest_validate(struct mt_api_call *c);
int mt_api_releases_list(struct mt_api_call *c);
int mt_api_releases_create(struct mt_api_call *c);
int mt_api_releases_get(struct mt_api_call *c);
/* release_diff.c */
int mt_api_releases_diff(struct mt_api_call *c);
/* deploys.c */
int mt_api_deploys_list(struct mt_api_call *c);
int mt_api_deploys_create(struct mt_api_call *c);
int mt_api_deploys_get(struct mt_api_call *c);
int mt_api_rollbacks_create(struct mt_api_call *c);
int mt_api_restarts_create(struct mt_api_call *c);
/* scale.c */
int mt_api_scale_get(struct mt_api_call *c);
int mt_api_scale_put(struct mt_api_call *c);
int mt_api_rebalance_create(struct mt_api_call *c);
/* instances.c */
int mt_api_instances_list(struct mt_api_call *c);
int mt_api_instances_get(struct mt_api_call *c);
int mt_api_instances_restart(struct mt_api_call *c);
/* exec.c */
int mt_api_exec_create(struct mt_api_call *c);
int mt_api_exec_sessions_list(struct mt_api_call *c);
int mt_api_exec_sessions_get(struct mt_api_call *c);
int mt_api_exec_sessions_delete(struct mt_api_call *c);
int mt_api_exec_connect(struct mt_api_call *c);
/* volumes.c */
int mt_api_volumes_list(struct mt_api_call *c);
int mt_api_volumes_list_org(struct mt_api_call *c);
int mt_api_admin_volumes_list(struct mt_api_call *c);
int mt_api_admin_volumes_fsck(struct mt_api_call *c);
int mt_api_admin_volumes_repair(struct mt_api_call *c);
int mt_api_volumes_create(struct mt_api_call *c);
int mt_api_volumes_get(struct mt_api_call *c);
int mt_api_volumes_patch(struct mt_api_call *c);
int mt_api_volumes_resize(struct mt_api_call *c);
int mt_api_volumes_delete(struct mt_api_call *c);
/* migrations.c */
int mt_api_migrations_list(struct mt_api_call *c);
int mt_api_migrations_get(struct mt_api_call *c);
int mt_api_migrations_cancel(struct mt_api_call *c);
int mt_api_volumes_migrate(struct mt_api_call *c);
/* restores.c */
int mt_api_restores_list(struct mt_api_call *c);
int mt_api_restores_get(struct mt_api_call *c);
int mt_api_volumes_restore(struct mt_api_call *c);
int mt_api_volumes_recover(struct mt_api_call *c);
int mt_api_volumes_verify(struct mt_api_call *c);
/* snapshots.c */
int mt_api_snapshots_list(struct mt_api_call *c);
int mt_api_snapshots_list_env(struct mt_api_call *c);
int mt_api_snapshots_get_env(struct mt_api_call *c);
int mt_api_snapshots_create(struct mt_api_call *c);
int mt_api_snapshots_get(struct mt_api_call *c);
int mt_api_snapshots_delete(struct mt_api_call *c);
/* volume_key.c */
int mt_api_node_volume_key(struct mt_api_call *c);
/* volume_attachments.c */
int mt_api_volume_attachments_list(struct mt_api_call *c);
int mt_api_volume_attachments_get(struct mt_api_call *c);
int mt_api_volume_attachments_create(struct mt_api_call *c);
int mt_api_volume_attachments_delete(struct mt_api_call *c);
int mt_api_volume_attachments_replace(struct mt_api_call *c);
/** The fence of a volume whose place another one takes: a node that only cannot be heard may still run the process on it. Returns 0, or -1 with the reply made. */
int mt_api_volume_fence(struct mt_api_call *c, const char *node, const char *health);
/* volumes.c */
/** Set `volumes` of an environment's status. Returns 0 or -1. */
int mt_api_status_volumes(struct mt_api_call *c, json_t *o);

/* routes.c */
int mt_api_routes_list(struct mt_api_call *c);
int mt_api_routes_list_org(struct mt_api_call *c);
int mt_api_routes_create(struct mt_api_call *c);
int mt_api_routes_get(struct mt_api_call *c);
int mt_api_routes_patch(struct mt_api_call *c);
int mt_api_routes_delete(struct mt_api_call *c);
/* switches.c */
int mt_api_orgs_suspend(struct mt_api_call *c);
int mt_api_orgs_resume(struct mt_api_call *c);
int mt_api_routes_disable(struct mt_api_call *c);
int mt_api_routes_enable(struct mt_api_call *c);
/* networking.c */
int mt_api_secrets_get(struct mt_api_call *c);
int mt_api_secrets_put(struct mt_api_call *c);
int mt_api_secrets_patch(struct mt_api_call *c);
int mt_api_secrets_confirm_none(struct mt_api_call *c);
int mt_api_secrets_material(struct mt_api_call *c);
/* Counters of deliveries, for /metrics. */
struct mt_metrics;
void mt_api_delivery_metrics(struct mt_api_call *c, struct mt_metrics *page);
int mt_api_secret_versions_list(struct mt_api_call *c);
int mt_api_secrets_activate(struct mt_api_call *c);
int mt_api_networking_get(struct mt_api_call *c);
/* status.c */
int mt_api_env_status(struct mt_api_call *c);
/* events.c */
int mt_api_events_list(struct mt_api_call *c);
int mt_api_events_stream(struct mt_api_call *c);
int mt_api_admin_events_list(struct mt_api_call *c);
/* audit.c */
int mt_api_audit_list(struct mt_api_call *c);
int mt_api_audit_verify(struct mt_api_call *c);
int mt_api_admin_audit_list(struct mt_api_call *c);
int mt_api_admin_audit_verify(struct mt_api_call *c);
/* quotas.c */
int mt_api_quotas_get(struct mt_api_call *c);
int mt_api_quotas_put(struct mt_api_call *c);
/* usage.c */
int mt_api_usage_list(struct mt_api_call *c);
int mt_api_usage_month(struct mt_api_call *c);
/* maintenance.c */
int mt_api_maintenance_get(struct mt_api_call *c);
int mt_api_maintenance_post(struct mt_api_call *c);
int mt_api_recovery_get(struct mt_api_call *c);
int mt_api_recovery_apply(struct mt_api_call *c);
int mt_api_recovery_finish(struct mt_api_call *c);
/* logs.c */
int mt_api_logs_list(struct mt_api_call *c);
int mt_api_logs_stream(struct mt_api_call *c);
/* nodes.c */
int mt_api_nodes_list(struct mt_api_call *c);
int mt_api_nodes_get(struct mt_api_call *c);
/* internal.c */
int mt_api_heartbeat(struct mt_api_call *c);
int mt_api_plan(struct mt_api_call *c);
int mt_api_node_secrets(struct mt_api_call *c);
int mt_api_master_keys_get(struct mt_api_call *c);
int mt_api_master_keys_rewrap(struct mt_api_call *c);
int mt_api_master_keys_verify(struct mt_api_call *c);
int mt_api_master_keys_retire(struct mt_api_call *c);
int mt_api_admin_backups_list(struct mt_api_call *c);
int mt_api_admin_backups_verify(struct mt_api_call *c);
int mt_api_admin_backups_rekey(struct mt_api_call *c);
int mt_api_admin_backups_scan(struct mt_api_call *c);
int mt_api_node_status(struct mt_api_call *c);
int mt_api_edge_config(struct mt_api_call *c);
int mt_api_edge_status(struct mt_api_call *c);
/* history.c */
int mt_api_history_status(struct mt_api_call *c);
int mt_api_history_diff(struct mt_api_call *c);
/* autopsies.c */
int mt_api_autopsies_list(struct mt_api_call *c);
/* why.c */
int mt_api_instance_why(struct mt_api_call *c);
/* projections.c */
int mt_api_projections_list(struct mt_api_call *c);
int mt_api_projections_rebuild(struct mt_api_call *c);
/* admin.c */
int mt_api_livez(struct mt_api_call *c);
int mt_api_readyz(struct mt_api_call *c);
int mt_api_metrics(struct mt_api_call *c);

/* enrollment.c */
int mt_api_enrollment_tokens_list(struct mt_api_call *c);
int mt_api_enrollment_tokens_create(struct mt_api_call *c);
int mt_api_enrollment_tokens_delete(struct mt_api_call *c);
/* enroll.c */
int mt_api_enroll(struct mt_api_call *c);
int mt_api_node_confirm(struct mt_api_call *c);
int mt_api_node_cert(struct mt_api_call *c);
/* node_key.c */
int mt_api_node_asks_drain(struct mt_api_call *c);
int mt_api_node_wg_key(struct mt_api_call *c);
int mt_api_node_wg_key_result(struct mt_api_call *c);
/* drains.c */
int mt_api_drains_list(struct mt_api_call *c);
int mt_api_drains_put(struct mt_api_call *c);
int mt_api_drains_delete(struct mt_api_call *c);
int mt_api_node_drains(struct mt_api_call *c);
int mt_api_node_drain(struct mt_api_call *c);
/* registries.c */
int mt_api_registries_list(struct mt_api_call *c);
int mt_api_registries_put(struct mt_api_call *c);
int mt_api_registries_delete(struct mt_api_call *c);
int mt_api_node_registry_credential(struct mt_api_call *c);
/* scheduler.c */
int mt_api_scheduler_get(struct mt_api_call *c);
int mt_api_scheduler_pause(struct mt_api_call *c);
int mt_api_scheduler_resume(struct mt_api_call *c);
int mt_api_groups_hold(struct mt_api_call *c);
int mt_api_groups_resume(struct mt_api_call *c);

/* explain.c */
int mt_api_explain_get(struct mt_api_call *c);

/* ipv4.c */
int mt_api_ipv4_enable(struct mt_api_call *c);
int mt_api_ipv4_disable(struct mt_api_call *c);
/* ipv4_pool.c */
int mt_api_ipv4_pool_list(struct mt_api_call *c);
int mt_api_ipv4_pool_add(struct mt_api_call *c);
int mt_api_ipv4_pool_remove(struct mt_api_call *c);
/* quarantine.c */
int mt_api_quarantine_list(struct mt_api_call *c);
int mt_api_quarantine_create(struct mt_api_call *c);
int mt_api_quarantine_delete(struct mt_api_call *c);

/* image_blocks.c */
int mt_api_image_blocks_list(struct mt_api_call *c);
int mt_api_image_blocks_create(struct mt_api_call *c);
int mt_api_image_blocks_delete(struct mt_api_call *c);
/* node_states.c */
int mt_api_nodes_approve(struct mt_api_call *c);
int mt_api_nodes_cordon(struct mt_api_call *c);
int mt_api_nodes_uncordon(struct mt_api_call *c);
int mt_api_capacity_get(struct mt_api_call *c);
int mt_api_ipam_get(struct mt_api_call *c);
int mt_api_ipam_leaks(struct mt_api_call *c);
int mt_api_mesh_get(struct mt_api_call *c);
int mt_api_edges_list(struct mt_api_call *c);
int mt_api_edges_drain(struct mt_api_call *c);
int mt_api_edges_undrain(struct mt_api_call *c);
int mt_api_doctor_get(struct mt_api_call *c);
int mt_api_upgrade_get(struct mt_api_call *c);
int mt_api_simulate_loss(struct mt_api_call *c);
int mt_api_simulate_drain(struct mt_api_call *c);
int mt_api_nodes_confirm_offline(struct mt_api_call *c);
int mt_api_nodes_mark_lost(struct mt_api_call *c);
int mt_api_nodes_rotate_key(struct mt_api_call *c);
int mt_api_mesh_removal(struct mt_api_call *c);
int mt_api_node_ca_get(struct mt_api_call *c);
int mt_api_node_ca_step(struct mt_api_call *c);
int mt_api_nodes_drain(struct mt_api_call *c);
int mt_api_nodes_disable(struct mt_api_call *c);
int mt_api_nodes_patch(struct mt_api_call *c);
int mt_api_nodes_delete(struct mt_api_call *c);
