/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "control/api/mutate.h"
#include "model/ids.h"

/** A restart of one process, as part of another command; its deploy id. Returns 0, or -1 with the reply made. */
int mt_api_restart_of(struct mt_api_call *c, struct mt_cmd *cmd, const char *process_type, char ret_deploy_id[MT_ID_SIZE]);
