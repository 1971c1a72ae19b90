/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A dedicated IPv4 address on this host (networking.md §7, carrier). Blocking; for a worker.
 *
 * With an operator's hook the address is a /32 on `lo` and the hook tells the world (a provider's API, BGP, ARP); without one it is a /32
 * on the uplink, announced by gratuitous ARP. Nothing is forwarded: the edge accepts on it. Doing either twice is harmless.
 */
#pragma once

#include "base/err.h"

#include <net/if.h>
#include <stdbool.h>

struct mt_ipv4_conf {
    const char *interface; /* "" = that of the IPv4 default route */
    const char *hook_dir;  /* holds ipv4-up and ipv4-down, or neither */
};

#define MT_IPV4_HOOK_MS 30000

/** Where the address would go: *@ret_hook and the interface's name. -MT_E_NOT_FOUND: no hook and no uplink, with what to do. */
int mt_ipv4_place(const struct mt_ipv4_conf *c, bool *ret_hook, char ret_dev[IFNAMSIZ], struct mt_err *err);
/** Interface of the IPv4 default route in @text, as /proc/net/route has it; false when there is none. Pure. */
bool mt_ipv4_uplink(const char *text, char ret[IFNAMSIZ]);
/**
 * Put @address there and tell the world: hook (at most MT_IPV4_HOOK_MS) or three announcements. Without a hook the link is asked first:
 * -MT_E_CONFLICT when another machine has it. @moved: from an edge that is silent, which may still answer; it is not asked.
 */
int mt_ipv4_up(const struct mt_ipv4_conf *c, const char *address, const char *dev, bool hook, bool moved, struct mt_err *err);
/** Take it away again; a hook that fails is told, and the address is gone all the same. */
int mt_ipv4_down(const struct mt_ipv4_conf *c, const char *address, const char *dev, bool hook, struct mt_err *err);
/** Is it on @dev? Puts it back when not (somebody took it away), without an announcement by hook. *@ret_mended. */
int mt_ipv4_keep(const char *address, const char *dev, bool announce, bool *ret_mended, struct mt_err *err);
