/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/api: a live route as the API shows it. */
#pragma once

#include "control/api/call.h"

/** (object text, resource_version) of the route @id of @env_id (NULL: of any environment); 404 when there is none. 0 or -1. */
int mt_api_route_load(struct mt_api_call *c, const char *env_id, const char *id, struct mt_pg_res **ret);
