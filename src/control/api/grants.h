/* SPDX-License-Identifier: Apache-2.0 */
/* Body members that give rights away: scopes and restrictions, checked against what the giver has. */
#pragma once

#include "control/api/call.h"

/**
 * Array of scope names. Unknown ones are refused, and those outside @allowed: nobody grants scopes they lack.
 * @ret  bits; @absent when the member is missing (and not @required)
 */
int mt_grant_scopes(struct mt_api_call *c, bool required, uint64_t allowed, uint64_t absent, uint64_t *ret);

/**
 * Member restrict {app_ids[], env_ids[]}; null or absent: none. Ids must be live, in @org_id (NULL: in any organisation that
 * the calling user belongs to); an environment whose app is named as well is refused, since it would mean nothing.
 * @ret_text  canonical JSON text for storage, malloc'ed; NULL: none
 */
int mt_grant_restrict(struct mt_api_call *c, const char *org_id, struct mt_auth_restrict *ret, char **ret_text);
