/* SPDX-License-Identifier: Apache-2.0 */
/* What differs between two canonical manifests, field by field (control-plane.md §9.4, releases diff). Pure. */
#pragma once

#include <jansson.h>

/**
 * [{path, op, from?, to?}] in document order of the paths; op is add, remove or replace. Paths read as people write them:
 * `processes.web.resources.memory_bytes`, `processes.web.ports[8443].name`, `routes[prod:443:a.example.com].port`. A process,
 * port, mount, volume or route that is there on one side only is one entry. NULL when memory is out.
 */
json_t *mt_manifest_diff(const json_t *from, const json_t *to);
