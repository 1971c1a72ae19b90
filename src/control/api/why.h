/* SPDX-License-Identifier: Apache-2.0 */
/* The chain of causes of an instance. */
#pragma once

#include "control/api/call.h"
#include "control/streams/event_json.h"

/** Append the events that tell why the instance is as it is, as a JSON array. 0, or -1 with the problem recorded (404). */
int mt_api_why_put(struct mt_api_call *c, const char *instance_id, const char *env_id, const char *app_id, enum mt_see see, struct mt_buf *b);
