/* SPDX-License-Identifier: Apache-2.0 */
/* The scratch disk of one boot attempt: reserved space with an empty ext4 (runtime.md §17). Blocking. */
#pragma once

#include "base/err.h"

/**
 * Make @path (a leftover is replaced), 0600 root, @bytes reserved by fallocate, ext4 with a random UUID.
 * @ret_uuid  text, 36 characters and NUL
 * Returns 0; -MT_E_LIMIT no space; -MT_E_IO. Nothing is left after a failure.
 */
int mt_scratch_make(const char *mkfs_path, const char *path, uint64_t bytes, char ret_uuid[37], struct mt_err *err);
