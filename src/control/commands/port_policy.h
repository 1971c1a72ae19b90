/* SPDX-License-Identifier: Apache-2.0 */
/* Which ports routes may listen on (control-plane.md §13, networking.md §7, §8.3): ranges of the configuration and what nobody may have. Pure. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mt_conf_list;

#define MT_PORT_RANGES 32

struct mt_port_ranges {
    size_t n;
    struct {
        uint16_t from, to;
    } v[MT_PORT_RANGES];
};

struct mt_port_policy {
    struct mt_port_ranges shared_raw; /* of tcp_raw on the shared addresses */
    struct mt_port_ranges tls;        /* of names, beside 443 */
    struct mt_port_ranges denied;     /* the operator's, for every route */
    char shared_pool[3072];           /* shared_raw without what is denied, as PostgreSQL writes an int4multirange */
    int64_t shared_pool_n;            /* ports in it */
};

/** Read "10000-29999" and "8443" of port_policy.*; the two kinds must not meet. -MT_E_INVALID names key and item. */
int mt_port_policy_read(const struct mt_conf_list *shared_raw, const struct mt_conf_list *tls, const struct mt_conf_list *denied,
                        struct mt_port_policy *ret, struct mt_err *err);

bool mt_port_in(const struct mt_port_ranges *r, int64_t port);
/** Is it the platform's own, one whose abuse endangers the address, or the operator's? */
bool mt_port_denied(const struct mt_port_policy *p, int64_t port);
/** "10000-29999, 31000" into @ret. */
const char *mt_port_ranges_text(const struct mt_port_ranges *r, char *ret, size_t size);
