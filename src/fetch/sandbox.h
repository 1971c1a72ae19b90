/* SPDX-License-Identifier: Apache-2.0 */
/* What moat-fetch takes from itself before the first byte goes to the network. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/** Become @uid:@gid when root (0: stay), no new privileges, no core, die with the parent; then only the system calls of files, sockets,
 * threads and memory without execute: no other program, no other process, no mount. Errors of mt_confine_user and mt_confine_calls. */
int mt_fetch_sandbox(uid_t uid, gid_t gid, struct mt_err *err);
