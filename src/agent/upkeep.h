/* SPDX-License-Identifier: Apache-2.0 */
/* What an agent does about its keys by itself, on a thread of its own: certificates are renewed in time, and a machine of the control plane
 * that shall be in the mesh says so with its WireGuard key. */
#pragma once

#include "base/err.h"

struct mt_agent;
struct mt_upkeep;

/** NULL with @err when there is no thread or memory; *ret_any false and NULL when there is nothing to look after. */
struct mt_upkeep *mt_upkeep_new(struct mt_agent *a, bool *ret_any, struct mt_err *err);
/** Something has become due: look now. NULL is fine. */
void mt_upkeep_wake(struct mt_upkeep *u);
/** At the end of the process: nothing new is begun. A call under way ends with the process, which nobody waits for; what it changes on the disk
 *  is replaced at once or not at all. NULL is fine. */
void mt_upkeep_stop(struct mt_upkeep *u);
