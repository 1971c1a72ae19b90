/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has these IPv4 addresses on a link (RFC 5227 §2.1.1: requests that name no sender, so that nobody's table changes by the question).
 * Blocking, about half a second however many are asked for; for a worker.
 */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MT_ARP_TEXT 18 /* "52:54:00:12:34:56" */

struct mt_arp_owner {
    bool found;
    uint8_t mac[6];
};

/** @ret has @n rows: another hardware address than that of @dev said that @v[i] is its own. A link without hardware addresses has nobody. */
int mt_arp_find(const char *dev, const struct in_addr *v, size_t n, struct mt_arp_owner *ret, struct mt_err *err);
/** Tell everybody on the link, three times, that @a is here (RFC 5227 §2.3). */
int mt_arp_announce(const char *dev, const struct in_addr *a, struct mt_err *err);
void mt_arp_text(const uint8_t mac[6], char ret[MT_ARP_TEXT]);
/** Is @a an address of this host's link @dev, NULL: of any link? */
int mt_arp_here(const char *dev, const struct in_addr *a, bool *ret, struct mt_err *err);
