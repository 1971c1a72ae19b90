/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From outside forms to a table: the JSON snapshot of the control plane (docs/formats/edge-config.md) and the text file of
 * static mode. Both are taken whole or refused whole, with the first fault named.
 */
#pragma once

#include "edge/table.h"

#define MT_EDGE_SNAPSHOT_MAX (64U * 1024U * 1024U)

/** Table of a snapshot, finished and checked. -MT_E_INVALID, -MT_E_LIMIT, -MT_E_NOMEM. */
int mt_edge_snapshot_parse(const char *text, size_t len, struct mt_edge_table **ret, struct mt_err *err);

/**
 * Table of a static routes file: lines `hostname backend_addr backend_port`, `#` begins a comment, several lines of one
 * hostname are its backends. All routes are tls_passthrough on @key. @proxy_v2 puts the header on every route.
 */
int mt_edge_routes_parse(const char *text, size_t len, mt_edge_key key, bool proxy_v2, struct mt_edge_table **ret,
                         struct mt_err *err);
