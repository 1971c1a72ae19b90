/* SPDX-License-Identifier: Apache-2.0 */
/* What moat-vsock takes from itself once its sockets are open: every system call it does not need. */
#pragma once

#include "base/err.h"

/**
 * no_new_privs and a seccomp filter on all threads: reads, writes and messages on open descriptors, Unix stream sockets, epoll,
 * memory without execute permission, the clock, exit. Anything else ends the process.
 * Returns 0; -MT_E_IO.
 */
int mt_vs_sandbox_enter(struct mt_err *err);
