/* SPDX-License-Identifier: Apache-2.0 */
/* Files that we own: bounded reads, atomic writes that survive a crash, folders, locks. */
#pragma once

#include "base/buf.h"

#include <stdbool.h>
#include <sys/types.h>

/** Read all of @path (at most @max bytes, else -MT_E_LIMIT) into a malloc'ed, NUL terminated block. -MT_E_NOT_FOUND, -MT_E_IO. */
int mt_file_read(const char *path, size_t max, char **ret, size_t *ret_len, struct mt_err *err);
/** As mt_file_read for a file in a folder that others may write: the last part of @path must be a regular file itself (no link, no FIFO that
 * would hold us) and belong to root, to us or to @owner ((uid_t)-1: to anybody), else -MT_E_DENIED. */
int mt_file_read_plain(const char *path, uid_t owner, size_t max, char **ret, size_t *ret_len, struct mt_err *err);
/** Write a temporary beside @path, fsync, rename, fsync the folder: after success the new content survives a power cut, before it the old one does. */
int mt_file_write(const char *path, const void *data, size_t len, mode_t mode, struct mt_err *err);
/** Is @name that of a temporary of mt_file_write, of this or another process? */
bool mt_file_is_part(const char *name);
/** For what another program writes: PATH.part of mode 0600, emptied, open for reading and writing. A link of that name is refused. -MT_E_IO, -MT_E_LIMIT. */
int mt_file_part_open(const char *path, int *ret_fd, struct mt_err *err);
/** @whole (and synced by who wrote it): the part takes the name @path, and the folder is synced; else, and when that fails, the part goes. -MT_E_IO. */
int mt_file_part_end(const char *path, bool whole, struct mt_err *err);
/** mkdir -p; folders made get @mode; existing ones are left as they are. */
int mt_file_mkdirs(const char *path, mode_t mode, struct mt_err *err);
/** Remove a file or a whole tree below the folder @dirfd (AT_FDCWD allowed); never follows links, never leaves the file system of @name.
 * A missing @name is success. */
int mt_file_remove_tree(int dirfd, const char *name, struct mt_err *err);
/** Open (make) @path and take an exclusive lock; -MT_E_CONFLICT when another process holds it. The lock goes with the descriptor. */
int mt_file_lock(const char *path, int *ret_fd, struct mt_err *err);
/** fsync a folder, so that names made in it stay. */
int mt_file_sync_dir(const char *path, struct mt_err *err);
/** Fill @p from getrandom(2). */
void mt_random(void *p, size_t n);
/** Start time of @pid in clock ticks since boot (field 22 of /proc/PID/stat): with the pid it names a process for ever. -MT_E_NOT_FOUND. */
int mt_proc_start_time(pid_t pid, uint64_t *ret, struct mt_err *err);
/** /proc/sys/kernel/random/boot_id as text (36 characters and NUL). */
int mt_host_boot_id(char ret[37], struct mt_err *err);
