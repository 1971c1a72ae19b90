/* SPDX-License-Identifier: Apache-2.0 */
/* The state of an environment, an app or an organisation as one JSON value, out of the views that the call's connection sees:
 * the live ones, or those of a moment of the past. Lists are in the order of their ids or names, so that equal states are equal. */
#pragma once

#include "control/api/call.h"

/** What `moat status` tells of the call's environment, without as_of_event_id. NULL: a problem is recorded. */
json_t *mt_api_status(struct mt_api_call *c);

enum mt_state_of { MT_STATE_ORG = 0, MT_STATE_APP, MT_STATE_ENV };

/**
 * State of the call's organisation, app or environment into @ret (owned): the status with its instances; of an app also its
 * releases (the 200 newest) and environments; of an organisation also members, service principals, projects, limits and apps.
 * JSON null when it is not there (not yet, or deleted). Returns 0 or -1.
 */
int mt_api_state(struct mt_api_call *c, enum mt_state_of of, json_t **ret);
