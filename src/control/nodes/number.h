/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses for one more node (networking.md §3): its overlay /128 and its instance /80 are those of the next number, one above the highest
 * that any node ever had. Numbers do not come back, not even of removed nodes: what was written down about an address stays true. The views'
 * unique indexes decide between two servers that take the same number.
 */
#pragma once

#include "control/plans/address.h"
#include "pg/pg.h"

/** -MT_E_LIMIT when all 65,535 numbers were given out. */
int mt_node_addresses_next(struct mt_pg *pg, const char *cluster_prefix, char ret_overlay[MT_ADDR_SIZE], char ret_prefix[MT_ADDR_SIZE],
                           struct mt_err *err);
