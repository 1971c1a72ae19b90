/* SPDX-License-Identifier: Apache-2.0 */
/* The admin socket: GET /metrics, /livez, /readyz over a Unix socket, one request a connection. Runs on the main loop. */
#pragma once

#include "edge/hub.h"
#include "os/loop.h"

struct mt_edge_admin;

/** Listen at @path (mode 0660). NULL and @err on failure. */
struct mt_edge_admin *mt_edge_admin_start(struct mt_loop *loop, const char *path, struct mt_edge_hub *h, struct mt_err *err);
/** Close and remove the socket file. NULL is fine. */
void mt_edge_admin_stop(struct mt_edge_admin *a);
