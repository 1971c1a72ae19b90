/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up what an unpacker does not need. Two steps: the whole program leaves root, the network and the host's mounts
 * behind; then the worker that sees layer bytes also loses nearly every system call, among them all that open a file.
 */
#pragma once

#include "base/err.h"

#include <sys/types.h>

/**
 * As root: new mount, network, IPC and UTS namespaces, then @uid and @gid with no groups and no capabilities. As another user
 * only what such a user can do. Always: no_new_privs, no core dumps, death with the parent.
 * The current folder is kept, so relative paths go on working although parents may be closed to @uid.
 */
int mt_sandbox_leave_root(uid_t uid, gid_t gid, struct mt_err *err);

/**
 * For the worker, after its threads run: limits (2 GiB address space, @cpu_seconds, @file_bytes per file), then the system
 * call filter over all threads: read and write descriptors it holds, memory, futex, time, exit. All else is ENOSYS; exec,
 * clone, sockets, mount, ptrace, bpf, keyctl and every open kill the process.
 */
int mt_sandbox_lock(uint64_t cpu_seconds, uint64_t file_bytes, struct mt_err *err);
