/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The jail folder of one VM: <jail_base>/<driver>/<jail id>/, with root/ (what the monitor sees as "/") and vmm.log beside it.
 * Built from a spec, removed by name alone. Knows files; starts nothing.
 *
 * Only run/ belongs to the VM's uid. Everything above it is root's, so nothing the monitor does can change where a path of
 * ours leads; below run/ links are never followed.
 * Source: runtime.md §7.3.
 */
#pragma once

#include "agent/vmm/vmm.h"

enum { MT_JAIL_PATH = 320 };

struct mt_jail {
    char dir[MT_JAIL_PATH];  /* <base>/<driver>/<jail id> */
    char root[MT_JAIL_PATH]; /* dir/root */
    char log[MT_JAIL_PATH];  /* dir/vmm.log: FIFO for the monitor's stderr, 64 KiB, overflow dropped */
};

/** Check the form of a jail id: 1..64 of [A-Za-z0-9-]. */
int mt_jail_check_id(const char *jail_id, struct mt_err *err);

/** Fill the paths. -MT_E_LIMIT when a socket path in run/ would pass 107 bytes. */
int mt_jail_paths(const char *base, const char *driver, const char *jail_id, struct mt_jail *ret, struct mt_err *err);

/**
 * Make the folder: vmlinux, initramfs, root.ext4 as links to root-owned files nobody else may write, scratch.ext4 and volumes
 * as links (or block nodes) given to the uid, run/ 0700 of the uid, vmm.log, moat.json. Fails when it exists.
 * @empty_files, @empty_dirs  NULL-terminated names below root/ to make as mount points; may be NULL
 */
int mt_jail_build(const struct mt_jail *jail, const struct mt_vmm_spec *spec, const char *const *empty_dirs,
                  const char *const *empty_files, struct mt_err *err);

/** root/ is root's, and the VM's group may pass through it (0750): at building, and again after the jailer gave it to the VM. */
int mt_jail_own_root(const struct mt_jail *jail, gid_t gid, struct mt_err *err);

/** Remove the folder; a missing one is success. */
int mt_jail_remove(const char *base, const char *driver, const char *jail_id, struct mt_err *err);

/** Open root/run without following a link. @ret_fd O_PATH-like folder descriptor, owned by the caller. */
int mt_jail_open_run(const struct mt_jail *jail, int *ret_fd, struct mt_err *err);

/** Connect to Unix socket @name in root/run, following no link. Blocking stream. -MT_E_UNAVAILABLE nobody listens (yet). */
int mt_jail_connect(const struct mt_jail *jail, const char *name, int *ret_fd, struct mt_err *err);

/** Listen on @name in root/run, 0600 of @uid; replaces an old socket. */
int mt_jail_listen(const struct mt_jail *jail, const char *name, uid_t uid, int *ret_fd, struct mt_err *err);

/** What the monitor said on stderr so far (it is taken out): the last @size - 4 bytes of it, one line, printable. "" when nothing. */
void mt_jail_read_log(int log_fd, char *ret, size_t size);

/** Put the end of what the monitor said behind the message of @err, which is cut to make room for it. */
void mt_jail_add_log(int log_fd, struct mt_err *err);
