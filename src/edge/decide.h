/* SPDX-License-Identifier: Apache-2.0 */
/* Where a hello leads: the outcome table of networking.md 8.4, for connections and for `moat edge explain` alike. */
#pragma once

#include "edge/conn.h"
#include "wire/clienthello.h"

struct mt_edge_verdict {
    struct mt_edge_route *route; /* borrowed from the table; NULL: refused */
    enum mt_edge_result why;     /* when refused */
    uint8_t alert;               /* when refused: TLS alert, 0 for a plain close */
};

/** @h has the final result @r; @t may be NULL (no configuration yet). */
struct mt_edge_verdict mt_edge_decide(const struct mt_edge_table *t, mt_edge_key key, const struct mt_hello *h, enum mt_hello_result r);
