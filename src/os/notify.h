/* SPDX-License-Identifier: Apache-2.0 */
/* The sd_notify(3) protocol: a daemon tells its supervisor its state by a datagram to $NOTIFY_SOCKET. */
#pragma once

#include "base/err.h"

/** Send @state, e.g. "READY=1" or "STOPPING=1"; does nothing without $NOTIFY_SOCKET. */
void mt_notify(const char *state);
