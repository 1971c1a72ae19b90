/* SPDX-License-Identifier: Apache-2.0 */
/* Routes of a manifest, applied by the deploy that brings it, and the check that no route loses its backend
 * (control-plane.md §4.4, §5.2). */
#pragma once

#include "control/api/mutate.h"
#include "control/commands/deploy.h"

struct mt_manifest_routes_in {
    const json_t *manifest;            /* canonical */
    const struct mt_deploy_plan *plan; /* which process types are deployed */
    bool partial;                      /* only these process types' routes are touched, none is deleted */
    bool force;                        /* routes may lose their backend */
};

/**
 * Add route events to @cmd. @ret_changes gets [{action, route_id, hostname?, listen_port}] (owned by the caller).
 * Returns 0 or -1 with the problem recorded.
 */
int mt_manifest_routes_apply(struct mt_api_call *c, struct mt_cmd *cmd, const struct mt_manifest_routes_in *in,
                             json_t **ret_changes);
