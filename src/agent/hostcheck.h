/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host has to be before somebody's VMs run on it (runtime.md §22), as far as it needs no other room of the agent to know: kernel, tools,
 * limits, mount options, user numbers, swap, the clock. Each row says what was found and, when that will not do, the command that mends it. A row
 * that fails takes the node out of placement: its condition goes with the heartbeat (agent/host.h).
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct mt_hostcheck {
    const char *proc, *sys;     /* "/proc", "/sys"; a test has its own */
    const char *passwd, *group; /* "/etc/passwd", "/etc/group" */
    const char *tun;            /* "/dev/net/tun" */
    const char *data_dir;       /* its filesystem has to have free inodes */
    const char *jail_dir;       /* of VMs: hard links, device nodes and programs are in it */
    const char *linked[3];      /* folders whose files are linked into jails; NULL: fewer */
    const char *release;        /* the kernel's, as uname(2) says */
    const char *programs;       /* the folder of all programs; NULL: the system's */
    const char *e2fs_version;   /* as `mkfs.ext4 -V` says, "1.47.2"; "" it could not be asked */
    bool openat2;               /* the system call is there */
    bool forwards;              /* packets of others come to its VMs: the agent has to have switched forwarding on */
    int cgroups;                /* version whose controllers hold the VMs, 0 none, -1 no driver says yet */
    bool needs_v2;              /* the driver cannot do with version 1 */
    uint64_t nofile;            /* most descriptors of this process */
    const char *overlay_clash;  /* a route of somebody else into the cluster's prefix, "" none */
    int64_t skew_ms;            /* our clock ahead of the control plane's, at least */
    int strict;                 /* level of what only matters between strangers (mt_hostcheck_may_accept): 2 fails, 1 warns */
    char *const *accepted;      /* of those, what the operator takes on himself: a warning */
    size_t n_accepted;
};

struct mt_hostcheck_row {
    const char *check, *condition; /* "agent.swap", "host_swap" */
    int level;                     /* 0 ok, 1 warn, 2 fail */
    char finding[160];
    const char *mend;
};

enum { MT_HOSTCHECK_ROWS = 17 };

/** All rows, always in the same order. */
void mt_hostcheck(const struct mt_hostcheck *h, struct mt_hostcheck_row ret[MT_HOSTCHECK_ROWS]);

/** What an operator may accept for his node, by name: swap, ksm, smt, inodes, nofile. The rest no VM runs or is safe without. */
bool mt_hostcheck_may_accept(const char *item);
