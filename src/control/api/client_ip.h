/* SPDX-License-Identifier: Apache-2.0 */
/* Where a request comes from, for people and for limits. */
#pragma once

#include "control/api/call.h"
#include "control/auth/device.h"

/** Address of the client ("2001:db8::1"; "local, user 1000" on a Unix socket) into @ret; returns it. With the setting
 *  client_ip_header the last entry of that header counts: the one that the proxy in front has added. */
const char *mt_api_client_ip(const struct mt_api_call *c, char ret[MT_CLIENT_IP_SIZE]);
