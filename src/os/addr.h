/* SPDX-License-Identifier: Apache-2.0 */
/* Which addresses a target that a tenant names may have (a registry, a drain of logs): the rule against requests to the inside (runtime.md 13, SSRF). */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

/**
 * True for an address of the public Internet. False for loopback, link-local, private, shared (100.64/10), unique local (so
 * every overlay), multicast, documentation, benchmark, reserved, unspecified; IPv4 inside IPv6 (mapped, 6to4, NAT64, Teredo)
 * is judged by the IPv4 address, or refused.
 */
bool mt_addr_public(const struct sockaddr *addr, socklen_t len);
