/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses out of the cluster prefix P (networking.md §3.1): node overlay P:0::k, node prefix P:1::/64 split in /80s,
 * instance addresses inside a /80. Pure. */
#pragma once

#include "base/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define MT_ADDR_SIZE 50 /* "…/128" with NUL */

/** Parse "fd00:1:2::/48"; the length is 40..56 and the host bits are 0, else -MT_E_INVALID. */
int mt_prefix_parse(const char *text, struct in6_addr *ret, unsigned *ret_len, struct mt_err *err);
/** Does a route to @route ("fd00:1:2:9::/64") lead into @prefix? One that is wider than the prefix does not. -MT_E_INVALID: @route is no prefix. */
int mt_prefix_holds(const char *prefix, const char *route, bool *ret, struct mt_err *err);
/** A random ULA /48 (RFC 4193: fd00::/8 and 40 random bits) as text. */
void mt_prefix_random_ula(char ret[MT_ADDR_SIZE]);
/** Overlay address of node number @k (1..65535). */
int mt_addr_node(const char *prefix, uint32_t k, char ret[MT_ADDR_SIZE], struct mt_err *err);
/** Instance prefix (/80) of node number @k. */
int mt_addr_node_prefix(const char *prefix, uint32_t k, char ret[MT_ADDR_SIZE], struct mt_err *err);
/**
 * Whether VMs can ask the name server @text: an address of the Internet, also one behind the well-known NAT64, not of the cluster's prefix (may be NULL)
 * and of no range that no VM may send to (networking.md §6). Else -MT_E_INVALID, which says why.
 */
int mt_addr_dns_check(const char *text, const char *prefix, struct mt_err *err);
/** Address number @n (1..2^48-1) inside a /80 given as text; -MT_E_LIMIT when it does not fit. */
int mt_addr_instance(const char *prefix80, uint64_t n, char ret[MT_ADDR_SIZE], struct mt_err *err);
