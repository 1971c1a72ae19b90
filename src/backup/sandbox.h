/* SPDX-License-Identifier: Apache-2.0 */
/* What moat-backup takes from itself before the first byte goes to the network. */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/** Become @uid:@gid when root (0: stay), no new privileges, no core, die with the parent. */
int mt_bk_leave_root(uid_t uid, gid_t gid, struct mt_err *err);
/** System calls: only those of reading, writing, threads, memory without execute, sockets, opening for reading. */
int mt_bk_sandbox(struct mt_err *err);
