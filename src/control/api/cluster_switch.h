/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of the whole platform that are on or off, each change with its reason: a key of cluster_view, true or false. */
#pragma once

#include "control/api/mutate.h"

/** {@member, reason?, changed_at?} of switch @key; NULL with the problem recorded. Owned by the caller. */
json_t *mt_api_cluster_switch_get(struct mt_api_call *c, const char *key, const char *member);

/** Prepare the change of switch @key to @want; the answer is {@member, reason}. made->operation is the caller's. 0 or -1. */
int mt_api_cluster_switch(struct mt_api_call *c, struct mt_cmd *cmd, struct mt_api_made *made, const char *key, const char *member, bool want,
                          const char *reason);
