/* SPDX-License-Identifier: Apache-2.0 */
/* What a proof of a backup runs on the copy: the probe that the manifest of the volume's process names, as a node plan has it. */
#pragma once

#include "base/err.h"
#include "pg/pg.h"

#include <jansson.h>
#include <stdint.h>

/**
 * The probe of @restore_id on the node $1 of @node. It is that of the release which the environment wants of the process now.
 * Returns 1 with WorkloadSpec (owned) and the seconds it has; 0 the manifest names none, or nothing mounts the volume; -code of the database.
 * A probe of which no workload can be made is an empty object, which no node runs: a proof without its probe would say more than it knows.
 */
int mt_probe_plan(struct mt_pg *pg, const char *node_id, const char *restore_id, const char *volume_id, json_t **ret_workload, uint32_t *ret_seconds,
                  struct mt_err *err);
