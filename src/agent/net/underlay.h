/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where this host's routes lead outside of the overlay (networking.md §3.1): the cluster's prefix P may overlap none of them. Counted are routes of the
 * main table that lead to a link of somebody else: the mesh's device, taps and `lo` are ours. A route that is wider than P takes nothing from the
 * overlay, whose own routes are longer; one inside P, or P itself, would.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_UNDERLAY_ROUTES 256 /* told at enrolment */
#define MT_UNDERLAY_TEXT 80

struct mt_underlay_route {
    struct in6_addr dst;
    uint8_t plen;
};

/** Up to @max routes of the underlay, without default route, link-local and multicast ones, each once. */
int mt_underlay_routes(struct mt_underlay_route *ret, size_t max, size_t *ret_n, struct mt_err *err);
/** Is there one in @prefix/@plen? Then it and its link are in @ret_text ("fd00:1:2:9::/64 dev eth1"), else that is "". */
int mt_underlay_clash(const struct in6_addr *prefix, uint8_t plen, char ret_text[MT_UNDERLAY_TEXT], struct mt_err *err);
