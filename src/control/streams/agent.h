/* SPDX-License-Identifier: Apache-2.0 */
/* Reading from an agent over its Unix socket: one line of JSON asks, NDJSON answers until the socket closes. */
#pragma once

#include "base/buf.h"

#include <jansson.h>

/**
 * Ask and read the whole answer (no follow).
 * @request   taken
 * @ret       array of the records, owned by the caller
 * Returns 0; -MT_E_UNAVAILABLE nobody listens; -MT_E_TIMEOUT; -MT_E_LIMIT more than 8 MiB; -MT_E_CORRUPT.
 */
int mt_agent_ask(const char *socket_path, json_t *request, int timeout_ms, json_t **ret, struct mt_err *err);

/** Connect and send the request line; the caller reads from @ret_fd (non-blocking). @request is taken. */
int mt_agent_open(const char *socket_path, json_t *request, int timeout_ms, int *ret_fd, struct mt_err *err);
