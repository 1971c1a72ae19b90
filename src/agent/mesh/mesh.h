/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh of this node over time: takes plans, keeps the host so, rotates keys, measures, reports.
 *
 * Loop thread; passes over the host run on a worker. The last good section is kept in <agent_dir>/mesh.json and is enough to
 * bring the mesh up without the control plane. Source: networking.md §2; docs/formats/mesh-plan.md.
 */
#pragma once

#include "agent/agent.h"

struct mt_mesh;

/** NULL and @err when out of memory. */
struct mt_mesh *mt_mesh_new(struct mt_agent *a, struct mt_err *err);
/** The device stays: the data path goes on without the agent. */
void mt_mesh_free(struct mt_mesh *m);

/** Take the section of an accepted plan; @same: it is known to equal that of the call before. A broken one, or one that takes too many peers away, is refused and the last good one stays. */
void mt_mesh_plan(struct mt_mesh *m, const struct mt_plan *plan, bool same);
/** Is the mesh's device up, so that the overlay address is there? */
bool mt_mesh_has_device(const struct mt_mesh *m);
/** Look at the host now. */
void mt_mesh_look(struct mt_mesh *m);
/** Object of the heartbeat; NULL in no mesh. New reference. */
json_t *mt_mesh_report(struct mt_mesh *m);
/** Words for the heartbeat's conditions: at most @max into @ret, returns how many. */
size_t mt_mesh_conditions(const struct mt_mesh *m, const char **ret, size_t max);
/** One line for `moat doctor` into @ret; returns 0 fine, 1 a warning, 2 broken. */
int mt_mesh_doctor(const struct mt_mesh *m, char *ret, size_t size);
/** Begin a rotation of this node's key: make the next one and tell the control plane. -MT_E_CONFLICT while one runs or in no mesh. */
int mt_mesh_rotate(struct mt_mesh *m, struct mt_err *err);
/** Take the mesh down for good (planned end). Blocking. */
int mt_mesh_remove(struct mt_mesh *m, struct mt_err *err);
