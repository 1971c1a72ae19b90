/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to the host over AF_VSOCK. */
#pragma once

#include "base/err.h"

/**
 * Begin to connect to @port of the host (CID 2). The socket is non-blocking; it is writable when the
 * attempt has ended, then mt_vsock_dialled() says how.
 * Returns 0 and @ret_fd, owned by the caller; -MT_E_UNAVAILABLE.
 */
int mt_vsock_dial(uint32_t port, int *ret_fd, struct mt_err *err);

/** 0 connected; -MT_E_UNAVAILABLE refused or timed out. */
int mt_vsock_dialled(int fd, struct mt_err *err);
