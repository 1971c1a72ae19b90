/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's word of flows that begin and end, into the ring of flow records: a thread of its own that sleeps until there is one.
 *
 * Only flows whose source is in the given /80 come out of the kernel, so an edge's own connections cost nothing here. What comes faster than it is
 * taken is lost and said to be. Source: networking.md §6 "attribution"; linux/netfilter/nfnetlink_conntrack.h.
 */
#pragma once

#include "agent/net/flowring.h"

#include <linux/netlink.h>

struct mt_flows;

/** @prefix: of this node's VMs, 80 bits. Writes once a second what there is. NULL and @err when the kernel does not tell. */
struct mt_flows *mt_flows_start(struct mt_flowring *ring, const struct in6_addr *prefix, struct mt_err *err);
/** End the thread. NULL is fine. */
void mt_flows_stop(struct mt_flows *f);

/** One message of the kernel: true and @ret when it tells of a flow of IPv6. */
bool mt_flows_decode(const struct nlmsghdr *h, struct mt_flow_rec *ret);
