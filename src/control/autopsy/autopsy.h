/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of attempts that failed, as agents made them (docs/formats/autopsy.md): kept in an operational table, bounded for each
 * instance, for each release and by age, since what a workload printed has no place in an event log that forgets nothing.
 */
#pragma once

#include "pg/pg.h"

#include <jansson.h>

#define MT_AUTOPSIES_PER_INSTANCE 5
#define MT_AUTOPSIES_PER_RELEASE 50
#define MT_AUTOPSY_DAYS 30

/**
 * Keep @record of an attempt of @instance_id, which must be an instance of @node_id; what is above the bounds goes. A second record of
 * the same attempt changes nothing. 0; -MT_E_INVALID the record lacks what it is found by or is too long; errors of the database.
 */
int mt_autopsy_keep(struct mt_pg *pg, const char *node_id, const char *instance_id, const json_t *record, struct mt_err *err);

/** Remove what is older than MT_AUTOPSY_DAYS; *@ret_removed rows. */
int mt_autopsy_prune(struct mt_pg *pg, int64_t *ret_removed, struct mt_err *err);
