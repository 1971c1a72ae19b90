/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh as its nodes report it, pair by pair, with the likely cause of what is wrong: asked by the API (GET /v1/admin/mesh) and by `moat net`, with this
 * same code. Pure. Source: networking.md 2.5, 2.7; docs/formats/mesh-plan.md for the reports.
 */
#pragma once

#include <jansson.h>
#include <stddef.h>

/**
 * {ok, meshed, nodes, pairs} of @nodes, an array of {id, name, health, mesh?} whose `mesh` is what a node told in its newest heartbeat: nothing in it is sure
 * to be there or of its type. Nodes in no mesh have no pairs. @ret_bad: pairs that are not "ok". NULL: no memory. The caller owns it.
 */
json_t *mt_mesh_survey(const json_t *nodes, size_t *ret_bad);
