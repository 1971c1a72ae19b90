/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host has to be before somebody's VMs run on it (runtime.md §22), as far as it needs no other room of the agent to know: kernel, tools,
 * limits, mount options, user numbers, the clock. Each row says what was found and, when that will not do, the command that mends it.
 */
#pragma once

#include "base/err.h"

#include <stdint.h>

struct mt_hostcheck {
    const char *proc;           /* "/proc"; a test has its own */
    const char *passwd, *group; /* "/etc/passwd", "/etc/group" */
    const char *jail_dir;       /* of VMs: hard links, device nodes and programs are in it */
    const char *release;        /* the kernel's, as uname(2) says */
    const char *programs;       /* the folder of all programs; NULL: the system's */
    bool forwards;              /* packets of others come to its VMs: the agent has to have switched forwarding on */
    uint64_t nofile;            /* most descriptors of this process */
    int64_t skew_ms;            /* our clock ahead of the control plane's, at least */
    int strict;                 /* level of what only matters between strangers: 2 fails, 1 warns */
};

struct mt_hostcheck_row {
    const char *check;
    int level; /* 0 ok, 1 warn, 2 fail */
    char finding[160];
    const char *mend;
};

enum { MT_HOSTCHECK_ROWS = 8 };

/** All rows, always in the same order. */
void mt_hostcheck(const struct mt_hostcheck *h, struct mt_hostcheck_row ret[MT_HOSTCHECK_ROWS]);
