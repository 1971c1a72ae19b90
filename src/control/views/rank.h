/* SPDX-License-Identifier: Apache-2.0 */
/* Inside src/control/views only. */
#pragma once

#include "control/log/types.h"

/** Place of the first statement of @ev in the table; -1 when it has none. */
int mt_proj_rank(enum mt_ev ev);
