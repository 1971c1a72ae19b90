/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a daemon that reads hostile bytes by itself takes from itself by Landlock (landlock(7)): the file system but for the folders that it writes to. It needs no
 * privilege and no systemd, so it holds under `moat up` too. Reading stays as its user may.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>

/**
 * From now on this thread and all that it starts may write, make, rename and remove files and sockets in @dirs alone (NULL and what is not there: left out), and may start
 * no program. To be called before there are threads, with no_new_privs.
 * 0; -MT_E_UNAVAILABLE: this kernel has no Landlock, or whoever started us forbids it, nothing is different then; -MT_E_IO.
 */
int mt_landlock_writes(const char *const *dirs, size_t n, struct mt_err *err);
