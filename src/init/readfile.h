/* SPDX-License-Identifier: Apache-2.0 */
/* Small files, whole, into a caller's buffer: init has no heap. */
#pragma once

#include "base/err.h"

/**
 * Read all of @path into @buf, NUL-terminated.
 * Returns 0 and @ret_len; -MT_E_NOT_FOUND; -MT_E_LIMIT more than @cap - 1 bytes; -MT_E_IO.
 */
int mt_readfile(const char *path, char *buf, size_t cap, size_t *ret_len, struct mt_err *err);
/** The same from an open descriptor, from offset 0, without a limit error: what does not fit is left out. */
int mt_readfile_fd(int fd, char *buf, size_t cap, size_t *ret_len);
/** Write @text over an existing file such as a sysctl. */
int mt_readfile_put(const char *path, const char *text, struct mt_err *err);
