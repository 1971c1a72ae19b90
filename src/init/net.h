/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's one interface: IPv6, static, by netlink (runtime.md 18). No DHCP, no SLAAC. */
#pragma once

#include "base/err.h"
#include "wire/guest.h"

/** Bring lo up; the kernel gives it 127.0.0.1/8 and ::1. */
int mt_net_loopback(struct mt_err *err);

/**
 * MTU, up, address /128 without DAD, permanent neighbour for the gateway, route to it, default route.
 * Doing it twice is harmless. Afterwards address and default route are read back.
 * Returns 0; -MT_E_INVALID the link has another MAC than the config says; -MT_E_IO the kernel refused;
 *         -MT_E_CONFLICT the kernel accepted, but the state read back differs.
 */
int mt_net_configure(const struct mt_guest_network *network, struct mt_err *err);
