/* SPDX-License-Identifier: Apache-2.0 */
/* Loads the kernel modules of the bundle and waits for the disks they bring. */
#pragma once

#include "base/err.h"

/**
 * finit_module() every file named in @list_path, one absolute path per line, in order. A missing list is
 * a bundle with everything built in. A module that is already there counts as loaded.
 */
int mt_modules_load(const char *list_path, struct mt_err *err);

/** Wait until @path exists, at most @limit_ms; -MT_E_TIMEOUT otherwise. */
int mt_modules_wait_device(const char *path, int limit_ms, struct mt_err *err);

/** Remove the module files and the list: the initramfs is memory. */
void mt_modules_forget(const char *list_path);
