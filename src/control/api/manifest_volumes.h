/* SPDX-License-Identifier: Apache-2.0 */
/* The volumes of a manifest in a deploy (control-plane.md §4.4, storage-and-secrets.md §2.4, §2.5). */
#pragma once

#include "control/api/call.h"
#include "control/commands/deploy.h"

/**
 * Volumes that the processes of @plan mount: those that are missing are created, attachments follow the manifest. Nothing is ever
 * resized, renamed or deleted. @ret_changes: new list of what was done, [{action, volume_id, name, process_type}].
 * Returns 0 or -1 with the problem recorded: 409 volume_size_mismatch, volume_already_attached, volume_home_node_mismatch,
 * no_capacity_storage, conflict.
 */
int mt_manifest_volumes_apply(struct mt_api_call *c, struct mt_cmd *cmd, const json_t *manifest, const struct mt_deploy_plan *plan,
                              json_t **ret_changes);
